"""What anybody may ask, and the introductions. Nothing here is secret; all of it is verified by those who use it."""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable
from datetime import UTC, datetime
from functools import partial
from typing import TypeVar

import msgspec
from aiohttp import web
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

import handfast
from handfast.adapters.buckets import Buckets
from handfast.adapters.callers import prefix
from handfast.core import keys, wire
from handfast.core.flow import Answer, Channel, Evidence, Finding
from handfast.core.names import IPAddress
from handfast.core.ports import Authority
from handfast.core.x509 import CRL_LIFETIME
from handfast.errors import (
    AlreadySpent,
    EvidenceRejected,
    Fault,
    HandfastError,
    Malformed,
    NotFound,
    NotMine,
    TooMuch,
)
from handfast.registrar.introduce import Registrar
from handfast.server.state import Call, Published, State
from handfast.wiring.nifi import NIFI

_UNPROVED = (Malformed, NotMine, EvidenceRejected, NotFound)  # anybody may send that
NO_STORE = {"Cache-Control": "no-store"}
T = TypeVar("T")
_CRL_AGE = 60  # seconds that a cache may keep a list: a revocation is to be seen soon


class Methods(msgspec.Struct, frozen=True):
    """GET /v1/methods."""

    methods: list[str]


class Version(msgspec.Struct, frozen=True):
    """GET /version."""

    version: str


class Health(msgspec.Struct, frozen=True):
    """GET /healthz, /livez, /readyz. ``failing`` names the checks that failed, and not why."""

    status: str
    failing: list[str] = []


def json(value: object, *, status: int = 200) -> web.Response:
    """Return ``value`` as JSON that no cache keeps."""
    return web.Response(
        status=status,
        body=msgspec.json.encode(value),
        content_type="application/json",
        headers=NO_STORE,
    )


async def hello(call: Call) -> web.Response:
    """A fresh nonce, our time, the roots and the chain: trusted for nothing until the pin has matched."""
    service = call.state.service
    authority = service.authority
    return json(
        wire.Hello(
            nonce=service.registrar.context.new_nonce(),
            time=service.clock.now().isoformat(),
            trust=list(authority.trust),
            chain=list(authority.chain),
        )
    )


async def methods(call: Call) -> web.Response:
    """The methods of introduction that are enabled."""
    registrar = call.state.service.registrar
    return json(Methods(sorted(name for name in registrar.introducers if registrar.rules.methods.get(name))))


async def introduce(call: Call) -> web.Response:
    """Be introduced: evidence in, certificate out."""
    answer = await introduced(call, call.state.service.registrar, call.request.match_info["method"])
    return json(
        wire.IntroductionAnswer(
            certificate=answer.credential.certificate,
            chain=list(answer.chain),
            trust=list(answer.trust),
            time=answer.time.isoformat(),
            signature=answer.proof,
        )
    )


async def introduced(call: Call, registrar: Registrar, method: str) -> Answer:
    """
    Run the flow for a call, counted and limited: the same for every listener.

    :raises HandfastError: whatever refuses it. :raises TooMuch: it came too often.
    """
    state, identity = call.state, call.peer.identity
    if identity is None:  # unreachable: introductions are on TLS listeners only
        raise Fault("an introduction without TLS")
    label = method if method in registrar.introducers else "unknown"
    evidence = Evidence(method, call.body, Channel(identity.spki_sha256, client(call), call.source))
    flow = registrar.introduce(evidence, identity, admit=partial(_admit, state, call.source))
    return await counted(call, label, flow)


async def counted(call: Call, label: str, introduction: Awaitable[T]) -> T:
    """
    Await an introduction; count what comes of it, and whoever sends what proves nothing.

    :raises HandfastError: whatever refuses it. :raises TooMuch: too much from there has proved nothing.
    """
    state = call.state
    try:
        answer = await introduction
    except _UNPROVED as error:
        wait = _unproved(state, prefix(call.source))
        state.metrics.introductions.labels(label, "limited" if wait else error.code).inc()
        if wait:
            raise _too_often(state, wait) from None
        raise
    except HandfastError as error:
        state.metrics.introductions.labels(label, error.code).inc()
        if isinstance(error, AlreadySpent):
            state.metrics.alarms.inc()
        raise
    state.metrics.introductions.labels(label, "ok").inc()
    return answer


async def roots(call: Call) -> web.Response:
    """The root, PEM. Whoever trusts it must compare its pin first."""
    pem = call.state.service.authority.root.public_bytes(Encoding.PEM)
    return web.Response(body=pem, content_type="application/pem-certificate-chain")


