"""
The five values of the one flow. Each is frozen and is made by exactly one layer:

    Evidence    anybody                 presented, trusted by nobody
    Finding     introducers             who this is, for which names, how proven, what is used up by it
    Grant       policy                  the entire content of the credential, and why
    Intent      ledger                  the grant with its serial, durable before anything is signed
    Credential  authority               what was issued

``tests/architecture`` holds the second column: no other layer constructs the type.

Where only SSH host keys become known, nothing is signed: ``HostFinding`` and ``HostGrant`` end in the ledger. SSH
certificates have the same steps with siblings of these: ``SshFinding``, ``SshGrant``, ``SshIntent``, ``SshCredential``.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509

from handfast.core.hostproof import HostKeys
from handfast.core.hosts import How, Place
from handfast.core.names import IPAddress, IPNetwork, Names
from handfast.core.roles import Role
from handfast.core.sshcert import Kind
from handfast.core.sshkeys import SshKey
from handfast.core.sshleaf import SshLeaf


@dataclass(frozen=True, slots=True)
class Channel:
    """
    What the transport itself proved, filled in by the server from its TLS engine and nothing else.

    ``server_spki`` is the SHA-256 of the SubjectPublicKeyInfo that we presented in this very
    connection: a signature over it cannot be relayed through a man in the middle. ``client`` is the
    certificate the peer proved possession of, chained by TLS to our root; *not* checked: whether it
    was revoked since, or which role it has.
    """

    server_spki: bytes
    client: x509.Certificate | None = None
    source: IPAddress | None = None


@dataclass(frozen=True, slots=True)
class Evidence:
    """What a peer presents: a method's name, its message as received, and the channel it came by."""

    method: str
    payload: bytes
    channel: Channel


@dataclass(frozen=True, slots=True)
class Wish:
    """
    What the newcomer asks for, covered by its proof.

    ``role`` None and empty ``names`` mean "whatever the evidence entitles me to". ``subject`` (a DER Name, in the
    order of a certificate) is for foreign protocols whose peers are known by it; None is the machine's own.
    """

    role: Role | None = None
    names: Names = Names()
    lifetime: timedelta | None = None
    subject: bytes | None = None


@dataclass(frozen=True, slots=True)
class Opening:
    """
    What a newcomer's half signs over: its new keys, and the registrar that has just proved itself.

    ``csr`` is DER, ``next_key`` the raw reintroduction key, ``server_spki`` the hash of the TLS key that was proved.
    ``host`` are SSH host keys, to be proved along with it.
    """

    csr: bytes
    next_key: bytes
    nonce: bytes
    server_spki: bytes
    host: HostKeys | None = None


@dataclass(frozen=True, slots=True)
class Entitlement:
    """
    What the evidence entitles its holder to at most: policy narrows it, and never widens.

    ``sources`` are the networks the newcomer may call from; None means that the method does not
    bind the network. ``subject`` (DER) is one that it may have beside the machine's own. ``own_address`` adds every
    name which leads to the address it calls from, and the subject of a host with such a name: the registrar looks
    them up. ``until`` is when it ends, where the evidence itself has an end that counts.
    """

    machine: str
    roles: frozenset[Role]
    names: Names
    sources: tuple[IPNetwork, ...] | None = None
    subject: bytes | None = None
    own_address: bool = False
    until: datetime | None = None


@dataclass(frozen=True, slots=True)
class Once:
    """
    A one-time marker: ``uses`` different keys may spend it, each as often as it likes.

    It burns against a key, not a request, so that a lost answer can be asked for again.
    """

    marker: str
    uses: int = 1


@dataclass(frozen=True, slots=True)
class Finding:
    """
    What an introducer concluded.

    ``public_key`` is the SubjectPublicKeyInfo (DER) whose possession was proved. ``transcript`` is what both sides
    computed and the answer proves: the hash that they sign, or what a foreign protocol has instead. ``proof`` is one
    sentence for the log and for ``explain``. ``reintroduction_key`` is the raw Ed25519 public key with which the
    machine may come back after its credential expired. ``expired_at`` is set where the evidence is a credential whose
    time is over: policy has the limit. ``renewals`` counts those of the machine within the last 24th of the
    credential's life, its own successors left out. ``shared`` evidence is held by many: too much of it is counted by
    where it comes from, else by its marker. ``host`` are SSH host keys whose possession was proved with it.
    """

    method: str
    public_key: bytes
    entitlement: Entitlement
    wish: Wish
    once: Once
    proof: str
    transcript: bytes
    reintroduction_key: bytes | None = None
    expired_at: datetime | None = None
    renewals: int = 0
    shared: bool = False
    host: HostFinding | None = None


@dataclass(frozen=True, slots=True)
class HostFinding:
    """
    Which SSH host keys are a machine's, as an introducer concluded.

    ``complete`` means that these are all it has: what it had before is retired. ``place`` is what the evidence
    entitles it to be reached as; None leaves that as it is. ``detail`` is one line for people. ``basis`` are the keys
    that the evidence rests upon: it counts while all of them do.
    """

    machine: str
    keys: tuple[SshKey, ...]
    how: How
    detail: str
    once: Once | None = None
    place: Place | None = None
    complete: bool = True
    basis: tuple[SshKey, ...] = ()


