"""Vantage points: other registrars that have to see what ours sees, each with the credential that it gave us."""

from __future__ import annotations

from collections.abc import Callable
from datetime import datetime

from handfast.config.scan import ScanSettings
from handfast.core.keys import format_pin
from handfast.core.roles import Role
from handfast.core.ssh_ports import Looker
from handfast.errors import ConfigError, HandfastError
from handfast.newcomer.keystore import Keystore
from handfast.newcomer.renew import held
from handfast.newcomer.vantage import Everywhere, Vantage

_ROLES = frozenset({Role.AGENT, Role.CONTROLLER, Role.PEER, Role.OPERATOR})  # that may ask: see ``server.vantage``
_JOIN = "handfast join --out DIR with an invitation of that registrar, for role agent"


def everywhere(here: Looker, settings: ScanSettings, now: Callable[[], datetime]) -> Looker:
    """
    Return what looks from here, and from all vantage points that are configured.

    :raises ConfigError: there is no credential for one of them, or one that it would not take.
    """
    if not settings.vantage:
        return here
    known = dict(_read(Keystore(directory)) for directory in settings.credentials)
    points = []
    for address, pin in settings.vantage:
        if pin not in known:
            raise ConfigError(
                f"[ssh.scan] vantage: no credential for {address}#{format_pin(pin)[:16]}… in [ssh.scan] credential",
                hint=_JOIN,
            )
        points.append(Vantage(address, known[pin], now))
    return Everywhere(here, tuple(points))


def _read(keystore: Keystore) -> tuple[bytes, Keystore]:
    try:
        holding = held(keystore)
    except HandfastError as error:
        raise ConfigError(f"[ssh.scan] credential: {error.message}", hint=error.hint or _JOIN) from None
    if holding.identity.role not in _ROLES:
        where = str(keystore.directory)
        raise ConfigError(f"[ssh.scan] credential: {where!r} is for role {holding.identity.role}", hint=_JOIN)
    return holding.pin, keystore
