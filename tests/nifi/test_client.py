"""What `client` leaves in a directory, also after an accident, and what it finds before it asks."""

from __future__ import annotations

import json
import os
from datetime import UTC, datetime
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from handfast.adapters import files
from handfast.core import keys
from handfast.core.javastore import KeyEntry, TrustedEntry
from handfast.errors import Fault
from tests.nifi.fake_ca import DAY, TOKEN, FakeCa, http
from tests.nifi.node import FILES, Node
from tests.nifi.test_exchange import EC

NODE1 = ("-D", "CN=node1.lan, OU=NIFI")
DUE = (datetime.now(UTC) - 70 * DAY, datetime.now(UTC) + 30 * DAY)


def snapshot(node: Node) -> dict[str, bytes]:
    """Every file here."""
    return {path.name: path.read_bytes() for path in node.directory.iterdir()}


def test_the_files_are_the_original_s_and_pem_beside_them(ca: FakeCa, node: Node) -> None:
    """Names, aliases, chain, modes; the configuration has the passwords which open the stores."""
    os.umask(0o022)
    done = node.client(ca, *NODE1)
    assert (done.code, done.stdout) == (0, "")
    assert "enrolled as CN=node1.lan, OU=NIFI, until 20" in done.stderr
    assert node.files() == FILES
    assert node.modes() == {0o600}
    (key,) = node.entries()
    assert isinstance(key, KeyEntry)
    assert (key.alias, len(key.chain)) == ("nifi-key", 2)
    leaf, root = map(x509.load_der_x509_certificate, key.chain)
    assert root == ca.certificate
    assert leaf.public_key() == ca.asked[0].csr.public_key()
    (trusted,) = node.entries("truststore.jks", "trustStore")
    assert isinstance(trusted, TrustedEntry)
    assert (trusted.alias, trusted.certificate) == ("nifi-cert", key.chain[1])
    assert (node.directory / "keystore.jks").read_bytes()[:4] == bytes.fromhex("feedfeed")
    assert x509.load_pem_x509_certificates((node.directory / "nifi-chain.pem").read_bytes()) == [leaf, root]
    assert x509.load_pem_x509_certificates((node.directory / "nifi-cert.pem").read_bytes()) == [root]
    private = load_pem_private_key((node.directory / "nifi-key.pem").read_bytes(), None)
    assert private.public_key() == leaf.public_key()


def test_the_configuration_is_the_original_s(ca: FakeCa, node: Node) -> None:
    """Fields, order and values; the token is in it only if it was an argument, as scripts expect."""
    done = node.client(ca, *NODE1, "-t", TOKEN, "--subjectAlternativeNames", "a.lan", token=None)
    assert done.code == 0
    config = node.config()
    passwords = {config.pop(field) for field in ("keyStorePassword", "keyPassword", "trustStorePassword")}
    assert len(passwords) == 2  # the key has the store's
    assert {len(each) for each in passwords} == {43}
    assert list(config.items()) == [
        ("days", 825), ("keySize", 2048), ("keyPairAlgorithm", "RSA"), ("signingAlgorithm", "SHA256WITHRSA"),
        ("dn", "CN=node1.lan, OU=NIFI"), ("keyStore", "keystore.jks"), ("keyStoreType", "jks"), ("token", TOKEN),
        ("caHostname", "localhost"), ("port", ca.port), ("dnPrefix", "CN="), ("dnSuffix", ", OU=NIFI"),
        ("additionalCACertificate", ""), ("domainAlternativeNames", ["a.lan"]), ("trustStore", "truststore.jks"),
        ("trustStoreType", "jks"),
    ]  # fmt: skip
    (node.directory / "keystore.jks").unlink()
    assert node.client(ca, *NODE1, *EC).code == 0
    assert node.config()["token"] is None


