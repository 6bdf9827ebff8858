"""
The newcomer's flow, whatever the way:

    (1) make a key, and keep it before anything is sent: a retry must come with the same one
    (2) connect, and go on only with the registrar that the pin names
    (3) present evidence bound to that connection
    (4) check everything in the answer
    (5) adopt it, in one step on disk
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from handfast.adapters.tls import newcomer_context
from handfast.core.hostproof import HostKeys
from handfast.core.invitation import Address
from handfast.core.keys import format_pin
from handfast.core.ports import FirstWay
from handfast.errors import HandfastError, Refused
from handfast.newcomer.certificates import Certified, attempt
from handfast.newcomer.check import Checked
from handfast.newcomer.connection import Verified, verified
from handfast.newcomer.exchange import exchange
from handfast.newcomer.keystore import Keystore
from handfast.newcomer.layouts import Material
from handfast.newcomer.pending import Pending


@dataclass(frozen=True, slots=True)
class Joined:
    """What was adopted, and with published keys their certificates, or why there are none."""

    checked: Checked
    registrar: str
    address: Address
    clock_offset: timedelta
    certified: Certified | HandfastError | None = None


@dataclass(frozen=True, slots=True)
class Published:
    """SSH host keys that are published along, and where they were read, for renewals to do it again."""

    keys: HostKeys
    directory: Path


def join(
    way: FirstWay,
    keystore: Keystore,
    *,
    layouts: Sequence[str],
    owner: str | None,
    now: Callable[[], datetime],
    published: Published | None = None,
    remark: Callable[[str], None] = lambda _remark: None,
) -> Joined | None:
    """
    Be introduced this way and adopt the credential in the key store; with ``published``, SSH host keys as well.

    These are certified then, if the registrar does it: where not, ``Joined`` says why, and it costs no credential.
    ``remark`` is told of single keys that are left out.

    Returns None where this machine was introduced this way before and has renewed since: nothing is to be done.

    :raises Unreachable: no registrar answered in time.
    :raises UntrustedPeer: it is not the registrar of the pin, or its answer is not what was asked for.
    :raises Refused: the registrar said no, or the key store's directory is unsafe.
    """
    with keystore.exclusive():
        keystore.check(layouts=layouts, owner=owner)  # what would fail at (5) fails before anything is sent
        keys = _keys(way, keystore, now())  # (1)
        if keys is None:
            return None
        judge = lambda claimed: claimed  # noqa: E731  see check_time, which asks once the registrar is authentic
        with verified(way.addresses, newcomer_context(), pin=way.pin, judge=judge) as registrar:  # (2)
            way.check_time(registrar.time)
            checked = exchange(way, registrar, keys, published.keys if published else None)  # (3) and (4)
            certified = attempt(registrar, published.keys.signers, pin=way.pin, remark=remark) if published else None
        offset = checked.time - now()
        identity = describe(checked, registrar, way.addresses, pin=way.pin, offset=offset, method=way.method)
        identity["origin"] = way.purpose
        if published is not None:
            identity |= about_ssh(published)
        material = Material(
            checked.leaf, checked.chain, checked.trust, keys.private_key, keys.reintroduction_key, identity
        )
        keystore.adopt(material, layouts=layouts, owner=owner)  # (5)
    return Joined(checked, registrar.identity.machine, registrar.connection.address, offset, certified)


def _keys(way: FirstWay, keystore: Keystore, now: datetime) -> Pending | None:
    # Said twice, by a boot script or after a crash that came late, it is the same machine with the same key: with a new
    # one it would be refused, and alarm the operator for nothing.
    try:
        held = keystore.load()
    except HandfastError:  # nothing there, or damaged: no reason not to join anew
        return keystore.pending(way.purpose)
    if held.identity.get("origin") != way.purpose:
        return keystore.pending(way.purpose)
    if held.certificate.not_valid_after_utc <= now:
        raise Refused(
            f"this machine has joined with this {way.method} before, and its certificate has expired",
            hint="`handfast renew` brings it back with the key it kept",
        )
    if held.identity.get("method") != way.method:
        return None  # it has renewed since: asking for the old one again would be a step back
    return Pending(way.purpose, held.private_key, held.reintroduction_key)


def about_ssh(published: Published) -> dict[str, object]:
    """Return what ``identity.json`` keeps of host keys that were published: where they are, not what they are."""
    return {"ssh_dir": str(published.directory), "ssh_ports": list(published.keys.ports)}


def describe(
    checked: Checked,
    registrar: Verified,
    addresses: Sequence[Address],
    *,
    pin: bytes,
    offset: timedelta,
    method: str,
) -> dict[str, object]:
    """Return what ``identity.json`` keeps: who this machine is, how it became so, whom to ask for a successor."""
    who = checked.identity
    return {
        "name": who.machine,
        "role": str(who.role),
        "spiffe_id": f"spiffe://{who.trust_domain}/{who.role}/{who.machine}",
        "names": list(who.names.texts()),
        "serial": f"{checked.serial:032x}",
        "not_before": who.not_before.isoformat(),
        "not_after": who.not_after.isoformat(),
        "issued_at": checked.time.isoformat(),
        "method": method,
        "pin": format_pin(pin),
        "registrar": registrar.identity.machine,
        "addresses": [str(address) for address in addresses],
        "clock_offset_seconds": round(offset.total_seconds()),
    }
