"""What `client` does with what it finds in a directory: it keeps, renews, or leaves alone; it never guesses."""

from __future__ import annotations

import json
import os
import shutil
from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from handfast.core import javastore
from handfast.core.javastore import KeyEntry, StoreType, TrustedEntry
from handfast.core.secret import Secret
from tests.core.stores import DATA, PASSWORDS
from tests.nifi.fake_ca import DAY, TOKEN, FakeCa, Identity, http
from tests.nifi.node import FILES, Node
from tests.nifi.test_exchange import EC

NODE1 = ("-D", "CN=node1.lan, OU=NIFI")
DUE = (datetime.now(UTC) - 70 * DAY, datetime.now(UTC) + 30 * DAY)


def snapshot(node: Node) -> dict[str, bytes]:
    """Every file here."""
    return {path.name: path.read_bytes() for path in node.directory.iterdir()}


# ------------------------------------------------------------------------------- running again


def test_running_again_changes_no_key_and_needs_no_ca(ca: FakeCa, node: Node) -> None:
    """With the same flags, and with -F as scripts for the original do it: nothing is asked, and 0."""
    assert node.client(ca, *EC, *NODE1).code == 0
    before = snapshot(node)
    for arguments in ((*EC, *NODE1), ("-F",), ("--configJsonIn", "config.json"), ("-F", "-p", "2", "-D", "CN=else")):
        done = node.client(ca, *arguments)
        assert done.code == 0, done.stderr
        assert "enrolled already as CN=node1.lan, OU=NIFI" in done.stderr
    after = snapshot(node)
    assert {name for name in before if before[name] != after[name]} <= {"truststore.jks", ".tls-toolkit.lock"}
    assert len(ca.asked) == 1


def test_what_is_missing_is_written_again(ca: FakeCa, node: Node) -> None:
    """A volume that lost all but the key store gets its files back without a CA."""
    assert node.client(ca, *EC, *NODE1).code == 0
    before = snapshot(node)
    for name in ("truststore.jks", "nifi-cert.pem", "nifi-key.pem", "nifi-chain.pem"):
        (node.directory / name).unlink()
    assert node.client(1, "-F").code == 0
    assert node.files() == FILES
    assert (node.directory / "nifi-cert.pem").read_bytes() == before["nifi-cert.pem"]
    assert len(node.entries("truststore.jks", "trustStore")) == 1


def test_a_certificate_that_is_due_is_replaced(ca: FakeCa, node: Node) -> None:
    """After two thirds of its life: a new key, in the same stores with the same passwords."""
    ca.days = DUE
    assert node.client(ca, *EC, *NODE1).code == 0
    old, config = node.entries()[0], node.config()
    ca.days = (None, None)
    assert "enrolled as" in node.client(ca, *EC, "-F").stderr
    new = node.entries()[0]
    assert isinstance(old, KeyEntry)
    assert isinstance(new, KeyEntry)
    assert new.chain[0] != old.chain[0]
    assert ca.asked[0].csr.public_key() != ca.asked[1].csr.public_key()
    assert node.config() == config
    assert node.files() == FILES


@pytest.mark.parametrize("token", [TOKEN, "wrong-token-of-16-bytes"])
def test_a_due_certificate_outlives_a_ca_that_is_away(ca: FakeCa, node: Node, token: str) -> None:
    """While it is good, a node comes up with it, and says why it is not replaced; when it has expired, 3."""
    ca.days = DUE
    assert node.client(ca, *EC, *NODE1).code == 0
    before = (node.directory / "keystore.jks").read_bytes()
    ca.answer = lambda asked: http('{"error":"forbidden"}', "403 Forbidden")
    for port in (1, ca.port):
        done = node.client(port, *EC, *NODE1, token=token)
        assert done.code == 0, done.stderr
        assert "is due, and good until" in done.stderr
    assert (node.directory / "keystore.jks").read_bytes() == before
    assert ".keystore.jks.pending" in node.files()


def test_an_expired_certificate_is_not_enough(ca: FakeCa, node: Node, monkeypatch: pytest.MonkeyPatch) -> None:
    """The original goes on with it for ever: it never looks at the date."""
    ca.days = DUE
    assert node.client(ca, *EC, *NODE1).code == 0
    monkeypatch.setattr("handfast.adapters.clock.SystemClock.now", lambda self: DUE[1] + DAY)
    done = node.client(1, *EC, *NODE1)
    assert done.code == 3
    assert "cannot reach localhost:1" in done.stderr


def _stop_knowing(node: Node, *names: str) -> None:
    for name in names:
        (node.directory / name).rename(node.directory.parent / name)


