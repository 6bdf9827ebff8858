"""A fingerprint in words: the same everywhere, and nothing that is only like it."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st
from mnemonic import Mnemonic

from handfast.core.fingerprint_words import check_words, parse_words, words
from handfast.errors import EvidenceRejected, Malformed

KEY = bytes(range(32))
KEYS = st.binary(min_size=32, max_size=32)
# BIP 39's own vectors: eight of their words are the first 88 bits of their entropy.
VECTORS = [
    (bytes(32), "abandon abandon abandon abandon abandon abandon abandon abandon"),
    (b"\xff" * 32, "zoo zoo zoo zoo zoo zoo zoo zoo"),
    (b"\x7f" * 32, "legal winner thank year wave sausage worth useful"),
    (b"\x80" * 32, "letter advice cage absurd amount doctor acoustic avoid"),
    (
        bytes.fromhex("68a79eaca2324873eacc50cb9c6eca8cc68ea5d936f98787c60c7ebc74e6ce7c"),
        "hamster diagram private dutch cause delay private meat",
    ),
    (hashlib.sha256(b"abc").digest(), "risk scheme quiz bulk brother vivid agree chimney"),
]


@pytest.mark.parametrize(("key", "said"), VECTORS)
def test_vectors(key: bytes, said: str) -> None:
    """Eleven bits a word, the first bits first: as BIP 39's vectors have them."""
    assert words(key) == said


def test_the_list_is_bip_39s() -> None:
    """Another list would be other words for the same key, which nobody could compare any more."""
    lines = "".join(f"{word}\n" for word in Mnemonic("english").wordlist)
    expected = "2f5eed53a4727b4bf8880d8f3f199efc90e58503646d9ff8eff3a2ed3b24dbda"  # of the file in BIP 39's repository
    assert hashlib.sha256(lines.encode()).hexdigest() == expected


@given(KEYS)
def test_they_are_read_as_they_were_written(key: bytes) -> None:
    """Also with another case, and with other space between them."""
    said = words(key)
    assert parse_words(said) == parse_words(f"  {said.upper()}\n".replace(" ", " \t ")) == said
    assert check_words(parse_words(said), key, of="web1") == key


@given(KEYS, st.integers(0, 87))
def test_every_bit_counts(key: bytes, bit: int) -> None:
    """One bit of the 88 is another word, and is refused; what is beyond them is not in the words."""
    other = (int.from_bytes(key) ^ 1 << (255 - bit)).to_bytes(32)
    assert sum(a != b for a, b in zip(words(key).split(), words(other).split(), strict=True)) == 1
    with pytest.raises(EvidenceRejected, match="the key that 'web1' shows has other words") as refused:
        check_words(words(other), key, of="web1")
    assert "nothing is confirmed" in refused.value.hint
    assert words(key[:11] + bytes(21)) == words(key)


LEGAL = "legal winner thank year wave sausage worth useful"


@pytest.mark.parametrize(
    ("text", "why"),
    [
        ("", "0 words of 8"),
        (LEGAL.removesuffix(" useful"), "7 words of 8"),
        (f"{LEGAL} legal", "9 words of 8"),
        (LEGAL.replace("winner", "winn"), "not one of the words: 'winn'"),
        (LEGAL.replace("winner", "winners"), "not one of the words: 'winners'"),
        (LEGAL.replace(" ", "-"), "not one of the words"),
        (LEGAL.replace("thank", "than\u212a"), "not one of the words"),  # a Kelvin sign is no k
        (f"SHA256:{'A' * 43}", "not one of the words: 'SHA256:"),
    ],
)
def test_what_is_no_eight_words(text: str, why: str) -> None:
    """Fewer, more, beginnings, other words: never a part of a fingerprint."""
    with pytest.raises(Malformed, match=why) as refused:
        parse_words(text)
    assert refused.value.hint
