"""What is written to a log after it was renamed, and before its service has opened the new one."""

from __future__ import annotations

from pathlib import Path

from handfast.agent.logs import Logs


def test_late_lines_come(tmp_path: Path) -> None:
    """logrotate with `create`: both files are there until the signal; every line comes, once, or is said to be lost."""
    log = tmp_path / "access.log"
    log.write_text("early\n")
    logs = Logs(tmp_path)
    seen = [logs.last("access.log", 10)]
    with log.open("a") as old:
        log.rename(tmp_path / "access.log.1")
        log.touch()
        seen.append(logs.since("access.log", seen[-1].mark))
        old.write("late\n")
    log.write_text("new\n")
    for _ in range(3):
        seen.append(logs.since("access.log", seen[-1].mark))
    assert [line for each in seen for line in each.lines] == ["early", "late", "new"] or any(each.lost for each in seen)


def test_a_late_line_in_two_parts(tmp_path: Path) -> None:
    """A line of which one half was written when the file was renamed is not cut in two, and its end is not lost."""
    log = tmp_path / "access.log"
    log.write_text("early\nla")
    logs = Logs(tmp_path)
    seen = [logs.last("access.log", 10)]
    with log.open("a") as old:
        log.rename(tmp_path / "access.log.1")
        log.touch()
        seen.append(logs.since("access.log", seen[-1].mark))
        old.write("te\n")
    log.write_text("new\n")
    for _ in range(3):
        seen.append(logs.since("access.log", seen[-1].mark))
    assert [line for each in seen for line in each.lines] == ["early", "late", "new"]
