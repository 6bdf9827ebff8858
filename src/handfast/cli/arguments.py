"""Arguments and options that commands share, parsed where they are given: what means nothing ends with exit code 2."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from handfast import config
from handfast.core.checkpoint import parse_vkey
from handfast.core.invitation import Address, parse_registrar
from handfast.core.names import Names, dns_name, machine_name, network
from handfast.core.roles import GRANTABLE
from handfast.errors import Malformed, Refused, UsageError


class Parsed(click.ParamType[Any]):
    """A value read by one of our own parsers; what it refuses is a mistake of whoever typed it."""

    def __init__(self, name: str, parse: Callable[[str], Any]) -> None:
        self.name = name
        self._parse = parse

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> Any:
        """Return the value. :raises UsageError: the parser refused it."""
        if not isinstance(value, str):
            return value  # a default, parsed already
        try:
            return self._parse(value)
        except Refused as error:
            raise UsageError(error.message, hint=error.hint) from None


def _name(text: str) -> str:
    Names.parse((text,))
    return text


_DIAL_HINT = "https://HOST:PORT, or HOST:PORT"


def dialed(text: str) -> Address:
    """
    Read where an agent calls its controller: ``host:port``, or the same as a URL, ``https://host:port``.

    :raises Malformed: another scheme, anything else that a URL can have, or no address.
    """
    scheme, is_url, rest = text.partition("://")
    if not is_url:
        return Address.parse(text)
    if scheme.lower() != "https":
        raise Malformed(f"not a URL to call a controller at: {f'{scheme}://'[:80]!r}", hint=_DIAL_HINT)
    where = rest.removesuffix("/")
    for sign, what in (("@", "user"), ("?", "query"), ("#", "fragment"), ("/", "path")):
        if sign in where:  # and is not repeated: a password may be among it
            raise Malformed(f"a URL to call a controller at has no {what}", hint=_DIAL_HINT)
    return Address.parse(where)


FILE = click.Path(dir_okay=False, path_type=Path)
FOLDER = click.Path(file_okay=False, path_type=Path)
ROLE = click.Choice([str(role) for role in sorted(GRANTABLE)])
MACHINE = Parsed("machine", machine_name)
NAME = Parsed("name", _name)
SUFFIX = Parsed("suffix", dns_name)
NETWORK = Parsed("cidr", network)
ADDRESS = Parsed("host:port", Address.parse)
DIALED = Parsed("host:port", dialed)
REGISTRAR = Parsed("url#pin", parse_registrar)
LISTEN = Parsed("host:port", config.parse_listen)
DURATION = Parsed("duration", config.duration)
LOG_KEY = Parsed("key", parse_vkey)

JSON = click.option("--json", "as_json", is_flag=True, help="Print one JSON value.")
OUT = click.option(
    "--out",
    type=FOLDER,
    default=config.identity_directory,
    show_default="/etc/handfast/identity for root, else under XDG_STATE_HOME",
    help="Directory of this machine's certificate and key.",
)
DATA = click.option(
    "--data",
    type=FOLDER,
    default=config.data_directory,
    show_default="/var/lib/handfast for root, else under XDG_STATE_HOME",
    help="The registrar's data directory.",
)
IDENTITY = click.option(
    "--identity", type=FOLDER, help="Work at a distance, with the operator credential in this directory."
)
PASSPHRASE = click.option(
    "--passphrase-file",
    type=FILE,
    help="The passphrase of the keys; else HANDFAST_PASSPHRASE_FILE or a systemd credential.",
)
