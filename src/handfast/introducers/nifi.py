"""
The protocol of Apache NiFi's tls-toolkit: a token, and its HMAC over a key in each direction.

Proof     newcomer -> registrar  HMAC-SHA256(token, SHA-1 key id of the CSR's key); the CSR's own signature
Answer    registrar -> newcomer  HMAC-SHA256(token, SHA-1 key id of the CA's key), which is also the TLS key
Trusts    everybody who has the token, and a strong token: whoever answers for the CA's name may guess at a weak one
Replay    the same key gets the same certificate; a one-time token burns against the first key
Spec      docs/protocols/nifi.md

The wire is NiFi's and cannot be mended: the newcomer proves itself before it knows to whom, and the answer has no
nonce. What can be held is held here: whoever changes a request on its way breaks the CSR's signature, and the CA's own
key, whose tag everybody sees, is no newcomer's.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import unicodedata
from collections.abc import Iterator
from dataclasses import dataclass
from typing import ClassVar

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import CertificatePublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding

from handfast.core import csr, dn, keys, wire
from handfast.core.flow import Entitlement, Evidence, Finding, Once, Wish
from handfast.core.names import NamePattern, Names, machine_name
from handfast.core.ports import Context
from handfast.core.records import Invitation
from handfast.core.roles import Role
from handfast.core.secret import Secret
from handfast.errors import (
    EvidenceRejected,
    InvitationCancelled,
    Malformed,
    NotMine,
    PolicyRefused,
    TooMuch,
    UsageError,
)

NAME = "nifi"
MAX_BODY = 1024 * 1024  # bytes of an answer, as the original has it; a registrar reads less (server.limits)
SHORTEST_TOKEN = 16  # bytes, as the original has it
MOST_TOKENS = 100  # one-time tokens at a time: each costs every stranger's request 10 us of ours
TOKEN_PREFIX = "handfastnifi1_"
_DISTINCT = 8  # different characters; a token of 16 random hex digits has fewer once in 10,000 times
# Printed in the toolkit's samples, tests and charts: everybody's first guesses.
_PUBLISHED = frozenset(
    {
        "mytesttokenusesomethingstronger",
        "testtokentesttoken",
        "testtoken16bytes",
        "sometokendata16b",
        "0123456789abcdef",
        "0123456789abcdefghijklm",
        "sixteencharacters",
        "d40f6b95-801f-4800-a1e1-a9fcc712e0bd",
        "abcdefghijklmnop",
        "changeitchangeit",
    }
)
_PEM = ("-----BEGIN CERTIFICATE REQUEST-----", "-----BEGIN NEW CERTIFICATE REQUEST-----")
_IDEOGRAPHIC_STOP = "\u3002"  # a dot in IDNA (RFC 3490 §3.1); its other forms are not normalized
_TOKEN_LABEL = b"handfast nifi one-time token v1\x00"


class NifiRequest(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """POST /. The original refuses a missing field by name, so neither is required here."""

    hmac: bytes | None = None
    csr: str | None = None


class NifiAnswer(msgspec.Struct, frozen=True, forbid_unknown_fields=True, rename="camel"):
    """The answer. The original's client refuses every other field, so that none can be added."""

    hmac: bytes | None = None
    pem_encoded_certificate: str | None = None
    error: str | None = None


# --- what both sides compute ---


def tag(token: Secret, public_key: CertificatePublicKeyTypes) -> bytes:
    """Return the token's HMAC over a key's identifier (RFC 5280 §4.2.1.2, method 1: SHA-1); the same both ways."""
    return _tag(token, _identifier(public_key))


def _identifier(public_key: CertificatePublicKeyTypes) -> bytes:
    return x509.SubjectKeyIdentifier.from_public_key(public_key).digest


def _tag(token: Secret, identifier: bytes) -> bytes:
    return hmac.digest(token.reveal(), identifier, hashlib.sha256)


def check_token(token: Secret) -> None:
    """
    Refuse a token that can be guessed: whoever poses as the CA sees a tag, and may try at leisure.

    *Not* checked: that it is random, which nobody can see.

    :raises UsageError: shorter than 16 bytes, of few different characters, or one that was published.
    """
    text = token.reveal()
    hint = "make one with: openssl rand -base64 32"
    if len(text) < SHORTEST_TOKEN:
        raise UsageError(f"a token of {len(text)} bytes, at least {SHORTEST_TOKEN} are needed", hint=hint)
    if len(set(text)) < _DISTINCT:
        raise UsageError(f"a token of {len(set(text))} different characters can be guessed", hint=hint)
    if text.lower().decode("utf-8", "replace") in _PUBLISHED:
        raise UsageError("a token that is printed in NiFi's documentation or tests", hint=hint)


# --- the newcomer's half ---


def encode_request(token: Secret, request: x509.CertificateSigningRequest) -> bytes:
    """Return the message, as the original's client writes it."""
    proof = tag(token, request.public_key())
    return msgspec.json.encode(NifiRequest(hmac=proof, csr=request.public_bytes(Encoding.PEM).decode()))


