"""
What inner code asks of the world. Defined by those who need it, given to them by ``wiring``.

The ledger's reads return at once; its writes return a ``Future`` that is done when the change is
durable. Asynchronous callers await it with ``asyncio.wrap_future``, others call ``result()``.
"""

from __future__ import annotations

from concurrent.futures import Future
from datetime import datetime
from typing import Protocol

import msgspec
from cryptography import x509

from handfast.core.flow import (
    Credential,
    Evidence,
    Finding,
    Grant,
    HostFinding,
    HostGrant,
    Intent,
    Once,
    Opening,
    SshFinding,
    Wish,
)
from handfast.core.hosts import Host
from handfast.core.instance_ports import InstanceLedger
from handfast.core.invitation import Address
from handfast.core.names import Names
from handfast.core.records import (
    CredentialRecord,
    Event,
    Invitation,
    Machine,
    Revocation,
    SshRecord,
)
from handfast.core.roles import Role
from handfast.core.ssh_ports import SshLedger
from handfast.core.sshkeys import SshKey


class Clock(Protocol):
    """Where time comes from: aware, UTC."""

    def now(self) -> datetime: ...


class Context(Protocol):
    """All that an introducer may ask. It has no way to write, to sign or to reach the network."""

    @property
    def pin(self) -> bytes:
        """SHA-256 of our root's SubjectPublicKeyInfo."""

    def now(self) -> datetime: ...

    def nonce_is_ours(self, nonce: bytes) -> bool:
        """Whether this registrar made ``nonce`` less than five minutes ago."""

    def invitation(self, key_id: str) -> Invitation | None:
        """Return the invitation, whatever its method, open or not."""

    def public_halves(self, method: str) -> list[tuple[str, bytes]]:
        """Return key id and public half of a method's invitations whose time is not over, used and cancelled too."""

    def credential(self, serial: int) -> CredentialRecord | None:
        """Return a credential of this authority; another one's proves nothing here."""

    def renewals_since(self, record: CredentialRecord, since: datetime) -> int:
        """Count, to 100 at most, the machine's credentials since then that succeed another one than ``record``."""


class SshContext(Context, Protocol):
    """What introducers to SSH certificates may ask besides."""

    @property
    def ssh_host_ca(self) -> SshKey:
        """The key of our SSH host CA."""

    def host_of_key(self, key: SshKey) -> Host | None:
        """Return the machine whose SSH host key that is now."""

    def ssh_certificate(self, serial: int) -> SshRecord | None:
        """Return an SSH certificate of ours, intended or issued."""


class Introducer(Protocol):
    """
    The registrar's half of one method of introduction.

    ``native`` methods are posted to ``/v1/introductions/<name>``; the others have a listener of their own.
    """

    @property
    def native(self) -> bool: ...

    @property
    def name(self) -> str:
        """Letters, digits and hyphens: it stands in URLs, in the configuration and in what is signed."""

    @property
    def evidence(self) -> type[msgspec.Struct]:
        """The message that it verifies."""

    @property
    def because(self) -> str:
        """How the newcomer was accepted, to follow "because": for ``explain``."""

    def verify(self, evidence: Evidence, context: Context) -> Finding:
        """
        Return who this is and what was proved.

        :raises NotMine: evidence of another method.
        :raises Refused: anything that does not prove what it claims.
        """


class HostIntroducer(Protocol):
    """
    One way in which nothing but a machine's SSH host keys become known.

    Its evidence comes by a route of its own; ``HostKeys.publish`` is its flow.
    """

    @property
    def name(self) -> str:
        """A value of ``core.hosts.How``."""

    def verify(self, evidence: Evidence, context: Context) -> HostFinding:
        """As ``Introducer.verify``."""


class SshIntroducer(Protocol):
    """
    The registrar's half of one way to SSH certificates; posted to ``/v1/ssh/certificates/<name>``.

    ``Certifier.certify`` is its flow.
    """

    @property
    def name(self) -> str:
        """As ``Introducer`` has it."""

    @property
    def evidence(self) -> type[msgspec.Struct]:
        """The message that it verifies."""

    def verify(self, evidence: Evidence, context: SshContext) -> SshFinding:
        """As ``Introducer.verify``."""


class Way(Protocol):
    """The newcomer's half of one method, with what it holds."""

    @property
    def method(self) -> str: ...

    @property
    def pin(self) -> bytes: ...

    @property
    def wish(self) -> Wish: ...

    def present(self, opening: Opening) -> tuple[bytes, bytes]:
        """Return the message (JSON), and the digest that the registrar's answer must sign."""


class FirstWay(Way, Protocol):
    """A way for a newcomer that holds nothing yet."""

    @property
    def addresses(self) -> tuple[Address, ...]: ...

    @property
    def purpose(self) -> str:
        """What the new keys are for, as ``method:id``: whoever comes again the same way comes with the same keys."""

    def check_time(self, claimed: datetime) -> None:
        """Refuse a registrar's clock that cannot be. :raises HandfastError: it cannot."""


