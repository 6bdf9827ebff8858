"""Persons who log in at a real registrar, over real TLS, with tokens of a provider that it asks by itself."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography.hazmat.primitives.serialization import Encoding

from handfast.adapters import tls
from handfast.core import sshcert, wire
from handfast.core.flow import SshWish
from handfast.core.openid import Providers
from handfast.core.roles import Role
from handfast.core.sshsig import Signer
from handfast.introducers import oidc, operator_login
from handfast.server.limits import Limits
from tests.introducers.stage_login import CORP_KEY, KID, MINE, OTHER_KEY, THIEFS, claims, jwk, key_set, spent, token
from tests.newcomer.provider import KEYS, METADATA, Said, Scripted, provider
from tests.server.running import Client, Running, running

RULES = """
[[oidc]]
name = "corp"
issuer = "{issuer}"
client_id = "handfast"

[[ssh.users]]
origins = ["oidc:corp"]
emails = ["*@example.org"]
principals = ["fleet"]

[[ssh.users]]
origins = ["operator"]
own = "name"
"""


@dataclass
class World:
    """A registrar and its one provider."""

    registrar: Running
    provider: Scripted

    def token(self, *, key: Any = CORP_KEY, kid: str = KID, **changes: Any) -> str:
        """What the provider says now."""
        now = int(time.time())
        said = {"iss": self.provider.issuer, "iat": now, "exp": now + 600} | changes
        return token(claims(**said), key=key, kid=kid)

    def ask(self, text: str, by: Signer = MINE, wish: SshWish | None = None) -> tuple[int, bytes]:
        """Present a token over a connection of its own."""
        with self.registrar.connect() as client:
            body, _ = oidc.present(by, wish or SshWish(), provider="corp", token=text, **_bound(client, self.registrar))
            return client.call("POST", "/v1/ssh/certificates/oidc", body)

    def certificate(self, text: str, by: Signer = MINE) -> sshcert.SshCertificate:
        """What a token leads to."""
        status, answer = self.ask(text, by)
        assert status == 200, answer
        (found,) = msgspec.json.decode(answer, type=wire.CertificatesAnswer).certificates
        return sshcert.read(found)

    def refused(self, text: str, by: Signer = MINE) -> wire.Problem:
        """The problem that it leads to instead."""
        status, answer = self.ask(text, by)
        assert status >= 400, answer
        return msgspec.json.decode(answer, type=wire.Problem)


def _bound(client: Client, registrar: Running) -> dict[str, bytes]:
    hello = msgspec.json.decode(client.call("GET", "/v1/hello")[1], type=wire.Hello)
    pin, spki = registrar.service.authority.pin, tls.leaf_spki_sha256(client.leaf)
    return {"pin": pin, "nonce": hello.nonce, "server_spki": spki}


@pytest.fixture
def world(tmp_path: Path) -> Iterator[World]:
    """Both of them."""
    with provider(keys=[Said(json.loads(key_set(jwk(CORP_KEY))))]) as scripted:
        data = tmp_path / "data"
        data.mkdir(mode=0o700)
        (data / "config.toml").write_text(RULES.format(issuer=scripted.issuer))
        with running(data) as registrar:
            yield World(registrar, scripted)


def test_which_providers_there_are(world: World) -> None:
    """Whoever wants to log in is told what a device flow needs; it is nobody's secret."""
    with world.registrar.connect() as client:
        status, answer = client.call("GET", "/v1/ssh/providers")
    assert status == 200
    (found,) = msgspec.json.decode(answer, type=Providers).providers
    assert (found.name, found.issuer, found.client_id) == ("corp", world.provider.issuer, "handfast")
    assert (found.scopes, found.client_secret) == (["openid", "email"], "")
    assert b"client_secret" not in answer


def test_a_person_logs_in(world: World) -> None:
    """The certificate is by the CA for users, and as the rule has it; the ledger knows whose it is, and why."""
    text = world.token()
    found = world.certificate(text)
    service = world.registrar.service
    assert found.authority == service.certifier.ssh.user_ca
    assert (found.principals, found.key) == (("fleet",), MINE.public)
    assert found.key_id == "user ada@example.org by oidc:corp"
    record = service.ledger.ssh_certificate(found.serial)
    assert record is not None
    assert record.holder == "ada@example.org by oidc:corp"
    assert record.why[0].startswith(f"{world.provider.issuer} says that this is ada@example.org (248289761001)")
    kept = repr(service.ledger.events()) + repr(record)
    assert not any(part in kept for part in text.split("."))  # it is as good as a password for five minutes


def test_a_lost_answer_is_had_again(world: World) -> None:
    """The same token and the same key: the same certificate, and nothing else is issued."""
    text = world.token()
    assert world.certificate(text) == world.certificate(text)
    assert len(world.registrar.service.ledger.ssh_certificates("ada@example.org by oidc:corp")) == 1


