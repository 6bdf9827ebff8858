"""
Answering those who call by an instance's name: which of them it is, TLS says, and nothing before.

One from each source is spoken to at once, so that who says nothing holds up nobody. Where we know the instance's key it
is found among any number of strangers. Where we do not, because it is to be introduced, they come in their turns, and
each has one before the first has another.
"""

from __future__ import annotations

import asyncio
import socket
import ssl
from collections.abc import Callable, Sequence
from contextlib import suppress

import structlog

from handfast.controller.http import Connection
from handfast.controller.listen import Dialled, Waiting
from handfast.core.instances import Instance
from handfast.errors import HandfastError, Unreachable

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


async def answered(
    dialled: Dialled, instance: Instance, context: ssl.SSLContext, *, patience: float, another: bool = False
) -> Connection:
    """
    Return a connection to the instance, or else to whoever calls by its name and speaks TLS with us.

    With ``patience`` (seconds) it is waited for, and nobody else will do. ``another`` is one who does not have its key,
    if there is one: for when it has a connection already, so that nobody who was first keeps others from being heard.

    :raises Unreachable: nobody calls, or nobody who will do.
    """
    end = asyncio.get_running_loop().time() + patience

    def fits(connection: Connection) -> bool:
        return connection.spki in {instance.expected, instance.issued_key}

    while True:
        left = max(0.0, end - asyncio.get_running_loop().time())
        calls = dialled.calls(instance.name) or [await dialled.take(instance.name, patience=left)]
        answers = await _spoken(calls, context, enough=lambda connection: fits(connection) and not another)
        spoken = [(call, answer) for call, answer in answers if isinstance(answer, Connection)]
        chosen = min(spoken, key=lambda each: fits(each[1]) is another, default=None)  # the first of those, in turn
        for call, answer in answers:
            if not isinstance(answer, Connection):
                dialled.had_its_turn(call)
            elif chosen is None or call is not chosen[0]:
                answer.close()
        if chosen is not None:
            dialled.had_its_turn(chosen[0])
            if fits(chosen[1]):
                dialled.proved(chosen[0])
            if fits(chosen[1]) or not patience:
                return chosen[1]
            chosen[1].close()
        if asyncio.get_running_loop().time() >= end:
            errors = [answer for _, answer in answers if isinstance(answer, HandfastError)]
            raise errors[0] if errors else Unreachable(f"{instance.name!r} has not called; others have, by its name")


async def _spoken(
    calls: Sequence[Waiting], context: ssl.SSLContext, *, enough: Callable[[Connection], bool]
) -> list[tuple[Waiting, Connection | HandfastError]]:
    """Do all handshakes at once, until one is ``enough``; who has not answered by then is left out, and closed."""
    tasks = [asyncio.ensure_future(_over(call, context)) for call in calls]
    left, done = set(tasks), set[asyncio.Task[Connection | HandfastError]]()
    try:
        while left and not any(isinstance(made := each.result(), Connection) and enough(made) for each in done):
            ended, left = await asyncio.wait(left, return_when=asyncio.FIRST_COMPLETED)
            done |= ended
    except BaseException:
        for each in done:
            if isinstance(made := each.result(), Connection):
                made.close()
        raise
    finally:
        for each in left:
            each.cancel()
        await asyncio.gather(*left, return_exceptions=True)
        for call, task in zip(calls, tasks, strict=True):
            if task.cancelled():  # perhaps before it began, and nobody else has the socket then
                call.connected.close()
            elif task in left and isinstance(late := task.result(), Connection):
                late.close()
    return [(call, task.result()) for call, task in zip(calls, tasks, strict=True) if task in done]


async def _over(call: Waiting, context: ssl.SSLContext) -> Connection | HandfastError:
    try:
        return await Connection.over(call.connected, context, call.name)
    except Exception as error:  # noqa: BLE001  whatever one caller has us stumble over, the others are heard
        with suppress(OSError):  # it is the loop's, if it was refused after the handshake
            call.connected.shutdown(socket.SHUT_RDWR)
        if isinstance(error, HandfastError):
            return error
        _log.error("unexpected", instance=call.name, error=f"{type(error).__name__}: {error!s:.200}")
        return Unreachable(f"{call.name!r} cannot be spoken to: {type(error).__name__}")
