"""
Transcripts: what a person types and what comes back, as text that a person can read.

    # why this is so
    $ handfast join --out web1 < line        a command for the shell
    every line of stdout, in order
    ! every line of stderr, in order
    [3]                                      the exit code, where it is not 0

``…`` stands for anything within a line. Nothing else may come: a stray line on stdout is a failure.
"""

from __future__ import annotations

import difflib
import re
from dataclasses import dataclass, field
from pathlib import Path

from tests.interop.hosts import Done, Host


@dataclass(slots=True)
class Step:
    """One command and what it has to say."""

    command: str
    expected: list[str] = field(default_factory=list)

    def difference(self, done: Done) -> str:
        """Return what is other than expected, as a diff; empty when all is."""
        actual = [
            *done.stdout.splitlines(),
            *(f"! {line}".rstrip() for line in done.stderr.splitlines()),
            *([f"[{done.code}]"] if done.code else []),
        ]
        if len(actual) == len(self.expected):
            pairs = zip(self.expected, actual, strict=True)
            actual = [pattern if _fits(pattern, line) else line for pattern, line in pairs]
        return "\n".join(difflib.unified_diff(self.expected, actual, "expected", "actual", lineterm="", n=9))


def parse(text: str) -> list[Step]:
    """Read a transcript. Empty lines and comments are for people."""
    steps: list[Step] = []
    for line in text.splitlines():
        if line.startswith("$ "):
            steps.append(Step(line[2:]))
        elif line and not line.startswith("#"):
            steps[-1].expected.append(line)
    return steps


def play(path: Path, host: Host, env: dict[str, str]) -> None:
    """Run a transcript's commands one after the other, in one directory, and compare."""
    for step in parse(path.read_text()):
        done = host.run("/bin/sh", "-c", step.command, env=env, code=None)
        difference = step.difference(done)
        assert not difference, f"{path.name}: $ {step.command}\n{difference}"


def _fits(pattern: str, line: str) -> bool:
    return re.fullmatch(".*".join(map(re.escape, pattern.split("…"))), line) is not None
