"""
Tokens and passwords of the toolkit: one order of sources for each of them.

    -t, -ksp …        as in the original; told once that every user of the machine can read it
    --…-file FILE     a file that nobody else can read; - is stdin
    HANDFAST_NIFI_…   the environment, HANDFAST_NIFI_…_FILE, or a systemd credential (``config.secret_from``)
    a prompt          on a terminal, for what cannot be done without
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import click

from handfast import config
from handfast.cli import ui
from handfast.cli.arguments import FILE
from handfast.cli.toolkit_parsing import Code, fail
from handfast.core.secret import Secret
from handfast.errors import HandfastError, UsageError

_STDIN = Path("-")
_SCHEMES = ("env:", "file:", "pass:")  # openssl's, which people expect to work here

Decorator = Callable[[Callable[..., Any]], Callable[..., Any]]


def file_option(flag: str, what: str) -> Decorator:
    """Return the option ``--FLAG-file`` for a secret."""
    return click.option(f"{flag}-file", type=FILE, help=f"Read {what} from FILE (- is stdin), not from an argument.")


def token(argument: str | None, file: Path | None, *, ask: bool) -> tuple[Secret | None, Secret | None]:
    """
    Return the token that was an argument, and the one that came otherwise.

    Only the former is written to config.json, as the original does. With ``ask`` one is needed.

    :raises Exit: 8 without one, 9 for one that is too short or can be guessed.
    """
    from handfast.introducers.nifi import SHORTEST_TOKEN, check_token

    typed = None if argument is None else Secret(argument.encode("utf-8", "surrogateescape"))
    given = (
        typed if typed is not None and typed.reveal() else _elsewhere("nifi_token", file, prompt="token" if ask else "")
    )
    if given is None:
        if ask:
            hint = "use --token-file FILE, HANDFAST_NIFI_TOKEN or, where nobody else can look, -t"
            fail(Code.ERROR_TOKEN_ARG_EMPTY, "no token, which is needed without --useConfigJson", hint)
        return None, None
    if len(given.reveal()) < SHORTEST_TOKEN:
        fail(Code.ERROR_TOKEN_MIN_LENGTH, f"the token has under {SHORTEST_TOKEN} bytes", "openssl rand -base64 32")
    if given is not typed:
        return None, given
    _tell_argument("-t", argument or "")
    if ask:  # else it does not count
        try:
            check_token(given)
        except UsageError as error:
            fail(Code.ERROR_TOKEN_MIN_LENGTH, error.message, error.hint)
    return given, None


def password(flag: str, argument: str | None, file: Path | None, name: str) -> Secret | None:
    """Return a password, or None where no source has it. :raises Exit: 2, a source that cannot be used."""
    if argument is None:
        return _elsewhere(name, file, prompt="")
    _tell_argument(flag, argument)
    return Secret(argument.encode("utf-8", "surrogateescape"))


def passwords(flag: str, arguments: tuple[str, ...], file: Path | None, name: str) -> tuple[Secret, ...]:
    """Return several passwords; a file or variable has one in each line. :raises Exit: 2, it cannot be used."""
    if arguments:
        _tell_argument(flag, arguments[0])
        return tuple(Secret(argument.encode("utf-8", "surrogateescape")) for argument in arguments)
    found = _elsewhere(name, file, prompt="")
    return () if found is None else tuple(map(Secret, found.reveal().splitlines()))


def _elsewhere(name: str, file: Path | None, *, prompt: str) -> Secret | None:
    try:
        if file == _STDIN:
            data = sys.stdin.buffer.read(config.MAX_SECRET).strip()
            if not data:
                raise UsageError("stdin is empty", hint=f"it should hold {name.removeprefix('nifi_')}")
            return Secret(data)
        found = config.secret_from(name, file=file)
    except HandfastError as error:
        fail(Code.INVALID_ARGS, error.message, error.hint)
    if found is None and prompt and sys.stdin.isatty():
        return Secret(str(click.prompt(prompt, hide_input=True, err=True)).encode())
    return found


def _tell_argument(flag: str, value: str) -> None:
    ui.warn(
        f"every user of this machine can read what follows {flag}; there are files and variables for it: see --help"
    )
    if value.startswith(_SCHEMES):
        ui.say(f"handfast: hint: {value.partition(':')[0]!r}: is no source here: the text was taken as it stands")
