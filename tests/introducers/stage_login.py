"""
Persons who want certificates: an operator, and whoever a provider knows; as ``stage_ssh`` has hosts.

Tokens are written here by hand (RFC 7515), not by the library that reads them. Keys are fixed.
"""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
from collections.abc import Callable
from typing import Any

from cryptography import x509 as pyca
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, padding, rsa
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding

from handfast.core.flow import Channel, Evidence, SshWish
from handfast.core.openid import Provider
from handfast.core.ports import SshIntroducer
from handfast.core.records import CredentialRecord
from handfast.core.roles import Role
from handfast.core.sshsig import Signer
from handfast.introducers import oidc, operator_login
from handfast.introducers.oidc import Keys, OidcIntroducer, read_keys
from tests.introducers.stage import NOW, PIN, SERIAL, SERVER_SPKI, Honest, a_credential, certificate, ed25519, p256
from tests.introducers.stage_ssh import SshStage
from tests.registrar.hosts import signer

MINE, THIEFS = signer(21), signer(22)
CLIENT = "handfast"
CORP = Provider("corp", "https://id.example.org", CLIENT)
OTHER = Provider("other", "https://login.example.com", CLIENT)
KID = "2026-11"
CORP_KEY, OTHER_KEY, ED_KEY = p256(3001), p256(3002), ed25519(31)
TokenKey = ec.EllipticCurvePrivateKey | Ed25519PrivateKey | rsa.RSAPrivateKey | bytes | None
_HASHES = {"256": hashes.SHA256(), "384": hashes.SHA384(), "512": hashes.SHA512()}
_NO_WISH = SshWish()


def b64(data: bytes) -> str:
    """base64url without padding."""
    return base64.urlsafe_b64encode(data).decode().rstrip("=")


def claims(**changes: Any) -> dict[str, Any]:
    """What an honest provider says of Ada now; a change to None leaves it out."""
    said = {
        "iss": CORP.issuer,
        "sub": "248289761001",
        "aud": CLIENT,
        "azp": CLIENT,
        "iat": int(NOW.timestamp()) - 3,
        "exp": int(NOW.timestamp()) + 3600,
        "email": "Ada@example.org",
        "email_verified": True,
        "groups": ["admins", "staff"],
    } | changes
    return {name: value for name, value in said.items() if value is not None}


def token(said: Any = None, *, key: TokenKey = CORP_KEY, **header: Any) -> str:
    """A token that says this, with a header of ES256 but for what is changed; None leaves a field out."""
    fields = {"alg": "ES256", "kid": KID, "typ": "JWT"} | header
    written = {name: value for name, value in fields.items() if value is not None}
    text = said if isinstance(said, bytes) else json.dumps(claims() if said is None else said).encode()
    signed = f"{b64(json.dumps(written).encode())}.{b64(text)}"
    return f"{signed}.{b64(signature(signed.encode(), key, str(fields['alg'])))}"


def signature(signed: bytes, key: TokenKey, algorithm: str) -> bytes:
    """As RFC 7518 §3 has it, with whatever key is given."""
    digest = _HASHES.get(algorithm[2:], hashes.SHA256())
    if isinstance(key, Ed25519PrivateKey):
        return key.sign(signed)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        size = (key.key_size + 7) // 8
        pair = decode_dss_signature(key.sign(signed, ec.ECDSA(digest, deterministic_signing=True)))
        return b"".join(number.to_bytes(size) for number in pair)
    if isinstance(key, rsa.RSAPrivateKey):
        if algorithm.startswith("PS"):
            return key.sign(signed, padding.PSS(padding.MGF1(digest), digest.digest_size), digest)
        return key.sign(signed, padding.PKCS1v15(), digest)
    return hmac.digest(key, signed, "sha256") if key is not None else b""


def jwk(key: TokenKey, kid: str | None = KID, **more: Any) -> dict[str, Any]:
    """The public half of a key (RFC 7517, 8037)."""
    named = {} if kid is None else {"kid": kid}
    if isinstance(key, Ed25519PrivateKey):
        return named | {"kty": "OKP", "crv": "Ed25519", "x": b64(key.public_key().public_bytes_raw())} | more
    if isinstance(key, rsa.RSAPrivateKey):
        numbers = key.public_key().public_numbers()
        size = (key.key_size + 7) // 8
        return named | {"kty": "RSA", "n": b64(numbers.n.to_bytes(size)), "e": b64(numbers.e.to_bytes(3))} | more
    assert isinstance(key, ec.EllipticCurvePrivateKey)
    point, size = key.public_key().public_numbers(), (key.key_size + 7) // 8
    curve = {256: "P-256", 384: "P-384", 521: "P-521"}[key.key_size]
    return (
        named | {"kty": "EC", "crv": curve, "x": b64(point.x.to_bytes(size)), "y": b64(point.y.to_bytes(size))} | more
    )


def key_set(*keys: dict[str, Any]) -> bytes:
    """A provider's key set."""
    return json.dumps({"keys": list(keys)}).encode()


def introducer(corp: bytes | None = None) -> OidcIntroducer:
    """The registrar's half with two providers, of which each calls its key the same."""
    sets: dict[str, Keys] = {
        CORP.name: read_keys(corp or key_set(jwk(CORP_KEY), jwk(ED_KEY, "ed"))),
        OTHER.name: read_keys(key_set(jwk(OTHER_KEY))),
    }
    return OidcIntroducer({each.name: each for each in (CORP, OTHER)}, lambda provider: sets.get(provider.name))


def by_oidc(
    *,
    pin: bytes = PIN,
    spki: bytes = SERVER_SPKI,
    nonce_: bytes | None = None,
    by: Signer = MINE,
    token_: str | None = None,
    provider: str = CORP.name,
    wish: SshWish = _NO_WISH,
) -> Honest:
    """Ada, who has just allowed it at her provider."""
    stage = SshStage()
    body, signed = oidc.present(
        by,
        wish,
        provider=provider,
        token=token() if token_ is None else token_,
        pin=pin,
        nonce=stage.nonce() if nonce_ is None else nonce_,
        server_spki=spki,
    )
    return Honest(stage, Evidence(oidc.NAME, body, Channel(SERVER_SPKI)), signed)


def by_operator(
    *,
    pin: bytes = PIN,
    spki: bytes = SERVER_SPKI,
    nonce_: bytes | None = None,
    by: Signer = MINE,
    record: CredentialRecord | None = None,
    client: pyca.Certificate | None = None,
    covered: bytes | None = None,
    wish: SshWish = _NO_WISH,
) -> Honest:
    """An operator; ``covered`` is the credential that the SSH key signed for, if not the one that is shown."""
    shown = client or certificate()
    stage = SshStage(credentials={SERIAL: record or a_credential(Role.OPERATOR, machine="ada-laptop")})
    body, signed = operator_login.present(
        by,
        wish,
        credential=shown.public_bytes(Encoding.DER) if covered is None else covered,
        pin=pin,
        nonce=stage.nonce() if nonce_ is None else nonce_,
        server_spki=spki,
    )
    return Honest(stage, Evidence(operator_login.NAME, body, Channel(SERVER_SPKI, shown)), signed)


PERSONS: dict[str, Callable[..., Honest]] = {operator_login.NAME: by_operator, oidc.NAME: by_oidc}
VERIFIERS: dict[str, SshIntroducer] = {oidc.NAME: introducer()}


def spent(token_: str) -> str:
    """The marker of a token, spelled a second time."""
    return "oidc:" + hashlib.sha256(token_.rsplit(".", 1)[0].encode()).hexdigest()
