"""
One meeting with one instance: who answers, and what is done with it. What follows from it is ``core.instances``.

An introduction is the flow of every other (``Registrar.introduce``), over a connection that we have made. The request
comes from the agent, which has proved its key by TLS on this very connection; that it asks for a certificate for that
key, and no other, is looked at before anything is spent. So whoever sits between and shows a key of his own has nothing
that he could have certified.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import datetime, timedelta

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from handfast.controller.credential import OwnCredential
from handfast.controller.http import Answer, Connection, Stream
from handfast.controller.identity import agent_identity
from handfast.controller.legacy import Deliveries
from handfast.core import flow, wire
from handfast.core.agentjson import About
from handfast.core.chain import Identity
from handfast.core.flow import Channel, Evidence, Finding
from handfast.core.instances import (
    MOST_ROLLBACKS,
    Answered,
    Instance,
    Issued,
    Met,
    Mode,
    Shown,
    Silence,
    State,
    Stranger,
    Unproved,
    Verified,
    met,
)
from handfast.core.keys import UNREADABLE
from handfast.core.records import INSTANCE, CredentialRecord, marker_of
from handfast.core.roles import Role
from handfast.core.wire import Hello, IntroductionAnswer
from handfast.core.x509 import BACKDATE
from handfast.errors import (
    AlreadySpent,
    EvidenceRejected,
    HandfastError,
    InvitationCancelled,
    InvitationExpired,
    Malformed,
    Revoked,
    Unreachable,
    UntrustedPeer,
)
from handfast.introducers import reintroduction, renewal
from handfast.newcomer.renew import drawn
from handfast.registrar.introduce import Registrar

_SLOWLY = 24  # renewals that are tried in the life of a credential, once some in a row have failed


@dataclass(frozen=True, slots=True)
class Meetings:
    """
    What meetings need: the flow, our credential, and what follows where a secret is used with a second key.

    ``first_too``: then what was issued to the first one is revoked; who is the thief of the two, nobody knows.
    """

    registrar: Registrar
    credential: OwnCredential
    deliveries: Deliveries
    first_too: bool = False

    async def meet(
        self, instance: Instance, connection: Stream, under_way: Callable[[Instance], None] = lambda _now: None
    ) -> Instance:
        """
        Do what the instance's state asks for on a new connection, and return what it is now.

        ``under_way`` is told what it is meanwhile, where that takes long.
        """
        if not isinstance(connection, Connection):
            return await self._met_plainly(instance, connection)
        try:
            at = self._now()
            seen = self._who(connection, at)
            record = None
            if seen is not None and seen.machine == instance.name:
                record = self.registrar.ledger.credential(connection.certificate.serial_number)
                instance = self._caught_up(instance, connection, record, at)
            first = self._met(instance, connection, seen, record)
        except HandfastError as error:
            return met(instance, await self._failure(instance, connection, error), at=self._now())
        after = met(instance, first, at=at)
        try:
            if after.state is State.INTRODUCING:
                under_way(after)
                return met(after, await self._first(instance, connection), at=self._now())
            if isinstance(first, Shown) and instance.state.introduced and after.rollbacks == instance.rollbacks:
                return await self._second(instance, connection, after)
            if not isinstance(first, Verified) or not after.state.asks:
                return after
            return await self._asked(instance, connection, first, record)
        except Malformed as error:
            # A key that we have certified answers: whatever it says that we cannot read, it is the instance.
            what = Silence(error.message) if isinstance(first, Verified) else Unproved(error.message, connection.spki)
            return met(instance, what, at=self._now())
        except HandfastError as error:
            return met(instance, await self._failure(instance, connection, error), at=self._now())

    async def _failure(self, instance: Instance, connection: Connection, error: HandfastError) -> Met:
        """Return as what somebody counts with whom a meeting did not come to its end."""
        match error:  # first what takes the secret, or a key that was certified; then what everybody could say
            case AlreadySpent():
                return Stranger(error.message + await self._revoked(instance), connection.spki)
            case Revoked():
                return Stranger(error.message, connection.spki)
            case EvidenceRejected() | UntrustedPeer() | Malformed():
                return Unproved(error.message, connection.spki)
            case _:
                return Silence(error.message)

    async def _asked(
        self, instance: Instance, connection: Connection, verified: Verified, record: CredentialRecord | None
    ) -> Instance:
        """Ask the instance how it is, and have it renew, if it is time."""
        about = await connection.request("GET", "/v1/agent")
        _ok(connection, about)
        wire.decode(about.body, About)  # its answer, over TLS, is the proof that it has the key
        if instance.mode is Mode.LEGACY:
            self.deliveries.forget(instance)
        return await self._renewed(met(instance, verified, at=self._now()), connection, record)

    def _now(self) -> datetime:
        return self.registrar.context.now()

    def _who(self, connection: Connection, at: datetime) -> Identity | None:
        """Return who the other side is by a certificate of ours; None where it shows one that it signed itself."""
        leaf = connection.certificate
        try:
            if leaf.issuer == leaf.subject:
                return None
        except UNREADABLE as error:
            raise UntrustedPeer(f"it shows a certificate that cannot be read: {error!s:.80}") from None
        return agent_identity(leaf, connection.chain, self.registrar.authority, at=at, ended=True)

    def _met(
        self, instance: Instance, connection: Connection, seen: Identity | None, record: CredentialRecord | None
    ) -> Met:
        if seen is None:
            return Shown(connection.spki)
        if seen.machine != instance.name:
            return Unproved(f"{seen.machine!r} answers, with its own genuine certificate", connection.spki)
        if record is None or record.revoked_at is not None:
            # Somebody has what was the instance's once: anywhere, for ever, and it is good for nothing any more.
            back = "its credential was taken back"
            if instance.serial is not None:
                return Unproved(back, connection.spki)
            return Silence(f"{back}: is the former agent still running?")  # removed, added anew, and nothing to lose
        return Verified(connection.spki)

    async def _met_plainly(self, instance: Instance, stream: Stream) -> Instance:
        """Ask an agent without TLS how it is. Who it is nobody knows; that it is on this machine is all there is."""
        try:
            await stream.call("GET", "/v1/agent", About)
        except HandfastError as error:
            return met(instance, Silence(error.message), at=self._now())
        return met(instance, Answered(), at=self._now())

    async def _first(self, instance: Instance, connection: Connection) -> Issued:
        """Introduce the instance; or send it a key, where it was added so."""
        if instance.mode is Mode.LEGACY:
            return await self.deliveries.deliver(instance, connection)
        return await self._introduce(instance, connection, INSTANCE, None)

    async def _second(self, instance: Instance, connection: Connection, otherwise: Instance) -> Instance:
        """
        Return what follows from a key without a certificate, where the instance has one.

        Whether this is anybody, or the instance itself whose secret a thief has used first, only its evidence says.
        It is asked for where the answer matters: where anybody could be there, or the first key is to be revoked. Over
        the secret nothing is given any more, whatever comes: it is spent.

        :raises AlreadySpent: it has the secret. :raises HandfastError: it has nothing.
        """
        if instance.dials or self.first_too:
            try:
                await self._ask(instance, connection, INSTANCE, None)
            except (EvidenceRejected, UntrustedPeer, Malformed, InvitationExpired, InvitationCancelled, Unreachable):
                return otherwise
            return met(instance, Stranger("it shows a key that was its own before", connection.spki), at=self._now())
        return otherwise

    async def _revoked(self, instance: Instance) -> str:
        """
        Take back what the first key was given, where that is wanted, and say so.

        Before the quarantine is written down: if we die in between, the next meeting comes to the same end.
        """
        if not self.first_too:
            return ""
        ledger, now = self.registrar.ledger, self._now()
        held = [each for each in ledger.credentials(instance.name) if each.role is Role.AGENT]
        given = [each.serial for each in held if each.revoked_at is None]
        for serial in given:
            await asyncio.wrap_future(ledger.revoke(serial, reason="keyCompromise", at=now))
        return "; what the first key was given is revoked" if given else ""

    def _caught_up(
        self, instance: Instance, connection: Connection, record: CredentialRecord | None, at: datetime
    ) -> Instance:
        """
        Return the instance with the credential that it shows, where it was issued to it and we do not know that.

        We died before we wrote it down, or never heard that it has it. It came of this instance's own secret, or of the
        credential that it had, and of nothing else: whoever has another one, however genuine, is a stranger.
        """
        leaf, key = connection.certificate, connection.spki
        if key == instance.issued_key or (instance.serial is not None and key == instance.expected):
            return instance
        if record is None or record.revoked_at is not None or record.machine != instance.name:
            return instance
        if record.certificate != leaf.public_bytes(Encoding.DER):  # whoever had a CA's key could borrow the serial
            return instance
        if instance.serial is None:
            # A key that was delivered is never the one that it was delivered to.
            said = key == instance.expected or (instance.expected is None and not instance.needs_key)
            known = said or instance.mode is Mode.LEGACY
            came = known and record.marker == marker_of(instance.invitation)
        else:
            came = record.predecessor == instance.serial
        return met(instance, Issued(key, leaf.serial_number), at=at) if came else instance

    async def _renewed(self, instance: Instance, connection: Connection, record: CredentialRecord | None) -> Instance:
        """Have the instance renew, if it is time."""
        leaf, now = connection.certificate, self._now()
        seed = hashlib.sha256(leaf.serial_number.to_bytes(20, "big")).digest()
        begin = leaf.not_valid_before_utc + BACKDATE
        if instance.state is not State.RUNNING or now < drawn(begin, _end(leaf), seed):
            return instance
        pause = (_end(leaf) - begin) / _SLOWLY if instance.rollbacks >= MOST_ROLLBACKS else timedelta()
        if timedelta() <= now - instance.since < pause:
            return instance
        method = reintroduction.NAME if now >= _end(leaf) else renewal.NAME
        if method == reintroduction.NAME and record is not None and record.reintroduction_key is None:
            # No alarm: it was off for too long, and what is delivered has no key to come back with.
            raise Unreachable("the key that was delivered to it is over: remove it, and add it anew")
        return met(instance, await self._introduce(instance, connection, method, leaf), at=self._now())

    async def _introduce(
        self, instance: Instance, connection: Connection, method: str, leaf: x509.Certificate | None
    ) -> Issued:
        answer = await self._ask(instance, connection, method, leaf)
        sent = IntroductionAnswer(
            certificate=answer.credential.certificate,
            chain=list(answer.chain),
            trust=list(answer.trust),
            time=answer.time.isoformat(),
            signature=answer.proof,
        )
        _ok(connection, await connection.request("POST", "/v1/introduction/answer", msgspec.json.encode(sent)))
        issued = x509.load_der_x509_certificate(answer.credential.certificate)
        return Issued(hashlib.sha256(answer.credential.grant.public_key).digest(), issued.serial_number)

    async def _ask(
        self, instance: Instance, connection: Connection, method: str, leaf: x509.Certificate | None
    ) -> flow.Answer:
        """Say hello, and have the evidence that comes judged."""
        context, authority, ours = self.registrar.context, self.registrar.authority, self.credential
        hello = Hello(context.new_nonce(), context.now().isoformat(), list(authority.trust), list(ours.chain))
        request = await connection.request("POST", "/v1/introduction", msgspec.json.encode(hello))
        _ok(connection, request)
        if not context.nonce_is_ours(hello.nonce):  # or whoever answers would be taken for somebody who replays
            raise Unreachable("our clock was set while it was asked", hint="it is asked again")
        evidence = Evidence(method, request.body, Channel(ours.spki, leaf))

        def admit(finding: Finding) -> None:
            if finding.entitlement.machine != instance.name:
                raise EvidenceRejected(f"the secret of {finding.entitlement.machine!r} answers for {instance.name!r}")
            if leaf is None and hashlib.sha256(finding.public_key).digest() != connection.spki:
                raise EvidenceRejected("it asks for another key than the one that it has proved: somebody sits between")

        return await self.registrar.introduce(evidence, ours, admit=admit)


def _end(leaf: x509.Certificate) -> datetime:
    return leaf.not_valid_after_utc


def _ok(connection: Connection, answer: Answer) -> None:
    """:raises Unreachable: it refuses. What it says of us is no alarm: where a clock is wrong it is right to refuse."""
    if not answer.success:
        raise Unreachable(f"it refuses: {connection.problem(answer).message}")
