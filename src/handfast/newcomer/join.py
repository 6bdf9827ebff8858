"""
The newcomer's flow with an invitation:

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

from handfast.adapters.tls import newcomer_context
from handfast.core import csr
from handfast.core.flow import Wish
from handfast.core.invitation import Address, InvitationLine
from handfast.core.keys import format_pin
from handfast.errors import AlreadySpent, HandfastError, InvitationExpired, UntrustedPeer
from handfast.introducers import invitation
from handfast.newcomer.check import Checked
from handfast.newcomer.connection import Verified, verified
from handfast.newcomer.exchange import exchange, reintroduction_key
from handfast.newcomer.keystore import Keystore
from handfast.newcomer.layouts import Material
from handfast.newcomer.pending import Pending

SKEW = timedelta(minutes=5)  # a registrar's clock may lag a little behind the one that made the invitation
NOTICEABLE = timedelta(seconds=60)


@dataclass(frozen=True, slots=True)
class Joined:
    """What was adopted, for the words that the command prints."""

    checked: Checked
    registrar: str
    address: Address
    clock_offset: timedelta


def join(
    line: InvitationLine,
    keystore: Keystore,
    *,
    wish: Wish,
    layouts: Sequence[str],
    owner: str | None,
    now: Callable[[], datetime],
) -> Joined:
    """
    Join with an invitation and adopt the credential in the key store.

    :raises Unreachable: no registrar answered in time.
    :raises UntrustedPeer: it is not the registrar of the invitation, or its answer is not what was asked for.
    :raises Refused: the registrar said no, or the key store's directory is unsafe.
    """
    with keystore.exclusive():
        keystore.check(layouts=layouts, owner=owner)  # what would fail at (5) fails before anything is sent
        keys = _keys(line, keystore)  # (1)
        judge = lambda claimed: claimed  # noqa: E731  see _check_time, which asks once the registrar is authentic
        with verified(line.addresses, newcomer_context(), pin=line.pin, judge=judge) as registrar:  # (2)
            _check_time(line, registrar.time)
            message = invitation.present(
                line,
                csr_der=csr.build(keys.private_key),
                reintroduction_key=reintroduction_key(keys),
                wish=wish,
                nonce=registrar.nonce,
                server_spki=registrar.server_spki,
            )
            checked = exchange(  # (3) and (4)
                registrar, keys, method=invitation.NAME, message=message, pin=line.pin, wish=wish
            )
        offset = checked.time - now()
        identity = describe(checked, registrar, line.addresses, pin=line.pin, offset=offset, method="invitation")
        identity["invitation"] = line.key_id
        material = Material(
            checked.leaf, checked.chain, checked.trust, keys.private_key, keys.reintroduction_key, identity
        )
        keystore.adopt(material, layouts=layouts, owner=owner)  # (5)
    return Joined(checked, registrar.identity.machine, registrar.connection.address, offset)


def _keys(line: InvitationLine, keystore: Keystore) -> Pending:
    # Said twice, by a boot script or after a crash that came late, it is the same machine with the same key: with a new
    # one it would be refused, and alarm the operator for nothing.
    purpose = f"invitation:{line.key_id}"
    try:
        held = keystore.load()
    except HandfastError:  # nothing there, or damaged: no reason not to join anew
        return keystore.pending(purpose)
    if held.identity.get("invitation") != line.key_id:
        return keystore.pending(purpose)
    if held.identity.get("method") != invitation.NAME:
        raise AlreadySpent(
            "this machine has joined with this invitation, and renewed since",
            hint="nothing is to be done: `handfast status` shows what it holds",
        )
    return Pending(purpose, held.private_key, held.reintroduction_key)


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


def _check_time(line: InvitationLine, claimed: datetime) -> None:
    # The clock of a new machine may be years off, so the registrar's counts, once it has proved itself; but only
    # inside the invitation's own times, so that nobody can make an old registrar certificate valid again.
    if claimed >= line.not_after:
        raise InvitationExpired(
            f"the invitation expired at {line.not_after:%Y-%m-%d %H:%M:%S}Z",
            hint="ask for a new one, and whether somebody used this one",
        )
    if claimed < line.not_before - SKEW:
        raise UntrustedPeer(
            f"the registrar says it is {claimed:%Y-%m-%d %H:%M}Z, before the invitation was made",
            hint="check the registrar's clock; it may also be somebody with an old certificate",
        )
