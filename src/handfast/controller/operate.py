"""
What an operator has done on a managed machine: its services, their configuration, artifacts and logs.

He is where the controller's credential is, and asks the agent himself; whoever watches the instances is not needed.
Nothing is sent before the other side has proved the key that the ledger expects of this instance, with a certificate of
ours: what an agent is told, such as a configuration, is for it alone.
"""

from __future__ import annotations

import asyncio
import hashlib
import io
import os
from base64 import b64encode
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import quote

from handfast.adapters import files, given
from handfast.adapters.clock import SystemClock
from handfast.authority.authority import PublicAuthority
from handfast.controller.credential import OwnCredential, held_fresh, own
from handfast.controller.http import Connection, Stream
from handfast.controller.identity import check_agent
from handfast.controller.lend import borrow
from handfast.controller.listen import SOURCES
from handfast.controller.reach import connect
from handfast.core import wire
from handfast.core.agentjson import (
    ArtifactAbout,
    ArtifactList,
    Configuration,
    LogAdded,
    LogNames,
    Pull,
    ServiceAbout,
    Services,
    ServiceState,
)
from handfast.core.instance_views import fingerprint
from handfast.core.instances import Instance, Mode, check_not_quarantined, existing
from handfast.core.names import machine_name
from handfast.core.ports import Clock, Ledger
from handfast.core.secret import Secret
from handfast.errors import HandfastError, Malformed, NotFound, Refused, Revoked, Unreachable, UntrustedPeer
from handfast.wiring import AUTHORITY, Overrides, open_ledger, open_service, require_data

CHANGE = 150.0  # seconds: an agent gives a program 2 minutes
PULL = 6 * 3600.0  # seconds for an agent to fetch an artifact
FLUSH = 300.0  # seconds from the last byte of an artifact until it is on the agent's disk
_PIECE = 1024 * 1024  # bytes
_WRITTEN_DOWN = 2.0  # seconds for whoever watches to write down that it has renewed an instance
_CALLERS = SOURCES + 2  # of an instance that dials who are asked who they are; it is one of the first from each source
_LOOK = 1.0  # seconds between two looks at a log
_IN_VAIN = 30.0  # seconds without an answer, until somebody who follows a log is told


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file to deploy: its ``size`` (bytes) and ``sha256`` (hex), as they were when it was read."""

    path: Path
    size: int
    sha256: str


@dataclass(frozen=True, slots=True)
class Remote:
    """An instance that has proved to be it; requests go one after the other."""

    connection: Stream

    async def services(self) -> list[tuple[ServiceAbout, str]]:
        """Return its services, and how each is; empty where the machine's policy does not let it be asked."""
        found = (await self.connection.call("GET", "/v1/services", Services)).services
        return [(each, await self._shown(each)) for each in found]

    async def _shown(self, service: ServiceAbout) -> str:
        if "status" not in service.operations:
            return ""
        try:
            return await self.state(service.name)
        except HandfastError:
            if not self.connection.usable:
                raise
            return "unknown"  # one that is broken hides none of the others

    async def state(self, service: str) -> str:
        """Return how a service is."""
        return (await self.connection.call("GET", _path(service), ServiceState, patience=CHANGE)).state

    async def change(self, service: str, change: str) -> str:
        """Have a service do ``start``, ``stop`` or ``restart``, and return how it is then. :raises Conflict:"""
        path = f"{_path(service)}/{change}"
        return (await self.connection.call("POST", path, ServiceState, patience=CHANGE)).state

    async def configure(self, service: str, contents: dict[str, str]) -> str:
        """
        Write configuration files, all of them or none, by the names that the machine's policy has for them.

        :raises Refused: the service does not accept them. :raises Conflict: it is not in a state for that.
        """
        path, body = f"{_path(service)}/configuration", Configuration(contents)
        return (await self.connection.call("PUT", path, ServiceState, body, patience=2 * CHANGE)).state

    async def deploy(
        self, service: str, name: str, artifact: Artifact, progress: Callable[[int, int], None]
    ) -> ArtifactAbout:
        """
        Send an artifact; ``progress`` is told how many of how many bytes are sent.

        :raises TooMuch: over what the machine's policy allows. :raises Malformed: the file has changed meanwhile.
        :raises Malformed: also, if the agent says that it has something else.
        """
        digest = b64encode(bytes.fromhex(artifact.sha256)).decode()
        path = f"{_path(service)}/artifacts/{quote(name, safe='')}"
        with given.opened(artifact.path) as file:
            answer = await self.connection.upload(
                path,
                _pieces(file, artifact),
                artifact.size,
                headers=[("repr-digest", f"sha-256=:{digest}:")],
                progress=lambda sent: progress(sent, artifact.size),
                patience=FLUSH,
            )
        if not answer.success:
            raise self.connection.problem(answer)
        there = wire.decode(answer.body, ArtifactAbout)
        if there.sha256 != artifact.sha256:
            raise Malformed(
                f"the agent says that it has {there.sha256!r} under {name!r}, not {artifact.sha256!r}",
                hint="it is not what was sent: look at the machine",
            )
        return there

    async def pull(self, service: str, name: str, url: str, sha256: str) -> ArtifactAbout:
        """Have the agent fetch an artifact itself. :raises NotAuthorized: its policy does not name that place."""
        path = f"{_path(service)}/artifacts/{quote(name, safe='')}/pull"
        return await self.connection.call("POST", path, ArtifactAbout, Pull(url, sha256), patience=PULL)

    async def artifacts(self, service: str) -> list[ArtifactAbout]:
        """Return what was deployed to a service, by name."""
        return (await self.connection.call("GET", f"{_path(service)}/artifacts", ArtifactList)).artifacts

    async def undeploy(self, service: str, name: str) -> None:
        """Have an artifact removed. :raises NotFound: there is none of this name."""
        answer = await self.connection.request("DELETE", f"{_path(service)}/artifacts/{quote(name, safe='')}")
        if not answer.success:
            raise self.connection.problem(answer)

    async def logs(self, service: str) -> list[str]:
        """Return the names of a service's logs."""
        return (await self.connection.call("GET", f"{_path(service)}/logs", LogNames)).logs

    async def last(self, service: str, log: str, count: int) -> LogAdded:
        """Return the last whole lines of a log, with the mark behind them."""
        return await self.connection.call("GET", f"{_path(service)}/logs/{quote(log)}?last={count}", LogAdded)

    async def since(self, service: str, log: str, mark: str) -> LogAdded:
        """Return what a log has got since a mark."""
        return await self.connection.call("GET", f"{_path(service)}/logs/{quote(log)}?since={quote(mark)}", LogAdded)


