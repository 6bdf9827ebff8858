"""
Tokens and passwords of the toolkit: one order of sources for each of them.

    -t, -ksp …        as in the original; told once that every user of the machine can read it
    --…-file FILE     a file that nobody else can read; - is stdin
    HANDFAST_NIFI_…   the environment, HANDFAST_NIFI_…_FILE, or a systemd credential (``config.secret_from``)
    a prompt          on a terminal, for what cannot be done without
"""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import click

from handfast import config
from handfast.cli import ui
from handfast.cli.arguments import FILE
from handfast.cli.toolkit_parsing import Code, fail
from handfast.core.secret import Secret
from handfast.errors import HandfastError, Unsafe, UsageError

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
    if given is typed:
        tell_arguments({"-t": argument or ""})
    # With -F one that was typed does not count: only its length matters, as in the original.
    if ask or given is not typed or len(given.reveal()) < SHORTEST_TOKEN:
        try:
            check_token(given)
        except UsageError as error:
            fail(Code.ERROR_TOKEN_MIN_LENGTH, error.message, error.hint)
    return (given, None) if given is typed else (None, given)


def password(flag: str, argument: str | None, file: Path | None, name: str) -> Secret | None:
    """Return a password, or None where no source has it. :raises Exit: 2, a source that cannot be used."""
    if argument is None:
        return _elsewhere(name, file, prompt="")
    tell_arguments({flag: argument})
    return Secret(argument.encode("utf-8", "surrogateescape"))


def passwords(arguments: tuple[str, ...], file: Path | None, name: str) -> tuple[Secret, ...]:
    """
    Return several passwords; a file or variable has one in each line. Arguments are for the caller to tell.

    :raises Exit: 2, a source that cannot be used.
    """
    if arguments:
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
    except Unsafe as error:
        # A container has a choice that nobody else has: who mounts the file, and whether it is a file.
        mounted = f"in Kubernetes defaultMode: 0400, or the variable HANDFAST_{name.upper()}"
        fail(Code.INVALID_ARGS, error.message, f"{error.hint}; {mounted}")
    except HandfastError as error:
        fail(Code.INVALID_ARGS, error.message, error.hint)
    if found is None and prompt and sys.stdin.isatty():
        return Secret(str(click.prompt(prompt, hide_input=True, err=True)).encode())
    return found


def tell_arguments(typed: Mapping[str, str]) -> None:
    """Tell who can read the secrets that followed these flags; a value of each."""
    if not typed:
        return
    flags = ", ".join(typed)
    ui.warn(
        f"every user of this machine can read what follows {flags}; there are files and variables for it: see --help"
    )
    for scheme in sorted({value.partition(":")[0] for value in typed.values() if value.startswith(_SCHEMES)}):
        ui.say(f"handfast: hint: {scheme!r}: is no source here: the text was taken as it stands")
