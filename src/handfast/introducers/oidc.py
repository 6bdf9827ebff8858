"""
OpenID Connect: whoever a configured provider has just said somebody to be gets a certificate for an SSH key of theirs.

Proof     person -> registrar  ID token by the provider (RSA, ECDSA or EdDSA); SSHSIG by the SSH key, which covers it
Answer    registrar -> person  ECDSA by the TLS key, chained to the pin, over request, certificates, roots and time
Trusts    the provider, for everybody there; and whoever has a token of the last five minutes that nobody has used here
Replay    a token is spent against one SSH key, and another key raises an alarm; for the rest as every request
Spec      docs/protocols/ssh-login.md
"""

from __future__ import annotations

import hashlib
import re
import secrets
import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from typing import Annotated, Any, ClassVar

import msgspec
from joserfc import jws
from joserfc.errors import JoseError, SecurityWarning, UnsupportedAlgorithmError
from joserfc.jwk import ECKey, OKPKey, RSAKey, import_key
from msgspec import Meta

from handfast.core import sshlogin, wire
from handfast.core.evidence import opened
from handfast.core.flow import Evidence, Once, Person, SshFinding, SshWish
from handfast.core.hostproof import HostSigner
from handfast.core.keys import RSA_BITS
from handfast.core.openid import MAX_TOKEN, Provider
from handfast.core.ports import SshContext
from handfast.core.sshcert import Kind
from handfast.core.sshlogin import LoginRequest
from handfast.errors import EvidenceRejected, HandfastError, Malformed

NAME = "oidc"
FRESH = timedelta(minutes=5)  # how old a token may be: whoever logs in has just got it
SKEW = timedelta(minutes=1)  # how far a provider's clock may be ahead of ours
MOST_KEYS = 64
MOST_GROUPS = 1000

# What signs tokens here. Above all not `none`, nor an HMAC, which a provider's public key would do for.
_RSA = dict.fromkeys(("RS256", "RS384", "RS512", "PS256", "PS384", "PS512"), ("RSA", ""))
_KEY_OF: dict[str, tuple[str, str]] = _RSA | {
    "ES256": ("EC", "P-256"),
    "ES384": ("EC", "P-384"),
    "ES512": ("EC", "P-521"),
    "EdDSA": ("OKP", "Ed25519"),
    "Ed25519": ("OKP", "Ed25519"),
}
ALGORITHMS = tuple(_KEY_OF)
_COMPACT = re.compile(r"([A-Za-z0-9_-]+\.[A-Za-z0-9_-]+)\.[A-Za-z0-9_-]+", re.ASCII)
_EMAIL = re.compile(r"[\x21-\x3f\x41-\x7e]{1,64}@[a-z0-9](?:[a-z0-9.-]{0,250}[a-z0-9])?", re.ASCII)


class OidcRequest(LoginRequest, frozen=True, forbid_unknown_fields=True, kw_only=True):
    """POST /v1/ssh/certificates/oidc: the provider by our name for it, and its ID token (compact JWS)."""

    provider: Annotated[str, Meta(max_length=32)]
    token: Annotated[str, Meta(max_length=MAX_TOKEN)]


# --- keys of providers ---


@dataclass(frozen=True, slots=True)
class _Key:
    kind: tuple[str, str]
    kid: str | None
    algorithm: str | None
    key: RSAKey | ECKey | OKPKey = field(repr=False)


@dataclass(frozen=True, slots=True)
class Keys:
    """The public keys of one provider that verify tokens. Make one with ``read_keys``."""

    keys: tuple[_Key, ...]

    def knows(self, kid: str | None) -> bool:
        """Whether a token that names this key could be verified."""
        return any(kid is None or each.kid == kid for each in self.keys)

    def fitting(self, algorithm: str, kid: str | None) -> RSAKey | ECKey | OKPKey:
        """Return the one key that a token's header means. :raises EvidenceRejected: none, or several."""
        found = [
            each.key
            for each in self.keys
            if each.kind == _KEY_OF[algorithm] and kid in {None, each.kid} and each.algorithm in {None, algorithm}
        ]
        if len(found) != 1:
            raise EvidenceRejected(
                f"{len(found)} keys of the provider fit the token's {algorithm!r} and key id {kid!r}"
            )
        return found[0]


class KeySet(msgspec.Struct, frozen=True):
    """A JWK set (RFC 7517 §5)."""

    keys: list[dict[str, Any]]


def read_keys(document: bytes) -> Keys:
    """
    Read a JWK set (RFC 7517); keys that do not verify tokens here are passed over.

    :raises Malformed: not one, too many keys, or none that is of use.
    """
    listed = wire.decode(document, KeySet).keys
    if len(listed) > MOST_KEYS:
        raise Malformed(f"a key set of {len(listed)} keys, at most {MOST_KEYS} are read", hint="the provider is broken")
    found = tuple(key for each in listed if (key := _key(each)) is not None)
    if not found:
        raise Malformed(
            "no key in the provider's key set verifies tokens here", hint=f"one for {', '.join(ALGORITHMS)}"
        )
    return Keys(found)


