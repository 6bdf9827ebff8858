"""
TOML files and the environment become frozen values here, and nowhere else.

Precedence: flag, environment, configuration file, default. Every mistake in a file is reported at once.
Passphrases and invitations come from files, systemd credentials, the environment or a prompt; never
from arguments, which every user of the machine can read.
"""

from __future__ import annotations

import os
import re
import stat
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from enum import StrEnum
from pathlib import Path
from typing import Any, TypeVar

from handfast.adapters.files import read_private
from handfast.core.dn import SubjectPattern
from handfast.core.dn import parse as parse_subject
from handfast.core.hosts import Grade, How
from handfast.core.invitation import Address
from handfast.core.names import IPNetwork, NamePattern, Names, dns_name, machine_name, network
from handfast.core.roles import GRANTABLE, Role
from handfast.core.secret import Secret
from handfast.core.x509 import distribution_points
from handfast.errors import ConfigError, Fault, HandfastError, Malformed, NotFound, TooMuch, Unsafe, UsageError
from handfast.nifi.service import NifiSettings
from handfast.policy.rules import HostRules, Readers, Rules

DEFAULT_PORT = 7443
DEFAULT_CRL_PORT = 7480
ANYWHERE = Address("0.0.0.0", DEFAULT_PORT)  # noqa: S104  a registrar is there to be reached
LONGEST = timedelta(days=100 * 365)
MAX_SECRET = 64 * 1024  # bytes of a passphrase or an invitation
_UNITS = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
E = TypeVar("E", bound=StrEnum)
_DURATION = re.compile(r"([0-9]{1,9})([smhdw])")


@dataclass(frozen=True, slots=True)
class Config:
    """What an operator may set in ``config.toml``; the defaults serve a single registrar."""

    name: str = "registrar"
    listen: Address = ANYWHERE
    crl_listen: Address | None = None
    addresses: tuple[Address, ...] = ()
    crl_url: str | None = None
    rules: Rules = field(default_factory=lambda: Rules(reserved=frozenset({"registrar"})))
    permitted_dns: tuple[str, ...] = ()
    permitted_ips: tuple[IPNetwork, ...] = ()
    nifi: NifiSettings = field(default_factory=NifiSettings)


def load(path: Path) -> Config:
    """
    Read ``config.toml``; a missing file means the defaults.

    :raises ConfigError: not TOML, an unknown key, a value that means nothing: all of them at once.
    """
    try:
        tree = tomllib.loads(path.read_text("utf-8"))
    except FileNotFoundError:
        return Config()
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(f"cannot read {str(path)!r}: {error}", hint="see docs/operations.md for an example") from None
    reader = _Reader(tree)
    name = reader.take("registrar.name", machine_name, "registrar")
    config = Config(
        name=name,
        listen=reader.take("registrar.listen", parse_listen, Config().listen),
        crl_listen=reader.take("registrar.crl_listen", parse_listen, None),
        addresses=reader.take("registrar.addresses", _each(Address.parse), ()),
        crl_url=reader.take("registrar.crl_url", _url, None),
        permitted_dns=reader.take("constraints.dns", _each(dns_name), ()),
        permitted_ips=reader.take("constraints.networks", _each(network), ()),
        rules=_rules(reader, name),
        nifi=_nifi(reader),
    )
    reader.finish(path)
    return config


def _nifi(reader: _Reader) -> NifiSettings:
    default = NifiSettings()
    return NifiSettings(
        listen=reader.take("nifi.listen", parse_listen, None),
        hostname=reader.take("nifi.hostname", _host, None),
        subject=reader.take("nifi.subject", _subject, None),
        days=reader.take("nifi.days", _days, default.days),
        token_file=reader.take("nifi.token_file", Path, None),
        allow_dn=reader.take("nifi.allow_dn", _each(SubjectPattern.parse), ()),
        allow_san=reader.take("nifi.allow_san", _each(NamePattern.parse), ()),
        any_name=reader.take("nifi.any_name", _yes_or_no, False),
    )


def _host(value: str) -> str:
    Names.parse([value])
    return value


def _subject(value: str) -> str:
    parse_subject(value)
    return value


def _days(value: int) -> int:
    if type(value) is not int or not 1 <= value <= LONGEST.days:
        raise ValueError(value)
    return value


def _yes_or_no(value: Any) -> bool:
    if not isinstance(value, bool):
        raise TypeError(value)
    return value


