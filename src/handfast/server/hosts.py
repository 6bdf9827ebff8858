"""
SSH host keys over HTTPS: for programs, to whom ``[ssh] readers`` allows; and what machines report of themselves.

Host keys are public, but which machines there are is not everybody's to know: so by default whoever holds a credential
of this authority may read, and nobody else.
"""

from __future__ import annotations

import asyncio
import hashlib
import re
from collections.abc import AsyncIterator, Callable
from dataclasses import dataclass
from typing import Any, TypeVar

import msgspec
from aiohttp import web
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from handfast.adapters.callers import prefix
from handfast.core import knownhosts, sshkeys, views, vouched
from handfast.core.flow import Channel, Evidence
from handfast.core.hosts import SSH_PORT, Host, How, spelling
from handfast.core.invitation import key_id
from handfast.core.knownhosts import Speaker
from handfast.core.names import ip_address, machine_name
from handfast.core.secret import Secret
from handfast.core.vouched import Signature
from handfast.errors import Fault, Malformed, NotAuthorized, NotFound, TooMuch
from handfast.introducers.phone_home import PhoneHomeReport, public_half
from handfast.policy.rules import HostRules, Readers
from handfast.server.operators import authorize, holder
from handfast.server.public import counted, json
from handfast.server.state import Call
from handfast.ssh import snapshot, source
from handfast.wiring import Service

PAGE = 100  # machines in one answer
T = TypeVar("T")
_PART = 1 << 16  # bytes of a large answer that are in memory once more, for a client that reads slowly
_TEXT = "text/plain"


@dataclass(frozen=True, slots=True)
class Snapshot:
    """All machines of one revision of the ledger, under one set of rules: for our launcher, and as known_hosts."""

    revision: tuple[int, HostRules]
    content: bytes
    sha256: bytes
    known_hosts: bytes


def readable(call: Call) -> None:
    """Refuse whoever may not read host keys. :raises NotAuthorized: as the operator has set it."""
    readers = call.state.service.host_keys.rules.ssh.readers
    if readers is Readers.OPERATORS:
        authorize(call)
    elif readers is not Readers.ANYBODY:
        holder(call)


def by_operator(call: Call) -> bool:
    """Whether an operator asks."""
    try:
        authorize(call)
    except NotAuthorized:
        return False
    return True


async def read(call: Call, work: Callable[..., T], *args: Any) -> T:
    """
    Run what reads the disk for whoever may read; an operator does not wait for others.

    :raises NotAuthorized: who may not. :raises TooMuch: too many of them wait already.
    """
    readable(call)
    if by_operator(call):
        return await call.state.in_thread(work, *args)
    return await call.state.for_reader(call.source, work, *args)


async def host(call: Call) -> web.Response:
    """The SSH host keys of a machine, how each became known, and its lines for known_hosts."""
    service = call.state.service
    return json(await read(call, lambda: shown(service, service.host_keys.host(call.request.match_info["name"]))))


def shown(service: Service, host: Host) -> views.HostView:
    """Return a machine as it is shown by itself: with its newest SSH certificates."""
    now, accept = service.clock.now(), service.host_keys.rules.ssh.accept
    held = [views.certificate_view(each, now) for each in service.host_keys.certificates(host.machine)]
    return views.host_view(host, accept=accept, certificates=held)


async def hosts(call: Call) -> web.Response:
    """Machines with SSH host keys by name, from the one after ``after``; ``search`` is part of what one is known by."""
    readable(call)
    service, query = call.state.service, call.request.query
    after, search = (_printable(query.get(name, "")) for name in ("after", "search"))

    def page() -> list[views.HostView]:
        found = service.ledger.hosts(after=after, most=PAGE, search=search)
        return [views.host_view(each, accept=service.host_keys.rules.ssh.accept) for each in found]

    return json(await read(call, page))


async def lookup(call: Call) -> web.Response:
    """The machine that is reached as ``host`` at ``port`` (22 if it is left out)."""
    readable(call)
    service, query = call.state.service, call.request.query
    wanted = spelling(_normal(query.get("host", "")), _port(query.get("port", str(SSH_PORT))))

    def look_up() -> views.HostView:
        found = service.ledger.host_at(wanted)
        if found is None:
            raise NotFound(f"no machine is known as {wanted[:300]!r}")
        return shown(service, found)

    return json(await read(call, look_up))


async def snapshot_content(call: Call) -> web.Response:
    """All machines in one file, to be looked into offline; ``snapshot/signature`` vouches for it."""
    readable(call)
    made = await current(call)
    return await unless_held(call, made.content, made.sha256)


async def snapshot_signature(call: Call) -> web.Response:
    """The registrar's word, of this moment, for its snapshot: ECDSA by its TLS key, with the chain to the pin."""
    readable(call)
    made = await current(call)
    return json(vouch(call, snapshot.LABEL, made.sha256))


