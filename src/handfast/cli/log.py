"""log: show the log, and prove that nothing in it was changed."""

from __future__ import annotations

import itertools
import json
from dataclasses import asdict
from pathlib import Path

import click
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey

from handfast import config
from handfast.authority.authority import FileAuthority, PublicAuthority
from handfast.cli import ui
from handfast.cli.arguments import DATA, FILE, JSON, LOG_KEY, PASSPHRASE
from handfast.core.checkpoint import Checkpoint, sign
from handfast.errors import UsageError
from handfast.wiring import AUTHORITY, log_origin, open_ledger, require_data


@click.group("log")
def log_command() -> None:
    """The log of everything that was invited, issued, refused and revoked."""


@log_command.command("show")
@DATA
@PASSPHRASE
@click.option("--checkpoint", "as_checkpoint", is_flag=True, help="Print a signed checkpoint: keep it elsewhere.")
@click.option("--last", type=click.IntRange(1), help="Only the last N entries.")
@JSON
def show_command(
    data: Path, passphrase_file: Path | None, as_checkpoint: bool, last: int | None, as_json: bool
) -> None:
    """Print the log, oldest first; with --json one JSON object per line, as it was hashed."""
    require_data(data)
    with open_ledger(data) as store:
        head = store.head()
        if as_checkpoint:
            passphrase = config.secret_from("passphrase", file=passphrase_file)
            authority = FileAuthority.open(data / AUTHORITY, passphrase=passphrase)
            checkpoint = Checkpoint(log_origin(authority.public), head.size, head.root())
            ui.emit(sign(checkpoint, authority.log_signer()).rstrip("\n"))
            return
        start = 0 if last is None else max(0, head.size - last)
        for index, entry in zip(itertools.count(start), store.entries(start), strict=False):
            ui.emit(entry.decode() if as_json else _line(index, json.loads(entry)))


@log_command.command("verify")
@DATA
@click.option(
    "--checkpoint",
    "checkpoint_file",
    type=FILE,
    help="A checkpoint that was kept elsewhere (`handfast log show --checkpoint`).",
)
@click.option("--key", type=LOG_KEY, help="The log's key that was kept elsewhere (`handfast ca show`, log_key).")
@JSON
def verify_command(
    data: Path, checkpoint_file: Path | None, key: tuple[str, Ed25519PublicKey] | None, as_json: bool
) -> None:
    """
    Recompute the log, compare the tables with it, and check every checkpoint. Exit code 5 if anything was changed.

    Without a checkpoint kept elsewhere this shows damage, not a forger: whoever can write the store needs no key to
    make the whole log again.
    """
    from handfast.ledger import audit

    require_data(data)
    public = PublicAuthority.read(data / AUTHORITY)
    origin, log_key = key or (log_origin(public), public.log_key)
    external = _read(checkpoint_file) if checkpoint_file is not None else None
    with open_ledger(data) as store, ui.progress("verifying the log") as progress:
        report = audit.verify(store, log_key, origin, external, progress=progress)
    if as_json:
        ui.emit_json(asdict(report) | {"root": report.root.hex()})
        return
    ui.emit(f"{report.size} entries, root {report.root.hex()}")
    if external is None:
        ui.warn("without a checkpoint from elsewhere this shows damage, not a forger who can write the store")


def _read(path: Path) -> str:
    try:
        return path.read_text("utf-8")
    except (OSError, UnicodeDecodeError) as error:
        hint = "make one: handfast log show --checkpoint"
        raise UsageError(f"cannot read {str(path)!r}: {error}", hint=hint) from None


def _line(index: int, event: dict[str, object]) -> str:
    fields = event["fields"]
    text = ", ".join(f"{k} {v}" for k, v in sorted(fields.items())) if isinstance(fields, dict) else ""
    return f"{index}  {event['at']}  {event['kind']}  {event['subject']}  {text}".rstrip()
