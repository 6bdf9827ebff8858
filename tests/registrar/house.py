"""A registrar without a network: real ledger, real authority, real introducers, and a clock that a test moves."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any, cast

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from handfast import introducers, ledger
from handfast.authority.authority import FileAuthority
from handfast.core import csr, keys, sshkeys
from handfast.core.flow import Answer, Channel, Evidence, Wish
from handfast.core.hostproof import HostKeys
from handfast.core.invitation import Address, InvitationLine
from handfast.core.names import IPAddress
from handfast.core.ports import Authority, Ledger
from handfast.core.records import INSTANCE, Invitation
from handfast.core.roles import Role
from handfast.core.secret import Secret
from handfast.core.transcript import answer as answer_transcript
from handfast.introducers import invitation, reintroduction, renewal
from handfast.ledger.store import SqlLedger
from handfast.policy.rules import Rules
from handfast.registrar.administer import Administration
from handfast.registrar.introduce import LedgerContext, Registrar

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
HOUR = timedelta(hours=1)
ADDRESS = Address("registrar.lan", 7443)


@dataclass
class Hand:
    """A clock that a test moves."""

    time: datetime = NOW

    def now(self) -> datetime:
        """The time of the hand."""
        return self.time


@dataclass(frozen=True)
class TlsKey:
    """The TLS key of a connection: its hash is what newcomers saw."""

    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))

    @property
    def spki(self) -> bytes:
        """What the handshake proves."""
        return keys.spki_sha256(self.key.public_key())

    def prove(self, transcript: bytes, certificate: bytes, trust: tuple[bytes, ...], time: datetime) -> bytes:
        """As the server does."""
        digest = answer_transcript(transcript, certificate, trust, time.isoformat())
        return self.key.sign(digest, ec.ECDSA(hashes.SHA256()))


@dataclass
class Newcomer:
    """Keys that survive a retry, as the key store keeps them."""

    key: ec.EllipticCurvePrivateKey = field(default_factory=lambda: ec.generate_private_key(ec.SECP256R1()))
    way_back: Ed25519PrivateKey = field(default_factory=Ed25519PrivateKey.generate)

    @property
    def csr(self) -> bytes:
        """A request for its key; a retry signs a new one."""
        return csr.build(self.key)


@dataclass
class House:
    """The registrar with its parts."""

    ledger: SqlLedger
    authority: FileAuthority
    clock: Hand = field(default_factory=Hand)
    rules: Rules = field(default_factory=Rules)
    tls: TlsKey = field(default_factory=TlsKey)

    @property
    def context(self) -> LedgerContext:
        """What introducers ask."""
        made, host_ca = self.authority, sshkeys.parse(self.authority.public.ssh_host_ca)
        return LedgerContext(self.ledger, self.clock, made.pin, made.trust_domain, Secret(b"n" * 32), host_ca)

    @property
    def administration(self) -> Administration:
        """The operator's side."""
        return Administration(self.ledger, self.clock, self.authority.pin, (ADDRESS,), self.authority.excluded)

    def registrar(self, *, ledger: Any = None, authority: Any = None) -> Registrar:
        """The flow, over these or over parts that misbehave."""
        return Registrar(
            introducers.known(),
            self.rules,
            cast(Ledger, ledger or self.ledger),
            cast(Authority, authority or self.authority),
            self.context,
        )

    def invite(self, name: str = "web1.lan", **more: Any) -> InvitationLine:
        """An invitation for a server, for an hour."""
        bounds: dict[str, Any] = {"role": Role.SERVER, "lasting": HOUR} | more
        return self.administration.invite(name, **bounds)[0]

    def secret(self, name: str, **more: Any) -> InvitationLine:
        """The one-time secret of a managed machine, for an hour."""

        def keep(made: Invitation) -> Future[None]:
            return self.ledger.invite(replace(made, method=INSTANCE))

        bounds: dict[str, Any] = {"role": Role.AGENT, "lasting": HOUR, "keep": keep} | more
        return self.administration.invite(name, **bounds)[0]

    def joining(
        self,
        line: InvitationLine,
        who: Newcomer,
        *,
        wish: Wish = Wish(),  # noqa: B008  a frozen value
        source: IPAddress | None = None,
        host: HostKeys | None = None,
    ) -> tuple[Evidence, bytes]:
        """Evidence of an invitation, and the digest that its sender signed."""
        body, signed = invitation.present(
            line,
            csr_der=who.csr,
            reintroduction_key=who.way_back.public_key().public_bytes_raw(),
            wish=wish,
            nonce=self.context.new_nonce(),
            server_spki=self.tls.spki,
            host=host,
        )
        return Evidence("invitation", body, Channel(self.tls.spki, None, source)), signed

    def renewing(self, old: Newcomer, serial: int, new: Newcomer, *, host: HostKeys | None = None) -> Evidence:
        """Evidence of a server that renews."""
        body, _ = renewal.present(
            old.key,
            serial=serial,
            pin=self.authority.pin,
            csr_der=new.csr,
            next_key=new.way_back.public_key().public_bytes_raw(),
            nonce=self.context.new_nonce(),
            server_spki=self.tls.spki,
            host=host,
        )
        return Evidence("renewal", body, Channel(self.tls.spki))

    def returning(self, old: Newcomer, serial: int, new: Newcomer, *, host: HostKeys | None = None) -> Evidence:
        """Evidence of a machine whose credential has expired."""
        body, _ = reintroduction.present(
            old.way_back,
            serial=serial,
            pin=self.authority.pin,
            csr_der=new.csr,
            next_key=new.way_back.public_key().public_bytes_raw(),
            nonce=self.context.new_nonce(),
            server_spki=self.tls.spki,
            host=host,
        )
        return Evidence("reintroduction", body, Channel(self.tls.spki))

    def introduce(self, evidence: Evidence, *, registrar: Registrar | None = None) -> Answer:
        """Run the flow once."""
        return asyncio.run((registrar or self.registrar()).introduce(evidence, self.tls))

    def join(
        self,
        line: InvitationLine,
        who: Newcomer,
        *,
        registrar: Registrar | None = None,
        host: HostKeys | None = None,
    ) -> Answer:
        """Join, and check the registrar's proof."""
        evidence, signed = self.joining(line, who, host=host)
        answer = self.introduce(evidence, registrar=registrar)
        self.check_proof(answer, signed)
        return answer

    def check_proof(self, answer: Answer, signed: bytes) -> None:
        """The answer was signed with the TLS key, for this request. :raises InvalidSignature: it was not."""
        digest = answer_transcript(signed, answer.credential.certificate, answer.trust, answer.time.isoformat())
        self.tls.key.public_key().verify(answer.proof, digest, ec.ECDSA(hashes.SHA256()))

    def kinds(self) -> list[str]:
        """The kinds of all events, in order."""
        return [event.kind for event in self.ledger.events()]


@contextmanager
def house(directory: Path, made: FileAuthority) -> Iterator[House]:
    """A house with an empty ledger in ``directory``."""
    with ledger.open_sqlite(directory / "ledger.sqlite3") as store:
        yield House(store, made)


@dataclass
class Faulty:
    """Stands before a part and does something else before or after one of its methods."""

    part: Any
    method: str
    before: Callable[[], None] = lambda: None
    after: Callable[[], None] = lambda: None
    calls: int = 0

    def __getattr__(self, name: str) -> Any:
        original = getattr(self.part, name)
        if name != self.method:
            return original

        def call(*args: Any, **kwargs: Any) -> Any:
            self.calls += 1
            self.before()
            result = original(*args, **kwargs)
            if hasattr(result, "result"):
                result.result()  # durable before what comes after
            self.after()
            return result

        return call


class Crash(BaseException):
    """The process ends here."""


def crash() -> None:
    """End."""
    raise Crash


def renamed(line: InvitationLine, **changes: Any) -> InvitationLine:
    """A line with other content."""
    return dataclasses.replace(line, **changes)