def vouch(call: Call, label: bytes, sha256: bytes) -> Signature:
    """Return our word, of this moment, for a file with this SHA-256; ``label`` says what kind of file."""
    identity, authority = call.state.identity, call.state.service.authority
    if identity is None:  # unreachable: these routes are on TLS listeners only
        raise Fault("a word of ours without TLS")
    return vouched.sign(
        label,
        sha256,
        at=call.state.service.clock.now(),
        signer=lambda data: identity.key.sign(data, ec.ECDSA(hashes.SHA256())),
        leaf=identity.certificate.public_bytes(Encoding.DER),
        chain=authority.chain,
        trust=authority.trust,
    )


async def current(call: Call) -> Snapshot:
    """Return what is known now; it is made anew when something has changed, once for all who ask."""
    async with call.state.gathering:
        state, loop = call.state, asyncio.get_running_loop()
        held = state.snapshot = await loop.run_in_executor(state.readers, _current, state.service, state.snapshot)
    return held


def _current(service: Service, held: Snapshot | None) -> Snapshot:
    rules = service.host_keys.rules.ssh
    revision = service.ledger.hosts_revision(), rules
    if held is not None and held.revision == revision:
        return held
    # One statement: of what is read in several, a name that moves meanwhile could be nobody's, and ssh let a thief in.
    hosts = service.ledger.hosts(most=snapshot.MOST_MACHINES)
    speaker = Speaker(rules.certificates.patterns, sshkeys.parse(service.authority.public.ssh_host_ca))
    content = snapshot.build(
        hosts, least=rules.accept, registrar=service.name, pin=service.authority.pin, speaker=speaker
    )
    lines = "".join(f"{line}\n" for line in knownhosts.of_all(hosts, least=rules.accept, speaker=speaker))
    return Snapshot(revision, content, hashlib.sha256(content).digest(), lines.encode())


async def unless_held(call: Call, body: bytes, sha256: bytes, *, media_type: str = _TEXT) -> web.Response:
    """Answer with the body, or with nothing where the client says that it has what ``sha256`` stands for."""
    tag = sha256.hex()
    if any(each.value in {tag, "*"} for each in call.request.if_none_match or ()):
        answer = web.Response(status=304)
        answer.etag = tag
        return answer
    # Server: as the door sets it, which comes too late for an answer that is sent here.
    headers = {"Content-Length": str(len(body)), "Server": "handfast"}
    charset = "utf-8" if media_type == _TEXT else None
    answer = web.Response(body=_parts(body), content_type=media_type, charset=charset, headers=headers)
    answer.etag = tag
    with call.state.downloads.place(prefix(call.source)):
        await _send(call, answer)
    return answer


async def _send(call: Call, answer: web.Response) -> None:
    """Send the whole answer. :raises ConnectionError: the client is gone, or took too long."""
    try:
        async with asyncio.timeout(call.state.limits.download):
            await answer.prepare(call.request)
            await answer.write_eof()
    except TimeoutError:
        if call.request.transport is not None:
            call.request.transport.abort()
        raise ConnectionResetError("the client reads too slowly") from None


async def _parts(body: bytes) -> AsyncIterator[bytes]:
    for begin in range(0, len(body), _PART):
        yield body[begin : begin + _PART]


async def known_hosts(call: Call) -> web.Response:
    """Every machine's lines for known_hosts (C2SP well-known-ssh-hosts): what ssh and others read as they are."""
    readable(call)
    made = await current(call)
    return await unless_held(call, made.known_hosts, made.sha256)


async def phone_home(call: Call) -> web.Response:
    """What cloud-init's phone_home posts, once, to the address in a machine's user-data."""
    state, identity = call.state, call.peer.identity
    if identity is None:  # unreachable: this route is on TLS listeners only
        raise Fault("a report without TLS")
    token = call.request.match_info["token"][:128]
    _admit(call, token)
    report = msgspec.json.encode(PhoneHomeReport(token, call.body))
    evidence = Evidence(How.PHONE_HOME.value, report, Channel(identity.spki_sha256, None, call.source))
    await counted(call, How.PHONE_HOME.value, state.service.host_keys.publish(evidence))
    return web.Response(status=204)


def _admit(call: Call, token: str) -> None:
    """
    Count a report by its token, before its form is read: that and a refusal in the log are what it costs.

    A token that nobody made is refused by itself, and not kept here. :raises TooMuch: too many with this one.
    """
    state, marker = call.state, key_id(public_half(Secret(token.encode())))
    if state.service.ledger.invitation(marker) is None:
        return
    if wait := state.reports.wait(marker):
        state.metrics.limited.inc()
        raise TooMuch("too often", hint=f"try again in {wait} s", after=wait)
    state.reports.take(marker)


def _port(text: str) -> int:
    if not re.fullmatch(r"[0-9]{1,5}", text) or not 0 < int(text) < 65536:
        raise Malformed(f"not a port: {text[:20]!r}", hint="1 to 65535")
    return int(text)


def _printable(text: str) -> str:
    """Return what may be looked for. :raises Malformed: no database has such text."""
    if not text.isprintable():
        raise Malformed(f"not to be looked for: {text[:60]!r}", hint="give part of a name")
    return text


def _normal(text: str) -> str:
    """Return a host as the ledger spells it. :raises Malformed: neither a name nor an address without a zone."""
    try:
        ip_address(text)
    except ValueError:
        return machine_name(text.removesuffix("."))
    return source.normal(text)