def test_P40_a_stolen_token_comes_too_late(world: World) -> None:
    """Once it was used, it leads nobody else to anything, in whatever spelling: and the operator has an alarm."""
    text = world.token()
    world.certificate(text)
    assert world.refused(text, THIEFS).code == "already-spent"
    head, body, _ = text.split(".")
    assert world.refused(f"{head}.{body}.AAAA", THIEFS).code == "evidence-rejected"
    alarms = world.registrar.service.ledger.events(kind_prefix="alarm.")
    assert [each.fields["marker"] for each in alarms] == [spent(text)]


def test_P40_a_thief_who_is_first_is_noticed(world: World) -> None:
    """He has a certificate, in Ada's name and in the log; she is refused, and it is an alarm."""
    text = world.token()
    stolen = world.certificate(text, THIEFS)
    assert stolen.key_id == "user ada@example.org by oidc:corp"
    assert world.refused(text).code == "already-spent"
    assert len(world.registrar.service.ledger.events(kind_prefix="alarm.")) == 1


def test_P40_what_a_stranger_learns(world: World) -> None:
    """Of a token that proves nothing, no more than that; who is proved, and refused by policy, learns every reason."""
    for text in (
        world.token(key=OTHER_KEY),
        world.token(aud="another"),
        world.token(iss="https://id.example.com"),
        world.token(iat=int(time.time()) - 400),
    ):
        problem = world.refused(text)
        assert (problem.code, problem.detail, problem.reasons) == ("evidence-rejected", "", [])
    problem = world.refused(world.token(email_verified=False))
    assert problem.code == "policy-refused"
    assert "no rule of 2 in [[ssh.users]]" in problem.reasons[0]
    events = world.registrar.service.ledger.events(kind_prefix="introduction.refused")
    assert [each.fields["code"] for each in events] == ["policy-refused"]


def test_P40_a_person_costs_no_more_with_many_tokens(tmp_path: Path) -> None:
    """Each login is a new token, and would be a marker of its own: it is the person who is counted."""
    with provider(keys=[Said(json.loads(key_set(jwk(CORP_KEY))))]) as scripted:
        data = tmp_path / "data"
        data.mkdir(mode=0o700)
        (data / "config.toml").write_text(RULES.format(issuer=scripted.issuer))
        with running(data, limits=Limits(logins=0.001, logins_burst=2)) as registrar:
            world = World(registrar, scripted)
            for jti in "12":
                world.certificate(world.token(jti=jti))
            assert world.refused(world.token(jti="3")).code == "too-much"
            world.certificate(world.token(email="grace@example.org", jti="4"))


def test_P40_a_provider_is_asked_seldom(world: World) -> None:
    """Invented key ids, by the dozen, have us ask no more than once in a while."""
    world.certificate(world.token())
    before = world.provider.paths().count(KEYS)
    for number in range(10):
        assert world.refused(world.token(kid=f"invented-{number}")).code == "evidence-rejected"
    assert world.provider.paths().count(KEYS) <= before + 1


def test_a_provider_that_is_away_at_the_start(tmp_path: Path) -> None:
    """Nobody logs in by it, all else works, and the failure is one code to whoever asks."""
    with provider(metadata=[Said({}, 503)]) as scripted:
        data = tmp_path / "data"
        data.mkdir(mode=0o700)
        (data / "config.toml").write_text(RULES.format(issuer=scripted.issuer))
        with running(data) as registrar:
            world = World(registrar, scripted)
            assert world.refused(world.token()).code == "evidence-rejected"
            assert METADATA in scripted.paths()
            with registrar.connect() as client:
                assert client.call("GET", "/readyz")[0] == 200


def test_an_operator_logs_in(world: World) -> None:
    """Over mutual TLS, in the name of the credential; over a connection without it the same message is nothing."""
    joined = world.registrar.credential("ada-laptop", Role.OPERATOR)
    credential = joined.certificate.public_bytes(Encoding.DER)
    for context, status in ((world.registrar.context_with(joined), 200), (None, 403)):
        with world.registrar.connect(context) as client:
            body, _ = operator_login.present(MINE, SshWish(), credential=credential, **_bound(client, world.registrar))
            got, answer = client.call("POST", "/v1/ssh/certificates/operator", body)
            assert got == status, answer
            if status == 200:
                (found,) = msgspec.json.decode(answer, type=wire.CertificatesAnswer).certificates
                assert sshcert.read(found).principals == ("ada-laptop",)
                assert sshcert.read(found).valid_before > datetime.now(UTC)


def test_P40_an_operator_costs_no_more_with_many_keys(tmp_path: Path) -> None:
    """A thief of the credential would fill the list of revoked keys, until it is longer than anybody reads."""
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    (data / "config.toml").write_text(RULES.format(issuer="https://id.example.org"))
    with running(data, limits=Limits(logins=0.001, logins_burst=2)) as registrar:
        joined = registrar.credential("ada-laptop", Role.OPERATOR)
        credential = joined.certificate.public_bytes(Encoding.DER)
        with registrar.connect(registrar.context_with(joined)) as client:
            for by, status in ((MINE, 200), (THIEFS, 200), (MINE, 429)):
                made = operator_login.present(by, SshWish(), credential=credential, **_bound(client, registrar))
                assert client.call("POST", "/v1/ssh/certificates/operator", made[0])[0] == status
