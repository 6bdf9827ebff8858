"""What a root on the toolkit's wire issues, and what openssl and pkilint say of both."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography import x509 as pyca
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.x509.oid import ExtensionOID

from handfast.core import dn, keys
from handfast.core.roles import Role
from handfast.errors import Malformed, Refused
from tests.authority.helpers import DAY, HOUR, LEAF_KEY, NOW, SERIAL, write_pem
from tests.core.nifi_material import (
    CLIENT_AUTH,
    DOMAIN,
    EC_KEY,
    NAMES,
    NODE,
    ROOT,
    RSA_KEY,
    SERVER_AUTH,
    forged,
    general_names,
    leaf,
    node,
    oids,
    root,
    toolkit_root,
    usages,
)
from tests.peers import find

# ------------------------------------------------------------------------------------------------- leaf


def test_a_leaf_is_as_the_original_makes_it() -> None:
    """Subject as granted, issuer to the byte the root's subject, and the original's extensions in its order."""
    made = leaf(node())
    made.verify_directly_issued_by(ROOT)
    assert made.subject.public_bytes() == NODE.public_bytes()
    assert made.issuer.public_bytes() == ROOT.subject.public_bytes()
    assert (made.serial_number, made.version) == (SERIAL, pyca.Version.v3)
    assert keys.spki(made.public_key()) == keys.spki(RSA_KEY.public_key())
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
    """By SHA-1, which BouncyCastle looks for; a root that names no key is given the name everybody computes."""
    sha1 = pyca.SubjectKeyIdentifier.from_public_key
    issuer, expected = {
        "ours": (ROOT, sha1(RSA_KEY.public_key()).digest),
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
