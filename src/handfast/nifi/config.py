"""
The toolkit's ``config.json``: read as the toolkit of NiFi 1.28 reads it, written byte for byte as it writes it.

The token and all passwords stand in it in the clear, because the toolkit and the scripts around it look for them
there. In memory they are ``Secret``; the file is as secret as the private key beside it.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Generic, TypeVar

import msgspec

from handfast.adapters.files import read_told
from handfast.core.nifi_x509 import MAX_DAYS
from handfast.core.secret import Secret
from handfast.errors import ConfigError

MAX_CONFIG = 1 << 20  # bytes
DEFAULT_PORT = 9443  # 8443 before NiFi 1.14
DEFAULT_DAYS = 825  # what macOS accepts of a server's certificate
DEFAULT_KEY_SIZE = 2048
DEFAULT_KEY_ALGORITHM = "RSA"
DEFAULT_SIGNING_ALGORITHM = "SHA256WITHRSA"
DEFAULT_STORE_TYPE = "jks"
DEFAULT_CA_HOSTNAME = "localhost"
DEFAULT_DN_PREFIX = "CN="
DEFAULT_DN_SUFFIX = ", OU=NIFI"
# Written by 1.1 to 1.23 and fatal to every toolkit after them; it cannot change anything that we do.
_BYGONE = "reorderDn"


class ServerConfig(msgspec.Struct, frozen=True, eq=False, rename="camel"):
    """
    What ``server`` writes and, with ``-F``, reads; fields in the order of the file.

    None is JSON's ``null``. ``days`` is the lifetime of what is issued; ``dn`` and ``ca_hostname`` name the CA here,
    and in a ``ClientConfig`` the node and the CA that it asks.
    """

    days: int = DEFAULT_DAYS
    key_size: int = DEFAULT_KEY_SIZE
    key_pair_algorithm: str = DEFAULT_KEY_ALGORITHM
    signing_algorithm: str = DEFAULT_SIGNING_ALGORITHM
    dn: str | None = None
    key_store: str | None = None
    key_store_type: str = DEFAULT_STORE_TYPE
    key_store_password: Secret | None = None
    key_password: Secret | None = None
    token: Secret | None = None
    ca_hostname: str = DEFAULT_CA_HOSTNAME
    port: int = DEFAULT_PORT
    dn_prefix: str = DEFAULT_DN_PREFIX
    dn_suffix: str = DEFAULT_DN_SUFFIX
    additional_ca_certificate: str = msgspec.field(default="", name="additionalCACertificate")
    domain_alternative_names: tuple[str, ...] | None = None


class ClientConfig(ServerConfig, frozen=True, eq=False, rename="camel"):
    """What ``client`` writes and, with ``-F``, reads."""

    trust_store: str | None = None
    trust_store_password: Secret | None = None
    trust_store_type: str = DEFAULT_STORE_TYPE


Config = TypeVar("Config", bound=ServerConfig)


@dataclass(frozen=True, slots=True)
class Decoded(Generic[Config]):
    """A configuration with its defaults filled in, and what its reader should be told."""

    config: Config
    remarks: tuple[str, ...]


def read(path: Path, kind: type[Config], *, owner: int | None = None) -> Decoded[Config]:
    """
    Read the configuration at ``path``; that others can read it is a remark (``files.read_told``, for ``owner`` too).

    :raises ConfigError: as ``decode``, naming the file.
    :raises NotFound: no such file. :raises Unsafe: to root, what any user could have written. :raises Fault: the disk.
    """
    remarks: list[str] = []
    data = read_told(path, remarks.append, owner=owner, limit=MAX_CONFIG)
    try:
        decoded = decode(data, kind)
    except ConfigError as error:
        raise ConfigError(f"{str(path)!r}: {error.message}", hint=error.hint) from None
    return Decoded(decoded.config, (*remarks, *decoded.remarks))


def decode(data: bytes, kind: type[Config]) -> Decoded[Config]:
    """
    Read a ``config.json`` of any release and fill in the defaults.

    A number may be written as a string, as the toolkit allows. *Not* checked: whether paths exist, names are names
    and the token is long enough.

    :raises ConfigError: not JSON, an unknown field, a value of the wrong type, no path of a store.
    """
    content = _parse(data)
    remarks: list[str] = []
    if content.pop(_BYGONE, None) is not None:
        remarks.append(f"the field {_BYGONE!r} is of NiFi 1.1 to 1.23; it is ignored and not written again")
    known = [field.encode_name for field in msgspec.structs.fields(kind)]
    unknown = [name for name in content if name not in known]
    if unknown:
        raise ConfigError(
            f"unknown field {', '.join(repr(name[:80]) for name in unknown)} in the configuration",
            hint=f"known fields: {', '.join(known)}",
        )
    names = content.get("domainAlternativeNames")
    if isinstance(names, str):  # a list since 1.10
        content["domainAlternativeNames"] = [name for name in map(str.strip, names.split(",")) if name]
    given = {
        field.encode_name: value
        for field in msgspec.structs.fields(kind)
        # null is as good as absent, and so is an empty text where nothing is the default, such as a password
        if (value := content.get(field.encode_name)) is not None and (value != "" or field.default is not None)
    }
    try:
        config = msgspec.convert(given, kind, strict=False, dec_hook=_secret)
    except msgspec.ValidationError as error:
        raise ConfigError(f"the configuration is wrong: {error}", hint="write it as the toolkit writes it") from None
    complete = with_defaults(config)
    if wrong := mistakes(complete):
        raise ConfigError("; ".join(wrong), hint="correct the configuration, or run without -F to make a new one")
    return Decoded(complete, tuple(remarks))


def with_defaults(config: Config) -> Config:
    """Return ``config`` with the defaults where a number is zero or a text is empty, as the toolkit does."""
    hostname = config.ca_hostname or DEFAULT_CA_HOSTNAME
    complete = msgspec.structs.replace(
        config,
        days=config.days or DEFAULT_DAYS,
        key_size=config.key_size or DEFAULT_KEY_SIZE,
        key_pair_algorithm=config.key_pair_algorithm or DEFAULT_KEY_ALGORITHM,
        signing_algorithm=config.signing_algorithm or DEFAULT_SIGNING_ALGORITHM,
        port=config.port or DEFAULT_PORT,
        key_store_type=config.key_store_type or DEFAULT_STORE_TYPE,
        ca_hostname=hostname,
        dn=config.dn or config.dn_prefix + hostname + config.dn_suffix,
    )
    if isinstance(complete, ClientConfig):
        return msgspec.structs.replace(complete, trust_store_type=complete.trust_store_type or DEFAULT_STORE_TYPE)
    return complete


def encode(config: ServerConfig) -> bytes:
    """Return the file, secrets in the clear, in the form of Jackson's pretty printer: no newline at the end."""
    lines = [
        f"  {_text(field.encode_name)} : {_value(getattr(config, field.name))}"
        for field in msgspec.structs.fields(config)
    ]
    return ("{\n" + ",\n".join(lines) + "\n}").encode()


