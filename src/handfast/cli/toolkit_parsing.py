"""
Command lines as NiFi's toolkit reads them: the rules of Apache commons-cli, and the exit codes of the original.

Scripts were written against these rules, and some differ from ours: ``-tVALUE``, ``-t=VALUE``, ``-token VALUE`` and
``--tok VALUE`` all mean the same option; the first of several values counts; what is no option is ignored; a mistake
in the command line ends with 4, and ``-h`` with 1. The options themselves are click's, for the help and the reference.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from enum import IntEnum
from typing import NoReturn

import click

from handfast.cli import ui
from handfast.errors import HandfastError, UsageError


class Code(IntEnum):
    """The original's exit codes, by its own names (``ExitCode.java``)."""

    SUCCESS = 0
    HELP = 1
    INVALID_ARGS = 2
    SERVICE_ERROR = 3
    ERROR_PARSING_COMMAND_LINE = 4
    ERROR_GENERATING_CONFIG = 5
    ERROR_INCORRECT_NUMBER_OF_PASSWORDS = 6
    ERROR_PARSING_INT_ARG = 7
    ERROR_TOKEN_ARG_EMPTY = 8
    ERROR_TOKEN_MIN_LENGTH = 9
    ERROR_READING_NIFI_PROPERTIES = 10
    ERROR_READING_CONFIG = 11


def fail(code: Code, message: str, hint: str = "") -> NoReturn:
    """End with one of the original's codes, and with words."""
    ui.complain(UsageError(message, hint=hint))
    raise click.exceptions.Exit(code)


def run(service: Callable[[], int | None], code: Code = Code.SERVICE_ERROR) -> int:
    """Run a service to its end; every deliberate error becomes words and ``code``."""
    try:
        return service() or Code.SUCCESS
    except HandfastError as error:
        ui.complain(error)
        return code


class Toolkit(click.Group):
    """The services, in any case. No service and an unknown one end with 2, and here so does ``-h``, as there."""

    def resolve_command(
        self, ctx: click.Context, args: list[str]
    ) -> tuple[str | None, click.Command | None, list[str]]:
        """Return the service and its arguments. :raises Exit: there is no such service."""
        name = args[0].lower()
        if name in {"-h", "--help"}:
            ui.emit(self.get_help(ctx))
            raise click.exceptions.Exit(Code.INVALID_ARGS)
        if name not in self.commands:
            fail(Code.INVALID_ARGS, f"unknown service {args[0][:40]!r}", f"one of {', '.join(self.commands)}")
        return name, self.commands[name], args[1:]


class Service(click.Command):
    """A command whose line is read by commons-cli's rules, and then given to click in its own form."""

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        """Fill in the parameters. :raises Exit: with the original's code."""
        options = [param for param in self.get_params(ctx) if isinstance(param, click.Option)]
        try:
            given, stray = _Reader(options).read(args)
        except _UnreadableError as error:
            fail(Code.ERROR_PARSING_COMMAND_LINE, str(error), f"see `{ctx.command_path} --help`")
        if any(option == self.get_help_option(ctx) for option, _ in given):
            ui.emit(self.get_help(ctx))
            raise click.exceptions.Exit(Code.HELP)
        if stray:
            ui.warn(f"{stray} of the arguments belong to no option and mean nothing")
        try:
            return super().parse_args(ctx, _plain(given))
        except click.BadParameter as error:
            integer = error.param is not None and isinstance(error.param.type, click.types.IntParamType)
            code = Code.ERROR_PARSING_INT_ARG if integer else Code.INVALID_ARGS
            name = _long_name(error.param) if isinstance(error.param, click.Option) else "an option"
            fail(code, f"{name}: {error.message.rstrip('.')}", f"see `{ctx.command_path} --help`")
        except UsageError as error:
            fail(Code.INVALID_ARGS, error.message, error.hint)


Given = list[tuple[click.Option, str | None]]  # in order; a flag has no value


def _plain(given: Given) -> list[str]:
    """Return arguments that have one meaning only; of an option that is given twice the first counts."""
    seen: set[str] = set()
    plain = []
    for option, value in given:
        name = _long_name(option)
        if option.multiple or name not in seen:
            plain.append(name if value is None else f"{name}={value}")
        seen.add(name)
    return plain


def _long_name(option: click.Option) -> str:
    return next(text for text in option.opts if text.startswith("--"))


class _UnreadableError(Exception):
    """The command line means nothing by commons-cli's rules."""


