"""A managed service: only what the policy allows, from the right states, one change at a time, and files whole."""

from __future__ import annotations

import asyncio
import os
import stat
from collections.abc import Awaitable, Callable
from pathlib import Path

import pytest

from handfast.agent import policy
from handfast.agent.policy import Operation
from handfast.agent.service import Service
from handfast.agent.services.base import State
from handfast.agent.services.mock import Mock
from handfast.core.agentjson import MAX_CONTENT
from handfast.errors import Conflict, Fault, HandfastError, Malformed, NotAuthorized, Refused

EVERYTHING = 'operations = ["status", "start", "stop", "restart", "configure", "artifacts", "logs"]'


def service(
    directory: Path, *, check: str = '["/bin/true"]', operations: str = EVERYTHING, delay: float = 0
) -> Service:
    """Return a mock with two files."""
    text = f"""
        [service.web]
        kind = "mock"
        delay = {delay}
        {operations}
        logs = "{directory}"
        artifacts = "{directory}"
        [service.web.files.site]
        path = "{directory}/site.conf"
        check = {check}
        [service.web.files.extra]
        path = "{directory}/extra.conf"
        mode = 0o600
    """
    return Service(policy.parse(text.encode(), source="policy.toml").services["web"])


def mock(each: Service) -> Mock:
    """Return what is behind it."""
    assert isinstance(each.policy.backend, Mock)
    return each.policy.backend


class Held(Mock):
    """A service whose start a test holds."""

    def __init__(self, start: Callable[[], Awaitable[None]]) -> None:
        super().__init__()
        self._begin = start

    async def start(self) -> None:
        """As long as the test wants."""
        await self._begin()


def names(directory: Path) -> list[str]:
    """Return what lies there."""
    return sorted(os.listdir(directory))


async def test_it_starts_and_stops(tmp_path: Path) -> None:
    """Each change leads to its state, and one that is there already is no change."""
    web = service(tmp_path)
    assert await web.status() is State.STOPPED
    assert [await web.change(Operation.START), await web.change(Operation.START)] == [State.STARTED] * 2
    assert await web.change(Operation.RESTART) is State.STARTED
    assert [await web.change(Operation.STOP), await web.change(Operation.STOP)] == [State.STOPPED] * 2


@pytest.mark.parametrize(
    ("state", "operation"),
    [(State.STARTING, Operation.START), (State.STOPPING, Operation.STOP), (State.STARTING, Operation.RESTART)],
)
async def test_a_change_needs_its_state(state: State, operation: Operation, tmp_path: Path) -> None:
    """The original's rules: what is on its way is left alone."""
    web = service(tmp_path)
    mock(web).state = state
    with pytest.raises(Conflict, match=rf"current service status \('{state}'\) does not allow to {operation}"):
        await web.change(operation)


async def test_one_change_at_a_time(tmp_path: Path) -> None:
    """While one is under way others are refused, and its state says so."""
    web, begun = service(tmp_path), asyncio.Event()

    async def begin() -> None:
        begun.set()
        await asyncio.Event().wait()

    object.__setattr__(web.policy, "backend", Held(begin))
    starting = asyncio.ensure_future(web.change(Operation.START))
    await begun.wait()
    assert await web.status() is State.STARTING
    with pytest.raises(Conflict, match="'starting'"):
        await web.change(Operation.STOP)
    starting.cancel()
    await asyncio.wait({starting})
    object.__setattr__(web.policy, "backend", Mock())
    assert await web.change(Operation.START) is State.STARTED


@pytest.mark.parametrize("operation", ["status", "start", "stop", "restart", "configure", "artifacts", "logs"])
async def test_what_the_policy_does_not_say_is_refused(operation: str, tmp_path: Path) -> None:
    """Each operation has to be allowed, and nothing happens where one is not."""
    others = [each for each in policy.Operation if each.value != operation]
    web = service(tmp_path)
    object.__setattr__(web.policy, "operations", frozenset(others))
    message = f"the policy of this machine does not allow '{operation}' for 'web'"

    async def act() -> None:
        if operation == "configure":
            await web.configure({"site": b"x"})
        elif operation in {"artifacts", "logs"}:
            getattr(web, operation)
        elif operation == "status":
            await web.status()
        else:
            await web.change(Operation(operation))

    with pytest.raises(NotAuthorized, match=message):
        await act()
    assert (mock(web).state, names(tmp_path)) == (State.STOPPED, [])


# --- configuration ---


async def test_files_are_written(tmp_path: Path) -> None:
    """Whole, with the policy's mode, and nothing else is left; a service that runs takes them."""
    web = service(tmp_path)
    await web.change(Operation.START)
    assert await web.configure({"site": b"new\n", "extra": b"more\n"}) is State.STARTED
    assert (tmp_path / "site.conf").read_bytes() == b"new\n"
    assert (tmp_path / "extra.conf").stat().st_mode & 0o777 == 0o600
    assert names(tmp_path) == ["extra.conf", "site.conf"]


