"""What every introducer with a wire of our own must do besides: a fresh nonce, our root, and this connection."""

from __future__ import annotations

import dataclasses
from datetime import timedelta

import pytest

from handfast import introducers
from handfast.core.flow import Channel
from handfast.core.ports import Introducer
from handfast.core.secret import Secret
from handfast.errors import EvidenceRejected
from tests.introducers.stage import HONEST, NONCE_KEY, VERIFIERS, Honest, Stage

KNOWN = introducers.known()
FOREIGN = {"nifi"}  # spelled, so that nobody leaves these tests by calling himself foreign

pytestmark = pytest.mark.parametrize("name", sorted(set(KNOWN) - FOREIGN))


@pytest.fixture
def introducer(name: str) -> Introducer:
    """The one under test, as a registrar would configure it."""
    return VERIFIERS[name]


@pytest.fixture
def honest(name: str) -> Honest:
    """Its honest newcomer."""
    return HONEST[name]()


def test_it_says_that_it_is_native(introducer: Introducer) -> None:
    """Only then it is posted to our own listener; what is foreign is known here by name."""
    assert introducer.native
    assert {name for name, half in KNOWN.items() if not half.native} == FOREIGN


@pytest.mark.parametrize("late", [timedelta(seconds=301), timedelta(minutes=50), timedelta(seconds=-1)])
def test_it_refuses_a_stale_nonce(introducer: Introducer, honest: Honest, late: timedelta) -> None:
    """A recorded message is worth nothing after five minutes, nor on a clock that was set back."""
    honest.stage.time += late
    with pytest.raises(EvidenceRejected, match="nonce"):
        introducer.verify(honest.evidence, honest.stage)


@pytest.mark.parametrize("nonce", [bytes(56), bytes(16), Stage(nonce_key=Secret(b"x" * 32)).nonce()])
def test_it_refuses_a_foreign_nonce(name: str, introducer: Introducer, nonce: bytes) -> None:
    """One that the newcomer made up, or that another registrar gave it, proves no freshness here."""
    honest = HONEST[name](nonce_=nonce)
    assert NONCE_KEY.reveal() != b"x" * 32
    with pytest.raises(EvidenceRejected, match="nonce"):
        introducer.verify(honest.evidence, honest.stage)


def test_it_refuses_another_root(name: str, introducer: Introducer) -> None:
    """What a newcomer signed for another authority is not for ours."""
    honest = HONEST[name](pin=bytes(32))
    with pytest.raises(EvidenceRejected, match="signature"):
        introducer.verify(honest.evidence, honest.stage)


def test_P2_it_refuses_what_was_relayed(name: str, introducer: Introducer, honest: Honest) -> None:
    """Signed in a connection to somebody else's TLS key, or arriving over another one: no use to who relays it."""
    relayed = HONEST[name](spki=bytes(32))
    with pytest.raises(EvidenceRejected, match="signature"):
        introducer.verify(relayed.evidence, relayed.stage)
    elsewhere = dataclasses.replace(honest.evidence, channel=Channel(bytes(32)))
    with pytest.raises(EvidenceRejected, match="signature"):
        introducer.verify(elsewhere, honest.stage)
