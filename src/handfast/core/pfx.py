"""
PKCS #12 stores (RFC 7292) as Java keeps them: many entries, and a key may have a password of its own.

Written, and read here, is what Java 17 and OpenSSL 3 make: PBES2 with PBKDF2-HMAC-SHA256 and
AES-256-CBC (RFC 8018), a MAC with HMAC-SHA256, DER. Keys are encrypted with their password, the MAC
and the certificates with the store's. cryptography writes neither two passwords nor two entries,
therefore the structures are declared here; its ciphers do the work. Older stores (BouncyCastle and
Java 8: RC2, triple DES, SHA-1, BER) are read by cryptography, as far as it goes: see ``_read_old``.

    PFX         version 3, data(AuthenticatedSafe), MAC over it
    AuthenticatedSafe   data(SafeContents: keys), encryptedData(SafeContents: certificates)
    key         EncryptedPrivateKeyInfo; friendlyName = alias, localKeyID
    certificate of a key   the same friendlyName and localKeyID; the rest of its chain has no attribute
    trusted     friendlyName = alias, and Oracle's trusted-key-usage: Java does not see it otherwise
"""

from __future__ import annotations

import hashlib
import hmac
import warnings
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass
from datetime import datetime
from itertools import count

from cryptography import x509
from cryptography.exceptions import UnsupportedAlgorithm
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import padding
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
    pkcs12,
)

from handfast.core import pfxder as der
from handfast.core.javaentry import (
    Entry,
    KeyEntry,
    TrustedEntry,
    checked,
    unique,
    utf16,
    wrong_key_password,
    wrong_password,
)
from handfast.core.pfxder import elements, parse, sequence_of, set_of, tlv
from handfast.core.secret import Secret
from handfast.errors import Malformed, Refused, UsageError

ITERATIONS = 10_000  # as Java 17; the passwords are random, 256 bits
_MOST_ITERATIONS = 5_000_000  # Java's own limit: the count is used before anything is verified
_INDEFINITE = b"\x80"  # BER's length, which BouncyCastle writes
_ELEMENTS_WITH_MAC = 3  # of a PFX
_BLOCK = 64  # of SHA-256 (RFC 7292 B.2 calls it v)


def write_pfx(
    entries: Sequence[Entry], *, password: Secret, created_at: datetime, random_bytes: Callable[[int], bytes]
) -> bytes:
    """
    Return a PKCS #12 store. Aliases are folded to lower case, as Java does.

    ``random_bytes`` gives so many fresh random bytes. *Not* checked: that a key belongs to its chain.

    :raises UsageError: an entry that ``javaentry.checked`` refuses, or a password that is empty or not
        printable ASCII, with which Java could not open the store.
    """
    _check_password(password)
    keys, certificates = _bags(checked(entries), created_at, random_bytes)
    algorithm, data = _encrypt(asn1.encode_der(sequence_of(certificates)), password, random_bytes)
    content = der.EncryptedContent(type=der.DATA, algorithm=algorithm, data=data)
    encrypted = tlv(der.EncryptedData(version=0, content=content))
    parts = [_data(sequence_of(keys)), der.ContentInfo(type=der.ENCRYPTED_DATA, content=encrypted)]
    safe = sequence_of(parts)
    salt = random_bytes(20)
    digest = _mac(asn1.encode_der(safe), password, salt, ITERATIONS)
    info = der.DigestInfo(algorithm=der.Hash(algorithm=der.SHA256, parameters=asn1.Null()), digest=digest)
    mac = der.MacData(mac=info, salt=salt, iterations=ITERATIONS)
    return asn1.encode_der(der.Pfx(version=3, safe=_data(safe), mac=mac))