def _path(service: str) -> str:
    return f"/v1/services/{quote(service, safe='')}"


@dataclass(frozen=True, slots=True)
class Operator:
    """Who may open the data directory, with the controller's credential."""

    ledger: Ledger
    authority: PublicAuthority
    credential: OwnCredential
    clock: Clock
    data: Path

    @asynccontextmanager
    async def agent(self, name: str) -> AsyncIterator[Remote]:
        """
        Give the agent of an instance, while the block runs.

        :raises NotFound: there is no such instance. :raises Refused: it is not introduced, or is quarantined.
        :raises Unreachable: it does not answer. :raises UntrustedPeer: somebody else does; he was sent nothing.
        """
        instance = self._managed(name)
        try:
            agent = await (self._caller(instance) if instance.dials else self._there(instance))
        except Unreachable as error:
            hint = error.hint or f"does its agent run, and is its port open? see `handfast instance show {name}`"
            raise Unreachable(error.message, hint=hint) from None
        try:
            yield agent
        finally:
            agent.connection.close()

    async def _there(self, instance: Instance) -> Remote:
        connection = await connect(instance, self.credential, self.data)
        # Without TLS it is on a loopback address, and that is all that is known of it.
        return await self._proved(instance, connection) if isinstance(connection, Connection) else Remote(connection)

    async def _caller(self, instance: Instance) -> Remote:
        """Return the instance of those who call by its name: anybody can, and each source has its turn."""
        error: HandfastError = Unreachable(f"{instance.name!r} has not called")
        for _ in range(_CALLERS):
            lent = await borrow(self.data, instance.name)
            try:
                return await self._proved(instance, await Connection.over(lent, self.credential.context, instance.name))
            except (Unreachable, UntrustedPeer) as found:
                error = found
        raise error

    def _managed(self, name: str) -> Instance:
        instance = existing(self.ledger.instance(machine_name(name)), name)
        check_not_quarantined(instance)
        if instance.serial is None and instance.mode is not Mode.PLAIN:
            raise Refused(
                f"{name!r} is {instance.state.value}, and not introduced", hint=f"see `handfast instance show {name}`"
            )
        return instance

    async def _proved(self, instance: Instance, connection: Connection) -> Remote:
        """Return the agent that a connection leads to; it ends if that is somebody else. Raises as ``agent``."""
        try:
            await self._prove(instance, connection)
        except BaseException:
            connection.close()
            raise
        return Remote(connection)

    async def _prove(self, instance: Instance, connection: Connection) -> None:
        end = asyncio.get_running_loop().time() + _WRITTEN_DOWN
        while connection.spki not in {instance.expected, instance.issued_key}:
            if asyncio.get_running_loop().time() > end:
                expected = "" if instance.expected is None else fingerprint(instance.expected)
                raise UntrustedPeer(
                    f"{instance.name!r} has the key {expected}, and at {connection.name} answers"
                    f" {fingerprint(connection.spki)}",
                    hint=f"nothing was sent; see `handfast instance show {instance.name}`",
                )
            await asyncio.sleep(_WRITTEN_DOWN / 10)
            instance = self._managed(instance.name)
        check_agent(connection.certificate, connection.chain, instance, self.authority, at=self.clock.now())
        record = self.ledger.credential(connection.certificate.serial_number)
        if record is None or record.revoked_at is not None:
            raise Revoked(f"the credential of {instance.name!r} is revoked", hint="remove the instance, add it anew")

    async def follow(self, name: str, service: str, log: str, count: int) -> AsyncGenerator[LogAdded, None]:
        """
        Give the last lines of a log, and then what is added, for ever; also over a restart of the agent.

        :raises HandfastError: as ``agent`` and ``Remote.last``, if nothing was given yet, or for half a minute.
        """
        loop, mark, since = asyncio.get_running_loop(), "", None
        while True:
            try:
                async with self.agent(name) as agent:
                    while True:
                        added = await (agent.since(service, log, mark) if mark else agent.last(service, log, count))
                        mark, since = added.mark, None
                        if added.lines or added.lost:
                            yield added
                        if not added.lines:
                            await asyncio.sleep(_LOOK)
            except (Unreachable, NotFound):  # it is restarted, or the log is rotated
                since = loop.time() if since is None else since
                if not mark or loop.time() - since >= _IN_VAIN:
                    raise
                await asyncio.sleep(_LOOK)


