"""
Two hundred agents at once, in networks of their own, and among them machines that take calls and are silent.

The controller is `up`, in its own network. It dials 160 agents and 40 who are silent, in eight racks; 40 agents dial
it, from two sites behind routers that translate addresses.
"""

from __future__ import annotations

import errno
import json
import re
import sys
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from pathlib import Path

import pytest

from handfast.adapters.clock import SystemClock
from handfast.controller import status
from handfast.core.instancedata import written
from handfast.core.instances import Instance, State
from handfast.core.invitation import Address
from handfast.ledger.store import SqlLedger
from handfast.registrar.instances import Instances, Wanted
from handfast.wiring import open_instances
from tests.interop import agents_stage, sites
from tests.interop.hosts import Host, Process, Registrar

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.peer("ip", "nft"), pytest.mark.timeout(900)]
COUNT, HOLES, DIALS = 200, 40, 40  # some of the agents dial
RACKS, SITES = 8, 2
EACH = (COUNT - DIALS + HOLES) // RACKS
CALLED = Address(sites.CONTROLLER, 7576)
SETTINGS = f'[instances]\nwatch = true\nlisten = "{CALLED}"\n'
PATIENCE = 300.0  # seconds, for the work of two hundred
MEMORY = 300  # MB, of the controller
ROUTE = ("ip", "route", "add", "192.168.1.0/24", "via")
TRY = "import socket, sys; sys.exit(socket.socket().connect_ex((sys.argv[1], int(sys.argv[2]))))"


@dataclass
class Fleet:
    """The controller, and what its operator sees, who is this process: it reads the files that commands read."""

    where: sites.Sites
    registrar: Registrar
    operator: Instances
    processes: list[Process] = field(default_factory=list)

    def now(self) -> dict[str, Instance]:
        """How all of them are, by name, where somebody watches."""
        found = status.current(self.registrar.data, self.operator.all(), at=SystemClock().now())
        return {each.instance.name: each.instance for each in found if each.watched}

    def until(self, so: Callable[[dict[str, Instance]], bool]) -> dict[str, Instance]:
        """Wait until it is so."""
        end = time.monotonic() + PATIENCE
        while not so(now := self.now()):
            assert time.monotonic() < end, [(name, each.state, each.reason) for name, each in sorted(now.items())]
            time.sleep(0.5)  # the controller says once a second how they are
        return now

    def all_run(self, names: set[str]) -> dict[str, Instance]:
        """Wait until all of these run."""
        return self.until(lambda now: all(name in now and now[name].state is State.RUNNING for name in names))

    def heard(self) -> dict[str, datetime]:
        """When each has last proved to be itself."""
        found = status.current(self.registrar.data, self.operator.all(), at=SystemClock().now())
        return {each.instance.name: each.contact for each in found if each.contact is not None}

    def start(self, host: Host, entries: list[dict[str, str]]) -> dict[str, str]:
        """Start these on a machine, in one process, and return their keys, when all agents can be reached, or call."""
        file = host.put("agents.json", json.dumps(entries))
        process = host.start(sys.executable, Path(agents_stage.__file__), file)
        self.processes.append(process)
        keys = {}
        for _ in [each for each in entries if "user_data" in each]:
            told = json.loads(process.expect('{"name"'))
            keys[told["name"]] = told["key"]
            (entry,) = [each for each in entries if each["name"] == told["name"]]
            assert told["at"] == entry.get("listen", entry.get("dial"))
        return keys

    def add(self, name: str, host: Host, *, dials: Address | None = None) -> dict[str, str]:
        """Add an instance that nobody has placed yet, or that dials, and return what its machine is told."""
        data, _ = self.operator.add(Wanted(name=name, lasting=timedelta(hours=1), dials=dials))
        return {"name": name, "user_data": written(data), "state": str(host.directory / name)}


@pytest.fixture
def fleet() -> Iterator[Fleet]:
    """A controller, and machines on which nothing runs yet."""
    with sites.made(racks=RACKS, each=EACH, sites=SITES) as where:
        data = where.controller.directory / "registrar"
        data.mkdir(mode=0o700)
        (data / "config.toml").write_text(SETTINGS)
        registrar = Registrar(where.controller, f"{sites.CONTROLLER}:7443")
        operator = open_instances(data)
        assert isinstance(operator.administration.ledger, SqlLedger)
        with operator.administration.ledger:
            yield Fleet(where, registrar, operator)


