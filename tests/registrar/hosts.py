"""What the tests of host keys share: keys, the operator's side, and what is known in the end."""

from __future__ import annotations

from functools import cache

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from handfast import introducers
from handfast.core import sshsig
from handfast.core.flow import Answer
from handfast.core.hostproof import HostKeys
from handfast.core.hosts import Grade, Host
from handfast.ledger import audit
from handfast.policy.rules import Rules
from handfast.registrar import host_keys
from tests.ledger.material import LOG_KEY, ORIGIN
from tests.registrar.house import House, Newcomer


@cache
def signer(number: int) -> sshsig.Signer:
    """A host key."""
    key = Ed25519PrivateKey.from_private_bytes(number.to_bytes(32, "big"))
    return sshsig.load_private(key.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))


def ssh(*numbers: int, ports: tuple[int, ...] = (22,)) -> HostKeys:
    """The host keys of a machine."""
    return HostKeys(tuple(map(signer, numbers)), ports)


def host_of(house: House, machine: str = "web1.lan") -> Host:
    """The machine as the ledger has it."""
    found = house.ledger.host(machine)
    assert found is not None
    return found


def believed(house: House, machine: str = "web1.lan") -> set[int]:
    """Which keys are believed, by number."""
    keys = host_of(house, machine).believed(Grade.REPORTED)
    return {number for number in range(1, 100) if signer(number).public in keys}


def check_log(house: House) -> None:
    """Rows and indexes are what the log makes them. :raises LogTampered: they are not."""
    audit.verify(house.ledger, log_key=LOG_KEY.public_key(), origin=ORIGIN)


def operator(house: House, rules: Rules | None = None) -> host_keys.HostKeys:
    """The operator's side."""
    return host_keys.HostKeys(introducers.known_for_hosts(), rules or house.rules, house.ledger, house.context)


def renew(house: House, old: Newcomer, answer: Answer, host: HostKeys | None) -> tuple[Newcomer, Answer]:
    """Renew with these host keys."""
    new = Newcomer()
    return new, house.introduce(house.renewing(old, answer.credential.serial, new, host=host))
