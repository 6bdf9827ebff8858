"""
Others that look for our registrar, each at a place of its own in the network: registrars, and whoever else it can ask.

Our registrar is to each other one an ordinary holder of a credential, from an ordinary `handfast join`; and it is to
ours the registrar under a pin. All have to see the same (``policy.look``); who cannot be asked has not.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from functools import partial

import msgspec

from handfast.core import vantage
from handfast.core.invitation import Address
from handfast.core.look import Look, Seen
from handfast.core.ssh_ports import Looker
from handfast.errors import HandfastError, TooMuch
from handfast.newcomer.keystore import Keystore
from handfast.newcomer.operate import as_holder
from handfast.policy.look import against_look

PATIENCE = 45.0  # seconds for an answer: the other one gives up a little sooner
MOST = 8  # vantage points
_THREADS = 2 * MOST
_BREAK = 30  # seconds until one that had too much is asked again


@dataclass(frozen=True, slots=True)
class Vantage:
    """One registrar elsewhere, and where our credential for it is, which somebody renews."""

    address: Address
    keystore: Keystore
    now: Callable[[], datetime]

    def look(self, look: Look) -> Seen:
        """
        Have it look, and wait.

        :raises HandfastError: it cannot be asked, or refuses; it is not who it should be.
        """
        body = msgspec.json.encode(vantage.request(look))
        with as_holder(self.keystore, self.now, addresses=(self.address,), deadline=PATIENCE + 10) as registrar:
            said = registrar.connection.call("POST", vantage.PATH, vantage.SeenAnswer, body, patience=PATIENCE)
        return vantage.seen(look, said, by=str(self.address))


@dataclass(frozen=True, slots=True)
class Everywhere:
    """Looks from here, and then from all vantage points; ``others`` are those that are no registrars, by name."""

    here: Looker
    points: tuple[Vantage, ...]
    others: Mapping[str, Callable[[Look], Awaitable[Seen]]] = field(default_factory=dict)
    threads: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(_THREADS, "vantage"))

    async def look(self, look: Look) -> tuple[Seen, ...]:
        """
        Return what is seen; the others are asked only for what we have seen ourselves, so nobody floods them by us.

        :raises PolicyRefused: as ``here``. :raises TooMuch: likewise, or one of the others had too much.
        """
        ours = await self.here.look(look)
        if against_look(look, ours):
            return ours
        asked = [self._ask(str(point.address), partial(self._in_thread, point), look) for point in self.points]
        asked += [self._ask(by, ask, look) for by, ask in self.others.items()]
        return (*ours, *await asyncio.gather(*asked))

    async def _in_thread(self, point: Vantage, look: Look) -> Seen:
        return await asyncio.get_running_loop().run_in_executor(self.threads, point.look, look)

    @staticmethod
    async def _ask(by: str, ask: Callable[[Look], Awaitable[Seen]], look: Look) -> Seen:
        try:
            return await ask(look)
        except TooMuch:
            hint = f"try again in {_BREAK} s"
            raise TooMuch("others that look for us were asked too often just now", hint=hint, after=_BREAK) from None
        except HandfastError as error:
            return vantage.unseen(look, error.message, by=by)