@pytest.mark.parametrize("lost", [(), ("truststore.jks",), ("keystore.jks",)])
def test_attack_a_holder_of_the_token_answers_a_renewal(ca: FakeCa, node: Node, lost: tuple[str, ...]) -> None:
    """Whoever has not the key that either store knows the CA by is sent nothing, token or not; all files stay."""
    ca.days = DUE
    assert node.client(ca, *EC, *NODE1).code == 0
    _stop_knowing(node, *lost)
    before = snapshot(node)
    with FakeCa(Identity()).serving() as thief:
        done = node.client(thief, *EC, *NODE1)
    assert done.code == 3
    assert "has another key than the CA which this node trusts; nothing was sent" in done.stderr
    assert "move the key store and the trust store away" in done.stderr
    assert thief.asked == []
    after = snapshot(node)
    assert after.keys() - before.keys() == {".keystore.jks.pending"}
    assert {name for name in before if after[name] != before[name]} <= {".tls-toolkit.lock"}


def test_a_ca_that_was_replaced_is_followed_when_its_stores_were_moved(ca: FakeCa, node: Node) -> None:
    """As the hint says: without stores the token alone decides again."""
    ca.days = DUE
    assert node.client(ca, *EC, *NODE1).code == 0
    _stop_knowing(node, "keystore.jks", "truststore.jks")
    with FakeCa(Identity()).serving() as other:
        assert node.client(other, *EC, *NODE1).code == 0
    (trusted,) = node.entries("truststore.jks", "trustStore")
    assert isinstance(trusted, TrustedEntry)
    assert trusted.certificate == other.certificate.public_bytes(Encoding.DER)


def test_a_ca_with_a_new_certificate_for_its_key_is_followed(ca: FakeCa, node: Node) -> None:
    """It is the key that is known: a CA that renewed its own certificate is the same."""
    ca.days = DUE
    assert node.client(ca, *EC, *NODE1).code == 0
    with FakeCa(Identity(key=ca.identity.key, end=datetime.now(UTC) + 900 * DAY)).serving() as renewed:
        assert node.client(renewed, *EC, *NODE1).code == 0
    assert x509.load_pem_x509_certificate((node.directory / "nifi-cert.pem").read_bytes()) == renewed.certificate


def test_attack_a_stranger_answers_a_node_that_was_given_its_trust_store(ca: FakeCa, node: Node) -> None:
    """A trust store that is there before the first run pins the CA, as a key store of before does."""
    assert node.client(ca, *EC, *NODE1).code == 0
    _stop_knowing(node, "keystore.jks")
    with FakeCa(Identity()).serving() as thief:
        assert node.client(thief, *EC, *NODE1).code == 3
    assert thief.asked == []
    assert node.client(ca, *EC, *NODE1).code == 0


def test_what_others_put_into_the_stores_stays(ca: FakeCa, node: Node) -> None:
    """A further trusted CA survives a renewal, and gets its PEM file, as in the original."""
    ca.days = DUE
    assert node.client(ca, *EC, *NODE1).code == 0
    corporate = Identity("corporate").certificate()
    entries = [
        *node.entries("truststore.jks", "trustStore"),
        TrustedEntry("corp ca", corporate.public_bytes(Encoding.DER)),
    ]
    password = Secret(node.config()["trustStorePassword"].encode())
    store = javastore.write(
        entries, StoreType.JKS, password=password, created_at=datetime.now(UTC), random_bytes=os.urandom
    )
    (node.directory / "truststore.jks").write_bytes(store)
    ca.days = (None, None)
    assert node.client(ca, *EC, *NODE1).code == 0
    assert {entry.alias for entry in node.entries("truststore.jks", "trustStore")} == {"nifi-cert", "corp ca"}
    assert x509.load_pem_x509_certificate((node.directory / "corp_ca.pem").read_bytes()) == corporate


# ------------------------------------------------------------------------------- what is not ours to overwrite


def test_a_key_store_with_another_password_is_left_alone(ca: FakeCa, node: Node) -> None:
    """The original ends with 3 there too, but calls it tampered."""
    assert node.client(ca, *EC, *NODE1).code == 0
    store = (node.directory / "keystore.jks").read_bytes()
    config = node.config()
    (node.directory / "config.json").unlink()
    done = node.client(ca, *EC, *NODE1)
    assert done.code == 3
    assert "cannot open the existing 'keystore.jks': its password is not known" in done.stderr
    assert "--useConfigJson" in done.stderr
    node.secret(json.dumps(config | {"keyStorePassword": "another", "keyPassword": "another"}), "config.json")
    for arguments in (("-F",), (*EC, *NODE1)):
        done = node.client(ca, *arguments)
        assert done.code == 3
        assert "password is wrong" in done.stderr
    assert (node.directory / "keystore.jks").read_bytes() == store
    assert len(ca.asked) == 1


