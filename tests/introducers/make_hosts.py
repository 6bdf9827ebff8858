"""
Host claims for vectors/: SSH host keys that are proved along with a request, and every way to claim another's.

Signatures and digests are spelled here a second time, from docs/protocols/invitation.md and OpenSSH's PROTOCOL.sshsig.
"""

from __future__ import annotations

import dataclasses
import hashlib
from collections.abc import Callable
from typing import Any

from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.utils import decode_dss_signature
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from tests.introducers import vectors

HostKey = Ed25519PrivateKey | ec.EllipticCurvePrivateKey
Claim = dict[str, Any]
ED25519 = Ed25519PrivateKey.from_private_bytes(bytes([0x11]) * 32)
ECDSA = ec.derive_private_key(0x22222222, ec.SECP256R1())
STOLEN = Ed25519PrivateKey.from_private_bytes(bytes([0x12]) * 32)  # another machine's, known by its public half only
POSSESSION, CLAIM = b"handfast/1 ssh host key", b"handfast/1 ssh host keys"
NAMESPACE = b"hostkeys@handfast"


def spelled(*fields: bytes) -> bytes:
    """SHA-256 over every field after its length, four bytes big-endian."""
    return hashlib.sha256(b"".join(map(string, fields))).digest()


def string(data: bytes) -> bytes:
    """An SSH string (RFC 4251 §5), which is a field of ours."""
    return len(data).to_bytes(4, "big") + data


