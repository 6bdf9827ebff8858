"""Every file in vectors/ssh-pop and vectors/ssh-revoke leads to the outcome that it declares, and to nothing more."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from handfast.core import sshkeys
from handfast.core.flow import Channel, Evidence
from handfast.core.hosts import Host, HostKey, How, Place
from handfast.core.records import SshRecord
from handfast.core.secret import Secret
from handfast.core.sshcert import Kind
from handfast.core.sshkeys import SshKey
from handfast.core.sshleaf import SshLeaf
from handfast.errors import HandfastError
from handfast.introducers import ssh_pop
from tests.architecture.sources import ROOT
from tests.introducers import vectors, vectors_ssh
from tests.introducers.stage_ssh import SshStage
from tests.introducers.vectors_ssh import CertificateOnRecord, PopFound, PopVector, PopWorld

MESSAGES = [path for folder in vectors_ssh.FOLDERS for path in vectors.files(folder)]


def staged(world: PopWorld) -> SshStage:
    """The vector's world as a context."""
    hosts: dict[SshKey, Host] = {}
    for one in world.hosts:
        known = tuple(HostKey(sshkeys.parse(each.key), How(each.how), "", world.now) for each in one.keys)
        hosts |= {each.key: Host(one.machine, Place(), known) for each in known}
    certificates = {int(one.serial): record(one, world) for one in world.certificates}
    return SshStage(
        pin=world.pin, time=world.now, nonce_key=Secret(world.nonce_key), hosts=hosts, certificates=certificates
    )


def record(one: CertificateOnRecord, world: PopWorld) -> SshRecord:
    """A certificate of the vector's world; nothing but its key counts."""
    leaf = SshLeaf(
        kind=Kind(one.kind),
        key=sshkeys.parse(one.key),
        key_id="",
        principals=(),
        valid_after=world.now,
        valid_before=world.now + timedelta(days=1),
    )
    certificate = b"a certificate" if one.issued else None
    return SshRecord(int(one.serial), one.holder, leaf, "", world.now, (), certificate=certificate)


def concluded(folder: str, vector: PopVector) -> PopFound:
    """What the registrar's half concludes, as a vector states it."""
    evidence = Evidence(vector.method, vector.payload.encode(), Channel(vector.server_spki))
    stage = staged(vector.world)
    if folder == ssh_pop.REVOKE:
        taken, reason = ssh_pop.revocation(evidence, stage)
        return PopFound(serial=str(taken.serial), reason=reason)
    finding = ssh_pop.SSH_HALF.verify(evidence, stage)
    assert (finding.kind, finding.once, finding.wish.lifetime) == (Kind.HOST, None, None)
    host = finding.host
    if host is not None:
        assert (host.machine, host.how, host.complete, host.place) == (finding.holder, How.HOSTKEYS_PROVE, False, None)
    return PopFound(
        machine=finding.subject,
        keys=list(map(str, finding.keys)),
        principals=list(finding.wish.principals),
        transcript=finding.transcript,
        new=[] if host is None else list(map(str, host.keys)),
        basis=[] if host is None else list(map(str, host.basis)),
    )


@pytest.mark.parametrize("path", MESSAGES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_message_comes_to_its_declared_outcome(path: Path) -> None:
    """Success with exactly this finding, or an error of exactly this code."""
    vector = vectors_ssh.load(path)
    if vector.outcome == "success":
        assert concluded(path.parent.name, vector) == vector.finding
        return
    with pytest.raises(HandfastError) as caught:
        concluded(path.parent.name, vector)
    assert caught.value.code == vector.outcome, caught.value.message


def test_every_message_has_vectors_of_both_kinds() -> None:
    """It is known by what it leads to and by what is refused."""
    for folder in vectors_ssh.FOLDERS:
        outcomes = [vectors_ssh.load(path).outcome for path in vectors.files(folder)]
        assert outcomes.count("success") >= 2
        assert set(outcomes) == {"success", "evidence-rejected", "malformed", "not-mine"}


@pytest.mark.parametrize("change", [{"outcome": "maybe"}, {"surprise": 1}, {"world": {}}])
def test_an_unknown_outcome_or_field_is_an_error(change: dict[str, object]) -> None:
    """A file that says more than we check is not half-checked."""
    tree = msgspec.json.decode(MESSAGES[0].read_bytes()) | change
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(msgspec.json.encode(tree), type=PopVector)


def test_the_page_has_the_digests_of_the_files() -> None:
    """Whoever reads docs/protocols/ssh-certificates.md computes what we do."""
    page = (ROOT / "docs" / "protocols" / "ssh-certificates.md").read_text()
    for name in ("one-key.json", "new-key.json"):
        finding = vectors_ssh.load(vectors.FOLDER / "ssh-pop" / name).finding
        assert finding is not None
        assert finding.transcript is not None
        assert f"{name}  {finding.transcript.hex()}" in page