def _key(jwk: dict[str, Any]) -> _Key | None:
    kind = (str(jwk.get("kty")), str(jwk.get("crv", "")))
    if kind not in _KEY_OF.values() or jwk.get("use", "sig") != "sig" or "d" in jwk:
        return None
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", SecurityWarning)  # of short keys, which are passed over
            key = import_key(jwk)
        if not isinstance(key, RSAKey | ECKey | OKPKey):
            return None
        if isinstance(key, RSAKey) and key.public_key.key_size not in RSA_BITS:
            return None
    except (JoseError, ValueError, TypeError, KeyError):
        return None
    kid, algorithm = jwk.get("kid"), jwk.get("alg")
    return _Key(kind, kid if isinstance(kid, str) else None, algorithm if isinstance(algorithm, str) else None, key)


# --- tokens ---


class _Header(msgspec.Struct, frozen=True):
    alg: str
    kid: str | None = None
    typ: str = "JWT"
    crit: Any = None


class IdToken(msgspec.Struct, frozen=True):
    """What of an ID token is read (OpenID Connect Core 1.0 §2)."""

    iss: str
    sub: str
    aud: str | list[str]
    exp: float
    iat: float
    nbf: float | None = None
    azp: str | None = None
    email: str | None = None
    email_verified: Any = None
    groups: list[str] = []


def verified(token: str, provider: Provider, keys: Keys, *, now: datetime) -> Person:
    """
    Return who a provider says somebody is (OpenID Connect Core 1.0 §3.1.3.7).

    *Not* checked: a nonce, which the device flow has none of: a token is good for whoever has it (RFC 6750).

    :raises Malformed: not a token. :raises EvidenceRejected: by somebody else, for somebody else, or not of now.
    """
    header = _header(token)
    if header.alg not in _KEY_OF:
        raise EvidenceRejected(f"the token is signed with {header.alg[:40]!r}, which proves nothing here")
    if header.typ.upper() != "JWT" or header.crit is not None:
        raise EvidenceRejected(f"the token is of type {header.typ[:40]!r}, or has critical fields: no ID token")
    key = keys.fitting(header.alg, header.kid)
    try:
        found = jws.deserialize_compact(
            token, key, registry=_Registry(algorithms=[header.alg], strict_check_header=False)
        )
    except (JoseError, ValueError, TypeError) as error:
        raise EvidenceRejected(f"the token's signature does not fit: {str(error)[:120]}") from None
    if found.payload is None:  # unreachable: it was not detached
        raise EvidenceRejected("the token is empty")
    claims = wire.decode(found.payload, IdToken)
    _check_claims(claims, provider, now.timestamp())
    return Person(f"{NAME}:{provider.name}", _subject(claims.sub), _email(claims), _groups(claims.groups))


class _Registry(jws.JWSRegistry):
    """What is on our list is used without a warning: `EdDSA` is an old name, and with Ed25519 nothing else."""

    def get_alg(self, name: str) -> Any:
        """Return the algorithm. :raises UnsupportedAlgorithmError: another than that for which this was made."""
        if name not in (self.allowed or ()):  # unreachable: it is the header's
            raise UnsupportedAlgorithmError(name)
        return self.algorithms[name]


def _header(token: str) -> _Header:
    """Read a token's header, of which nothing is believed."""
    if not _COMPACT.fullmatch(token):
        raise Malformed("not an ID token: it has no three parts of base64url", hint="get a new one")
    try:
        protected = jws.extract_compact(token.encode("ascii")).headers()
        return msgspec.convert(protected, _Header)
    except (JoseError, ValueError, TypeError, msgspec.ValidationError):
        raise Malformed("not an ID token: its header cannot be read", hint="get a new one") from None


def _check_claims(claims: IdToken, provider: Provider, now: float) -> None:
    if claims.iss != provider.issuer:
        raise EvidenceRejected(f"the token is by {claims.iss[:120]!r}, and not by {provider.issuer!r}")
    # A second audience could take our token for its own, and somebody else's could be meant for us as well.
    if claims.aud not in (provider.client_id, [provider.client_id]):
        raise EvidenceRejected(f"the token is for {str(claims.aud)[:120]!r}, and not for {provider.client_id!r} alone")
    if claims.azp not in {None, provider.client_id}:
        raise EvidenceRejected(f"the token was issued to {str(claims.azp)[:120]!r}, and not to {provider.client_id!r}")
    if not now < claims.exp:
        raise EvidenceRejected("the token has expired")
    if claims.iat < now - FRESH.total_seconds():
        raise EvidenceRejected(f"the token is over {FRESH.total_seconds():.0f} seconds old")
    if max(claims.iat, claims.nbf or claims.iat) > now + SKEW.total_seconds():
        raise EvidenceRejected("the token is from the future: the provider's clock or ours is wrong")


