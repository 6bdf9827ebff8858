"""
Private keys at rest: PKCS#8 in PEM, plain or encrypted with PBES2 and scrypt (RFC 8018, RFC 7914).

cryptography reads scrypt but writes only PBKDF2 with 2048 rounds, which a graphics card tries a million times a
second. So the envelope is made here, of cryptography's own scrypt, AES and DER; it and OpenSSL read it.
"""

from __future__ import annotations

import base64
import os

from cryptography import x509
from cryptography.hazmat import asn1
from cryptography.hazmat.primitives import padding
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.ciphers import Cipher, algorithms, modes
from cryptography.hazmat.primitives.kdf.scrypt import Scrypt
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from handfast.core.secret import Secret

# 16 MiB and about 0.2 s; one of the equivalent settings OWASP recommends. One with more memory (N=2^17, p=1) is
# refused by the openssl command, whose limit is 32 MiB, and the owner of a key must be able to read it without us.
SCRYPT_N, SCRYPT_R, SCRYPT_P = 2**14, 8, 5
_PBES2 = x509.ObjectIdentifier("1.2.840.113549.1.5.13")
_SCRYPT = x509.ObjectIdentifier("1.3.6.1.4.1.11591.4.11")
_AES256_CBC = x509.ObjectIdentifier("2.16.840.1.101.3.4.1.42")


@asn1.sequence
class _ScryptParameters:
    salt: bytes
    n: int
    r: int
    p: int


@asn1.sequence
class _Derivation:
    algorithm: x509.ObjectIdentifier
    parameters: _ScryptParameters


@asn1.sequence
class _Encryption:
    algorithm: x509.ObjectIdentifier
    iv: bytes


@asn1.sequence
class _Parameters:
    derivation: _Derivation
    encryption: _Encryption


@asn1.sequence
class _Algorithm:
    algorithm: x509.ObjectIdentifier
    parameters: _Parameters


@asn1.sequence
class _EncryptedPrivateKeyInfo:
    algorithm: _Algorithm
    data: bytes


def dump(key: EllipticCurvePrivateKey | Ed25519PrivateKey | RSAPrivateKey, passphrase: Secret | None) -> bytes:
    """Return ``key`` as PEM, encrypted if a passphrase is given."""
    if passphrase is None:
        return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    plain = key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
    salt, iv = os.urandom(16), os.urandom(16)
    wrapping = Scrypt(salt=salt, length=32, n=SCRYPT_N, r=SCRYPT_R, p=SCRYPT_P).derive(passphrase.reveal())
    pad = padding.PKCS7(128).padder()
    encrypt = Cipher(algorithms.AES256(wrapping), modes.CBC(iv)).encryptor()
    data = encrypt.update(pad.update(plain) + pad.finalize()) + encrypt.finalize()
    kdf = _Derivation(algorithm=_SCRYPT, parameters=_ScryptParameters(salt=salt, n=SCRYPT_N, r=SCRYPT_R, p=SCRYPT_P))
    scheme = _Parameters(derivation=kdf, encryption=_Encryption(algorithm=_AES256_CBC, iv=iv))
    envelope = _EncryptedPrivateKeyInfo(algorithm=_Algorithm(algorithm=_PBES2, parameters=scheme), data=data)
    text = base64.b64encode(asn1.encode_der(envelope))
    lines = [text[i : i + 64] for i in range(0, len(text), 64)]
    return b"\n".join([b"-----BEGIN ENCRYPTED PRIVATE KEY-----", *lines, b"-----END ENCRYPTED PRIVATE KEY-----", b""])
