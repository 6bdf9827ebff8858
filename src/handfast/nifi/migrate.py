"""
What a running toolkit CA has, read from its directory so that Handfast can take its place.

Nothing in the directory is changed: until the new server runs, the old one can be started again.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from cryptography import x509

from handfast.adapters.files import faults
from handfast.core.keys import LeafPrivateKey
from handfast.errors import ConfigError, Malformed, NotFound, Refused
from handfast.nifi.ca_files import CONFIG, read_store
from handfast.nifi.config import Decoded, ServerConfig, read
from handfast.nifi.stores import KEY_ALIAS, find_key


@dataclass(frozen=True, slots=True)
class Toolkit:
    """A toolkit CA with its configuration; ``remarks`` are what the operator should be told about the latter."""

    certificate: x509.Certificate
    key: LeafPrivateKey
    config: ServerConfig
    remarks: tuple[str, ...]


def read_toolkit(directory: Path, config_file: str = CONFIG) -> Toolkit:
    """
    Read ``config_file`` in ``directory`` and the key store that it names, relative to there.

    The files must belong to the caller or to the directory's owner; the configuration may be readable by others,
    which is a remark. *Not* checked: a token and whether it can be guessed (``introducers.nifi.check_token``), and
    whether the CA can be used (``authority.flat.adopt``).

    :raises NotFound: no configuration, or no key store.
    :raises Unsafe: others can read or write the key store.
    :raises ConfigError: the configuration is none of a CA, or is incomplete.
    :raises Refused: the passwords do not open the store, or its chain is longer than one.
    :raises Malformed: no key store, or one without a CA's key.
    """
    owner, path = _owner(directory), directory / config_file
    try:
        decoded = read(path, ServerConfig, owner=owner)
    except NotFound as error:
        raise NotFound(error.message, hint="give the directory that the CA runs in") from None
    return open_toolkit(directory, decoded, path, owner=owner)


def open_toolkit(
    directory: Path, decoded: Decoded[ServerConfig], config_file: Path, *, owner: int | None = None
) -> Toolkit:
    """As ``read_toolkit``, for a configuration that was read; the store is the caller's or ``owner``'s."""
    config = decoded.config
    if config.key_store_password is None:
        raise ConfigError(
            f"no 'keyStorePassword' in {str(config_file)!r}", hint="give the file that the CA itself wrote"
        )
    store = directory / (config.key_store or "")  # an absolute path stays as it is
    found = find_key(read_store(store, config.key_store_password, config.key_password, owner=owner))
    if found is None:
        raise Malformed(f"no entry {KEY_ALIAS!r} in {str(store)!r}", hint="is this the store of a toolkit's CA?")
    key, chain = found
    if len(chain) != 1:
        raise Refused(
            f"the chain in {str(store)!r} has {len(chain)} certificates", hint="a CA's has one: is this a node's store?"
        )
    return Toolkit(chain[0], key, config, decoded.remarks)


def _owner(directory: Path) -> int:
    with faults("open", directory):
        try:
            return directory.stat().st_uid
        except FileNotFoundError:
            raise NotFound(f"no directory {str(directory)!r}", hint="give the one that the CA runs in") from None
