"""Programs that the agent runs: no shell, bounded time and output, and nothing of them is left."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from handfast.agent import programs
from handfast.agent.programs import Done, run
from handfast.agent.services.base import State
from handfast.agent.services.command import Command
from handfast.errors import Fault


def lives(pid: int) -> bool:
    """Whether a process runs; one that was killed is a zombie until its new parent has taken note of it."""
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except FileNotFoundError:
        return False


async def ended(pid: int) -> None:
    """Wait until a process has ended: a signal is sent at once, and acts when it is the process's turn."""
    async with asyncio.timeout(30):
        while lives(pid):  # noqa: ASYNC110  nobody says when
            await asyncio.sleep(0.01)


async def out_of_time(argv: tuple[str, ...], ready: Callable[[], bool], patch: pytest.MonkeyPatch) -> None:
    """Run a program whose hour is over once it is ready, however long it took to get there."""
    loop = asyncio.get_running_loop()
    clock, passed = loop.time, 0.0
    patch.setattr(loop, "time", lambda: clock() + passed)
    running = asyncio.ensure_future(run(argv, patience=3600))
    while not (ready() or running.done()):  # noqa: ASYNC110
        await asyncio.sleep(0.01)
    passed = 3600.0
    await running


def written(pid: Path) -> bool:
    """Whether the number is there, all of it."""
    return pid.exists() and pid.read_text().endswith("\n")


async def test_a_program_is_run() -> None:
    """Its exit status and what it said, on either of its outputs."""
    assert await run(("/bin/sh", "-c", "echo out; echo err >&2; exit 3")) == Done(3, "out\nerr\n")


async def test_arguments_are_arguments() -> None:
    """No shell reads them."""
    assert (await run(("/bin/echo", "$(id)", "a b", ";reboot"))).output == "$(id) a b ;reboot\n"


async def test_it_gets_nothing_of_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    """Neither our input nor a secret that was handed to us."""
    monkeypatch.setenv("HANDFAST_PASSPHRASE", "secret")
    done = await run(("/bin/sh", "-c", 'cat; echo "<$HANDFAST_PASSPHRASE>"'))
    assert done.output == "<>\n"


@pytest.mark.parametrize("argv", [("/nonexistent/program",), ("/etc/passwd",), ("/bin/echo", "a\0b")])
async def test_what_cannot_be_run_is_said(argv: tuple[str, ...]) -> None:
    """A program that is missing, is none, or cannot get its arguments."""
    with pytest.raises(Fault, match=f"cannot run '{argv[0]}'"):
        await run(argv)


async def test_what_does_not_end_is_ended(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """With everything that it has started."""
    pid = tmp_path / "pid"
    script = f"sleep 600 & echo $! > {pid}; wait"
    with pytest.raises(Fault, match="'/bin/sh' did not end within 3600 s"):
        await out_of_time(("/bin/sh", "-c", script), lambda: written(pid), monkeypatch)
    await ended(int(pid.read_text()))


async def test_a_session_of_its_own_stays(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What has left the program's group, as daemons do, is not found: it is no protection from the program itself."""
    pid = tmp_path / "pid"
    script = f"setsid sleep 600 & echo $! > {pid}; wait"

    def has_left() -> bool:
        return written(pid) and os.getsid(int(pid.read_text())) == int(pid.read_text())

    with pytest.raises(Fault, match="'/bin/bash' did not end within 3600 s"):
        await out_of_time(("/bin/bash", "-c", script), has_left, monkeypatch)
    assert lives(int(pid.read_text()))
    os.kill(int(pid.read_text()), 9)


async def test_a_daemon_does_not_hold_us(tmp_path: Path) -> None:
    """A service that a command leaves behind keeps its output open; the command has ended all the same."""
    pid = tmp_path / "pid"
    done = await run(("/bin/sh", "-c", f"sleep 600 & echo $! > {pid}; echo started"), patience=60)
    os.kill(int(pid.read_text()), 9)
    assert done == Done(0, "started\n")


async def test_output_is_bounded() -> None:
    """Of a program that says much the end is kept."""
    said = await run((sys.executable, "-c", "print('x' * 10_000_000); print('the end')"))
    assert (len(said.output), said.last_line) == (programs.MAX_OUTPUT, "the end")


@pytest.mark.parametrize(
    ("output", "line"),
    [
        ("", "and said nothing"), ("\n \n", "and said nothing"), ("a\nb \n\n", "b"), ("\x1b[2Jx\x07", "[2Jx"),
        ("y" * 999, "y" * 200),
    ],
)  # fmt: skip
def test_the_last_line_can_be_shown(output: str, line: str) -> None:
    """What goes into a message drives no terminal, and is short."""
    assert Done(1, output).last_line == line


# --- services that are commands ---


def commands(directory: Path, **more: tuple[str, ...]) -> Command:
    """Return a service whose state is a file."""
    flag = directory / "runs"
    return Command(
        query=("/bin/sh", "-c", f"test -e {flag} || exit 3"),
        begin=("/bin/touch", str(flag)),
        end=("/bin/rm", str(flag)),
        **more,
    )


async def test_commands_are_a_service(tmp_path: Path) -> None:
    """The exit status says how it is, as LSB has it; without a command for it, a restart is a stop and a start."""
    service = commands(tmp_path)
    assert await service.status() is State.STOPPED
    for act in (service.start, service.restart, service.reload):
        await act()
        assert await service.status() is State.STARTED
    await service.stop()
    assert await service.status() is State.STOPPED


async def test_commands_of_its_own_are_run(tmp_path: Path) -> None:
    """Where the policy has a command for it, that one is run."""
    service = commands(tmp_path, again=("/bin/touch", f"{tmp_path}/again"), afresh=("/bin/touch", f"{tmp_path}/afresh"))
    await service.restart()
    await service.reload()
    assert sorted(os.listdir(tmp_path)) == ["afresh", "again"]


async def test_a_command_that_fails_says_why(tmp_path: Path) -> None:
    """Its last line goes to whoever asked; and any other exit status of a query is an error."""
    with pytest.raises(Fault, match=r"'/bin/rm' ended with 1: .*cannot remove"):
        await commands(tmp_path).stop()
    broken = Command(("/bin/sh", "-c", "exit 4"), ("/bin/true",), ("/bin/true",))
    assert await broken.status() is State.ERROR
