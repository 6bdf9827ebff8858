"""Following a log over restarts of its agent: for so long, however long each try takes."""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import cast

import pytest

from handfast.controller import operate
from handfast.controller.operate import Operator, Remote
from handfast.core.agentjson import LogAdded
from handfast.errors import Unreachable

GONE = Unreachable("it does not answer")
FIRST, NEXT = LogAdded(["one"], "1"), LogAdded(["two"], "2")


class Restarted(Operator):
    """An operator whose agent answers so, one time after the other."""

    __slots__ = ("story",)
    story: list[LogAdded | Unreachable]

    @asynccontextmanager
    async def agent(self, name: str) -> AsyncIterator[Remote]:
        """It is there, and whether it answers is another matter."""
        yield cast(Remote, self)

    async def last(self, _service: str, _log: str, _count: int) -> LogAdded:
        """The story."""
        return await self.since(_service, _log, "")

    async def since(self, _service: str, _log: str, _mark: str) -> LogAdded:
        """The story goes on."""
        what = self.story.pop(0)
        if isinstance(what, Unreachable):
            raise what
        return what


async def told(story: list[LogAdded | Unreachable], count: int) -> list[LogAdded]:
    """Follow for so many pieces."""
    operator = object.__new__(Restarted)
    object.__setattr__(operator, "story", story)
    pieces: list[LogAdded] = []
    async with aclosing(operator.follow("app1.lan", "web", "log", 10)) as following:
        async for piece in following:
            pieces.append(piece)
            if len(pieces) == count:
                return pieces
    return pieces


async def test_tries_are_not_counted(monkeypatch: pytest.MonkeyPatch) -> None:
    """Many that fail at once are a restart: what counts is for how long."""
    monkeypatch.setattr(operate, "_LOOK", 0.0)
    monkeypatch.setattr(operate, "_IN_VAIN", 1000.0)
    assert await told([FIRST, *[GONE] * 100, NEXT], 2) == [FIRST, NEXT]


async def test_it_ends_when_the_time_is_over(monkeypatch: pytest.MonkeyPatch) -> None:
    """Also where there were few tries, because each took long."""
    monkeypatch.setattr(operate, "_LOOK", 0.0)
    monkeypatch.setattr(operate, "_IN_VAIN", 0.0)
    story: list[LogAdded | Unreachable] = [FIRST, GONE, NEXT]
    with pytest.raises(Unreachable, match="it does not answer"):
        await told(story, 2)
    assert story == [NEXT]


async def test_who_never_answered_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    """Nothing was given yet: the operator is told at once."""
    monkeypatch.setattr(operate, "_IN_VAIN", 1000.0)
    story: list[LogAdded | Unreachable] = [GONE, FIRST]
    with pytest.raises(Unreachable):
        await told(story, 1)
    assert story == [FIRST]
