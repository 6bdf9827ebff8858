"""The line by which an agent's key becomes known, on a console and in guest attributes: what counts, and what not."""

from __future__ import annotations

import json
from contextlib import suppress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handfast.core import keyline
from handfast.core.fingerprint_words import words
from handfast.core.guest_attributes import MAX_ATTRIBUTES
from handfast.core.instance_views import fingerprint
from handfast.errors import EvidenceRejected, HandfastError, Malformed, NotFound, TooMuch

KEY, OTHER = bytes(range(32)), bytes(32)
LINE, FALSE = keyline.written("web1", KEY), keyline.written("web1", OTHER)
BOOT = "[    0.000000] Linux version 6.1.0-28-amd64 (builder@example)"


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


def test_words_are_for_people() -> None:
    """The line with them is beside the other, and is never taken for it."""
    said = keyline.in_words("web1", OTHER)
    assert said == f"handfast-agent-words web1 {words(OTHER)}"
    assert keyline.key_of("web1", log(BOOT, LINE, said)) == keyline.key_of("web1", log(said, LINE)) == KEY
    with pytest.raises(NotFound, match="no line 'handfast-agent web1'"):
        keyline.key_of("web1", log(BOOT, keyline.in_words("web1", KEY)))
    assert keyline.key_of("words", log(keyline.in_words("web1", OTHER), keyline.written("words", KEY))) == KEY


OURS = {"namespace": "handfast", "key": "agent-key", "value": LINE}
ELSE = {"namespace": "hostkeys", "key": "ssh-ed25519", "value": "AAAA"}


def attributes(*printed: object) -> bytes:
    """Guest attributes as gcloud prints them."""
    return json.dumps(printed).encode()


@pytest.mark.parametrize(
    "answer",
    [
        [OURS],
        [ELSE, OURS, {**ELSE, "key": "agent-key"}, {**OURS, "key": "agent-key2", "value": FALSE}],
        {"kind": "compute#guestAttributes", "queryPath": "handfast/", "queryValue": {"items": [OURS]}},
    ],
    ids=["gcloud", "among others", "api"],
)
def test_guest_attributes_are_read(answer: object) -> None:
    """The one value in our namespace under our key; what else there is is somebody else's."""
    assert keyline.key_in("web1", json.dumps(answer).encode()) == KEY


@pytest.mark.parametrize(
    ("answer", "error", "why"),
    [
        (b"", Malformed, "not guest attributes"),
        (b"{}", Malformed, "not guest attributes"),
        (b"\xff\x00junk", Malformed, "not guest attributes"),
        (b"[" * 100_000, Malformed, "not guest attributes"),
        (LINE.encode(), Malformed, "not guest attributes"),
        (attributes({"namespace": "handfast", "key": "agent-key"}), Malformed, "not guest attributes"),
        (attributes({**OURS, "value": [LINE]}), Malformed, "not guest attributes"),
        (attributes(), NotFound, "no 'handfast/agent-key' in these guest attributes"),
        (attributes({**OURS, "namespace": "hostkeys"}), NotFound, "no 'handfast/agent-key'"),
        (attributes({**OURS, "namespace": "Handfast"}), NotFound, "no 'handfast/agent-key'"),
        (attributes({**OURS, "key": "agent-keys"}), NotFound, "no 'handfast/agent-key'"),
        (attributes(OURS, {**OURS, "value": FALSE}), EvidenceRejected, "have 'handfast/agent-key' 2 times"),
        (attributes(OURS, OURS), EvidenceRejected, "2 times"),
        (attributes({**OURS, "value": keyline.written("web2", KEY)}), EvidenceRejected, "are of 'web2', not of 'web1'"),
        (attributes({**OURS, "value": keyline.written("web11", KEY)}), EvidenceRejected, "are of 'web11'"),
        (attributes({**OURS, "value": fingerprint(KEY)}), Malformed, "not an agent's key"),
        (attributes({**OURS, "value": f"handfast-agent web1 {KEY.hex()}"}), Malformed, "not an agent's key"),
        (attributes({**OURS, "value": LINE[:-4]}), Malformed, "not a fingerprint"),
        (attributes({**OURS, "value": LINE[:-1] + "B"}), Malformed, "not a fingerprint"),
        (attributes({**OURS, "value": f"{LINE} {FALSE}"}), Malformed, "not a fingerprint"),
        (attributes({**OURS, "value": f"{LINE}\n{FALSE}"}), Malformed, "not a fingerprint"),
        (attributes(OURS) + b" " * MAX_ATTRIBUTES, TooMuch, "of over 1048576 bytes"),
    ],
)
def test_nothing_else_in_guest_attributes_counts(answer: bytes, error: type[HandfastError], why: str) -> None:
    """Two values, another instance's, another place, part of a fingerprint, junk: refused, and said why."""
    with pytest.raises(error, match=why):
        keyline.key_in("web1", answer)


@given(st.binary(max_size=200) | st.text(max_size=80).map(lambda value: attributes({**OURS, "value": value})))
def test_whatever_comes(answer: bytes) -> None:
    """Nothing but our own errors comes of what is no such line, and never a key."""
    with suppress(HandfastError):
        raise AssertionError(keyline.key_in("web1", answer))
