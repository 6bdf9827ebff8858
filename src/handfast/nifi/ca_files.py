"""
What ``tls-toolkit server`` leaves in its directory: ``nifi-ca-keystore.jks`` and ``config.json``.

Handfast needs neither. They are for scripts that read the token and the passwords from there, and for the way back:
the toolkit itself runs on with them. (Releases before 1.20 do with a JKS store only: the BouncyCastle that they bring
does not read PKCS #12 as Java 17 writes it.)
"""

from __future__ import annotations

import os
from datetime import datetime
from pathlib import Path

import msgspec
from cryptography import x509

from handfast.adapters.files import read_private, write_atomic
from handfast.core import javastore
from handfast.core.javastore import Entry, StoreType
from handfast.core.keys import LeafPrivateKey
from handfast.core.secret import Secret
from handfast.errors import Malformed, Refused
from handfast.nifi.config import ServerConfig, encode
from handfast.nifi.stores import Passwords, ca_keystore, find_key

STORE = "nifi-ca-keystore"
CONFIG = "config.json"


def write_ca_files(
    directory: Path,
    config: ServerConfig,
    *,
    root: x509.Certificate,
    key: LeafPrivateKey,
    now: datetime,
    config_file: str = CONFIG,
) -> ServerConfig:
    """
    Write the key store of the CA and its configuration, and return the latter with all passwords.

    Missing passwords are made; the key's is then the store's. A store that is there already is kept if it holds this
    CA; another one is never replaced. Relative paths are below ``directory``. Both files hold secrets and are for
    their owner alone.

    :raises Refused: another CA's store is in the way, or one which the configuration's passwords do not open.
    :raises Unsafe: others can read the store that is there. :raises Malformed: it is no store.
    :raises UsageError: an unknown type of store, a password that Java could not use.
    :raises Fault: the disk failed.
    """
    kind = StoreType.parse(config.key_store_type)
    name = config.key_store or f"{STORE}.{kind.suffix}"
    passwords = Passwords.complete(config.key_store_password, config.key_password)
    complete = msgspec.structs.replace(
        config, key_store=name, key_store_password=passwords.keystore, key_password=passwords.key
    )
    path = directory / name
    exists = os.path.lexists(path)
    if exists:
        check_store(path, config, root)
    # In this order, unlike the toolkit: a store whose password was never written down is in everybody's way.
    write_atomic(directory / config_file, encode(complete))
    if not exists:
        write_atomic(path, ca_keystore(key, root, kind, passwords, created_at=now))
    return complete


def check_store(path: Path, config: ServerConfig, root: x509.Certificate) -> None:
    """
    Refuse a key store that is not this CA's, or that the configuration does not open.

    :raises Refused, Unsafe, Malformed: as ``write_ca_files``.
    """
    hint = "use its configuration (-F or --configJsonIn), or move it away"
    if config.key_store_password is None:
        raise Refused(f"{str(path)!r} exists, and its password is not known", hint=hint)
    found = find_key(read_store(path, config.key_store_password, config.key_password))
    if found is None or found[1] != (root,):
        raise Refused(f"{str(path)!r} exists and is not the store of this CA", hint=hint)


def read_store(
    path: Path, password: Secret, key_password: Secret | None, *, owner: int | None = None
) -> tuple[Entry, ...]:
    """
    Return what is in a key store of the caller or of ``owner``. ``key_password`` None means the store's.

    :raises Refused: a password is wrong. :raises Malformed: no store; the message names the file.
    :raises NotFound, Unsafe, TooMuch, Fault: as ``read_private``.
    """
    data = read_private(path, owner=owner)
    try:
        return javastore.read(data, password=password, key_password=key_password)
    except Malformed as error:
        raise Malformed(f"{str(path)!r}: {error.message}", hint=error.hint) from None
    except Refused as error:
        raise Refused(f"{str(path)!r}: {error.message}", hint=error.hint) from None
