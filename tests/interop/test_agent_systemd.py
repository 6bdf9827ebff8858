"""Units of a real systemd: a Debian 12 that boots in a namespace, with nginx, and units that fail in each way."""

from __future__ import annotations

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from handfast.agent import programs
from handfast.agent.policy import Apply, ConfigFile, Operation, ServicePolicy
from handfast.agent.service import Service
from handfast.agent.services.base import State
from handfast.agent.services.systemd import Systemd
from handfast.errors import Fault, Refused
from tests.interop.cloud_machine import image, until
from tests.interop.hosts import Host, Process
from tests.interop.nspawn import booting

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.peer("debootstrap", "systemd-nspawn"),
    pytest.mark.timeout(900),
]
UNITS = {
    "broken": "Type=oneshot\nExecStart=/bin/false",
    "stubborn": "ExecStart=/bin/sh -c 'trap \"\" TERM; while :; do sleep 1; done'\nTimeoutStopSec=1",
    "crashing": "ExecStart=/bin/sleep infinity\nRestart=no",
    "gone": "Type=exec\nExecStart=/nonexistent",
}


@dataclass(frozen=True)
class Booted:
    """A machine that has booted: its tree as we see it, and what runs a program in it."""

    root: Path
    enter: Path

    def unit(self, name: str) -> Systemd:
        """One of its units."""
        return Systemd(name, systemctl=str(self.enter))

    async def run(self, *command: str) -> str:
        """Run a program there, and return what it says."""
        done = await programs.run((str(self.enter.with_name("enter")), *command))
        assert done.status == 0, done.output
        return done.output


@pytest.fixture(scope="module")
def machine(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Booted]:
    """The machine; nginx comes from Debian's mirror."""
    folder = tmp_path_factory.mktemp("systemd")
    made = image(folder)
    (made.root / "opt/handfast").mkdir(parents=True, exist_ok=True)
    install = "apt-get update -qq && env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y nginx-light"
    installed = made.run("/opt", install, user=0)
    assert installed.returncode == 0, installed.stderr
    (made.root / "etc/cloud/cloud-init.disabled").touch()
    for name, text in UNITS.items():
        (made.root / f"etc/systemd/system/{name}.service").write_text(f"[Service]\n{text}\n")
    host = Host(folder / "host")
    process = host.start(*booting("--private-network", "--directory", made.root))
    try:
        until(process, "Reached target")
        yield Booted(made.root, _entrance(folder, _init(process)))
    finally:
        os.kill(process.pid, signal.SIGTERM)
        until(process, "Trying to halt container")
        process.stop()


def _init(process: Process) -> int:
    """Return the process id, here, of the machine's own first process."""
    until(process, "multi-user.target")
    children = Path(f"/proc/{process.pid}/task/{process.pid}/children").read_text().split()
    return int(children[-1])


def _entrance(folder: Path, init: int) -> Path:
    """Write programs that run what they are given, or systemctl, in the machine."""
    into = f'exec nsenter --target {init} --mount --uts --ipc --net --pid --cgroup -- "$@"'
    for name, text in (("enter", into), ("systemctl", f'set -- /usr/bin/systemctl "$@"\n{into}')):
        (folder / name).write_text(f"#!/bin/sh\n{text}\n")
        (folder / name).chmod(0o755)
    return folder / "systemctl"


async def test_nginx_from_stop_to_start(machine: Booted) -> None:
    """Each returns when it is so; a restart is another process, a reload the same."""
    nginx = machine.unit("nginx.service")
    await nginx.start()
    assert await nginx.status() is State.STARTED
    first = await machine.run("systemctl", "show", "--value", "--property=MainPID", "nginx")
    await nginx.reload()
    assert await machine.run("systemctl", "show", "--value", "--property=MainPID", "nginx") == first
    await nginx.restart()
    assert await machine.run("systemctl", "show", "--value", "--property=MainPID", "nginx") != first
    await nginx.stop()
    await nginx.stop()
    assert await nginx.status() is State.STOPPED


async def test_nginx_is_configured(machine: Booted) -> None:
    """A good file is taken by the running server; one that `nginx -t` refuses is never seen by it."""
    site = machine.root / "etc/nginx/conf.d/site.conf"
    check = (str(machine.enter.with_name("enter")), "nginx", "-t")
    policy = ServicePolicy(
        name="nginx",
        full_name="nginx",
        backend=machine.unit("nginx.service"),
        operations=frozenset(Operation),
        files={"site": ConfigFile(site, check, Apply.RELOAD, 0o644)},
    )
    service, serves = Service(policy), "server {{ listen 127.0.0.1:8080; return 200 {}; }}\n"
    assert await service.change(Operation.START) is State.STARTED
    assert await service.configure({"site": serves.format("one").encode()}) is State.STARTED
    fetch = ("curl", "--silent", "--retry", "5", "--retry-all-errors", "http://127.0.0.1:8080/")
    assert await machine.run(*fetch) == "one"
    with pytest.raises(Refused, match=r"does not accept it: nginx: configuration file .* test failed"):
        await service.configure({"site": b"server { nonsense; }\n"})
    assert site.read_text() == serves.format("one")
    assert await machine.run(*fetch) == "one"
    assert await service.change(Operation.STOP) is State.STOPPED
    assert [path.name for path in site.parent.iterdir()] == ["site.conf"]


async def test_units_that_fail(machine: Booted) -> None:
    """Each in its way; the agent's message has systemd's own reason, and how it is afterwards."""
    for name in ("broken", "gone"):
        unit = machine.unit(f"{name}.service")
        with pytest.raises(Fault, match=f"systemd could not start '{name}.service': .*"):
            await unit.start()
        assert await unit.status() in {State.ERROR, State.STOPPED}
    with pytest.raises(Fault, match=r"systemd has no unit 'none.service': not-found"):
        await machine.unit("none.service").status()


async def test_a_unit_that_crashes(machine: Booted) -> None:
    """It is seen when it is asked for, and can be started again."""
    unit = machine.unit("crashing.service")
    await unit.start()
    await machine.run("systemctl", "kill", "--signal=KILL", "crashing.service")
    await machine.run("sh", "-c", "while systemctl is-active --quiet crashing; do sleep 0.1; done")
    assert await unit.status() is State.ERROR
    await unit.start()
    assert await unit.status() is State.STARTED
    await unit.stop()


async def test_a_unit_that_will_not_stop(machine: Booted) -> None:
    """systemd kills it, and the stop has succeeded: what counts is that it does not run."""
    unit = machine.unit("stubborn.service")
    await unit.start()
    await unit.stop()
    assert await unit.status() in {State.STOPPED, State.ERROR}