class Ledger(SshLedger, InstanceLedger, Protocol):
    """The store and its log. Every write is one durable transaction which includes its log entry."""

    def invitation(self, key_id: str) -> Invitation | None: ...

    def invitations(self) -> list[Invitation]: ...

    def public_halves(self, method: str, *, after: datetime) -> list[tuple[str, bytes]]:
        """Return key id and public half of a method's invitations that end after a time."""

    def machine(self, name: str) -> Machine | None: ...

    def machines(self) -> list[Machine]: ...

    def credential(self, serial: int) -> CredentialRecord | None: ...

    def credentials(self, machine: str | None = None) -> list[CredentialRecord]: ...

    def renewals_since(self, record: CredentialRecord, since: datetime) -> int:
        """As ``Context`` has it."""

    def newest_credentials(self, machine: str) -> list[CredentialRecord]:
        """Return the last 20 of a machine, the newest first."""

    def revocations(self) -> list[Revocation]: ...

    def events(self, *, kind_prefix: str = "", subject: str | None = None) -> list[Event]: ...

    def invite(self, invitation: Invitation) -> Future[None]: ...

    def cancel(self, key_id: str, *, reason: str, at: datetime) -> Future[None]: ...

    def intend(self, grant: Grant, once: Once, *, at: datetime) -> Future[Intent]:
        """
        Spend ``once`` against the grant's key, reserve a serial and log it, in one transaction.

        The same key gets the same intent again. :raises AlreadySpent: no use is left for another
        key (the refusal is logged as an alarm). :raises Refused: the marker was closed meanwhile.
        """

    def issued(self, credential: Credential, *, at: datetime) -> Future[bytes]:
        """
        Keep the certificate, and return the one to deliver: the first that was kept for its serial.

        :raises Revoked: the credential was taken back in the meantime: deliver nothing.
        """

    def revoke(self, serial: int, *, reason: str, at: datetime) -> Future[None]: ...

    def note(self, event: Event) -> Future[None]: ...

    # --- SSH host keys ---

    def host(self, machine: str) -> Host | None:
        """Return the machine with its host keys, also when it was removed; None where none were ever known."""

    def host_at(self, spelling: str) -> Host | None:
        """
        Return the machine that is reached so: ``host`` or ``[host]:port``, as ``core.hosts.spelling`` writes it.

        Where none is, the removed one whose own name that was: its name is refused, and not taken for a stranger's.
        """

    def hosts(self, *, after: str = "", most: int = 100, search: str = "") -> list[Host]:
        """
        Return machines by name, from the one after ``after``.

        ``search`` is part of a name, an alias, an address or a fingerprint.
        """

    def hosts_revision(self) -> int:
        """Return a number that grows with every change of any machine's keys or place."""

    def register(self, grant: HostGrant, once: Once | None, *, at: datetime) -> Future[Host]:
        """
        Record host keys and where the machine is reached, and spend ``once`` against these keys, in one transaction.

        The same keys may come again. :raises AlreadySpent: no use is left for other keys (logged as an alarm).
        :raises Refused: a key is another machine's (an alarm), or was retired; or the marker was closed.
        """

    def retire(self, machine: str, key: SshKey, *, reason: str, at: datetime) -> Future[Host]:
        """Take a host key back. :raises NotFound: it is not the machine's."""

    def remove_host(self, machine: str, *, reason: str, at: datetime) -> Future[Host]:
        """Retire all keys of a machine, and leave its place to others. :raises NotFound: it has neither."""


class Issuer(Protocol):
    """What an authority can certify: policy asks before anything is spent."""

    @property
    def trust_domain(self) -> str: ...

    @property
    def not_before(self) -> datetime:
        """When the issuing CA's time begins; no leaf is valid before."""

    @property
    def not_after(self) -> datetime: ...

    def excluded(self, names: Names) -> tuple[str, ...]:
        """Return those of ``names`` that the issuing CA's name constraints leave out."""


class Authority(Issuer, Protocol):
    """The keys that sign. Reads no evidence and adds no name."""

    @property
    def root(self) -> x509.Certificate: ...

    @property
    def issuing(self) -> x509.Certificate: ...

    @property
    def pin(self) -> bytes: ...

    @property
    def chain(self) -> tuple[bytes, ...]:
        """What goes along with every leaf (DER)."""

    @property
    def trust(self) -> tuple[bytes, ...]:
        """The roots (DER) that a leaf is verified with."""

    def issue(self, intent: Intent) -> Credential:
        """Sign exactly the intent's grant under its serial."""

    def crl(self, revocations: list[Revocation], *, number: int, now: datetime) -> bytes:
        """Return a DER CRL (RFC 5280 §5) signed by the issuing CA."""


__all__ = ["Authority", "Clock", "Context", "Introducer", "Ledger", "Role"]