def _rules(reader: _Reader, name: str) -> Rules:
    default = Rules()
    lifetimes = {role: reader.take(f"lifetime.{role}", duration, None) for role in Role}
    # Whether such a method exists is wiring's to say: here it is only a name.
    methods = default.methods | {
        name.replace("_", "-"): reader.take(f"methods.{name}", _roles, frozenset()) for name in reader.names("methods")
    }
    return Rules(
        methods={method: roles for method, roles in methods.items() if roles},
        lifetime=reader.take("lifetime.default", duration, default.lifetime),
        lifetimes={role: value for role, value in lifetimes.items() if value is not None},
        return_within=reader.take("renewal.return_within", duration, default.return_within),
        reserved=frozenset({name}),
        ssh=_host_rules(reader),
    )


def _host_rules(reader: _Reader) -> HostRules:
    default = HostRules()
    return HostRules(
        evidence=reader.take("ssh.evidence", _evidence, default.evidence),
        accept=reader.take("ssh.accept", _grade, default.accept),
        readers=reader.take("ssh.readers", _readers, default.readers),
    )


def _evidence(values: Any) -> frozenset[How]:
    return frozenset(_each(_one_of(How))(values))


def _grade(value: str) -> Grade:
    grades = {grade.name.lower(): grade for grade in Grade}
    if value not in grades:
        raise Malformed(f"not a grade: {value!r}; one of {', '.join(grades)}")
    return grades[value]


def _readers(value: str) -> Readers:
    return _one_of(Readers)(value)


def _one_of(kind: type[E]) -> Callable[[str], E]:
    def parse(value: str) -> E:
        try:
            return kind(value)
        except ValueError:
            raise Malformed(f"{value!r} is none of {', '.join(kind)}") from None

    return parse


class _Reader:
    """Takes dotted keys out of a TOML tree and remembers every mistake."""

    def __init__(self, tree: dict[str, Any]) -> None:
        self._left = {f"{table}.{key}": v for table, body in _tables(tree) for key, v in body.items()}
        self._mistakes = [f"{key}: belongs in a table" for key, v in tree.items() if not isinstance(v, dict)]

    def take(self, key: str, parse: Any, default: Any) -> Any:
        if key not in self._left:
            return default
        value = self._left.pop(key)
        try:
            return parse(value)
        except HandfastError as error:
            self._mistakes.append(f"{key}: {error.message}")
        except (TypeError, ValueError, AttributeError):
            self._mistakes.append(f"{key}: {value!r} is not of the right kind")
        return default

    def names(self, table: str) -> list[str]:
        return [key.removeprefix(f"{table}.") for key in self._left if key.startswith(f"{table}.")]

    def finish(self, path: Path) -> None:
        mistakes = [*self._mistakes, *(f"{key}: unknown" for key in sorted(self._left))]
        if mistakes:
            raise ConfigError(f"{str(path)!r} has mistakes: " + "; ".join(mistakes), hint="see docs/operations.md")


def _tables(tree: dict[str, Any]) -> list[tuple[str, dict[str, Any]]]:
    return [(name, body) for name, body in tree.items() if isinstance(body, dict)]


def _each(parse: Any) -> Any:
    def parse_list(values: Any) -> tuple[Any, ...]:
        if not isinstance(values, list):
            raise TypeError(values)
        if not all(isinstance(value, str) for value in values):
            raise TypeError(values)  # ipaddress would read the number 5 as 0.0.0.5
        return tuple(parse(value) for value in values)

    return parse_list


def _url(value: str) -> str:
    distribution_points(value)
    return value


def _roles(values: Any) -> frozenset[Role]:
    return frozenset(_each(parse_role)(values))


def parse_role(text: str) -> Role:
    """
    Read a role that may be granted.

    :raises UsageError: unknown, or ``registrar``, which nobody is granted.
    """
    known = ", ".join(sorted(GRANTABLE))
    try:
        role = Role(text)
    except ValueError:
        raise UsageError(f"unknown role {text[:40]!r}", hint=f"one of {known}") from None
    if role not in GRANTABLE:
        raise UsageError(f"role {text!r} is never granted", hint=f"one of {known}")
    return role


def duration(text: str) -> timedelta:
    """
    Read ``90s``, ``15m``, ``1h``, ``7d`` or ``2w``; a bare number is refused, for its unit is a guess.

    :raises UsageError: anything else, or nothing at all (``0h``).
    """
    match = _DURATION.fullmatch(text.strip())
    if match is None or not int(match[1]):
        raise UsageError(f"not a duration: {text[:40]!r}", hint="write it as 90s, 15m, 1h, 7d or 2w")
    seconds = int(match[1]) * _UNITS[match[2]]
    if seconds > LONGEST.total_seconds():  # the calendar ends in the year 9999
        raise UsageError(f"too long a duration: {text[:40]!r}", hint=f"at most {LONGEST.days}d")
    return timedelta(seconds=seconds)


