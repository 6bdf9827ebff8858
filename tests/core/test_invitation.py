"""The line that a person pastes: it reads back exactly, and a typo is found before anything is sent."""

from __future__ import annotations

import base64
import hashlib
import re
from datetime import UTC, datetime
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from hypothesis import given
from hypothesis import strategies as st

from handfast.core.invitation import MAX_ADDRESSES, PREFIX, SCANNER_PATTERN, Address, InvitationLine, key_id
from handfast.core.secret import Secret
from handfast.errors import InvitationInvalid, Malformed

SEED, PIN = bytes(range(32)), bytes(range(32, 64))
TIMES = st.integers(0, 2**32 - 1).map(lambda seconds: datetime.fromtimestamp(seconds, UTC))
HOSTS = st.ip_addresses().map(str) | st.from_regex(r"[a-z]([a-z0-9-]{0,8}[a-z0-9])?(\.[a-z]{2,8}){0,2}", fullmatch=True)
ADDRESSES = st.builds(Address, HOSTS, st.integers(1, 65535))
ALPHABET = "ABCabc019-_@:.,[]{}#/ =+\n\x00é"


def line(*addresses: Address, seed: bytes = SEED, pin: bytes = PIN) -> InvitationLine:
    """An invitation with fixed content."""
    start, end = datetime(2026, 11, 22, 12, tzinfo=UTC), datetime(2026, 11, 22, 13, tzinfo=UTC)
    return InvitationLine(Secret(seed), pin, start, end, addresses or (Address("web1.lan", 7443),))


TEXT = line().reveal()


def parts(invitation: InvitationLine) -> tuple[Any, ...]:
    """Everything in it, comparable."""
    return (
        invitation.seed.reveal(),
        invitation.pin,
        invitation.not_before,
        invitation.not_after,
        invitation.addresses,
    )


@given(
    st.binary(min_size=32, max_size=32),
    st.binary(min_size=32, max_size=32),
    TIMES,
    TIMES,
    st.lists(ADDRESSES, min_size=1, max_size=MAX_ADDRESSES).map(tuple),
)
def test_what_is_written_is_read(
    seed: bytes, pin: bytes, start: datetime, end: datetime, addresses: tuple[Address, ...]
) -> None:
    """Every field survives, and the text is the same again."""
    made = InvitationLine(Secret(seed), pin, start, end, addresses)
    text = made.reveal()
    read = InvitationLine.parse(f" \t{text}\r\n")
    assert parts(read) == parts(made)
    assert read.reveal() == text
    assert re.match(SCANNER_PATTERN, text)
    assert read.key_id == key_id(read.public_key())


@pytest.mark.parametrize("position", range(len(TEXT)))
def test_any_changed_character_fails_locally(position: int) -> None:
    """A typo at any place, the address and the port included, is found by the checksum."""
    for other in ALPHABET.replace(TEXT[position], ""):
        changed = TEXT[:position] + other + TEXT[position + 1 :]
        if changed.strip() == TEXT:
            continue
        with pytest.raises(InvitationInvalid) as caught:
            InvitationLine.parse(changed)
        assert caught.value.hint


@pytest.mark.parametrize("position", range(len(TEXT)))
def test_a_lost_or_doubled_character_fails_locally(position: int) -> None:
    """So do a character that was not copied, one that was typed twice, and two that changed places."""
    pair = TEXT[position : position + 2]
    variants = {
        TEXT[:position] + TEXT[position + 1 :],
        TEXT[:position] + TEXT[position] + TEXT[position:],
        TEXT[:position] + pair[::-1] + TEXT[position + 2 :],
    } - {TEXT}
    for changed in variants:
        with pytest.raises(InvitationInvalid):
            InvitationLine.parse(changed)


def rebuilt(body: bytes, where: str) -> str:
    """A line with a checksum that fits, as a forger or a newer version would write it."""
    checksum = hashlib.sha256(body + where.encode()).digest()[:4]
    return f"{PREFIX}{base64.urlsafe_b64encode(body + checksum).decode()}@{where}"


BODY = base64.urlsafe_b64decode(TEXT[len(PREFIX) : len(PREFIX) + 104])[:-4]


