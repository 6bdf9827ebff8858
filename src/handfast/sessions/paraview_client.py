"""
The client's half of ParaView: to refuse what would not understand us, to leave with the GUI, and native reverse.

In native reverse ParaView listens, and so does the session's client. Somebody has to dial both.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Literal

from handfast.adapters.pace import sparing
from handfast.core.invitation import Address
from handfast.errors import HandfastError, Unreachable
from handfast.sessions import local
from handfast.sessions.connect import Way
from handfast.sessions.control import Side
from handfast.sessions.engine import Link
from handfast.sessions.hello import Answer, Hello, Phone
from handfast.sessions.local import Endpoint
from handfast.sessions.relay import Ended
from handfast.sessions.trust import Peer

_EVERY = 0.5  # seconds between looks whether ParaView listens: no event says so
_LOOK, _LOOKS = 0.05, 100  # seconds; until ParaView has taken a call, nobody can say whose it is


def _content(about: Mapping[str, str]) -> None:
    """Have nothing against a peer."""


@dataclass(slots=True)
class JudgingSide(Side):
    """
    A side that looks at what the peer says about itself, before anything else of it is used. ``judge`` raises.

    ``misfit`` is why a peer that dialled us was sent away: nobody else would tell the person who waits for it.
    """

    judge: Callable[[Mapping[str, str]], None] = _content
    misfit: asyncio.Future[HandfastError] = field(default_factory=lambda: asyncio.get_running_loop().create_future())

    async def greet(self, link: Link[Peer], want: Literal["stream", "control"], token: str | None = None) -> Answer:
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
            if not self.misfit.done():
                self.misfit.set_result(error)
            await self.refuse(link, error)
            raise
        return said


class OnceWay(Way):
    """``way``, which says when its first stream has begun, and when it is over."""

    def __init__(self, way: Way) -> None:
        super().__init__(way.side)
        self._way = way
        self.begun, self.over = asyncio.Event(), asyncio.Event()

    async def ready(self) -> Peer:
        """As ``Way.ready``."""
        return await self._way.ready()

    async def stream(self, plain: socket.socket) -> Ended:
        """As ``Way.stream``."""
        self.begun.set()
        try:
            return await self._way.stream(plain)
        finally:
            self.over.set()

    async def hand_over(self, phone: Phone) -> None:
        """As ``Way.hand_over``."""
        await self._way.hand_over(phone)


async def bring_together(paraview: Address, way: Way, told: Callable[[str], None]) -> None:
    """
    Whenever ParaView listens at ``paraview``, give it a stream of the session, until cancelled.

    ParaView goes first: it may be hours before it listens, and pvserver has one call to give. Another user of this
    machine may listen there before it does, and who is given pvserver runs code as ours: so whose it is is asked.
    """
    told = sparing(told)
    while True:
        try:
            plain = await local.dial(Endpoint(paraview))
        except Unreachable:
            await asyncio.sleep(_EVERY)
            continue
        if not await _taken_by_us(plain):
            plain.close()
            told(f"what listens at {paraview} is not this user's ParaView, and got nothing")
            await asyncio.sleep(_EVERY)
            continue
        try:
            await way.stream(plain)
        except HandfastError as error:
            told(error.message)


async def _taken_by_us(plain: socket.socket) -> bool:
    """Whether a process of our own user takes this call; it is nobody's until somebody does."""
    try:
        for _ in range(_LOOKS):
            if local.is_ours(plain):
                return True
            await asyncio.sleep(_LOOK)
    except BaseException:
        plain.close()
        raise
    return False
