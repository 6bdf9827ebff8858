"""
Layouts: the file names and formats in which different programs want one and the same credential.

A layout is a function from what was received to file contents. It writes nothing, and it decides
nothing about modes or owners: the key store does that for all of them alike.

Keys are PKCS #8 in PEM ("BEGIN PRIVATE KEY"), unencrypted unless the format has no such form: a
service must be able to start without a person.
"""

from __future__ import annotations

import os
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    KeySerializationEncryption,
    NoEncryption,
    PrivateFormat,
    pkcs12,
)

from handfast.core.javaentry import KeyEntry, TrustedEntry
from handfast.core.jks import write_jks
from handfast.core.secret import Secret
from handfast.errors import UsageError
from handfast.newcomer.pending import key_pem

KEY_ALIAS = "handfast"
PASSWORD_FILE = "store-password"


@dataclass(frozen=True, slots=True)
class Material:
    """
    What a newcomer holds after a join or a renewal. Certificates are DER.

    ``chain`` is what lies between leaf and root, the leaf's issuer first; ``trust`` is the roots.
    ``identity`` becomes ``identity.json`` and holds no secret.
    """

    leaf: bytes
    chain: tuple[bytes, ...]
    trust: tuple[bytes, ...]
    private_key: ec.EllipticCurvePrivateKey
    reintroduction_key: ed25519.Ed25519PrivateKey
    identity: Mapping[str, object] = field(default_factory=dict)

    @property
    def certificate(self) -> x509.Certificate:
        """The leaf, parsed."""
        return x509.load_der_x509_certificate(self.leaf)


@dataclass(frozen=True, slots=True)
class Place:
    """Where the files will be seen (an absolute path), and the password for formats that need one."""

    directory: Path
    password: Secret


Layout = Callable[[Material, Place], dict[str, bytes]]


def render(names: Iterable[str], material: Material, place: Place) -> dict[str, bytes]:
    """
    Return the files of all named layouts, and of ``pem``, which is always among them.

    :raises UsageError: an unknown layout, or a directory whose path a layout cannot express.
    """
    files: dict[str, bytes] = {}
    for name in layout_names(names):
        files |= LAYOUTS[name](material, place)
    return files


def layout_names(names: Iterable[str]) -> tuple[str, ...]:
    """Return ``pem`` and the given layouts, each once. :raises UsageError: an unknown one."""
    unique = tuple(dict.fromkeys(("pem", *names)))
    for name in unique:
        if name not in LAYOUTS:
            raise UsageError(f"unknown layout {name!r}", hint=f"known layouts: {', '.join(LAYOUTS)}")
    return unique


def pem(material: Material, place: Place) -> dict[str, bytes]:
    """certbot's names, and the roots as ``trust.pem``."""
    return {
        "cert.pem": _pem(material.leaf),
        "chain.pem": _pem(*material.chain),
        "fullchain.pem": _full_chain(material),
        "privkey.pem": key_pem(material.private_key),
        "trust.pem": _pem(*material.trust),
    }


def kubernetes(material: Material, place: Place) -> dict[str, bytes]:
    """The keys of a ``kubernetes.io/tls`` secret; ``ca.crt`` as cert-manager adds it."""
    return {"tls.crt": _full_chain(material), "tls.key": key_pem(material.private_key), "ca.crt": _pem(*material.trust)}


def postgresql(material: Material, place: Place) -> dict[str, bytes]:
    """PostgreSQL's default names: ``server.*`` for the server, ``postgresql.*`` for libpq, ``root.crt`` for both."""
    chain, key = _full_chain(material), key_pem(material.private_key)
    return {
        "server.crt": chain,
        "server.key": key,
        "postgresql.crt": chain,
        "postgresql.key": key,
        "root.crt": _pem(*material.trust),
    }


