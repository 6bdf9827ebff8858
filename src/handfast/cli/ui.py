"""
stdout is data, stderr is talk, the terminal is for people.

``--json`` prints one JSON value on stdout. Errors are lower case, name the value and end with a hint.
Nothing here writes a colour or a table when its stream is not a terminal, or when NO_COLOR is set.
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from typing import Any

from handfast.errors import Fault, HandfastError


def check_streams() -> None:
    """
    Refuse to work with a closed stdout, before anything is done: what would be printed may exist once, as a secret.

    And its number would be the next file's, the ledger's perhaps, to which some program then writes.

    :raises Fault: it is closed.
    """
    if sys.stdout is None:
        raise Fault("cannot write to stdout: it is closed", hint="redirect it, to /dev/null if need be")


def say(text: str) -> None:
    """Tell the person something, on stderr; nobody, if it is closed."""
    if sys.stderr is not None:  # else print would take stdout
        print(harmless(text), file=sys.stderr)


def harmless(text: str) -> str:
    """
    Return one line of text with everything escaped that a terminal would act on.

    Much of what is printed was said by a peer: it could move the cursor, forge a line, or fill the clipboard.
    """
    return "".join(each if each.isprintable() else each.encode("unicode_escape").decode() for each in text)


def warn(text: str) -> None:
    """Tell the person about a danger, on stderr."""
    say(f"handfast: warning: {text}")


def complain(error: HandfastError) -> None:
    """Print what failed and what to do about it."""
    say(f"handfast: error: {error.message}")
    if error.hint:
        say(f"handfast: hint: {error.hint}")


def emit(text: str) -> None:
    """Print data, on stdout, at once: a pipe may be waiting for it. Only its own line ends are not escaped."""
    _print("\n".join(harmless(line) for line in text.split("\n")))


def _print(text: str) -> None:
    try:
        print(text, flush=True)
    except BrokenPipeError:
        raise  # whoever read has enough, which is no fault
    except OSError as error:
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())  # for what Python still has, at its exit
        raise Fault(f"cannot write to stdout: {(error.strerror or 'error').lower()}") from None


def emit_json(value: Any) -> None:
    """Print one JSON value on one line of stdout."""
    import msgspec

    text = msgspec.json.encode(value).decode()
    # As ``harmless``, in JSON's own words: \\x7f would be no JSON.
    _print("".join(each if each.isprintable() else json.dumps(each)[1:-1] for each in text))


def table(headings: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Print rows as a table on a terminal, and as tab-separated values elsewhere."""
    if not sys.stdout.isatty():
        for row in rows:
            _print("\t".join(harmless(cell) for cell in row))
        return
    from rich import box
    from rich.console import Console
    from rich.table import Table
    from rich.text import Text

    grid = Table(*headings, box=box.SIMPLE_HEAD, header_style="bold", pad_edge=False)
    for row in rows:
        grid.add_row(*(Text(harmless(cell)) for cell in row))
    Console().print(grid)


@contextmanager
def progress(what: str, *, of_bytes: bool = False) -> Iterator[Callable[[int, int], None]]:
    """Show how much is done, of how much, on a terminal's stderr, as often as the block says; elsewhere nothing."""
    if not sys.stderr.isatty():
        yield lambda _done, _total: None
        return
    from rich.console import Console
    from rich.markup import escape
    from rich.progress import DownloadColumn, Progress, TransferSpeedColumn

    columns = [DownloadColumn(), TransferSpeedColumn()] if of_bytes else []
    with Progress(*Progress.get_default_columns(), *columns, console=Console(stderr=True), transient=True) as bar:
        task = bar.add_task(escape(harmless(what)), total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)
