"""
Which files a node of NiFi gets, under which names and aliases, with which passwords.

    keystore.jks | keystore.pkcs12   nifi-key: the key, its certificate, the CA's
    truststore.jks                   nifi-cert: the CA's certificate
    nifi-chain.pem                   the node's certificate, then the CA's
    nifi-key.pem                     the key, PKCS #8, in the clear
    nifi-cert.pem                    the CA's certificate

The PEM files are ours: the same credential for whatever reads no Java store, such as NiFi 2. They lie beside stores
whose passwords lie beside them, so that the key in the clear gives nothing away that its directory did not.

Bytes in, bytes out: writing is for those who call.
"""

from __future__ import annotations

import re
import secrets
from base64 import b64encode
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_der_private_key,
)

from handfast.core import javastore
from handfast.core.javastore import Entry, KeyEntry, StoreType, TrustedEntry
from handfast.core.keys import UNREADABLE, LeafPrivateKey
from handfast.core.secret import Secret
from handfast.errors import Malformed

KEY_ALIAS = "nifi-key"
CERT_ALIAS = "nifi-cert"
CHAIN_PEM, KEY_PEM, CERT_PEM = "nifi-chain.pem", "nifi-key.pem", "nifi-cert.pem"
_PASSWORD_BYTES = 32
_NOT_IN_FILENAMES = re.compile(r"[^A-Za-z0-9_.\-=]+")


@dataclass(frozen=True, slots=True)
class Passwords:
    """The passwords of one node: UTF-8, one of them often for two things."""

    keystore: Secret
    key: Secret
    truststore: Secret

    @classmethod
    def complete(
        cls,
        keystore: Secret | None = None,
        key: Secret | None = None,
        truststore: Secret | None = None,
        *,
        different_key: bool = False,
    ) -> Passwords:
        """Make those that are missing; the key's is then the store's unless ``different_key``."""
        chosen = keystore or new_password()
        return cls(chosen, key or (new_password() if different_key else chosen), truststore or new_password())


@dataclass(frozen=True, slots=True)
class NodeCredential:
    """A node's key, its certificate, and that of the CA which issued it."""

    key: LeafPrivateKey
    leaf: x509.Certificate
    ca: x509.Certificate


def new_password() -> Secret:
    """Return a random password as the toolkit makes them: 256 bits as 43 characters of base64."""
    return Secret(b64encode(secrets.token_bytes(_PASSWORD_BYTES)).rstrip(b"="))


def is_password(password: Secret) -> bool:
    """Whether Java could use this as a password: text, and not empty."""
    try:
        return bool(password.reveal().decode())
    except UnicodeDecodeError:
        return False


def keystore(
    credential: NodeCredential,
    kind: StoreType,
    passwords: Passwords,
    *,
    created_at: datetime,
    others: Iterable[Entry] = (),
) -> bytes:
    """
    Return a node's key store. ``others`` are entries to keep of the one it replaces.

    *Not* checked: that the key belongs to the certificate, and that the CA issued it.

    :raises UsageError: a password or an alias that Java could not use.
    """
    entry = _key_entry(credential.key, (credential.leaf, credential.ca), passwords.key)
    return _store(entry, kind, passwords.keystore, created_at=created_at, others=others)


def ca_keystore(
    key: LeafPrivateKey, ca: x509.Certificate, kind: StoreType, passwords: Passwords, *, created_at: datetime
) -> bytes:
    """Return the key store of a toolkit's CA server: the chain is the CA alone. :raises UsageError: as ``keystore``."""
    return _store(_key_entry(key, (ca,), passwords.key), kind, passwords.keystore, created_at=created_at)


def truststore(
    ca: x509.Certificate, kind: StoreType, password: Secret, *, created_at: datetime, others: Iterable[Entry] = ()
) -> bytes:
    """Return a node's trust store. :raises UsageError: as ``keystore``."""
    entry = TrustedEntry(CERT_ALIAS, ca.public_bytes(Encoding.DER))
    return _store(entry, kind, password, created_at=created_at, others=others)


def pem_files(credential: NodeCredential) -> dict[str, bytes]:
    """Return the PEM files that lie beside the stores, by name; the key is in the clear."""
    return {
        CHAIN_PEM: certificate_pem(credential.leaf, credential.ca),
        KEY_PEM: key_pem(credential.key),
        CERT_PEM: certificate_pem(credential.ca),
    }


def certificate_pem(*certificates: x509.Certificate) -> bytes:
    """Return certificates in PEM, one after the other."""
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in certificates)


def key_pem(key: LeafPrivateKey) -> bytes:
    """Return a key as PKCS #8 in PEM, in the clear."""
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())


def find_key(entries: Iterable[Entry]) -> tuple[LeafPrivateKey, tuple[x509.Certificate, ...]] | None:
    """
    Return the key and the chain under ``nifi-key`` of a store that was read; None if there is none.

    :raises Malformed: another kind of key, an unreadable certificate, or a key that is not its certificate's.
    """
    entry = next((entry for entry in entries if entry.alias == KEY_ALIAS), None)
    if entry is None:
        return None
    if not isinstance(entry, KeyEntry) or not entry.chain:
        raise Malformed(f"{KEY_ALIAS!r} in the store is no key with a certificate", hint="check which store this is")
    try:
        key = load_der_private_key(entry.private_key.reveal(), password=None)
        chain = tuple(map(x509.load_der_x509_certificate, entry.chain))
        matches = chain[0].public_key() == key.public_key()
    except UNREADABLE as error:
        # The library's message is of the outer form only, never of key material.
        raise Malformed(f"cannot read {KEY_ALIAS!r} in the store: {str(error)[:80]!r}") from None
    if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey):
        raise Malformed(f"{KEY_ALIAS!r} in the store is neither an RSA nor an EC key", hint="make a new one")
    if not matches:
        raise Malformed(f"the key {KEY_ALIAS!r} in the store is not its certificate's", hint="make a new store")
    return key, chain


def escape_filename(text: str) -> str:
    """Return ``text`` as the toolkit makes file names of aliases and subjects: ``CN=a, OU=b`` is ``CN=a_OU=b``."""
    return _NOT_IN_FILENAMES.sub("_", text)


def _key_entry(key: LeafPrivateKey, chain: tuple[x509.Certificate, ...], password: Secret) -> KeyEntry:
    der = Secret(key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()))
    return KeyEntry(KEY_ALIAS, der, tuple(link.public_bytes(Encoding.DER) for link in chain), password)


def _store(
    entry: Entry, kind: StoreType, password: Secret, *, created_at: datetime, others: Iterable[Entry] = ()
) -> bytes:
    kept = [other for other in others if other.alias != entry.alias]
    return javastore.write(
        [entry, *kept], kind, password=password, created_at=created_at, random_bytes=secrets.token_bytes
    )
