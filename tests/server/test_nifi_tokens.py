"""One-time tokens through the server: one subject, its names, its time, its uses; and what is taken back stays so."""

from __future__ import annotations

from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import timedelta
from ipaddress import ip_address, ip_network
from pathlib import Path
from typing import Any

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from handfast.cli.main import run
from handfast.core import views
from handfast.core.keys import spki_sha256
from handfast.core.names import IPNetwork
from handfast.core.roles import Role
from handfast.core.secret import Secret
from handfast.errors import Malformed, Refused, UsageError
from handfast.introducers.nifi import MOST_TOKENS
from handfast.ledger import audit
from handfast.registrar.operator import LocalOperator
from handfast.wiring import log_origin, open_administration
from tests.server.nifi_peer import Served, new_key, serving
from tests.server.test_public import fetch

NODE2 = "CN=node2.lan, OU=NIFI"


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A registrar without a shared token."""
    with serving(tmp_path_factory.mktemp("tokens") / "data", token=None) as started:
        yield started


def test_it_is_good_for_its_name_wherever_that_leads(served: Served) -> None:
    """The operator said whom it is for, so that nobody is asked where the name leads."""
    token, _ = served.invite("node2.lan")
    served.names.asked.clear()
    assert served.enrol(token, NODE2).names == ["node2.lan"]
    assert not served.names.asked


@pytest.mark.parametrize(
    ("subject", "names"),
    [
        ("CN=node1.lan, OU=NIFI", None),
        ("CN=node3.lan", None),
        ("CN=node3.lan, OU=Admins", None),
        ("OU=NIFI, CN=node3.lan", None),
        ("CN=NODE3.LAN, OU=NIFI", None),
        ("CN=node3.lan, OU=NIFI", [x509.DNSName("node3.lan"), x509.DNSName("node1.lan")]),
        ("CN=node3.lan, OU=NIFI", [x509.IPAddress(ip_address("127.0.0.1"))]),
    ],
)
def test_it_is_good_for_nothing_else(served: Served, subject: str, names: list[x509.GeneralName] | None) -> None:
    """Another subject or another name is refused and told, and spends nothing, though it leads to the caller."""
    token, key_id = served.invite("node3.lan")
    answer = served.enrol(token, subject, names)
    assert (answer.status, "not entitled to" in answer.error) == (403, True)
    invitation = served.registrar.service.ledger.invitation(key_id)
    assert invitation is not None
    assert invitation.spent == 0


def test_subject_and_names_of_the_operator(served: Served) -> None:
    """--dn and --san say what it is good for; addresses stay addresses."""
    subject = "CN=Kim Lee, OU=Admins, O=Us"
    token, _ = served.invite("kim", subject=subject, sans=("kim.lan", "10.0.0.9"))
    names = [x509.DNSName("kim.lan"), x509.IPAddress(ip_address("10.0.0.9"))]
    answer = served.enrol(token, subject, names)
    assert answer.names == ["kim.lan", "10.0.0.9"]
    assert answer.certificate.subject.rfc4514_string() == subject.replace(", ", ",")
    assert [each.name for each in served.registrar.service.ledger.machines() if each.name.startswith("kim")] == ["kim"]


def test_a_second_key_is_an_alarm(served: Served) -> None:
    """The first key has it, again and again; another one is refused, and `list` says so."""
    token, _ = served.invite("node4.lan")
    subject, key = "CN=node4.lan, OU=NIFI", new_key()
    first = served.enrol(token, subject, key=key).certificate
    answer = served.enrol(token, subject)
    assert answer.status == 403
    assert "already" in answer.error
    assert served.enrol(token, subject, key=key).certificate == first
    listed = {row.name: row for row in LocalOperator(served.registrar.service.administration).list()}
    assert listed["node4.lan"].alarm_count == 1


def test_a_race_has_one_winner(served: Served) -> None:
    """Of several keys at the same moment one gets the certificate, and each of the others is refused."""
    token, _ = served.invite("raced.lan")
    with ThreadPoolExecutor(8) as pool:
        asked = [pool.submit(served.enrol, token, "CN=raced.lan, OU=NIFI") for _ in range(8)]
        statuses = sorted(each.result().status for each in asked)
    assert statuses == [200] + [403] * 7


def test_uses(served: Served) -> None:
    """A token for two keys is good for two."""
    token, _ = served.invite("node5.lan", uses=2)
    assert [served.enrol(token, "CN=node5.lan, OU=NIFI").status for _ in range(3)] == [200, 200, 403]


@pytest.mark.parametrize(("network", "status"), [("127.0.0.0/8", 200), ("10.0.0.0/8", 403), ("::/0", 403), (None, 200)])
def test_networks(served: Served, network: str | None, status: int) -> None:
    """--from bounds where it may be used from."""
    sources: tuple[IPNetwork, ...] | None = None if network is None else (ip_network(network),)
    token, _ = served.invite("node6.lan", sources=sources)
    assert served.enrol(token, "CN=node6.lan, OU=NIFI").status == status


def test_it_expires(served: Served) -> None:
    """After its time it is nobody's, and its holder is told no more than a stranger."""
    token, _ = served.invite("node7.lan", lasting=timedelta(minutes=1))
    served.registrar.clock.offset = timedelta(minutes=1)
    try:
        answer = served.enrol(token, "CN=node7.lan, OU=NIFI")
    finally:
        served.registrar.clock.offset = timedelta()
    assert (answer.status, answer.error) == (403, "forbidden")


