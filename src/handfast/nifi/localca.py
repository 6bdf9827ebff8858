"""
The CA of ``standalone``: ``nifi-cert.pem`` and ``nifi-key.key`` in the output directory, made once and used again.

The key is in the clear, as the toolkit has it, in a file that only its owner can read. It signs no leaf here: a
``LocalAuthority`` is given it.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import Protocol

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)

from handfast.adapters.files import faults, private_directory, read_private, sync_directory, write_new
from handfast.core import nifi_x509
from handfast.core.keys import RSA_EXPONENT, UNREADABLE, LeafPublicKey, check_strength
from handfast.core.names import Names
from handfast.core.roles import Role
from handfast.errors import Malformed, NotFound, Refused, TooMuch
from handfast.nifi.stores import certificate_pem

CA_CERTIFICATE, CA_KEY = "nifi-cert.pem", "nifi-key.key"
MAX_FILE = 1 << 20  # bytes of a certificate or a template
_PAIR_HINT = "put the missing file back, or choose another directory to make a new CA"


@dataclass(frozen=True, slots=True)
class LocalRequest:
    """
    One leaf that a run of ``standalone`` needs.

    ``subject`` is in the encoded order of a certificate; ``role`` is ``PEER`` for a host and ``CLIENT`` for a person.
    """

    subject: x509.Name
    public_key: LeafPublicKey
    names: Names
    days: int
    role: Role


@dataclass(frozen=True, slots=True)
class LocalCa:
    """A CA's key and certificate."""

    key: rsa.RSAPrivateKey
    certificate: x509.Certificate


class LocalAuthority(Protocol):
    """Who issues. Its leaves pass the policy and stand in the ledger as all others do."""

    def issuer(self, ca: LocalCa) -> Callable[[LocalRequest], bytes]:
        """
        Return the function that issues leaves (DER) under this CA.

        :raises HandfastError: the CA cannot be used.
        """


def load(directory: Path, additional: Path | None, *, now: datetime) -> LocalCa | None:
    """
    Read the CA of an earlier run, or one that was put there; None if there is none.

    It must be self-signed, or be signed by ``additional``, a CA's certificate in PEM. Beyond the toolkit's checks it
    must be a CA's certificate and be valid now, or everything that it signs would be refused later and elsewhere.

    :raises Refused: one of the two files is missing, or they do not belong together or fit the rules above.
    :raises Unsafe: others can read or write the key.
    """
    certificate_path, key_path = directory / CA_CERTIFICATE, directory / CA_KEY
    present = [path for path in (certificate_path, key_path) if path.exists()]
    if len(present) == 1:
        missing = key_path if present[0] is certificate_path else certificate_path
        raise Refused(f"{str(present[0])!r} exists and {str(missing)!r} does not", hint=_PAIR_HINT)
    if not present:
        if additional is not None:
            raise Refused(
                f"no intermediate CA in {str(directory)!r} for {str(additional)!r} to have signed",
                hint=f"put its certificate there as {CA_CERTIFICATE} and its key as {CA_KEY}",
            )
        return None
    certificate = read_certificate(certificate_path)
    _check(certificate, certificate_path, None if additional is None else read_certificate(additional), now=now)
    key = _key(key_path)
    if key.public_key() != certificate.public_key():
        raise Refused(f"{str(key_path)!r} is not the key of {str(certificate_path)!r}", hint=_PAIR_HINT)
    return LocalCa(key, certificate)


def create(directory: Path, subject: x509.Name, *, key_size: int, days: int, now: datetime) -> LocalCa:
    """
    Make a CA and write it; nothing is replaced. ``key_size`` is in bits.

    :raises Malformed: a subject without a common name. :raises UsageError: days beyond a hundred years.
    :raises Fault: it cannot be written, or another run has just made one.
    """
    key = rsa.generate_private_key(RSA_EXPONENT, key_size)
    certificate = nifi_x509.root(key, subject=subject, days=days, now=now)
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())  # PKCS #1, as the toolkit
    write_new(directory / CA_KEY, pem)
    try:
        write_new(directory / CA_CERTIFICATE, certificate_pem(certificate))
    except BaseException:
        (directory / CA_KEY).unlink()  # half a CA would be in the way of the next run
        raise
    sync_directory(directory)
    return LocalCa(key, certificate)


def output_directory(path: Path) -> None:
    """Make ``path`` a directory for ourselves alone, unless there is one. :raises Refused: a file is in the way."""
    if not path.is_dir():
        private_directory(path)


def read_certificate(path: Path) -> x509.Certificate:
    """
    Return the first certificate of a PEM file.

    :raises NotFound: no such file.
    :raises Malformed: no certificate in it.
    """
    try:
        return x509.load_pem_x509_certificate(read_file(path))
    except UNREADABLE as error:
        raise Malformed(f"no certificate in {str(path)!r}: {str(error)[:80]!r}", hint="give it in PEM") from None


def read_file(path: Path) -> bytes:
    """
    Return a file that need not be private.

    :raises NotFound: no such file.
    :raises TooMuch: over a megabyte.
    :raises Fault: it cannot be read.
    """
    with faults("read", path):
        try:
            with path.open("rb") as file:
                data = file.read(MAX_FILE + 1)
        except FileNotFoundError:
            raise NotFound(f"no file {str(path)!r}", hint="check the path") from None
    if len(data) > MAX_FILE:
        raise TooMuch(f"{str(path)!r} is longer than {MAX_FILE} bytes", hint="check that this is the right file")
    return data


def _check(certificate: x509.Certificate, path: Path, additional: x509.Certificate | None, *, now: datetime) -> None:
    signers = [certificate] if additional is None else [additional, certificate]
    if not any(_signed_by(certificate, signer) for signer in signers):
        raise Refused(
            f"{str(path)!r} is signed neither by itself nor by a known CA",
            hint="give its issuer's certificate with --additionalCACertificate",
        )
    try:
        is_ca = certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except UNREADABLE:
        is_ca = False
    if not is_ca:
        raise Refused(f"{str(path)!r} is not the certificate of a CA", hint="check which certificate this is")
    if not certificate.not_valid_before_utc <= now < certificate.not_valid_after_utc:
        raise Refused(
            f"the CA in {str(path)!r} is valid from {certificate.not_valid_before_utc:%Y-%m-%d}"
            f" to {certificate.not_valid_after_utc:%Y-%m-%d}, and not now",
            hint="check the clock of this machine; if it is right, make a new CA in another directory",
        )
    check_strength(certificate.public_key())


def _signed_by(certificate: x509.Certificate, signer: x509.Certificate) -> bool:
    try:
        certificate.verify_directly_issued_by(signer)
    except (InvalidSignature, *UNREADABLE):
        return False
    return True


def _key(path: Path) -> rsa.RSAPrivateKey:
    try:
        key = load_pem_private_key(read_private(path), password=None)
    except TypeError:  # what cryptography raises for an encrypted key
        raise Refused(
            f"the key {str(path)!r} has a password", hint="remove it: openssl rsa -in KEY -out NEW; chmod 600 NEW"
        ) from None
    except UNREADABLE as error:
        raise Malformed(f"no private key in {str(path)!r}: {str(error)[:80]!r}", hint="give it in PEM") from None
    if not isinstance(key, rsa.RSAPrivateKey):
        raise Refused(f"{str(path)!r} is not an RSA key", hint="a toolkit's CA has an RSA key")
    return key