def mpint(number: int) -> bytes:
    """A positive SSH number (RFC 4251 §5)."""
    return string(number.to_bytes(number.bit_length() // 8 + 1, "big"))


def blob(key: HostKey) -> bytes:
    """The public key in its wire form."""
    if isinstance(key, Ed25519PrivateKey):
        return string(b"ssh-ed25519") + string(key.public_key().public_bytes_raw())
    point = key.public_key().public_bytes(Encoding.X962, PublicFormat.UncompressedPoint)
    return string(b"ecdsa-sha2-nistp256") + string(b"nistp256") + string(point)


def line(key: HostKey) -> str:
    """The public key as it stands in files."""
    return key.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode()


def sshsig(key: HostKey, message: bytes, namespace: bytes) -> bytes:
    """PROTOCOL.sshsig, without armor; the same each time."""
    hashed = hashlib.sha512(message).digest()
    signed = b"SSHSIG" + string(namespace) + string(b"") + string(b"sha512") + string(hashed)
    if isinstance(key, Ed25519PrivateKey):
        made = string(b"ssh-ed25519") + string(key.sign(signed))
    else:
        r, s = decode_dss_signature(key.sign(signed, ec.ECDSA(hashes.SHA256(), deterministic_signing=True)))
        made = string(b"ecdsa-sha2-nistp256") + string(mpint(r) + mpint(s))
    head = b"SSHSIG" + (1).to_bytes(4, "big") + string(blob(key)) + string(namespace)
    return head + string(b"") + string(b"sha512") + string(made)


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a newcomer claims; ``proof`` are fields of another request that its keys signed for."""

    keys: tuple[HostKey, ...] = (ED25519, ECDSA)
    ports: tuple[int, ...] = (22,)
    proof: dict[str, Any] = dataclasses.field(default_factory=dict)
    namespace: bytes = NAMESPACE
    signed: Callable[[Claim], Any] = lambda claim: claim  # changed before the request is signed
    sent: Callable[[Claim], Any] = lambda claim: claim  # and after


def claim(plan: Plan, *, method: str, pin: bytes, server_spki: bytes, fields: dict[str, Any]) -> Claim:
    """The claim of a plan, before anything is changed in it."""
    of = {"method": method, "pin": pin, "server_spki": server_spki} | fields | plan.proof
    message = spelled(
        POSSESSION,
        of["method"].encode(),
        of["pin"],
        of["server_spki"],
        of["newcomer_nonce"],
        of["nonce"],
        of["csr"],
    )
    proofs = [{"key": blob(key), "signature": sshsig(key, message, plan.namespace)} for key in plan.keys]
    return {"keys": proofs, "ports": list(plan.ports)}


def commitment(made: Claim | None) -> bytes:
    """What the request signs of its claim."""
    if not made:
        return b""
    ports = b"".join(port.to_bytes(4, "big") for port in made["ports"])
    return spelled(CLAIM, ports, *(part for each in made["keys"] for part in (each["key"], each["signature"])))


def found(plan: Plan, *, detail: str, how: str, place: vectors.FoundPlace | None, machine: str) -> vectors.FoundHost:
    """What has to be found of an honest plan."""
    keys = sorted({line(key) for key in plan.keys})
    return vectors.FoundHost(machine=machine, keys=keys, how=how, detail=detail, complete=True, place=place)


def _first(claimed: Claim, **changes: Any) -> Claim:
    return claimed | {"keys": [claimed["keys"][0] | changes, *claimed["keys"][1:]]}


def _moved(claimed: Claim) -> Claim:
    return _first(claimed, key=blob(STOLEN))


def _swapped(claimed: Claim) -> Claim:
    one, two = claimed["keys"]
    return claimed | {"keys": [one | {"signature": two["signature"]}, two | {"signature": one["signature"]}]}


_SECURITY_KEY = string(b"sk-ssh-ed25519@openssh.com") + string(bytes(32)) + string(b"ssh:")
_TOMORROW = string(b"ssh-mldsa-44@openssh.com") + string(bytes(1312))
_CERTIFICATE = string(b"ssh-ed25519-cert-v01@openssh.com") + string(bytes(32))
_ANOTHER_NONCE = {"newcomer_nonce": bytes([0x44]) * 32}

# name, what it shows, outcome, plan
PLANS: tuple[tuple[str, str, vectors.Outcome, Plan], ...] = (
    ("host-keys", "two host keys, each proved", "success", Plan()),
    ("host-key-twice", "one key twice is one key", "success", Plan(keys=(ED25519, ED25519))),
    ("host-ports", "ports other than 22", "success", Plan(ports=(2222, 22))),
    ("host-stripped", "a man in the middle takes the claim away", "evidence-rejected", Plan(sent=lambda _claim: None)),
    ("host-added", "a claim, well proved, that the request did not sign", "evidence-rejected",
     Plan(signed=lambda _claim: None)),
    ("host-key-taken-away", "one of the keys was taken away after signing", "evidence-rejected",
     Plan(sent=lambda claimed: claimed | {"keys": claimed["keys"][:1]})),
    ("host-keys-reordered", "the keys were put in another order after signing", "evidence-rejected",
     Plan(sent=lambda claimed: claimed | {"keys": claimed["keys"][::-1]})),
    ("host-port-changed", "the port was changed after signing", "evidence-rejected",
     Plan(sent=lambda claimed: claimed | {"ports": [2222]})),
    ("host-proof-of-another-request", "the proof was made for another request: replayed", "evidence-rejected",
     Plan(proof=_ANOTHER_NONCE)),
    ("host-proof-of-another-hello", "the proof was made for another nonce of the registrar", "evidence-rejected",
     Plan(proof={"nonce": bytes(56)})),
    ("host-proof-of-another-csr", "the proof was made for a request with another key", "evidence-rejected",
     Plan(proof={"csr": b"0\x00"})),
    ("host-proof-relayed", "the proof was made in a connection to another TLS key", "evidence-rejected",
     Plan(proof={"server_spki": bytes(32)})),
    ("host-proof-for-another-registrar", "the proof was made for another authority", "evidence-rejected",
     Plan(proof={"pin": bytes(32)})),
    ("host-proof-of-another-method", "the proof was made for another method", "evidence-rejected",
     Plan(proof={"method": "bucket"})),
    ("host-proof-of-another-namespace", "signed for another purpose, as `ssh-keygen -Y sign -n file`",
     "evidence-rejected", Plan(namespace=b"file")),
    ("host-proof-moved", "a proof that stands with another machine's key", "evidence-rejected", Plan(signed=_moved)),
    ("host-proofs-swapped", "each proof stands with the other key", "evidence-rejected", Plan(signed=_swapped)),
    ("host-proof-empty", "a key without a proof", "evidence-rejected",
     Plan(signed=lambda claimed: _first(claimed, signature=b""))),
    ("host-key-empty", "a proof without a key", "evidence-rejected",
     Plan(signed=lambda claimed: _first(claimed, key=b""))),
    ("host-key-of-tomorrow", "a type that we do not verify is not proved", "evidence-rejected",
     Plan(signed=lambda claimed: _first(claimed, key=_TOMORROW))),
    ("host-key-in-hardware", "nor is one in a token", "evidence-rejected",
     Plan(signed=lambda claimed: _first(claimed, key=_SECURITY_KEY))),
    ("host-certificate", "a certificate is no key", "evidence-rejected",
     Plan(signed=lambda claimed: _first(claimed, key=_CERTIFICATE))),
    ("host-no-keys", "a claim of nothing would retire every key", "malformed", Plan(keys=())),
    ("host-33-keys", "more keys than a machine may have", "malformed", Plan(keys=(ED25519,) * 33)),
    ("host-no-ports", "reached nowhere", "malformed", Plan(ports=())),
    ("host-port-0", "no port", "malformed", Plan(ports=(0,))),
    ("host-port-65536", "no port either", "malformed", Plan(ports=(65536,))),
    ("host-unknown-field", "one field more in the claim", "malformed",
     Plan(sent=lambda claimed: claimed | {"names": ["db.lan"]})),
    ("host-key-too-long", "longer than any key", "malformed",
     Plan(signed=lambda claimed: _first(claimed, key=bytes(16385)))),
)  # fmt: skip