def decode_answer(body: bytes, token: Secret, ca: x509.Certificate) -> x509.Certificate:
    """
    Return the certificate in an answer with status 200 of somebody who knows the token and has the CA's key.

    ``ca`` is the only certificate that the TLS server showed. *Not* checked: that it issued the certificate, and to
    whom; freshness, since the tag is the same in every answer.

    :raises Malformed: not such an answer.
    :raises EvidenceRejected: the tag does not fit: a man in the middle, or another token.
    """
    if len(body) > MAX_BODY:
        raise TooMuch(f"an answer of more than {MAX_BODY} bytes", hint="is this a NiFi CA?")
    answer = wire.decode(body, NifiAnswer)
    if not answer.hmac:
        raise Malformed("the answer has no hmac", hint="is this a NiFi CA?")
    if not hmac.compare_digest(answer.hmac, tag(token, ca.public_key())):
        raise EvidenceRejected(
            "the answer's hmac does not fit the CA's key: a man in the middle, or another token",
            hint="compare the tokens on both machines; do not use this one again if they are equal",
        )
    if not answer.pem_encoded_certificate:
        raise Malformed("the answer has no certificate", hint="is this a NiFi CA?")
    try:
        return x509.load_pem_x509_certificate(answer.pem_encoded_certificate.encode())
    except keys.UNREADABLE as error:
        raise Malformed(f"the answer has no certificate: {str(error)[:80]!r}") from None


# --- the registrar's half ---


@dataclass(frozen=True, slots=True)
class SharedToken:
    """
    One token for all, as the original has it, and what its holders may ask for.

    Nothing allowed means: what leads to the address that they call from. ``any_name`` is the original's behavior:
    any subject, any name, whoever has the token.
    """

    token: Secret
    subjects: tuple[dn.SubjectPattern, ...] = ()
    names: tuple[NamePattern, ...] = ()
    any_name: bool = False

    def entitle(self, machine: str, subject: x509.Name, wished: Names) -> Entitlement:
        """Return what the holder of the token is entitled to, of what is wished."""
        named = self.any_name or any(pattern.allows(subject) for pattern in self.subjects)
        return Entitlement(
            machine,
            frozenset({Role.PEER}),
            Names(
                tuple(name for name in wished.dns if self._allows(name, subject if named else None)),
                tuple(ip for ip in wished.ips if self.any_name or any(pattern.allows(ip) for pattern in self.names)),
            ),
            subject=subject.public_bytes() if named else None,
            own_address=True,
        )

    def _allows(self, name: str, subject: x509.Name | None) -> bool:
        own = subject is not None and name == (dn.common_name(subject) or "").lower()
        return own or self.any_name or any(pattern.allows(name) for pattern in self.names)


@dataclass(frozen=True, slots=True)
class NifiIntroducer:
    """
    The registrar's half. Without ``shared`` and ``master`` it accepts nobody.

    ``ca`` is the public key of the authority, which is the TLS key as well.
    """

    ca: CertificatePublicKeyTypes | None = None
    shared: SharedToken | None = None
    master: Secret | None = None
    name: ClassVar[str] = NAME
    native: ClassVar[bool] = False
    evidence: ClassVar[type[msgspec.Struct]] = NifiRequest
    because: ClassVar[str] = "it knew a NiFi token, and signed with its new key"

    def verify(self, evidence: Evidence, context: Context) -> Finding:
        """
        Return the finding for a request with a token's tag, signed by its own key.

        *Not checked*: freshness, as the wire has no nonce. Whether subject and names are allowed is policy's.

        :raises Malformed: not such a request. :raises EvidenceRejected: no token fits, or it has our own key.
        :raises InvitationCancelled: its one-time token was. :raises PolicyRefused: what is never certified.
        """
        if evidence.method != self.name:
            raise NotMine(f"evidence of method {evidence.method!r}")
        request = wire.decode(evidence.payload, NifiRequest)
        asked, key = _certification_request(request.csr or "")
        if self.ca is None or keys.spki(key) == keys.spki(self.ca):
            raise EvidenceRejected("the request has the CA's own key: somebody reflects our answer")
        token, bounds = self._token(request.hmac or b"", key, context)
        try:
            # A broken signature stays what anybody can send: a tag that was seen, with another request.
            public_key = csr.proven(asked)
            subject, wished = _wishes(asked)
        except Malformed as error:  # of somebody who knows the token: tell
            raise PolicyRefused((error.message,), hint=error.hint) from None
        if isinstance(bounds, SharedToken):
            entitled = bounds.entitle(machine_of(subject), subject, wished)
            once = Once(f"{NAME}:{hashlib.sha256(keys.spki(public_key)).hexdigest()}")
            which = "the shared NiFi token"
        else:
            roles = frozenset({bounds.role})
            entitled = Entitlement(bounds.machine, roles, bounds.names, bounds.sources, bounds.subject)
            once = Once(bounds.marker, bounds.uses)
            which = f"the one-time token {bounds.key_id}"
        return Finding(
            method=self.name,
            public_key=keys.spki(public_key),
            entitlement=entitled,
            wish=Wish(Role.PEER, wished, subject=subject.public_bytes()),
            once=once,
            proof=f"it knew {which}, and signed with its key",
            transcript=tag(token, self.ca),
            shared=isinstance(bounds, SharedToken),
        )

    def _token(
        self, presented: bytes, key: CertificatePublicKeyTypes, context: Context
    ) -> tuple[Secret, SharedToken | Invitation]:
        """Return the token whose tag was presented. All are tried: the wire does not say which it is."""
        identifier = _identifier(key)
        fitting = [each for each in self._tokens(context) if hmac.compare_digest(presented, _tag(each[0], identifier))]
        if not fitting:
            raise EvidenceRejected("forbidden")
        token, which = fitting[0]
        bounds = context.invitation(which) if isinstance(which, str) else which
        if bounds is None:  # unreachable: no invitation is ever deleted
            raise EvidenceRejected("forbidden")
        if isinstance(bounds, Invitation) and bounds.cancelled is not None:
            raise InvitationCancelled(f"the one-time token {bounds.key_id} was cancelled", hint="ask for a new one")
        return token, bounds

    def _tokens(self, context: Context) -> Iterator[tuple[Secret, SharedToken | str]]:
        """Give each token, and what it is: the shared one, or the key id of an invitation."""
        if self.shared is not None:
            yield self.shared.token, self.shared
        if self.master is not None:
            for key_id, salt in context.public_halves(self.name):
                yield one_time_token(self.master, salt), key_id


