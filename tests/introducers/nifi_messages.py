"""What somebody may send to the registrar's half of NiFi's protocol, honest or not."""

from __future__ import annotations

import msgspec
from cryptography import x509 as pyca
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.asymmetric.types import CertificateIssuerPrivateKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding

from handfast.core.flow import Channel, Evidence, Finding
from handfast.core.secret import Secret
from handfast.introducers import nifi
from handfast.introducers.nifi import NifiIntroducer, SharedToken
from tests.introducers import stage
from tests.introducers.stage import (
    CA_KEY,
    MASTER,
    NEW_KEY,
    SHARED_TOKEN,
    Stage,
    node_request,
    pem,
)

ANY = NifiIntroducer(CA_KEY.public_key(), SharedToken(SHARED_TOKEN, any_name=True), MASTER)
RSA_KEY = rsa.generate_private_key(65537, 2048)
DER = node_request().public_bytes(Encoding.DER)
COMMON_NAME = b"\x55\x04\x03"


def shown(token: Secret, csr: str, *, key: CertificateIssuerPrivateKeyTypes = NEW_KEY) -> Evidence:
    """A message with any text for the request, and a tag that fits ``key``."""
    body = msgspec.json.encode(nifi.NifiRequest(hmac=nifi.tag(token, key.public_key()), csr=csr))
    return Evidence("nifi", body, Channel(stage.SERVER_SPKI))


def asked(request: pyca.CertificateSigningRequest, introducer: NifiIntroducer = ANY) -> Finding:
    """What is found for the holder of the shared token."""
    evidence = Evidence("nifi", nifi.encode_request(SHARED_TOKEN, request), Channel(stage.SERVER_SPKI))
    return introducer.verify(evidence, Stage())


def tlv(tag: int, content: bytes) -> bytes:
    """DER."""
    size = len(content)
    length = bytes([size]) if size < 128 else b"\x82" + size.to_bytes(2, "big")
    return bytes([tag]) + length + content


def encoded(subject: bytes) -> str:
    """A request with these bytes for its subject, signed by its key."""
    info = tlv(0x30, tlv(2, b"\0") + subject + stage.NEW_SPKI + tlv(0xA0, b""))
    algorithm = tlv(0x30, tlv(6, bytes.fromhex("2a8648ce3d040302")))
    signature = NEW_KEY.sign(info, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))
    return pem(tlv(0x30, info + algorithm + tlv(3, b"\0" + signature)))