@pytest.mark.parametrize(("version", "flags"), [(0, 0), (2, 0), (255, 0), (1, 1), (1, 128)])
def test_another_version_or_flag_is_refused(version: int, flags: int) -> None:
    """What a newer version means by a flag is not guessed: the hint is to install it."""
    with pytest.raises(InvitationInvalid, match=f"version {version}, flags {flags}") as caught:
        InvitationLine.parse(rebuilt(bytes([version, flags]) + BODY[2:], "web1.lan:7443"))
    assert "newer" in caught.value.hint


@pytest.mark.parametrize(
    "where",
    [
        "web1.lan",
        "web1.lan:0",
        "web1.lan:65536",
        "web1.lan:7443,",
        ",web1.lan:7443",
        "a:1,b:2,c:3,d:4,e:5",
        "fd00::1:7443",
        "[fd00::1]",
        "[web1.lan:7443",
        "-:7443",
        "10.0.0.999:7443",
    ],
)
def test_a_bad_address_with_a_good_checksum_is_refused(where: str) -> None:
    """The checksum is no authority: what it covers is still parsed strictly, at most four addresses."""
    with pytest.raises(InvitationInvalid, match="bad address"):
        InvitationLine.parse(rebuilt(BODY, where))


@pytest.mark.parametrize("text", ["", "hunter2", TEXT[:-1], TEXT + TEXT, TEXT.replace("1_", "2_"), "\x00"])
def test_what_is_no_invitation_is_not_repeated(text: str) -> None:
    """It may be a password that was pasted into the wrong window."""
    with pytest.raises(InvitationInvalid) as caught:
        InvitationLine.parse(text)
    assert not text.strip("\x00") or text not in caught.value.message + caught.value.hint


def test_neither_repr_nor_errors_show_the_seed() -> None:
    """The line, its base64 and its seed stay out of whatever may be logged."""
    invitation = InvitationLine.parse(TEXT)
    with pytest.raises(InvitationInvalid) as caught:
        InvitationLine.parse(TEXT[:-1] + "5")
    for shown in (repr(invitation), str(invitation), repr(caught.value), caught.value.hint):
        assert SEED.hex() not in shown
        assert repr(SEED)[2:-1] not in shown
        assert TEXT[20:60] not in shown


def test_the_registrar_can_keep_the_public_half_only() -> None:
    """The key id and the public key follow from the seed, and not the other way round."""
    public = Ed25519PrivateKey.from_private_bytes(SEED).public_key().public_bytes_raw()
    assert line().public_key() == public
    assert line().key_id == hashlib.sha256(public).hexdigest()[:16]
    assert line(pin=bytes(32)).key_id == line().key_id


@pytest.mark.parametrize("count", [0, MAX_ADDRESSES + 1])
def test_a_line_without_or_with_many_addresses_is_never_written(count: int) -> None:
    """Nobody makes what nobody would read."""
    with pytest.raises(ValueError, match="1 to 4 addresses"):
        InvitationLine(Secret(SEED), PIN, line().not_before, line().not_after, (Address("a", 1),) * count).reveal()


@pytest.mark.parametrize(
    ("text", "host", "port", "again"),
    [
        ("web1.lan:7443", "web1.lan", 7443, "web1.lan:7443"),
        ("WEB1:1", "web1", 1, "web1:1"),
        ("192.0.2.1:65535", "192.0.2.1", 65535, "192.0.2.1:65535"),
        ("[fd00:0::1]:7443", "fd00::1", 7443, "[fd00::1]:7443"),
        ("web1:07443", "web1", 7443, "web1:7443"),
    ],
)
def test_addresses_are_read_and_written(text: str, host: str, port: int, again: str) -> None:
    """Names, IPv4, and IPv6 in brackets."""
    assert Address.parse(text) == Address(host, port)
    assert str(Address.parse(text)) == again


@pytest.mark.parametrize(
    "text",
    [
        "",
        ":",
        ":7443",
        "a",
        "a:",
        "a:0",
        "a:65536",
        "a:+1",
        "a: 1",
        "a:1 ",
        "a:\u0663",
        "a:" + "9" * 5000,
        "::1:7443",
        "[::1]7443",
        "[::1%eth0]:7443",
        "[]:1",
        "a b:1",
        "*:1",
        "https://a:1",
        "a:1/x",
        "user@a:1",
    ],
)
def test_what_is_no_address_is_refused(text: str) -> None:
    """No port, foreign digits, a zone, a URL: refused with how to write it, never with another exception."""
    with pytest.raises(Malformed) as caught:
        Address.parse(text)
    assert caught.value.hint
