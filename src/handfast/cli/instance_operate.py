"""instance services, start, stop, restart, configure, logs: what an operator has done on a managed machine."""

from __future__ import annotations

from collections.abc import Awaitable, Callable
from contextlib import aclosing
from pathlib import Path
from typing import TYPE_CHECKING, Any, TypeVar

import click
import msgspec

from handfast import config
from handfast.cli import ui
from handfast.cli.arguments import DATA, JSON, MACHINE, PASSPHRASE, Parsed
from handfast.core.agentjson import MAX_CONTENT, MAX_LINES
from handfast.errors import Malformed, UsageError

if TYPE_CHECKING:
    from handfast.controller.operate import Operator, Remote
    from handfast.core.agentjson import LogAdded
    from handfast.core.secret import Secret

T = TypeVar("T")
Command = Callable[..., Any]
_LONGEST = 500  # characters of a name: quoted, it has to fit into a request


class ServiceView(msgspec.Struct, frozen=True):
    """A service of an instance: ``state`` is empty where its machine's policy does not let it be asked."""

    name: str
    full_name: str
    state: str
    operations: list[str]


class StateView(msgspec.Struct, frozen=True):
    """How a service is after it was changed."""

    service: str
    state: str


def _assignment(text: str) -> tuple[str, Path]:
    name, equals, path = text.partition("=")
    if not (name and equals and path):
        raise Malformed(f"not a file to configure: {text[:80]!r}", hint="NAME=PATH, by the policy's names for files")
    return name, Path(path)


ASSIGNMENT = Parsed("file=path", _assignment)


def on_instance(command: Command) -> Command:
    """Have a command take NAME, and the options of all that ask an instance."""
    for option in (JSON, PASSPHRASE, DATA, click.argument("name", type=MACHINE)):
        command = option(command)
    return command


def word(what: str, *, lists: str) -> Parsed:
    """Return a name of something on an instance, which decides about it; ``lists`` is the command that knows them."""

    def parse(text: str) -> str:
        if not text or len(text) > _LONGEST or not text.isprintable():
            hint = f"`handfast instance {lists}` lists them"
            raise Malformed(f"not a name of {what}: {text[:80]!r}", hint=hint)
        return text

    return Parsed("name", parse)


SERVICE = click.argument("service", type=word("a service", lists="services NAME"))


def _asked(data: Path, passphrase: Path | None, name: str, work: Callable[[Operator], Awaitable[T]]) -> T:
    import uvloop

    from handfast.controller.operate import opened

    def ask() -> Secret | None:
        return config.secret_from("passphrase", file=passphrase)

    async def main(operator: Operator) -> T:
        return await work(operator)

    with opened(data, name, ask) as operator:
        return uvloop.run(main(operator))


def with_agent(data: Path, passphrase: Path | None, name: str, work: Callable[[Remote], Awaitable[T]]) -> T:
    """Have work done with the agent of an instance, when it has proved to be it."""

    async def main(operator: Operator) -> T:
        async with operator.agent(name) as agent:
            return await work(agent)

    return _asked(data, passphrase, name, main)


@click.command("services")
@on_instance
def services_command(name: str, data: Path, passphrase_file: Path | None, as_json: bool) -> None:
    """List the services of NAME, how each is, and what its policy lets be done with it."""
    found = with_agent(data, passphrase_file, name, lambda agent: agent.services())
    views = [ServiceView(about.name, about.full_name, state, about.operations) for about, state in found]
    if as_json:
        ui.emit_json(views)
        return
    if not views:
        ui.say(f"no services: the policy on {name} names none; see docs/protocols/agent.md")
    rows = [[each.name, each.state, each.full_name, ", ".join(each.operations)] for each in views]
    ui.table(["service", "state", "what", "operations"], rows)


def _change(change: str, text: str) -> Command:
    @click.command(change, help=text)
    @on_instance
    @SERVICE
    def command(name: str, service: str, data: Path, passphrase_file: Path | None, as_json: bool) -> None:
        state = with_agent(data, passphrase_file, name, lambda agent: agent.change(service, change))
        _changed(service, state, as_json=as_json)

    return command


start_command = _change("start", "Start SERVICE on NAME; it returns when that is done.")
stop_command = _change("stop", "Stop SERVICE on NAME; it returns when that is done.")
restart_command = _change("restart", "Restart SERVICE on NAME; it returns when that is done.")


def _changed(service: str, state: str, *, as_json: bool) -> None:
    if as_json:
        ui.emit_json(StateView(service, state))
    else:
        ui.say(f"{service}: {state}")


@click.command("configure")
@on_instance
@SERVICE
@click.argument("sources", type=ASSIGNMENT, nargs=-1, required=True, metavar="FILE=PATH...")
def configure_command(
    name: str,
    service: str,
    sources: tuple[tuple[str, Path], ...],
    data: Path,
    passphrase_file: Path | None,
    as_json: bool,
) -> None:
    """
    Write configuration files of SERVICE on NAME, all of them or none, and have the service take them.

    FILE is a name that the machine's policy gives to a file of its own; PATH is here. If the service does not accept
    them, the files before come back.
    """
    contents = {file: _text(path) for file, path in sources}
    if len(contents) < len(sources):
        raise UsageError("the same file is given twice", hint="one FILE=PATH for each")
    state = with_agent(data, passphrase_file, name, lambda agent: agent.configure(service, contents))
    _changed(service, state, as_json=as_json)


def _text(path: Path) -> str:
    from handfast.adapters import given

    try:
        return given.content(path, most=MAX_CONTENT).decode("utf-8")
    except UnicodeDecodeError:
        raise UsageError(f"{str(path)!r} is no text in UTF-8", hint="a configuration is a text file") from None


@click.command("logs")
@on_instance
@SERVICE
@click.argument("log", type=word("a log", lists="logs NAME SERVICE"), required=False)
@click.option(
    "--lines", type=click.IntRange(1, MAX_LINES), default=20, show_default=True, help="How many of its last lines."
)
@click.option("--follow", is_flag=True, help="Then each new line when it comes, until Ctrl-C; also over rotation.")
def logs_command(
    name: str,
    service: str,
    log: str | None,
    lines: int,
    follow: bool,
    data: Path,
    passphrase_file: Path | None,
    as_json: bool,
) -> None:
    """
    List the logs of SERVICE on NAME, or print the end of LOG.

    With --json and LOG each line of stdout is {"lines", "mark", "lost"}; "lost" says that some are gone before these.
    """
    if log is None:
        if follow:
            raise UsageError("--follow needs a LOG", hint=f"handfast instance logs {name} {service} lists them")
        found = with_agent(data, passphrase_file, name, lambda agent: agent.logs(service))
        if as_json:
            ui.emit_json(found)
        else:
            ui.table(["log"], [[each] for each in found])
        return
    wanted = log
    if not follow:
        _lines(
            with_agent(data, passphrase_file, name, lambda agent: agent.last(service, wanted, lines)), as_json=as_json
        )
        return

    async def following(operator: Operator) -> None:
        async with aclosing(operator.follow(name, service, wanted, lines)) as pieces:
            async for piece in pieces:
                _lines(piece, as_json=as_json)

    _asked(data, passphrase_file, name, following)


def _lines(added: LogAdded, *, as_json: bool) -> None:
    if as_json:
        ui.emit_json(added)
        return
    if added.lost:
        ui.warn("some lines are gone: the log was cut off, or rotated twice")
    for line in added.lines:
        ui.emit(line)
