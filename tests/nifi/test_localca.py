"""The CA of ``standalone`` on the disk: which one is used again, and which is refused."""

from __future__ import annotations

import errno
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
)

from handfast.adapters import files
from handfast.core import dn
from handfast.errors import Fault, HandfastError, Malformed, NotFound, Refused, TooMuch, Unsafe
from handfast.nifi import localca
from handfast.nifi.stores import certificate_pem, key_pem
from tests.nifi.local import NOW, certify

SUBJECT, ABOVE = dn.parse("CN=ca.lan, OU=NIFI"), dn.parse("CN=Above")
KEY, OTHER = (rsa.generate_private_key(65537, 2048) for _ in range(2))
ROOT = certify(SUBJECT, KEY.public_key(), SUBJECT, KEY, ca=True)
INTERMEDIATE = certify(SUBJECT, KEY.public_key(), ABOVE, OTHER, ca=True)
PARENT = certify(ABOVE, OTHER.public_key(), ABOVE, OTHER, ca=True)


def place(directory: Path, certificate: x509.Certificate | None = ROOT, key: bytes | None = key_pem(KEY)) -> None:
    """Write a CA as an earlier run, or a person, leaves it."""
    if certificate is not None:
        (directory / "nifi-cert.pem").write_bytes(certificate_pem(certificate))
    if key is not None:
        files.write_new(directory / "nifi-key.key", key)


def test_there_is_none(tmp_path: Path) -> None:
    """An empty or missing directory has no CA, which is no mistake."""
    assert localca.load(tmp_path, None, now=NOW) is None
    assert localca.load(tmp_path / "none", None, now=NOW) is None


def test_what_was_made_is_found(tmp_path: Path) -> None:
    """A CA made by one run is the CA of the next."""
    made = localca.create(tmp_path, SUBJECT, key_size=2048, days=30, now=NOW)
    found = localca.load(tmp_path, None, now=NOW)
    assert found is not None
    assert found.certificate == made.certificate
    assert found.key.private_numbers() == made.key.private_numbers()


@pytest.mark.parametrize("form", [PrivateFormat.PKCS8, PrivateFormat.TraditionalOpenSSL])
def test_either_form_of_key_is_read(tmp_path: Path, form: PrivateFormat) -> None:
    """PKCS #8, which openssl makes, is as good as the toolkit's PKCS #1."""
    place(tmp_path, key=KEY.private_bytes(Encoding.PEM, form, NoEncryption()))
    found = localca.load(tmp_path, None, now=NOW)
    assert found is not None
    assert found.key.private_numbers() == KEY.private_numbers()


def test_an_intermediate_needs_its_issuer(tmp_path: Path) -> None:
    """A CA that somebody else signed is used if the certificate of that somebody is given, and fits."""
    place(tmp_path, INTERMEDIATE)
    above = tmp_path / "above.pem"
    with pytest.raises(Refused, match="signed neither by itself nor by a known CA") as refused:
        localca.load(tmp_path, None, now=NOW)
    assert "--additionalCACertificate" in refused.value.hint
    with pytest.raises(NotFound, match="no file"):
        localca.load(tmp_path, above, now=NOW)
    above.write_bytes(certificate_pem(ROOT))
    with pytest.raises(Refused, match="signed neither"):
        localca.load(tmp_path, above, now=NOW)
    above.write_bytes(certificate_pem(PARENT))
    found = localca.load(tmp_path, above, now=NOW)
    assert found is not None
    assert found.certificate == INTERMEDIATE


def test_an_issuer_without_an_intermediate_is_refused(tmp_path: Path) -> None:
    """Who gives an issuer expects an intermediate, and does not get a new self-signed CA instead."""
    above = tmp_path / "above.pem"
    above.write_bytes(certificate_pem(PARENT))
    with pytest.raises(Refused, match="no intermediate CA in"):
        localca.load(tmp_path, above, now=NOW)


