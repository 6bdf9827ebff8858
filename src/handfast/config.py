"""
TOML files and the environment become frozen values here, and nowhere else.

Precedence: flag, environment, configuration file, default. Every mistake in a file is reported at once.
Passphrases and invitations come from files, systemd credentials, the environment or a prompt; never
from arguments, which every user of the machine can read.
"""

from __future__ import annotations

import os
import stat
import tomllib
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from handfast.adapters.files import read_private
from handfast.config_instances import InstanceSettings, instance_settings
from handfast.config_oidc import check_origins, providers
from handfast.config_reader import LONGEST, Reader, each, yes_or_no
from handfast.config_reader import duration as duration  # noqa: PLC0414  a part of this module for whoever calls it
from handfast.config_reader import parse_listen as parse_listen  # noqa: PLC0414  likewise
from handfast.config_scan import ScanSettings, scan_settings
from handfast.config_ssh import host_rules
from handfast.config_x5c import X5cSettings, x5c_settings
from handfast.core.dn import SubjectPattern
from handfast.core.dn import parse as parse_subject
from handfast.core.invitation import Address
from handfast.core.names import IPNetwork, NamePattern, Names, dns_name, machine_name, network
from handfast.core.openid import Provider
from handfast.core.roles import GRANTABLE, Role
from handfast.core.secret import Secret
from handfast.core.x509 import distribution_points
from handfast.errors import ConfigError, Fault, NotFound, TooMuch, Unsafe, UsageError
from handfast.nifi.service import NifiSettings
from handfast.policy.rules import Rules

DEFAULT_PORT = 7443
DEFAULT_CRL_PORT = 7480
ANYWHERE = Address("0.0.0.0", DEFAULT_PORT)  # noqa: S104  a registrar is there to be reached
MAX_SECRET = 64 * 1024  # bytes of a passphrase or an invitation


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
    scan: ScanSettings = field(default_factory=ScanSettings)
    oidc: tuple[Provider, ...] = ()
    x5c: X5cSettings = field(default_factory=X5cSettings)
    instances: InstanceSettings = field(default_factory=InstanceSettings)


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
    reader = Reader.of_tables(tree)
    name = reader.take("registrar.name", machine_name, "registrar")
    said = set(reader.names("methods"))  # those that are disabled in so many words, too
    rules = _rules(reader, name)
    config = Config(
        name=name,
        listen=reader.take("registrar.listen", parse_listen, Config().listen),
        crl_listen=reader.take("registrar.crl_listen", parse_listen, None),
        addresses=reader.take("registrar.addresses", each(Address.parse), ()),
        crl_url=reader.take("registrar.crl_url", _url, None),
        permitted_dns=reader.take("constraints.dns", each(dns_name), ()),
        permitted_ips=reader.take("constraints.networks", each(network), ()),
        rules=rules,
        nifi=_nifi(reader),
        scan=scan_settings(reader.table("ssh.scan")),
        oidc=providers(reader),
        x5c=x5c_settings(reader, said),
        instances=instance_settings(reader),
    )
    check_origins(reader, rules.ssh.certificates.users, config.oidc)
    if mistakes := reader.mistakes():
        raise ConfigError(f"{str(path)!r} has mistakes: " + "; ".join(mistakes), hint="see docs/operations.md")
    return config


def _nifi(reader: Reader) -> NifiSettings:
    default = NifiSettings()
    return NifiSettings(
        listen=reader.take("nifi.listen", parse_listen, None),
        hostname=reader.take("nifi.hostname", _host, None),
        subject=reader.take("nifi.subject", _subject, None),
        days=reader.take("nifi.days", _days, default.days),
        token_file=reader.take("nifi.token_file", Path, None),
        allow_dn=reader.take("nifi.allow_dn", each(SubjectPattern.parse), ()),
        allow_san=reader.take("nifi.allow_san", each(NamePattern.parse), ()),
        any_name=reader.take("nifi.any_name", yes_or_no, False),
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


def _rules(reader: Reader, name: str) -> Rules:
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
        ssh=host_rules(reader),
    )


def _url(value: str) -> str:
    distribution_points(value)
    return value


def _roles(values: Any) -> frozenset[Role]:
    return frozenset(each(parse_role)(values))


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


def agent_directory(environ: Mapping[str, str] = os.environ) -> Path:
    """Return where an agent keeps who it is: /var/lib/handfast-agent for root, else below XDG state."""
    return Path("/var/lib/handfast-agent") if os.geteuid() == 0 else _xdg_state(environ) / "agent"


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
