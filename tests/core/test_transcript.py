"""What is signed: no two different introductions have the same bytes, and no signature serves two purposes."""

from __future__ import annotations

import hashlib
import re
from itertools import permutations

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handfast.core import transcript
from handfast.core.transcript import ANSWER, INVITATION_REQUEST, LABELS, digest

FIELDS = st.lists(st.binary(max_size=6), max_size=5)


def test_no_label_is_a_prefix_of_another() -> None:
    """Even where a label is not length-prefixed (the nonce's MAC), one purpose never reads as another."""
    assert not [(a, b) for a, b in permutations(LABELS, 2) if b.startswith(a)]
    assert len(set(LABELS)) == len(LABELS)


def test_every_label_is_listed_and_names_the_protocol() -> None:
    """A label that is not in the list would escape the test above."""
    constants = {value for name, value in vars(transcript).items() if name.isupper() and isinstance(value, bytes)}
    assert constants == set(LABELS)
    assert all(re.fullmatch(rb"handfast/1 [a-z ]+", label) for label in LABELS)


def test_an_unlisted_label_is_refused() -> None:
    """A new purpose begins with its entry in the list."""
    with pytest.raises(ValueError, match="unlisted label"):
        digest(b"handfast/1 something")


def test_the_bytes_are_as_specified() -> None:
    """SHA-256 over each field after its length as four bytes, most significant first."""
    spelled = b"\x00\x00\x00\x1b" + INVITATION_REQUEST[:27] + b"\x00\x00\x00\x02ab" + b"\x00\x00\x00\x00"
    label = INVITATION_REQUEST
    spelled = len(label).to_bytes(4, "big") + label + b"\x00\x00\x00\x02ab" + b"\x00\x00\x00\x00"
    assert digest(label, b"ab", b"") == hashlib.sha256(spelled).digest()


@given(FIELDS, FIELDS)
def test_different_fields_have_different_digests(some: list[bytes], others: list[bytes]) -> None:
    """Moving, splitting, joining or adding an empty field changes the digest."""
    assert (digest(ANSWER, *some) == digest(ANSWER, *others)) is (some == others)


@given(FIELDS)
def test_different_labels_have_different_digests(fields: list[bytes]) -> None:
    """The same fields under two labels never agree: a request is no answer."""
    assert len({digest(label, *fields) for label in LABELS}) == len(LABELS)


@given(
    st.binary(max_size=4),
    st.binary(max_size=4),
    st.lists(st.binary(max_size=4), max_size=3),
    st.lists(st.binary(max_size=4), max_size=3),
)
def test_the_answer_covers_each_of_its_parts(leaf: bytes, other: bytes, trust: list[bytes], roots: list[bytes]) -> None:
    """A root cannot be read as a leaf or a time, whatever their bytes."""
    one = transcript.answer(b"r", leaf, tuple(trust), "t")
    two = transcript.answer(b"r", other, tuple(roots), "t")
    assert (one == two) is ((leaf, trust) == (other, roots))
    assert one != transcript.answer(b"r", leaf, tuple(trust), "u")
    assert one != transcript.answer(b"s", leaf, tuple(trust), "t")
