"""Certificates on the toolkit's wire: one that is root, issuer and TLS server, and the leaves below it."""

from __future__ import annotations

import json
import subprocess
import sys
from collections.abc import Sequence
from dataclasses import replace
from datetime import datetime
from pathlib import Path

import pytest
from cryptography import x509 as pyca
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.x509.oid import ExtendedKeyUsageOID, ExtensionOID

from handfast.core import dn, javastore, keys, nifi_x509, x509
from handfast.core.flow import Grant
from handfast.core.javaentry import KeyEntry
from handfast.core.names import Names
from handfast.core.roles import Role
from handfast.core.secret import Secret
from handfast.errors import Malformed, Refused, UsageError
from tests.authority.helpers import DAY, HOUR, LEAF_KEY, NOW, SERIAL, Pki, grant, write_pem
from tests.core.stores import DATA, PASSWORDS
from tests.peers import find

RSA_KEY = rsa.generate_private_key(65537, 2048)
RSA_PUBLIC = RSA_KEY.public_key()
EC_KEY = ec.generate_private_key(ec.SECP256R1())
SUBJECT = dn.parse("CN=ca.lan, OU=NIFI")
NODE = dn.parse("CN=web1.home.lan, OU=NIFI")
CLIENT_AUTH, SERVER_AUTH = ExtendedKeyUsageOID.CLIENT_AUTH, ExtendedKeyUsageOID.SERVER_AUTH
NAMES = ("10.0.0.7", "a.lan", "fd00::7", "web1.home.lan")


def root(
    subject: pyca.Name = SUBJECT,
    key: keys.LeafPrivateKey = RSA_KEY,
    *,
    days: int = 825,
    now: datetime = NOW,
    names: Names = Names(),
) -> pyca.Certificate:
    """A root."""
    return nifi_x509.root(key, subject=subject, days=days, now=now, names=names)


ROOT = root()
DOMAIN = x509.trust_domain(keys.spki_sha256(RSA_KEY.public_key()))


def node(
    role: Role = Role.PEER,
    *,
    subject: pyca.Name | None = NODE,
    names: tuple[str, ...] = NAMES,
    public_key: keys.LeafPublicKey = RSA_PUBLIC,
    machine: str = "web1.home.lan",
) -> Grant:
    """What a node is granted."""
    plain = grant(DOMAIN, role, names=names, public_key=public_key, machine=machine)
    return replace(plain, subject=None if subject is None else subject.public_bytes())


def leaf(granted: Grant, issuer: pyca.Certificate = ROOT, key: keys.LeafPrivateKey = RSA_KEY) -> pyca.Certificate:
    """A leaf of a root."""
    return nifi_x509.LeafProfile(issuer).builder(granted, SERIAL).sign(key, keys.signature_hash(key))


def toolkit_root() -> tuple[pyca.Certificate, Secret]:
    """The root that the real toolkit made, and its key."""
    name = "nifi-ca-keystore.jks"
    (entry,) = javastore.read((DATA / name).read_bytes(), password=Secret(PASSWORDS[name][0].encode()))
    assert isinstance(entry, KeyEntry)
    return pyca.load_der_x509_certificate(entry.chain[0]), entry.private_key


def forged(
    *extensions: tuple[pyca.ExtensionType, bool], key: keys.LeafPrivateKey = RSA_KEY, issuer: pyca.Name = SUBJECT
) -> pyca.Certificate:
    """A self-signed certificate of somebody else's making."""
    builder = pyca.CertificateBuilder(issuer, SUBJECT, key.public_key(), 1, NOW, NOW + 400 * DAY)
    for extension, critical in extensions:
        builder = builder.add_extension(extension, critical)
    return builder.sign(key, SHA256())


def oids(certificate: pyca.Certificate) -> list[tuple[pyca.ObjectIdentifier, bool]]:
    """Its extensions in order, and whether they are critical."""
    return [(extension.oid, extension.critical) for extension in certificate.extensions]


def general_names(certificate: pyca.Certificate) -> list[str]:
    """Its alternative names as text, in order, addresses in brackets."""
    names = certificate.extensions.get_extension_for_class(pyca.SubjectAlternativeName).value
    return [f"[{name.value}]" if isinstance(name, pyca.IPAddress) else str(name.value) for name in names]


def usages(certificate: pyca.Certificate) -> list[pyca.ObjectIdentifier]:
    """Its extended key usages in order."""
    return list(certificate.extensions.get_extension_for_class(pyca.ExtendedKeyUsage).value)


