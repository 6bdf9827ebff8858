"""
A key's fingerprint as eight words, which people compare: over a telephone, or from one screen to another.

The words are BIP 39's English list, 2,048 of them, each of which is known by its first four letters, and stand for the
first 88 bits of the SHA-256, eleven each, the first bits first. It is no mnemonic: there is no checksum, and no key
follows from the words. What 88 bits are worth is in docs/protocols/agent.md, under stronger evidence.
"""

from __future__ import annotations

from functools import cache

from handfast.errors import EvidenceRejected, Malformed

WORDS = 8
_BITS = 11  # of a word
_BYTES = WORDS * _BITS // 8


def words(key: bytes) -> str:
    """Return the words of a key's SHA-256, with spaces between them."""
    number, every = int.from_bytes(key[:_BYTES]), _every()
    return " ".join(every[number >> _BITS * place & len(every) - 1] for place in reversed(range(WORDS)))


def parse_words(text: str) -> str:
    """
    Return eight words as ``words`` writes them, whatever their case and the space between them.

    Never fewer, and no beginnings of them: who abbreviates has not compared.

    :raises Malformed: anything else.
    """
    found = text.split()
    if bad := next((word for word in found if not word.isascii() or word.lower() not in _every()), None):
        raise Malformed(f"not one of the words: {bad[:80]!r}", hint="whole words, as the agent prints them")
    if len(found) != WORDS:
        raise Malformed(f"{len(found)} words of {WORDS}", hint='all of them, in quotes: --words "…"')
    return " ".join(found).lower()


def check_words(said: str, key: bytes, *, of: str) -> bytes:
    """
    Return the key whose words these are: the words alone are only a part of it. ``of`` is whose it should be.

    :raises EvidenceRejected: they are another key's.
    """
    if said != words(key):
        raise EvidenceRejected(
            f"the key that {of!r} shows has other words",
            hint="nothing is confirmed; read them again on the machine: if they are right, something else answers",
        )
    return key


@cache
def _every() -> tuple[str, ...]:
    from mnemonic import Mnemonic  # here: few need it, and it reads a file

    return tuple(Mnemonic("english").wordlist)
