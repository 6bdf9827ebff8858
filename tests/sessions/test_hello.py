"""The frames of a session: whole or nothing, bounded, and nothing unaccounted for in a request."""

from __future__ import annotations

from typing import Any

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handfast.core.invitation import Address
from handfast.errors import Malformed, TooMuch
from handfast.sessions import hello
from handfast.sessions.hello import Answer, Crl, Dial, Failed, Hello, Phone, Ping, Pong

TOKEN = "abcdefghijklmnopqrstuv"
HELLO = Hello(want="stream", crl=7, time=1_800_000_000)
ANSWER = Answer(ok=True, crl=7, time=1_800_000_000)
CONTROL = [
    Dial(token=TOKEN),
    Failed(token=TOKEN, error=hello.UNREACHABLE_SERVICE, message="connection refused"),
    Phone(to="[2001:db8::1]:7443", every=5.0),
    Crl(crl_der=b"\x30\x00"),
    Ping(),
    Pong(),
]


def framed(message: msgspec.Struct) -> bytes:
    """The body of a message's frame, as the peer reads it."""
    frame = hello.encode(message)
    assert int.from_bytes(frame[:2], "big") == len(frame) - 2
    return frame[2:]


def text(**fields: Any) -> bytes:
    """What a peer may say, of whatever fields."""
    return msgspec.json.encode(fields)


@pytest.mark.parametrize(
    "message",
    [
        HELLO,
        Hello(want="control", crl=0, time=0, crl_der=b"x", about={"version": "0.4"}),
        Hello(want="stream", crl=0, time=0, token=TOKEN),
    ],
)
def test_a_hello_comes_back(message: Hello) -> None:
    """What one side says is what the other reads."""
    assert hello.decode(framed(message), Hello) == message


def test_an_answer_comes_back() -> None:
    """A refusal has its code and its sentence."""
    refused = Answer(ok=False, crl=0, time=1, error="revoked", message="the credential was revoked")
    assert hello.decode(framed(ANSWER), Answer) == ANSWER
    assert hello.decode(framed(refused), Answer) == refused


@pytest.mark.parametrize("message", CONTROL, ids=lambda message: type(message).__name__)
def test_a_control_message_comes_back(message: hello.Control) -> None:
    """Each kind is told from the others by its tag."""
    assert hello.decode_control(framed(message)) == message


def test_a_phone_number_is_an_address() -> None:
    """The address to call is parsed before anybody calls it."""
    assert Phone(to="desk.lan:7443", every=5.0).address == Address("desk.lan", 7443)


def test_the_largest_list_fits() -> None:
    """A revocation list of the largest size fits a frame with everything else; a longer one is refused by the peer."""
    about = {f"key {n}": "v" * 200 for n in range(16)}
    largest = Hello(want="stream", crl=2**63 - 1, time=1, token=TOKEN, crl_der=bytes(hello.MAX_CRL), about=about)
    assert hello.decode(framed(largest), Hello) == largest
    longer = msgspec.structs.replace(HELLO, crl_der=bytes(hello.MAX_CRL + 1))
    with pytest.raises(Malformed, match="crl_der"):
        hello.decode(framed(longer), Hello)


def test_too_large_a_frame_is_not_sent() -> None:
    """What does not fit two bytes of length is refused where it is made."""
    with pytest.raises(TooMuch, match="a frame of 8"):
        hello.encode(Crl(crl_der=bytes(60 * 1024)))


@pytest.mark.parametrize(
    ("fields", "names"),
    [
        ({"v": 2}, r"\$\.v"),
        ({"want": "shell"}, r"\$\.want"),
        ({"crl": -1}, r"\$\.crl"),
        ({"crl": 2**63}, "crl|range"),
        ({"time": -1}, r"\$\.time"),
        ({"time": 10**12}, r"\$\.time"),
        ({"token": "short"}, r"\$\.token"),
        ({"token": TOKEN + "\n"}, r"\$\.token"),
        ({"want": "control", "token": TOKEN}, "a token is for a stream"),
        ({"crl_der": "no base64!"}, "crl_der|base64"),
        ({"crl_der": ""}, r"\$\.crl_der"),
        ({"about": {"k" * 41: ""}}, "about"),
        ({"about": {"k": "v" * 201}}, "about"),
        ({"about": {str(n): "" for n in range(17)}}, "about"),
        ({"sudo": True}, "unknown field `sudo`"),
    ],
)
def test_a_hello_out_of_bounds_is_refused(fields: dict[str, Any], names: str) -> None:
    """Every field has its bounds, and a field we do not know may ask for what we would not grant."""
    with pytest.raises(Malformed, match=names):
        hello.decode(text(**({"want": "stream", "crl": 1, "time": 1} | fields)), Hello)


@pytest.mark.parametrize("field", ["want", "crl", "time"])
def test_a_hello_says_everything(field: str) -> None:
    """Nothing that matters has a default."""
    fields = {"want": "stream", "crl": 1, "time": 1}
    del fields[field]
    with pytest.raises(Malformed, match=field):
        hello.decode(text(**fields), Hello)


def test_an_answer_of_a_newer_version_is_read() -> None:
    """Unknown fields of an answer are ignored, so that older clients talk to newer servers."""
    assert hello.decode(text(ok=True, crl=7, time=1_800_000_000, more=[1]), Answer) == ANSWER


@pytest.mark.parametrize("fields", [{"ok": True, "error": "revoked"}, {"ok": False}])
def test_an_answer_is_yes_or_no(fields: dict[str, Any]) -> None:
    """Yes with an error, or no without one, is no answer: nobody has to guess."""
    with pytest.raises(Malformed, match="either ok or an error"):
        hello.decode(text(crl=0, time=0, **fields), Answer)


@pytest.mark.parametrize(
    "fields",
    [
        {"do": "exec"},
        {"do": "ping", "payload": "x"},
        {"do": "dial"},
        {"do": "dial", "token": "../../etc/passwd"},
        {"do": "phone", "to": "desk.lan", "every": 5},
        {"do": "phone", "to": "desk.lan:0", "every": 5},
        {"do": "phone", "to": "-oProxyCommand=x:1", "every": 5},
        {"do": "phone", "to": "desk.lan:1", "every": 0},
        {"do": "phone", "to": "desk.lan:1", "every": 86401},
        {"do": "crl", "crl_der": ""},
        {"token": TOKEN},
        {},
    ],
)
def test_a_control_message_out_of_bounds_is_refused(fields: dict[str, Any]) -> None:
    """A peer that was verified is not believed for that: what it may ask for is listed."""
    with pytest.raises(Malformed, match="not a control message"):
        hello.decode_control(text(**fields))


@given(st.binary(max_size=300) | st.just(b"[" * 60_000))
def test_garbage_is_malformed_and_nothing_else(body: bytes) -> None:
    """Whatever bytes come, the one error is Malformed."""
    for read in (lambda: hello.decode(body, Hello), lambda: hello.decode_control(body)):
        with pytest.raises(Malformed):
            read()
