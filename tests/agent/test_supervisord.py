"""Programs of a real supervisord, by its own supervisorctl: started, stopped, failing, unknown, and without it."""

from __future__ import annotations

import asyncio
import os
import signal
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from handfast.agent.services.base import State
from handfast.agent.services.supervisord import Supervisord
from handfast.errors import Fault
from tests.agent.agents import managed
from tests.interop.hosts import Host, program

pytestmark = pytest.mark.peer("supervisord")
CONFIGURATION = """\
[unix_http_server]
file={0}/socket
[supervisord]
nodaemon=true
pidfile={0}/pid
childlogdir={0}
[rpcinterface:supervisor]
supervisor.rpcinterface_factory=supervisor.rpcinterface:make_main_rpcinterface
[supervisorctl]
serverurl=unix://{0}/socket
[program:web]
command={1} -c "import os, time; print(os.getpid(), flush=True); time.sleep(10000)"
autostart=false
startsecs=0
stdout_logfile={0}/web.log
[program:broken]
command=/bin/false
autostart=false
startretries=0
"""


@pytest.fixture(scope="module")
def configuration(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Its file, while it runs."""
    host = Host(tmp_path_factory.mktemp("supervisord") / "host")
    path = host.put("supervisord.conf", CONFIGURATION.format(host.directory, sys.executable))
    host.start(program("supervisord"), "-c", path).expect("supervisord started")
    yield path
    host.close()


def service(name: str, configuration: Path) -> Supervisord:
    """A program of it."""
    return Supervisord(name, str(configuration))


async def said(log: Path, count: int) -> list[str]:
    """Wait until so many processes have said their number: supervisord has started them before they say anything."""
    async with asyncio.timeout(30):
        while not log.exists() or log.read_text().count("\n") < count:  # noqa: ASYNC110, ASYNC240
            await asyncio.sleep(0.01)
    return log.read_text().split()  # noqa: ASYNC240


async def test_a_program_from_start_to_stop(configuration: Path) -> None:
    """Each returns when it is so; a restart is another process."""
    web, log = service("web", configuration), configuration.with_name("web.log")
    assert await web.status() is State.STOPPED
    await web.start()
    assert await web.status() is State.STARTED
    for count, act in enumerate((web.restart, web.reload), 1):
        await said(log, count)
        await act()
    assert await web.status() is State.STARTED
    await said(log, 3)
    await web.stop()
    assert await web.status() is State.STOPPED
    assert len(set(log.read_text().split())) == 3


async def test_a_program_that_is_killed_is_seen(configuration: Path) -> None:
    """Its state is asked of supervisord each time, which starts it anew."""
    web, log = service("web", configuration), configuration.with_name("web.log")
    before = len(log.read_text().split()) if log.exists() else 0
    await web.start()
    os.kill(int((await said(log, before + 1))[-1]), signal.SIGKILL)
    assert await web.status() in {State.STARTED, State.STARTING}
    await web.stop()


async def test_a_program_that_does_not_start(configuration: Path) -> None:
    """supervisorctl says so, and the agent too."""
    broken = service("broken", configuration)
    with pytest.raises(Fault, match="supervisord could not start 'broken', it is error: broken: ERROR"):
        await broken.start()
    assert await broken.status() is State.ERROR


async def test_a_program_that_there_is_not(configuration: Path, tmp_path: Path) -> None:
    """A mistake of the policy, or a supervisord that does not run."""
    with pytest.raises(Fault, match=r"supervisord does not know 'none': none: ERROR \(no such process\)"):
        await service("none", configuration).status()
    elsewhere = tmp_path / "supervisord.conf"
    elsewhere.write_text(CONFIGURATION.format(tmp_path, sys.executable))
    with pytest.raises(Fault, match=r"supervisord does not know 'web': unix:///.* no such file"):
        await service("web", elsewhere).status()


def test_over_the_agent(configuration: Path, tmp_path: Path) -> None:
    """A controller starts a program that runs, and is told why another one does not."""
    policy = "".join(
        f'[service.{name}]\nkind = "supervisord"\nprogram = "{name}"\nsupervisord = "{configuration}"\n'
        'operations = ["status", "start", "stop"]\n'
        for name in ("web2", "broken")
    ).replace('program = "web2"', 'program = "web"')
    with managed(tmp_path, policy) as met:
        assert met.talk.ask("POST", "/v1/services/web2/start").json() == {"state": "started"}
        assert met.talk.ask("POST", "/services/web2/stop").json()["state"] in {"stopping", "stopped"}
        while (state := met.talk.ask("GET", "/services/web2/status").json()["state"]) != "stopped":
            assert state == "stopping"
        failed = met.talk.ask("POST", "/v1/services/broken/start")
        assert (failed.status, failed.json()["code"]) == (500, "fault")
        assert "supervisord could not start 'broken'" in failed.json()["detail"]
