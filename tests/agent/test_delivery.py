"""A key that is delivered: what is taken, what is not, and that it is off unless it was asked for."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import BestAvailableEncryption, Encoding, NoEncryption, PrivateFormat

from handfast.core.chain import read_identity
from handfast.core.flow import Once
from handfast.core.keys import spki, spki_sha256
from handfast.core.names import Names
from handfast.core.roles import Role
from handfast.errors import Conflict, HandfastError, Malformed, UntrustedPeer
from handfast.policy.decide import by_operator
from tests.agent.agents import POLICY, introduce, running
from tests.agent.agents import controller as controlled
from tests.agent.test_agent import Controlling, given, stage, start


def issued(
    controlling: Controlling, key: ec.EllipticCurvePrivateKey, *, name: str = "web1", role: Role = Role.AGENT
) -> str:
    """Return a certificate and its chain in PEM, as a controller sends it."""
    house, now = controlling.house, controlling.house.clock.now()
    public = spki(key.public_key())
    grant = by_operator(
        machine=name, role=role, names=Names(), public_key=public, lifetime=timedelta(days=1),
        issuer=house.authority, now=now,
    )  # fmt: skip
    intent = house.ledger.intend(grant, Once(f"test:{spki_sha256(key.public_key()).hex()}"), at=now).result()
    leaf = house.authority.issue(intent).certificate
    return "".join(
        x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM).decode()
        for der in (leaf, *house.authority.chain)
    )


def pem(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> str:
    """Return a key as a controller sends it."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


@pytest.fixture
def controlling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controlling]:
    """A registrar of its own, by the real time."""
    with controlled(tmp_path_factory.mktemp("house")) as made:
        yield made


@pytest.fixture
def key() -> ec.EllipticCurvePrivateKey:
    """A key that a controller has made."""
    return ec.generate_private_key(ec.SECP256R1())


def test_it_is_shown_on_trial_and_then_kept(
    tmp_path: Path, controlling: Controlling, key: ec.EllipticCurvePrivateKey
) -> None:
    """As what it was introduced with would be: shown, called over, kept; and it is there after a boot."""
    data = given(controlling)
    agent = start(data, tmp_path, controlling)
    agent.deliver(issued(controlling, key), pem(key))
    assert stage(agent) == "trial"
    assert agent.face.spki == spki_sha256(key.public_key())
    assert stage(start(data, tmp_path, controlling)) == "new"
    agent.called(agent.face)
    again = start(data, tmp_path, controlling)
    assert (stage(again), again.face.spki) == ("held", spki_sha256(key.public_key()))
    assert again.identity is not None
    assert again.identity.machine == "web1"


def test_nobody_calls_over_it(tmp_path: Path, controlling: Controlling, key: ec.EllipticCurvePrivateKey) -> None:
    """What was delivered and is not used is forgotten after a minute."""
    agent = start(given(controlling), tmp_path, controlling)
    before = agent.face.spki
    agent.deliver(issued(controlling, key), pem(key))
    controlling.house.clock.time += timedelta(seconds=61)
    assert (stage(agent), agent.face.spki) == ("new", before)


def test_only_a_new_agent_takes_one(tmp_path: Path, controlling: Controlling, key: ec.EllipticCurvePrivateKey) -> None:
    """An introduced one has a key that nobody else has: a stolen controller must not replace it by its own."""
    agent = start(given(controlling), tmp_path, controlling)
    controlling.introduce(agent)
    agent.called(agent.face)
    shown = agent.face.spki
    with pytest.raises(Conflict, match="makes its next key itself"):
        agent.deliver(issued(controlling, key), pem(key))
    assert (stage(agent), agent.face.spki) == ("held", shown)


def test_P53_what_is_not_for_us(tmp_path: Path, controlling: Controlling, key: ec.EllipticCurvePrivateKey) -> None:
    """No pair, another's name, another role, another authority, a time that is over: what is shown stays."""
    agent = start(given(controlling), tmp_path, controlling)
    shown, good = agent.face.spki, issued(controlling, key)
    other = ec.generate_private_key(ec.SECP256R1())
    encrypted = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"x")).decode()
    leaf_alone = good[: good.index("-----END CERTIFICATE-----") + 26]
    curve = ec.generate_private_key(ec.SECP384R1())
    with controlled(tmp_path / "elsewhere") as foreign:
        foreign.house.clock.time = controlling.house.clock.now()
        refused: list[tuple[str, str, type[HandfastError], str]] = [
            (good, pem(other), UntrustedPeer, "no pair"),
            (issued(controlling, other, name="web2"), pem(other), UntrustedPeer, "is for 'web2', and this is 'web1'"),
            (leaf_alone, pem(key), UntrustedPeer, "."),
            ("", pem(key), Malformed, "not a certificate"),
            ("x" * 70_000, pem(key), Malformed, "over 65536"),
            (good, "", Malformed, "not a private key"),
            (good, encrypted, Malformed, "not a private key"),
            (good, pem(ed25519.Ed25519PrivateKey.generate()), Malformed, "P-256"),
            (good, pem(curve), Malformed, "P-256"),
        ]
        server = ec.generate_private_key(ec.SECP256R1())
        refused.append((issued(controlling, server, role=Role.SERVER), pem(server), UntrustedPeer, "server"))
        theirs = ec.generate_private_key(ec.SECP256R1())
        refused.append((issued(foreign, theirs), pem(theirs), UntrustedPeer, "."))
        for certificate, keypair, error, why in refused:
            with pytest.raises(error, match=why):
                agent.deliver(certificate, keypair)
            assert (stage(agent), agent.face.spki) == ("new", shown)
    controlling.house.clock.time += timedelta(days=2)
    with pytest.raises(UntrustedPeer):
        agent.deliver(good, pem(key))
    controlling.house.clock.time -= timedelta(days=10)
    with pytest.raises(UntrustedPeer):
        agent.deliver(good, pem(key))
    assert agent.face.spki == shown


def test_nothing_secret_is_in_a_refusal(
    tmp_path: Path, controlling: Controlling, key: ec.EllipticCurvePrivateKey
) -> None:
    """A key that cannot be read is not quoted, as it goes to logs."""
    agent = start(given(controlling), tmp_path, controlling)
    broken = pem(key).replace("-----BEGIN PRIVATE KEY-----", "-----BEGIN PRIVATE KEY-----\nMII?")
    with pytest.raises(Malformed) as caught:
        agent.deliver(issued(controlling, key), broken)
    assert pem(key).splitlines()[1][:20] not in caught.value.message


def test_it_is_off_unless_asked_for(tmp_path: Path) -> None:
    """An agent that was not started with --legacy takes no key from anybody, not even its genuine controller."""
    for name in ("controller", "logs", "artifacts"):
        (tmp_path / name).mkdir()
    with (
        controlled(tmp_path / "controller") as controlling,
        running(controlling, tmp_path / "agent", POLICY.format(tmp_path, "")) as agent,
    ):
        talk = agent.talk()
        answer = talk.ask(
            "POST", "/configure", b"certificate=x&keypair=x", Content_Type="application/x-www-form-urlencoded"
        )
        assert answer.status == 404
        assert "makes its own key" in answer.json()["message"]
        introduce(controlling, talk)
        assert read_identity(agent.talk().shown).machine == "web1"
