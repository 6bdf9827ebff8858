"""What a registrar does by itself: a new serving certificate in time, stale intents, checkpoints of the log."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from datetime import timedelta

import structlog

from handfast.core import checkpoint
from handfast.errors import HandfastError
from handfast.server.identity import Identity, obtain
from handfast.server.state import State
from handfast.wiring import log_origin

STALE = timedelta(minutes=10)  # a newcomer's retry comes within seconds; what is older crashed for good
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
    """Sign the head of the log if it has grown since the last checkpoint."""
    log, authority = state.service.ledger, state.service.authority
    head, last = log.head(), log.last_checkpoint()
    if not head.size or (last is not None and checkpoint.parse(last).size >= head.size):
        return
    newest = checkpoint.Checkpoint(log_origin(authority.public), head.size, head.root())
    await asyncio.wrap_future(log.save_checkpoint(checkpoint.sign(newest, authority.log_signer())))


TASKS: dict[str, Callable[[State], Awaitable[None]]] = {
    "serving certificate": renew_serving,
    "stale intents": abandon_stale,
    "checkpoint": sign_checkpoint,
}
