"""What strangers may have us look at: so often, so many at a time, and one source not for all."""

from __future__ import annotations

import ipaddress

import pytest

from handfast.adapters.buckets import Buckets, Share
from handfast.errors import TooMuch
from handfast.server.limits import Limits
from handfast.server.looks import Looks

HERE, THERE = ipaddress.ip_address("192.0.2.1"), ipaddress.ip_address("192.0.2.2")


def still(limits: Limits) -> Looks:
    """Within these limits, at a time that stands still."""
    return Looks(
        Buckets(limits.looks, limits.looks_burst, now=lambda: 0.0),
        Buckets(limits.looks_of_all, limits.looks_of_all_burst, now=lambda: 0.0),
        Share(limits.looking, limits.looking_per_source),
        Buckets(limits.looks_of_holder, limits.looks_of_holder_burst, now=lambda: 0.0),
        Share(limits.looking, limits.looking_per_holder),
    )


def test_a_source_has_its_burst_and_is_told_when_to_come_again() -> None:
    """Past its burst a source waits, and others do not."""
    looks = still(Limits(looks=0.2, looks_burst=3))
    for _ in range(3):
        with looks.admit(HERE):
            pass
    with pytest.raises(TooMuch, match="asked to look at hosts too often") as caught, looks.admit(HERE):
        pass
    assert caught.value.after == 5
    with looks.admit(THERE):
        pass


def test_many_sources_are_bounded_together() -> None:
    """Whoever has a network of addresses gets no more than all together do, and who was refused used nothing up."""
    looks = still(Limits(looks_of_all=1.0, looks_of_all_burst=5))
    for number in range(5):
        with looks.admit(ipaddress.ip_address(f"198.51.100.{number}")):
            pass
    for number in range(5, 10):
        with pytest.raises(TooMuch), looks.admit(ipaddress.ip_address(f"198.51.100.{number}")):
            pass
        assert looks.of_source.wait(f"198.51.100.{number}") == 0


def test_a_prefix_is_one_source() -> None:
    """A host with all addresses of its /64 is one source."""
    looks = still(Limits(looks_burst=1))
    with looks.admit(ipaddress.ip_address("2001:db8::1")):
        pass
    with pytest.raises(TooMuch), looks.admit(ipaddress.ip_address("2001:db8::2")):
        pass


def test_so_many_at_a_time() -> None:
    """A source has two looks at a time, all have so many, a refused one costs none, and one that failed is over."""
    looks = still(Limits(looking=3, looks_burst=4))
    with looks.admit(HERE), looks.admit(HERE):
        with pytest.raises(TooMuch), looks.admit(HERE):
            pass
        with looks.admit(THERE), pytest.raises(TooMuch), looks.admit(ipaddress.ip_address("192.0.2.3")):
            pass
    with pytest.raises(ZeroDivisionError), looks.admit(HERE):
        raise ZeroDivisionError
    with looks.admit(HERE):
        pass


def test_holders_are_counted_apart() -> None:
    """Strangers cannot use up what registrars have who ask each other, and one of those not what another has."""
    looks = still(Limits(looks_of_all_burst=1, looks_of_holder_burst=2, looking=3, looking_per_holder=2))
    with looks.admit(HERE):
        pass
    with looks.admit_holder("far"), looks.admit_holder("far"):
        with pytest.raises(TooMuch), looks.admit_holder("far"):
            pass
        with looks.admit_holder("other"), pytest.raises(TooMuch), looks.admit_holder("third"):
            pass
    with pytest.raises(TooMuch, match="asked to look at hosts too often"), looks.admit_holder("far"):
        pass