def test_pkcs12_and_a_password_for_the_key(ca: FakeCa, node: Node) -> None:
    """-T changes the key store alone, -g makes one more password, -C and -f say where to."""
    (node.directory / "certs").mkdir(mode=0o700)
    done = node.client(ca, *EC, "-T", "PKCS12", "-g", "-C", "certs", "-f", "mine.json")
    assert done.code == 0, done.stderr
    assert node.files() == {
        "keystore.pkcs12", "truststore.jks", "mine.json", "certs", "nifi-chain.pem", "nifi-key.pem",
    }  # fmt: skip
    assert os.listdir(node.directory / "certs") == ["nifi-cert.pem"]
    config = node.config("mine.json")
    assert config["keyPassword"] != config["keyStorePassword"]
    assert (config["keyStoreType"], config["trustStoreType"]) == ("PKCS12", "jks")


# ------------------------------------------------------------------------------- found before anything is sent


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (("-C", "nowhere"), "no directory 'nowhere'"),
        (("-f", "nowhere/config.json"), "no directory 'nowhere'"),
        (("-T", "bcfks"), "use PKCS12"),
        (("-T", "bogus"), "unknown store type 'bogus'"),
        (("-D", "OU=NIFI"), "has no common name"),
        (("-D", "garbage"), "not a subject: 'garbage'"),
        (("-k", "1024"), "'RSA' with 1024 bits"),
        (("-a", "EC"), "'EC' with 2048 bits"),
        (("-a", "DSA"), "'DSA' with 2048 bits"),
        (("-p", "99999"), "port 99999"),
        (("-c", "a b"), "no CA can be at host 'a b'"),
        (("--subjectAlternativeNames", "a[3-"), "a[3-"),
        (("--subjectAlternativeNames", "bücher.example"), "not ASCII"),
        (("-F",), "config.json"),
        (("--configJsonIn", "nope.json"), "no file 'nope.json'"),
    ],
)
def test_what_cannot_work_is_said_before_anything_is_sent(
    ca: FakeCa, node: Node, arguments: tuple[str, ...], words: str
) -> None:
    """The original found some of it when the stores were written already; 3 as there, and nothing is written."""
    done = node.client(ca, *arguments, *(() if arguments[0] in {"-k", "-a"} else EC))
    assert done.code == 3, done.stderr
    assert words in done.stderr
    assert ca.asked == []
    assert node.files() == set()


