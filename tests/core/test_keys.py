"""Which public keys are certified, and how pins are written and read."""

from __future__ import annotations

import hashlib
import subprocess
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import dsa, ec, ed448, ed25519, rsa, x25519
from cryptography.hazmat.primitives.asymmetric.types import PublicKeyTypes
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from hypothesis import given
from hypothesis import strategies as st

from handfast.core import keys
from handfast.errors import HandfastError, Malformed
from tests.authority.helpers import new_key
from tests.peers import find


def _rsa(bits: int, exponent: int = 65537) -> rsa.RSAPublicKey:
    """A public key of this size; its modulus is no product of two primes, which nobody looks at."""
    return rsa.RSAPublicNumbers(exponent, (1 << (bits - 1)) + 1).public_key()


GOOD: dict[str, PublicKeyTypes] = {
    "P-256": new_key().public_key(),
    "P-384": ec.generate_private_key(ec.SECP384R1()).public_key(),
    "RSA 2048": _rsa(2048),
    "RSA 4096": _rsa(4096),
    "RSA 8192": _rsa(8192),
}
WEAK: dict[str, PublicKeyTypes] = {
    "RSA 1024": _rsa(1024),
    "RSA 2047": _rsa(2047),
    "RSA 8200": _rsa(8200),
    "P-521": ec.generate_private_key(ec.SECP521R1()).public_key(),
    "secp192r1": ec.generate_private_key(ec.SECP192R1()).public_key(),
    "secp224r1": ec.generate_private_key(ec.SECP224R1()).public_key(),
    "secp256k1": ec.generate_private_key(ec.SECP256K1()).public_key(),
    "Ed25519": ed25519.Ed25519PrivateKey.generate().public_key(),
    "Ed448": ed448.Ed448PrivateKey.generate().public_key(),
    "X25519": x25519.X25519PrivateKey.generate().public_key(),
    "DSA": dsa.DSAPublicNumbers(4, dsa.DSAParameterNumbers((1 << 2047) + 1, (1 << 255) + 1, 2)).public_key(),
}


@pytest.mark.parametrize("name", GOOD)
def test_keys_on_the_list_pass_and_are_described(name: str) -> None:
    """P-256, P-384 and RSA from 2048 to 8192 bits are certified, from their bytes as well."""
    key = GOOD[name]
    assert keys.check_strength(key) is key
    assert keys.spki(keys.load_spki(keys.spki(key))) == keys.spki(key)
    assert keys.describe(key) == name


@pytest.mark.parametrize("name", WEAK)
def test_every_other_key_is_refused_by_name(name: str) -> None:
    """A key that is not on the list is refused, with its type and size and what to make instead."""
    with pytest.raises(Malformed, match=name) as caught:
        keys.check_strength(WEAK[name])
    assert "P-256" in caught.value.hint
    with pytest.raises(Malformed):
        keys.load_spki(keys.spki(WEAK[name]))


@pytest.mark.parametrize("exponent", [3, 17, 65539, (1 << 2000) + 1])
def test_an_unusual_rsa_exponent_is_refused(exponent: int) -> None:
    """Small exponents are weak and long ones slow for every verifier, so only 65537 passes."""
    with pytest.raises(Malformed, match=f"exponent '{exponent:#x}"[:24]):
        keys.check_strength(_rsa(2048, exponent))


def test_the_hash_fits_the_curve() -> None:
    """P-384 is signed with SHA-384 and everything else with SHA-256."""
    assert keys.signature_hash(ec.generate_private_key(ec.SECP384R1())).name == "sha384"
    assert keys.signature_hash(new_key()).name == "sha256"
    assert keys.signature_hash(_rsa(2048)).name == "sha256"


def test_other_encodings_of_a_key_are_refused() -> None:
    """The same point in compressed form hashes to another pin, so it is not accepted as the same key."""
    point = GOOD["P-256"].public_bytes(Encoding.X962, PublicFormat.CompressedPoint)
    prefix = keys.spki(GOOD["P-256"])[:26]
    compressed = b"\x30\x39" + prefix[2:24] + b"\x22\x00" + point
    with pytest.raises(Malformed):
        keys.load_spki(b"\x30" + bytes([len(compressed) - 2]) + compressed[2:])


@pytest.mark.parametrize("tail", [b"\0", b"\x30\x00"])
def test_bytes_after_a_key_are_refused(tail: bytes) -> None:
    """Nothing may follow the key."""
    with pytest.raises(Malformed):
        keys.load_spki(keys.spki(GOOD["P-256"]) + tail)


def test_a_huge_key_is_not_even_parsed() -> None:
    """A megabyte instead of a key is refused by its length."""
    with pytest.raises(Malformed, match="1048576 bytes"):
        keys.load_spki(b"0" * (1 << 20))


@given(st.binary(max_size=200))
def test_garbage_is_refused_without_other_errors(garbage: bytes) -> None:
    """Bytes that are no key give our error and never another one."""
    with pytest.raises(HandfastError):
        keys.load_spki(garbage)


@pytest.mark.peer("openssl")
def test_the_pin_is_what_openssl_computes(tmp_path: Path) -> None:
    """The pin is the SHA-256 of the DER that openssl writes for the public key."""
    key = GOOD["P-256"]
    (tmp_path / "key.pem").write_bytes(key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo))
    command = [find("openssl") or "", "pkey", "-pubin", "-in", str(tmp_path / "key.pem"), "-outform", "DER"]
    der = subprocess.run(command, check=True, capture_output=True).stdout
    assert keys.spki_sha256(key) == hashlib.sha256(der).digest()


@given(st.binary(min_size=32, max_size=32))
def test_a_pin_survives_being_written_and_read(pin: bytes) -> None:
    """A pin reads back from our form, from upper case and with the colons that openssl prints."""
    text = keys.format_pin(pin)
    assert len(text) == 64
    for form in (text, text.upper(), pin.hex(":"), f"  {text}\n"):
        assert keys.parse_pin(form) == pin


@pytest.mark.parametrize("text", ["", "ab", "0" * 63, "0" * 65, "g" * 64, "\uff10" * 64, "0x" + "0" * 62])
def test_anything_but_a_whole_pin_is_refused(text: str) -> None:
    """Short forms and other alphabets are no pins, and the hint says where to find one."""
    with pytest.raises(Malformed, match="not a pin") as caught:
        keys.parse_pin(text)
    assert "64 hex digits" in caught.value.hint
