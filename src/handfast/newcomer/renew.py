"""
The successor of a credential: by possession over mutual TLS, or, after its end, by the reintroduction key.

The new key is kept before it is sent, so that a lost answer costs nothing: the same key asks again.
"""

from __future__ import annotations

import hashlib
import ssl
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from handfast.adapters.tls import pinned_client_context
from handfast.core.chain import Identity, read_identity
from handfast.core.flow import Wish
from handfast.core.hostproof import HostKeys
from handfast.core.hosts import Place
from handfast.core.invitation import Address
from handfast.core.keys import parse_pin
from handfast.errors import Fault, HandfastError, Malformed, Refused
from handfast.introducers import reintroduction, renewal
from handfast.newcomer import hostkeys
from handfast.newcomer.check import Checked
from handfast.newcomer.connection import Verified, parse_time, verified
from handfast.newcomer.exchange import exchange
from handfast.newcomer.join import Published, about_ssh, describe
from handfast.newcomer.keystore import Keystore
from handfast.newcomer.layouts import Material
from handfast.newcomer.pending import Pending

EARLIEST, LATEST = 0.50, 0.66  # of a credential's life; spread over the fleet so that it does not come at once


@dataclass(frozen=True, slots=True)
class Held:
    """What this machine holds, read from its key store."""

    material: Material
    identity: Identity
    serial: int
    pin: bytes
    addresses: tuple[Address, ...]
    issued_at: datetime

    @property
    def due_at(self) -> datetime:
        """When the successor is asked for."""
        return due_at(self.serial, self.issued_at, self.identity.not_after)


def due_at(serial: int, begin: datetime, end: datetime) -> datetime:
    """
    Return when the successor of a credential is asked for: between half and two thirds of its life.

    The point is drawn from the serial, so that it is the same each time somebody asks, and another one for every
    machine and every credential.
    """
    draw = int.from_bytes(hashlib.sha256(serial.to_bytes(16, "big")).digest()[:4], "big") / 2**32
    return begin + (end - begin) * (EARLIEST + (LATEST - EARLIEST) * draw)


def held(keystore: Keystore) -> Held:
    """
    Read the key store.

    :raises NotFound: nothing was joined yet.
    :raises Fault: ``identity.json`` lacks what a successor needs.
    """
    material = keystore.load()
    try:
        about = material.identity
        addresses = about["addresses"]
        if not isinstance(addresses, list):
            raise TypeError(addresses)
        return Held(
            material,
            read_identity(material.certificate),
            material.certificate.serial_number,
            parse_pin(str(about["pin"])),
            tuple(Address.parse(str(address)) for address in addresses),
            parse_time(str(about["issued_at"])),
        )
    except (KeyError, TypeError, Malformed) as error:
        raise Fault(f"identity.json is damaged: {error}", hint="join again with a new invitation") from None


def renew(
    keystore: Keystore,
    *,
    now: Callable[[], datetime],
    publish: Published | None = None,
    remark: Callable[[str], None] = lambda _remark: None,
) -> Held:
    """
    Get and adopt the successor of the credential in the key store; return what is held now.

    SSH host keys that were published before are published again, so that a new one becomes known and one that is gone
    is retired; ``remark`` is told what of that cannot be done, which keeps nobody from renewing. ``publish`` are others
    from now on, and who asks for that is refused if they are.

    The registrar's clock, not ours, says whether the credential has expired, since it also judges.

    :raises Unreachable: no whole answer; the pending key makes a retry safe.
    :raises UntrustedPeer: not our registrar, or its answer is not what was asked for.
    :raises Refused: revoked, expired too long ago, or succeeded with another key. The old credential stays.
    """
    with keystore.exclusive():
        old = held(keystore)
        keys = keystore.pending(f"successor:{old.serial:032x}")
        host = publish.keys if publish is not None else _published(old, remark)
        try:
            checked, registrar, method = _succeed(old, keys, host, keystore, now=now)
        except Refused as error:
            if host is None or publish is not None:
                raise
            # A host key that was retired must not end the credential too, whose renewal nobody took back.
            checked, registrar, method = _succeed(old, keys, None, keystore, now=now)
            remark(f"the SSH host keys are not published: {error.message}")
        about = describe(checked, registrar, old.addresses, pin=old.pin, offset=checked.time - now(), method=method)
        about["predecessor"] = f"{old.serial:032x}"
        about["origin"] = old.material.identity.get("origin")  # so that `join` knows it when it is said again
        before = {key: old.material.identity[key] for key in ("ssh_dir", "ssh_ports") if key in old.material.identity}
        about |= before if publish is None else about_ssh(publish)
        keystore.adopt(
            Material(checked.leaf, checked.chain, checked.trust, keys.private_key, keys.reintroduction_key, about)
        )
        return held(keystore)


def _published(old: Held, remark: Callable[[str], None]) -> HostKeys | None:
    about = old.material.identity
    directory, ports = about.get("ssh_dir"), about.get("ssh_ports")
    if not isinstance(directory, str) or not isinstance(ports, list):
        return None
    try:
        numbers = tuple(port for port in ports if isinstance(port, int))
        keys, remarks = hostkeys.load(Path(directory), ports=Place.parse((), ports=numbers).ports)
    except HandfastError as error:
        remark(f"the SSH host keys are not published: {error.message}")
        return None
    for each in remarks:
        remark(each)
    return keys


def _succeed(
    old: Held, keys: Pending, host: HostKeys | None, keystore: Keystore, *, now: Callable[[], datetime]
) -> tuple[Checked, Verified, str]:
    same = Wish(old.identity.role, old.identity.names)
    renewing = renewal.Renewing(old.material.private_key, old.serial, old.pin, same)
    with _connect(old, now=now, proving=None) as registrar:
        if registrar.time >= old.identity.not_after:
            returning = reintroduction.Returning(old.material.reintroduction_key, old.serial, old.pin, same)
            return exchange(returning, registrar, keys, host), registrar, returning.method
        if not old.identity.role.dials:  # its certificate cannot be a client's, see introducers.renewal
            return exchange(renewing, registrar, keys, host), registrar, renewing.method
    with _connect(old, now=now, proving=keystore) as registrar:
        return exchange(renewing, registrar, keys, host), registrar, renewing.method


def _connect(old: Held, *, now: Callable[[], datetime], proving: Keystore | None) -> AbstractContextManager[Verified]:
    roots = "".join(ssl.DER_cert_to_PEM_cert(der) for der in old.material.trust)
    files = None if proving is None else (proving.directory / "fullchain.pem", proving.directory / "privkey.pem")
    context = pinned_client_context(roots, files)
    # Time is never rolled back: a clock that was reset to the past cannot revive an old registrar certificate.
    return verified(old.addresses, context, pin=old.pin, judge=lambda _claimed: max(now(), old.issued_at))
