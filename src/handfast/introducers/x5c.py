"""
X5C: a certificate of another authority, which an operator trusts for that, introduces the machine that it names.

Proof     newcomer -> registrar  the leaf's key signs the transcript: chain, role, pin, TLS key, nonces, CSR, host keys
Answer    registrar -> newcomer  ECDSA by the TLS key, chained to the pin, over request, leaf, roots and time
Trusts    the configured roots and every CA below them, for the names that are allowed; whoever has the leaf's key
Replay    one key per certificate; the same key gets the same answer, another one an alarm
Spec      docs/protocols/x5c.md

What a certificate entitles to is what stands in it: its DNS names and addresses, all of them and no other. The first
DNS name is the machine's. Who has the key of a web server's certificate is that server here, so host keys that would
change wait for a person's approval (``CertificateRules.approve``).
"""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Annotated, ClassVar, Protocol

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding
from msgspec import Meta

from handfast.core import chain, csr, foreign, hostproof, keys, revocation, wire
from handfast.core.evidence import opened
from handfast.core.flow import Entitlement, Evidence, Finding, HostFinding, Once, Opening, Wish
from handfast.core.foreign import MAX_INTERMEDIATES, Usage
from handfast.core.hostproof import HostClaim, HostKeys
from handfast.core.hosts import How, Place
from handfast.core.invitation import Address
from handfast.core.names import NamePattern, Names
from handfast.core.ports import Context
from handfast.core.revocation import Coverage, Lists
from handfast.core.roles import Role
from handfast.core.transcript import digest, request_label
from handfast.errors import EvidenceRejected, PolicyRefused, Refused, UntrustedPeer

NAME = "x5c"
SKEW = timedelta(minutes=5)  # a registrar's clock may lag a little behind the one that made the certificate
Der = Annotated[bytes, Meta(max_length=chain.MAX_CERTIFICATE)]


class X5cRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST /v1/introductions/x5c; ``chain`` is the leaf, then the CAs up to its root, which may be left out."""

    chain: Annotated[list[Der], Meta(min_length=1, max_length=1 + MAX_INTERMEDIATES)]
    nonce: wire.Nonce
    newcomer_nonce: wire.Nonce
    csr: wire.Csr
    reintroduction_key: wire.Ed25519Key
    signature: Annotated[bytes, Meta(max_length=1100)]
    role: Role | None = None
    host: HostClaim | None = None


def transcript(request: X5cRequest, *, pin: bytes, server_spki: bytes) -> bytes:
    """Return the digest that the leaf's key signs; each side computes it from what *it* saw."""
    return digest(
        request_label(NAME),
        (request.role or "").encode(),
        pin,
        server_spki,
        request.newcomer_nonce,
        request.nonce,
        request.csr,
        request.reintroduction_key,
        hostproof.commitment(request.host),
        *request.chain,
    )


def marker(leaf: x509.Certificate) -> str:
    """
    Return the one-time marker of a certificate.

    Over what its CA signed, and not over the whole: an ECDSA signature has a second form, which anybody can compute,
    and that would be another certificate to whoever hashes it along.
    """
    return f"{NAME}:{hashlib.sha256(leaf.tbs_certificate_bytes).hexdigest()}"


class LeafSigner(Protocol):
    """The key of the certificate, wherever it is."""

    def sign(self, message: bytes) -> bytes:
        """Return a signature as ``core.foreign.verify`` takes it."""


# --- the newcomer's half ---


def present(
    certificates: Sequence[x509.Certificate],
    signer: LeafSigner,
    *,
    pin: bytes,
    csr_der: bytes,
    next_key: bytes,
    wish: Wish,
    nonce: bytes,
    server_spki: bytes,
    host: HostKeys | None = None,
) -> tuple[bytes, bytes]:
    """
    Return the newcomer's message (JSON) and the digest that the registrar's answer must sign.

    ``certificates`` are the leaf and the CAs above it; ``signer`` has the leaf's key.
    """
    request = X5cRequest(
        chain=[each.public_bytes(Encoding.DER) for each in certificates],
        nonce=nonce,
        newcomer_nonce=secrets.token_bytes(32),
        csr=csr_der,
        reintroduction_key=next_key,
        signature=b"",
        role=wish.role,
    )
    made = hostproof.claim(host, request, method=NAME, pin=pin, server_spki=server_spki)
    request = msgspec.structs.replace(request, host=made)
    signed = transcript(request, pin=pin, server_spki=server_spki)
    return msgspec.json.encode(msgspec.structs.replace(request, signature=signer.sign(signed))), signed