def parse_listen(text: str) -> Address:
    """
    Read an address to listen on; port 0 asks the system for a free one.

    :raises UsageError: not ``host:port``.
    """
    host, colon, port = text.rpartition(":")
    try:
        if colon and port == "0":
            return Address(Address.parse(f"{host}:1").host, 0)
        return Address.parse(text)
    except Malformed as error:
        raise UsageError(error.message, hint="write it as 127.0.0.1:7443, [::1]:7443 or name:7443") from None


def data_directory(environ: Mapping[str, str] = os.environ) -> Path:
    """Return where a registrar keeps its state: ``HANDFAST_DATA``, /var/lib/handfast for root, else XDG state."""
    if environ.get("HANDFAST_DATA"):
        return Path(environ["HANDFAST_DATA"])
    return Path("/var/lib/handfast") if os.geteuid() == 0 else _xdg_state(environ) / "registrar"


def identity_directory(environ: Mapping[str, str] = os.environ) -> Path:
    """Return where a newcomer keeps its identity: ``HANDFAST_OUT``, /etc/handfast/identity for root, else XDG state."""
    if environ.get("HANDFAST_OUT"):
        return Path(environ["HANDFAST_OUT"])
    return Path("/etc/handfast/identity") if os.geteuid() == 0 else _xdg_state(environ) / "identity"


def _xdg_state(environ: Mapping[str, str]) -> Path:
    return Path(environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "handfast"


def secret_from(
    name: str,
    *,
    file: Path | None = None,
    warn: Callable[[str], None] | None = None,
    environ: Mapping[str, str] = os.environ,
) -> Secret | None:
    """
    Return a secret such as ``invitation`` or ``passphrase``, or None where no source has it.

    Sources, first wins: ``file``; the variable ``HANDFAST_<NAME>_FILE``; ``HANDFAST_<NAME>``; the systemd
    credential ``handfast.<name>`` in ``$CREDENTIALS_DIRECTORY``. White space around it is dropped. The
    variable is removed from our environment, so that no child inherits it.

    A file that others can read or write is refused. With ``warn`` it is only told: an invitation is good
    once and for an hour, and its file is often what a shell's ``>`` made.

    :raises Unsafe: others can get at the file. :raises TooMuch: over ``MAX_SECRET`` bytes.
    :raises UsageError: there is none, it cannot be read, or it is empty.
    """
    variable = f"HANDFAST_{name.upper()}"
    what = name.removeprefix("nifi_").replace("_", " ")  # whose it is the command says
    path = file or (Path(environ[f"{variable}_FILE"]) if environ.get(f"{variable}_FILE") else None)
    value = os.environ.pop(variable, None) if environ is os.environ else environ.get(variable)
    if path is None and value is not None:
        return _not_empty(value.strip().encode(), variable)
    if path is None:
        credential = Path(environ.get("CREDENTIALS_DIRECTORY") or "/nonexistent") / f"handfast.{name}"
        # systemd keeps it from others by means that its mode does not show (0440, in a private mount).
        return _not_empty(_read(credential, what), repr(str(credential))) if credential.exists() else None
    try:
        return _not_empty(read_private(path, limit=MAX_SECRET).strip(), repr(str(path)))
    except NotFound:
        raise UsageError(f"cannot read {str(path)!r}: no such file", hint=f"it should hold the {what}") from None
    except Fault as error:
        raise UsageError(error.message, hint=f"it should hold the {what}") from None
    except Unsafe as error:
        if warn is None:
            raise
        if not stat.S_ISFIFO(path.stat().st_mode):  # a pipe is a shell's <(…), and nobody else's
            warn(f"{error.message}: whoever reads the {what} first may use it")
        return _not_empty(_read(path, what), repr(str(path)))


def _read(path: Path, what: str) -> bytes:
    try:
        with path.open("rb") as file:
            data = file.read(MAX_SECRET + 1)
    except OSError as error:
        raise UsageError(f"cannot read {str(path)!r}: {error.strerror}", hint=f"it should hold the {what}") from None
    if len(data) > MAX_SECRET:
        raise TooMuch(f"{str(path)!r} is longer than {MAX_SECRET} bytes", hint=f"it should hold the {what}")
    return data.strip()


def _not_empty(value: bytes, where: str) -> Secret:
    # Whoever named a source meant to have a secret: an empty passphrase would be none, in silence.
    if not value:
        raise UsageError(f"{where} is empty", hint="put the secret there, or leave it out")
    return Secret(value)


def wants_color(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether a terminal may be given colors (no-color.org)."""
    return not environ.get("NO_COLOR") and environ.get("TERM") != "dumb"


def wants_traceback(environ: Mapping[str, str] = os.environ) -> bool:
    """Whether an unexpected error should show where it came from."""
    return bool(environ.get("HANDFAST_DEBUG"))
