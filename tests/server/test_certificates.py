"""SSH certificates over real TLS: asked for, taken back, refused; and what a stranger learns and may cost."""

from __future__ import annotations

import dataclasses
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from handfast.adapters import tls
from handfast.core import sshcert, wire
from handfast.core.flow import HostGrant
from handfast.core.hosts import How, Place
from handfast.core.sshcert import SshCertificate
from handfast.core.sshsig import Signer
from handfast.introducers import ssh_pop
from handfast.server.limits import Limits
from tests.registrar.hosts import signer
from tests.server.running import Client, Running, running
from tests.server.test_introductions import reloaded

PATH = "/v1/ssh/certificates/ssh-pop"
REVOKE = "/v1/ssh/revocations"


def register(registrar: Running, machine: str, *keys: int) -> None:
    """A machine that has joined with these host keys."""
    grant = HostGrant(machine, tuple(signer(key).public for key in keys), How.INVITATION, "a test", Place((machine,)))
    registrar.service.ledger.register(grant, None, at=registrar.clock.now()).result()


def hello(client: Client) -> wire.Hello:
    """What the registrar says first."""
    return msgspec.json.decode(client.call("GET", "/v1/hello")[1], type=wire.Hello)


def asking(registrar: Running, client: Client, *signers: Signer) -> bytes:
    """A request for these keys on this connection."""
    pin, spki = registrar.service.authority.pin, tls.leaf_spki_sha256(client.leaf)
    return ssh_pop.present(signers, pin=pin, nonce=hello(client).nonce, server_spki=spki)[0]


def certify(registrar: Running, client: Client, *keys: int) -> list[SshCertificate]:
    """Ask, and read the answer."""
    status, body = client.call("POST", PATH, asking(registrar, client, *map(signer, keys)))
    assert status == 200, body
    answer = msgspec.json.decode(body, type=wire.CertificatesAnswer)
    return [sshcert.read(each) for each in answer.certificates]


def revoking(registrar: Running, client: Client, serial: int, by: int = 1, reason: str = "keyCompromise") -> bytes:
    """A request to take one back."""
    return ssh_pop.present_revocation(
        signer(by),
        serial=serial,
        reason=reason,
        pin=registrar.service.authority.pin,
        nonce=hello(client).nonce,
        server_spki=tls.leaf_spki_sha256(client.leaf),
    )


def counted(client: Client, method: str, code: str) -> bool:
    """Whether something was counted so."""
    return (
        f'handfast_introductions_total{{code="{code}",method="{method}"}}' in client.call("GET", "/metrics")[1].decode()
    )


def test_known_keys_are_certified_and_take_it_back(registrar: Running) -> None:
    """One request each; both are counted, and the second leaves the key without a successor."""
    register(registrar, "a.lan", 1, 2)
    with registrar.connect() as client:
        first, second = certify(registrar, client, 1, 2)
        assert (first.principals, first.authority) == (("a.lan",), second.authority)
        for _ in range(2):  # a lost answer is asked for again
            status, body = client.call("POST", REVOKE, revoking(registrar, client, first.serial))
            assert status == 200, body
            assert msgspec.json.decode(body) == {"serial": str(first.serial), "holder": "a.lan", "kind": "host"}
        problem = client.problem("POST", PATH, asking(registrar, client, signer(1)))
        assert (problem.status, problem.code) == (403, "policy-refused")
        assert [reason.partition(" of SHA256")[0] for reason in problem.reasons] == [f"certificate {first.serial}"]
        for method, code in (("ssh-pop", "ok"), ("ssh-pop", "policy-refused"), ("ssh-revoke", "ok")):
            assert counted(client, method, code), (method, code)


def test_a_stranger_cannot_tell_unknown_from_forged(registrar: Running) -> None:
    """A key of nobody's, a machine's key with another signature, two machines' keys: the same bytes."""
    register(registrar, "b.lan", 11)
    register(registrar, "c.lan", 12)
    with registrar.connect() as client:
        unknown = asking(registrar, client, signer(19))
        forged = dataclasses.replace(signer(19), public=signer(11).public)
        bodies = [unknown, asking(registrar, client, forged), asking(registrar, client, signer(11), signer(12))]
        answers = [client.call("POST", PATH, body) for body in bodies]
        answers.append(client.call("POST", REVOKE, revoking(registrar, client, 4711, by=19)))
        assert {status for status, _ in answers} == {403}
        assert {answer for _, answer in answers} == {
            b'{"title":"the evidence was not accepted","status":403,"code":"evidence-rejected"}'
        }