@dataclass(frozen=True, slots=True)
class Certified:
    """The newcomer's half: a certificate with the CAs above it, its key, and a registrar."""

    certificates: tuple[x509.Certificate, ...]
    signer: LeafSigner
    pin: bytes
    addresses: tuple[Address, ...]
    role: Role | None = None
    method: ClassVar[str] = NAME

    @property
    def wish(self) -> Wish:
        """The role, and the names in the certificate: who answers with others is refused."""
        return Wish(self.role, foreign.names_of(self.certificates[0])[1])

    @property
    def purpose(self) -> str:
        """What the keys are made for: the same certificate gets the same keys."""
        return marker(self.certificates[0])

    def check_time(self, claimed: datetime) -> None:
        """
        Check the registrar's clock against the certificate's own times, as an invitation's holder does.

        :raises Refused: the certificate is over by then. :raises UntrustedPeer: it was not made yet.
        """
        leaf = self.certificates[0]
        if claimed >= leaf.not_valid_after_utc:
            raise Refused(
                f"the certificate of {foreign.subject_of(leaf)!r} ended at {leaf.not_valid_after_utc:%Y-%m-%d %H:%M}Z",
                hint="get a new one from its CA",
            )
        if claimed < leaf.not_valid_before_utc - SKEW:
            raise UntrustedPeer(
                f"the registrar says it is {claimed:%Y-%m-%d %H:%M}Z, before the certificate was made",
                hint="check the registrar's clock; it may also be somebody with an old certificate",
            )

    def present(self, opening: Opening) -> tuple[bytes, bytes]:
        """Return the message, and the digest that the answer must sign."""
        return present(
            self.certificates,
            self.signer,
            pin=self.pin,
            csr_der=opening.csr,
            next_key=opening.next_key,
            wish=self.wish,
            nonce=opening.nonce,
            server_spki=opening.server_spki,
            host=opening.host,
        )


# --- the registrar's half ---


@dataclass(frozen=True, slots=True, kw_only=True)
class X5cRules:
    """
    Which certificates introduce whom.

    ``usages``: one of these has to be allowed all along the path. ``names``: every name in the certificate has to fit
    one of them; without any, none does. ``cut``: the credential ends when the certificate does.
    """

    roots: tuple[x509.Certificate, ...] = ()
    usages: frozenset[Usage] = frozenset({Usage.SERVER})
    roles: frozenset[Role] = frozenset()
    names: tuple[NamePattern, ...] = ()
    coverage: Coverage = Coverage.LEAF
    cut: bool = False


@dataclass(frozen=True, slots=True)
class X5cIntroducer:
    """
    The registrar's half. Without roots it accepts nobody.

    ``lists`` returns the revocation lists as they are now; None where no list is configured, and nothing is asked.
    """

    rules: X5cRules = X5cRules()
    lists: Callable[[], Lists] | None = None
    name: ClassVar[str] = NAME
    native: ClassVar[bool] = True
    evidence: ClassVar[type[msgspec.Struct]] = X5cRequest
    because: ClassVar[str] = "it signed with the key of a certificate of another authority, which an operator trusts"

    def verify(self, evidence: Evidence, context: Context) -> Finding:
        """
        Return the finding for a certificate that chains to one of the roots, and whose key signed this request.

        *Not checked*: that the machine is still what the certificate's CA saw when it issued it.

        :raises EvidenceRejected: no path to a root, a wrong signature, or names that are none.
        :raises Revoked: its CA took it back. :raises PolicyRefused: names that are not allowed here.
        """
        request = opened(evidence, X5cRequest, context, method=self.name)
        signed = transcript(request, pin=context.pin, server_spki=evidence.channel.server_spki)
        leaf, path = self._authenticate(request, signed, context)
        machine, names = foreign.names_of(leaf)
        self._check_names(names)  # before lists are looked through, which may be large
        if self.lists is not None:
            revocation.check_path(path, self.lists(), coverage=self.rules.coverage, at=context.now())
        about = f"the certificate {marker(leaf).removeprefix(NAME)[1:17]} of {foreign.subject_of(leaf)!r}"
        return Finding(
            method=self.name,
            public_key=keys.spki(csr.read(request.csr)),
            entitlement=Entitlement(
                machine, self.rules.roles, names, until=leaf.not_valid_after_utc if self.rules.cut else None
            ),
            wish=Wish(request.role),
            once=Once(marker(leaf)),
            proof=f"it signed with the key of {about}, by {foreign.issuer_of(leaf)!r}",
            transcript=signed,
            reintroduction_key=request.reintroduction_key,
            host=self._host(request, machine, names, about, evidence, context),
        )

    def _authenticate(
        self, request: X5cRequest, signed: bytes, context: Context
    ) -> tuple[x509.Certificate, tuple[x509.Certificate, ...]]:
        leaf, *above = (chain.load_certificate(der) for der in request.chain)
        if not foreign.verify(foreign.leaf_key(leaf), request.signature, signed):
            raise EvidenceRejected(
                f"the signature for the certificate of {foreign.subject_of(leaf)!r} does not fit this connection and"
                " request",
                hint="is it the certificate's own key? else somebody may sit between you, or replay an old request",
            )
        roots, usages = self.rules.roots, self.rules.usages
        return leaf, foreign.verified_path(leaf, above, roots=roots, usages=usages, at=context.now())

    def _check_names(self, names: Names) -> None:
        allowed = self.rules.names
        beyond = [str(name) for name in (*names.dns, *names.ips) if not any(each.allows(name) for each in allowed)]
        if beyond:
            raise PolicyRefused(
                (f"no certificate introduces {', '.join(beyond)} here ([x5c] names)",),
                hint="get a certificate for allowed names only, or have the operator allow these",
            )

    def _host(
        self, request: X5cRequest, machine: str, names: Names, about: str, evidence: Evidence, context: Context
    ) -> HostFinding | None:
        if request.host is None:
            return None
        spki = evidence.channel.server_spki
        return HostFinding(
            machine=machine,
            keys=hostproof.proved(request, method=self.name, pin=context.pin, server_spki=spki),
            how=How.X5C,
            detail=about,
            place=Place.parse(names.texts(), ports=tuple(request.host.ports)),
        )


REGISTRAR_HALF = X5cIntroducer()
