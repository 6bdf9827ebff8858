"""What people type: addresses to call, as they write them and as nothing else."""

from __future__ import annotations

import pytest

from handfast.cli.arguments import DIALED
from handfast.core.invitation import Address
from handfast.errors import UsageError


@pytest.mark.parametrize(
    "text", ["ctl.lan:7576", "https://ctl.lan:7576", "https://ctl.lan:7576/", "HTTPS://CTL.lan:7576"]
)
def test_a_url_is_an_address(text: str) -> None:
    """With a scheme or without one it is the same place."""
    assert DIALED.convert(text, None, None) == Address("ctl.lan", 7576)


def test_a_url_of_numbers() -> None:
    """An IPv6 address has its brackets in both."""
    for text in ("[2001:db8::1]:7576", "https://[2001:db8::1]:7576/"):
        assert DIALED.convert(text, None, None) == Address("2001:db8::1", 7576)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("http://ctl.lan:7576", "not a URL to call a controller at: 'http://'"),
        ("://ctl.lan:7576", "not a URL to call a controller at: '://'"),
        ("https://me:secret@ctl.lan:7576", "a URL to call a controller at has no user"),
        ("https://ctl.lan:7576@other.lan:7576", "a URL to call a controller at has no user"),
        ("https://ctl.lan:7576/agents", "a URL to call a controller at has no path"),
        ("https://ctl.lan:7576//", "a URL to call a controller at has no path"),
        ("https://ctl.lan:7576/?secret", "a URL to call a controller at has no query"),
        ("https://ctl.lan:7576#secret", "a URL to call a controller at has no fragment"),
        ("https://ctl.lan", "not an address: 'ctl.lan'"),
        ("https://", "not an address: ''"),
        ("https://ctl.lan:0", "not an address: 'ctl.lan:0'"),
        ("https://https://ctl.lan:7576", "has no path"),
        ("ctl.lan:7576/", "not an address: 'ctl.lan:7576/'"),
        ("me@ctl.lan:7576", "not a DNS name: 'me@ctl.lan'"),
    ],
)
def test_nothing_else_of_a_url(text: str, message: str) -> None:
    """What could be read in two ways, or means nothing here: refused, and nothing secret of it is repeated."""
    with pytest.raises(UsageError) as refused:
        DIALED.convert(text, None, None)
    assert message in refused.value.message
    assert refused.value.hint
    assert "secret" not in refused.value.message + refused.value.hint
