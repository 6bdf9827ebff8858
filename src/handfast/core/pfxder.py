"""
The structures of PKCS #12 (RFC 7292) and of PBES2 (RFC 8018) as far as ``core.pfx`` uses them.

Encryption is declared as the one kind that is written; any other does not decode.
"""

from __future__ import annotations

from collections.abc import Iterable
from itertools import pairwise
from typing import Annotated, TypeVar

from cryptography import x509
from cryptography.hazmat import asn1

T = TypeVar("T")
OID = x509.ObjectIdentifier
DATA, ENCRYPTED_DATA = OID("1.2.840.113549.1.7.1"), OID("1.2.840.113549.1.7.6")
SHROUDED_KEY, CERTIFICATE = OID("1.2.840.113549.1.12.10.1.2"), OID("1.2.840.113549.1.12.10.1.3")
X509 = OID("1.2.840.113549.1.9.22.1")
FRIENDLY_NAME, LOCAL_KEY_ID = OID("1.2.840.113549.1.9.20"), OID("1.2.840.113549.1.9.21")
TRUSTED_KEY_USAGE, ANY_USAGE = OID("2.16.840.1.113894.746875.1.1"), OID("2.5.29.37.0")
PBES2, PBKDF2 = OID("1.2.840.113549.1.5.13"), OID("1.2.840.113549.1.5.12")
HMAC_SHA256, AES256_CBC = OID("1.2.840.113549.2.9"), OID("2.16.840.1.101.3.4.1.42")
SHA256 = OID("2.16.840.1.101.3.4.2.1")


@asn1.sequence
class Hash:
    """AlgorithmIdentifier of a hash, or of the HMAC in PBKDF2."""

    algorithm: OID
    parameters: asn1.Null | None


@asn1.sequence
class DigestInfo:
    """RFC 7292 §4: the MAC."""

    algorithm: Hash
    digest: bytes


@asn1.sequence
class MacData:
    """RFC 7292 §4."""

    mac: DigestInfo
    salt: bytes
    iterations: Annotated[int, asn1.Default(1)]


@asn1.sequence
class ContentInfo:
    """RFC 7292 §4, from PKCS #7."""

    type: OID
    content: Annotated[asn1.TLV, asn1.Explicit(0)]


@asn1.sequence
class Pfx:
    """RFC 7292 §4: the whole store."""

    version: int
    safe: ContentInfo
    mac: MacData | None


@asn1.sequence
class Derivation:
    """RFC 8018 A.2: PBKDF2-params; the default PRF is HMAC-SHA1, so ours is always there."""

    salt: bytes
    iterations: int
    length: int | None
    prf: Hash


@asn1.sequence
class DerivationAlgorithm:
    """RFC 8018 A.4: keyDerivationFunc."""

    algorithm: OID
    parameters: Derivation


@asn1.sequence
class CipherAlgorithm:
    """RFC 8018 B.2.5: AES-CBC-Pad."""

    algorithm: OID
    iv: bytes


@asn1.sequence
class Scheme:
    """RFC 8018 A.4: PBES2-params."""

    derivation: DerivationAlgorithm
    cipher: CipherAlgorithm


@asn1.sequence
class Encryption:
    """AlgorithmIdentifier of PBES2."""

    algorithm: OID
    parameters: Scheme


@asn1.sequence
class EncryptedPrivateKeyInfo:
    """RFC 5208 §6."""

    algorithm: Encryption
    data: bytes


@asn1.sequence
class EncryptedContent:
    """RFC 2315 §10.1: EncryptedContentInfo."""

    type: OID
    algorithm: Encryption
    data: Annotated[bytes, asn1.Implicit(0)]


@asn1.sequence
class EncryptedData:
    """RFC 2315 §13."""

    version: int
    content: EncryptedContent


@asn1.sequence
class BareBag:
    """RFC 7292 §4.2: SafeBag without attributes."""

    type: OID
    value: Annotated[asn1.TLV, asn1.Explicit(0)]


@asn1.sequence
class Bag:
    """RFC 7292 §4.2: SafeBag; the attributes are a SET OF ``Attribute``."""

    type: OID
    value: Annotated[asn1.TLV, asn1.Explicit(0)]
    attributes: asn1.TLV


@asn1.sequence
class Attribute:
    """RFC 7292 §4.2: PKCS12Attribute; the values are a SET OF."""

    type: OID
    values: asn1.TLV


@asn1.sequence
class CertBag:
    """RFC 7292 §4.2.3."""

    type: OID
    value: Annotated[bytes, asn1.Explicit(0)]


@asn1.sequence
class Anything:
    """A SEQUENCE of one element of any type."""

    value: asn1.TLV


@asn1.sequence
class Many:
    """A SEQUENCE of one SEQUENCE OF."""

    items: list[asn1.TLV]


def bmp(text: str) -> asn1.TLV:
    """Return a BMPString, for which asn1 has no type: an OCTET STRING with another tag."""
    return asn1.decode_der(asn1.TLV, b"\x1e" + asn1.encode_der(text.encode("utf-16-be"))[1:])


def tlv(value: object) -> asn1.TLV:
    """Return ``value`` encoded, for a field that holds anything."""
    return asn1.decode_der(asn1.TLV, asn1.encode_der(value))


def parse(kind: type[T], value: asn1.TLV) -> T:
    """Return what such a field holds. :raises ValueError: it is not a ``kind``."""
    return asn1.decode_der(kind, asn1.encode_der(value))


def sequence_of(values: Iterable[object]) -> asn1.TLV:
    """Return a SEQUENCE OF, which asn1 encodes only inside of another type."""
    many = Many(items=[tlv(value) for value in values])
    return asn1.decode_der(Anything, asn1.encode_der(many)).value


def set_of(*values: object) -> asn1.TLV:
    """Return a SET OF in DER's order."""
    ordered = sorted(map(asn1.encode_der, values))
    sequence = sequence_of(asn1.decode_der(asn1.TLV, value) for value in ordered)
    return asn1.decode_der(asn1.TLV, b"\x31" + asn1.encode_der(sequence)[1:])


def elements(value: asn1.TLV) -> list[asn1.TLV]:
    """
    Return the elements of a SEQUENCE OF, or of a SET OF in any order: Java does not sort, and asn1's SetOf insists.

    :raises ValueError: it is neither.
    """
    if value.tag_bytes not in (b"\x30", b"\x31"):
        raise ValueError("neither a SEQUENCE nor a SET")
    sequence = asn1.decode_der(asn1.TLV, b"\x30" + asn1.encode_der(value)[1:])
    return asn1.decode_der(Many, asn1.encode_der(Anything(value=sequence))).items


def ber_elements(data: bytes) -> list[bytes]:
    """
    Return the elements of a BER SEQUENCE of indefinite length (X.690 §8.1.3.6), encoded. Their content is skipped.

    :raises ValueError: it is not well-formed to its end, or has a tag over 30, which nothing in PKCS #12 has.
    """
    at, depth = 2, 1
    begins: list[int] = []
    while depth:
        if at + 2 > len(data) or data[at] & 0x1F == 0x1F:
            raise ValueError("not well-formed")
        tag, size = data[at : at + 2]
        if depth == 1:
            begins.append(at)
        at += 2
        if tag == size == 0:
            depth -= 1
            continue
        if size == 0x80:
            depth += 1
            continue
        if size > 0x80:
            length = size - 0x80
            size = int.from_bytes(data[at : at + length])
            at += length
        at += size
    if at != len(data):
        raise ValueError("bytes after the end")
    return [data[begin:end] for begin, end in pairwise(begins)]  # the last is the end's mark
