"""
An honest holder for every method that leads to SSH certificates; a new one adds its line to ``HONEST``.

As in ``stage``: keys are fixed, and each argument is what the holder saw or wishes.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, field, replace
from datetime import timedelta

from handfast.core.flow import Channel, Evidence
from handfast.core.hosts import Host, HostKey, How, Place
from handfast.core.records import SshRecord
from handfast.core.sshcert import Kind
from handfast.core.sshleaf import SshLeaf, issue
from handfast.core.sshsig import Signer
from handfast.introducers import ssh_pop
from tests.introducers import challenges
from tests.introducers.stage import DAY, NOW, PIN, SERVER_SPKI, Honest
from tests.registrar.hosts import signer

PLACE = Place.parse(["web1.lan", "10.0.0.7"])
SSH_SERIAL = 4711
KNOWN, ALSO_KNOWN, NEW, OTHERS, STRANGER = (signer(number) for number in (1, 2, 3, 4, 5))


def a_host(*keys: Signer, machine: str = "web1", how: How = How.INVITATION) -> Host:
    """A machine with these keys."""
    return Host(machine, PLACE, tuple(HostKey(each.public, how, "", NOW - DAY) for each in keys))


def a_record(holder: Signer = KNOWN, kind: Kind = Kind.HOST, **changes: object) -> SshRecord:
    """A certificate that was issued a day ago."""
    leaf = SshLeaf(
        kind=kind,
        key=holder.public,
        key_id=f"{kind} web1",
        principals=("web1",),
        valid_after=NOW - DAY,
        valid_before=NOW + 6 * DAY,
    )
    record = SshRecord(SSH_SERIAL, "web1", leaf, "ssh-pop", NOW - DAY, ("a test",), issued_at=NOW - DAY)
    made = issue(leaf, challenges.CA, serial=SSH_SERIAL).blob
    return replace(record, certificate=made, **changes)  # type: ignore[arg-type]


@dataclass
class SshStage(challenges.SshStage):
    """A ``core.ports.SshContext`` that has certificates as well."""

    certificates: dict[int, SshRecord] = field(default_factory=dict)

    def ssh_certificate(self, serial: int) -> SshRecord | None:
        """What is on stage."""
        return self.certificates.get(serial)


def with_hosts(*hosts: Host) -> SshStage:
    """A stage with these machines."""
    return SshStage(hosts={key: host for host in hosts for key in host.current})


def by_pop(
    *,
    pin: bytes = PIN,
    spki: bytes = SERVER_SPKI,
    nonce_: bytes | None = None,
    signers: Sequence[Signer] = (KNOWN,),
    stage: SshStage | None = None,
    principals: Sequence[str] = (),
) -> Honest:
    """A host whose keys are known."""
    known = stage or with_hosts(a_host(KNOWN, ALSO_KNOWN), a_host(OTHERS, machine="web2"))
    nonce = known.nonce() if nonce_ is None else nonce_
    body, signed = ssh_pop.present(signers, pin=pin, nonce=nonce, server_spki=spki, principals=principals)
    return Honest(known, Evidence(ssh_pop.NAME, body, Channel(SERVER_SPKI)), signed)


def revoking(
    *,
    pin: bytes = PIN,
    spki: bytes = SERVER_SPKI,
    nonce_: bytes | None = None,
    by: Signer = KNOWN,
    serial: int = SSH_SERIAL,
    reason: str = "keyCompromise",
    record: SshRecord | None = None,
) -> tuple[SshStage, Evidence]:
    """The holder of a certificate takes it back."""
    stage = SshStage(certificates={SSH_SERIAL: record or a_record()})
    nonce = stage.nonce() if nonce_ is None else nonce_
    body = ssh_pop.present_revocation(by, serial=serial, reason=reason, pin=pin, nonce=nonce, server_spki=spki)
    return stage, Evidence(ssh_pop.REVOKE, body, Channel(SERVER_SPKI))


def by_challenge(*, pin: bytes = PIN, spki: bytes = SERVER_SPKI, nonce_: bytes | None = None) -> Honest:
    """A host that has been looked at twice, and comes with its token."""
    stage = SshStage()
    if nonce_ is not None:
        stage.nonce = lambda: nonce_  # type: ignore[method-assign]
    evidence, signed = challenges.Play(pin=pin, spki=spki, stage=stage).presented()
    return Honest(stage, evidence, signed)


HONEST: dict[str, Callable[..., Honest]] = {"ssh-pop": by_pop, "ssh-hostkey": by_challenge}
LATE = timedelta(seconds=301)
