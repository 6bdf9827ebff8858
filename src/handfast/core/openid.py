"""
OpenID providers as values: which we trust, and what each says of itself (OpenID Connect Discovery 1.0, RFC 8628).

No I/O, and no cryptography: ``introducers.oidc`` verifies tokens.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

import msgspec

from handfast.core import wire
from handfast.core.secret import Secret
from handfast.errors import Malformed, UntrustedPeer

MAX_METADATA = 128 * 1024  # bytes of a discovery document; real ones have 2 to 6 thousand
MAX_KEYS = 256 * 1024  # bytes of a key set
MAX_TOKEN = 16 * 1024  # characters of an ID token
WELL_KNOWN = "/.well-known/openid-configuration"
SCOPES = ("openid", "email")
_NAME = re.compile(r"[a-z0-9][a-z0-9-]{0,31}", re.ASCII)
_URL = re.compile(
    r"(https?)://(?:\[([0-9a-fA-F:.]+)\]|([A-Za-z0-9.-]+))(?::[0-9]{1,5})?(?:/[A-Za-z0-9._~%/:@!$&'()*+,;=-]*)?",
    re.ASCII,
)


@dataclass(frozen=True, slots=True)
class Provider:
    """
    An OpenID provider that may say who people are here, under a ``name`` of ours.

    ``client_id`` is what we are called there, and the only audience that we take. ``client_secret`` is for providers
    that ask one of programs which cannot keep it (RFC 8252 §8.5): whoever may log in is given it.
    """

    name: str
    issuer: str
    client_id: str
    scopes: tuple[str, ...] = SCOPES
    client_secret: Secret | None = None


class ProviderView(msgspec.Struct, frozen=True, omit_defaults=True):
    """One of GET /v1/ssh/providers: what a person's program needs to get a token there."""

    name: str
    issuer: str
    client_id: str
    scopes: list[str]
    client_secret: str = ""


class Providers(msgspec.Struct, frozen=True):
    """GET /v1/ssh/providers."""

    providers: list[ProviderView]


class Metadata(msgspec.Struct, frozen=True):
    """What of a discovery document is used."""

    issuer: str
    jwks_uri: str
    token_endpoint: str = ""
    device_authorization_endpoint: str = ""


def check_name(name: str) -> str:
    """Return the name of a provider. :raises Malformed: it is none."""
    if not _NAME.fullmatch(name):
        raise Malformed(f"not a name of a provider: {name[:40]!r}", hint="lower-case letters, digits and hyphens")
    return name


def check_url(url: str) -> str:
    """
    Return a URL without query of a provider: https, or http to this very machine.

    :raises Malformed: anything else.
    """
    scheme, host = _parts(url)
    if not host or (scheme != "https" and not _is_loopback(host)):
        raise Malformed(f"not a URL of an OpenID provider: {url[:120]!r}", hint="https://HOST[:PORT][/PATH]")
    return url


def is_local(url: str) -> bool:
    """Whether a URL leads to this machine by its very spelling."""
    return _is_loopback(_parts(url)[1])


def _parts(url: str) -> tuple[str, str]:
    """Return scheme and host; both empty where it is no URL that a provider has."""
    found = _URL.fullmatch(url)
    return (found[1], found[2] or found[3]) if found else ("", "")


def _is_loopback(host: str) -> bool:
    try:
        return host == "localhost" or ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def metadata_url(issuer: str) -> str:
    """Return where a provider describes itself (OpenID Connect Discovery 1.0 §4)."""
    return issuer.removesuffix("/") + WELL_KNOWN


def read_metadata(document: bytes, *, issuer: str) -> Metadata:
    """
    Read a discovery document.

    :raises UntrustedPeer: it is another issuer's: whoever sent us there would have tokens mixed up (RFC 9700 §4.4).
    :raises Malformed: no such document, or an endpoint that is not https.
    """
    found = wire.decode(document, Metadata)
    if found.issuer != issuer:
        raise UntrustedPeer(
            f"the provider at {issuer!r} says that it is {found.issuer[:120]!r}",
            hint="give the issuer in [[oidc]] exactly as its discovery document has it",
        )
    for url in (found.jwks_uri, found.token_endpoint, found.device_authorization_endpoint):
        if url:
            check_url(url)
            if is_local(url) and not is_local(issuer):
                raise Malformed(
                    f"the provider {issuer!r} has {url[:120]!r}, which is this machine", hint="it is broken"
                )
    return found
