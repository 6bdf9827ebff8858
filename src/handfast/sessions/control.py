"""
The two first frames of every connection, and the conversation on a control connection: the same whoever dialled.

A control connection is how each side knows that the other is there: a ping every 15 seconds, dead after 45. Over it
revocation lists travel, the server is asked to dial, and told where to phone next.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from datetime import datetime
from pathlib import Path
from typing import Literal, NoReturn

import structlog

from handfast import __version__
from handfast.adapters.clock import SystemClock
from handfast.adapters.tls import session_client_context, session_server_context
from handfast.core.roles import Role
from handfast.errors import Fault, HandfastError, Malformed, Refused, Revoked, TooMuch, Unreachable, UntrustedPeer
from handfast.sessions import hello, party
from handfast.sessions.engine import Engine, Limits, Link
from handfast.sessions.hello import Answer, Control, Crl, Hello, Phone, Ping, Pong
from handfast.sessions.trust import INTERVAL, Peer, Trust

PING, DEAD = 15.0, 45.0  # seconds
RATE, BURST = 500.0, 1024.0  # what a peer may say, a second and at once: a message and each KiB of it count one
_COST: dict[type[Control], float] = {Phone: RATE}  # more for what is written to the disk
_log: structlog.typing.FilteringBoundLogger = structlog.get_logger()
_REFUSALS: dict[str, type[HandfastError]] = {hello.UNREACHABLE_SERVICE: Unreachable} | {
    each.code: each for each in (Revoked, UntrustedPeer, Refused, TooMuch, Malformed, Unreachable)
}


@dataclass(slots=True)
class Side:
    """One party at work: who it is, whom it trusts, and its connections."""

    trust: Trust
    engine: Engine[Peer]
    now: Callable[[], datetime]
    about: dict[str, str] = field(default_factory=dict)
    controls: set[Link[Peer]] = field(default_factory=set)
    watching: asyncio.Task[NoReturn] | None = None
    problem: Callable[[HandfastError], None] = lambda error: _log.warning("a revocation list", error=error.message)

    @classmethod
    def open(cls, path: Path, role: Role, *, limits: Limits | None = None, about: dict[str, str] | None = None) -> Side:
        """
        Read a session file for one role.

        :raises UsageError, Refused, Unsafe, Malformed: it is for the other role, or cannot be used; see ``party.read``.
        """
        now = SystemClock().now
        own = party.read(path, now=now())
        if own.role is not role:
            raise Refused(
                f"{str(path)!r} is the file of the {own.role} {own.name!r}, and this is for the {role}",
                hint="`handfast session serve` takes the server's file, `handfast session connect` a client's",
            )
        trust = Trust(own, now=now, path=path)
        make = session_server_context if role is Role.SERVER else session_client_context
        context = make([own.leaf, own.issuing], own.key, own.root, alpn=hello.ALPN)
        engine: Engine[Peer] = Engine(
            context,
            lambda der: trust.verify(der, now()),
            limits=limits,
            refusal=lambda error: hello.encode(_refusal(error, trust, now())),
        )
        return cls(trust, engine, now, {"handfast": __version__, **(about or {})})

    @contextlib.asynccontextmanager
    async def running(self, problem: Callable[[HandfastError], None]) -> AsyncIterator[None]:
        """
        Keep looking for revocations, and cut off who was taken back; close everything at the end.

        ``problem`` gets what is wrong with a revocation list: at the start, found later, or not to be kept.
        """
        push: set[asyncio.Task[None]] = set()

        def on_revoked(serials: frozenset[int]) -> None:
            self.engine.cut(serials)
            for link in list(self.controls):
                task = asyncio.ensure_future(self._push(link))
                push.add(task)
                task.add_done_callback(push.discard)

        self.trust.on_revoked, self.problem = on_revoked, problem
        for each in self.trust.problems:
            problem(each)
        self.watching = watching = asyncio.create_task(self.trust.watch(problem))
        try:
            yield
        finally:
            watching.cancel()
            for task in push:
                task.cancel()
            await asyncio.gather(watching, *push, return_exceptions=True)
            self.engine.close()

    async def guard(self) -> NoReturn:
        """
        Wait until we may not go on.

        Meanwhile, cut off the peers whose certificates end.

        :raises Revoked: our own credential was taken back. :raises Refused: it has expired, with the session.
        """
        own = self.trust.party
        while True:
            self.trust.check_own()
            now = self.now()
            # Looked at like our own, and not timed when they came: clocks are set, and laptops sleep.
            ended = [peer.serial for peer in self.engine.peers() if now > peer.not_after]
            self.engine.cut(ended, "its certificate has ended")
            if now > own.not_after:
                raise Refused(
                    f"the session {own.session!r} was over for {own.name!r} at {own.not_after:%Y-%m-%d %H:%M}Z",
                    hint="ask the owner of the session for a new file",
                )
            if self.watching is not None and self.watching.done():
                await self.watching  # nobody looks for revocations any more: a bug, and no reason to let them in
            await asyncio.sleep(INTERVAL)

    async def greet(self, link: Link[Peer], want: Literal["stream", "control"], token: str | None = None) -> Answer:
        """
        Say hello as the one who dialled, and return the answer.

        :raises HandfastError: the peer said no, with its own words. :raises Unreachable: it is gone, or says nothing.
        :raises Malformed: it does not speak this protocol. :raises Refused: a clock is wrong.
        :raises Revoked: its credential was taken back by the list that it sent along, or ours.
        """
        said = Hello(
            want=want,
            crl=self.trust.crl_number,
            time=self._time(),
            token=token,
            crl_der=_fitting(self.trust) if want == "control" else None,
            about=self.about,
        )
        await link.send(hello.encode(said))
        answer = hello.decode(await link.receive(within=self.engine.limits.answer, to="answer"), Answer)
        await self._believe(answer)
        self._look_again(link)
        return answer

    async def heard(self, link: Link[Peer]) -> Hello:
        """Return the hello of whoever dialled us. :raises HandfastError: not one, or a clock that cannot be."""
        body = await link.receive()
        try:
            said = hello.decode(body, Hello)
        except Malformed:
            await self._believe(_answer(body))
            raise
        await self._learn(said.crl_der)
        try:
            self.trust.check_clock(said.time, self.now())
            self._look_again(link)
        except HandfastError as error:
            await self.refuse(link, error)
            raise
        return said

    async def accept(self, link: Link[Peer], said: Hello) -> None:
        """Answer yes, with a newer list if the peer has an older one. :raises Unreachable: it is gone."""
        der = _fitting(self.trust) if self.trust.crl_number > said.crl else None
        answer = Answer(ok=True, crl=self.trust.crl_number, time=self._time(), crl_der=der, about=self.about)
        await link.send(hello.encode(answer))

    async def refuse(self, link: Link[Peer], error: HandfastError, code: str | None = None) -> None:
        """Answer no, and say why: the peer has proved that it belongs here. Never raises."""
        await link.dismiss(hello.encode(_refusal(error, self.trust, self.now(), code)))

    async def converse(self, link: Link[Peer], act: Callable[[Control], Awaitable[None]]) -> None:
        """
        Hold a control connection until it ends; ``act`` gets what is neither a ping nor a revocation list.

        :raises HandfastError: why it ended: the peer is gone, was silent, or was cut off.
        """
        pinging, pace = asyncio.create_task(_ping(link)), _Pace()
        self.controls.add(link)
        try:
            while True:
                body = await link.receive(within=DEAD, to="say that it is still there")
                message = hello.decode_control(body)
                await pace.spend(1 + len(body) // 1024 + _COST.get(type(message), 0.0))
                if isinstance(message, Ping):
                    await link.send(hello.encode(Pong()))
                elif isinstance(message, Crl):
                    await self._learn(message.crl_der)
                elif not isinstance(message, Pong):
                    await act(message)
                # What has come already is read without waiting: a peer that never pauses would stop everybody else, and
                # the look for its own revocation.
                await asyncio.sleep(0)
        finally:
            self.controls.discard(link)
            link.leave()
            pinging.cancel()
            await asyncio.gather(pinging, return_exceptions=True)

    def _look_again(self, link: Link[Peer]) -> None:
        """:raises Revoked: the peer was taken back by a list that came with what it said."""
        if self.trust.revoked(link.peer.serial):
            raise Revoked(f"the credential of {link.peer.machine!r} was revoked", hint="ask the session's owner")

    async def _believe(self, answer: Answer) -> None:
        """:raises HandfastError: the peer refuses us, or a clock is wrong, which may be why it does."""
        await self._learn(answer.crl_der)
        self.trust.check_own()
        self.trust.check_clock(answer.time, self.now())
        if not answer.ok:
            kind = _REFUSALS.get(answer.error or "", Refused)
            raise kind(f"the peer says: {answer.message or answer.error}", hint="its own log may say more")

    async def _push(self, link: Link[Peer]) -> None:
        if (crl := _fitting(self.trust)) is not None:
            with contextlib.suppress(HandfastError):
                await link.send(hello.encode(Crl(crl_der=crl)))

    def _time(self) -> int:
        return int(self.now().timestamp())

    async def _learn(self, der: bytes | None) -> None:
        if der is None or not self.trust.adopt(der):
            return
        try:
            await asyncio.to_thread(self.trust.keep)
        except Fault as error:  # it holds in memory
            self.problem(error)


class _Pace:
    """How fast a peer may speak: who says more waits until it is read, and nobody else does."""

    def __init__(self) -> None:
        self._left = BURST
        self._loop = asyncio.get_running_loop()
        self._since = self._loop.time()

    async def spend(self, cost: float) -> None:
        """Return when that much may be dealt with."""
        now = self._loop.time()
        self._left = min(BURST, self._left + (now - self._since) * RATE) - cost
        self._since = now
        if self._left < 0:
            await asyncio.sleep(-self._left / RATE)


async def _ping(link: Link[Peer]) -> None:
    while True:
        await asyncio.sleep(PING)
        await link.send(hello.encode(Ping()))


def _refusal(error: HandfastError, trust: Trust, now: datetime, code: str | None = None) -> Answer:
    # With the list: whoever was revoked learns it from its owner's signature, and not from our word.
    return Answer(
        ok=False,
        crl=trust.crl_number,
        time=int(now.timestamp()),
        error=code or error.code,
        message=error.message[:1000],
        crl_der=_fitting(trust),
    )


def _fitting(trust: Trust) -> bytes | None:
    return trust.crl if trust.crl is not None and len(trust.crl) <= hello.MAX_CRL else None


def _answer(body: bytes) -> Answer:
    """Return what a dialler says instead of hello, when it does not want us. :raises Malformed: it is neither."""
    answer = hello.decode(body, Answer)
    if answer.ok:
        raise Malformed("an answer to nothing", hint="the peer does not speak this protocol")
    return answer
