"""Documents as tests see them: stories of commands with their expected output. See CONTRIBUTING.md."""

from __future__ import annotations

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = sorted([*ROOT.glob("*.md"), *(ROOT / "docs").rglob("*.md")])
DOCUMENTS = [path for path in DOCUMENTS if not path.is_symlink()]

_FENCE = re.compile(r"```(\w*)\s*")
_MARK = re.compile(r"<!-- test: (.+?) -->")
_ERROR = re.compile(r"handfast: error:|handfast: \S+: REFUSED|curl: \(|Host key verification failed")
_PROMPT = re.compile(r"([a-z0-9]+)\$ (.+)")


@dataclass(frozen=True, slots=True)
class Block:
    """A fenced block: its language, its text, its first line's number, and the marks before it."""

    language: str
    text: str
    line: int
    marks: tuple[str, ...] = ()

    @property
    def peers(self) -> frozenset[str]:
        """The real programs without which it cannot run."""
        return frozenset(name for mark in self.marks if mark.startswith("peer ") for name in mark.split()[1:])

    @property
    def place(self) -> tuple[str, str] | None:
        """The machine and path of the file it is, if it is one."""
        return self._where("file")

    @property
    def toolkit(self) -> tuple[str, str] | None:
        """The machine and path where NiFi's own CA has run before, if it needs one."""
        return self._where("toolkit")

    @property
    def database(self) -> str | None:
        """The database that is there, in a PostgreSQL on its Unix socket, if the block needs one."""
        return next((mark.split()[1] for mark in self.marks if mark.startswith("database ")), None)

    def _where(self, kind: str) -> tuple[str, str] | None:
        words = next((mark.split() for mark in self.marks if mark.startswith(f"{kind} ")), None)
        return (words[1], words[2]) if words else None


@dataclass(slots=True)
class Command:
    """What is typed on a machine, and the lines that answer it."""

    host: str
    text: str
    line: int
    expected: list[str] = field(default_factory=list)

    @property
    def fails(self) -> bool:
        """Whether an error is shown, so that the exit code must not be 0."""
        return any(_ERROR.match(line) for line in self.expected)

    @property
    def pattern(self) -> str:
        """The regular expression for its whole output, in the form of ``normalized``."""
        parts = []
        for line in normalized("\n".join(self.expected)).splitlines():
            if line == "…":
                parts.append(r"(?:[^\n]*\n)*?")
            elif not line.startswith("invitation: "):  # a prompt, which only a terminal shows
                parts.append(re.escape(line).replace("…", r"[^\n]*") + r"\n")
        return "".join(parts)


def normalized(text: str) -> str:
    """Return text as it is compared: runs of blanks are one, line ends are clean."""
    lines = [re.sub(r"[ \t]+", " ", line).strip() for line in text.splitlines()]
    return "".join(f"{line}\n" for line in lines if line)


def blocks(text: str) -> Iterator[Block]:
    """Return the fenced blocks of a document, in order."""
    language: str | None = None
    marks: list[str] = []
    body: list[str] = []
    start = 0
    for number, line in enumerate(text.splitlines(), 1):
        fence = _FENCE.fullmatch(line)
        if language is None:
            if fence:
                language, body, start = fence[1], [], number + 1
            elif mark := _MARK.fullmatch(line):
                marks.append(mark[1])
            elif line.strip():
                marks = []
        elif line.strip() == "```":
            yield Block(language, "\n".join(body) + "\n", start, tuple(marks))
            language, marks = None, []
        else:
            body.append(line)
    assert language is None, f"the block at line {start} is not closed"


def commands(block: Block) -> list[Command]:
    """Return the commands of a ``console`` block."""
    found: list[Command] = []
    for number, line in enumerate(block.text.splitlines(), block.line):
        prompt = _PROMPT.fullmatch(line)
        if found and not found[-1].expected and found[-1].text.endswith("\\"):
            found[-1].text = found[-1].text[:-1] + line.strip()
        elif prompt:
            found.append(Command(prompt[1], prompt[2], number))
        else:
            assert found, f"line {number} answers no command: {line!r}"
            found[-1].expected.append(line)
    return found


def stories(path: Path) -> list[list[Block]]:
    """Return the document's runnable blocks, split where a new story begins."""
    found: list[list[Block]] = [[]]
    for block in blocks(path.read_text()):
        if block.language != "console" and block.place is None:
            continue
        if "fresh" in block.marks and found[-1]:
            found.append([])
        found[-1].append(block)
    return [story for story in found if story]
