"""Which entries a node's stores have, under which aliases and passwords."""

from __future__ import annotations

from base64 import b64decode
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from handfast.core import dn, javastore
from handfast.core.javastore import KeyEntry, StoreType, TrustedEntry
from handfast.core.secret import Secret
from handfast.errors import Malformed
from handfast.nifi import stores
from handfast.nifi.stores import NodeCredential, Passwords
from tests.interop.hosts import Host
from tests.nifi.local import NOW, certify

CA_KEY, KEY = (rsa.generate_private_key(65537, 2048) for _ in range(2))
CA_NAME, NAME = dn.parse("CN=ca.lan, OU=NIFI"), dn.parse("CN=n1.lan, OU=NIFI")
CA = certify(CA_NAME, CA_KEY.public_key(), CA_NAME, CA_KEY, ca=True)
LEAF = certify(NAME, KEY.public_key(), CA_NAME, CA_KEY, ca=False)
CREDENTIAL = NodeCredential(KEY, LEAF, CA)
SAME = Passwords.complete(Secret(b"store-pass"), truststore=Secret(b"trust-pass"))
DER = {certificate: certificate.public_bytes(Encoding.DER) for certificate in (CA, LEAF)}


def entry(key: bytes, *chain: x509.Certificate, alias: str = "nifi-key") -> KeyEntry:
    """An entry of a key (PKCS #8 DER) and its chain."""
    return KeyEntry(alias, Secret(key), tuple(DER[link] for link in chain), Secret(b"x"))


def test_passwords_are_the_toolkits() -> None:
    """A new password is 256 random bits as 43 characters of base64, and never twice the same."""
    one, two = stores.new_password().reveal(), stores.new_password().reveal()
    assert len(one) == len(two) == 43
    assert len(b64decode(one + b"=")) == 32
    assert one != two


def test_missing_passwords_are_made() -> None:
    """The key's password is the store's, or its own if asked; those given are kept; none is made twice."""
    plain = Passwords.complete()
    assert plain.key is plain.keystore
    assert plain.truststore.reveal() != plain.keystore.reveal()
    different = Passwords.complete(SAME.keystore, different_key=True)
    assert different.keystore is SAME.keystore
    assert different.key.reveal() != different.keystore.reveal()
    given = Passwords.complete(SAME.keystore, Secret(b"key"), SAME.truststore, different_key=True)
    assert (given.key.reveal(), given.truststore) == (b"key", SAME.truststore)


@pytest.mark.parametrize("kind", list(StoreType))
def test_a_key_store_has_key_and_chain(kind: StoreType) -> None:
    """A key store holds nifi-key with the node's certificate and the CA's, and is found again with the key."""
    entries = javastore.read(stores.keystore(CREDENTIAL, kind, SAME, created_at=NOW), password=SAME.keystore)
    assert [each.alias for each in entries] == ["nifi-key"]
    found = stores.find_key(entries)
    assert found is not None
    assert found[0].private_numbers() == KEY.private_numbers()
    assert found[1] == (LEAF, CA)


def test_a_ca_key_store_has_a_chain_of_one() -> None:
    """The toolkit's server wants its own certificate alone under nifi-key."""
    data = stores.ca_keystore(CA_KEY, CA, StoreType.JKS, SAME, created_at=NOW)
    found = stores.find_key(javastore.read(data, password=SAME.keystore))
    assert found is not None
    assert found[1] == (CA,)


@pytest.mark.parametrize("kind", list(StoreType))
def test_other_entries_are_kept(kind: StoreType) -> None:
    """What else is in a store stays when it is written again, and the toolkit's own entry is replaced."""
    others = (TrustedEntry("mine", DER[CA]), TrustedEntry("nifi-cert", DER[LEAF]))
    data = stores.truststore(CA, kind, SAME.truststore, created_at=NOW, others=others)
    found = {each.alias: each for each in javastore.read(data, password=SAME.truststore)}
    assert found == {"nifi-cert": TrustedEntry("nifi-cert", DER[CA]), "mine": others[0]}