def test_it_is_cancelled(served: Served) -> None:
    """What was taken back is refused, and its holder is told."""
    token, key_id = served.invite("node8.lan")
    served.registrar.service.administration.revoke(key_id, reason="lost")
    answer = served.enrol(token, "CN=node8.lan, OU=NIFI")
    assert answer.status == 403
    assert "was cancelled" in answer.error


def test_a_revoked_machine_does_not_come_back(served: Served) -> None:
    """`revoke NAME` ends its certificate and its tokens, for its own key too; a new token lets it in."""
    subject, key = "CN=node9.lan, OU=NIFI", new_key()
    token, unused = served.invite("node9.lan")[0], served.invite("node9.lan")[0]
    serial = served.enrol(token, subject, key=key).certificate.serial_number
    assert served.registrar.service.administration.revoke("node9.lan", reason="keyCompromise") == (serial,)
    for again in (token, unused):
        assert served.enrol(again, subject, key=key).status == 403
        assert served.enrol(again, subject).status == 403
    assert served.enrol(served.invite("node9.lan")[0], subject).status == 200


def test_what_is_no_name(served: Served) -> None:
    """A mistake is told when the token is made, and not at the node."""
    for wrong, kind in (
        ({"name": "no name"}, Malformed),
        ({"subject": "nonsense"}, Malformed),
        ({"subject": "OU=NIFI"}, Malformed),
        ({"subject": "CN=*.lan, OU=NIFI"}, Malformed),
        ({"sans": ("*.lan",)}, Malformed),
        ({"name": "registrar"}, UsageError),
        ({"uses": 0}, UsageError),
        ({"lasting": timedelta(days=31)}, UsageError),
    ):
        arguments: dict[str, Any] = {"name": "node1.lan", **wrong}
        with pytest.raises(kind):
            served.invite(**arguments)


def test_no_more_than_can_be_tried(tmp_path: Path) -> None:
    """Each token costs every stranger's request, so that there is a bound; those that are over do not count."""
    with serving(tmp_path / "data", token=None) as served:
        token, _ = served.invite("first.lan")
        short = timedelta(seconds=30)
        for number in range(MOST_TOKENS - 1):
            served.invite(f"node{number}.lan", lasting=short)
        with pytest.raises(Refused, match=f"{MOST_TOKENS} one-time tokens are waiting"):
            served.invite("more.lan")
        assert served.enrol(token, "CN=first.lan, OU=NIFI").status == 200
        served.registrar.clock.offset = short
        served.invite("more.lan")


def test_restart_keeps_the_tokens(tmp_path: Path) -> None:
    """A token outlives its registrar's process, spent or not; the ledger alone cannot make it."""
    key, subject = new_key(), "CN=node1.lan, OU=NIFI"
    with serving(tmp_path / "data", token=None) as served:
        spent, unspent = served.invite()[0], served.invite()[0]
        first = served.enrol(spent, subject, key=key).certificate
    content = b"".join(path.read_bytes() for path in (tmp_path / "data").glob("ledger*"))
    assert spent.encode() not in content
    assert spent[14:].encode() not in content
    with serving(tmp_path / "data", token=None, clients="again") as served:
        assert served.enrol(spent, subject, key=key).certificate == first
        assert served.enrol(spent, subject).status == 403
        assert served.enrol(unspent, subject).status == 200


