"""Sentences that are true: each is held to what is on disk."""

from __future__ import annotations

from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from handfast.core import keys
from handfast.core.chain import read_identity
from handfast.core.invitation import Address
from handfast.core.roles import Role
from handfast.newcomer.explain import explain
from handfast.newcomer.layouts import Material
from handfast.newcomer.renew import Held
from tests.authority.helpers import DAY, NOW, SERIAL, Pki, grant, new_key
from tests.newcomer.fake import der

PKI = Pki.make()


def holding(role: Role = Role.SERVER, names: tuple[str, ...] = ("web1.home.lan",), **about: object) -> Held:
    """What a machine holds, with this story."""
    key = new_key()
    leaf = PKI.leaf(grant(PKI.domain, role, names=names, public_key=key.public_key()))
    story: dict[str, object] = {
        "method": "invitation",
        "origin": "invitation:0123456789abcdef",
        "registrar": "registrar",
        "spiffe_id": f"spiffe://{PKI.domain}/{role}/web1.home.lan",
        "clock_offset_seconds": 0,
    }
    material = Material(
        der(leaf)[0], tuple(der(PKI.issuing)), tuple(der(PKI.root)), key, Ed25519PrivateKey.generate(), story | about
    )
    return Held(material, read_identity(leaf), SERIAL, PKI.pin, (Address("registrar.lan", 7443),), NOW)


def told(held: Held, *, days: float = 0.0) -> str:
    """All sentences as one text."""
    sentences = explain(held, now=NOW + timedelta(days=days))
    assert all(sentence.endswith(".") for sentence in sentences)
    return " ".join(sentences)


def test_it_names_whom_it_trusts_and_why() -> None:
    """Machine, role, domain, the whole pin, the registrar, its own key and serial."""
    held = holding()
    text = told(held)
    for part in (
        "'web1.home.lan', a server",
        PKI.domain,
        keys.format_pin(PKI.pin),
        "'registrar'",
        "in the role of registrar",
        "came with the invitation it joined with",
        keys.spki_sha256(held.material.certificate.public_key()).hex(),
        f"{SERIAL:032x}",
        "is valid",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("role", "part"),
    [
        (Role.SERVER, "when it serves, never as a client"),
        (Role.CLIENT, "when it dials, never as a server"),
        (Role.PEER, "both when it serves and when it dials"),
    ],
)
def test_it_says_in_which_direction_others_accept_it(role: Role, part: str) -> None:
    """As the extended key usage has it."""
    assert part in told(holding(role))


@pytest.mark.parametrize(
    ("method", "part"),
    [
        ("invitation", "an operator handed it an invitation"),
        ("renewal", "previous credential"),
        ("reintroduction", "had expired"),
        ("parchment", "of the method 'parchment'"),
    ],
)
def test_it_says_how_it_was_accepted(method: str, part: str) -> None:
    """A method of another version is at least named."""
    assert part in told(holding(method=method))


def test_it_does_not_say_that_a_server_renewed_over_mutual_tls() -> None:
    """Its certificate is no client's; the proof was a signature."""
    assert "mutual TLS" not in told(holding(Role.SERVER, method="renewal"))


def test_it_says_when_it_is_over() -> None:
    """At the second of its end."""
    assert "has expired" in told(holding(), days=DAY / DAY)
    assert "is valid" in told(holding(), days=0.999)


@pytest.mark.parametrize(("offset", "part"), [(3600, "3600 s behind"), (-3600, "3600 s ahead"), (60, None)])
def test_it_says_when_the_clock_was_wrong(offset: int, part: str | None) -> None:
    """Above a minute only: less is the network."""
    text = told(holding(clock_offset_seconds=offset))
    assert part in text if part else "clock was" not in text


def test_a_machine_without_names_is_said_to_have_none() -> None:
    """Not an empty list."""
    assert "a machine without network names" in told(holding(Role.CLIENT, names=()))