class _Reader:
    """
    ``DefaultParser`` of commons-cli 1.9, without what the toolkit does not use: properties, groups, required options.

    Names in click are with their hyphens; here they are without.
    """

    def __init__(self, options: list[click.Option]) -> None:
        self._short: dict[str, click.Option] = {}
        self._long: dict[str, click.Option] = {}
        for option in options:
            for text in option.opts:
                names = self._long if text.startswith("--") else self._short
                names[text.lstrip("-")] = option
        # The original's have a letter or are written likeThis, and ours are neither.
        self._theirs = [name for name, option in self._long.items() if len(option.opts) > 1 or not name.islower()]
        self._given: Given = []
        self._waiting: click.Option | None = None

    def read(self, arguments: list[str]) -> tuple[Given, int]:
        """Return the options in the order in which they were given, and how many arguments were none."""
        stray = 0
        rest = iter(arguments)
        for token in rest:
            if token == "--":
                self._nobody_waits()
                return self._given, stray + len(list(rest))
            if self._waiting is not None and not self._is_option(token):
                self._take(_unquoted(token))
            elif token.startswith("--"):
                self._read_long(token)
            elif token.startswith("-") and token != "-":
                self._read_short(token)
            else:
                stray += 1
        self._nobody_waits()
        return self._given, stray

    def _is_option(self, token: str) -> bool:
        """Whether a token, where a value is due, is an option all the same."""
        if not token.startswith("-") or token == "-":
            return False
        name = token.partition("=")[0]
        if self._matching(name) or (not token.startswith("--") and self._long_prefix(token[1:])):
            return True
        return name[1:] in self._short or name[1:2] in self._short

    def _read_long(self, token: str) -> None:
        """--L, --L=V, --l"""
        name, equals, value = token.partition("=")
        found = self._matching(name)
        if not found:
            raise _unknown(token)
        if len(found) > 1:
            raise _UnreadableError(f"{name[:40]!r} is short for several options: {', '.join(found)}")
        option = self._long[found[0]]
        if equals and option.is_flag:
            raise _unknown(token)
        self._begin(option)
        if equals:
            self._take(value)

    def _read_short(self, token: str) -> None:
        """-S, -SV, -S=V, -SSS, and with one hyphen -L, -L=V, -LV"""
        text = token[1:]
        name, equals, value = text.partition("=")
        if len(name) == 1 and (name not in self._short or (equals and self._short[name].is_flag)):
            raise _unknown(token)
        if equals and len(name) == 1:
            self._begin(self._short[name])
            self._take(value)
        elif not equals and text in self._short:
            self._begin(self._short[text])
        elif equals or self._matching(text):
            self._read_long(token)
        elif (prefix := self._long_prefix(text)) and not self._long[prefix].is_flag:
            self._begin(self._long[prefix])
            self._take(text.removeprefix(prefix))
        else:
            self._read_joined(token)

    def _read_joined(self, token: str) -> None:
        for position, letter in enumerate(token[1:], 2):
            if letter not in self._short:
                raise _unknown(token)
            self._begin(self._short[letter])
            if self._waiting is not None and position < len(token):
                self._take(token[position:])
                return

    def _begin(self, option: click.Option) -> None:
        self._nobody_waits()
        if option.is_flag:
            self._given.append((option, None))
        else:
            self._waiting = option

    def _take(self, value: str) -> None:
        if self._waiting is not None:
            self._given.append((self._waiting, value))
            self._waiting = None

    def _nobody_waits(self) -> None:
        if self._waiting is not None:
            raise _UnreadableError(f"{self._waiting.opts[0]} needs a value")

    def _matching(self, text: str) -> list[str]:
        """Return the long name, or all that it may be short for. Ours are never: they would make theirs ambiguous."""
        name = text.lstrip("-")
        return [name] if name in self._long else [each for each in self._theirs if name and each.startswith(name)]

    def _long_prefix(self, text: str) -> str | None:
        return next(self._prefixes(text), None)

    def _prefixes(self, text: str) -> Iterator[str]:
        return (text[:end] for end in range(len(text) - 2, 1, -1) if text[:end] in self._long)


def _unknown(token: str) -> _UnreadableError:
    # What stands behind "=" may be a secret, and so may the rest of a word with one hyphen.
    shown = token.partition("=")[0] if token.startswith("--") else token[:2]
    return _UnreadableError(f"no such option: {shown[:40]!r}")


def _unquoted(value: str) -> str:
    """Drop one pair of quotes, as commons-cli does with a value that is an argument of its own."""
    inner = value[1:-1]
    return inner if len(value) > 1 and value[0] == value[-1] == '"' and '"' not in inner else value
