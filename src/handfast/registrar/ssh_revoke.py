"""What taking something back means for SSH: a certificate by its serial, and those of whoever loses his credentials."""

from __future__ import annotations

import contextlib
import re
from datetime import datetime

from handfast.core.ports import Ledger
from handfast.core.records import SshRecord
from handfast.errors import Malformed, NotFound, Revoked
from handfast.introducers import operator_login
from handfast.policy import ssh_users

_DECIMAL = re.compile(r"[1-9][0-9]{0,19}", re.ASCII)


def ssh_serial(text: str) -> int:
    """Read the serial of an SSH certificate. :raises Malformed: not decimal digits, as OpenSSH writes it."""
    if not _DECIMAL.fullmatch(text):
        raise Malformed(
            f"not the serial of an SSH certificate: {text[:80]!r}",
            hint="decimal digits, as `handfast list --ssh` shows it; what is in hex is revoked without --ssh",
        )
    return int(text)


def is_serial(ledger: Ledger, text: str) -> bool:
    """Whether it is the serial of an SSH certificate."""
    return bool(_DECIMAL.fullmatch(text)) and ledger.ssh_certificate(int(text)) is not None


def revoke_certificate(ledger: Ledger, text: str, *, reason: str, at: datetime) -> SshRecord:
    """
    Take back one SSH certificate, by its serial in decimal digits; return what it was.

    ``reason`` is an RFC 5280 name (``records.REASONS``).

    :raises Malformed: not such a serial. :raises NotFound: :raises Revoked: it was before.
    """
    serial = ssh_serial(text)
    ledger.revoke_ssh(serial, reason=reason, at=at).result()
    record = ledger.ssh_certificate(serial)
    if record is None:  # unreachable: nothing leaves the ledger
        raise NotFound(f"no SSH certificate {serial}")
    return record


def held(ledger: Ledger, name: str, now: datetime) -> list[SshRecord]:
    """Return the SSH certificates that count of a machine, and of an operator of this name; 1,000 of each at most."""
    operator = ssh_users.called(name, operator_login.NAME)
    return [*ledger.ssh_standing(name, at=now), *ledger.ssh_standing(operator, at=now)]


def remove(ledger: Ledger, machine: str, *, reason: str, at: datetime) -> bool:
    """Retire a machine's host keys: whoever has it has these too. Return whether there were any."""
    try:
        ledger.remove_host(machine, reason=reason, at=at).result()
    except NotFound:
        return False
    return True


def take_back(ledger: Ledger, name: str, *, code: str, at: datetime) -> bool:
    """
    Revoke the SSH certificates that count of a machine, and of an operator of this name; return whether there were any.

    With a reason that says distrust, policy certifies their keys no more. ``code`` is an RFC 5280 name.
    """
    found: set[int] = set()
    # Again, until nothing is found: they may be many, and somebody may have asked for one in between.
    while serials := {each.serial for each in held(ledger, name, at)} - found:
        for serial in sorted(serials):
            with contextlib.suppress(Revoked):
                ledger.revoke_ssh(serial, reason=code, at=at).result()
        found |= serials
    return bool(found)
