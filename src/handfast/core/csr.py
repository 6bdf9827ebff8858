"""
Certification requests (PKCS#10, RFC 2986): the newcomer's public key and proof that it has the private one.

Nothing else is taken from a request. The names, the role and the lifetime come from the grant, so
every attribute and extension is refused by name instead of being dropped in silence, and a
common name, which ``openssl req`` insists on, is the one thing that is read and ignored.
"""

from __future__ import annotations

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.serialization import Encoding
from cryptography.x509.oid import AttributeOID, NameOID

from handfast.core import keys
from handfast.errors import EvidenceRejected, Malformed, TooMuch

MAX_CSR = 16 * 1024  # bytes; a request with an RSA 8192 key takes 2.3 KiB
_HASHES = (hashes.SHA256, hashes.SHA384, hashes.SHA512)
_CN = NameOID.COMMON_NAME
_EXTENSION_REQUEST = x509.ObjectIdentifier("1.2.840.113549.1.9.14")  # PKCS #9; its content is listed one by one
_ATTRIBUTES = {
    AttributeOID.CHALLENGE_PASSWORD: "challengePassword",
    AttributeOID.UNSTRUCTURED_NAME: "unstructuredName",
}
_HINT = "send a request with a key and nothing else: names and usages come from the invitation"


def proven(request: x509.CertificateSigningRequest) -> keys.LeafPublicKey:
    """
    Return the key of a request that its private key signed. *Not* checked: everything else in it.

    :raises Malformed: a weak key, or a signature that is not with SHA-2.
    :raises EvidenceRejected: its signature was not made by its key.
    """
    try:
        key = request.public_key()
    except keys.UNREADABLE as error:
        raise Malformed(f"not a certification request: {str(error)[:120]!r}", hint=_HINT) from None
    strong = keys.check_strength(key)
    _verify(request)
    return strong


def read(der: bytes) -> keys.LeafPublicKey:
    """
    Return the public key of a request whose sender proved that it holds the private key.

    The subject may be empty or one common name, which is ignored. *Not* checked: freshness. A request can be
    replayed by whoever saw it, so the caller binds its hash into a transcript.

    :raises TooMuch: longer than ``MAX_CSR`` bytes.
    :raises Malformed: not exactly one DER request, a weak key, any attribute, extension or name beyond the above.
    :raises EvidenceRejected: its signature was not made by its key.
    """
    if len(der) > MAX_CSR:
        raise TooMuch(f"a request of {len(der)} bytes, at most {MAX_CSR} are read", hint=_HINT)
    try:
        csr = x509.load_der_x509_csr(der)
        foreign = _foreign(csr)
    except keys.UNREADABLE as error:
        raise Malformed(f"not a certification request: {str(error)[:120]!r}", hint=_HINT) from None
    if foreign:
        raise Malformed("the certification request asks for " + ", ".join(foreign), hint=_HINT)
    return proven(csr)


def build(private_key: keys.LeafPrivateKey, common_name: str = "") -> bytes:
    """
    Return a DER request for ``private_key``, signed with it.

    ``common_name`` only helps people who look at the request; at most 64 characters.
    """
    attributes = [x509.NameAttribute(_CN, common_name)] if common_name else []
    builder = x509.CertificateSigningRequestBuilder(x509.Name(attributes))
    return builder.sign(private_key, keys.signature_hash(private_key)).public_bytes(Encoding.DER)


def _verify(csr: x509.CertificateSigningRequest) -> None:
    try:
        algorithm = csr.signature_hash_algorithm
        valid = csr.is_signature_valid
    except keys.UNREADABLE:
        algorithm, valid = None, False
    if not isinstance(algorithm, _HASHES):
        name = algorithm.name if algorithm else csr.signature_algorithm_oid.dotted_string
        raise Malformed(f"a request signed with {name!r}", hint="sign it with SHA-256, SHA-384 or SHA-512")
    if not valid:
        raise EvidenceRejected("the request was not signed by the key in it", hint="make the request anew")


def _foreign(csr: x509.CertificateSigningRequest) -> list[str]:
    """Return everything in the request that we would have to copy or drop, each by name and OID."""
    subject = list(csr.subject)
    found = [f"subject {a.rfc4514_attribute_name} ({a.oid.dotted_string})" for a in subject if a.oid != _CN]
    if not found and len(subject) > 1:
        found.append(f"{len(subject)} common names")
    found += [f"extension {type(e.value).__name__} ({e.oid.dotted_string})" for e in csr.extensions]
    found += [
        f"attribute {_ATTRIBUTES.get(a.oid, 'unknown')} ({a.oid.dotted_string})"
        for a in csr.attributes
        if a.oid != _EXTENSION_REQUEST
    ]
    return found[:8] + ([f"{len(found) - 8} more"] if len(found) > 8 else [])