@pytest.mark.parametrize(
    ("certificate", "key", "kind", "message"),
    [
        (ROOT, None, Refused, r"nifi-cert\.pem' exists and '.*nifi-key\.key' does not"),
        (None, key_pem(KEY), Refused, r"nifi-key\.key' exists and '.*nifi-cert\.pem' does not"),
        (ROOT, key_pem(OTHER), Refused, "is not the key of"),
        (ROOT, key_pem(ec.generate_private_key(ec.SECP256R1())), Refused, "is not an RSA key"),
        (ROOT, b"nothing", Malformed, "no private key in"),
        (
            ROOT,
            KEY.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"secret")),
            Refused,
            "has a password",
        ),
        (
            certify(SUBJECT, KEY.public_key(), SUBJECT, KEY, ca=False),
            key_pem(KEY),
            Refused,
            "not the certificate of a CA",
        ),
        (certify(SUBJECT, KEY.public_key(), SUBJECT, OTHER, ca=True), key_pem(KEY), Refused, "signed neither"),
    ],
)
def test_what_is_no_ca_is_refused(
    tmp_path: Path, certificate: x509.Certificate | None, key: bytes | None, kind: type[HandfastError], message: str
) -> None:
    """Half a CA, another's key, an encrypted one and a leaf are refused, and nothing is changed."""
    place(tmp_path, certificate, key)
    before = sorted(path.name for path in tmp_path.iterdir())
    with pytest.raises(kind, match=message) as refused:
        localca.load(tmp_path, None, now=NOW)
    assert refused.value.hint
    assert sorted(path.name for path in tmp_path.iterdir()) == before


@pytest.mark.parametrize("shift", [timedelta(days=-2), timedelta(days=826)])
def test_a_ca_that_is_not_valid_now_is_refused(tmp_path: Path, shift: timedelta) -> None:
    """The toolkit signs on with an expired CA, and the hosts fail later."""
    place(tmp_path)
    with pytest.raises(Refused, match="and not now"):
        localca.load(tmp_path, None, now=NOW + shift)


def test_a_weak_ca_is_refused(tmp_path: Path) -> None:
    """A CA with an RSA key of 1024 bits signs nothing here."""
    weak = rsa.generate_private_key(65537, 1024)
    place(tmp_path, certify(SUBJECT, weak.public_key(), SUBJECT, weak, ca=True), key_pem(weak))
    with pytest.raises(Malformed, match="RSA 1024"):
        localca.load(tmp_path, None, now=NOW)


def test_a_key_that_others_can_read_is_refused(tmp_path: Path) -> None:
    """A CA whose key others have read is not to be trusted any more."""
    place(tmp_path)
    (tmp_path / "nifi-key.key").chmod(0o640)
    with pytest.raises(Unsafe, match="can be read or written by others"):
        localca.load(tmp_path, None, now=NOW)


def test_a_file_without_certificate_is_refused(tmp_path: Path) -> None:
    """A certificate file with something else in it is named."""
    place(tmp_path)
    (tmp_path / "nifi-cert.pem").write_bytes(b"nothing")
    with pytest.raises(Malformed, match=r"no certificate in '.*nifi-cert\.pem'"):
        localca.load(tmp_path, None, now=NOW)
    (tmp_path / "nifi-cert.pem").write_bytes(b"x" * (localca.MAX_FILE + 1))
    with pytest.raises(TooMuch, match="longer than"):
        localca.load(tmp_path, None, now=NOW)


def test_a_ca_is_never_replaced(tmp_path: Path) -> None:
    """Two runs at once make one CA: the slower one finds the faster one's key in the way."""
    place(tmp_path, certificate=None)
    with pytest.raises(Fault, match="file exists"):
        localca.create(tmp_path, SUBJECT, key_size=2048, days=30, now=NOW)
    assert (tmp_path / "nifi-key.key").read_bytes() == key_pem(KEY)
    assert not (tmp_path / "nifi-cert.pem").exists()


def test_a_full_disk_leaves_no_half_ca(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """When the certificate cannot be written, the key goes too: half a CA would be in the way of every later run."""

    def full(path: Path, data: bytes) -> None:
        if path.name == "nifi-cert.pem":
            with files.faults("write", path):
                raise OSError(errno.ENOSPC, "No space left on device")
        files.write_new(path, data)

    monkeypatch.setattr(localca, "write_new", full)
    with pytest.raises(Fault, match="no space left"):
        localca.create(tmp_path, SUBJECT, key_size=2048, days=30, now=NOW)
    assert list(tmp_path.iterdir()) == []
