"""Every file in vectors/ leads to the outcome that it declares, and to nothing more."""

from __future__ import annotations

from datetime import datetime
from pathlib import Path

import msgspec
import pytest
from cryptography import x509 as pyca
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import Encoding, load_der_public_key

from handfast import introducers
from handfast.core.dn import SubjectPattern
from handfast.core.flow import Channel, Evidence, Finding, HostFinding
from handfast.core.foreign import Usage
from handfast.core.invitation import InvitationLine
from handfast.core.names import NamePattern, Names, network
from handfast.core.ports import Introducer
from handfast.core.records import CredentialRecord, Invitation
from handfast.core.revocation import Coverage, RevocationList
from handfast.core.roles import Role
from handfast.core.secret import Secret
from handfast.errors import HandfastError
from handfast.introducers import nifi, x5c
from tests.introducers import make_vectors, vectors, vectors_challenge, vectors_login, vectors_ssh
from tests.introducers.stage import Stage
from tests.introducers.vectors import (
    AnswerVector,
    Found,
    FoundHost,
    FoundPlace,
    LineVector,
    TagVector,
    Vector,
    World,
)

METHODS = sorted(introducers.known())
MESSAGES = [path for method in METHODS for path in vectors.files(method)]
LINES, TAGS, ANSWERS = (list(vectors.files(kind)) for kind in (vectors.LINES, vectors.TAGS, vectors.ANSWERS))
SSH = [path for folder in vectors_ssh.FOLDERS for path in vectors.files(folder)]  # see test_vectors_ssh
LOGINS = [path for folder in vectors_login.FOLDERS for path in vectors.files(folder)]  # see test_vectors_login
CHALLENGES = list(vectors.files(vectors_challenge.FOLDER))  # see test_vectors_challenge
EVERY = [*MESSAGES, *LINES, *TAGS, *ANSWERS, *SSH, *LOGINS, *CHALLENGES]


def staged(world: World) -> Stage:
    """The vector's world as a context."""
    return Stage(
        pin=world.pin,
        time=world.now,
        nonce_key=Secret(world.nonce_key),
        invitations={
            one.key_id: Invitation(
                key_id=one.key_id,
                method=one.method,
                public_half=one.public_half,
                machine=one.machine,
                role=Role(one.role),
                names=Names.parse(one.names),
                uses=one.uses,
                created_at=one.created_at,
                expires_at=one.expires_at,
                sources=None if one.sources is None else tuple(map(network, one.sources)),
                spent=one.spent,
                cancelled=one.cancelled,
                subject=one.subject,
            )
            for one in world.invitations
        },
        credentials={int(one.serial, 16): credential(one, world.now) for one in world.credentials},
    )


def credential(one: vectors.CredentialOnRecord, now: datetime) -> CredentialRecord:
    """A credential of the vector's world."""
    return CredentialRecord(
        serial=int(one.serial, 16),
        machine=one.machine,
        role=Role(one.role),
        method="",
        trust_domain="",
        marker="",
        not_before=one.not_before,
        not_after=one.not_after,
        names=Names.parse(one.names),
        intended_at=now,
        why=(),
        certificate=one.certificate,
        reintroduction_key=one.reintroduction_key,
        revoked_at=one.revoked_at,
        revoked_reason=one.revoked_reason,
    )


def found(finding: Finding) -> Found:
    """A finding as a vector states it."""
    sources = finding.entitlement.sources
    return Found(
        public_key=finding.public_key,
        machine=finding.entitlement.machine,
        roles=sorted(finding.entitlement.roles),
        names=list(finding.entitlement.names.texts()),
        sources=None if sources is None else [str(each) for each in sources],
        wished_role=finding.wish.role,
        wished_names=list(finding.wish.names.texts()),
        marker=finding.once.marker,
        uses=finding.once.uses,
        transcript=finding.transcript,
        reintroduction_key=finding.reintroduction_key,
        expired_at=finding.expired_at,
        subject=finding.entitlement.subject,
        wished_subject=finding.wish.subject,
        own_address=finding.entitlement.own_address,
        until=finding.entitlement.until,
        host=None if finding.host is None else found_host(finding.host),
    )


def found_host(host: HostFinding) -> FoundHost:
    """Host keys as a vector states them."""
    place = None if host.place is None else FoundPlace(hosts=list(host.place.hosts()), ports=list(host.place.ports))
    assert host.once is None  # what the request spends counts for its host keys, too
    return FoundHost(
        machine=host.machine,
        keys=sorted(map(str, host.keys)),
        how=host.how.value,
        detail=host.detail,
        complete=host.complete,
        place=place,
    )


def verifier(name: str, world: World) -> Introducer:
    """The registrar's half, configured as the vector's world says."""
    if world.x5c is not None:
        return x5c_verifier(world.x5c)
    if world.nifi is None:
        return introducers.known()[name]
    ca, shared, master = load_der_public_key(world.nifi.ca), world.nifi.shared, world.nifi.master
    assert isinstance(ca, ec.EllipticCurvePublicKey | rsa.RSAPublicKey)
    return nifi.NifiIntroducer(
        ca,
        None
        if shared is None
        else nifi.SharedToken(
            Secret(shared.token.encode()),
            tuple(map(SubjectPattern.parse, shared.subjects)),
            tuple(map(NamePattern.parse, shared.names)),
            shared.any_name,
        ),
        None if master is None else Secret(master),
    )