def test_an_encrypted_authority_needs_its_passphrase_to_invite(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """`invite --nifi` beside the running registrar asks for the passphrase, and says so; it makes nothing without."""
    data, passphrase = tmp_path / "data", tmp_path / "passphrase"
    passphrase.touch(0o600)
    passphrase.write_text("open sesame")
    for variable in ("HANDFAST_PASSPHRASE", "HANDFAST_PASSPHRASE_FILE"):
        monkeypatch.delenv(variable, raising=False)
    with serving(data, token=None, passphrase=Secret(b"open sesame")) as served:
        assert run(["invite", "node1.lan", "--nifi", "--data", str(data)]) == 3
        told = capsys.readouterr()
        assert told.out == ""
        assert "is encrypted" in told.err
        assert "passphrase" in told.err
        assert not served.registrar.service.ledger.invitations()
        assert run(["invite", "node1.lan", "--nifi", "--data", str(data), "--passphrase-file", str(passphrase)]) == 0
        token = capsys.readouterr().out.strip()
        assert served.enrol(token).status == 200


def test_a_registrar_without_nifi_makes_no_tokens(served: Served) -> None:
    """Where the protocol is not served there is nothing to derive a token from."""
    administration = open_administration(served.registrar.service.data)
    without = LocalOperator(replace(administration, nifi=None))
    request = views.InviteRequest(machine="n.lan", role=Role.PEER, seconds=60, method="nifi")
    with pytest.raises(UsageError, match="does not serve NiFi's protocol") as raised:
        without.invite(request)
    assert "--nifi-listen" in raised.value.hint


def test_a_remote_operator(served: Served) -> None:
    """An operator at a distance makes tokens with the same words; a role that they cannot have is refused."""
    joined = served.registrar.credential("nora", Role.OPERATOR)
    request = {"machine": "far.lan", "role": "peer", "seconds": 600, "method": "nifi", "subject": "CN=far.lan"}
    with served.registrar.connect(served.registrar.context_with(joined)) as client:
        status, answer = client.call("POST", "/v1/invitations", msgspec.json.encode(request))
        assert status == 201, answer
        made = msgspec.json.decode(answer, type=views.InviteAnswer)
        assert (made.invitation.method, made.invitation.role, made.invitation.names) == ("nifi", Role.PEER, ["far.lan"])
        assert served.enrol(made.line, "CN=far.lan").status == 200
        for wrong in ({"role": "operator"}, {"subject": "nonsense"}, {"method": "invitation"}):
            assert client.problem("POST", "/v1/invitations", msgspec.json.encode(request | wrong)).status == 400


def test_a_token_does_not_open_our_own_door(served: Served) -> None:
    """An invitation of one method is none of the other: a NiFi token joins nobody, and a line enrols nobody."""
    line = served.registrar.invite("native.lan").reveal()
    assert served.enrol(line, "CN=native.lan, OU=NIFI").status == 403
    with served.registrar.connect() as client:
        evidence, _ = client.evidence(served.registrar.invite("native2.lan"), ec.generate_private_key(ec.SECP256R1()))
        _, key_id = served.invite("native2.lan")
        forged = msgspec.json.decode(evidence) | {"key_id": key_id}
        refused = client.problem("POST", "/v1/introductions/invitation", msgspec.json.encode(forged))
        assert (refused.status, refused.code) == (403, "evidence-rejected")


def test_each_authority_lists_its_own(served: Served) -> None:
    """What NiFi's root issued is revoked on its list alone, which it signed; and the other way round."""
    token, _ = served.invite("listed.lan")
    foreign = served.enrol(token, "CN=listed.lan, OU=NIFI").certificate
    native = served.registrar.credential("listed2.lan", Role.SERVER).certificate
    for machine in ("listed.lan", "listed2.lan"):
        served.registrar.service.administration.revoke(machine, reason="keyCompromise")
    url = served.registrar.ready.crl_url
    ours, theirs = x509.load_der_x509_crl(fetch(url)[2]), x509.load_der_x509_crl(fetch(_beside(url, "nifi"))[2])
    assert x509.load_der_x509_crl(fetch(_beside(url, spki_sha256(served.root.public_key()).hex()))[2]) == theirs
    assert theirs.issuer == served.root.subject
    assert theirs.is_signature_valid(served.root.public_key())  # type: ignore[arg-type]
    assert not ours.is_signature_valid(served.root.public_key())  # type: ignore[arg-type]
    both = {foreign.serial_number, native.serial_number}
    assert both & {each.serial_number for each in theirs} == {foreign.serial_number}
    assert both & {each.serial_number for each in ours} == {native.serial_number}


def _beside(url: str | None, name: str) -> str:
    assert url is not None
    return f"{url.rpartition('/')[0]}/{name}.crl"


def test_no_credential_of_nifi_is_renewed_by_our_own_methods(served: Served) -> None:
    """Renewal and reintroduction start from a serial of ours: one of the NiFi authority is as unknown as any."""
    token, _ = served.invite("old.lan")
    leaf = served.enrol(token, "CN=old.lan, OU=NIFI").certificate
    assert served.registrar.service.registrar.context.credential(leaf.serial_number) is None
    assert served.registrar.service.ledger.credential(leaf.serial_number) is not None


def test_the_log_verifies(tmp_path: Path) -> None:
    """After enrolments, refusals, alarms and revocations of both kinds every entry and every table agree."""
    with serving(tmp_path / "data") as served:
        token, _ = served.invite("node2.lan")
        assert served.enrol(token, NODE2).status == 200
        assert served.enrol(token, NODE2).status == 403
        assert served.enrol().status == 200
        assert served.enrol(subject=NODE2).status == 403
        served.registrar.service.administration.revoke("node1.lan", reason="superseded")
        served.registrar.credential("web1.lan", Role.SERVER)
        service = served.registrar.service
    administration = open_administration(tmp_path / "data")
    assert {each.name for each in administration.ledger.machines()} >= {"node1.lan", "node2.lan", "web1.lan"}
    public = service.authority.public
    with administration.ledger as store:  # type: ignore[attr-defined]
        report = audit.verify(store, public.log_key, log_origin(public), None)
    assert report.size > 10
