"""What is written to a log after it was renamed, and before its service has opened the new one."""

from __future__ import annotations

from pathlib import Path

import pytest

from handfast.agent.logs import Logs


@pytest.mark.parametrize(
    ("before", "after"), [("early\n", "late\n"), ("early\nla", "te\n")], ids=["whole", "in two parts"]
)
def test_late_lines_come(tmp_path: Path, before: str, after: str) -> None:
    """logrotate with `create`: both files are there until the signal; every line comes, once and whole."""
    log = tmp_path / "access.log"
    log.write_text(before)
    logs = Logs(tmp_path)
    seen = [logs.last("access.log", 10)]
    with log.open("a") as old:
        log.rename(tmp_path / "access.log.1")
        log.touch()
        seen.append(logs.since("access.log", seen[-1].mark))
        old.write(after)
    log.write_text("new\n")
    for _ in range(3):
        seen.append(logs.since("access.log", seen[-1].mark))
    assert [line for each in seen for line in each.lines] == ["early", "late", "new"]
    assert not any(each.lost for each in seen)
