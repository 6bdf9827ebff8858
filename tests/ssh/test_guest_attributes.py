"""Guest attributes as gcloud and the API give them, and what is no such thing."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handfast.errors import HandfastError, Malformed
from handfast.ssh import guest_attributes
from tests.ledger.material import ssh_key

KEYS = (ssh_key(1), ssh_key(2))
PRINTED = [{"namespace": "hostkeys", "key": key.algorithm, "value": key.base64} for key in KEYS]


@pytest.mark.parametrize(
    "answer",
    [
        PRINTED,
        {"kind": "compute#guestAttributes", "queryPath": "hostkeys/", "queryValue": {"items": PRINTED}},
        [*PRINTED, PRINTED[0]],
        [{"namespace": "guestInventory", "key": "ShortName", "value": "debian"}, *PRINTED],
    ],
    ids=["gcloud", "api", "twice", "others"],
)
def test_read(answer: object) -> None:
    """Both forms are read; other namespaces are somebody else's."""
    assert guest_attributes.host_keys(json.dumps(answer).encode()) == KEYS


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (b"", "not guest attributes"),
        (b"{}", "not guest attributes"),
        (b"[]", "no host key"),
        (json.dumps([{**PRINTED[0], "namespace": "x"}]).encode(), "no host key"),
        (json.dumps([{**PRINTED[0], "key": "ssh-rsa"}]).encode(), "the line says 'ssh-rsa'"),
        (json.dumps([{**PRINTED[0], "value": "AAAA"}]).encode(), "the guest attribute 'ssh-ed25519'"),
        (
            json.dumps([PRINTED[0], {"namespace": "hostkeys", "key": "a b", "value": "c"}]).encode(),
            "guest attribute 'a b'",
        ),
    ],
)
def test_refused(answer: bytes, words: str) -> None:
    """What is no such JSON, or has a key that is none, is refused whole."""
    with pytest.raises(Malformed, match=words):
        guest_attributes.host_keys(answer)


@given(
    st.binary(max_size=200)
    | st.recursive(st.none() | st.text(), st.lists).map(lambda value: json.dumps(value).encode())
)
def test_whatever_comes(answer: bytes) -> None:
    """Nothing but our own errors comes of it."""
    with suppress(HandfastError):
        guest_attributes.host_keys(answer)
