"""Answers with lines of logs, whatever the lines are: a controller takes each, and following goes on behind it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import msgspec
import pytest

from handfast.agent import logs
from handfast.agent.logs import Logs, Mark
from handfast.controller.http import MAX_ANSWER, Connection
from handfast.controller.operate import Remote
from handfast.core.agentjson import MAX_LINES, LogAdded
from tests.agent.agents import Managed, managed

WORST = {
    "control": b"\x01" * 99 + b"\n",
    "no text": b"\xff" * 99 + b"\n",
    "quotes": b'"\\' * 50 + b"\n",
    "empty": b"\n",
    "no end": b"\x01" * 5000,
}


@pytest.fixture(scope="module")
def met(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Managed]:
    """An agent."""
    with managed(tmp_path_factory.mktemp("answers")) as made:
        yield made


@pytest.mark.parametrize("line", WORST.values(), ids=WORST)
def test_an_answer_fits(line: bytes, tmp_path: Path) -> None:
    """What becomes longest in JSON is still less than a controller takes."""
    (tmp_path / "a.log").write_bytes(line * (2 * logs.MAX_BYTES // len(line)))
    found, about = Logs(tmp_path), (tmp_path / "a.log").stat()
    since = found.since("a.log", Mark(about.st_dev, about.st_ino, 0))
    for lines in (since.lines, found.tail("a.log", count=MAX_LINES).lines, found.last("a.log", 10_000).lines):
        assert len(msgspec.json.encode(LogAdded(list(lines), "m" * 60))) < MAX_ANSWER


@pytest.mark.parametrize("what", ["control", "no text", "quotes"])
async def test_a_log_that_would_stop_whoever_follows_it(what: str, met: Managed) -> None:
    """Somebody who may write into a log cannot hide what comes after that."""
    log = met.place / "logs/hiding.log"
    log.write_bytes(WORST[what] * 12_000 + b"sshd: intrusion\n")
    agent = Remote(await Connection.dial(met.agent.address, met.agent.context()))
    about = log.stat()
    mark, read = str(Mark(about.st_dev, about.st_ino, 0)), [""]
    for _ in range(10):
        added = await agent.since("web", "hiding.log", mark)
        mark, read = added.mark, added.lines or read
        assert not added.lost
    assert read[-1] == "sshd: intrusion"
    assert (await agent.last("web", "hiding.log", 10_000)).lines[-1] == "sshd: intrusion"
    agent.connection.close()