def _bags(
    entries: Iterable[tuple[str, Entry]], created_at: datetime, random_bytes: Callable[[int], bytes]
) -> tuple[list[der.Bag], list[der.Bag | der.BareBag]]:
    """Return the bags of the keys and of the certificates."""
    keys: list[der.Bag] = []
    certificates: list[der.Bag | der.BareBag] = []
    above: dict[bytes, None] = {}  # each once, though many chains may share it
    for number, (alias, entry) in enumerate(entries):
        name = der.Attribute(type=der.FRIENDLY_NAME, values=set_of(der.bmp(alias)))
        if isinstance(entry, TrustedEntry):
            usage = der.Attribute(type=der.TRUSTED_KEY_USAGE, values=set_of(der.ANY_USAGE))
            certificates.append(_certificate(entry.certificate, name, usage))
            continue
        _check_password(entry.password)
        # any octets link a key to its certificate; from these Java reads the date of the entry too
        time = int(created_at.timestamp() * 1000) + number
        link = der.Attribute(type=der.LOCAL_KEY_ID, values=set_of(f"Time {time}".encode()))
        algorithm, data = _encrypt(entry.private_key.reveal(), entry.password, random_bytes)
        shrouded = tlv(der.EncryptedPrivateKeyInfo(algorithm=algorithm, data=data))
        keys.append(der.Bag(type=der.SHROUDED_KEY, value=shrouded, attributes=set_of(name, link)))
        certificates.append(_certificate(entry.chain[0], name, link))
        above |= dict.fromkeys(entry.chain[1:])
    return keys, certificates + [_certificate(one) for one in above]


def read_pfx(data: bytes, *, password: Secret, key_password: Secret | None = None) -> tuple[Entry, ...]:
    """
    Return the entries of a PKCS #12 store: keys, then trusted certificates.

    As in Java, a certificate is trusted if it says so itself (Oracle's trusted-key-usage), and a chain
    is joined by names. ``key_password`` None means the store's own. *Not* checked: that a key belongs
    to its certificate, or the signatures of a chain.

    :raises Refused: the store or the key password is wrong, the store was changed, or it is of an old
        kind that cannot be read.
    :raises Malformed: not PKCS #12, without a MAC, or with an entry that is neither a key nor an X.509 certificate.
    :raises UsageError: a password that is not UTF-8.
    """
    try:
        if data[1:2] == _INDEFINITE:
            # the library would open a store whose MAC was taken away, and take its word for how often to hash
            outer = der.ber_elements(data)
            if len(outer) != _ELEMENTS_WITH_MAC:
                raise _no_mac()
            _bounded(asn1.decode_der(der.MacData, outer[-1]).iterations)
            return _read_old(data, password)
        pfx = asn1.decode_der(der.Pfx, data)
        if pfx.version != 3 or pfx.safe.type != der.DATA:
            raise _malformed("it is not of version 3, or under a public key")
        if pfx.mac is None:
            raise _no_mac()
        rounds = _bounded(pfx.mac.iterations)
        if pfx.mac.mac.algorithm.algorithm != der.SHA256:
            return _read_old(data, password)
        safe = parse(bytes, pfx.safe.content)
        if not hmac.compare_digest(pfx.mac.mac.digest, _mac(safe, password, pfx.mac.salt, rounds)):
            raise wrong_password()
        parts = [_open(parse(der.ContentInfo, part), password) for part in elements(asn1.decode_der(asn1.TLV, safe))]
        if None in parts:
            return _read_old(data, password)
        items = [_item(bag) for part in parts if part is not None for bag in elements(part)]
        return unique(_entries(items, key_password or password))
    except ValueError:  # the decoder's, a certificate's or an alias's
        raise _malformed("its structure is not that of RFC 7292") from None


def _open(part: der.ContentInfo, password: Secret) -> asn1.TLV | None:
    """Return the SafeContents of one part, or None if it is encrypted in another way than ours."""
    if part.type == der.DATA:
        return asn1.decode_der(asn1.TLV, parse(bytes, part.content))
    if part.type != der.ENCRYPTED_DATA:
        raise _malformed(f"content of type {part.type.dotted_string}")
    try:
        content = parse(der.EncryptedData, part.content).content
    except ValueError:
        return None
    scheme = content.algorithm.parameters
    used = (
        content.algorithm.algorithm,
        scheme.derivation.algorithm,
        scheme.derivation.parameters.prf.algorithm,
        scheme.cipher.algorithm,
    )
    if used != (der.PBES2, der.PBKDF2, der.HMAC_SHA256, der.AES256_CBC):
        return None
    decrypt = _aes(scheme, password).decryptor()
    unpad = padding.PKCS7(128).unpadder()
    plain = unpad.update(decrypt.update(content.data) + decrypt.finalize()) + unpad.finalize()
    return asn1.decode_der(asn1.TLV, plain)