# ------------------------------------------------------------------------------------------------- root


@pytest.mark.parametrize(
    "key", [RSA_KEY, EC_KEY, ec.generate_private_key(ec.SECP384R1())], ids=["RSA", "P-256", "P-384"]
)
def test_the_root_is_ca_and_server_at_once(key: keys.LeafPrivateKey) -> None:
    """It signs certificates, lists and TLS handshakes, for as many days as asked, from an hour ago on."""
    made = root(key=key)
    made.verify_directly_issued_by(made)
    assert oids(made) == [
        (ExtensionOID.BASIC_CONSTRAINTS, True),
        (ExtensionOID.KEY_USAGE, True),
        (ExtensionOID.SUBJECT_KEY_IDENTIFIER, False),
        (ExtensionOID.EXTENDED_KEY_USAGE, False),
        (ExtensionOID.SUBJECT_ALTERNATIVE_NAME, False),
    ]
    basic = made.extensions.get_extension_for_class(pyca.BasicConstraints).value
    assert (basic.ca, basic.path_length) == (True, 0)
    usage = made.extensions.get_extension_for_class(pyca.KeyUsage).value
    assert usage.public_bytes().hex() == "03020186"  # digitalSignature, keyCertSign, cRLSign
    assert usages(made) == [CLIENT_AUTH, SERVER_AUTH]
    assert (made.not_valid_before_utc, made.not_valid_after_utc) == (NOW - HOUR, NOW + 825 * DAY)
    assert made.signature_hash_algorithm is not None
    assert made.signature_hash_algorithm.name == keys.signature_hash(key).name


def test_java_shows_the_subject_as_it_was_typed() -> None:
    """The subject is encoded as the original encodes a CA's: the unit, then the common name."""
    assert [attribute.rfc4514_string() for attribute in ROOT.subject] == ["OU=NIFI", "CN=ca.lan"]
    assert dn.written(ROOT.subject) == dn.written(ROOT.issuer) == "CN=ca.lan, OU=NIFI"


@pytest.mark.parametrize(
    ("subject", "names", "expected"),
    [
        ("CN=ca.lan, OU=NIFI", (), ["ca.lan"]),
        ("CN=CA.Lan", (), ["ca.lan"]),
        ("CN=10.0.0.1, OU=NIFI", (), ["[10.0.0.1]"]),
        ("CN=fd00::1", (), ["[fd00::1]"]),
        ("CN=ca.lan", ("10.0.0.1", "aa.lan", "ca.lan"), ["ca.lan", "aa.lan", "[10.0.0.1]"]),
    ],
)
def test_the_root_is_called_by_its_common_name(subject: str, names: tuple[str, ...], expected: list[str]) -> None:
    """The common name is the first alternative name, an address as an address: that is what Java compares."""
    assert general_names(root(dn.parse(subject), names=Names.parse(names))) == expected


@pytest.mark.parametrize("name", ["nifi_ca", "The CA"])
def test_what_is_no_host_name_is_no_alternative_name(name: str) -> None:
    """Then there is none at all, and Java's clients go by the common name."""
    made = root(dn.parse(f"CN={name}, OU=NIFI"))
    assert dn.common_name(made.subject) == name
    assert ExtensionOID.SUBJECT_ALTERNATIVE_NAME not in [oid for oid, _ in oids(made)]


def test_a_root_without_a_common_name_is_refused() -> None:
    """No client would accept it: all compare the common name with the host they call."""
    with pytest.raises(Malformed, match="the CA's subject 'OU=NIFI' has no common name") as caught:
        root(dn.parse("OU=NIFI"))
    assert "CN=ca.lan" in caught.value.hint


@pytest.mark.parametrize("days", [-1, 0, 36526, 10**9])
def test_days_that_cannot_be_are_refused(days: int) -> None:
    """None at all, or more than the dates of a certificate hold."""
    with pytest.raises(UsageError, match=f"a certificate for {days} days"):
        root(days=days)


def test_a_weak_root_key_is_refused() -> None:
    """A root signs with no key that it would not certify."""
    with pytest.raises(Malformed, match="'RSA 1024' is not certified"):
        root(key=rsa.generate_private_key(65537, 1024))


# ------------------------------------------------------------------------------------------------- leaf


