"""``standalone --splitKeystore``: a Java key store taken apart into PEM files, keys in the clear."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import dsa, ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from handfast.adapters.files import write_atomic
from handfast.core import javastore
from handfast.core.javastore import Entry, KeyEntry
from handfast.core.keys import UNREADABLE
from handfast.core.secret import Secret
from handfast.errors import Malformed, Refused
from handfast.nifi.localca import output_directory, read_file
from handfast.nifi.stores import certificate_pem, escape_filename


@dataclass(frozen=True, slots=True, kw_only=True)
class SplitOptions:
    """Which store, and where to. ``key_password`` None means the store's own."""

    keystore: Path
    output: Path
    keystore_password: Secret
    key_password: Secret | None = None
    overwrite: bool = False


def split_keystore(options: SplitOptions) -> tuple[Path, ...]:
    """
    Write ``<alias>.crt`` for each entry and ``<alias>.key`` for each key; return their paths.

    A file with other content is not replaced unless ``overwrite``: a store's key is called ``nifi-key.key``, and so is
    that of a standalone CA.

    :raises NotFound: no such store.
    :raises Refused: a wrong password, no store or an empty one, a file in the way, two aliases with one file name.
    :raises Fault: the disk says no.
    """
    entries = javastore.read(
        read_file(options.keystore), password=options.keystore_password, key_password=options.key_password
    )
    if not entries:
        raise Refused(f"the store {str(options.keystore)!r} is empty", hint="check which file this is")
    files: dict[Path, bytes] = {}
    for entry in entries:
        for ending, content in _pems(entry).items():
            path = options.output / (escape_filename(entry.alias) + ending)
            if path in files:
                raise Refused(
                    f"two entries of the store would be {str(path)!r}", hint="rename one: keytool -changealias"
                )
            files[path] = content
    output_directory(options.output)
    for path, content in files.items():
        if path.exists() and not options.overwrite and read_file(path) != content:
            raise Refused(
                f"{str(path)!r} exists and has other content",
                hint="choose another directory, or give -O to overwrite it",
            )
    for path, content in files.items():
        write_atomic(path, content)
    return tuple(files)


def _pems(entry: Entry) -> dict[str, bytes]:
    der = entry.chain[0] if isinstance(entry, KeyEntry) else entry.certificate
    try:
        files = {".crt": certificate_pem(x509.load_der_x509_certificate(der))}
        if isinstance(entry, KeyEntry):
            files[".key"] = _traditional(entry.private_key)
    except UNREADABLE as error:
        raise Malformed(f"cannot read the entry {entry.alias!r}: {str(error)[:80]!r}") from None
    return files


def _traditional(der: Secret) -> bytes:
    """Return a key in PEM in the form of its algorithm (PKCS #1 for RSA), as the toolkit; PKCS #8 where none is."""
    key = load_der_private_key(der.reveal(), password=None)
    old = isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey | dsa.DSAPrivateKey)
    encoding = PrivateFormat.TraditionalOpenSSL if old else PrivateFormat.PKCS8
    return key.private_bytes(Encoding.PEM, encoding, NoEncryption())
