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

from handfast.adapters.tls import pinned_client_context
from handfast.core.chain import Identity, read_identity
from handfast.core.flow import Wish
from handfast.core.invitation import Address
from handfast.core.keys import parse_pin
from handfast.errors import Fault, Malformed
from handfast.introducers import reintroduction, renewal
from handfast.newcomer.check import Checked
from handfast.newcomer.connection import Verified, parse_time, verified
from handfast.newcomer.exchange import exchange
from handfast.newcomer.join import describe
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
        """
        When the successor is asked for: between half and two thirds of the life.

        The point is drawn from the serial, so that it is the same each time a timer asks, and another
        one for every machine and every credential.
        """
        draw = int.from_bytes(hashlib.sha256(self.serial.to_bytes(16, "big")).digest()[:4], "big") / 2**32
        return self.issued_at + (self.identity.not_after - self.issued_at) * (EARLIEST + (LATEST - EARLIEST) * draw)


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


def renew(keystore: Keystore, *, now: Callable[[], datetime]) -> Held:
    """
    Get and adopt the successor of the credential in the key store; return what is held now.

    The registrar's clock, not ours, says whether the credential has expired, since it also judges.

    :raises Unreachable: no whole answer; the pending key makes a retry safe.
    :raises UntrustedPeer: not our registrar, or its answer is not what was asked for.
    :raises Refused: revoked, expired too long ago, or succeeded with another key. The old credential stays.
    """
    with keystore.exclusive():
        old = held(keystore)
        keys = keystore.pending(f"successor:{old.serial:032x}")
        checked, registrar, method = _succeed(old, keys, keystore, now=now)
        about = describe(checked, registrar, old.addresses, pin=old.pin, offset=checked.time - now(), method=method)
        about["predecessor"] = f"{old.serial:032x}"
        about["origin"] = old.material.identity.get("origin")  # so that `join` knows it when it is said again
        keystore.adopt(
            Material(checked.leaf, checked.chain, checked.trust, keys.private_key, keys.reintroduction_key, about)
        )
        return held(keystore)


def _succeed(
    old: Held, keys: Pending, keystore: Keystore, *, now: Callable[[], datetime]
) -> tuple[Checked, Verified, str]:
    same = Wish(old.identity.role, old.identity.names)
    renewing = renewal.Renewing(old.material.private_key, old.serial, old.pin, same)
    with _connect(old, now=now, proving=None) as registrar:
        if registrar.time >= old.identity.not_after:
            returning = reintroduction.Returning(old.material.reintroduction_key, old.serial, old.pin, same)
            return exchange(returning, registrar, keys), registrar, returning.method
        if not old.identity.role.dials:  # its certificate cannot be a client's, see introducers.renewal
            return exchange(renewing, registrar, keys), registrar, renewing.method
    with _connect(old, now=now, proving=keystore) as registrar:
        return exchange(renewing, registrar, keys), registrar, renewing.method


def _connect(old: Held, *, now: Callable[[], datetime], proving: Keystore | None) -> AbstractContextManager[Verified]:
    roots = "".join(ssl.DER_cert_to_PEM_cert(der) for der in old.material.trust)
    files = None if proving is None else (proving.directory / "fullchain.pem", proving.directory / "privkey.pem")
    context = pinned_client_context(roots, files)
    # Time is never rolled back: a clock that was reset to the past cannot revive an old registrar certificate.
    return verified(old.addresses, context, pin=old.pin, judge=lambda _claimed: max(now(), old.issued_at))