def test_a_directory_that_cannot_be_written_is_found_first(
    ca: FakeCa, node: Node, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As everybody but root: a one-time token would be spent for files that nobody can write."""
    monkeypatch.setattr(os, "access", lambda path, mode, **_options: not mode & os.W_OK)
    done = node.client(ca, *EC)
    assert (done.code, ca.asked) == (3, [])
    assert "no right to write in '.'" in done.stderr


@pytest.mark.parametrize(
    ("content", "words"),
    [
        ('{"token": "x", "keyStore": "k", "trustStore": "t", "more": 1}', "unknown field 'more'"),
        ("not json", "not a JSON object"),
        ('{"token": "x", "keyStore": "k"}', "no 'trustStore'"),
    ],
)
def test_a_configuration_that_cannot_be_read_is_left_alone(node: Node, content: str, words: str) -> None:
    """The original ends with 3; so does this, and the file stays as it is."""
    node.secret(content, "config.json")
    done = node.client(1, "-F")
    assert done.code == 3
    assert words in done.stderr
    assert (node.directory / "config.json").read_text() == content


# ------------------------------------------------------------------------------- lost answers and crashes


def test_a_lost_answer_is_asked_for_with_the_same_key(ca: FakeCa, node: Node) -> None:
    """A one-time token burns against the key: with a new one the second request would be refused."""
    ca.answer = lambda asked: b""
    assert node.client(ca, *EC, *NODE1).code == 3
    assert node.files() == {".keystore.jks.pending"}
    assert node.modes() == {0o600}
    ca.answer = lambda asked: http(ca.body(ca.leaf(asked)))
    assert node.client(ca, *EC, *NODE1).code == 0
    assert ca.asked[0].csr.public_key() == ca.asked[1].csr.public_key()
    assert node.files() == FILES


def test_another_kind_of_key_is_made_anew(ca: FakeCa, node: Node) -> None:
    """The kept key is only used where it is what was asked for."""
    assert node.client(1, *EC).code == 3
    assert node.client(ca, "-a", "EC", "-k", "384").code == 0
    assert ca.asked[0].csr.public_key().key_size == 384  # type: ignore[union-attr]


def test_a_damaged_pending_file_is_told_and_kept(ca: FakeCa, node: Node) -> None:
    """It may hold the only key that a one-time token still admits."""
    node.secret("{}", ".keystore.jks.pending")
    done = node.client(ca, *EC)
    assert done.code == 3
    assert "'.keystore.jks.pending' is damaged" in done.stderr
    assert ca.asked == []


@pytest.mark.parametrize("survivors", range(6))
def test_a_crash_while_writing_is_mended_by_the_next_run(
    ca: FakeCa, node: Node, monkeypatch: pytest.MonkeyPatch, survivors: int
) -> None:
    """Wherever it stops, the next run completes the directory; the stores' passwords are never lost."""
    write, written = files.write_atomic, list[str]()

    def failing(path: Path, data: bytes, mode: int = 0o600) -> None:
        if path.name.endswith(".pending"):
            return write(path, data, mode)
        if len(written) == survivors:
            raise Fault("the power failed")
        written.append(path.name)
        return write(path, data, mode)

    with monkeypatch.context() as patch:
        patch.setattr(files, "write_atomic", failing)
        assert node.client(ca, *EC, *NODE1).code == 3
    assert written == [
        "keystore.jks", "truststore.jks", "config.json", "nifi-cert.pem", "nifi-chain.pem", "nifi-key.pem",
    ][:survivors]  # fmt: skip
    done = node.client(ca, *EC, *NODE1)
    assert done.code == 0, done.stderr
    assert node.files() == FILES
    assert len(ca.asked) == (2 if survivors == 0 else 1)
    entry = node.entries()[0]
    assert isinstance(entry, KeyEntry)
    leaf = x509.load_der_x509_certificate(entry.chain[0])
    assert keys.spki(leaf.public_key()) == keys.spki(ca.asked[-1].csr.public_key())
    assert len(node.entries("truststore.jks", "trustStore")) == 1


def test_two_at_a_time_do_not_meet(ca: FakeCa, node: Node) -> None:
    """An init container and an operator: one waits for the other to be done."""
    with files.FileLock(node.directory / ".tls-toolkit.lock"):
        done = node.client(ca, *EC)
    assert done.code == 3
    assert "in use by process" in done.stderr
    assert ca.asked == []


# ------------------------------------------------------------------------------- tokens


@pytest.mark.parametrize(
    "token", ["myTestTokenUseSomethingStronger", "sixteenCharacters", "aaaaaaaaaaaaaaaaaaaaaaaa", "0123456789abcdef"]
)
def test_a_configuration_with_a_token_that_can_be_guessed_enrols_nobody(node: Node, token: str) -> None:
    """Whoever answers for the CA's name sees a MAC over it: such a token is no secret."""
    node.secret(json.dumps({"token": token, "keyStore": "keystore.jks", "trustStore": "truststore.jks"}), "config.json")
    done = node.client(1, "-F", token=None)
    assert done.code == 3
    assert "token" in done.stderr
    assert node.files() == {"config.json"}


def test_a_configuration_without_a_token_takes_it_from_a_file(ca: FakeCa, node: Node) -> None:
    """So it need not be written down; where there is none at all, it is said."""
    node.secret(
        json.dumps(
            {"keyStore": "keystore.jks", "trustStore": "truststore.jks", "port": ca.port, "keyPairAlgorithm": "EC",
             "keySize": 256, "dn": "CN=node1.lan, OU=NIFI"}
        ),
        "config.json",
    )  # fmt: skip
    done = node.run("client", "-F", "--wait", "0")
    assert done.code == 3
    assert "no token to ask the CA with" in done.stderr
    assert node.client(ca, "-F").code == 0
    assert node.config()["token"] is None
