"""``handfast tls-toolkit server``: NiFi's protocol alone, with the toolkit's own files around one data directory."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path

import msgspec
from cryptography import x509

from handfast import config as configuration
from handfast.adapters.clock import SystemClock
from handfast.adapters.files import faults, private_directory
from handfast.authority.flat import FlatAuthority
from handfast.core import dn
from handfast.core.secret import Secret
from handfast.errors import ConfigError, NotFound, Refused, UsageError
from handfast.introducers.nifi import check_token
from handfast.nifi import ca_files, config, migrate
from handfast.nifi.config import ServerConfig
from handfast.nifi.options import ServerOptions
from handfast.nifi.service import Adopted
from handfast.nifi.stores import new_password
from handfast.server.up import up
from handfast.wiring import Overrides, Service
from handfast.wiring.nifi import NIFI


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
    with faults("open", options.data):
        new = not (options.data / NIFI).exists()
    settings, taken = _given(options, warn, new=new)
    token = settings.token or options.token
    if token is not None:
        check_token(token)
    if new:
        _require_room(settings, taken)
    private_directory(options.data)
    overrides = Overrides(
        nifi=_nifi(options, settings), token=token, adopted=taken if new else None, alone=True, warn=warn
    )

    def announce(_place: dict[str, object]) -> None:
        ready()
        one = f"`handfast invite NAME --nifi --data {options.data}` makes one for one node"
        native = "and the invitations of `handfast up`, where NiFi's protocol is not needed, have no such secret"
        without = "there is no shared token" if token is None else "whoever reads the shared token can enroll"
        warn(f"{without}: {one}, {native}")

    def prepare(service: Service) -> None:
        if service.nifi is not None:
            _check(options, settings, service.nifi.authority.root, taken)
            _write(options, settings, service.nifi.authority)
        if passphrase is not None:
            warn(f"the passphrase protects {str(options.data)!r}; the CA's key is in {settings.key_store!r} as well")

    return up(options.data, overrides, passphrase=passphrase, ready=announce, prepare=prepare)


def _nifi(options: ServerOptions, settings: ServerConfig) -> dict[str, object]:
    """Return the settings of the listener. What no flag allows, config.toml in the data directory may."""
    allowed = {
        "allow_dn": options.allow_subjects,
        "allow_san": options.allow_names,
        "any_name": options.any_name,
    }
    return {
        "listen": configuration.parse_listen(options.listen or f"0.0.0.0:{settings.port}"),
        "hostname": settings.ca_hostname,
        "subject": settings.dn,
        "key_algorithm": settings.key_pair_algorithm,
        "key_size": settings.key_size,
        "days": settings.days,
        **{name: value for name, value in allowed.items() if value},
    }


def _given(options: ServerOptions, warn: Callable[[str], None], *, new: bool) -> tuple[ServerConfig, Adopted | None]:
    """Return the settings; and the authority of a toolkit server: without it its cluster would lose its trust."""
    taken = None
    if options.from_nifi is not None:
        # An absolute path: relative to here, and not to that directory.
        file = ca_files.CONFIG if options.config_in is None else str(options.config_in.absolute())
        found = migrate.read_toolkit(options.from_nifi, file)
        taken, remarks = Adopted(found.certificate, found.key), found.remarks
        # Root takes over what is of the toolkit's own user, but that user does not say where root writes.
        settings = msgspec.structs.replace(found.config, key_store=Path(found.config.key_store or "").name)
    elif options.config_in is not None:
        decoded = _read(options.config_in)
        settings, remarks = decoded.config, decoded.remarks
        if new and os.path.lexists(settings.key_store or ""):
            found = migrate.open_toolkit(Path(), decoded, options.config_in)
            taken = Adopted(found.certificate, found.key)
    else:
        settings, remarks = _with_passwords(options.config, options.config_out)
    for remark in remarks:
        warn(remark)
    if options.different_key_password and settings.key_password is None:
        settings = msgspec.structs.replace(settings, key_password=new_password())
    return settings, taken


def _read(path: Path) -> config.Decoded[ServerConfig]:
    try:
        return config.read(path, ServerConfig)
    except NotFound:
        raise ConfigError(f"no configuration at {str(path)!r}", hint="leave out -F to have one made") from None


def _with_passwords(settings: ServerConfig, path: Path) -> tuple[ServerConfig, tuple[str, ...]]:
    """
    Return what the flags say with the passwords of the last run, and remarks.

    Without the passwords its key store could not be kept. So a file that cannot be read is not written over.
    """
    try:
        decoded = config.read(path, ServerConfig)
    except NotFound:
        return settings, ()
    except ConfigError as error:
        hint = "it may have the passwords of a key store: correct it, or move it away to have a new one made"
        raise ConfigError(error.message, hint=hint) from None
    last = decoded.config
    if last.key_store != settings.key_store:
        return settings, ()
    known = msgspec.structs.replace(
        settings, key_store_password=last.key_store_password, key_password=last.key_password
    )
    return known, decoded.remarks


def _require_room(settings: ServerConfig, taken: Adopted | None) -> None:
    """Refuse to begin beside the store of another CA, before anything is made."""
    path = Path(settings.key_store or "")
    if not os.path.lexists(path):
        return
    if taken is not None:
        ca_files.check_store(path, settings, taken.certificate)
        return
    raise Refused(
        f"{str(path)!r} exists, and its CA was not taken over yet",
        hint="to go on with it use -F, or --from-nifi and its directory; for a new CA move it away",
    )


def _check(options: ServerOptions, settings: ServerConfig, root: x509.Certificate, taken: Adopted | None) -> None:
    """Refuse to serve another authority than the one that was asked for."""
    if taken is not None and taken.certificate != root:
        raise Refused(
            f"the authority in {str(options.data)!r} is not the one that was to be taken over",
            hint="give another --data to take it over there",
        )
    from_flags = options.config_in is None and options.from_nifi is None
    asked = dn.parse(settings.dn or "") if from_flags else root.subject
    if asked != root.subject:
        raise UsageError(
            f"the authority in {str(options.data)!r} is {dn.written(root.subject)!r}, not {dn.written(asked)!r}",
            hint="clients compare the name: give -c and -D as they were, or another --data",
        )


def _write(options: ServerOptions, settings: ServerConfig, authority: FlatAuthority) -> None:
    ca_files.write_ca_files(
        Path(),  # as the original: the store in the working directory, wherever the configuration is
        settings,
        root=authority.root,
        key=authority.root_key,
        now=SystemClock().now(),
        config_file=str(options.config_out),
    )
