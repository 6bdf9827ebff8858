"""What handlers share. The service and the serving certificate are replaced as whole values, never changed."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, TypeVar

from aiohttp import web

from handfast.core.merkle import Frontier
from handfast.core.names import IPAddress
from handfast.server.connections import Connections, Peer
from handfast.server.identity import Identity
from handfast.server.limits import Buckets, Limits
from handfast.server.metrics import Metrics
from handfast.wiring import Service

T = TypeVar("T")


@dataclass(slots=True)
class State:
    """One running registrar."""

    service: Service
    identity: Identity | None  # None where nothing of ours is served, but a foreign protocol
    limits: Limits
    metrics: Metrics
    connections: Connections
    introductions: Buckets
    failures: Buckets
    crls: dict[bytes, Published] = field(default_factory=dict)  # by the pin of their authority
    publishing: asyncio.Lock = field(default_factory=asyncio.Lock)
    signed: Frontier | None = None  # the log as of our last checkpoint, which every later one has to extend
    tampered: bool = False  # whether the log last seen does not
    stopping: bool = False
    busy: set[object] = field(default_factory=set)  # the HTTP protocols with a request in flight
    rested: asyncio.Event = field(default_factory=asyncio.Event)  # set when the last of them is done, while stopping
    # One thread: an operator's slow list must neither hold up introductions nor open a connection each.
    operators: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "operator"))

    @classmethod
    def start(cls, service: Service, identity: Identity | None, limits: Limits) -> State:
        """Return the state of a registrar that has met nobody yet."""
        metrics = Metrics()
        if identity is not None:
            metrics.serving_expiry.set(identity.certificate.not_valid_after_utc.timestamp())
        return cls(
            service,
            identity,
            limits,
            metrics,
            Connections(limits, metrics),
            Buckets(limits.introductions, limits.introductions_burst),
            Buckets(limits.failures, limits.failures_burst),
        )

    async def in_thread(self, work: Callable[..., T], *args: Any) -> T:
        """Run what waits for the disk."""
        return await asyncio.get_running_loop().run_in_executor(self.operators, work, *args)


@dataclass(frozen=True, slots=True)
class Published:
    """The revocation list as it was last signed, and for which state of the ledger."""

    issuer: bytes
    revocations: int
    der: bytes
    stale_at: datetime


@dataclass(frozen=True, slots=True)
class Call:
    """One request: its body was read within the limits, its connection's truth looked up."""

    request: web.Request
    state: State
    peer: Peer
    body: bytes

    @property
    def source(self) -> IPAddress | None:
        """The address that the request came from."""
        return self.peer.source


Handler = Callable[[Call], Awaitable[web.Response]]
