"""What is signed: no two different introductions have the same bytes, and no signature serves two purposes."""

from __future__ import annotations

import hashlib
import re
from itertools import permutations

from hypothesis import given
from hypothesis import strategies as st

from handfast import introducers
from handfast.core.transcript import ANSWER, NONCE, answer, digest, request_label

REQUEST = request_label("invitation")
LABELS = (*map(request_label, introducers.known()), ANSWER, NONCE)
METHODS = st.from_regex(r"[a-z][a-z0-9-]{0,30}", fullmatch=True)
FIELDS = st.lists(st.binary(max_size=6), max_size=5)


def test_no_label_is_a_prefix_of_another() -> None:
    """Even where a label is not length-prefixed (the nonce's MAC), one purpose never reads as another."""
    assert not [(a, b) for a, b in permutations(LABELS, 2) if b.startswith(a)]
    assert len(set(LABELS)) == len(LABELS)


@given(METHODS, METHODS)
def test_no_method_can_make_a_label_that_clashes(one: str, other: str) -> None:
    """Whatever a method is called, as long as its name fits into a URL: the next one needs no list to be kept."""
    labels = {request_label(one), request_label(other), ANSWER, NONCE}
    assert not [(a, b) for a, b in permutations(labels, 2) if b.startswith(a)]


def test_every_method_has_such_a_name() -> None:
    """Letters, digits, hyphens."""
    assert all(re.fullmatch(r"[a-z][a-z0-9-]*", name) for name in introducers.known())


def test_the_bytes_are_as_specified() -> None:
    """SHA-256 over each field after its length as four bytes, most significant first."""
    label = request_label("invitation")
    assert label == b"handfast/1 invitation request"
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
    one = answer(b"r", leaf, tuple(trust), "t")
    two = answer(b"r", other, tuple(roots), "t")
    assert (one == two) is ((leaf, trust) == (other, roots))
    assert one != answer(b"r", leaf, tuple(trust), "u")
    assert one != answer(b"s", leaf, tuple(trust), "t")
