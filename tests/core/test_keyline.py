"""The line on a console by which an agent's key becomes known: what counts, and what somebody else has written."""

from __future__ import annotations

import pytest

from handfast.core import keyline
from handfast.core.instance_views import fingerprint
from handfast.errors import EvidenceRejected, HandfastError, Malformed, NotFound, TooMuch

KEY, OTHER = bytes(range(32)), bytes(32)
LINE, FALSE = keyline.written("web1", KEY), keyline.written("web1", OTHER)
BOOT = "[    0.000000] Linux version 6.1.0-28-amd64 (debian-kernel@lists.debian.org)"


def log(*lines: str) -> bytes:
    """A console's log."""
    return "\r\n".join(lines).encode()


@pytest.mark.parametrize(
    "lines",
    [
        (LINE,),
        (BOOT, "[    1.2] sd 0:0:0:0", "", LINE, "web1 login: "),
        (BOOT, LINE, LINE),
        (BOOT, FALSE, BOOT, LINE),
        (BOOT, "\x1b[0;32m" + LINE + "\x1b[0m"),
        (BOOT, LINE, keyline.written("web2", OTHER), keyline.written("web11", OTHER)),
    ],
    ids=["alone", "after a boot", "each start", "since the last boot", "in color", "another's"],
)
def test_the_key_is_found(lines: tuple[str, ...]) -> None:
    """It is what the instance has said since its last boot, however often."""
    assert keyline.key_of("web1", log(*lines)) == KEY


@pytest.mark.parametrize(
    ("lines", "error", "why"),
    [
        ((BOOT,), NotFound, "no line"),
        ((LINE, BOOT), NotFound, "no line"),
        ((BOOT, f"user: {FALSE}"), NotFound, "no line"),
        ((BOOT, f"[   12.3] logger[12]: {FALSE}"), NotFound, "no line"),
        ((BOOT, LINE, FALSE), EvidenceRejected, "different keys"),
        ((BOOT, FALSE, LINE), EvidenceRejected, "different keys"),
        ((BOOT, LINE, f"logger: {BOOT}", FALSE), EvidenceRejected, "different keys"),
        ((BOOT, LINE[:-4]), Malformed, "not a fingerprint"),
        ((BOOT, f"{LINE} x"), Malformed, "not a fingerprint"),
        ((BOOT, f"handfast-agent web1 {KEY.hex()}"), Malformed, "not a fingerprint"),
    ],
)
def test_nothing_ambiguous_is_read(lines: tuple[str, ...], error: type[HandfastError], why: str) -> None:
    """Text within a line, a second key, part of a fingerprint: refused, and said why."""
    with pytest.raises(error, match=why):
        keyline.key_of("web1", log(*lines))


def test_a_log_is_bounded() -> None:
    """Whoever has more than a console holds is told so."""
    with pytest.raises(TooMuch, match="at most"):
        keyline.key_of("web1", b" " * (keyline.MAX_LOG + 1))


def test_it_is_what_people_compare() -> None:
    """The line has the fingerprint as all commands show it."""
    assert f"handfast-agent web1 {fingerprint(KEY)}" == LINE
