"""What the shared token is good for, through the server: names of the caller, what is allowed, and nothing reserved."""

from __future__ import annotations

import signal
from collections.abc import Iterator
from ipaddress import ip_address
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.x509.verification import PolicyBuilder, Store
from structlog.testing import capture_logs

from handfast.core.dn import SubjectPattern
from handfast.core.names import NamePattern
from handfast.core.roles import Role
from handfast.core.secret import Secret
from handfast.errors import UsageError
from handfast.server.limits import Limits
from tests.server.nifi_peer import NODE, TOKEN, Served, new_key, serving
from tests.server.test_life import wait

LOOPBACK = x509.IPAddress(ip_address("127.0.0.1"))


@pytest.fixture(scope="module")
def served(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A registrar that allows nothing beyond what leads to the caller."""
    with serving(tmp_path_factory.mktemp("shared") / "data") as started:
        yield started


@pytest.fixture(scope="module")
def allowing(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Served]:
    """A registrar that allows some subjects and some names."""
    with serving(
        tmp_path_factory.mktemp("allowing") / "data",
        allow_dn=(SubjectPattern.parse("CN=*.nifi.lan, OU=NIFI"), SubjectPattern.parse("CN=Kim Lee, OU=Admins")),
        allow_san=(NamePattern.parse("*.lan"), NamePattern.parse("10.0.0.0/24")),
    ) as started:
        yield started


@pytest.mark.parametrize(
    ("subject", "names"),
    [
        (NODE, ["node1.lan"]),
        (NODE, ["node1.lan", "127.0.0.1"]),
        ("CN=node1.lan", ["node1.lan"]),
        ("CN=NODE1.LAN, OU=NIFI", ["node1.lan"]),
    ],
)
def test_what_leads_to_the_caller(served: Served, subject: str, names: list[str]) -> None:
    """A node gets the names and addresses which lead to it, and its subject as it was typed."""
    answer = served.enrol(subject=subject, names=[LOOPBACK] if "127.0.0.1" in names else None)
    assert answer.names == names
    assert answer.certificate.subject.rfc4514_string() == subject.replace(", ", ",")


@pytest.mark.parametrize(
    ("subject", "names", "beyond"),
    [
        ("CN=node2.lan, OU=NIFI", [], "node2.lan"),
        ("CN=unknown.lan, OU=NIFI", [], "unknown.lan"),
        (NODE, [x509.DNSName("node2.lan")], "node2.lan"),
        (NODE, [x509.DNSName("node1.lan"), x509.IPAddress(ip_address("10.0.0.2"))], "10.0.0.2"),
        (NODE, [x509.IPAddress(ip_address("::1"))], "::1"),
        ("CN=node1.lan, OU=Admins", [], "CN=node1.lan, OU=Admins"),
        ("CN=node1.lan, OU=NIFI, O=Us", [], "CN=node1.lan, OU=NIFI, O=Us"),
        ("CN=Kim Lee, OU=NIFI", [], "CN=Kim Lee, OU=NIFI"),
        ("CN=node1.lan + UID=root", [], "UID"),
    ],
)
def test_what_leads_elsewhere(served: Served, subject: str, names: list[x509.GeneralName], beyond: str) -> None:
    """Another's name, one that leads nowhere, or any other subject is refused, and the holder is told which."""
    answer = served.enrol(subject=subject, names=names)
    assert answer.status == 403
    assert "not entitled to" in answer.error
    assert beyond in answer.error


@pytest.mark.parametrize(
    "name",
    [
        x509.DNSName("*.lan"),
        x509.DNSName("*"),
        x509.DNSName("node1.lan\x00.elsewhere"),
        x509.DNSName("under_score.lan"),
        x509.DNSName(""),
        x509.RFC822Name("a@node1.lan"),
        x509.UniformResourceIdentifier("spiffe://other/node1"),
        x509.DirectoryName(x509.Name([])),
        x509.RegisteredID(x509.ObjectIdentifier("1.2.3")),
    ],
    ids=str,
)
def test_names_that_are_never_certified(served: Served, name: x509.GeneralName) -> None:
    """Wildcards, texts that are no names and names of other kinds are refused, not dropped or bent."""
    answer = served.enrol(names=[x509.DNSName("node1.lan"), name])
    assert answer.status == 403
    assert answer.error


def test_too_many_names(served: Served) -> None:
    """One certificate has at most 64 names, and no more than that are looked up."""
    served.names.asked.clear()
    answer = served.enrol(names=[x509.DNSName(f"n{number}.lan") for number in range(100)])
    assert (answer.status, "at most 64" in answer.error) == (403, True)
    assert not served.names.asked


def test_the_registrar_itself_is_nobody(served: Served) -> None:
    """Its own name is reserved, wherever that leads."""
    served.names.places["registrar"] = "127.0.0.1"
    answer = served.enrol(subject="CN=registrar, OU=NIFI")
    assert (answer.status, "'registrar' is the registrar's own name" in answer.error) == (403, True)


def test_a_node_on_the_machine_of_the_authority(served: Served) -> None:
    """Its subject is the CA's, and its certificate an ordinary leaf: the original's CA often runs beside a node."""
    served.names.places["ca.lan"] = "127.0.0.1"
    leaf = served.enrol(subject="CN=ca.lan, OU=NIFI").certificate
    assert leaf.subject == leaf.issuer == served.root.subject
    now = served.registrar.clock.now()
    verifier = PolicyBuilder().store(Store([served.root])).time(now).build_server_verifier(x509.DNSName("ca.lan"))
    assert verifier.verify(leaf, []) == [leaf, served.root]


@pytest.mark.parametrize(
    ("subject", "names", "granted"),
    [
        ("CN=a.nifi.lan, OU=NIFI", [], ["a.nifi.lan"]),
        ("CN=a.nifi.lan, OU=NIFI", ["balancer.lan"], ["a.nifi.lan", "balancer.lan"]),
        ("CN=a.nifi.lan, OU=NIFI", ["10.0.0.77"], ["a.nifi.lan", "10.0.0.77"]),
        ("CN=Kim Lee, OU=Admins", ["Kim Lee"], []),
        (NODE, ["127.0.0.1"], ["node1.lan", "127.0.0.1"]),
    ],
)
def test_what_is_allowed(allowing: Served, subject: str, names: list[str], granted: list[str]) -> None:
    """Allowed subjects and names are granted wherever they lead, and what leads to the caller as well."""
    general = [x509.IPAddress(ip_address(name)) if name[0].isdigit() else x509.DNSName(name) for name in names]
    assert allowing.enrol(subject=subject, names=general).names == granted


@pytest.mark.parametrize(
    ("subject", "names"),
    [
        ("CN=a.b.nifi.lan, OU=NIFI", []),
        ("CN=a.nifi.lan, OU=NIFI, O=x", []),
        ("OU=NIFI, CN=a.nifi.lan", []),
        ("CN=Kim Lee, OU=NIFI", []),
        ("CN=other.lan, OU=NIFI", []),
        ("CN=a.nifi.lan, OU=NIFI", ["a.b.lan"]),
        ("CN=a.nifi.lan, OU=NIFI", ["lan"]),
        ("CN=a.nifi.lan, OU=NIFI", ["10.0.1.0"]),
    ],
)
def test_what_is_not_allowed(allowing: Served, subject: str, names: list[str]) -> None:
    """A star stays in its label, a subject fits as a whole, and an allowed name makes no subject."""
    general = [x509.IPAddress(ip_address(name)) if name[0].isdigit() else x509.DNSName(name) for name in names]
    answer = allowing.enrol(subject=subject, names=general)
    assert (answer.status, "not entitled to" in answer.error) == (403, True)


def test_any_name(tmp_path: Path) -> None:
    """As the original: whoever has the token gets any name; but not the registrar's, no wildcard, and nobody a CA."""
    with serving(tmp_path / "data", any_name=True) as served:
        assert served.enrol(subject="CN=elsewhere.lan, O=Us", names=[LOOPBACK]).names == ["elsewhere.lan", "127.0.0.1"]
        assert served.enrol(subject="CN=registrar, OU=NIFI").status == 403
        assert served.enrol(names=[x509.DNSName("*.lan")]).status == 403
        constraints = served.enrol().certificate.extensions.get_extension_for_class(x509.BasicConstraints)
        assert constraints.value == x509.BasicConstraints(ca=False, path_length=None)


def test_without_a_token_nobody_gets_in(tmp_path: Path) -> None:
    """No shared token means none, and not an empty one; nor does a key that guesses at it."""
    with serving(tmp_path / "data", token=None) as served:
        assert {served.enrol(token).status for token in ("", TOKEN, "None")} == {403}


@pytest.mark.parametrize("token", ["fifteen bytes..", "a" * 40, "myTestTokenUseSomethingStronger"])
def test_a_weak_token_does_not_start(tmp_path: Path, token: str) -> None:
    """A shared token that can be guessed is refused at the start, with what to do."""
    with pytest.raises(UsageError) as raised, serving(tmp_path / "data", token=token):
        pass
    assert "openssl rand" in raised.value.hint
    assert token not in str(raised.value)


def test_the_same_key_gets_the_same_certificate(served: Served) -> None:
    """A repeated request, of the node or of somebody who saw it, makes nothing new."""
    key = new_key()
    first, again = served.enrol(key=key), served.enrol(key=key)
    assert first.certificate == again.certificate
    assert served.enrol(key=new_key()).certificate != first.certificate


def test_the_shared_token_leads_to_a_peer_and_nothing_else(served: Served) -> None:
    """A node is a peer: no operator, no server of ours."""
    served.enrol()
    (machine,) = [each for each in served.registrar.service.ledger.machines() if each.name == "node1.lan"]
    assert machine.role is Role.PEER


def test_a_reload_changes_what_is_allowed(tmp_path: Path) -> None:
    """SIGHUP takes over allow lists; a wrong file changes nothing and says why."""
    with serving(tmp_path / "data") as served:
        config = tmp_path / "data" / "config.toml"
        assert served.enrol(subject="CN=far.lan, OU=NIFI").status == 403
        for text, said in (
            ("[nifi]\nallow_dn = ['CN=far.lan, OU=NIFI']\n", "reloaded"),
            ("[nifi]\nallow_dn = ['nonsense']\n", "reload failed, the old configuration stays"),
        ):
            config.write_text(text)
            with capture_logs() as logged:
                served.registrar.ask(signal.SIGHUP)
                wait(lambda said=said, logged=logged: said in [entry["event"] for entry in logged])  # type: ignore[misc]
            assert served.enrol(subject="CN=far.lan, OU=NIFI").status == 200
        config.write_text("")
        with capture_logs() as logged:
            served.registrar.ask(signal.SIGHUP)
            wait(lambda: "reloaded" in [entry["event"] for entry in logged])
        assert served.enrol(subject="CN=far.lan, OU=NIFI").status == 403


def test_a_holder_is_limited_by_source(tmp_path: Path) -> None:
    """Each key of a holder would be an entry for good: after some they wait, and a one-time token does not."""
    with serving(tmp_path / "data", limits=Limits(introductions=0.01, introductions_burst=3)) as served:
        assert [served.enrol().status for _ in range(4)] == [200, 200, 200, 429]
        assert served.enrol(served.invite()[0]).status == 200


def test_restart_keeps_the_authority(tmp_path: Path) -> None:
    """After a restart the same CA, and the same certificate for the same key; another shared token counts then."""
    key = new_key()
    with serving(tmp_path / "data") as served:
        first, root = served.enrol(key=key).certificate, served.root
    with serving(tmp_path / "data", token="another token, as long", clients="again") as served:
        assert served.root == root
        assert served.enrol(key=key).status == 403
        assert served.enrol("another token, as long", key=key).certificate == first


def test_an_encrypted_authority(tmp_path: Path) -> None:
    """The NiFi key is encrypted with the passphrase, as all others are."""
    with serving(tmp_path / "data", passphrase=Secret(b"open sesame")) as served:
        assert served.enrol().status == 200
    (key,) = (tmp_path / "data" / "nifi").rglob("*.key")
    assert b"ENCRYPTED" in key.read_bytes()