@dataclass(frozen=True, slots=True)
class _Item:
    """A bag: ``value`` is a certificate or an EncryptedPrivateKeyInfo (DER)."""

    is_key: bool
    value: bytes
    alias: str | None
    link: bytes | None
    trusted: bool


def _item(bag: asn1.TLV) -> _Item:
    values: dict[x509.ObjectIdentifier, list[asn1.TLV]] = {}
    parsed: der.Bag | der.BareBag
    try:
        parsed = parse(der.Bag, bag)
    except ValueError:
        parsed = parse(der.BareBag, bag)
    else:
        attributes = [parse(der.Attribute, one) for one in elements(parsed.attributes)]
        values = {one.type: elements(one.values) for one in attributes}
    is_key = parsed.type == der.SHROUDED_KEY
    if is_key:
        value = asn1.encode_der(parsed.value)
        _check_rounds(parsed.value)
    elif parsed.type == der.CERTIFICATE:
        value = _x509(parse(der.CertBag, parsed.value))
    else:
        raise _malformed(f"an entry of type {parsed.type.dotted_string}")
    name, link = values.get(der.FRIENDLY_NAME), values.get(der.LOCAL_KEY_ID)
    return _Item(
        is_key=is_key,
        value=value,
        alias=bytes(name[0].data).decode("utf-16-be").lower() if name else None,
        link=parse(bytes, link[0]) if link else None,
        trusted=der.TRUSTED_KEY_USAGE in values,
    )


def _check_rounds(shrouded: asn1.TLV) -> None:
    """Refuse a key that asks for more rounds than are bearable, if it is encrypted in our way."""
    try:
        rounds = parse(der.EncryptedPrivateKeyInfo, shrouded).algorithm.parameters.derivation.parameters.iterations
    except ValueError:
        return
    _bounded(rounds)


def _x509(bag: der.CertBag) -> bytes:
    if bag.type != der.X509:
        raise _malformed(f"a certificate of type {bag.type.dotted_string}")
    return bag.value


def _entries(items: Sequence[_Item], key_password: Secret) -> Iterator[Entry]:
    """Join keys with their certificates. Entries without a name are numbered, as in Java."""
    unnamed = map(str, count(1))
    certificates = [item for item in items if not item.is_key]
    pool = [item.value for item in certificates]
    for item in items:
        if item.is_key:
            alias = item.alias or next(unnamed)
            leaf = next((one.value for one in certificates if one.link == item.link is not None), None)
            if leaf is None:
                raise _malformed(f"the key {alias!r} has no certificate")
            yield KeyEntry(alias, _key(item.value, key_password, alias), _chain(leaf, pool), key_password)
    for item in certificates:
        if item.trusted:
            yield TrustedEntry(item.alias or next(unnamed), item.value)


def _key(shrouded: bytes, password: Secret, alias: str) -> Secret:
    try:
        key = load_der_private_key(shrouded, password.reveal())
    except UnsupportedAlgorithm:
        raise _malformed(f"the key {alias!r} is of a kind that is not supported") from None
    except ValueError:
        raise wrong_key_password(alias) from None
    return Secret(key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()))


def _chain(leaf: bytes, pool: Iterable[bytes]) -> tuple[bytes, ...]:
    """Return ``leaf`` and what of ``pool`` is above it, by name."""
    by_subject: dict[x509.Name, bytes] = {}
    for one in pool:
        by_subject.setdefault(x509.load_der_x509_certificate(one).subject, one)
    chain = [leaf]
    while True:
        last = x509.load_der_x509_certificate(chain[-1])
        above = by_subject.get(last.issuer)
        if above is None or above in chain or last.issuer == last.subject:
            return tuple(chain)
        chain.append(above)