@contextmanager
def opened(data: Path, name: str, passphrase: Callable[[], Secret | None]) -> Iterator[Operator]:
    """
    Open a registrar's directory for an operator of an instance.

    ``passphrase`` is asked for if the controller needs a new credential; not for an instance that does not exist.

    :raises NotFound: no registrar was ever started on this directory, or there is no such instance.
    :raises Unsafe: others can read it.
    :raises Refused: the authority cannot certify a controller. :raises Fault: the disk, or the ledger.
    """
    require_data(data)
    authority, clock = PublicAuthority.read(data / AUTHORITY), SystemClock()
    with open_ledger(data) as ledger:
        existing(ledger.instance(machine_name(name)), name)
        credential = held_fresh(data, authority.trust_domain, ledger, clock.now())
        if credential is None:
            service = open_service(data, Overrides(), passphrase=passphrase())
            try:
                credential = own(service)
            finally:
                service.ledger.close()
        yield Operator(ledger, authority, credential, clock, data)


def measured(path: Path, sha256: str | None = None) -> Artifact:
    """
    Return a file as it is now, to be deployed. It reads all of it.

    :raises Refused: it has another SHA-256 (hex) than ``sha256``. :raises NotFound, Fault: it cannot be read.
    :raises UsageError: a directory, a device.
    """
    with given.opened(path) as file, files.faults("read", path):
        size, digest = os.fstat(file.fileno()).st_size, hashlib.file_digest(file, "sha256").hexdigest()
    if sha256 is not None and digest != sha256:
        raise Refused(f"{str(path)!r} has the SHA-256 {digest}, not {sha256}", hint="is it the right file?")
    return Artifact(path, size, digest)


async def _pieces(file: io.BufferedReader, artifact: Artifact) -> AsyncIterator[bytes]:
    """Give what is in a file. :raises Malformed: not as much as when it was measured. :raises Fault: the disk."""
    left = artifact.size
    with files.faults("read", artifact.path):
        while left >= 0 and (piece := await asyncio.to_thread(file.read, _PIECE)):
            left -= len(piece)
            if left >= 0:
                yield piece
    if left:
        raise Malformed(f"{str(artifact.path)!r} has changed while it was sent", hint="send it when it is complete")
