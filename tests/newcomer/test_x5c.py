"""The certificate and the key that a machine introduces itself with, as they lie on its disk."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from cryptography import x509 as pyca
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
)

from handfast.core import foreign
from handfast.core.invitation import Address
from handfast.core.roles import Role
from handfast.errors import EvidenceRejected, HandfastError, Malformed, NotFound, TooMuch, Unsafe
from handfast.introducers.x5c import Certified
from handfast.newcomer.x5c import certified
from tests.introducers.x5c_material import p256, site

THEIRS = site()
WHERE = (Address("registrar.lan", 7443),)


def files(
    directory: Path,
    *,
    chain: tuple[pyca.Certificate, ...] = THEIRS.chain,
    key: CertificateIssuerPrivateKeyTypes = THEIRS.key,
    form: PrivateFormat = PrivateFormat.PKCS8,
    encryption: KeySerializationEncryption | None = None,
) -> tuple[Path, Path]:
    """A certificate and a key, as ACME clients write them."""
    certificate, private = directory / "fullchain.pem", directory / "privkey.pem"
    certificate.write_bytes(b"\n".join(each.public_bytes(Encoding.PEM) for each in chain))
    private.write_bytes(key.private_bytes(Encoding.PEM, form, encryption or NoEncryption()))
    private.chmod(0o600)
    return certificate, private


def read(certificate: Path, private: Path) -> Certified:
    """What is made of them."""
    return certified(certificate, private, addresses=WHERE, pin=bytes(32), role=Role.SERVER)


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
@pytest.mark.parametrize(
    "key",
    [p256("x"), ec.generate_private_key(ec.SECP384R1()), rsa.generate_private_key(65537, 2048)],
    ids=["P-256", "P-384", "RSA"],
)
def test_what_ACME_clients_write_is_read(
    tmp_path: Path, key: CertificateIssuerPrivateKeyTypes, form: PrivateFormat
) -> None:
    """Chain and key in both forms of PEM, and what is signed is by the leaf's key."""
    leaf = THEIRS.ca.leaf(key, "web1.lan")
    way = read(*files(tmp_path, chain=(leaf, THEIRS.ca.certificate), key=key, form=form))
    assert way.certificates == (leaf, THEIRS.ca.certificate)
    assert (way.addresses, way.pin, way.role) == (WHERE, bytes(32), Role.SERVER)
    assert foreign.verify(foreign.leaf_key(leaf), way.signer.sign(b"message"), b"message")


def test_an_ed25519_key_is_read(tmp_path: Path) -> None:
    """As small authorities issue for."""
    key = ed25519.Ed25519PrivateKey.generate()
    leaf = THEIRS.ca.leaf(key, "web1.lan")
    assert read(*files(tmp_path, chain=(leaf,), key=key)).certificates == (leaf,)


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o666])
def test_a_key_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    """Before anything is sent: whoever has read it is this machine."""
    certificate, private = files(tmp_path)
    private.chmod(mode)
    with pytest.raises(Unsafe, match="can be read or written by others"):
        read(certificate, private)


@pytest.mark.root
def test_a_key_of_another_user_is_refused(tmp_path: Path) -> None:
    """Root does not take a key that a user has put there."""
    certificate, private = files(tmp_path)
    os.chown(private, 65534, 65534)
    with pytest.raises(Unsafe, match="belongs to user id 65534"):
        read(certificate, private)


def refused(certificate: Path, private: Path, kind: type[HandfastError], why: str) -> None:
    """It is refused, in this class and for this reason, which is not secret, and says what to do."""
    with pytest.raises(kind, match=why) as caught:
        read(certificate, private)
    assert type(caught.value) is kind
    assert caught.value.hint or kind is TooMuch
    assert "BEGIN" not in caught.value.message


def test_an_encrypted_key_is_refused(tmp_path: Path) -> None:
    """Nobody is there to be asked for its passphrase."""
    refused(*files(tmp_path, encryption=BestAvailableEncryption(b"x")), Malformed, "is encrypted")


def test_another_key_is_refused(tmp_path: Path) -> None:
    """Before anything is sent."""
    refused(*files(tmp_path, key=p256("another")), Malformed, "is not the key of the first certificate in")


def test_a_chain_in_the_wrong_order_is_refused(tmp_path: Path) -> None:
    """The leaf is first; the CA's key is another."""
    refused(*files(tmp_path, chain=THEIRS.chain[::-1]), Malformed, "is not the key of the first certificate in")


@pytest.mark.parametrize("which", [0, 1])
def test_a_missing_file_is_named(tmp_path: Path, which: int) -> None:
    """Certificate or key."""
    both = files(tmp_path)
    both[which].unlink()
    refused(*both, NotFound, f"no file '{both[which]}'")


@pytest.mark.parametrize("text", [b"", b"hello", b"-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n"])
def test_what_is_neither_is_named(tmp_path: Path, text: bytes) -> None:
    """And what is in it is not repeated."""
    certificate, private = files(tmp_path)
    private.write_bytes(text)
    refused(certificate, private, Malformed, "no PEM private key in")
    certificate, private = files(tmp_path)
    certificate.write_bytes(text)
    refused(certificate, private, Malformed, "no PEM certificate in")


def test_the_certificate_as_its_own_key_is_refused(tmp_path: Path) -> None:
    """Arguments that were swapped."""
    certificate, private = files(tmp_path)
    certificate.chmod(0o600)
    refused(private, certificate, Malformed, "no PEM certificate in")


def test_more_certificates_than_are_sent_are_refused(tmp_path: Path) -> None:
    """A bundle of all roots is no chain."""
    refused(*files(tmp_path, chain=THEIRS.chain * 3), TooMuch, "6 certificates in .*, at most 5 are sent")


def test_a_long_file_is_not_read(tmp_path: Path) -> None:
    """Nor one without end."""
    certificate, private = files(tmp_path)
    certificate.write_bytes(bytes(1_000_000))
    refused(certificate, private, TooMuch, "is longer than")
    refused(Path("/dev/zero"), private, TooMuch, "is longer than")


def test_who_would_introduce_nobody_hears_it_here(tmp_path: Path) -> None:
    """A certificate for addresses, or for a wildcard, is no machine's."""
    for name in ("*.lan", "10.0.0.7"):
        leaf = THEIRS.ca.leaf(THEIRS.key, name)
        refused(*files(tmp_path, chain=(leaf,)), EvidenceRejected, "no DNS name that is one machine's")


def test_a_key_that_is_not_used_is_refused(tmp_path: Path) -> None:
    """P-521 is certified by some, and verified by none of us."""
    key = ec.generate_private_key(ec.SECP521R1())
    leaf = THEIRS.ca.leaf(key, "web1.lan")
    refused(*files(tmp_path, chain=(leaf,), key=key), EvidenceRejected, "P-521")
