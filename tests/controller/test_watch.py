"""Watching instances: each by itself, what lasts is written down first, and nobody is asked who must not be."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Sequence
from contextlib import asynccontextmanager
from dataclasses import dataclass, field, replace
from typing import cast

import pytest

from handfast.controller import watch
from handfast.controller.http import Connection
from handfast.controller.meeting import Meetings
from handfast.controller.watch import Watch
from handfast.core.instances import Instance, Issued, Met, Shown, State, Stranger, Verified, lasting, met
from handfast.errors import Fault, Unreachable
from tests.core.test_instances import KEY, NEW, NOW, OTHER

PATIENCE = 20.0  # seconds, for what takes none


@dataclass
class Line:
    """A connection of which nothing but its end is looked at."""

    closed: bool = False
    spent: bool = False

    @property
    def usable(self) -> bool:
        """As long as nobody has closed it, or said that he will not answer on it any more."""
        return not self.closed and not self.spent

    def close(self) -> None:
        """Close it."""
        self.closed = True


class Clock:
    """What meetings ask for the time."""

    class context:  # noqa: N801
        """As a registrar has it."""

        now = staticmethod(lambda: NOW)


@dataclass
class Story:
    """What each instance answers, meeting by meeting; the last goes on for ever."""

    met: dict[str, list[Met | BaseException]]
    registry: dict[str, Instance]
    dialled: list[str] = field(default_factory=list)
    told: list[tuple[str, str]] = field(default_factory=list)
    kept: list[Instance] = field(default_factory=list)
    lines: dict[str, Line] = field(default_factory=dict)
    refuses: int = 0
    registrar = Clock
    changed: asyncio.Event = field(default_factory=asyncio.Event)

    def instances(self) -> list[Instance]:
        """The registry."""
        return list(self.registry.values())

    async def keep(self, before: Instance, after: Instance) -> Instance:
        """Write down, unless it cannot be."""
        if self.refuses:
            self.refuses -= 1
            raise Fault("the disk is full")
        assert lasting(self.registry[before.name]) == lasting(before)
        self.registry[before.name] = after
        self.kept.append(after)
        return after

    async def dial(self, instance: Instance) -> Connection:
        """Connect, where somebody is there."""
        self.dialled.append(instance.name)
        if isinstance(self.met[instance.name][0], Unreachable):
            await self.meet(instance, None)
        self.lines[instance.name] = Line()
        return cast(Connection, self.lines[instance.name])

    async def meet(self, instance: Instance, _connection: object, _under_way: object = None) -> Instance:
        """Meet as the story says."""
        story = self.met[instance.name]
        what = story.pop(0) if len(story) > 1 else story[0]
        self.changed.set()
        if isinstance(what, BaseException):
            raise what
        return met(instance, what, at=NOW)

    def tell(self, before: Instance, after: Instance) -> None:
        """Take note of a change."""
        self.told.append((before.name, after.state.value))
        self.changed.set()

    async def until(self, true: Callable[[], bool]) -> None:
        """Wait for something that has to come about."""
        async with asyncio.timeout(PATIENCE):
            while not true():
                await self.changed.wait()
                self.changed.clear()

    def states(self) -> list[str]:
        """Return the states that were told of."""
        return [state for _, state in self.told]


@asynccontextmanager
async def watching(story: Story, monkeypatch: pytest.MonkeyPatch) -> AsyncIterator[Watch]:
    """Watch, without pauses."""
    monkeypatch.setattr(watch, "_FIRST", 0.001)
    monkeypatch.setattr(watch, "_LONGEST", 0.002)
    watched = Watch(lambda: cast(Meetings, story), story, story.dial, tell=story.tell, every=0.001)
    task = asyncio.ensure_future(watched.run())
    try:
        yield watched
    finally:
        task.cancel()
        await asyncio.wait({task})


def named(name: str, **changes: object) -> Instance:
    """Return a new instance."""
    return replace(NEW, name=name, **changes)  # type: ignore[arg-type]


def story_of(*stories: tuple[Instance, Sequence[Met | BaseException]]) -> Story:
    """Return the story of these instances."""
    return Story({each.name: list(met) for each, met in stories}, {each.name: each for each, _ in stories})


async def test_an_instance_comes_to_run(monkeypatch: pytest.MonkeyPatch) -> None:
    """From silence to a verified key; each step that lasts is on record, and each connection but the last is closed."""
    steps: list[Met | BaseException] = [Unreachable("refused"), Shown(KEY), Issued(KEY, 7), Verified(KEY)]
    story = story_of((named("web1"), steps))
    async with watching(story, monkeypatch):
        await story.until(lambda: "running" in story.states())
    assert story.states() == ["waiting", "introducing", "verifying", "running"]
    assert [each.serial for each in story.kept] == [None, 7]
    assert story.registry["web1"].expected == KEY


async def test_one_that_runs_keeps_its_connection(monkeypatch: pytest.MonkeyPatch) -> None:
    """Asking how it is costs no handshake."""
    story = story_of((named("web1", expected=KEY, serial=7, state=State.UNREACHABLE), [Verified(KEY)]))
    asked = 0

    async with watching(story, monkeypatch):
        await story.until(lambda: "running" in story.states())
        begun = len(story.dialled)
        for _ in range(20):
            story.changed.clear()
            await story.changed.wait()
            asked += 1
    assert asked == 20
    assert len(story.dialled) - begun <= 1
    assert story.kept == []


async def test_a_wrong_key_is_not_tried_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """Quarantine is written down, told, and ends the meetings, until somebody releases it."""
    running = named("web1", expected=KEY, serial=7, state=State.UNREACHABLE)
    story = story_of((running, [Stranger("another key", OTHER)]), (named("web2"), [Unreachable("refused")]))
    async with watching(story, monkeypatch):
        await story.until(lambda: ("web1", "quarantined") in story.told)
        tried = story.dialled.count("web1")
        await story.until(lambda: story.dialled.count("web2") > 50)
        assert story.dialled.count("web1") == tried
        story.met["web1"] = [Verified(KEY)]
        story.registry["web1"] = running
        await story.until(lambda: ("web1", "running") in story.told)
    assert [each.state for each in story.kept] == [State.QUARANTINED]
    assert story.lines["web1"].closed


async def test_none_waits_for_another(monkeypatch: pytest.MonkeyPatch) -> None:
    """One that swallows what it is sent, and one whose meeting is a bug of ours, hold up nobody."""
    story = story_of(
        (named("hole"), [Unreachable("x")]),
        (named("bug"), [ZeroDivisionError()]),
        (named("web1", expected=KEY, serial=7, state=State.UNREACHABLE), [Verified(KEY)]),
    )
    forever = asyncio.Event()
    ordinary = story.dial

    async def dial(instance: Instance) -> Connection:
        if instance.name == "hole":
            await forever.wait()
        return await ordinary(instance)

    monkeypatch.setattr(story, "dial", dial)
    async with watching(story, monkeypatch):
        await story.until(lambda: ("web1", "running") in story.told)
        await story.until(lambda: story.dialled.count("bug") > 3)


async def test_what_cannot_be_written_down_has_not_happened(monkeypatch: pytest.MonkeyPatch) -> None:
    """While the ledger cannot be written nothing follows: the instance is met again as it was."""
    story = story_of((named("web1", state=State.INTRODUCING), [Issued(KEY, 7), Issued(KEY, 7), Verified(KEY)]))
    story.refuses = 1
    async with watching(story, monkeypatch):
        await story.until(lambda: "running" in story.states())
    assert [each.serial for each in story.kept] == [None, 7]


async def test_its_own_change_is_no_others(monkeypatch: pytest.MonkeyPatch) -> None:
    """What it wrote down itself, and finds there before it has heard that it is durable, is told all the same."""
    story = story_of((named("web1", state=State.INTRODUCING), [Stranger("a wrong proof", OTHER)]))
    ordinary = story.keep

    async def keep(before: Instance, after: Instance) -> Instance:
        kept = await ordinary(before, after)
        watched._notice()
        return kept

    monkeypatch.setattr(story, "keep", keep)
    async with watching(story, monkeypatch) as watched:
        await story.until(lambda: "quarantined" in story.states())
    assert [each.state for each in watched.instances] in ([], [State.QUARANTINED])


async def test_added_and_removed_while_it_watches(monkeypatch: pytest.MonkeyPatch) -> None:
    """An instance that is added is met, one that is removed is left alone, one that nobody has placed is not asked."""
    story = story_of((named("web1"), [Unreachable("refused")]))
    story.met |= {"web2": [Verified(KEY)], "web3": [Verified(KEY)]}
    async with watching(story, monkeypatch) as watched:
        await story.until(lambda: "web1" in story.dialled)
        del story.registry["web1"]
        story.registry["web2"] = named("web2", expected=KEY, serial=7, state=State.UNREACHABLE)
        story.registry["web3"] = named("web3", address=None, state=State.PENDING)
        await story.until(lambda: ("web2", "running") in story.told)
        assert [each.name for each in watched.instances] == ["web2", "web3"]
        assert "web3" not in story.dialled


async def test_nobody_who_runs_waits_for_black_holes(monkeypatch: pytest.MonkeyPatch) -> None:
    """More addresses that swallow all that is sent than are connected to at a time: who runs is asked as ever."""
    holes = [(named(f"hole{number}"), [Unreachable("x")]) for number in range(watch.CONNECTING + 44)]
    runs = (named("web1", expected=KEY, serial=7, state=State.UNREACHABLE), [Verified(KEY)])
    story = story_of(runs)
    hanging, ordinary, forever = 0, story.dial, asyncio.Event()

    async def dial(instance: Instance) -> Connection:
        nonlocal hanging
        if not instance.name.startswith("hole"):
            return await ordinary(instance)
        hanging += 1
        story.changed.set()
        await forever.wait()
        raise AssertionError

    monkeypatch.setattr(story, "dial", dial)
    async with watching(story, monkeypatch):
        await story.until(lambda: "running" in story.states())
        story.met |= {each.name: list(met) for each, met in holes}
        story.registry |= {each.name: each for each, _ in holes}
        await story.until(lambda: hanging == watch.CONNECTING)
        await asked(story, "web1", 20)
    assert (hanging, story.dialled) == (watch.CONNECTING, ["web1"])


async def test_who_is_introduced_waits_for_few_black_holes(monkeypatch: pytest.MonkeyPatch) -> None:
    """Holes take places for connecting alone: as many as are introduced at a time hold up no introduction."""
    holes = [(named(f"hole{number}"), [Unreachable("x")]) for number in range(watch.CONNECTING - 1)]
    story = story_of((named("web1"), [Shown(KEY), Issued(KEY, 7), Verified(KEY)]), *holes)
    ordinary, forever = story.dial, asyncio.Event()

    async def dial(instance: Instance) -> Connection:
        if instance.name.startswith("hole"):
            await forever.wait()
        return await ordinary(instance)

    monkeypatch.setattr(story, "dial", dial)
    async with watching(story, monkeypatch):
        await story.until(lambda: ("web1", "running") in story.told)


async def test_nobody_waits_for_those_who_fall_silent(monkeypatch: pytest.MonkeyPatch) -> None:
    """As many as are introduced at a time, who take a connection and then say nothing: polls and verifying go on."""
    silent = [(named(f"hole{number}"), [Unreachable("x")]) for number in range(watch.INTRODUCING)]
    runs = (named("web1", expected=KEY, serial=7, state=State.UNREACHABLE), [Verified(KEY)])
    due = named("web2", state=State.VERIFYING, issued_key=KEY, issued_serial=7)
    story = story_of(runs)
    meeting, ordinary, forever = 0, story.meet, asyncio.Event()

    async def dial(_instance: Instance) -> Connection:
        return cast(Connection, Line())

    async def meet(instance: Instance, connection: object, _under_way: object = None) -> Instance:
        nonlocal meeting
        if instance.name.startswith("hole"):
            meeting += 1
            story.changed.set()
            await forever.wait()
        return await ordinary(instance, connection)

    monkeypatch.setattr(story, "dial", dial)
    monkeypatch.setattr(story, "meet", meet)
    async with watching(story, monkeypatch):
        await story.until(lambda: "running" in story.states())
        story.registry |= {each.name: each for each, _ in silent}
        await story.until(lambda: meeting == watch.INTRODUCING)
        story.met["web2"] = [Verified(KEY)]
        story.registry["web2"] = due
        await story.until(lambda: ("web2", "running") in story.told)
        await asked(story, "web1", 20)


async def test_what_is_said_while_it_waits_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    """An instance that an operator changes while it waits for a place is met as it is by then."""
    monkeypatch.setattr(watch, "INTRODUCING", 1)
    story = story_of((named("hole"), [Unreachable("x")]), (named("web1"), [Shown(OTHER)]))
    ordinary, first, waits, forever = story.meet, asyncio.Event(), asyncio.Event(), asyncio.Event()
    met_as: list[Instance] = []

    async def dial(instance: Instance) -> Connection:
        if instance.name == "web1":
            await first.wait()
            waits.set()
        return cast(Connection, Line())

    async def meet(instance: Instance, connection: object, _under_way: object = None) -> Instance:
        if instance.name == "hole":
            first.set()
            await forever.wait()
        met_as.append(instance)
        return await ordinary(instance, connection)

    monkeypatch.setattr(story, "dial", dial)
    monkeypatch.setattr(story, "meet", meet)
    async with watching(story, monkeypatch) as watched:
        await waits.wait()
        story.registry["web1"] = named("web1", expected=KEY)
        watched._notice()
        forever.set()
        await story.until(lambda: ("web1", "quarantined") in story.told)
    assert {each.expected for each in met_as if each.name == "web1"} == {KEY}


async def test_what_cannot_be_used_again_is_closed(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever answers "Connection: close", and does not close, has one connection of ours and not one for each call."""
    runs = named("web1", state=State.RUNNING, serial=7, expected=KEY)
    story = story_of((runs, [Verified(KEY)]))
    async with watching(story, monkeypatch):
        await story.until(lambda: "web1" in story.lines)
        first = story.lines["web1"]
        first.spent = True
        await story.until(lambda: story.lines["web1"] is not first)
        assert first.closed


