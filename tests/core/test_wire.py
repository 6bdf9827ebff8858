"""Every byte of a request is accounted for before anybody acts on it."""

from __future__ import annotations

import base64
from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handfast.core import wire
from handfast.errors import Malformed
from handfast.introducers import invitation, reintroduction, renewal


def b64(data: bytes) -> str:
    """Base64 as it is on the wire."""
    return base64.b64encode(data).decode()


def request() -> dict[str, Any]:
    """A well-formed invitation request, as JSON values."""
    return {
        "key_id": "0123456789abcdef",
        "nonce": b64(bytes(56)),
        "newcomer_nonce": b64(bytes(32)),
        "csr": b64(b"csr"),
        "reintroduction_key": b64(bytes(32)),
        "signature": b64(bytes(64)),
        "role": "server",
        "names": ["web1.lan"],
    }


def decode(tree: dict[str, Any]) -> invitation.InvitationRequest:
    """Read it as the registrar does."""
    return wire.decode(msgspec.json.encode(tree), invitation.InvitationRequest)


def test_a_request_is_read() -> None:
    """The honest shape; role and names may be left out."""
    assert decode(request()).names == ["web1.lan"]
    short = {key: value for key, value in request().items() if key not in {"role", "names"}}
    assert (decode(short).role, decode(short).names) == (None, [])


@pytest.mark.parametrize(
    "change",
    [
        {"extra": 1},
        {"key_id": "0123456789ABCDEF"},
        {"key_id": "0123456789abcde"},
        {"key_id": "0123456789abcdef\n"},
        {"key_id": None},
        {"nonce": b64(bytes(15))},
        {"nonce": b64(bytes(65))},
        {"nonce": "not base64!"},
        {"newcomer_nonce": ""},
        {"csr": b64(bytes(16 * 1024 + 1))},
        {"reintroduction_key": b64(bytes(31))},
        {"signature": b64(bytes(63))},
        {"signature": [0] * 64},
        {"role": "root"},
        {"role": ""},
        {"names": ["a" * 254]},
        {"names": ["a"] * 65},
        {"names": "web1.lan"},
        {"names": [1]},
        {"names": None},
    ],
)
def test_anything_unexpected_is_malformed(change: dict[str, Any]) -> None:
    """Unknown, mistyped, too short and too long fields are refused with the field's path."""
    with pytest.raises(Malformed, match="not a InvitationRequest") as caught:
        decode(request() | change)
    assert caught.value.hint
    assert next(iter(change)) in caught.value.message or "Invalid base64" in caught.value.message


@pytest.mark.parametrize("field", ["key_id", "nonce", "newcomer_nonce", "csr", "reintroduction_key", "signature"])
def test_every_field_is_required(field: str) -> None:
    """No field has a default that would make its absence mean something."""
    with pytest.raises(Malformed, match=field):
        decode({key: value for key, value in request().items() if key != field})


@pytest.mark.parametrize(
    "kind", [invitation.InvitationRequest, renewal.RenewalRequest, reintroduction.ReintroductionRequest]
)
def test_requests_refuse_what_they_do_not_know(kind: type) -> None:
    """All requests alike."""
    assert kind.__struct_config__.forbid_unknown_fields  # type: ignore[attr-defined]


@pytest.mark.parametrize("kind", [wire.Hello, wire.IntroductionAnswer, wire.Problem])
def test_answers_may_grow(kind: type) -> None:
    """An older newcomer reads a newer registrar."""
    assert not kind.__struct_config__.forbid_unknown_fields  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    "data",
    [
        b"",
        b"{",
        b"null",
        b"[]",
        b"\xff\xfe",
        b'{"nonce": "\xff"}',
        b"[" * 100_000,
        b'{"x":' + b"[" * 100_000,
        b'{"x":' + b'{"x":' * 100_000,
        b'{"nonce":"","time":"","trust":[],"chain":[],"x":' + b"[" * 100_000,
    ],
)
def test_garbage_is_malformed_and_never_a_crash(data: bytes) -> None:
    """Depth, bad UTF-8 and truncation end in the same refusal, for requests and for answers."""
    for kind in (invitation.InvitationRequest, wire.Hello, wire.Problem):
        with pytest.raises(Malformed):
            wire.decode(data, kind)


@given(st.binary(max_size=200))
def test_no_bytes_raise_anything_else(data: bytes) -> None:
    """Whatever a stranger sends is read or Malformed."""
    for kind in (invitation.InvitationRequest, renewal.RenewalRequest, wire.IntroductionAnswer):
        try:
            wire.decode(data, kind)
        except Malformed:
            continue


def test_duplicate_keys_have_one_meaning() -> None:
    """The last one counts, for the signature and for the flow alike: both read the same parsed value."""
    data = msgspec.json.encode(request())[:-1] + b',"key_id":"ffffffffffffffff"}'
    assert wire.decode(data, invitation.InvitationRequest).key_id == "ffffffffffffffff"
