"""What is this machine's own address, and what only looks so."""

from __future__ import annotations

import pytest

from handfast.core.invitation import Address
from handfast.core.loopback import is_loopback, on_loopback
from handfast.errors import UsageError


@pytest.mark.parametrize("host", ["127.0.0.1", "127.255.255.254", "::1"])
def test_loopback(host: str) -> None:
    """All of 127.0.0.0/8, and ::1."""
    assert on_loopback(Address(host, 7575), what="it").host == host


@pytest.mark.parametrize("host", ["0.0.0.0", "::", "192.0.2.1", "localhost", "127.0.0.1.evil.example", "", "10.0.0.1"])
def test_anything_else(host: str) -> None:
    """Every other address, and every name, whatever it leads to at this moment."""
    assert not is_loopback(host)
    with pytest.raises(UsageError, match=r"it at .* which is not a loopback address"):
        on_loopback(Address(host, 7575), what="it")
