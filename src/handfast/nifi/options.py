"""What was typed after ``tls-toolkit client|server|status``, parsed: values that their functions take."""

from __future__ import annotations

import ssl
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path

from handfast.core import dn
from handfast.core.dn import SubjectPattern
from handfast.core.names import NamePattern
from handfast.core.secret import Secret
from handfast.errors import UsageError
from handfast.nifi.config import ClientConfig, Config, ServerConfig, mistakes, with_defaults
from handfast.nifi.pending import check_kind

KEYSTORE, TRUSTSTORE, CA_KEYSTORE = "keystore", "truststore", "nifi-ca-keystore"  # files, without their suffix


@dataclass(frozen=True, slots=True, kw_only=True)
class ClientOptions:
    """
    ``config`` is what the flags say. With ``config_in`` the file there counts instead, as in the original.

    The configuration is written to ``config_out``; ``wait`` bounds how long to try to reach a CA that is starting.
    ``token`` came from a file, the environment or a person: it counts where the configuration has none, and is not
    written into it.
    """

    config: ClientConfig
    token: Secret | None
    config_in: Path | None
    config_out: Path
    certificate_directory: Path
    different_key_password: bool
    wait: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerOptions:
    """
    ``config`` is what the flags say; with ``config_in`` the file there counts instead. It is written to ``config_out``.

    Nothing allowed means: names that lead to the requester's own address, unless ``any_name``. ``data`` is the
    registrar's directory (the ledger and its log); ``from_nifi`` one of a toolkit server whose CA is taken over.
    ``token`` is as in ``ClientOptions``; ``listen`` is host:port, None every address and the configuration's port.
    """

    config: ServerConfig
    token: Secret | None
    config_in: Path | None
    config_out: Path
    different_key_password: bool
    listen: str | None
    allow_subjects: tuple[SubjectPattern, ...]
    allow_names: tuple[NamePattern, ...]
    any_name: bool
    data: Path
    from_nifi: Path | None


@dataclass(frozen=True, slots=True, kw_only=True)
class StoreOptions:
    """A Java key store. Its type is not here: it is read from the file itself, as Java does."""

    path: Path
    password: Secret
    key_password: Secret | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class StatusOptions:
    """An HTTPS address, who may answer there, and who asks (nobody, without ``keystore``)."""

    url: str
    truststore: StoreOptions
    keystore: StoreOptions | None
    newest: ssl.TLSVersion


def typed(config: Config) -> Config:
    """
    Return what the flags say, with the defaults, where it could be read again from the file that it is written to.

    :raises UsageError: a number out of range, a kind of key that is not made. :raises Malformed: no subject.
    """
    complete = with_defaults(config)
    if wrong := mistakes(complete):
        raise UsageError("; ".join(wrong), hint="correct the flags: see --help")
    check_kind(complete.key_pair_algorithm, complete.key_size)
    dn.parse(complete.dn or "")
    return complete