def test_a_leaf_is_as_the_original_makes_it() -> None:
    """Subject as granted, issuer to the byte the root's subject, and the original's extensions in its order."""
    made = leaf(node())
    made.verify_directly_issued_by(ROOT)
    assert made.subject.public_bytes() == NODE.public_bytes()
    assert made.issuer.public_bytes() == ROOT.subject.public_bytes()
    assert (made.serial_number, made.version) == (SERIAL, pyca.Version.v3)
    assert keys.spki(made.public_key()) == keys.spki(RSA_KEY.public_key())  # type: ignore[arg-type]
    assert oids(made) == [
        (ExtensionOID.BASIC_CONSTRAINTS, True),
        (ExtensionOID.KEY_USAGE, True),
        (ExtensionOID.SUBJECT_KEY_IDENTIFIER, False),
        (ExtensionOID.AUTHORITY_KEY_IDENTIFIER, False),
        (ExtensionOID.EXTENDED_KEY_USAGE, False),
        (ExtensionOID.SUBJECT_ALTERNATIVE_NAME, False),
    ]
    assert made.extensions.get_extension_for_class(pyca.KeyUsage).value.public_bytes().hex() == "030203f8"
    assert not made.extensions.get_extension_for_class(pyca.BasicConstraints).value.ca


def test_an_elliptic_curve_does_not_encipher() -> None:
    """RFC 8813 §3: of the original's usages a key that cannot encrypt has those that it can."""
    usage = leaf(node(public_key=LEAF_KEY.public_key())).extensions.get_extension_for_class(pyca.KeyUsage).value
    assert usage.public_bytes().hex() == "030203c8"


@pytest.mark.parametrize(
    ("role", "expected"),
    [(Role.PEER, [CLIENT_AUTH, SERVER_AUTH]), (Role.CLIENT, [CLIENT_AUTH]), (Role.SERVER, [SERVER_AUTH])],
)
def test_usages_follow_from_the_role(role: Role, expected: list[pyca.ObjectIdentifier]) -> None:
    """A node's certificate is for both, in the original's order; a person's is no server's."""
    assert usages(leaf(node(role))) == expected


@pytest.mark.parametrize(
    ("subject", "names", "expected"),
    [
        ("CN=web1.home.lan, OU=NIFI", NAMES, ["web1.home.lan", "a.lan", "[10.0.0.7]", "[fd00::7]"]),
        ("CN=WEB1.home.lan, OU=NIFI", NAMES, ["web1.home.lan", "a.lan", "[10.0.0.7]", "[fd00::7]"]),
        ("CN=10.0.0.7", NAMES, ["[10.0.0.7]", "a.lan", "web1.home.lan", "[fd00::7]"]),
        ("CN=FD00:0::7", NAMES, ["[fd00::7]", "a.lan", "web1.home.lan", "[10.0.0.7]"]),
        ("CN=other.lan", ("a.lan",), ["a.lan"]),
        ("CN=Ann Admin, OU=NIFI", (), []),
    ],
)
def test_the_common_name_is_the_first_name_if_it_was_granted(
    subject: str, names: tuple[str, ...], expected: list[str]
) -> None:
    """Then come the others in order and the SPIFFE ID; a common name that was not granted is added to nothing."""
    made = leaf(node(subject=dn.parse(subject), names=names))
    assert general_names(made) == [*expected, f"spiffe://{DOMAIN}/peer/web1.home.lan"]


def test_without_a_subject_it_is_the_machines() -> None:
    """A machine that was granted no subject is CN=<machine>."""
    assert dn.written(leaf(node(subject=None)).subject) == "CN=web1.home.lan"


def test_a_machine_that_fits_no_subject_is_refused() -> None:
    """NiFi knows its peers by their subjects, so there is no certificate without one."""
    long = ".".join(["a" * 40] * 2)
    with pytest.raises(Malformed, match="is longer than a common name"):
        leaf(node(subject=None, machine=long))
    assert general_names(leaf(node(machine=long)))[-1].endswith(long)


def test_a_subject_that_is_none_is_refused() -> None:
    """Bytes that are no name are not signed."""
    with pytest.raises(Malformed, match=r"not an X\.500 name"):
        leaf(replace(node(), subject=b"\x30\x03abc"))


def test_a_leaf_does_not_outlive_its_root() -> None:
    """The original's does, and then verifies nowhere."""
    made = leaf(replace(node(), not_before=NOW - 9 * DAY, not_after=NOW + 9000 * DAY))
    assert (made.not_valid_before_utc, made.not_valid_after_utc) == (NOW - HOUR, NOW + 825 * DAY)