@pytest.mark.peer("keytool")
@pytest.mark.parametrize("kind", list(StoreType))
def test_keytool_reads_them(kind: StoreType, tmp_path: Path) -> None:
    """Java finds a private key with a chain of two, and a trusted certificate."""
    host = Host(tmp_path / "host")
    passwords = Passwords.complete(SAME.keystore, Secret(b"key-pass"), SAME.truststore)
    shown = {}
    for name, password, data in (
        ("key", "store-pass", stores.keystore(CREDENTIAL, kind, passwords, created_at=NOW)),
        ("trust", "trust-pass", stores.truststore(CA, kind, SAME.truststore, created_at=NOW)),
    ):
        (tmp_path / name).write_bytes(data)
        shown[name] = host.run(
            "keytool", "-list", "-v", "-keystore", tmp_path / name, "-storepass", password, "-J-Duser.language=en"
        ).stdout
    assert "Alias name: nifi-key" in shown["key"]
    assert "Entry type: PrivateKeyEntry\nCertificate chain length: 2" in shown["key"]
    assert "Owner: CN=n1.lan, OU=NIFI" in shown["key"]
    assert "Alias name: nifi-cert" in shown["trust"]
    assert "Entry type: trustedCertEntry" in shown["trust"]


def test_pem_files_lie_beside() -> None:
    """Chain, key and CA are in files of their own, none with the name of the standalone CA's key."""
    files = stores.pem_files(CREDENTIAL)
    assert files.keys() == {"nifi-chain.pem", "nifi-key.pem", "nifi-cert.pem"}
    assert x509.load_pem_x509_certificates(files["nifi-chain.pem"]) == [LEAF, CA]
    assert files["nifi-cert.pem"] == CA.public_bytes(Encoding.PEM)
    assert files["nifi-key.pem"].startswith(b"-----BEGIN PRIVATE KEY-----\n")


def test_a_store_without_the_alias_has_no_key() -> None:
    """Another alias is somebody else's key, and is not used."""
    assert stores.find_key([TrustedEntry("other", DER[CA])]) is None


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        (TrustedEntry("nifi-key", DER[CA]), "is no key with a certificate"),
        (entry(b"key"), "is no key with a certificate"),
        (entry(b"key", LEAF), "cannot read 'nifi-key'"),
        (
            entry(CA_KEY.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()), LEAF),
            "is not its certificate's",
        ),
        (
            entry(
                ed25519.Ed25519PrivateKey.generate().private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()),
                LEAF,
            ),
            "neither an RSA nor an EC key",
        ),
        (KeyEntry("nifi-key", Secret(stores.key_pem(KEY)), (b"x",), Secret(b"x")), "cannot read 'nifi-key'"),
    ],
)
def test_a_broken_entry_is_refused(wrong: KeyEntry | TrustedEntry, message: str) -> None:
    """What is under nifi-key and is no usable pair is named, and never taken for none."""
    with pytest.raises(Malformed, match=message):
        stores.find_key([wrong])


def test_an_ec_key_is_a_key() -> None:
    """A node may have an EC key through its configuration file."""
    key = ec.generate_private_key(ec.SECP256R1())
    leaf = certify(NAME, key.public_key(), CA_NAME, CA_KEY, ca=False)
    data = stores.keystore(NodeCredential(key, leaf, CA), StoreType.PKCS12, SAME, created_at=NOW)
    found = stores.find_key(javastore.read(data, password=SAME.keystore))
    assert found is not None
    assert isinstance(found[0], ec.EllipticCurvePrivateKey)


@pytest.mark.parametrize(
    ("text", "name"),
    [("./\\!@#$%^&*()_-+=.pem", ".__-_=.pem"), ("my!?silly", "my_silly"), ("CN=Jäne, OU=NIFI", "CN=J_ne_OU=NIFI")],
)
def test_file_names_are_the_toolkits(text: str, name: str) -> None:
    """What stands between slashes and spaces becomes one underscore, as in the toolkit's own tests."""
    assert stores.escape_filename(text) == name


@pytest.mark.parametrize(("password", "good"), [(b"", False), (b"\xff", False), ("pä".encode(), True)])
def test_only_text_is_a_password(password: bytes, good: bool) -> None:
    """Java's passwords are text."""
    assert stores.is_password(Secret(password)) is good
