"""Every file in vectors/ssh-hostkey leads to the outcome that it declares, and to nothing more."""

from __future__ import annotations

from pathlib import Path

import msgspec
import pytest

from handfast.core import sshkeys, wire
from handfast.core.challenge import Challenge, Parameters, Proof, proof_message, to_look
from handfast.core.flow import Channel, Evidence
from handfast.core.hosts import Host, How, Place
from handfast.core.look import Look
from handfast.core.secret import Secret
from handfast.core.sshcert import Kind
from handfast.errors import HandfastError
from handfast.introducers.ssh_hostkey import SSH_HALF, challenged, proved
from tests.architecture.sources import ROOT
from tests.introducers import vectors, vectors_challenge
from tests.introducers.stage_ssh import SshStage
from tests.introducers.vectors_challenge import ChallengeFound, ChallengeVector

MESSAGES = list(vectors.files(vectors_challenge.FOLDER))


def found(look: Look) -> ChallengeFound:
    """What is to be looked at, as a vector states it."""
    return ChallengeFound(
        names=list(look.names),
        addresses=list(map(str, look.addresses)),
        ports=list(look.ports),
        keys=list(map(str, look.keys)),
    )


def redeemed(vector: ChallengeVector) -> ChallengeFound:
    """Step 5."""
    world = vector.world
    hosts = {sshkeys.parse(each.key): Host(each.machine, Place(), ()) for each in world.known}
    ca = sshkeys.parse(world.host_ca)
    stage = SshStage(pin=world.pin, time=world.now, nonce_key=Secret(world.nonce_key), hosts=hosts, ssh_host_ca=ca)
    evidence = Evidence(vector.method, vector.payload.encode(), Channel(vector.server_spki))
    finding = SSH_HALF.verify(evidence, stage)
    assert (finding.kind, finding.wish.principals, finding.wish.lifetime) == (Kind.HOST, (), None)
    host = finding.host
    assert host is not None
    assert host.place is not None
    assert finding.once is not None
    assert (host.machine, host.keys, host.how, host.complete) == (finding.holder, finding.keys, How.SSH_HOSTKEY, False)
    return ChallengeFound(
        names=list(host.place.names),
        addresses=list(map(str, host.place.addresses)),
        ports=list(host.place.ports),
        keys=list(map(str, finding.keys)),
        machine=finding.subject,
        marker=finding.once.marker,
        transcript=finding.transcript,
    )


def concluded(vector: ChallengeVector) -> ChallengeFound:
    """What whoever reads the message concludes, as a vector states it."""
    world, body = vector.world, vector.payload.encode()
    if vector.step == "parameters":
        return found(to_look(wire.decode(body, Parameters)))
    if vector.step == "request":
        return redeemed(vector)
    if vector.step == "proof":
        proof, ca = wire.decode(body, Proof), sshkeys.parse(world.host_ca)
        domain, pin, spki = world.trust_domain, world.pin, vector.server_spki
        return found(proved(proof, ca=ca, trust_domain=domain, pin=pin, server_spki=spki, now=world.now))
    assert vector.asked is not None
    challenge, asked = wire.decode(body, Challenge), wire.decode(vector.asked.encode(), Parameters)
    ca = challenged(challenge, asked, pin=world.pin, trust_domain=world.trust_domain, time=world.now)
    to_sign = proof_message(challenge, server_spki=vector.server_spki, pin=world.pin)
    return ChallengeFound(signed_by=str(ca), to_sign=to_sign)


@pytest.mark.parametrize("path", MESSAGES, ids=lambda path: path.stem)
def test_a_message_comes_to_its_declared_outcome(path: Path) -> None:
    """Success with exactly this finding, or an error of exactly this code."""
    vector = vectors_challenge.load(path)
    if vector.outcome == "success":
        assert concluded(vector) == vector.finding
        return
    with pytest.raises(HandfastError) as caught:
        concluded(vector)
    assert caught.value.code == vector.outcome, caught.value.message


@pytest.mark.parametrize(
    ("step", "outcomes"),
    [
        ("parameters", {"success", "malformed"}),
        ("challenge", {"success", "untrusted-peer"}),
        ("proof", {"success", "malformed", "evidence-rejected", "refused"}),
        ("request", {"success", "malformed", "evidence-rejected", "refused", "not-mine"}),
    ],
)
def test_every_step_has_vectors_of_both_kinds(step: str, outcomes: set[str]) -> None:
    """It is known by what it leads to and by what is refused."""
    declared = [each.outcome for path in MESSAGES if (each := vectors_challenge.load(path)).step == step]
    assert declared.count("success") >= 2
    assert set(declared) == outcomes


@pytest.mark.parametrize("change", [{"outcome": "maybe"}, {"surprise": 1}, {"world": {}}, {"step": "sixth"}])
def test_an_unknown_outcome_or_field_is_an_error(change: dict[str, object]) -> None:
    """A file that says more than we check is not half-checked."""
    tree = msgspec.json.decode(MESSAGES[0].read_bytes()) | change
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(msgspec.json.encode(tree), type=ChallengeVector)


def test_the_page_has_the_digests_of_the_files() -> None:
    """Whoever reads docs/protocols/ssh-hostkey.md computes what we do."""
    page = (ROOT / "docs" / "protocols" / "ssh-hostkey.md").read_text()
    challenge = vectors_challenge.load(vectors.FOLDER / "ssh-hostkey" / "challenge-plain.json").finding
    request = vectors_challenge.load(vectors.FOLDER / "ssh-hostkey" / "request-plain.json").finding
    assert challenge is not None
    assert challenge.to_sign is not None
    assert request is not None
    assert request.transcript is not None
    assert f"challenge-plain.json  {challenge.to_sign.hex()}" in page
    assert f"request-plain.json  {request.transcript.hex()}" in page
