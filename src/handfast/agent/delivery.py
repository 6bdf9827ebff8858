"""
A key that somebody else has made, as SteamCannon delivered it: the seed's steps 4, 6 and 7.

Off unless the agent was started with --legacy. Whoever made the key may have kept it, and it went to whoever answered
first. What can be checked is checked before it is shown: a pair, a chain to our root, our role and name, valid now.
The first renewal is for a key of the machine's own.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, load_pem_private_key

from handfast.core.chain import MAX_CERTIFICATES, Identity, load_certificate, verify_chain
from handfast.core.instancedata import InstanceData
from handfast.core.keys import UNREADABLE, spki
from handfast.core.roles import Role
from handfast.errors import Malformed, UntrustedPeer

MAX_PEM = 64 * 1024  # characters


@dataclass(frozen=True, slots=True)
class Delivered:
    """A key and its certificates, leaf first, that fit this instance."""

    key: ec.EllipticCurvePrivateKey
    chain: tuple[x509.Certificate, ...]
    identity: Identity


def taken(certificate: str, keypair: str, data: InstanceData, *, at: datetime) -> Delivered:
    """
    Return what was delivered (PEM, the key in PKCS #8), if it is for this instance and valid ``at`` that time.

    *Not* checked: who else has the key, which nobody can.

    :raises Malformed: no certificate, or no key on a curve. :raises UntrustedPeer: not a pair, or not ours.
    """
    if len(certificate) > MAX_PEM or len(keypair) > MAX_PEM:
        raise Malformed(f"a certificate or key of over {MAX_PEM} characters", hint="the chain without its root will do")
    try:
        found = x509.load_pem_x509_certificates(certificate.encode())[:MAX_CERTIFICATES]
    except (*UNREADABLE, UnicodeEncodeError) as error:
        raise Malformed(f"not a certificate: {str(error)[:120]!r}", hint="PEM, leaf first") from None
    try:
        key = load_pem_private_key(keypair.encode(), password=None)
    except Exception:  # noqa: BLE001  the library raises many kinds, and what it says could be of the key
        raise Malformed("not a private key in PEM, without a passphrase", hint="PKCS #8") from None
    if not isinstance(key, ec.EllipticCurvePrivateKey) or not isinstance(key.curve, ec.SECP256R1):
        raise Malformed(
            "not a key on the curve P-256", hint="openssl genpkey -algorithm EC -pkeyopt ec_paramgen_curve:P-256"
        )
    chain = [load_certificate(each.public_bytes(Encoding.DER)) for each in found]
    if spki(key.public_key()) != spki(chain[0].public_key()):
        raise UntrustedPeer("the certificate and the key that were delivered are no pair")
    identity = verify_chain(chain[0], chain[1:], [data.root], pin=data.line.pin, role=Role.AGENT, at=at)
    if identity.machine != data.instance:
        raise UntrustedPeer(f"what was delivered is for {identity.machine!r}, and this is {data.instance!r}")
    return Delivered(key, tuple(chain), identity)