def x5c_verifier(said: vectors.X5cConfigured) -> x5c.X5cIntroducer:
    """The registrar's half for certificates of others."""
    rules = x5c.X5cRules(
        roots=tuple(map(pyca.load_der_x509_certificate, said.roots)),
        usages=frozenset(map(Usage, said.eku)),
        roles=frozenset(map(Role, said.roles)),
        names=tuple(map(NamePattern.parse, said.names)),
        coverage=Coverage(said.require_crl),
        cut=said.cut,
    )
    if said.crls is None:
        return x5c.X5cIntroducer(rules)
    lists = [RevocationList.read(each, "") for each in said.crls]
    return x5c.X5cIntroducer(rules, lambda: lists)


@pytest.mark.parametrize("path", MESSAGES, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_a_message_comes_to_its_declared_outcome(path: Path) -> None:
    """Success with exactly this finding, or an error of exactly this code."""
    vector = vectors.load(path, Vector)
    client = vector.connection.client
    certificate = None if client is None else pyca.load_der_x509_certificate(client)
    evidence = Evidence(vector.method, vector.payload.encode(), Channel(vector.connection.server_spki, certificate))
    introducer = verifier(path.parent.name, vector.world)
    if vector.outcome == "success":
        assert found(introducer.verify(evidence, staged(vector.world))) == vector.finding
        return
    with pytest.raises(HandfastError) as caught:
        introducer.verify(evidence, staged(vector.world))
    assert caught.value.code == vector.outcome, caught.value.message


@pytest.mark.parametrize("path", LINES, ids=lambda path: path.stem)
def test_a_line_comes_to_its_declared_outcome(path: Path) -> None:
    """It reads as declared and is written the same again, or is refused with the declared code."""
    vector = vectors.load(path, LineVector)
    if vector.outcome == "success":
        line = InvitationLine.parse(vector.line)
        read = vectors.Read(
            key_id=line.key_id,
            public_key=line.public_key(),
            seed=line.seed.reveal(),
            pin=line.pin,
            not_before=line.not_before,
            not_after=line.not_after,
            addresses=[str(address) for address in line.addresses],
        )
        assert read == vector.reads
        assert line.reveal() == vector.line.strip()
        return
    with pytest.raises(HandfastError) as caught:
        InvitationLine.parse(vector.line)
    assert caught.value.code == vector.outcome


@pytest.mark.parametrize("path", TAGS, ids=lambda path: path.stem)
def test_a_tag_is_what_the_original_computes(path: Path) -> None:
    """The same identifier of the same key, and the same HMAC over it."""
    vector = vectors.load(path, TagVector)
    key = load_der_public_key(vector.spki)
    assert isinstance(key, ec.EllipticCurvePublicKey | rsa.RSAPublicKey)
    assert pyca.SubjectKeyIdentifier.from_public_key(key).digest.hex() == vector.key_id
    assert nifi.tag(Secret(vector.token.encode()), key) == vector.tag


@pytest.mark.parametrize("path", ANSWERS, ids=lambda path: path.stem)
def test_an_answer_comes_to_its_declared_outcome(path: Path) -> None:
    """NiFi's client has this certificate, or an error of exactly this code."""
    vector = vectors.load(path, AnswerVector)
    token, ca = Secret(vector.token.encode()), pyca.load_pem_x509_certificate(vector.ca.encode())
    if vector.outcome == "success":
        certificate = nifi.decode_answer(vector.body.encode(), token, ca)
        assert certificate.public_bytes(Encoding.PEM).decode() == vector.certificate
        return
    with pytest.raises(HandfastError) as caught:
        nifi.decode_answer(vector.body.encode(), token, ca)
    assert caught.value.code == vector.outcome, caught.value.message


def test_every_method_has_vectors_of_both_kinds() -> None:
    """A method is known by what it accepts and by what it refuses."""
    for method in METHODS:
        outcomes = [vectors.load(path, Vector).outcome for path in vectors.files(method)]
        assert outcomes.count("success") >= 2
        assert len(set(outcomes)) >= 4


def test_no_file_lies_outside() -> None:
    """A vector in a folder that nobody replays would prove nothing."""
    assert sorted(vectors.FOLDER.rglob("*.json")) == sorted(EVERY)


def test_the_files_are_what_the_script_writes() -> None:
    """The script spells the transcripts a second time, so both implementations agree byte by byte."""
    on_disk = {path.relative_to(vectors.FOLDER).as_posix(): path.read_bytes() for path in EVERY}
    assert on_disk == make_vectors.everything()


@pytest.mark.parametrize("change", [{"outcome": "maybe"}, {"surprise": 1}, {"world": {}}])
def test_an_unknown_outcome_or_field_is_an_error(change: dict[str, object]) -> None:
    """A file that says more than we check is not half-checked."""
    tree = msgspec.json.decode(MESSAGES[0].read_bytes()) | change
    with pytest.raises(msgspec.ValidationError):
        msgspec.json.decode(msgspec.json.encode(tree), type=Vector)