@pytest.mark.parametrize("old", [b"old\n", None])
async def test_a_check_that_says_no_leaves_the_old(old: bytes | None, tmp_path: Path) -> None:
    """The service's own check reads the new file in its place; if it says no, everything is as before."""
    if old is not None:
        (tmp_path / "site.conf").write_bytes(old)
    web = service(
        tmp_path, check=f'["/bin/sh", "-c", "grep -v new {tmp_path}/site.conf || {{ echo no good; exit 1; }}"]'
    )
    with pytest.raises(Refused, match="'/bin/sh' does not accept it: no good") as refused:
        await web.configure({"extra": b"more\n", "site": b"new\n"})
    assert refused.value.hint == "the old files are back"
    assert names(tmp_path) == ([] if old is None else ["site.conf"])
    assert old is None or (tmp_path / "site.conf").read_bytes() == old
    assert await web.configure({"site": b"good\n"}) is State.STOPPED


@pytest.mark.parametrize("old", [b"old\n", None])
async def test_a_crash_in_the_middle_is_mended(old: bytes | None, tmp_path: Path) -> None:
    """An agent that died while a check ran finds the old files at its next start, not what nobody had accepted."""
    if old is not None:
        (tmp_path / "site.conf").write_bytes(old)
    pipe = tmp_path.parent / f"{tmp_path.name}-checking"
    os.mkfifo(pipe)
    web = service(tmp_path, check=f'["/bin/sh", "-c", "echo now > {pipe}; exec sleep 60"]')
    changing = asyncio.ensure_future(web.configure({"site": b"new\n"}))
    await asyncio.to_thread(pipe.read_text)
    found = {name: (tmp_path / name).read_bytes() for name in names(tmp_path)}
    changing.cancel()
    await asyncio.wait({changing})
    for name, content in found.items():
        (tmp_path / name).write_bytes(content)
    service(tmp_path).recover()
    assert names(tmp_path) == ([] if old is None else ["site.conf"])
    assert old is None or (tmp_path / "site.conf").read_bytes() == old


async def test_recovery_of_nothing_changes_nothing(tmp_path: Path) -> None:
    """A start without a crash before it leaves the files alone."""
    (tmp_path / "site.conf").write_bytes(b"old\n")
    service(tmp_path).recover()
    assert (names(tmp_path), (tmp_path / "site.conf").read_bytes()) == (["site.conf"], b"old\n")


@pytest.mark.parametrize(
    ("contents", "message"),
    [
        ({}, "'web' has no file '' to configure"),
        ({"../etc/passwd": b""}, "'web' has no file '../etc/passwd' to configure"),
        ({"site": b"", "other": b""}, "'web' has no file 'other' to configure"),
        ({"site": b"x" * (MAX_CONTENT + 1)}, "'site' has 1048577 bytes"),
    ],
)
async def test_only_the_policys_files_are_written(contents: dict[str, bytes], message: str, tmp_path: Path) -> None:
    """A file is one of the policy's names, and no path."""
    with pytest.raises(Malformed, match=message):
        await service(tmp_path).configure(contents)
    assert names(tmp_path) == []


@pytest.mark.parametrize("mode", [0o600, 0o664, 0o4755])
async def test_the_mode_before_stays(mode: int, tmp_path: Path) -> None:
    """A private file does not become everybody's; what would run as its owner is not kept."""
    (tmp_path / "site.conf").write_bytes(b"old\n")
    (tmp_path / "site.conf").chmod(mode)
    await service(tmp_path).configure({"site": b"new\n"})
    assert stat.S_IMODE((tmp_path / "site.conf").stat().st_mode) == mode & 0o777


@pytest.mark.root
async def test_the_owner_before_stays(tmp_path: Path) -> None:
    """Also where the policy says the mode; a new file is root's, for the group of its directory to read."""
    for name in ("site.conf", "extra.conf"):
        (tmp_path / name).touch(0o640)
        os.chown(tmp_path / name, 65534, 65533)
    os.chown(tmp_path, -1, 65532)
    web = service(tmp_path)
    await web.configure({"site": b"new\n", "extra": b"more\n"})
    os.rename(tmp_path / "extra.conf", tmp_path / "kept.conf")
    (tmp_path / "site.conf").rename(tmp_path / "old.conf")
    await web.configure({"site": b"new\n"})
    about = {name: (tmp_path / name).stat() for name in names(tmp_path)}
    assert {name: (each.st_uid, each.st_gid, stat.S_IMODE(each.st_mode)) for name, each in about.items()} == {
        "old.conf": (65534, 65533, 0o640),
        "kept.conf": (65534, 65533, 0o600),
        "site.conf": (0, 65532, 0o640),
    }


