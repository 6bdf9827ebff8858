"""
What a running toolkit CA has, read from its directory so that Handfast can take its place.

Nothing in the directory is changed: until the new server runs, the old one can be started again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from handfast.adapters.files import faults, read_private
from handfast.core import dn, javastore
from handfast.core.keys import LeafPrivateKey
from handfast.core.secret import Secret
from handfast.errors import ConfigError, Malformed, NotFound, Refused
from handfast.nifi.config import MAX_CONFIG, ServerConfig, decode
from handfast.nifi.stores import KEY_ALIAS, find_key

CONFIG = "config.json"


@dataclass(frozen=True, slots=True)
class Toolkit:
    """
    A toolkit CA. ``hostname`` is the one that its clients know it by, ``days`` the lifetime of what it issues.

    ``remarks`` are what the operator should be told about its configuration.
    """

    certificate: x509.Certificate
    key: LeafPrivateKey
    token: Secret
    hostname: str
    port: int
    days: int
    remarks: tuple[str, ...]


def read_toolkit(directory: Path, config_file: str = CONFIG) -> Toolkit:
    """
    Read ``config_file`` in ``directory`` and the key store that it names, relative to there.

    The files must belong to the caller or to the directory's owner. *Not* checked: whether the token can be guessed
    (``introducers.nifi.check_token``), and whether the CA can be used (``authority.flat.adopt``).

    :raises NotFound: no configuration, or no key store.
    :raises Unsafe: others can read or write one of them.
    :raises ConfigError: the configuration is none of a CA, or is incomplete.
    :raises Refused: the passwords do not open the store, or its chain is longer than one.
    :raises Malformed: no key store, or one without a CA's key.
    """
    with faults("open", directory):
        try:
            owner = directory.stat().st_uid
        except FileNotFoundError:
            raise NotFound(f"no directory {str(directory)!r}", hint="give the one that the CA runs in") from None
    path = directory / config_file
    decoded = decode(read_private(path, owner=owner, limit=MAX_CONFIG), ServerConfig)
    config = decoded.config
    store = directory / (config.key_store or "")  # an absolute path stays as it is
    if config.token is None or config.key_store_password is None:
        missing = "token" if config.token is None else "keyStorePassword"
        raise ConfigError(f"no {missing!r} in {str(path)!r}", hint="give the file that the CA itself wrote")
    entries = javastore.read(
        read_private(store, owner=owner), password=config.key_store_password, key_password=config.key_password
    )
    found = find_key(entries)
    if found is None:
        raise Malformed(f"no entry {KEY_ALIAS!r} in {str(store)!r}", hint="is this the store of a toolkit's CA?")
    key, chain = found
    if len(chain) != 1:
        raise Refused(
            f"the chain in {str(store)!r} has {len(chain)} certificates", hint="a CA's has one: is this a node's store?"
        )
    return Toolkit(
        certificate=chain[0],
        key=key,
        token=config.token,
        hostname=dn.common_name(chain[0].subject) or config.ca_hostname,
        port=config.port,
        days=config.days,
        remarks=decoded.remarks,
    )
