"""PKCS #12 stores that somebody hands us, with their password or without."""

from __future__ import annotations

from os import urandom

import pytest
from cryptography.hazmat import asn1

from handfast.core import pfx
from handfast.core import pfxder as der
from handfast.core.pfx import read_pfx
from handfast.errors import Malformed
from tests.core.stores import DATA, STORE
from tests.core.test_pfx import CERTIFICATE, NAME, attribute, bag, bags, seal


def test_attack_rounds_without_end() -> None:
    """Whoever hands us a store says how often to hash, before its MAC can be checked: within bounds, also in BER."""
    real = (DATA / "keystore-bouncycastle.pkcs12").read_bytes()
    begin = real.index(bytes.fromhex("3021 3009 0605 2b0e03021a")) - 2
    mac = asn1.decode_der(der.MacData, real[begin:-2])
    forged = der.MacData(mac=mac.mac, salt=mac.salt, iterations=2_000_000_000)
    with pytest.raises(Malformed, match="2000000000 iterations"):
        read_pfx(real[:begin] + asn1.encode_der(forged) + bytes(2), password=STORE)


def test_attack_a_key_with_rounds_without_end() -> None:
    """Nor does he hold us up who knows the password: a key may ask for no more than Java would bear."""
    algorithm, data = pfx._encrypt(b"key", STORE, urandom)
    scheme = algorithm.parameters
    limits = scheme.derivation.parameters
    derivation = der.Derivation(salt=limits.salt, iterations=2_000_000_000, length=None, prf=limits.prf)
    endless = der.Scheme(
        derivation=der.DerivationAlgorithm(algorithm=der.PBKDF2, parameters=derivation), cipher=scheme.cipher
    )
    shrouded = der.EncryptedPrivateKeyInfo(algorithm=der.Encryption(algorithm=der.PBES2, parameters=endless), data=data)
    link = attribute(der.LOCAL_KEY_ID, b"1")
    parts = bags(bag(der.SHROUDED_KEY, shrouded, NAME, link), bag(der.CERTIFICATE, CERTIFICATE, NAME, link))
    with pytest.raises(Malformed, match="2000000000 iterations"):
        read_pfx(seal(parts), password=STORE)
