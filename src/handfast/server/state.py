"""What handlers share. The service and the serving certificate are replaced as whole values, never changed."""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Awaitable, Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import datetime
from typing import TYPE_CHECKING, Any, TypeVar

from aiohttp import web

from handfast.adapters.buckets import Buckets, Share
from handfast.adapters.callers import prefix
from handfast.core.merkle import Frontier
from handfast.core.names import IPAddress
from handfast.server.connections import Connections, Peer
from handfast.server.identity import Identity
from handfast.server.limits import Limits
from handfast.server.looks import Looks
from handfast.server.metrics import Metrics
from handfast.wiring import Service

if TYPE_CHECKING:
    from handfast.server.hosts import Snapshot
    from handfast.server.krl import Listed

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
    logins: Buckets
    failures: Buckets
    reports: Buckets  # of SSH host keys, by the token that each came with
    looks: Looks
    reading: Share
    downloads: Share
    crls: dict[bytes, Published] = field(default_factory=dict)  # by the pin of their authority
    snapshot: Snapshot | None = None  # of SSH hosts, as it was last built
    listed: Listed | None = None  # the list of revoked SSH keys, as it was last made
    publishing: asyncio.Lock = field(default_factory=asyncio.Lock)
    listing: asyncio.Lock = field(default_factory=asyncio.Lock)  # of revoked SSH keys
    gathering: asyncio.Lock = field(default_factory=asyncio.Lock)  # of the snapshot
    calls: socket.socket | None = None  # where agents call, if the controller takes their calls
    signed: Frontier | None = None  # the log as of our last checkpoint, which every later one has to extend
    tampered: bool = False  # whether the log last seen does not
    stopping: bool = False
    busy: set[object] = field(default_factory=set)  # the HTTP protocols with a request in flight
    rested: asyncio.Event = field(default_factory=asyncio.Event)  # set when the last of them is done, while stopping
    # One thread: an operator's slow list must neither hold up introductions nor open a connection each.
    operators: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "operator"))
    # Another for whoever else may read: they are many, and may be strangers.
    readers: ThreadPoolExecutor = field(default_factory=lambda: ThreadPoolExecutor(1, "reader"))

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
            Buckets(limits.logins, limits.logins_burst),
            Buckets(limits.failures, limits.failures_burst),
            Buckets(limits.failures, limits.failures_burst),
            Looks.within(limits),
            Share(limits.readings, limits.readings_per_source),
            Share(limits.downloads, limits.downloads_per_source),
        )

    async def in_thread(self, work: Callable[..., T], *args: Any) -> T:
        """Run what waits for the disk."""
        return await asyncio.get_running_loop().run_in_executor(self.operators, work, *args)

    async def for_reader(self, source: IPAddress | None, work: Callable[..., T], *args: Any) -> T:
        """Run what waits for the disk, where no operator asks. :raises TooMuch: too many wait already."""
        with self.reading.place(prefix(source)):
            return await asyncio.get_running_loop().run_in_executor(self.readers, work, *args)


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