def test_two_hundred_at_once(fleet: Fleet) -> None:
    """Each is introduced with its own key, once, whoever keeps silent beside it; no alarm, no second certificate."""
    places, holes = dict[str, Address](), set[str]()
    plans = [(host, list[dict[str, str]]()) for host in fleet.where.racks]
    for number in range(RACKS * EACH):
        rack, position = divmod(number, EACH)
        name, at = f"app{number:03}.lan", Address(sites.place(rack, position), 7575)
        host, entries = plans[rack]
        entry = fleet.add(name, host)
        places[name] = at
        if number % 5 == 4:
            holes.add(name)
            entry = {"name": name}
        entries.append(entry | {"listen": str(at)})
    behind = {f"far{number:03}.lan": fleet.where.sites[number % SITES] for number in range(DIALS)}
    for site in fleet.where.sites:
        names = [name for name, its in behind.items() if its is site]
        calls = [fleet.add(name, site.inside, dials=CALLED) | {"dial": str(CALLED)} for name in names]
        plans.append((site.inside, calls))
    keys: dict[str, str] = {}
    for host, entries in plans:
        keys |= fleet.start(host, entries)
    assert (len(keys), len(holes)) == (COUNT, HOLES)
    for name, at in places.items():
        fleet.operator.place(name, at)

    fleet.all_run(set(keys))
    found = fleet.until(
        lambda now: all(now[name].state is State.WAITING and "took too long" in now[name].reason for name in holes)
    )
    ledger = fleet.operator.administration.ledger
    assert {name: (found[name].expected or b"").hex() for name in keys} == keys
    assert {name: len(ledger.credentials(name)) for name in keys} == dict.fromkeys(keys, 1)
    for name in holes:
        assert (ledger.credentials(name), ledger.events(kind_prefix="alarm.", subject=name)) == ([], [])
    assert ledger.events(kind_prefix="alarm.") == []
    behind_routers(fleet)
    another_address(fleet, {name for name, site in behind.items() if site is fleet.where.sites[0]})
    assert ledger.events(kind_prefix="alarm.") == []
    assert memory(fleet.registrar.process) < MEMORY


def behind_routers(fleet: Fleet) -> None:
    """Into a site there is no way, also for who knows it; what comes out has its router's address, and is served."""
    controller = fleet.where.controller
    for site in fleet.where.sites:
        controller.run(*ROUTE, site.address)
        attempt = (sys.executable, "-c", TRY, sites.INSIDE)
        assert site.router.run(*attempt, "7575", code=None).code == errno.ECONNREFUSED  # it is there, and is asked
        assert controller.run(*attempt, "7575", code=None).code == errno.EHOSTUNREACH
        controller.run("ip", "route", "delete", "192.168.1.0/24")
        assert site.router.run(*attempt, "7575", code=None).code == errno.ECONNREFUSED
    connected = controller.run("ss", "-Htn", "state", "established", f"( sport = :{CALLED.port} )").stdout
    sources = set(re.findall(r" (\S+):\d+ *$", connected, re.MULTILINE))
    assert sources == {site.address for site in fleet.where.sites}
    for name in ("app000.lan", "far000.lan"):
        asked = controller.handfast("instance", "services", name, "--data", fleet.registrar.data)
        assert f"the policy on {name} names none" in asked.stderr


def another_address(fleet: Fleet, names: set[str]) -> None:
    """A router that has another address from now on has forgotten every call; all come again by themselves."""
    fleet.where.sites[0].readdressed("10.75.203.1")
    at = SystemClock().now()
    fleet.until(lambda _now: all(fleet.heard()[name] > at + timedelta(seconds=5) for name in names))
    fleet.all_run(names)
    connected = fleet.where.controller.run("ss", "-Htn", "state", "established", "dst 10.75.203.1").stdout
    assert len(connected.splitlines()) >= len(names)


def memory(process: Process) -> int:
    """The most that a process had at once, in MB."""
    (line,) = [each for each in Path(f"/proc/{process.pid}/status").read_text().splitlines() if "VmHWM" in each]
    return int(line.split()[1]) // 1024
