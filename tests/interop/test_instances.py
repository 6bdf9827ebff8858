"""Managed machines through the command line: `up` and `instance watch` as they run, a small agent beside them."""

from __future__ import annotations

import asyncio
import json
import signal
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from handfast.core import instancedata
from tests.controller.agents import Agent, Keys
from tests.interop.hosts import HANDFAST, Host, Registrar, local_host

pytestmark = pytest.mark.timeout(180)
PATIENCE = 60.0
WATCHES = "[instances]\nwatch = true\n"


@pytest.fixture
def host() -> Iterator[Host]:
    """A machine of the test's own."""
    with local_host() as made:
        yield made


class House:
    """What an operator types, while an agent answers in this process."""

    def __init__(self, host: Host, data: Path) -> None:
        self.host, self.data = host, data

    async def type(self, *arguments: str, code: int = 0) -> str:
        """Run a command of `instance`, without holding up the agent."""
        done = await asyncio.to_thread(self.host.handfast, "instance", *arguments, "--data", str(self.data), code=code)
        return done.stdout

    async def add(self, name: str, *flags: str) -> Agent:
        """Add an instance, and return the agent that has its user-data."""
        printed = await self.type("add", name, "--format", "json", *flags)
        return Agent(instancedata.read(printed.encode()))

    async def until(self, name: str, so: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Wait until `show` says so."""
        async with asyncio.timeout(PATIENCE):
            while True:
                shown: dict[str, Any] = json.loads(await self.type("show", name, "--json"))
                if so(shown):
                    return shown


def is_now(state: str) -> Callable[[dict[str, Any]], bool]:
    """Whether an instance is watched, and in this state."""
    return lambda shown: bool(shown["watched"]) and shown["state"] == state


async def test_up_is_their_controller_where_it_is_said(host: Host) -> None:
    """By its configuration, at its start or by SIGHUP; and no more when that says otherwise."""
    registrar = await asyncio.to_thread(Registrar, host)
    house, config = House(host, registrar.data), registrar.data / "config.toml"
    agent = await house.add("app1.lan")
    async with agent.listening() as address:
        await house.type("place", "app1.lan", str(address))
        config.write_text(WATCHES)
        registrar.process.kill_with(signal.SIGHUP)
        shown = await house.until("app1.lan", is_now("running"))
        assert shown["key"].startswith("SHA256:")
        assert shown["serial"] == f"{agent.now.chain[0].serial_number:032x}"
        config.write_text("")
        registrar.process.kill_with(signal.SIGHUP)
        shown = await house.until("app1.lan", lambda shown: not shown["watched"])
        assert (shown["state"], shown["reason"]) == ("unreachable", "nobody watches it now")
        config.write_text(WATCHES)
        assert await asyncio.to_thread(registrar.process.stop) == 0
        await asyncio.to_thread(registrar.up)
        await house.until("app1.lan", is_now("running"))
        failed = await asyncio.to_thread(host.handfast, "instance", "watch", "--data", str(registrar.data), code=1)
        assert "is in use by process" in failed.stderr
        assert "watching" not in failed.stderr
    shown = await house.until("app1.lan", is_now("unreachable"))
    assert "does not answer" in shown["reason"]
    assert await asyncio.to_thread(registrar.process.stop) == 0


async def test_watch_prints_a_line_for_each_change(host: Host) -> None:
    """As JSON or as text, beside an `up` that does not watch; SIGTERM ends it in good order."""
    registrar = await asyncio.to_thread(Registrar, host)
    house = House(host, registrar.data)
    agent = await house.add("app1.lan", "--require", "secret+fingerprint")
    async with agent.listening() as address:
        await house.type("place", "app1.lan", str(address))
        watching = host.start(*HANDFAST, "instance", "watch", "--data", str(registrar.data), "--json")
        line = json.loads(await asyncio.to_thread(watching.expect, "confirmed"))
        assert (line["was"], line["instance"]["state"]) == ("waiting", "waiting")
        await house.type("confirm", "app1.lan", "--fingerprint", line["instance"]["seen"])
        await asyncio.to_thread(watching.expect, '"state":"running"')
        assert await asyncio.to_thread(watching.stop) == 0
    thief = Agent(agent.data, keys=Keys())
    thief.port = agent.port
    async with thief.listening():
        watching = host.start(*HANDFAST, "instance", "watch", "--data", str(registrar.data))
        line = await asyncio.to_thread(watching.expect, "-> quarantined: it shows a key without our certificate")
        assert line.split()[1] == "app1.lan"
        listed = await asyncio.to_thread(host.handfast, "instance", "list", "--data", str(registrar.data))
        assert "quarantined: app1.lan: find out who answered there" in listed.stderr
        alarms = (await asyncio.to_thread(registrar.show, "app1.lan"))["alarms"]
        assert [each["kind"] for each in alarms] == ["alarm.quarantined"]
        watching.kill_with(signal.SIGINT)
        assert await asyncio.to_thread(watching.wait) == 0
    async with agent.listening():
        await house.type("release", "app1.lan", "--reason", "a test of ours")
        watching = host.start(*HANDFAST, "instance", "watch", "--data", str(registrar.data))
        await asyncio.to_thread(watching.expect, "-> running")
        assert await asyncio.to_thread(watching.stop) == 0
