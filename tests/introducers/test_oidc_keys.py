"""Key sets of providers, and whatever a provider or a stranger could put into a token or a set."""

from __future__ import annotations

import contextlib
import json
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from hypothesis import given
from hypothesis import strategies as st

from handfast.core.flow import Person
from handfast.errors import HandfastError, Malformed
from handfast.introducers.oidc import MOST_KEYS, asked_for, read_keys
from tests.introducers.stage_login import CORP_KEY, KID, OTHER_KEY, b64, by_oidc, claims, jwk, key_set, token
from tests.introducers.test_oidc import person


def test_keys_that_verify_nothing_are_passed_over() -> None:
    """Secrets, private keys, keys for encryption, weak ones and those of tomorrow do not make a set unreadable."""
    weak = rsa.generate_private_key(65537, 1024)
    listed: tuple[dict[str, Any], ...] = (
        {"kty": "oct", "k": "AAAA", "kid": KID, "alg": "HS256"},
        {"kty": "AKP", "alg": "ML-DSA-44", "pub": "AAAA"},
        jwk(CORP_KEY, use="enc"),
        jwk(CORP_KEY) | {"d": "AAAA"},
        jwk(weak),
        jwk(CORP_KEY) | {"x": "AAAA"},
        {"kty": "EC", "crv": "secp256k1", "x": "AA", "y": "AA"},
        {"kty": ["EC"]},
        {"kty": "RSA"},
        {},
        jwk(OTHER_KEY, "good", use="sig", alg="ES256"),
    )
    keys = read_keys(key_set(*listed))
    assert len(keys.keys) == 1
    assert keys.knows("good")
    assert keys.knows(None)
    assert not keys.knows(KID)
    assert "PublicKey" not in repr(keys)


@pytest.mark.parametrize(
    ("document", "words"),
    [
        (b"", "not a KeySet"),
        (b"[]", "not a KeySet"),
        (b'{"keys": 1}', "not a KeySet"),
        (b'{"keys": ["a"]}', "not a KeySet"),
        (b'{"keys": []}', "no key in the provider's key set"),
        (key_set({"kty": "oct", "k": "AAAA"}), "no key in the provider's key set"),
        (key_set(*[jwk(CORP_KEY, str(number)) for number in range(MOST_KEYS + 1)]), "a key set of 65 keys"),
        (b'{"keys":' * 2000, "not a KeySet"),
    ],
)
def test_key_sets_that_are_none(document: bytes, words: str) -> None:
    """Not JSON of that shape, nothing of use in it, or far too much."""
    with pytest.raises(Malformed, match=words):
        read_keys(document)


def test_what_a_request_asks_for() -> None:
    """Provider and key id are read before anything is verified, and nothing but a request has them."""
    assert asked_for(by_oidc().evidence.payload) == ("corp", KID)
    assert asked_for(by_oidc(token_=token(kid=None)).evidence.payload) == ("corp", None)
    assert asked_for(by_oidc(token_="a.b.c").evidence.payload) is None
    assert asked_for(b"{}") is None


@given(st.binary(max_size=300))
def test_any_bytes_in_the_place_of_a_token(data: bytes) -> None:
    """Nothing but our own refusals comes out, whatever stands in the three parts."""
    third = len(data) // 3
    parts = (data[:third], data[third : 2 * third], data[2 * third :])
    for text in (
        data.decode("latin-1"),
        ".".join(map(b64, parts)),
        f"{b64(json.dumps({'alg': 'ES256'}).encode())}.{b64(data)}.AA",
    ):
        with pytest.raises(HandfastError):
            person(text)


@given(
    st.recursive(
        st.none() | st.booleans() | st.floats() | st.text(),
        lambda x: st.lists(x) | st.dictionaries(st.text(), x),
        max_leaves=8,
    )
)
def test_any_json_that_a_provider_signs(value: Any) -> None:
    """A provider that is broken, or worse, gets a refusal or a person, and nothing else."""
    for said in (
        value,
        claims(groups=value),
        claims(email=value),
        claims(sub=value),
        claims(aud=value),
        claims(exp=value),
    ):
        try:
            text = token(said)
        except ValueError:
            continue
        with contextlib.suppress(HandfastError):
            assert isinstance(person(text), Person)


@given(
    st.dictionaries(
        st.sampled_from(["kty", "crv", "x", "y", "n", "e", "kid", "use", "alg", "key_ops"]),
        st.text() | st.integers() | st.sampled_from(["EC", "RSA", "OKP", "P-256", "Ed25519", "AQAB"]),
    )
)
def test_any_key_in_a_set(value: dict[str, Any]) -> None:
    """A key that is none is passed over."""
    assert read_keys(key_set(jwk(CORP_KEY), value)).knows(KID)
