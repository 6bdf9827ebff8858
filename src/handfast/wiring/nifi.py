"""
NiFi's protocol beside our own: the same flow and the same ledger, with an authority, rules and a listener of its own.

A part of ``wiring``.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from handfast import config
from handfast.adapters.resolve import leading_to
from handfast.authority.flat import FlatAuthority
from handfast.config.settings import Config
from handfast.core.invitation import Address
from handfast.core.secret import Secret
from handfast.errors import UsageError
from handfast.introducers.nifi import SharedToken
from handfast.nifi import service
from handfast.nifi.service import Adopted
from handfast.registrar.administer import NifiTokens
from handfast.registrar.introduce import LedgerContext, Registrar

NIFI = "nifi"


@dataclass(frozen=True, slots=True)
class NifiService:
    """The same flow for NiFi's protocol: an authority, a registrar with its rules, and a listener of its own."""

    registrar: Registrar
    authority: FlatAuthority
    listen: Address


@dataclass(frozen=True, slots=True, kw_only=True)
class Given:
    """
    What flags say of NiFi's protocol.

    ``settings`` are the fields of ``NifiSettings`` that are set; ``token`` is the shared token. ``adopted`` is an
    authority to begin with.
    """

    settings: Mapping[str, Any]
    token: Secret | None
    adopted: Adopted | None
    warn: Callable[[str], None]


def nifi_tokens(data: Path, passphrase: Callable[[], Secret | None]) -> NifiTokens | None:
    """Return what makes one-time tokens for NiFi, where this registrar has an authority for it; no key is read yet."""
    if not (data / NIFI).is_dir():
        return None
    return NifiTokens(lambda: FlatAuthority.open(data / NIFI, passphrase=passphrase()).token_master())


def prepare(
    data: Path, settings: Config, given: Given, context: LedgerContext, *, hostname: str, passphrase: Secret | None
) -> Callable[[Config], NifiService | None]:
    """
    Return what gives NiFi's service under a configuration; its authority is opened, or made, now.

    ``hostname`` is the authority's where the configuration has none.
    """
    chosen = settings.nifi
    if chosen.listen is None:
        if given.adopted is not None or given.settings or given.token is not None:
            raise UsageError("settings for NiFi's protocol, and no address for it", hint="give --nifi-listen HOST:PORT")
        return lambda _settings: None
    remembered = given.token or (None if chosen.token_file else config.secret_from("nifi_token"))

    def shared(settings: Config) -> SharedToken | None:
        token, file = remembered, settings.nifi.token_file
        if token is None and file is not None:  # read each time: who changes a token that leaked wants it gone
            token = config.secret_from("nifi_token", file=file)
        return service.shared_token(settings.nifi, token)

    shared(settings)  # what it refuses must not leave an authority behind
    authority = service.open_authority(
        data / NIFI,
        chosen,
        hostname=chosen.hostname or hostname,
        adopted=given.adopted,
        now=context.now(),
        passphrase=passphrase,
        warn=given.warn,
    )
    own = replace(context, pin=authority.pin, trust_domain=authority.trust_domain)

    def build(settings: Config) -> NifiService:
        half = service.introducer(shared(settings), authority)
        rules = service.rules(settings.nifi, settings.rules)
        registrar = Registrar({half.name: half}, rules, context.ledger, authority, own, leading_to)
        return NifiService(registrar, authority, settings.nifi.listen or listen)

    listen = chosen.listen
    return build