async def test_its_state_begins_when_it_is_seen(monkeypatch: pytest.MonkeyPatch) -> None:
    """The ledger has no time for what does not last; what was written down keeps its own."""
    waits = named("web1", since=NEW.deadline)
    failed = named("web2", state=State.TIMED_OUT, since=NEW.deadline)
    story = story_of((waits, [Unreachable("x")]), (failed, [Unreachable("x")]))
    async with watching(story, monkeypatch) as watched:
        await story.until(lambda: "waiting" in story.states())
        assert [each.since for each in watched.instances] == [NOW, NEW.deadline]


@pytest.mark.parametrize("turns", range(5))
async def test_it_ends_when_told_to(turns: int) -> None:
    """Even where an instance calls a few turns of the loop before, and wakes who watches it."""
    story = story_of((named("web1"), [Unreachable("x")]))
    watched = Watch(lambda: cast(Meetings, story), story, story.dial, tell=story.tell)
    task = asyncio.ensure_future(watched.run())
    await story.until(lambda: "waiting" in story.states())  # and sleeps for a second
    watched.woken("web1")
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.wait({task}, timeout=PATIENCE)
    assert task.cancelled()
    assert asyncio.all_tasks() == {asyncio.current_task()}


async def asked(story: Story, name: str, times: int) -> None:
    """Wait until an instance was met so many times more."""
    ordinary, count = story.meet, 0

    async def meet(instance: Instance, connection: object, _under_way: object = None) -> Instance:
        nonlocal count
        count += instance.name == name
        return await ordinary(instance, connection)

    story.meet = meet  # type: ignore[method-assign,assignment]
    await story.until(lambda: count >= times)
