"""Write docs/cli.md from the command line's own help. `tests/docs` fails when the page is stale."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import click

ROOT = Path(__file__).resolve().parent.parent
PAGE = ROOT / "docs" / "cli.md"
WIDTH = 100
HEAD = """\
# Command line

Every command, from its own `--help`; written by `tools/cli_reference.py`, so do not edit it here.

stdout is data, stderr is talk. `--json` is on every command that prints data. Tables and colors appear on terminals
only. Exit codes are in [errors.md](errors.md#exit-codes).
"""


def render() -> str:
    """Return the page."""
    from handfast.cli.main import handfast

    helps = dict(_helps(handfast, ["handfast"], None))
    links = " ·\n".join(f"[{name}](#{name.replace(' ', '-')})" for name in helps)
    return "\n".join([HEAD, links + "\n", *(f"## {name}\n\n```text\n{text}\n```\n" for name, text in helps.items())])


def _helps(command: click.Command, words: list[str], parent: click.Context | None) -> Iterator[tuple[str, str]]:
    context = click.Context(
        command,
        info_name=words[-1],
        parent=parent,
        max_content_width=WIDTH,
        terminal_width=WIDTH,
        help_option_names=["-h", "--help"],
    )
    help_text = "\n".join(line.rstrip() for line in command.get_help(context).splitlines())
    yield " ".join(words), help_text
    if isinstance(command, click.Group):
        for name in command.list_commands(context):
            child = command.get_command(context, name)
            if child is not None:
                yield from _helps(child, [*words, name], context)


if __name__ == "__main__":
    PAGE.write_text(render())
    sys.stderr.write(f"wrote {PAGE}\n")
