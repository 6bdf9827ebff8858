"""
One meeting with one instance: who answers, and what is done with it. What follows from it is ``core.instances``.

An introduction is the flow of every other (``Registrar.introduce``), over a connection that we have made. The request
comes from the agent, which has proved its key by TLS on this very connection; that it asks for a certificate for that
key, and no other, is looked at before anything is spent. So whoever sits between and shows a key of his own has nothing
that he could have certified.
"""

from __future__ import annotations

import hashlib
from dataclasses import dataclass
from datetime import datetime

import msgspec
from cryptography import x509

from handfast.controller.credential import Credential
from handfast.controller.http import Answer, Connection
from handfast.core.chain import Identity, load_certificate, verify_chain
from handfast.core.flow import Channel, Evidence, Finding
from handfast.core.instances import Instance, Issued, Met, Shown, Silence, State, Stranger, Verified, met
from handfast.core.roles import Role
from handfast.core.wire import Hello, IntroductionAnswer
from handfast.errors import (
    AlreadySpent,
    EvidenceRejected,
    HandfastError,
    InvitationCancelled,
    InvitationExpired,
    Malformed,
    Revoked,
    UntrustedPeer,
)
from handfast.introducers import invitation, reintroduction, renewal
from handfast.newcomer.renew import due_at
from handfast.registrar.introduce import Registrar

# What nobody honest causes: a wrong proof, a secret or key that was used before, another key.
_ALARMING = (EvidenceRejected, AlreadySpent, UntrustedPeer, Revoked, Malformed)
_OVER = (InvitationExpired, InvitationCancelled)


class About(msgspec.Struct, frozen=True):
    """GET /v1/agent: what an agent says of itself, by which nothing is decided."""

    version: str
    stage: str
    instance: str
    instance_id: str


@dataclass(frozen=True, slots=True)
class Meetings:
    """What meetings need: the flow, our credential, and the time."""

    registrar: Registrar
    credential: Credential

    async def meet(self, instance: Instance, connection: Connection) -> Instance:
        """Do what the instance's state asks for on a new connection, and return what it is now."""
        at = self.registrar.context.now()
        try:
            seen = self._who(connection, at)
            first = self._met(instance, connection, seen)
            after = met(instance, first, at=at)
            if after.state is State.INTRODUCING:
                issued = await self._introduce(instance, connection, invitation.NAME, None)
                return met(after, issued, at=self._now())
            if not isinstance(first, Verified) or not after.state.asks:
                return after
            await connection.call("GET", "/v1/agent", About)  # its answer, over TLS, is the proof that it has the key
            return await self._renewed(met(instance, first, at=self._now()), connection)
        except _ALARMING as error:
            return met(instance, Stranger(error.message, connection.spki), at=self._now())
        except _OVER as error:
            return met(instance, Silence(error.message), at=self._now())
        except HandfastError as error:
            return met(instance, Silence(error.message), at=self._now())

    def _now(self) -> datetime:
        return self.registrar.context.now()

    def _who(self, connection: Connection, at: datetime) -> Identity | None:
        """Return who the other side is by a certificate of ours; None where it shows one that it signed itself."""
        leaf, authority = connection.certificate, self.registrar.authority
        if leaf.issuer == leaf.subject:
            return None
        chain, roots = ([load_certificate(der) for der in each] for each in (authority.chain, authority.trust))
        # After its end it is still who it was: what it may ask for then is another matter (reintroduction).
        moment = min(at, leaf.not_valid_after_utc)
        return verify_chain(leaf, chain, roots, pin=authority.pin, role=Role.AGENT, at=moment)

    def _met(self, instance: Instance, connection: Connection, seen: Identity | None) -> Met:
        if seen is None:
            return Shown(connection.spki)
        if seen.machine != instance.name:
            return Stranger(f"{seen.machine!r} answers, with its own genuine certificate", connection.spki)
        return Verified(connection.spki)

    async def _renewed(self, instance: Instance, connection: Connection) -> Instance:
        """Have the instance renew, if it is time."""
        leaf, now = connection.certificate, self._now()
        if instance.state is not State.RUNNING or now < due_at(
            leaf.serial_number, leaf.not_valid_before_utc, _end(leaf)
        ):
            return instance
        method = reintroduction.NAME if now >= _end(leaf) else renewal.NAME
        return met(instance, await self._introduce(instance, connection, method, leaf), at=self._now())

    async def _introduce(
        self, instance: Instance, connection: Connection, method: str, leaf: x509.Certificate | None
    ) -> Issued:
        context, authority = self.registrar.context, self.registrar.authority
        hello = Hello(context.new_nonce(), context.now().isoformat(), list(authority.trust), list(authority.chain))
        request = await connection.request("POST", "/v1/introduction", msgspec.json.encode(hello))
        _ok(connection, request)
        evidence = Evidence(method, request.body, Channel(self.credential.spki, leaf))

        def admit(finding: Finding) -> None:
            if finding.entitlement.machine != instance.name:
                raise EvidenceRejected(f"the secret of {finding.entitlement.machine!r} answers for {instance.name!r}")
            if leaf is None and hashlib.sha256(finding.public_key).digest() != connection.spki:
                raise EvidenceRejected("it asks for another key than the one that it has proved: somebody sits between")

        answer = await self.registrar.introduce(evidence, self.credential, admit=admit)
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


def _end(leaf: x509.Certificate) -> datetime:
    return leaf.not_valid_after_utc


def _ok(connection: Connection, answer: Answer) -> None:
    if answer.status >= 400:
        raise connection.problem(answer)