def nginx(material: Material, place: Place) -> dict[str, bytes]:
    """
    A file to include in a ``server`` block: our certificate, and only clients with one of ours.

    It refers to the files of ``pem``.

    :raises UsageError: a path that means something else inside nginx quotes.
    """
    directory = str(place.directory)
    if not directory.isprintable() or any(character in directory for character in '"\\$'):
        raise UsageError(f"nginx cannot be told the path {directory!r}", hint="use one without quotes, '\\' or '$'")
    lines = [
        "# include this file inside a server { } block; any certificate under trust.pem is let in:",
        "# check $ssl_client_s_dn or the SAN where it matters who it is",
        f'ssl_certificate "{directory}/fullchain.pem";',
        f'ssl_certificate_key "{directory}/privkey.pem";',
        f'ssl_client_certificate "{directory}/trust.pem";',
        "ssl_verify_client on;",
        "ssl_verify_depth 2;",
        "ssl_protocols TLSv1.3;",
    ]
    return {"handfast-nginx.conf": "\n".join([*lines, ""]).encode()}


def spiffe(material: Material, place: Place) -> dict[str, bytes]:
    """spiffe-helper's default names."""
    return {
        "svid.pem": _full_chain(material),
        "svid_key.pem": key_pem(material.private_key),
        "svid_bundle.pem": _pem(*material.trust),
    }


def pkcs_12(material: Material, place: Place) -> dict[str, bytes]:
    """
    PKCS #12 stores (RFC 7292) with AES-256 and SHA-256, as Java 17 makes them itself.

    The trust store marks its entries with Oracle's trusted-key-usage attribute: Java sees a plain
    PKCS #12 file with certificates only as empty.
    """
    return {
        "keystore.p12": pkcs12.serialize_key_and_certificates(
            KEY_ALIAS.encode(),
            material.private_key,
            material.certificate,
            _certificates(material.chain),
            _encryption(place.password),
        ),
        "truststore.p12": pkcs12.serialize_java_truststore(
            [
                pkcs12.PKCS12Certificate(certificate, _trust_alias(number).encode())
                for number, certificate in enumerate(_certificates(material.trust))
            ],
            _encryption(place.password),
        ),
        PASSWORD_FILE: place.password.reveal() + b"\n",
    }


def jks(material: Material, place: Place) -> dict[str, bytes]:
    """JKS stores, for software that cannot read PKCS #12. Weak: see ``handfast.core.jks``."""
    created_at = material.certificate.not_valid_before_utc
    key = Secret(material.private_key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption()))
    own = KeyEntry(KEY_ALIAS, key, (material.leaf, *material.chain), place.password)
    trusted = [TrustedEntry(_trust_alias(number), root) for number, root in enumerate(material.trust)]
    return {
        "keystore.jks": write_jks([own], password=place.password, created_at=created_at, random_bytes=os.urandom),
        "truststore.jks": write_jks(trusted, password=place.password, created_at=created_at, random_bytes=os.urandom),
        PASSWORD_FILE: place.password.reveal() + b"\n",
    }


LAYOUTS: Mapping[str, Layout] = {
    "pem": pem,
    "kubernetes": kubernetes,
    "postgresql": postgresql,
    "nginx": nginx,
    "spiffe": spiffe,
    "pkcs12": pkcs_12,
    "jks": jks,
}


def _pem(*certificates: bytes) -> bytes:
    return b"".join(certificate.public_bytes(Encoding.PEM) for certificate in _certificates(certificates))


def _full_chain(material: Material) -> bytes:
    return _pem(material.leaf, *material.chain)


def _certificates(ders: Iterable[bytes]) -> list[x509.Certificate]:
    return [x509.load_der_x509_certificate(der) for der in ders]


def _trust_alias(number: int) -> str:
    return f"{KEY_ALIAS}-root-{number + 1}"


def _encryption(password: Secret) -> KeySerializationEncryption:
    # what Java 17 writes itself; older Javas need JKS, not a weaker PKCS #12
    return (
        PrivateFormat.PKCS12.encryption_builder()
        .key_cert_algorithm(pkcs12.PBES.PBESv2SHA256AndAES256CBC)
        .hmac_hash(hashes.SHA256())
        .build(password.reveal())
    )
