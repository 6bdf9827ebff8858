"""approve list, show, accept, reject: host keys that would change what is known, and a person's word on them."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Literal, Protocol

import click
from click.core import ParameterSource

from handfast.cli import ui
from handfast.cli.arguments import DATA, IDENTITY, JSON
from handfast.cli.lazy import Lazy
from handfast.errors import UsageError

if TYPE_CHECKING:
    from handfast.core.approvals import ApprovalRow, ApprovalView, DecideRequest
    from handfast.core.views import HostView

_BESIDE = "   "  # between the pictures of two keys

APPROVE_COMMANDS = {
    "list": ("approve", "what waits for a person"),
    "show": ("approve", "one approval: the keys that were asked about, and those that the machine has"),
    "accept": ("approve", "these are the machine's keys from now on, and no others"),
    "reject": ("approve", "refuse these keys for good"),
}


class Approver(Protocol):
    """Who decides, here or at a distance."""

    def approvals(self, *, every: bool = False) -> list[ApprovalRow]: ...

    def approval(self, approval_id: str) -> ApprovalView: ...

    def decide(self, approval_id: str, request: DecideRequest) -> ApprovalView: ...


@click.command("approve", cls=Lazy, table=APPROVE_COMMANDS)
def approve_command() -> None:
    """Host keys that would change what is known: a person looks at them first."""


def _approver(data: Path, identity: Path | None) -> Approver:
    if identity is not None:
        if click.get_current_context().get_parameter_source("data") is ParameterSource.COMMANDLINE:
            raise UsageError("--identity and --data exclude each other", hint="the registrar knows its own")
        from handfast.adapters.clock import SystemClock
        from handfast.newcomer.keystore import Keystore
        from handfast.newcomer.operate import RemoteOperator

        return RemoteOperator(Keystore(identity), now=SystemClock().now)
    from getpass import getuser

    from handfast.wiring import open_approvals

    return open_approvals(data, by=f"{getuser()} (here)")


@click.command("list")
@click.option("--all", "every", is_flag=True, help="Those that were decided, or are over, too.")
@DATA
@IDENTITY
@JSON
def list_command(every: bool, data: Path, identity: Path | None, as_json: bool) -> None:
    """List what waits for a person, the oldest first."""
    rows = _approver(data, identity).approvals(every=every)
    if as_json:
        ui.emit_json(rows)
        return
    if not rows:
        ui.say("nothing waits for approval")
    cells = [[row.approval_id, row.machine, row.status, row.how, row.asked_at, row.reason] for row in rows]
    ui.table(["approval", "machine", "status", "known by", "asked", "because"], cells)


@click.command("show")
@click.argument("approval_id", metavar="ID")
@DATA
@IDENTITY
@JSON
def show_command(approval_id: str, data: Path, identity: Path | None, as_json: bool) -> None:
    """Show both sides of ID: what was asked about, and what is known of the machine now."""
    view = _approver(data, identity).approval(approval_id)
    if as_json:
        ui.emit_json(view)
        return
    for line in _shown(view):
        ui.emit(line)


def _decided(
    approval_id: str, data: Path, identity: Path | None, decision: Literal["accepted", "rejected"], reason: str
) -> ApprovalView:
    from handfast.core.approvals import DecideRequest

    return _approver(data, identity).decide(approval_id, DecideRequest(decision=decision, reason=reason))


@click.command("accept")
@click.argument("approval_id", metavar="ID")
@click.option("--reason", required=True, help="How you know that they are its keys, for the log.")
@DATA
@IDENTITY
@JSON
def accept_command(approval_id: str, reason: str, data: Path, identity: Path | None, as_json: bool) -> None:
    """
    Say that the keys of ID are the machine's from now on, and no others; what it had is refused from now on.

    Compare them first, on the machine itself: ssh-keygen -lvf /etc/ssh/ssh_host_ed25519_key.pub
    """
    view = _decided(approval_id, data, identity, "accepted", reason)
    if as_json:
        ui.emit_json(view)
        return
    for key in view.keys:
        ui.say(f"{view.machine}: {key.fingerprint} ({key.algorithm}) is its key from now on")
    ui.say("the machine runs its command again: it is known now")


@click.command("reject")
@click.argument("approval_id", metavar="ID")
@click.option("--reason", required=True, help="Why, for the log and for whoever asks again.")
@DATA
@IDENTITY
@JSON
def reject_command(approval_id: str, reason: str, data: Path, identity: Path | None, as_json: bool) -> None:
    """Refuse the keys of ID for good: what is known of the machine stays."""
    view = _decided(approval_id, data, identity, "rejected", reason)
    if as_json:
        ui.emit_json(view)
        return
    ui.say(f"{view.machine}: these keys are refused when they are asked about again")


def _shown(view: ApprovalView) -> Iterator[str]:
    status = f"{view.status} by {view.decided_by}: {view.decided_reason}" if view.decided_by else view.status
    yield f"{view.machine}: approval {view.approval_id}, {status}"
    yield f"  asked {view.asked_at}, until {view.expires_at}"
    yield from (f"  because of {reason}" for reason in view.reasons)
    yield f"  known by {view.how} ({view.grade}): {view.words} ({view.detail})"
    where = _where(view.names, view.addresses, view.aliases, view.ports)
    yield f"  to be reached as {where or 'before'}"
    yield "asked about:"
    for key in view.keys:
        yield f"  {key.fingerprint}  {key.algorithm}{', which it has' if key.known else ''}"
    yield from _pictures([key.key for key in view.keys])
    if view.now is None or not (view.now.keys or view.now.names or view.now.addresses):
        yield "known now: nothing"
    else:
        yield from _known(view.now)


def _known(host: HostView) -> Iterator[str]:
    where = _where(host.names, host.addresses, host.aliases, host.ports)
    yield f"known now: reached as {where or 'nothing but its name'}"
    for key in host.keys:
        yield f"  {key.fingerprint}  {key.algorithm}, {key.grade}"
        yield from (f"      {each.at}  {each.words} ({each.detail})" for each in key.evidence)
    yield from _pictures([key.key for key in host.keys])


def _where(names: list[str], addresses: list[str], aliases: list[str], ports: list[int]) -> str:
    places = ", ".join([*aliases, *names, *addresses])
    return f"{places} at port {', '.join(map(str, ports))}" if places and ports != [22] else places


def _pictures(keys: list[str]) -> Iterator[str]:
    """Give the keys' pictures, side by side."""
    import base64

    from handfast.core import randomart, sshkeys

    drawn = [randomart.picture(sshkeys.from_blob(base64.b64decode(key))).split("\n") for key in keys[:4]]
    for lines in zip(*drawn, strict=True):
        yield f"  {_BESIDE.join(lines)}"
