"""Looking from everywhere: when the others are asked, and what their silence means."""

from __future__ import annotations

import asyncio
import ipaddress
from dataclasses import dataclass, field, replace
from typing import cast

import pytest

from handfast.core.invitation import Address
from handfast.core.look import Answered, Led, Look, Seen
from handfast.errors import HandfastError, PolicyRefused, TooMuch, Unreachable, UntrustedPeer
from handfast.newcomer.vantage import Everywhere, Vantage
from handfast.policy.look import against_look, notes
from tests.ssh.fake import KEYS, public

ED = public(KEYS["ssh-ed25519"])
A = ipaddress.ip_address("192.0.2.1")
LOOK = Look(("db1.example",), (A,), (ED,))
ALL = Seen((Led("db1.example", (A,)),), (Answered(A, 22, (ED,)),))


@dataclass
class Here:
    """A looker that sees what it is told."""

    seen: Seen = ALL
    error: HandfastError | None = None

    async def look(self, look: Look) -> tuple[Seen, ...]:
        """As a ``Looker``."""
        if self.error is not None:
            raise self.error
        return (self.seen,)


@dataclass
class Point:
    """Another registrar."""

    answer: Seen | HandfastError = field(default_factory=lambda: replace(ALL, by="far"))
    address: Address = field(default_factory=lambda: Address("far.lan", 7443))
    asked: int = 0

    def look(self, look: Look) -> Seen:
        """As ``Vantage``."""
        self.asked += 1
        if isinstance(self.answer, HandfastError):
            raise self.answer
        return self.answer


def look(here: Here, *points: Point) -> tuple[Seen, ...]:
    """Look from all of them."""
    return asyncio.run(Everywhere(here, tuple(cast(Vantage, point) for point in points)).look(LOOK))


def test_all_of_them_are_asked() -> None:
    """What each saw comes back, ours first."""
    seen = look(Here(), Point(), Point(replace(ALL, by="farther")))
    assert [each.by for each in seen] == ["registrar", "far", "farther"]
    assert against_look(LOOK, seen) == ()


@pytest.mark.parametrize(
    "error",
    [Unreachable("cannot reach far.lan:7443"), UntrustedPeer("another pin"), PolicyRefused(("not one to scan",))],
)
def test_who_cannot_be_asked_disagrees(error: HandfastError) -> None:
    """Unreachable, somebody else, or not willing: it speaks against the host, and our log has why and who."""
    seen = look(Here(), Point(), Point(error))
    assert len(against_look(LOOK, seen)) == 2
    assert f"far.lan:7443: 192.0.2.1 at port 22: {error.message}" in notes(LOOK, seen)


def test_one_who_sees_something_else_disagrees() -> None:
    """One registrar that sees another host is enough, whatever the others see."""
    other = Seen(ALL.led, (Answered(A, 22, (public(KEYS["ecdsa-sha2-nistp256"]),)),), by="far")
    assert against_look(LOOK, look(Here(), Point(), Point(other))) == (
        f"192.0.2.1 at port 22 did not show {ED.fingerprint}",
    )


def test_others_are_not_asked_for_what_we_have_not_seen() -> None:
    """Nobody has us send requests to others for hosts that are not even there for us, or that we may not look at."""
    point = Point()
    assert against_look(LOOK, look(Here(replace(ALL, answered=())), point))
    with pytest.raises(PolicyRefused):
        look(Here(error=PolicyRefused(("not one to scan",))), point)
    assert point.asked == 0


def test_too_much_there_is_too_much_here() -> None:
    """A registrar that was asked too often has not disagreed: the newcomer comes again."""
    with pytest.raises(TooMuch, match="others that look for us were asked too often just now") as caught:
        look(Here(), Point(TooMuch("asked to look at hosts too often")))
    assert caught.value.after == 30


def test_a_fault_of_ours_comes_out() -> None:
    """What is no error by intention is none of somebody else's."""

    class Broken(Point):
        def look(self, look: Look) -> Seen:
            raise ZeroDivisionError

    with pytest.raises(ZeroDivisionError):
        look(Here(), Broken())