def _parse(data: bytes) -> dict[str, object]:
    if len(data) > MAX_CONFIG:
        raise ConfigError(f"the configuration has {len(data)} bytes", hint="check that this is the right file")
    try:
        return msgspec.json.decode(data, type=dict[str, object])
    except (msgspec.DecodeError, UnicodeDecodeError, RecursionError) as error:
        raise ConfigError(
            f"the configuration is not a JSON object: {error}", hint="check that this is the right file"
        ) from None


def mistakes(config: ServerConfig) -> list[str]:
    """Return what cannot be in a configuration, whether a file or flags say it."""
    wrong = []
    if not 0 < config.port < 1 << 16:
        wrong.append(f"port {config.port} is not between 1 and 65535")
    if not 0 < config.days <= MAX_DAYS:
        wrong.append(f"days {config.days} is not between 1 and {MAX_DAYS}")
    if not config.key_store:
        wrong.append("no 'keyStore'")
    if isinstance(config, ClientConfig) and not config.trust_store:
        wrong.append("no 'trustStore'")
    return wrong


def _secret(kind: type, value: object) -> Secret:
    if kind is Secret and isinstance(value, str | int) and not isinstance(value, bool):
        return Secret(str(value).encode())
    raise ValueError("Expected `str`")  # the class that msgspec turns into a ValidationError with the path


def _value(value: object) -> str:
    if isinstance(value, Secret):
        return _text(value.reveal().decode())
    if isinstance(value, tuple):
        return "[ " + "".join(f"{_text(item)}, " for item in value).removesuffix(", ") + (" ]" if value else "]")
    if value is None:
        return "null"
    return str(value) if isinstance(value, int) else _text(str(value))


def _text(text: str) -> str:
    return json.dumps(text, ensure_ascii=False)