def test_an_expired_root_issues_nothing() -> None:
    """When nothing is left of the lifetime, the refusal says from when to when the root is valid."""
    with pytest.raises(Refused, match=r"no lifetime is left for 'web1\.home\.lan'.*2029-02-24"):
        leaf(replace(node(), not_before=NOW + 825 * DAY, not_after=NOW + 826 * DAY))


def test_a_weak_key_in_a_grant_is_refused() -> None:
    """The original certifies any key."""
    weak = rsa.generate_private_key(65537, 1024).public_key()
    with pytest.raises(Malformed, match="'RSA 1024' is not certified"):
        leaf(node(public_key=weak))


@pytest.mark.parametrize("which", ["ours", "toolkit", "none"])
def test_the_issuers_key_is_named_as_the_issuer_names_it(which: str) -> None:
    """Ours by SHA-256, the toolkit's by SHA-1; a root that names no key is given the name everybody computes."""
    sha1 = pyca.SubjectKeyIdentifier.from_public_key
    issuer, expected = {
        "ours": (ROOT, x509.key_identifier(keys.spki(RSA_KEY.public_key())).digest),
        "toolkit": (toolkit_root()[0], sha1(toolkit_root()[0].public_key()).digest),
        "none": (forged(), sha1(RSA_KEY.public_key()).digest),
    }[which]
    stated = leaf(node(), issuer).extensions.get_extension_for_class(pyca.AuthorityKeyIdentifier).value
    assert stated.key_identifier == expected
    assert (stated.authority_cert_issuer, stated.authority_cert_serial_number) == (None, None)


def test_a_leaf_of_the_toolkits_root_has_its_subject_as_issuer() -> None:
    """To the byte, and in the signed bytes: key stores compare them."""
    issuer, _ = toolkit_root()
    encoded = issuer.subject.public_bytes()
    assert encoded in issuer.tbs_certificate_bytes
    assert encoded in leaf(node(), issuer).tbs_certificate_bytes


# ---------------------------------------------------------------------------------------- a root of others

CA = (pyca.BasicConstraints(ca=True, path_length=None), False)


def _usage(**changes: bool) -> tuple[pyca.KeyUsage, bool]:
    bits = dict.fromkeys(
        ("content_commitment", "key_encipherment", "data_encipherment", "key_agreement", "encipher_only"), False
    ) | {"decipher_only": False, "digital_signature": True, "key_cert_sign": True, "crl_sign": True}
    return pyca.KeyUsage(**(bits | changes)), True


def test_the_toolkits_own_root_is_accepted() -> None:
    """The certificate that the real toolkit made can be taken over, and nothing is to be said."""
    certificate, _ = toolkit_root()
    assert nifi_x509.check_root(certificate, now=certificate.not_valid_before_utc) == ()


@pytest.mark.parametrize("extensions", [(CA,), (CA, _usage()), (CA, _usage(crl_sign=False))])
def test_a_root_may_say_little_of_its_usage(extensions: Sequence[tuple[pyca.ExtensionType, bool]]) -> None:
    """A CA without key usage may be used for everything; ours needs certificates and handshakes."""
    assert nifi_x509.check_root(forged(*extensions), now=NOW) == ()


def test_a_root_that_ends_soon_is_accepted_with_a_remark() -> None:
    """In its last thirty days the operator is told when."""
    assert nifi_x509.check_root(ROOT, now=NOW + 795 * DAY) == ()
    (remark,) = nifi_x509.check_root(ROOT, now=NOW + 795 * DAY + HOUR)
    assert "'CN=ca.lan, OU=NIFI' expires at 2029-02-24 12:00 UTC" in remark


@pytest.mark.parametrize(
    ("certificate", "now", "message"),
    [
        (ROOT, NOW + 825 * DAY, "'CN=ca.lan, OU=NIFI' expired at 2029-02-24 12:00 UTC"),
        (ROOT, NOW - 2 * HOUR, "valid from 2026-11-22 11:00 UTC only"),
        (leaf(node()), NOW, "'CN=web1.home.lan, OU=NIFI' is not self-signed"),
        (Pki.make().issuing, NOW, "is not self-signed"),
        (forged(CA, issuer=NODE), NOW, "is not self-signed"),
        (forged(), NOW, "is not a CA's"),
        (forged((pyca.BasicConstraints(ca=False, path_length=None), True)), NOW, "is not a CA's"),
        (forged(CA, _usage(key_cert_sign=False)), NOW, "is not a CA's"),
        (forged(CA, _usage(digital_signature=False)), NOW, "is not a CA's"),
    ],
    ids=["expired", "early", "leaf", "issued", "renamed", "silent", "no CA", "no certificates", "no handshakes"],
)
def test_a_root_that_cannot_be_used_is_refused(certificate: pyca.Certificate, now: datetime, message: str) -> None:
    """Each reason is found before the first node is given a certificate that verifies nowhere."""
    with pytest.raises(Refused, match=message) as caught:
        nifi_x509.check_root(certificate, now=now)
    assert caught.value.hint


