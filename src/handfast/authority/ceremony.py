"""The key ceremony: make an authority where none was, entirely or not at all (see ``room``)."""

from __future__ import annotations

from collections.abc import Iterable
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
from cryptography import x509 as pyca
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from handfast.adapters import files
from handfast.authority import layout
from handfast.authority.room import Room, building, require_new
from handfast.core import x509
from handfast.core.names import IPNetwork, dns_name
from handfast.core.secret import Secret


def create(
    directory: Path,
    *,
    name: str,
    now: datetime,
    passphrase: Secret | None = None,
    root_key: Path | None = None,
    lifetime: timedelta = x509.ROOT_LIFETIME,
    permitted_dns: Iterable[str] = (),
    permitted_ips: Iterable[IPNetwork] = (),
) -> None:
    """
    Make a root, an issuing CA, two SSH CAs and a log key in ``directory``, which must not exist.

    ``passphrase`` encrypts every private key. ``root_key`` is a path for the root's key outside the directory, for
    example on a removable disk: signing does not need it, only a new issuing CA will. ``lifetime`` is
    the root's; the issuing CA ends with it, or earlier. ``permitted_dns`` and ``permitted_ips`` become critical name
    constraints of the issuing CA.

    :raises Refused: the directory or ``root_key`` exists, or the passphrase is empty.
    :raises Malformed: a name, suffix or URL that does not fit.
    :raises Fault: the disk failed; nothing is left behind then.
    """
    if root_key is not None:
        require_new(root_key)
    constraints = x509.name_constraints([dns_name(suffix) for suffix in permitted_dns], permitted_ips)
    with building(directory, passphrase) as room:
        root = ec.generate_private_key(ec.SECP256R1())
        _write_cas(room, root, name=name, now=now, lifetime=lifetime, constraints=constraints)
        _write_others(room, layout.State(name=name))
        _adopt(room, root, directory, root_key)


def _adopt(room: Room, root: ec.EllipticCurvePrivateKey, directory: Path, root_key: Path | None) -> None:
    """Store the root's key and give the directory its name, in this order: a root without its key has no successor."""
    path = root_key or room.directory / layout.ROOT_KEY
    room.key(path, root)
    try:
        files.sync_directory(path.parent)
        files.sync_directory(room.directory / "issuing")
        room.appear(directory)
    except BaseException:
        path.unlink(missing_ok=True)
        raise


def _write_cas(
    room: Room,
    root: ec.EllipticCurvePrivateKey,
    *,
    name: str,
    now: datetime,
    lifetime: timedelta,
    constraints: pyca.NameConstraints | None,
) -> None:
    issuing = ec.generate_private_key(ec.SECP256R1())
    root_certificate = x509.root(root, name=name, now=now, lifetime=lifetime)
    issuing_certificate = x509.issuing(
        root_certificate, root, issuing.public_key(), name=name, generation=1, now=now, constraints=constraints
    )
    # nginx, PostgreSQL and curl ask for a list of every CA above a leaf. The root may be offline from now on, so its
    # list, empty, holds until the issuing CA is replaced, which takes the root anyway.
    listed = issuing_certificate.not_valid_after_utc - now
    root_crl = x509.crl(root, root_certificate, (), number=1, now=now, lifetime=listed)
    (room.directory / "issuing").mkdir(mode=0o700)
    room.public(layout.ROOT, root_certificate.public_bytes(Encoding.PEM))
    room.public(layout.ROOT_CRL, root_crl.public_bytes(Encoding.PEM))
    room.public(layout.issuing(1, "crt"), issuing_certificate.public_bytes(Encoding.PEM))
    room.key(room.directory / layout.issuing(1, "key"), issuing)


def _write_others(room: Room, state: layout.State) -> None:
    for ca in (layout.SSH_HOST_CA, layout.SSH_USER_CA):
        key = ed25519.Ed25519PrivateKey.generate()
        room.key(room.directory / ca, key)
        line = key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH)
        room.public(f"{ca}.pub", line + f" {ca}\n".encode())
    log = ed25519.Ed25519PrivateKey.generate()
    room.key(room.directory / layout.LOG_KEY, log)
    room.public(layout.LOG_PUBLIC, log.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    room.public(layout.STATE, msgspec.json.format(msgspec.json.encode(state)) + b"\n")
