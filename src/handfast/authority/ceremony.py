"""
The key ceremony: make an authority where none was, entirely or not at all.

Everything is written into a sibling directory, made durable, and then appears under its name in one rename. A crash
before that leaves a hidden directory of keys that never signed for anybody, which may be deleted.
"""

from __future__ import annotations

import errno
import os
import shutil
import tempfile
from collections.abc import Iterable
from datetime import datetime
from pathlib import Path

import msgspec
from cryptography import x509 as pyca
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from handfast.adapters import files
from handfast.authority import layout
from handfast.authority.signers import Signer, pkcs8
from handfast.core import x509
from handfast.core.names import IPNetwork, dns_name
from handfast.core.secret import Secret
from handfast.errors import Fault, Refused


def create(
    directory: Path,
    *,
    name: str,
    now: datetime,
    passphrase: Secret | None = None,
    root_key: Path | None = None,
    permitted_dns: Iterable[str] = (),
    permitted_ips: Iterable[IPNetwork] = (),
) -> None:
    """
    Make a root, an issuing CA, two SSH CAs and a log key in ``directory``, which must not exist.

    ``passphrase`` encrypts every private key. ``root_key`` is a path for the root's key outside the directory, for
    example on a removable disk: signing does not need it, only a new issuing CA will. ``permitted_dns`` and
    ``permitted_ips`` become critical name constraints of the issuing CA.

    :raises Refused: the directory or ``root_key`` exists, or the passphrase is empty.
    :raises Malformed: a name, suffix or URL that does not fit.
    :raises Fault: the disk failed; nothing is left behind then.
    """
    if passphrase is not None and not passphrase.reveal():
        raise Refused("the passphrase is empty", hint="give one, or none at all to rely on file permissions")
    for path in (directory, root_key):
        if path is not None and os.path.lexists(path):
            raise _exists(path)
    constraints = x509.name_constraints([dns_name(suffix) for suffix in permitted_dns], permitted_ips)
    try:
        directory.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        building = Path(tempfile.mkdtemp(prefix=f".{directory.name}.", suffix=".new", dir=directory.parent))
        try:
            room = _Room(building, passphrase)
            root = ec.generate_private_key(ec.SECP256R1())
            _write_cas(room, root, name=name, now=now, constraints=constraints)
            _write_others(room, layout.State(name=name))
            _adopt(room, root, directory, root_key)
        except BaseException:
            shutil.rmtree(building, ignore_errors=True)
            raise
        files.sync_directory(directory.parent)
    except Fault as error:
        raise Fault(
            f"cannot make the authority in {str(directory)!r}: {error.message}", hint="nothing was made; try again"
        ) from error
    except OSError as error:
        raise _failed(error, directory) from error


def _adopt(room: _Room, root: ec.EllipticCurvePrivateKey, directory: Path, root_key: Path | None) -> None:
    """Store the root's key and give the directory its name, in this order: a root without its key has no successor."""
    path = root_key or room.directory / layout.ROOT_KEY
    room.key(path, root)
    try:
        files.sync_directory(path.parent)
        files.sync_directory(room.directory / "issuing")
        files.sync_directory(room.directory)
        room.directory.rename(directory)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


class _Room:
    """Writes keys and public files, all below ``directory`` but for an offline root key."""

    def __init__(self, directory: Path, passphrase: Secret | None) -> None:
        self.directory = directory
        self._passphrase = passphrase

    def key(self, path: Path, key: Signer) -> None:
        files.write_new(path, pkcs8.dump(key, self._passphrase))

    def public(self, name: str, content: bytes) -> None:
        files.write_new(self.directory / name, content, mode=0o644)


def _write_cas(
    room: _Room,
    root: ec.EllipticCurvePrivateKey,
    *,
    name: str,
    now: datetime,
    constraints: pyca.NameConstraints | None,
) -> None:
    issuing = ec.generate_private_key(ec.SECP256R1())
    root_certificate = x509.root(root, name=name, now=now)
    issuing_certificate = x509.issuing(
        root_certificate, root, issuing.public_key(), name=name, generation=1, now=now, constraints=constraints
    )
    # nginx, PostgreSQL and curl ask for a list of every CA above a leaf. The root may be offline from now on, so its
    # list, empty, holds until the issuing CA is replaced, which takes the root anyway.
    lifetime = issuing_certificate.not_valid_after_utc - now
    root_crl = x509.crl(root, root_certificate, (), number=1, now=now, lifetime=lifetime)
    (room.directory / "issuing").mkdir(mode=0o700)
    room.public(layout.ROOT, root_certificate.public_bytes(Encoding.PEM))
    room.public(layout.ROOT_CRL, root_crl.public_bytes(Encoding.PEM))
    room.public(layout.issuing(1, "crt"), issuing_certificate.public_bytes(Encoding.PEM))
    room.key(room.directory / layout.issuing(1, "key"), issuing)


def _write_others(room: _Room, state: layout.State) -> None:
    for ca in (layout.SSH_HOST_CA, layout.SSH_USER_CA):
        key = ed25519.Ed25519PrivateKey.generate()
        room.key(room.directory / ca, key)
        line = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        room.public(f"{ca}.pub", line + f" {ca}\n".encode())
    log = ed25519.Ed25519PrivateKey.generate()
    room.key(room.directory / layout.LOG_KEY, log)
    room.public(layout.LOG_PUBLIC, log.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    room.public(layout.STATE, msgspec.json.format(msgspec.json.encode(state)) + b"\n")


def _exists(path: Path) -> Refused:
    return Refused(f"{str(path)!r} exists", hint="no authority is ever overwritten: choose another place, or move it")


def _failed(error: OSError, directory: Path) -> Fault | Refused:
    if error.errno in {errno.EEXIST, errno.ENOTEMPTY}:  # somebody else was quicker
        return _exists(Path(error.filename2 or error.filename or directory))
    return Fault(
        f"cannot make the authority in {str(directory)!r}: {error.strerror}", hint="nothing was made; try again"
    )