@dataclass(frozen=True, slots=True)
class Grant:
    """
    The entire content of a credential. The authority adds its issuer, its serial and nothing else.

    ``subject`` is a DER Name; None is ``CN=<machine>``. ``host`` are SSH host keys, recorded along with it.
    """

    machine: str
    role: Role
    spiffe_id: str
    names: Names
    public_key: bytes
    not_before: datetime
    not_after: datetime
    method: str
    why: tuple[str, ...]
    reintroduction_key: bytes | None = None
    subject: bytes | None = None
    host: HostGrant | None = None

    @property
    def trust_domain(self) -> str:
        """Which authority it is for."""
        return self.spiffe_id.removeprefix("spiffe://").partition("/")[0]


@dataclass(frozen=True, slots=True)
class HostGrant:
    """
    Which SSH host keys of a machine are recorded, and where it is reached; as ``HostFinding``, but decided.

    ``quiet`` means that no person was asked, as it changed nothing that was known: where it would by now, it is
    refused.
    """

    machine: str
    keys: tuple[SshKey, ...]
    how: How
    detail: str
    place: Place | None = None
    complete: bool = True
    basis: tuple[SshKey, ...] = ()
    quiet: bool = False


@dataclass(frozen=True, slots=True)
class Intent:
    """
    A grant which the ledger has written down under a serial, before anything was signed.

    ``certificate`` (DER) is present when the same key asked again after the credential was issued:
    the caller answers with it and signs nothing new.
    """

    serial: int
    grant: Grant
    certificate: bytes | None = None


@dataclass(frozen=True, slots=True)
class Credential:
    """What the authority issued: one X.509 leaf (DER) for one grant."""

    serial: int
    grant: Grant
    certificate: bytes


@dataclass(frozen=True, slots=True)
class Answer:
    """What goes back to the newcomer: the leaf, its chain and roots (all DER), our time, and the proof over them."""

    credential: Credential
    chain: tuple[bytes, ...]
    trust: tuple[bytes, ...]
    time: datetime
    proof: bytes


# --- SSH certificates ---


@dataclass(frozen=True, slots=True)
class Person:
    """
    Who somebody is by what introduced them: an operator credential, or an OpenID provider.

    ``origin`` is ``operator``, or ``oidc:<provider>``; ``name`` is unique there (a credential's machine, a provider's
    ``sub``). ``email`` is one that the provider has verified, in lower case. ``groups`` are as the provider says.
    """

    origin: str
    name: str
    email: str | None = None
    groups: frozenset[str] = frozenset()

    def __str__(self) -> str:
        return self.email or self.name


@dataclass(frozen=True, slots=True)
class SshWish:
    """What is asked for, covered by the proof: no principals means all that the evidence entitles to."""

    principals: tuple[str, ...] = ()
    lifetime: timedelta | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class SshFinding:
    """
    Whose SSH keys were proved, as an introducer concluded; one certificate for each is asked for.

    ``holder`` is a machine's name, or a person. What a machine may be called is what the ledger has of it, with what
    ``host`` adds; what a person may log in as is policy's. ``once`` None is for evidence that stays good: the same keys
    and names then get the same certificates for a while. ``transcript`` is what the
    answer proves.
    """

    method: str
    kind: Kind
    holder: str | Person
    keys: tuple[SshKey, ...]
    wish: SshWish
    once: Once | None
    proof: str
    transcript: bytes
    host: HostFinding | None = None

    @property
    def subject(self) -> str:
        """The holder, for the log."""
        return str(self.holder)


@dataclass(frozen=True, slots=True)
class SshGrant:
    """
    The entire content of certificates, one for each key, and why. The authority adds its key, serials and nonces.

    ``holder`` is a machine's name, or a person in words. ``host`` is recorded along with it. ``why`` is for the log.
    """

    holder: str
    kind: Kind
    leaves: tuple[SshLeaf, ...]
    method: str
    why: tuple[str, ...]
    host: HostGrant | None = None


@dataclass(frozen=True, slots=True)
class SshIntent:
    """One certificate, written down under its serial before it is signed; ``certificate`` is there where it was."""

    serial: int
    leaf: SshLeaf
    certificate: bytes | None = None


@dataclass(frozen=True, slots=True)
class SshCredential:
    """One issued SSH certificate, in its wire form."""

    serial: int
    leaf: SshLeaf
    certificate: bytes


@dataclass(frozen=True, slots=True)
class SshAnswer:
    """What goes back: certificates in the order of the keys, both CAs, our roots (DER), our time, and the proof."""

    credentials: tuple[SshCredential, ...]
    host_ca: SshKey
    user_ca: SshKey
    trust: tuple[bytes, ...]
    time: datetime
    proof: bytes
