"""Certification requests: one key, its own signature, and nothing else (rule 7)."""

from __future__ import annotations

import subprocess
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import AttributeOID, ExtendedKeyUsageOID, NameOID
from hypothesis import given
from hypothesis import strategies as st

from handfast.core import csr, keys
from handfast.errors import EvidenceRejected, HandfastError, Malformed, TooMuch
from tests.authority.helpers import LEAF_KEY, new_key
from tests.peers import find

RSA_KEY = rsa.generate_private_key(65537, 2048)
REQUEST = csr.build(LEAF_KEY, "web1")


def _request(
    *extensions: x509.ExtensionType,
    subject: x509.Name | None = None,
    attributes: tuple[tuple[x509.ObjectIdentifier, bytes], ...] = (),
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey = LEAF_KEY,
) -> bytes:
    builder = x509.CertificateSigningRequestBuilder(subject or x509.Name([]))
    for extension in extensions:
        builder = builder.add_extension(extension, critical=False)
    for oid, value in attributes:
        builder = builder.add_attribute(oid, value)
    algorithm = None if isinstance(key, ed25519.Ed25519PrivateKey) else hashes.SHA256()
    return builder.sign(key, algorithm).public_bytes(Encoding.DER)


@pytest.mark.parametrize(
    "key", [LEAF_KEY, ec.generate_private_key(ec.SECP384R1()), RSA_KEY], ids=["P-256", "P-384", "RSA"]
)
@pytest.mark.parametrize("name", ["", "web1.lan", "x" * 64])
def test_our_own_requests_give_the_key_back(key: keys.LeafPrivateKey, name: str) -> None:
    """What ``build`` makes, ``read`` accepts, and it returns exactly the key."""
    assert keys.spki(csr.read(csr.build(key, name))) == keys.spki(key.public_key())


@pytest.mark.peer("openssl")
def test_openssl_requests_are_read(tmp_path: Path) -> None:
    """A plain `openssl req` with only a common name is accepted."""
    command = [find("openssl") or "", "req", "-new", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:P-256", "-nodes"]
    command += ["-keyout", str(tmp_path / "k"), "-subj", "/CN=web1", "-outform", "DER"]
    key = csr.read(subprocess.run(command, check=True, capture_output=True).stdout)
    assert keys.describe(key) == "P-256"


@pytest.mark.peer("openssl")
def test_openssl_verifies_ours(tmp_path: Path) -> None:
    """openssl accepts the signature of a request that we made."""
    (tmp_path / "r").write_bytes(REQUEST)
    command = [find("openssl") or "", "req", "-inform", "DER", "-in", str(tmp_path / "r"), "-verify", "-noout"]
    assert "OK" in subprocess.run(command, check=True, capture_output=True, text=True).stderr


def test_an_rsa_pss_request_is_read() -> None:
    """RSA-PSS signatures count as well as PKCS #1 v1.5 ones."""
    builder = x509.CertificateSigningRequestBuilder(x509.Name([]))
    pss = padding.PSS(padding.MGF1(hashes.SHA256()), padding.PSS.DIGEST_LENGTH)
    request = builder.sign(RSA_KEY, hashes.SHA256(), rsa_padding=pss)
    assert csr.read(request.public_bytes(Encoding.DER)) == RSA_KEY.public_key()


@pytest.mark.parametrize(
    ("extension", "named"),
    [
        (x509.SubjectAlternativeName([x509.DNSName("bank.example")]), r"SubjectAlternativeName \(2.5.29.17\)"),
        (x509.BasicConstraints(ca=True, path_length=0), r"BasicConstraints \(2.5.29.19\)"),
        (x509.ExtendedKeyUsage([ExtendedKeyUsageOID.CODE_SIGNING]), r"ExtendedKeyUsage \(2.5.29.37\)"),
        (x509.UnrecognizedExtension(x509.ObjectIdentifier("1.2.3.4"), b"x"), r"UnrecognizedExtension \(1.2.3.4\)"),
    ],
)
def test_every_extension_is_refused_by_name_and_oid(extension: x509.ExtensionType, named: str) -> None:
    """A stranger's extension is neither copied nor dropped in silence."""
    with pytest.raises(Malformed, match=named):
        csr.read(_request(extension))


@pytest.mark.parametrize(
    ("oid", "named"),
    [
        (AttributeOID.CHALLENGE_PASSWORD, r"challengePassword \(1.2.840.113549.1.9.7\)"),
        (AttributeOID.UNSTRUCTURED_NAME, r"unstructuredName \(1.2.840.113549.1.9.2\)"),
        (x509.ObjectIdentifier("1.2.3.5"), r"unknown \(1.2.3.5\)"),
    ],
)
def test_every_attribute_is_refused_by_name_and_oid(oid: x509.ObjectIdentifier, named: str) -> None:
    """Attributes, a challenge password among them, are refused too; its content is not repeated."""
    with pytest.raises(Malformed, match=named) as caught:
        csr.read(_request(attributes=((oid, b"hunter2"),)))
    assert "hunter2" not in str(caught.value)


def test_all_foreign_parts_are_named_at_once() -> None:
    """The sender learns everything that is in the way, up to a limit."""
    extensions = [x509.UnrecognizedExtension(x509.ObjectIdentifier(f"1.2.3.{n}"), b"") for n in range(12)]
    subject = x509.Name([x509.NameAttribute(NameOID.ORGANIZATION_NAME, "Bank")])
    with pytest.raises(Malformed, match=r"subject O \(2.5.4.10\), extension .*5 more"):
        csr.read(_request(*extensions, subject=subject))


def test_two_common_names_are_refused() -> None:
    """One common name is ignored; several are a riddle."""
    subject = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, n) for n in ("a", "b")])
    with pytest.raises(Malformed, match="2 common names"):
        csr.read(_request(subject=subject))


