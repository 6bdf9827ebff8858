"""
What a machine keeps of its SSH certificates: ``ssh.json`` beside, or without, the credential of the same registrar.

With it, a renewal needs no word from anybody: whom to ask, whom to trust, which keys, and where the certificates go.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

from handfast.adapters import files
from handfast.core import sshcert, sshkeys, sshleaf
from handfast.core.hosts import SSH_PORT
from handfast.core.invitation import Address
from handfast.core.keys import format_pin, parse_pin
from handfast.core.sshcert import SshCertificate
from handfast.errors import Fault, Malformed
from handfast.newcomer.certificates import Certified
from handfast.newcomer.connection import parse_time
from handfast.newcomer.renew import drawn

FILE = "ssh.json"
_VERSION = 1


@dataclass(frozen=True, slots=True)
class Installed:
    """
    In which sshd they are, by its configuration, and whether it trusts our CA for users.

    ``complete`` is False from before the first write until sshd was seen to show them.
    """

    config: Path
    trust_users: bool
    complete: bool = False


@dataclass(frozen=True, slots=True)
class SshHeld:
    """
    SSH certificates of this machine, the registrar that gave them, and where the keys are.

    ``directory`` is that of the keys, absolute; ``agent`` is the socket of the ssh-agent that has them, where one does.
    """

    certified: Certified
    addresses: tuple[Address, ...]
    pin: bytes
    directory: Path
    ports: tuple[int, ...] = (SSH_PORT,)
    agent: Path | None = None
    installed: Installed | None = None

    @property
    def certificates(self) -> tuple[SshCertificate, ...]:
        """The certificates."""
        return self.certified.certificates

    @property
    def ends(self) -> datetime:
        """When the first of them is over."""
        return min(each.valid_before for each in self.certificates)

    @property
    def due_at(self) -> datetime:
        """When the next ones are asked for: between half and two thirds of the life, as for credentials."""
        first = min(self.certificates, key=lambda each: each.valid_before)
        seed = hashlib.sha256(first.serial.to_bytes(16, "big") + first.key.blob).digest()
        begins = max(first.valid_after, min(self.certified.time, first.valid_before - timedelta(seconds=1)))
        return drawn(begins, first.valid_before, seed)


def load(directory: Path) -> SshHeld:
    """
    Read what ``save`` wrote.

    :raises NotFound: there is none. :raises Unsafe: others can write it. :raises Fault: it is damaged.
    """
    path = directory / FILE
    try:
        value = json.loads(files.read_private(path))
        where = value["installed"]
        certificates = tuple(map(sshcert.parse, value["certificates"]))
        if value["version"] != _VERSION or not certificates:
            raise Malformed("another version, or no certificates")
        return SshHeld(
            Certified(
                certificates,
                sshkeys.parse(value["host_ca"]),
                sshkeys.parse(value["user_ca"]),
                parse_time(value["issued_at"]),
            ),
            tuple(map(Address.parse, value["addresses"])),
            parse_pin(value["pin"]),
            Path(value["ssh_dir"]),
            tuple(map(int, value["ssh_ports"])),
            None if value["agent"] is None else Path(value["agent"]),
            where and Installed(Path(where["config"]), where["trust_users"] is True, where["complete"] is True),
        )
    except (ValueError, TypeError, KeyError, AttributeError, Malformed) as error:
        raise Fault(
            f"{str(path)!r} is damaged: {error}", hint="move it away, and have the host certified anew"
        ) from None


def save(directory: Path, held: SshHeld) -> None:
    """Keep it, whole; the caller has the lock of the directory's ``Keystore``. :raises Fault: the disk says no."""
    files.write_atomic(directory / FILE, json.dumps(_written(held), indent=2).encode() + b"\n")


def view(held: SshHeld) -> dict[str, object]:
    """Return for programs what the certificates are, and where; not the file, whose format is our own."""
    where = held.installed
    return {
        "ssh_certificates": certificates(held.certificates),
        "ssh": {
            "registrar": [str(address) for address in held.addresses],
            "pin": format_pin(held.pin),
            "host_ca": str(held.certified.host_ca),
            "user_ca": str(held.certified.user_ca),
            "ends": held.ends.isoformat(),
            "due_at": held.due_at.isoformat(),
            "sshd_config": where and str(where.config),
            "trust_users": where is not None and where.trust_users,
        },
    }


def certificates(held: Sequence[SshCertificate]) -> list[dict[str, object]]:
    """Return SSH certificates for programs; the serial is text, since JSON's numbers lose its end in many of them."""
    return [
        {
            "serial": str(each.serial),
            "fingerprint": each.key.fingerprint,
            "algorithm": each.key.algorithm,
            "principals": list(each.principals),
            "until": each.valid_before.isoformat(),
            "evidence": sshleaf.evidence_of(each),
        }
        for each in held
    ]


def _written(held: SshHeld) -> dict[str, object]:
    where = held.installed
    return {
        "version": _VERSION,
        "addresses": [str(address) for address in held.addresses],
        "pin": format_pin(held.pin),
        "ssh_dir": str(held.directory),
        "ssh_ports": list(held.ports),
        "agent": None if held.agent is None else str(held.agent),
        "issued_at": held.certified.time.isoformat(),
        "certificates": [str(each) for each in held.certificates],
        "host_ca": str(held.certified.host_ca),
        "user_ca": str(held.certified.user_ca),
        "installed": where
        and {"config": str(where.config), "trust_users": where.trust_users, "complete": where.complete},
    }
