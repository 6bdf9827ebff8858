"""What a registrar does by itself: a new serving certificate in time, stale intents, checkpoints of the log."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

import structlog

from handfast.adapters.files import faults, write_atomic
from handfast.core import checkpoint, merkle
from handfast.core.checkpoint import Checkpoint
from handfast.core.merkle import Frontier
from handfast.errors import HandfastError, LogTampered, Malformed
from handfast.ledger.store import SqlLedger
from handfast.server import instances, openid
from handfast.server.identity import Identity, obtain
from handfast.server.state import State
from handfast.wiring import CHECKPOINT, Service, log_origin

STALE = timedelta(hours=2)  # a newcomer's own retry comes within seconds, that of its timer within half an hour
_HINT = "stop this registrar, keep its store for inquiry, and restore a backup that verifies"
_LONGEST_PAUSE = 600.0  # seconds between two tries of what keeps failing
_log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


async def forever(state: State, name: str, work: Callable[[State], Awaitable[None]]) -> None:
    """Do ``work`` at every tick; a failure is logged and tried again, ever less often, and stops nothing else."""
    failures = 0
    while True:
        try:
            await work(state)
            failures = 0
        except HandfastError as error:
            failures += 1
            _log.error("failed", task=name, code=error.code, reason=error.message, hint=error.hint)
        except Exception:  # noqa: BLE001  a bug in one task must not end the others
            failures += 1
            _log.exception("failed", task=name)
        # The tick is short against every deadline here, so that a clock that jumps is noticed soon.
        await asyncio.sleep(min(state.limits.tick * 2 ** min(failures, 16), max(_LONGEST_PAUSE, state.limits.tick)))


async def renew_serving(state: State) -> None:
    """Replace the serving certificate at half its life, or when a clock that was set back made it one of the future."""
    now = state.service.clock.now()
    if state.identity is None:
        return
    if now < state.identity.renew_at and state.identity.usable(now):
        return
    present(state, await obtain(state.service))


def present(state: State, identity: Identity) -> None:
    """Serve new connections with ``identity``; those that are open keep the one of their handshake."""
    state.identity = identity
    state.metrics.serving_expiry.set(identity.certificate.not_valid_after_utc.timestamp())
    _log.info("serving certificate", serial=f"{identity.certificate.serial_number:032x}")


async def abandon_stale(state: State) -> None:
    """Revoke intents of which no certificate came: one may have been signed in the moment of a crash."""
    now = state.service.clock.now()
    abandoned = await asyncio.wrap_future(state.service.ledger.abandon_intents(now - STALE, at=now))
    if abandoned:
        _log.warning("abandoned intents", count=abandoned)


async def sign_checkpoint(state: State) -> None:
    """
    Sign the head of the log if it has grown since the last checkpoint, and only if it extends that one.

    Or else whoever can write the store, and has none of our keys, would have us sign the past as he rewrote it.

    :raises LogTampered: it does not; nothing is signed.
    """
    log, authority = state.service.ledger, state.service.authority
    try:
        signed, head = await state.in_thread(_grown, state.service, state.signed)
    except LogTampered:
        state.tampered = True
        state.metrics.log_tampered.set(1)
        raise
    state.tampered = False
    state.metrics.log_tampered.set(0)
    if head.size > signed.size:
        newest = Checkpoint(log_origin(authority.public), head.size, head.root())
        note = checkpoint.sign(newest, authority.log_signer())
        await asyncio.wrap_future(log.save_checkpoint(note))
        # After the store: a crash in between must not leave a file that is ahead of it.
        await state.in_thread(write_atomic, state.service.data / CHECKPOINT, note.encode(), 0o644)
    state.signed = head


def _grown(service: Service, signed: Frontier | None) -> tuple[Frontier, Frontier]:
    """Return the log as it was signed and as it is. :raises LogTampered: this one does not extend that one."""
    log = service.ledger
    try:
        if signed is None:
            signed = _last_signed(service)
        head = log.head()
        made = _extended(log, signed, head.size)
    except (Malformed, TypeError, ValueError) as error:  # SQLite keeps text where bytes belong, if told to
        raise LogTampered(f"the log cannot be read: {error}", hint=_HINT) from error
    if made != head:
        raise LogTampered(
            f"the log of {head.size} entries does not extend the one of {signed.size} that was signed", hint=_HINT
        )
    return signed, head


def _last_signed(service: Service) -> Frontier:
    """
    Return the log as it was last signed, made again from its entries; empty if it never was.

    The newer one counts of the checkpoint in the store and that in the data directory: whoever can write the store
    can drop all of its checkpoints, and would have us begin anew on a past of his making.

    :raises LogTampered: the entries are not those that were signed, or the store has lost every checkpoint.
    """
    log = service.ledger
    stored, kept = log.last_checkpoint(), _kept(service)
    if stored is None and kept is None:
        return Frontier()
    if stored is None:
        raise LogTampered("the log was signed before, and its store has no checkpoint any more", hint=_HINT)
    signed = max((_verified(service, note) for note in (stored, kept) if note is not None), key=lambda each: each.size)
    made = _extended(log, Frontier(), signed.size)
    if made.root() != signed.root:
        raise LogTampered(f"the first {signed.size} entries of the log are not those that were signed", hint=_HINT)
    return made


def _verified(service: Service, note: str) -> Checkpoint:
    public = service.authority.public
    return checkpoint.verify(note, log_origin(public), public.log_key)


def _kept(service: Service) -> str | None:
    """Return the checkpoint in the data directory. :raises Fault: it cannot be read."""
    path = service.data / CHECKPOINT
    with faults("read", path):
        try:
            return path.read_text("utf-8")
        except FileNotFoundError:
            return None


def _extended(log: SqlLedger, frontier: Frontier, size: int) -> Frontier:
    return frontier.extend(merkle.leaf_hash(entry) for entry in log.entries(frontier.size, size))


async def refresh_foreign_lists(state: State) -> None:
    """Fetch the revocation lists of other authorities whose certificates introduce machines here."""
    await state.service.foreign_lists.refresh(state.service.clock.now())


TASKS: dict[str, Callable[[State], Awaitable[None]]] = {
    "serving certificate": renew_serving,
    "stale intents": abandon_stale,
    "checkpoint": sign_checkpoint,
    "revocation lists of others": refresh_foreign_lists,
    "keys of OpenID providers": openid.refresh,
    "instances": instances.watch,
}