def test_a_bad_signature_is_refused() -> None:
    """A request whose signature does not verify proves no possession."""
    with pytest.raises(EvidenceRejected, match="not signed by the key in it"):
        csr.read(REQUEST[:-1] + bytes([REQUEST[-1] ^ 1]))


def test_a_request_for_somebody_elses_key_is_refused() -> None:
    """Exchanging the key under a good signature, to get a certificate for a key one does not hold, fails."""
    other = keys.spki(new_key().public_key())
    with pytest.raises(EvidenceRejected):
        csr.read(REQUEST.replace(keys.spki(LEAF_KEY.public_key()), other))


@pytest.mark.parametrize(
    ("key", "named"),
    [
        (rsa.generate_private_key(65537, 1024), "RSA 1024"),
        (ec.generate_private_key(ec.SECP192R1()), "secp192r1"),
        (ec.generate_private_key(ec.SECP256K1()), "secp256k1"),
        (ed25519.Ed25519PrivateKey.generate(), "Ed25519"),
    ],
)
def test_weak_keys_are_refused(
    key: ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey | ed25519.Ed25519PrivateKey, named: str
) -> None:
    """A key that is not on the list is refused before its signature is looked at."""
    with pytest.raises(Malformed, match=named):
        csr.read(_request(key=key))


@pytest.mark.peer("openssl")
def test_a_sha1_signature_is_refused(tmp_path: Path) -> None:
    """A signature over SHA-1 proves little and is refused by name."""
    command = [find("openssl") or "", "req", "-new", "-newkey", "rsa:2048", "-sha1", "-nodes"]
    command += ["-keyout", str(tmp_path / "k"), "-subj", "/CN=x", "-outform", "DER"]
    request = subprocess.run(command, check=True, capture_output=True).stdout
    with pytest.raises(Malformed, match="sha1"):
        csr.read(request)


def test_ten_thousand_names_are_refused_by_length() -> None:
    """A request with 10,000 names is refused before it is parsed."""
    names = x509.SubjectAlternativeName([x509.DNSName(f"host{n}.lan") for n in range(10_000)])
    with pytest.raises(TooMuch, match="at most 16384"):
        csr.read(_request(names))


def test_a_megabyte_of_garbage_is_refused_by_length() -> None:
    """A megabyte of anything is refused before it is parsed."""
    with pytest.raises(TooMuch, match="1048576 bytes"):
        csr.read(b"\x30" * (1 << 20))


@pytest.mark.parametrize(
    "der",
    [
        b"",
        b"hello",
        REQUEST + b"\0",
        REQUEST[:-1],
        REQUEST + REQUEST,
        b"\x30\x80" + REQUEST[3:] + b"\0\0",  # indefinite length: BER
        x509.load_der_x509_csr(REQUEST).public_bytes(Encoding.PEM),
        keys.spki(LEAF_KEY.public_key()),
    ],
    ids=["empty", "text", "trailing", "truncated", "twice", "ber", "pem", "spki"],
)
def test_anything_but_exactly_one_der_request_is_refused(der: bytes) -> None:
    """Only one request in DER counts, from the first byte to the last."""
    with pytest.raises(Malformed, match="not a certification request"):
        csr.read(der)


def test_an_extension_that_stands_twice_is_refused() -> None:
    """A request which cannot be read in only one way is refused."""
    extensions = [x509.UnrecognizedExtension(x509.ObjectIdentifier(f"1.2.3.{n}"), b"") for n in (4, 5)]
    twice = _request(*extensions).replace(b"\x06\x03\x2a\x03\x05", b"\x06\x03\x2a\x03\x04")
    with pytest.raises(Malformed, match=r"not a certification request.*Duplicate"):
        csr.read(twice)


UNUSED_BITS = len(REQUEST) - len(x509.load_der_x509_csr(REQUEST).signature) - 1


@given(st.integers(0, len(REQUEST) - 1), st.integers(1, 255))
def test_no_changed_byte_survives(place: int, change: int) -> None:
    """
    Whatever single byte of a request is changed, it is refused, and by one of our errors.

    But for what nobody signs: the count of unused bits before the signature may change when it ends in zeros.
    """
    mutated = bytearray(REQUEST)
    mutated[place] ^= change
    if place == UNUSED_BITS:
        return
    with pytest.raises(HandfastError):
        csr.read(bytes(mutated))
