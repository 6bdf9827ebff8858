"""``handfast tls-toolkit server``: NiFi's protocol alone, with the toolkit's own files around one data directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from handfast import config as configuration
from handfast.adapters.clock import SystemClock
from handfast.adapters.files import private_directory, read_private
from handfast.authority.flat import FlatAuthority
from handfast.core import dn
from handfast.core.secret import Secret
from handfast.errors import ConfigError, NotFound, UsageError
from handfast.introducers.nifi import check_token
from handfast.nifi import ca_files, config, migrate
from handfast.nifi.config import ServerConfig
from handfast.nifi.options import ServerOptions
from handfast.nifi.service import Adopted
from handfast.server.up import up
from handfast.wiring import NIFI, Overrides, Service


def serve(
    options: ServerOptions,
    *,
    ready: Callable[[], None],
    warn: Callable[[str], None],
    passphrase: Secret | None = None,
) -> int:
    """
    Serve until a signal ends it; ``ready`` is called when it listens and its files are written.

    The authority is in the data directory. At the first start it is taken over from ``from_nifi``, or from the key
    store that a configuration to read in names, and else made; the key store and config.json of the original are
    written beside, so that what reads them goes on working.

    :raises UsageError: a weak token. :raises ConfigError: a configuration that cannot be read or means nothing.
    :raises Refused: files that do not fit together. :raises Fault: the disk, or an address that is in use.
    """
    settings = _settings(options, warn)
    token = settings.token or options.token
    if token is not None:
        check_token(token)
    private_directory(options.data)
    adopted = None if (options.data / NIFI).exists() else _running(options, settings, warn)
    overrides = Overrides(
        nifi={
            "listen": configuration.parse_listen(options.listen or f"0.0.0.0:{settings.port}"),
            "hostname": settings.ca_hostname,
            "subject": settings.dn,
            "key_algorithm": settings.key_pair_algorithm,
            "key_size": settings.key_size,
            "days": settings.days,
            "allow_dn": options.allow_subjects,
            "allow_san": options.allow_names,
            "any_name": options.any_name,
        },
        token=token,
        adopted=adopted,
        alone=True,
        warn=warn,
    )

    def announce(_place: dict[str, object]) -> None:
        ready()

    def prepare(service: Service) -> None:
        if service.nifi is not None:
            _write(options, settings, service.nifi.authority)

    return up(options.data, overrides, passphrase=passphrase, ready=announce, prepare=prepare)


def _config_in(options: ServerOptions) -> Path | None:
    if options.config_in is None and options.from_nifi is not None:
        return options.from_nifi / "config.json"
    return options.config_in


def _settings(options: ServerOptions, warn: Callable[[str], None]) -> ServerConfig:
    path = _config_in(options)
    if path is None:
        return options.config
    try:
        read = config.decode(read_private(path, limit=config.MAX_CONFIG), ServerConfig)
    except NotFound:
        raise ConfigError(f"no configuration at {str(path)!r}", hint="leave out -F to have one made") from None
    for remark in read.remarks:
        warn(remark)
    return read.config


def _running(options: ServerOptions, settings: ServerConfig, warn: Callable[[str], None]) -> Adopted | None:
    """Return the authority of a toolkit server whose files are there: without it its cluster would lose its trust."""
    path = _config_in(options)
    if path is None or (options.from_nifi is None and not (path.parent / (settings.key_store or "")).is_file()):
        return None
    taken = migrate.read_toolkit(path.parent, path.name)
    for remark in taken.remarks:
        warn(remark)
    return Adopted(taken.certificate, taken.key)


def _write(options: ServerOptions, settings: ServerConfig, authority: FlatAuthority) -> None:
    name = dn.common_name(authority.root.subject)
    if name != settings.ca_hostname:
        raise UsageError(
            f"the authority in {str(options.data)!r} is called {name!r}, not {settings.ca_hostname!r}",
            hint="clients compare the name: give -c as it is, or another --data",
        )
    ca_files.write_ca_files(
        options.config_out.parent,
        settings,
        root=authority.root,
        key=authority.root_key,
        now=SystemClock().now(),
        config_file=options.config_out.name,
    )