def one_time_token(master: Secret, salt: bytes) -> Secret:
    """
    Return the token that belongs to a salt (32 bytes), which the ledger keeps.

    The token itself is needed to verify a tag, so that there can be no public half of it. ``master`` (32 bytes) is a
    file beside the CA's key: a stolen ledger admits nobody.
    """
    derived = hmac.digest(master.reveal(), _TOKEN_LABEL + salt, hashlib.sha256)
    return Secret(TOKEN_PREFIX.encode() + base64.urlsafe_b64encode(derived).rstrip(b"="))


def _certification_request(pem: str) -> tuple[x509.CertificateSigningRequest, CertificatePublicKeyTypes]:
    if pem.count("-----BEGIN") != 1 or not pem.lstrip().startswith(_PEM):
        raise Malformed("not one PEM certificate request", hint="see docs/protocols/nifi.md")
    try:
        request = x509.load_pem_x509_csr(pem.encode())
        return request, request.public_key()
    except keys.UNREADABLE as error:
        raise Malformed(f"not a certificate request: {str(error)[:80]!r}") from None


def certifiable(subject: x509.Name) -> str:
    """
    Return the common name of a subject that may be certified.

    :raises Malformed: it has none, or Java would read it as another one.
    """
    common_name, text = dn.common_name(subject), dn.written(subject)
    if not common_name:
        raise Malformed(f"not a subject with a common name: {text[:80]!r}", hint="CN=node1.lan, OU=NIFI")
    if "*" in text:  # Java compares the common name with a host where no other name is
        raise Malformed(f"a subject with a wildcard is not certified: {text[:80]!r}")
    if _IDEOGRAPHIC_STOP in text or unicodedata.normalize("NFKC", text) != text:
        # Java takes it for other text then: node1<stop>lan, one label to every pattern of ours, is node1.lan to Java.
        raise Malformed(f"a subject with characters that Java reads as others: {text[:80]!r}")
    return common_name


def _wishes(request: x509.CertificateSigningRequest) -> tuple[x509.Name, Names]:
    """Return subject (in a certificate's order) and names; every other thing asked for is refused."""
    try:
        subject = dn.checked(dn.reverse(request.subject))
        extensions = list(request.extensions)
        listed = [name for extension in extensions for name in _alternative_names(extension)]
    except keys.UNREADABLE as error:
        raise Malformed(f"a subject or extensions that cannot be read: {str(error)[:80]!r}") from None
    common_name = certifiable(subject)
    if not _is_name(common_name):
        # A person's certificate. The original lists its common name as a DNS name all the same.
        listed = [name for name in listed if name != common_name]
    else:
        listed.append(common_name)
    return subject, Names.parse(list(dict.fromkeys(listed)))


def _alternative_names(extension: x509.Extension[x509.ExtensionType]) -> Iterator[str]:
    if not isinstance(extension.value, x509.SubjectAlternativeName):
        raise Malformed(f"the extension {extension.oid.dotted_string} is not certified")
    for name in extension.value:
        if not isinstance(name, x509.DNSName | x509.IPAddress):
            raise Malformed(f"a name of kind {type(name).__name__} is not certified")
        yield str(name.value)


def _is_name(text: str) -> bool:
    try:
        Names.parse([text])
    except Malformed:
        return False
    return True


def machine_of(subject: x509.Name) -> str:
    """Return the machine's name: the common name, or what stands for the whole subject where that is none."""
    try:
        if (node := dn.of_node(subject)) is not None:
            return machine_name(node)
    except Malformed:
        pass
    return f"dn-{hashlib.sha256(subject.public_bytes()).hexdigest()[:32]}"


REGISTRAR_HALF = NifiIntroducer()
