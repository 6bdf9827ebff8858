"""A data directory and a configuration become a registrar that is ready to serve, under every new configuration."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from handfast import introducers
from handfast.adapters.clock import SystemClock
from handfast.adapters.files import FileLock, private_directory
from handfast.adapters.revocation_lists import RevocationLists
from handfast.authority import ceremony
from handfast.authority.authority import FileAuthority, PublicAuthority
from handfast.authority.sshsign import SshSigner
from handfast.config.instances import InstanceSettings
from handfast.config.settings import DEFAULT_CRL_PORT, Config, load
from handfast.core.hosts import How
from handfast.core.invitation import Address
from handfast.core.openid import Provider
from handfast.core.ports import Clock, Introducer, SshIntroducer
from handfast.core.secret import Secret
from handfast.core.ssh_ports import Looker
from handfast.errors import ConfigError, UsageError
from handfast.introducers import operator_login, ssh_hostkey, ssh_pop, x5c
from handfast.introducers.oidc import OidcIntroducer
from handfast.nifi.issuing import Recorded
from handfast.nifi.service import Adopted
from handfast.registrar.administer import Administration, NifiTokens
from handfast.registrar.certify import Certifier
from handfast.registrar.challenge import Challenger
from handfast.registrar.host_keys import HostKeys
from handfast.registrar.instances import managing
from handfast.registrar.introduce import LedgerContext, Registrar
from handfast.registrar.provider_keys import ProviderKeys
from handfast.ssh import look
from handfast.ssh.scan import Scanner
from handfast.wiring import nifi as foreign_listener
from handfast.wiring import vantage
from handfast.wiring import x5c as foreign_authorities
from handfast.wiring.directory import AUTHORITY, CONFIG, LOCK, announced, context_of, has_authority, open_ledger
from handfast.wiring.nifi import Given, NifiService

if TYPE_CHECKING:
    from handfast.ledger.store import SqlLedger

_PATIENCE = 30.0  # seconds for another process that makes the authority: scrypt takes its time on a small machine


@dataclass(frozen=True, slots=True)
class Service:
    """
    One registrar, ready to serve; without ``listen`` and ``crl_listen`` only ``nifi`` is served.

    ``managing`` is the same flow for managed machines: it has no door, and their secrets are good nowhere else.
    ``reload`` reads the configuration again and returns a new value, or raises ConfigError and changes nothing.
    """

    name: str
    registrar: Registrar
    managing: Registrar
    administration: Administration
    host_keys: HostKeys
    certifier: Certifier
    challenger: Challenger
    ledger: SqlLedger
    authority: FileAuthority
    clock: Clock
    data: Path
    listen: Address | None
    crl_listen: Address | None
    addresses: tuple[Address, ...]
    nifi: NifiService | None
    looker: Looker
    own_looker: Looker  # from here alone, for registrars whose vantage point this is
    agents: vantage.Agents
    foreign_lists: RevocationLists
    providers: tuple[Provider, ...]
    provider_keys: ProviderKeys
    instances: InstanceSettings
    reload: Callable[[], Service]


@dataclass(frozen=True, slots=True)
class Overrides:
    """
    What flags say over the configuration file.

    ``nifi`` are the fields of ``NifiSettings`` that are set; ``token`` is the shared NiFi token. ``adopted`` is a NiFi
    authority to begin with. ``alone`` serves that protocol and nothing else.
    """

    listen: Address | None = None
    crl_listen: Address | None = None
    addresses: tuple[Address, ...] = ()
    config: Path | None = None
    nifi: Mapping[str, Any] = field(default_factory=dict)
    token: Secret | None = None
    adopted: Adopted | None = None
    alone: bool = False
    warn: Callable[[str], None] = lambda _remark: None

    def apply(self, data: Path) -> Config:
        """
        Read the configuration and put the flags over it.

        :raises ConfigError: the file is wrong.
        """
        if self.config is not None and not self.config.exists():
            raise UsageError(f"no configuration at {str(self.config)!r}", hint="leave out --config for the defaults")
        read = load(self.config or data / CONFIG)
        return replace(
            read,
            listen=self.listen or read.listen,
            crl_listen=self.crl_listen or read.crl_listen,
            addresses=self.addresses or read.addresses,
            nifi=replace(read.nifi, **self.nifi),
        )


def open_service(data: Path, overrides: Overrides, *, passphrase: Secret | None) -> Service:
    """
    Open the registrar in ``data``; the first time, make its authority.

    The caller holds the directory's lock, or knows that the authority is there (``require_data``).

    :raises ConfigError: the configuration is wrong.
    :raises Refused: the keys cannot be opened with this passphrase, or others can read them.
    :raises Fault: the disk.
    """
    private_directory(data)
    settings = overrides.apply(data)
    clock = SystemClock()
    opened = _authority(data, settings, clock, passphrase)
    store = open_ledger(data)
    context = context_of(store, clock, opened.public)
    nifi = foreign_listener.prepare(
        data,
        settings,
        Given(settings=overrides.nifi, token=overrides.token, adopted=overrides.adopted, warn=overrides.warn),
        context,
        hostname=announced(settings.addresses, settings.nifi.listen or settings.listen)[0].host,
        passphrase=passphrase,
    )
    parts = _Parts(data=data, overrides=overrides, opened=opened, store=store, clock=clock, context=context, nifi=nifi)
    return parts.service(settings)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Parts:
    """What outlives a new configuration: keys, the ledger, what was fetched, and what hosts hold against our scans."""

    data: Path
    overrides: Overrides
    opened: FileAuthority
    store: SqlLedger
    clock: Clock
    context: LedgerContext
    nifi: Callable[[Config], NifiService | None]
    scanner: Scanner = field(default_factory=Scanner)
    agents: vantage.Agents = field(default_factory=vantage.Agents)
    fetched: RevocationLists = field(default_factory=RevocationLists)

    def service(self, settings: Config, keys: ProviderKeys | None = None) -> Service:
        """Return the registrar under a configuration; ``keys`` are those of providers that were fetched before."""
        opened, store, context, overrides, rules = self.opened, self.store, self.context, self.overrides, settings.rules
        provider_keys = keys or ProviderKeys(self.clock)
        lists = foreign_authorities.lists(settings, self.fetched)
        crl_listen = settings.crl_listen or _crl_listen(settings.listen)
        authority = opened.with_crl_url(settings.crl_url or _crl_url(settings, crl_listen, opened.public))
        own_looker = look.looker(settings.scan.guard, self.scanner)
        looker = vantage.everywhere(own_looker, settings.scan, self.clock.now, self.agents)
        foreign, ssh = self.nifi(settings), SshSigner.of(opened)
        tokens = None if foreign is None else NifiTokens(foreign.authority.token_master)
        certifying = _for_certificates(settings, provider_keys)
        registrar = Registrar(_native(settings, lists), rules, store, authority, context)
        return Service(
            name=settings.name,
            registrar=registrar,
            managing=managing(registrar),
            administration=Administration(store, self.clock, opened.pin, settings.addresses, opened.excluded, tokens),
            host_keys=HostKeys(introducers.known_for_hosts(), rules, store, context),
            certifier=Certifier(certifying, rules, store, authority, ssh, context),
            ledger=store,
            authority=authority,
            clock=self.clock,
            data=self.data,
            listen=None if overrides.alone else settings.listen,
            crl_listen=None if overrides.alone else crl_listen,
            addresses=settings.addresses,
            nifi=foreign,
            looker=looker,
            own_looker=own_looker,
            agents=self.agents,
            challenger=Challenger(rules, store, context, ssh, looker),
            foreign_lists=lists,
            providers=settings.oidc,
            provider_keys=provider_keys,
            instances=settings.instances,
            reload=lambda: self.service(overrides.apply(self.data), provider_keys),
        )


def make_authority(data: Path, *, passphrase: Secret | None) -> bool:
    """
    Make the authority of a directory that has none, as the first `up` would; return whether there was none.

    Of several processes that do so at once one makes it.

    :raises ConfigError: the configuration is wrong. :raises Unsafe: others can read the directory. :raises Fault:
    """
    if has_authority(data):
        return False
    private_directory(data)
    with FileLock(data / LOCK, patience=_PATIENCE):
        if (data / AUTHORITY).exists():
            return False
        _authority(data, load(data / CONFIG), SystemClock(), passphrase)
        return True


def _authority(data: Path, settings: Config, clock: Clock, passphrase: Secret | None) -> FileAuthority:
    """Return the authority; the first time, make it."""
    if not (data / AUTHORITY).exists():
        ceremony.create(
            data / AUTHORITY,
            name=settings.name,
            now=clock.now(),
            passphrase=passphrase,
            permitted_dns=settings.permitted_dns,
            permitted_ips=settings.permitted_ips,
        )
    return FileAuthority.open(data / AUTHORITY, passphrase=passphrase)


def _for_certificates(settings: Config, keys: ProviderKeys) -> dict[str, SshIntroducer]:
    """
    Return the ways to SSH certificates that lead there under this configuration, each of them named here.

    By proof of a key that is known, and as an operator, always: without host keys and rules for users nothing comes of
    it. By an OpenID provider, where there is one; by the host-key challenge, where it is evidence.
    """
    people = OidcIntroducer({each.name: each for each in settings.oidc}, keys.of)
    open_ways = {
        ssh_pop.NAME: True,
        operator_login.NAME: True,
        people.name: bool(settings.oidc),
        ssh_hostkey.NAME: How.SSH_HOSTKEY in settings.rules.ssh.evidence,
    }
    known = introducers.known_for_certificates() | {people.name: people}
    return {name: half for name, half in known.items() if open_ways.get(name, False)}


def _native(settings: Config, lists: RevocationLists) -> dict[str, Introducer]:
    """Return the methods of our own protocol. :raises ConfigError: the configuration enables another one."""
    known = {name: half for name, half in introducers.known().items() if half.native}
    if unknown := settings.rules.methods.keys() - known.keys():
        raise ConfigError(f"no method {min(unknown)!r} in [methods]", hint=f"known: {', '.join(sorted(known))}")
    return known | {x5c.NAME: foreign_authorities.introducer(settings, lists)}


@contextmanager
def open_standalone(data: Path) -> Iterator[Recorded]:
    """
    Give what NiFi's ``standalone`` issues with: a data directory like every other, so that `list` and `log` read it.

    :raises HandfastError: as ``open_service``.
    """
    private_directory(data)
    with FileLock(data / LOCK):
        opened = open_service(data, Overrides(), passphrase=None)
        try:
            yield Recorded(opened.ledger, opened.clock)
        finally:
            opened.ledger.close()


def _crl_listen(listen: Address) -> Address:
    return Address(listen.host, DEFAULT_CRL_PORT if listen.port else 0)


def _crl_url(settings: Config, crl_listen: Address, public: PublicAuthority) -> str | None:
    if not crl_listen.port or not settings.listen.port:
        return None  # a port that changes with every start must not be written into certificates
    host = announced(settings.addresses, settings.listen)[0].host
    return f"http://{Address(host, crl_listen.port)}/crl/{public.crl_names[0]}.crl"