async def root(call: Call) -> web.Response:
    """The root with this pin (64 hex digits), PEM."""
    if call.request.match_info["pin"].lower() != keys.format_pin(call.state.service.authority.pin):
        raise NotFound("no root with this pin", hint="this registrar belongs to another authority")
    return await roots(call)


async def crl(call: Call) -> web.Response:
    """The revocation list of an issuing CA, DER."""
    name, service = call.request.match_info["issuer"], call.state.service
    if name in service.authority.public.crl_names:
        der = await revocation_list(call.state, service.authority)
    elif service.nifi is not None and name in {NIFI, service.nifi.authority.pin.hex()}:
        der = await revocation_list(call.state, service.nifi.authority)
    else:
        raise NotFound("no such issuing CA")
    headers = {"Cache-Control": f"max-age={_CRL_AGE}"}
    return web.Response(body=der, content_type="application/pkix-crl", headers=headers)


async def revocation_list(state: State, authority: Authority) -> bytes:
    """Return the current list; it is signed anew when something was revoked, or when it is about to grow old."""
    service = state.service
    async with state.publishing:  # a herd that asks after a revocation gets one new list
        now, issuer = service.clock.now(), authority.issuing.public_bytes(Encoding.DER)
        held = state.crls.get(authority.pin)
        same = held is not None and (held.issuer, held.revocations) == (issuer, service.ledger.revocation_count())
        if held is None or not same or not _fresh(held, now):
            listed = await asyncio.wrap_future(service.ledger.publish(service.name, at=now))
            der = authority.crl(list(listed.revocations), number=listed.number, now=now)
            held = state.crls[authority.pin] = Published(issuer, len(listed.revocations), der, now + CRL_LIFETIME / 2)
        return held.der


async def alive(call: Call) -> web.Response:
    """Whether the process answers."""
    return json(Health("ok"))


async def ready(call: Call) -> web.Response:
    """Whether an introduction would succeed: ledger, its log, authority, serving certificate, and not stopping."""
    state = call.state
    now = state.service.clock.now()
    issuing = state.service.authority.issuing
    failing = []
    if not await writable(state):
        failing.append("ledger")
    if not issuing.not_valid_before_utc <= now < issuing.not_valid_after_utc:
        failing.append("authority")
    if state.identity is not None and not state.identity.usable(now):
        failing.append("serving-certificate")
    if state.tampered:
        failing.append("log")
    if state.stopping:
        failing.append("stopping")
    return json(Health("failing" if failing else "ok", failing), status=503 if failing else 200)


async def writable(state: State) -> bool:
    """Whether the ledger takes a write. It changes nothing: no intent is older than the epoch."""
    beginning = datetime.fromtimestamp(0, UTC)
    try:
        await asyncio.wrap_future(state.service.ledger.abandon_intents(beginning, at=state.service.clock.now()))
    except HandfastError:
        return False
    return True


async def version(call: Call) -> web.Response:
    """The version of this program."""
    return json(Version(handfast.__version__))


def client(call: Call) -> x509.Certificate | None:
    """Return the client's certificate, unless it has expired: TLS checked that once, and connections live on."""
    shown = call.peer.client
    if shown is None or call.state.service.clock.now() >= shown.not_valid_after_utc:
        return None
    return shown


def _admit(state: State, source: IPAddress | None, finding: Finding) -> None:
    """Count what is proved by its marker, or by its source where many hold it. :raises TooMuch: too often."""
    admit(state, f"{finding.method} from {prefix(source)}" if finding.shared else finding.once.marker)


def admit(state: State, bucket: str, *, buckets: Buckets | None = None) -> None:
    """Count something that is proved, by what it is counted under. :raises TooMuch: too often."""
    counted = buckets or state.introductions
    if wait := counted.wait(bucket):
        raise _too_often(state, wait)
    counted.take(bucket)


def _unproved(state: State, source: str) -> int:
    """Count refused evidence; return the seconds to wait if there was too much of it, else 0."""
    wait = state.failures.wait(source)
    state.failures.take(source)
    return wait


def _too_often(state: State, seconds: int) -> TooMuch:
    state.metrics.limited.inc()
    return TooMuch("too often", hint=f"try again in {seconds} s", after=seconds)


def _fresh(held: Published, now: datetime) -> bool:
    # The lower bound: a list from the future, after our clock was set back, would not be valid yet for others.
    return held.stale_at - CRL_LIFETIME / 2 <= now < held.stale_at