def _read_old(data: bytes, password: Secret) -> tuple[Entry, ...]:
    """
    Read what cryptography reads: one key, and all passwords the same.

    It does not say which certificates are trusted: they all are in a store without a key, and none is
    beside one.
    """
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")  # that BER is on its way out: BouncyCastle's files stay
            store = pkcs12.load_pkcs12(data, password.reveal())
    except (ValueError, TypeError, UnsupportedAlgorithm):
        raise Refused(
            "an old PKCS #12 store that does not open: the password is wrong, or the store was changed, or its key "
            "has a password of its own",
            hint="check the password; if the key has one of its own, make the store again with Java 17 or later",
        ) from None
    others = [one.certificate.public_bytes(Encoding.DER) for one in store.additional_certs]
    if store.key is None:
        names = [_old_alias(one, number) for number, one in enumerate(store.additional_certs, start=1)]
        return unique(map(TrustedEntry, names, others))
    if store.cert is None:
        raise _malformed("the key has no certificate")
    key = Secret(store.key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()))
    leaf = store.cert.certificate.public_bytes(Encoding.DER)
    return (KeyEntry(_old_alias(store.cert, 1), key, _chain(leaf, others), password),)


def _old_alias(certificate: pkcs12.PKCS12Certificate, number: int) -> str:
    return (certificate.friendly_name or str(number).encode()).decode().lower()


def _mac(safe: bytes, password: Secret, salt: bytes, iterations: int) -> bytes:
    """HMAC with the key of RFC 7292 B.2, which is one block of SHA-256 and needs no more than its first round."""
    key = b"\x03" * _BLOCK + _fill(salt) + _fill(utf16(password) + b"\0\0")
    for _ in range(iterations):
        key = hashlib.sha256(key).digest()
    return hmac.digest(key, safe, "sha256")


def _fill(text: bytes) -> bytes:
    """Repeat ``text`` up to a multiple of a block."""
    size = -(-len(text) // _BLOCK) * _BLOCK
    return (text * _BLOCK)[:size]


def _encrypt(plain: bytes, password: Secret, random_bytes: Callable[[int], bytes]) -> tuple[der.Encryption, bytes]:
    prf = der.Hash(algorithm=der.HMAC_SHA256, parameters=asn1.Null())
    derivation = der.Derivation(salt=random_bytes(20), iterations=ITERATIONS, length=None, prf=prf)
    scheme = der.Scheme(
        derivation=der.DerivationAlgorithm(algorithm=der.PBKDF2, parameters=derivation),
        cipher=der.CipherAlgorithm(algorithm=der.AES256_CBC, iv=random_bytes(16)),
    )
    pad = padding.PKCS7(128).padder()
    encrypt = _aes(scheme, password).encryptor()
    data = encrypt.update(pad.update(plain) + pad.finalize()) + encrypt.finalize()
    return der.Encryption(algorithm=der.PBES2, parameters=scheme), data


def _aes(scheme: der.Scheme, password: Secret) -> Cipher[modes.CBC]:
    parameters = scheme.derivation.parameters
    rounds = _bounded(parameters.iterations)
    key = hashlib.pbkdf2_hmac("sha256", password.reveal(), parameters.salt, rounds, 32)
    return Cipher(algorithms.AES256(key), modes.CBC(scheme.cipher.iv))


def _bounded(iterations: int) -> int:
    if not 1 <= iterations <= _MOST_ITERATIONS:
        raise _malformed(f"{iterations} iterations")
    return iterations


def _check_password(password: Secret) -> None:
    text = password.reveal()
    if not (text and text.isascii() and text.decode().isprintable()):
        raise UsageError(
            "Java opens a PKCS #12 store by a password of printable ASCII only",
            hint="choose another password, or have one made",
        )


def _certificate(certificate: bytes, *attributes: der.Attribute) -> der.Bag | der.BareBag:
    value = tlv(der.CertBag(type=der.X509, value=certificate))
    if not attributes:
        return der.BareBag(type=der.CERTIFICATE, value=value)
    return der.Bag(type=der.CERTIFICATE, value=value, attributes=set_of(*attributes))


def _data(content: asn1.TLV) -> der.ContentInfo:
    return der.ContentInfo(type=der.DATA, content=tlv(asn1.encode_der(content)))


def _no_mac() -> Malformed:
    return _malformed("it has no integrity check, so that anybody may have put certificates into it")


def _malformed(what: str) -> Malformed:
    return Malformed(f"not a PKCS #12 store that can be read: {what}", hint="check which file this is and who made it")
