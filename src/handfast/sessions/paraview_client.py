"""The client's half of ParaView: refuse what would not understand us, and native reverse, where the GUI listens."""

from __future__ import annotations

import asyncio
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field

from handfast.core.invitation import Address
from handfast.errors import HandfastError, Unreachable
from handfast.sessions import local
from handfast.sessions.connect import Way
from handfast.sessions.control import Side
from handfast.sessions.engine import Link
from handfast.sessions.hello import Answer, Hello
from handfast.sessions.local import Endpoint
from handfast.sessions.trust import Peer

_EVERY = 0.5  # seconds between looks whether ParaView listens: no event says so


@dataclass(slots=True)
class JudgingSide(Side):
    """A side that looks at what the peer says about itself, before anything else of it is used. ``judge`` raises."""

    judge: Callable[[Mapping[str, str]], None] = field(default=lambda about: None)

    async def greet(self, link: Link[Peer], want: str, token: str | None = None) -> Answer:
        """As ``Side.greet``. :raises HandfastError: ``judge`` did."""
        answer = await Side.greet(self, link, want, token)
        self.judge(answer.about)
        return answer

    async def heard(self, link: Link[Peer]) -> Hello:
        """As ``Side.heard``. :raises HandfastError: ``judge`` did, and the peer was told."""
        said = await Side.heard(self, link)
        try:
            self.judge(said.about)
        except HandfastError as error:
            await self.refuse(link, error)
            raise
        return said


async def bring_together(paraview: Address, way: Way, *, once: bool, told: Callable[[str], None]) -> None:
    """
    Whenever ParaView listens at ``paraview``, give it a stream of the session; with ``once`` return after the first.

    ParaView goes first: it may be hours before it listens, and pvserver has one call to give.
    """
    while True:
        try:
            plain = await local.dial(Endpoint(paraview))
        except Unreachable:
            await asyncio.sleep(_EVERY)
            continue
        try:
            await way.stream(plain)
        except HandfastError as error:
            told(error.message)
        if once:
            return
