"""A registrar's TOML file becomes frozen values here, and nowhere else; every mistake in it is reported at once."""

from __future__ import annotations

import tomllib
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from handfast.config.instances import InstanceSettings, instance_settings
from handfast.config.oidc import check_origins, providers
from handfast.config.reader import LONGEST, Reader, duration, each, parse_listen, parse_role, yes_or_no
from handfast.config.scan import ScanSettings, check_agents, scan_settings
from handfast.config.ssh import host_rules
from handfast.config.x5c import X5cSettings, x5c_settings
from handfast.core.dn import SubjectPattern
from handfast.core.dn import parse as parse_subject
from handfast.core.invitation import Address
from handfast.core.names import IPNetwork, NamePattern, Names, dns_name, machine_name, network
from handfast.core.openid import Provider
from handfast.core.roles import Role
from handfast.core.x509 import distribution_points
from handfast.errors import ConfigError
from handfast.nifi.service import NifiSettings
from handfast.policy.rules import Rules

DEFAULT_PORT = 7443
DEFAULT_CRL_PORT = 7480
ANYWHERE = Address("0.0.0.0", DEFAULT_PORT)  # noqa: S104  a registrar is there to be reached


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
    check_agents(reader, config.scan, watch=config.instances.watch)
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