def test_P4_a_recorded_request_is_worth_the_same_certificates_at_most(registrar: Running) -> None:
    """Sent again over the same TLS key it gets what is out already; it is public, and nothing is made."""
    register(registrar, "d.lan", 21)
    with registrar.connect() as client, registrar.connect() as other:
        body = asking(registrar, client, signer(21))
        answers = [each.call("POST", PATH, body) for each in (client, other)]
        read = [msgspec.json.decode(answer, type=wire.CertificatesAnswer) for _, answer in answers]
        assert read[0].certificates == read[1].certificates


@pytest.mark.parametrize("path", ["/v1/ssh/certificates/renewal", "/v1/ssh/certificates/ssh-hostkey"])
def test_what_is_not_enabled_is_not_there(registrar: Running, path: str) -> None:
    """Neither another flow's method, nor the challenge unless the configuration takes it as evidence."""
    with registrar.connect() as client:
        problem = client.problem("POST", path, b"{}")
        assert (problem.status, problem.code) == (404, "not-found")


@pytest.mark.parametrize(
    ("path", "body"), [(PATH, b""), (PATH, b"{}"), (PATH, b"[1]"), (REVOKE, b""), (REVOKE, b'{"serial":"0"}')]
)
def test_what_is_no_request(registrar: Running, path: str, body: bytes) -> None:
    """It is malformed, and the answer says in which field."""
    with registrar.connect() as client:
        problem = client.problem("POST", path, body)
        assert (problem.status, problem.code) == (400, "malformed")


def test_refused_evidence_is_limited_and_proved_evidence_counted(tmp_path: Path) -> None:
    """As with introductions: who proves nothing is slowed by where it comes from, a machine by its own name."""
    limits = Limits(failures=0.001, failures_burst=2, introductions=0.001, introductions_burst=2)
    with running(tmp_path / "data", limits=limits) as registrar:
        register(registrar, "e.lan", 1)
        with registrar.connect() as client:
            for status in (403, 403, 429):
                assert client.call("POST", PATH, asking(registrar, client, signer(9)))[0] == status
            for status in (200, 200, 429):
                assert client.call("POST", PATH, asking(registrar, client, signer(1)))[0] == status


def test_the_last_certificate_may_be_over(tmp_path: Path) -> None:
    """Within the limit the key alone is enough, whatever became of its certificate."""
    with running(tmp_path / "data") as registrar:
        register(registrar, "f.lan", 1)
        with registrar.connect() as client:
            (old,) = certify(registrar, client, 1)
        registrar.clock.offset += timedelta(days=8)
        with registrar.connect() as client:
            (new,) = certify(registrar, client, 1)
        assert new.serial != old.serial
        assert new.valid_after > old.valid_before


def test_the_openapi_document_has_both_routes(registrar: Running) -> None:
    """With what they take and give."""
    with registrar.connect() as client:
        document: dict[str, Any] = msgspec.json.decode(client.call("GET", "/openapi.json")[1])
    taken = document["paths"]["/v1/ssh/certificates/{method}"]["post"]["requestBody"]["content"]["application/json"]
    assert {"$ref": "#/components/schemas/PopRequest"} in taken["schema"]["oneOf"]
    revoked = document["paths"][REVOKE]["post"]["responses"]["2XX"]["content"]["application/json"]
    assert revoked["schema"] == {"$ref": "#/components/schemas/SshRevokedAnswer"}


def test_new_rules_hold_from_the_reload_on(tmp_path: Path) -> None:
    """What was certified a moment ago is refused under rules that ask for more."""
    data = tmp_path / "data"
    with running(data) as registrar:
        register(registrar, "g.lan", 1)
        with registrar.connect() as client:
            certify(registrar, client, 1)
            (data / "config.toml").write_text('[ssh.certificates]\nrequire = [["invitation", "x5c"]]\n')
            with reloaded(registrar, client) as again:
                problem = again.problem("POST", PATH, asking(registrar, again, signer(1)))
        fingerprint = signer(1).public.fingerprint
        assert problem.reasons == [f"{fingerprint} is known by invitation only; needed: invitation and x5c"]