def test_a_trust_store_with_another_password_is_left_alone(ca: FakeCa, node: Node) -> None:
    """It is found before anything is sent; the original wrote the key store first."""
    node.secret("no store at all", "truststore.jks")
    done = node.client(ca, *EC)
    assert done.code == 3
    assert "cannot open the existing 'truststore.jks'" in done.stderr
    assert (node.directory / "truststore.jks").read_text() == "no store at all"
    assert ca.asked == []


def test_a_cut_off_key_store_is_left_alone(ca: FakeCa, node: Node) -> None:
    """Half a store may be all that is left of a key: it is told, not replaced."""
    assert node.client(ca, *EC, *NODE1).code == 0
    half = (node.directory / "keystore.jks").read_bytes()[:-30]
    (node.directory / "keystore.jks").write_bytes(half)
    done = node.client(ca, "-F")
    assert done.code == 3
    assert "cannot open the existing 'keystore.jks'" in done.stderr
    assert (node.directory / "keystore.jks").read_bytes() == half


def test_a_certificate_for_something_else_is_not_replaced_by_flags(ca: FakeCa, node: Node) -> None:
    """Another subject, or one more name: whoever typed it decides what goes; with -F it is kept, as there."""
    assert node.client(ca, *EC, *NODE1).code == 0
    before = (node.directory / "keystore.jks").read_bytes()
    done = node.client(ca, *EC, "-D", "CN=node2.lan, OU=NIFI")
    assert done.code == 3
    assert "holds a certificate for 'CN=node1.lan, OU=NIFI', not for 'CN=node2.lan, OU=NIFI'" in done.stderr
    done = node.client(ca, *EC, *NODE1, "--subjectAlternativeNames", "more.lan")
    assert done.code == 3
    assert "without more.lan" in done.stderr
    node.secret(json.dumps(node.config() | {"domainAlternativeNames": ["more.lan"]}), "config.json")
    done = node.client(ca, "-F")
    assert done.code == 0
    assert "without more.lan; it is kept" in done.stderr
    assert (node.directory / "keystore.jks").read_bytes() == before
    assert len(ca.asked) == 1


def test_another_type_of_store_goes_on_with_the_trust_store(ca: FakeCa, node: Node) -> None:
    """config.json knows the password of the trust store, whichever key store it is about; another one it does not."""
    assert node.client(ca, *EC, *NODE1).code == 0
    before = node.config()
    done = node.client(ca, *EC, *NODE1, "-T", "PKCS12")
    assert done.code == 0, done.stderr
    assert node.files() == FILES | {"keystore.pkcs12"}
    after = node.config()
    assert after["keyStore"] == "keystore.pkcs12"
    assert after["trustStorePassword"] == before["trustStorePassword"]
    assert after["keyStorePassword"] != before["keyStorePassword"]
    assert len(node.entries("truststore.jks", "trustStore")) == 1
    done = node.client(ca, *EC, *NODE1)
    assert done.code == 3
    assert "cannot open the existing 'keystore.jks': its password is not known" in done.stderr


def test_a_configuration_that_others_can_read_is_told(ca: FakeCa, node: Node) -> None:
    """Orchestrators mount it with modes of their own: a refusal would end what ran for years."""
    assert node.client(ca, *EC, *NODE1).code == 0
    (node.directory / "config.json").chmod(0o644)
    done = node.client(1, "-F")
    assert done.code == 0
    assert "'config.json' can be read or written by others (mode 0644); it has secrets in it" in done.stderr
    assert node.modes() == {0o600}


# ------------------------------------------------------------------------------- what the original left behind


def test_a_directory_of_the_original_is_taken_over(node: Node) -> None:
    """Stores that the real 1.28.1 wrote are opened with its configuration, kept, and get their PEM files."""
    keystore, truststore = "keystore.jks", "truststore.jks"
    for name in (keystore, truststore):
        shutil.copy(DATA / name, node.directory)
        (node.directory / name).chmod(0o600)
    node.secret(
        json.dumps(
            {
                "dn": "CN=node1.example, OU=NIFI", "keyStore": keystore, "trustStore": truststore,
                "keyStorePassword": PASSWORDS[keystore][0], "trustStorePassword": PASSWORDS[truststore][0],
                "token": "myTestTokenUseSomethingStronger", "domainAlternativeNames": ["a.example"],
            }
        ),
        "config.json",
    )  # fmt: skip
    before = (node.directory / keystore).read_bytes()
    done = node.client(1, "-F")
    assert done.code == 0, done.stderr
    assert "enrolled already as CN=node1.example, OU=NIFI" in done.stderr
    assert (node.directory / keystore).read_bytes() == before
    assert node.files() == FILES