def _subject(sub: str) -> str:
    """Return the person's name there (OpenID Connect Core 1.0 §2: at most 255 characters of ASCII)."""
    if not sub or len(sub) > 255 or not sub.isascii() or not sub.isprintable():
        raise EvidenceRejected(f"the token's subject is no name: {sub[:80]!r}")
    return sub


def _email(claims: IdToken) -> str | None:
    """Return an address only if the provider has verified it, in so many words: else anybody could claim any."""
    address = claims.email or ""
    if claims.email_verified is not True or not address.isascii():  # lower() makes a k of the Kelvin sign
        return None
    return address.lower() if _EMAIL.fullmatch(address.lower()) else None


def _groups(groups: list[str]) -> frozenset[str]:
    if len(groups) > MOST_GROUPS:
        raise EvidenceRejected(f"the token has {len(groups)} groups, at most {MOST_GROUPS} are read")
    return frozenset(groups)


def spent_as(token: str) -> str:
    """
    Return the marker under which a token is spent: made of what is signed in it.

    Not of its signature: anybody can write an ECDSA signature, and base64, in a second way.
    """
    return f"{NAME}:{hashlib.sha256(token.rpartition('.')[0].encode('ascii')).hexdigest()}"


def asked_for(body: bytes) -> tuple[str, str | None] | None:
    """
    Return the provider and the key id that a request names, of which nothing is believed; None where it names none.

    It is for whoever fetches a provider's keys before the request is verified.
    """
    try:
        request = wire.decode(body, OidcRequest)
        return request.provider, _header(request.token).kid
    except HandfastError:
        return None


# --- the two halves ---


def transcript(request: OidcRequest, *, pin: bytes, server_spki: bytes) -> bytes:
    """Return the digest that the SSH key signs."""
    who = (request.provider.encode(), hashlib.sha256(request.token.encode()).digest())
    return sshlogin.transcript(request, NAME, pin=pin, server_spki=server_spki, who=who)


def present(
    signer: HostSigner,
    wish: SshWish,
    *,
    provider: str,
    token: str,
    pin: bytes,
    nonce: bytes,
    server_spki: bytes,
) -> tuple[bytes, bytes]:
    """Return the person's message (JSON), and the digest that the registrar's answer must sign."""
    request = OidcRequest(
        nonce=nonce,
        newcomer_nonce=secrets.token_bytes(32),
        key=signer.public.blob,
        principals=list(wish.principals),
        lifetime=int(wish.lifetime.total_seconds()) if wish.lifetime is not None else 0,
        provider=provider,
        token=token,
        signature=b"",
    )
    made = transcript(request, pin=pin, server_spki=server_spki)
    return msgspec.json.encode(msgspec.structs.replace(request, signature=sshlogin.signed(signer, made))), made


@dataclass(frozen=True, slots=True)
class OidcIntroducer:
    """
    The registrar's half.

    ``keys`` returns what a provider's keys are now; None where they are not known, or were fetched too long ago.
    """

    providers: Mapping[str, Provider] = field(default_factory=dict)
    keys: Callable[[Provider], Keys | None] = lambda _provider: None
    name: ClassVar[str] = NAME
    evidence: ClassVar[type[msgspec.Struct]] = OidcRequest

    def verify(self, evidence: Evidence, context: SshContext) -> SshFinding:
        """
        Return the finding for whoever has a provider's token.

        :raises Malformed: not such a request. :raises EvidenceRejected: the token or the SSH key proves nothing.
        """
        request = opened(evidence, OidcRequest, context, method=self.name)
        provider = self.providers.get(request.provider)
        if provider is None:
            raise EvidenceRejected(f"no provider {request.provider!r} in [[oidc]]")
        made = transcript(request, pin=context.pin, server_spki=evidence.channel.server_spki)
        key = sshlogin.proved(request, made)
        keys = self.keys(provider)
        if keys is None:
            raise EvidenceRejected(f"the keys of the provider {provider.name!r} are not known at this time")
        person = verified(request.token, provider, keys, now=context.now())
        return SshFinding(
            method=self.name,
            kind=Kind.USER,
            holder=person,
            keys=(key,),
            wish=request.wish,
            once=Once(spent_as(request.token)),
            proof=f"{provider.issuer} says that this is {person} ({person.name}), and the SSH key signed that token",
            transcript=made,
        )


SSH_HALF = OidcIntroducer()