@pytest.mark.parametrize("make", [os.mkdir, os.mkfifo])
async def test_only_a_file_is_replaced(make: Callable[[Path], None], tmp_path: Path) -> None:
    """Whatever else has its name stays as it is."""
    make(tmp_path / "site.conf")
    with pytest.raises(Fault, match=r"site\.conf' is no regular file"):
        await service(tmp_path).configure({"site": b"new"})
    assert names(tmp_path) == ["site.conf"]


async def test_one_that_cannot_be_put_back_holds_up_no_other(tmp_path: Path) -> None:
    """Whoever owns a directory can spoil his own file's way back, and not that of the others."""
    (tmp_path / "extra.conf").write_bytes(b"old\n")
    script = f"cd {tmp_path} && rm -f site.conf && mkdir -p site.conf/full; exit 1"
    with pytest.raises(Fault, match=r"site\.conf': is a directory"):
        await service(tmp_path, check=f'["/bin/sh", "-c", "{script}"]').configure(
            {"extra": b"more\n", "site": b"new\n"}
        )
    assert (tmp_path / "extra.conf").read_bytes() == b"old\n"


async def test_what_others_put_there_does_not_end_a_start(tmp_path: Path) -> None:
    """A directory of the name of something that a crash leaves is left, and the rest is put in order."""
    stray = ".site.conf.0123456789abcdef.tmp"
    (tmp_path / stray).mkdir()
    (tmp_path / ".site.conf.fedcba9876543210.tmp").touch()
    service(tmp_path).recover()
    assert names(tmp_path) == [stray]


async def test_a_link_is_not_written_through(tmp_path: Path) -> None:
    """A service that turned its file into a link does not get root to write elsewhere."""
    (tmp_path / "victim").write_bytes(b"precious")
    (tmp_path / "site.conf").symlink_to(tmp_path / "victim")
    with pytest.raises(Fault, match=r"site\.conf' is a link"):
        await service(tmp_path).configure({"extra": b"x", "site": b"new"})
    assert ((tmp_path / "victim").read_bytes(), names(tmp_path)) == (b"precious", ["site.conf", "victim"])


# --- the policy ---

GOOD = '[service.web]\nkind = "mock"\noperations = ["status"]\n'


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("[service", "is no policy"),
        ('[services.web]\nkind = "mock"', "unknown field `services`"),
        (GOOD + "shell = true\n", "unknown field `shell`"),
        ('[service.web]\nkind = "docker"\noperations = []', "Invalid enum value 'docker'"),
        ('[service.web]\nkind = "mock"\noperations = ["everything"]', "Invalid enum value 'everything'"),
        ('[service."../x"]\nkind = "mock"\noperations = []', "not a name"),
        ('[service.web]\nkind = "systemd"\nunit = "--now"\noperations = []', "unit = '--now' is no name"),
        ('[service.web]\nkind = "systemd"\noperations = []', "unit = '' is no name"),
        ('[service.web]\nkind = "supervisord"\nprogram = "a b"\noperations = []', "program = 'a b' is no name"),
        ('[service.web]\nkind = "command"\noperations = []', "a command needs 'query'"),
        (GOOD.replace('"status"', '"logs"'), "operation 'logs' and 'logs' go together"),
        (GOOD + 'logs = "/var/log"\n', "operation 'logs' and 'logs' go together"),
        (GOOD.replace('"status"', '"configure"'), "operation 'configure' and 'files' go together"),
        (GOOD.replace('"status"', '"logs"') + 'logs = "var/log"\n', "'var/log' is no absolute path"),
        (GOOD.replace('"status"', '"logs"') + 'logs = "/var/../etc"\n', "'/var/../etc' is no absolute path"),
        (GOOD.replace('"status"', '"logs"') + 'logs = "/x"\nlog_pattern = "../*"\n', "is no pattern of a name"),
        (GOOD + 'pull = ["http://repo.example/"]\n', "pull = 'http://repo.example/'"),
        (GOOD + 'pull = ["https://repo.example"]\n', "pull = 'https://repo.example'"),
        (GOOD + 'pull = ["https://me:secret@repo.example/"]\n', "pull = "),
    ],
)
def test_a_policy_that_says_something_else_is_refused(text: str, message: str) -> None:
    """A mistake is found when the agent starts, with its place, and never read as something that allows more."""
    with pytest.raises(HandfastError, match=r".") as refused:
        policy.parse(text.encode(), source="policy.toml")
    assert message in refused.value.message
    assert "'policy.toml'" in refused.value.message


def test_an_empty_policy_allows_nothing() -> None:
    """No service is no service."""
    assert policy.parse(b"", source="policy.toml") == policy.Policy()