def test_a_root_with_a_weak_key_is_refused() -> None:
    """What is too weak for a leaf is too weak for a root."""
    with pytest.raises(Malformed, match="'RSA 1024' is not certified"):
        nifi_x509.check_root(forged(CA, key=rsa.generate_private_key(65537, 1024)), now=NOW)


# ------------------------------------------------------------------------------------------ real verifiers


def _verify(tmp_path: Path, certificate: pyca.Certificate, *arguments: str, trusted: pyca.Certificate = ROOT) -> str:
    when = str(int(NOW.timestamp()))
    command = [find("openssl") or "", "verify", "-x509_strict", "-attime", when, *arguments]
    command += ["-CAfile", str(write_pem(tmp_path / "root", trusted)), str(write_pem(tmp_path / "leaf", certificate))]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    return "OK" if result.returncode == 0 else result.stdout + result.stderr


@pytest.mark.peer("openssl")
@pytest.mark.parametrize("key", [RSA_KEY, EC_KEY], ids=["RSA", "EC"])
def test_openssl_accepts_a_leaf_for_what_its_role_does(tmp_path: Path, key: keys.LeafPrivateKey) -> None:
    """Strictly, by name and by address, and no person's certificate as a server's."""
    issuer = root(key=key)
    made = leaf(node(), issuer, key)
    for arguments in (
        ("-purpose", "sslclient"),
        ("-purpose", "sslserver", "-verify_hostname", "web1.home.lan"),
        ("-purpose", "sslserver", "-verify_ip", "fd00::7"),
    ):
        assert _verify(tmp_path, made, *arguments, trusted=issuer) == "OK"
    person = leaf(node(Role.CLIENT, names=()), issuer, key)
    assert _verify(tmp_path, person, "-purpose", "sslclient", trusted=issuer) == "OK"
    assert "unsuitable certificate purpose" in _verify(tmp_path, person, "-purpose", "sslserver", trusted=issuer)


@pytest.mark.peer("openssl")
@pytest.mark.parametrize("name", ["ca.lan", "10.0.0.1", "nifi_ca"])
def test_openssl_accepts_the_root_as_the_server_it_names(tmp_path: Path, name: str) -> None:
    """The TLS server's certificate is the root itself, and is compared with the name or the address that was called."""
    made = root(dn.parse(f"CN={name}, OU=NIFI"))
    option = "-verify_ip" if name == "10.0.0.1" else "-verify_hostname"
    assert _verify(tmp_path, made, "-purpose", "sslserver", option, name, trusted=made) == "OK"
    assert "mismatch" in _verify(tmp_path, made, "-verify_hostname", "other.lan", trusted=made)


@pytest.mark.parametrize("name", ["root", "leaf", "EC", "person"])
def test_pkilint_finds_nothing(tmp_path: Path, name: str) -> None:
    """pkilint has no error and no warning but two: a SPIFFE ID's scheme, and the original's keyAgreement with RSA."""
    certificate = {
        "root": ROOT,
        "leaf": leaf(node()),
        "EC": leaf(node(public_key=LEAF_KEY.public_key()), root(key=EC_KEY), EC_KEY),
        "person": leaf(node(Role.CLIENT, names=())),
    }[name]
    program = Path(sys.executable).with_name("lint_pkix_cert")
    command = [str(program), "lint", "-s", "WARNING", "-f", "JSON", str(write_pem(tmp_path / "c", certificate))]
    result = subprocess.run(command, capture_output=True, text=True, check=False)
    found = json.loads(result.stdout)["results"]
    codes = {finding["code"] for result in found for finding in result["finding_descriptions"]}
    original = {"pkix.key_usage_value_prohibited_for_rsa"} if name in {"leaf", "person"} else set()
    assert codes <= {"pkix.invalid_uri_syntax"} | original
