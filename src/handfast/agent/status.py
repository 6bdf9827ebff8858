"""
How an agent is, for whoever asks on its own machine: a Unix socket in its directory, which is its user's alone.

It is asked for, not written down: nothing is old, nothing is written while nobody asks, and where nobody answers no
agent runs. Whoever connects is told everything, and can change nothing.
"""

from __future__ import annotations

import asyncio
import os
import socket
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from datetime import timedelta
from pathlib import Path

import msgspec
from msgspec import structs

from handfast.adapters import files, sockets
from handfast.adapters.clock import SystemClock
from handfast.agent.agent import Stage
from handfast.agent.service import Service
from handfast.agent.state import State
from handfast.core.chain import read_identity
from handfast.core.fingerprint_words import words
from handfast.core.instance_views import fingerprint, parse_fingerprint, written
from handfast.core.keys import spki_sha256
from handfast.errors import Fault, HandfastError, NotFound
from handfast.newcomer.keystore import Keystore

NAME = "agent.sock"
PATIENCE = 10.0  # seconds for all of an answer
_SERVICE = 5.0  # seconds for one service to say how it is
_MAX_ANSWER = 1024 * 1024  # bytes


class ServiceView(msgspec.Struct, frozen=True):
    """A service, and its state; empty where it could not be found out."""

    name: str
    state: str


class AgentView(msgspec.Struct, frozen=True):
    """
    An agent. ``stage`` is new, trial or held; ``key`` the fingerprint of what it shows, or would show.

    ``words`` are its first 88 bits, which are filled in where it is asked.
    ``serial`` and ``until`` are those of the credential that is held, also while another one is on trial, whose key is
    shown then. ``controller`` is who has called last, at
    ``controller_seen``, since the agent was started. Where it is not ``running`` only what lasts is known.
    """

    running: bool
    stage: str
    instance: str
    instance_id: str
    key: str
    words: str = ""
    serial: str | None = None
    until: str | None = None
    listen: str | None = None
    dial: str | None = None
    controller: str | None = None
    controller_seen: str | None = None
    services: list[ServiceView] = []


async def view(state: State) -> AgentView:
    """Return how the agent is at this moment, its services asked."""
    agent, data, seen = state.agent, state.data, state.seen
    held = agent.held
    controller = when = None
    if seen is not None:
        ago = timedelta(seconds=time.monotonic() - seen[1])
        controller, when = read_identity(seen[0].certificate).machine, written(SystemClock().now() - ago)
    services = [state.services[name] for name in sorted(state.services)]
    states = await asyncio.gather(*map(_state, services))
    return AgentView(
        running=True,
        stage=state.stage,
        instance=data.instance,
        instance_id=data.instance_id,
        key=fingerprint(agent.face.spki),
        serial=None if held is None else f"{held.serial_number:032x}",
        until=None if held is None else written(held.not_valid_after_utc),
        listen=None if state.listens is None else str(state.listens),
        dial=None if state.dials is None else str(state.dials),
        controller=controller,
        controller_seen=when,
        services=[ServiceView(each.policy.name, how) for each, how in zip(services, states, strict=True)],
    )


async def _state(service: Service) -> str:
    # Whoever asks here is root of this machine, or its agent's user: the policy limits the controller, not him.
    with suppress(HandfastError, TimeoutError):
        async with asyncio.timeout(_SERVICE):
            return (service.underway or await service.policy.backend.status()).value
    return ""


@asynccontextmanager
async def answering(directory: Path, state: State) -> AsyncIterator[None]:
    """
    Answer in an agent's directory, which the caller holds and which nobody else may enter.

    :raises Fault: the disk.
    """

    async def answer(_reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        with suppress(OSError):  # a TimeoutError is one
            async with asyncio.timeout(PATIENCE):
                writer.write(msgspec.json.encode(await view(state)))
                await writer.drain()
        writer.close()

    with sockets.unix_path(directory, NAME) as place, socket.socket(socket.AF_UNIX) as listening:
        with files.faults("make", directory / NAME):
            with suppress(FileNotFoundError):
                os.unlink(place)  # of an agent that was killed: we hold the directory
            listening.bind(place)
        server = await asyncio.start_unix_server(answer, sock=listening)
        try:
            yield
        finally:
            server.close()
            with suppress(FileNotFoundError):
                os.unlink(place)


def current(directory: Path) -> AgentView:
    """
    Return how the agent of a directory is; where none runs, what it holds.

    :raises NotFound: there is none, and never was one that was introduced. :raises Fault: it does not answer.
    """
    found = _asked(directory) or _kept(directory)
    # Here, not in the agent, which has no use for a list of words.
    return structs.replace(found, words=words(parse_fingerprint(found.key)))


def _asked(directory: Path) -> AgentView | None:
    try:
        with sockets.unix_path(directory, NAME) as place, socket.socket(socket.AF_UNIX) as connected:
            connected.settimeout(PATIENCE)
            connected.connect(place)
            answer = bytearray()
            while (piece := connected.recv(65536)) and len(answer) <= _MAX_ANSWER:
                answer += piece
        return msgspec.json.decode(answer, type=AgentView)
    except (FileNotFoundError, ConnectionRefusedError, NotADirectoryError):
        return None
    except (OSError, msgspec.DecodeError) as error:
        raise Fault(f"the agent in {str(directory)!r} does not answer: {error}", hint="see its log") from None


def _kept(directory: Path) -> AgentView:
    try:
        held = Keystore(directory).load()
    except NotFound:
        hint = f"handfast agent run --state {directory}"
        raise NotFound(f"no agent runs in {str(directory)!r}, and none was introduced there", hint=hint) from None
    identity = read_identity(held.certificate)
    return AgentView(
        running=False,
        stage=Stage.HELD.value,
        instance=identity.machine,
        instance_id=str(held.identity.get("instance_id", "")),
        key=fingerprint(spki_sha256(held.certificate.public_key())),
        serial=f"{held.certificate.serial_number:032x}",
        until=written(identity.not_after),
    )
