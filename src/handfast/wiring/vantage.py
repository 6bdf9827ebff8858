"""Vantage points: who has to see what ours sees. Other registrars, by credentials of theirs; agents, by our own."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from datetime import datetime
from functools import partial

from handfast.config.scan import AGENT, ScanSettings
from handfast.core.keys import format_pin
from handfast.core.look import Look, Seen
from handfast.core.roles import Role
from handfast.core.ssh_ports import Looker
from handfast.errors import ConfigError, HandfastError, Unreachable
from handfast.newcomer.keystore import Keystore
from handfast.newcomer.renew import held
from handfast.newcomer.vantage import Everywhere, Vantage

_ROLES = frozenset({Role.AGENT, Role.CONTROLLER, Role.PEER, Role.OPERATOR})  # that may ask: see ``server.vantage``
_JOIN = "handfast join --out DIR with an invitation of that registrar, for role agent"


@dataclass(slots=True)
class Agents:
    """The agents that look: ``ask`` is set by whoever is their controller, for as long as it is."""

    ask: Callable[[str, Look], Awaitable[Seen]] | None = None

    async def look(self, name: str, look: Look) -> Seen:
        """Have an instance look. :raises HandfastError: it cannot be asked, or refuses; it is not who it should be."""
        if self.ask is None:
            raise Unreachable("nobody here watches the instances at the moment", hint="is another process doing so?")
        return await self.ask(name, look)


def everywhere(here: Looker, settings: ScanSettings, now: Callable[[], datetime], agents: Agents) -> Looker:
    """
    Return what looks from here, and from all vantage points that are configured.

    :raises ConfigError: there is no credential for one of them, or one that it would not take.
    """
    if not (settings.vantage or settings.agents):
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
    others = {f"{AGENT}{name}": partial(agents.look, name) for name in settings.agents}
    return Everywhere(here, tuple(points), others)


def _read(keystore: Keystore) -> tuple[bytes, Keystore]:
    try:
        holding = held(keystore)
    except HandfastError as error:
        raise ConfigError(f"[ssh.scan] credential: {error.message}", hint=error.hint or _JOIN) from None
    if holding.identity.role not in _ROLES:
        where = str(keystore.directory)
        raise ConfigError(f"[ssh.scan] credential: {where!r} is for role {holding.identity.role}", hint=_JOIN)
    return holding.pin, keystore
