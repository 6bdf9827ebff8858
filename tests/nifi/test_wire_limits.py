"""
What NiFi's wire cannot give, shown: each of these attacks works (docs/protocols/nifi.md, section 9), and where it ends.

They are here so that nobody has to believe the page, and so that it is noticed when one of them stops to be true.
"""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from tests.nifi.fake_ca import DAY, TOKEN, FakeCa, Identity, http, tag
from tests.nifi.node import Node

EC = ("-a", "EC", "-k", "256")


@pytest.fixture
def thief() -> tuple[FakeCa, str]:
    """Who owns a node's key, and has seen the tag that it sent, but never its token: a likeness of the CA."""
    stolen = ec.generate_private_key(ec.SECP256R1())
    overheard = tag(stolen.public_key())
    likeness = FakeCa(Identity(key=stolen), token="the thief does not know it")
    likeness.answer = lambda asked: http(likeness.body(likeness.leaf(asked), overheard))
    return likeness, overheard


def test_limit_reflection(thief: tuple[FakeCa, str], node: Node) -> None:
    """The tag has no direction: another node with the same token takes the thief for the CA, and trusts him."""
    likeness, _ = thief
    with likeness.serving():
        done = node.client(likeness, *EC)
    assert done.code == 0
    trusted = x509.load_pem_x509_certificate((node.directory / "nifi-cert.pem").read_bytes())
    assert trusted == likeness.certificate


def test_limit_reflection_ends_with_the_token(thief: tuple[FakeCa, str], node: Node) -> None:
    """A node with a token of its own, as one-time tokens are, is not deceived."""
    likeness, _ = thief
    with likeness.serving():
        done = node.client(likeness, *EC, token="handfastnifi1_another-node-s-own-token")
    assert done.code == 3
    assert "a man in the middle, or another token" in done.stderr
    assert node.files() == {".keystore.jks.pending"}


def test_limit_a_tag_is_enough_to_guess(ca: FakeCa, node: Node) -> None:
    """Whoever answers for the CA once can try every token he can think of, without asking anybody again."""
    ca.answer = lambda asked: b""
    assert node.client(ca, *EC).code == 3
    (asked,) = ca.asked
    guesses = ["password password", "correct horse battery", TOKEN, "nifi nifi nifi nifi"]
    assert [guess for guess in guesses if tag(asked.csr.public_key(), guess) == asked.hmac] == [TOKEN]


def test_limit_a_holder_of_the_token_is_the_ca(node: Node) -> None:
    """To a node that has no certificate yet; one that has knows the CA by its key, and is not deceived."""
    thief, ca = FakeCa(Identity()), FakeCa(Identity())
    thief.days = (datetime.now(UTC) - 9 * DAY, datetime.now(UTC) + DAY)  # due at once
    with thief.serving(), ca.serving():
        assert node.client(thief, *EC).code == 0
        assert node.client(ca, *EC).code == 3  # nor does it find back by itself
    trusted = x509.load_pem_x509_certificate((node.directory / "nifi-cert.pem").read_bytes())
    assert trusted == thief.certificate
    assert ca.asked == []
