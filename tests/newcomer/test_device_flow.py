"""The device flow: what a person is shown, how often the provider is asked, and every way in which it goes wrong."""

from __future__ import annotations

import asyncio
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any

import pytest

from handfast.core.openid import MAX_METADATA, MAX_TOKEN, ProviderView
from handfast.errors import HandfastError, Malformed, NotAuthorized, Refused, Unreachable, UntrustedPeer, UsageError
from handfast.newcomer.device_flow import Prompt, id_token
from tests.newcomer.provider import DEVICE, METADATA, TOKEN, Said, Scripted, device, error, metadata, provider

PENDING, SLOW = error("authorization_pending"), error("slow_down")
GIVEN = Said({"id_token": "a.b.c"})


@dataclass
class Time:
    """Nobody waits, and the clock goes on by what would have been waited for."""

    slept: list[float] = field(default_factory=list)

    async def pause(self, seconds: float) -> None:
        """Remember it."""
        self.slept.append(seconds)

    def clock(self) -> float:
        """Seconds since some time."""
        return 1000 + sum(self.slept)


def token(view: ProviderView, show: Callable[[Prompt], None], time: Time | None = None) -> str:
    """Run the flow."""
    time = time or Time()
    return asyncio.run(id_token(view, show, pause=time.pause, clock=time.clock))


def shown(scripted: Scripted, time: Time | None = None) -> Prompt:
    """What a person is shown, before the token comes."""
    prompts: list[Prompt] = []
    assert token(scripted.view, prompts.append, time) == "a.b.c"
    (prompt,) = prompts
    return prompt


def refused(
    scripted: Scripted, kind: type[HandfastError], words: str, *, prompts: int = 0, time: Time | None = None
) -> HandfastError:
    """No token comes; a person was shown something so many times."""
    seen: list[Prompt] = []
    with pytest.raises(kind, match=words) as caught:
        token(scripted.view, seen.append, time)
    assert len(seen) == prompts
    return caught.value


def test_the_whole_flow() -> None:
    """Discovery, a code, and questions in the provider's own pace until the person has allowed it."""
    time = Time()
    with provider(token=[PENDING, PENDING, GIVEN]) as scripted:
        prompt = shown(scripted, time)
    assert prompt == Prompt(
        "https://id.example.org/device", "WDJB-MJHT", "https://id.example.org/device?code=WDJB-MJHT", 600
    )
    assert scripted.paths() == [METADATA, DEVICE, TOKEN, TOKEN, TOKEN]
    assert scripted.asked[1][1] == {"client_id": "handfast", "scope": "openid email"}
    assert scripted.asked[2][1] == {
        "client_id": "handfast",
        "device_code": "a secret of the device",
        "grant_type": "urn:ietf:params:oauth:grant-type:device_code",
    }
    assert time.slept == [1, 1, 1]


def test_a_client_secret_is_sent() -> None:
    """For providers that ask for one of programs which cannot keep it."""
    with provider() as scripted:
        view = ProviderView("corp", scripted.issuer, "handfast", ["openid"], "not so secret")
        assert token(view, lambda _prompt: None) == "a.b.c"
    assert [form.get("client_secret") for _, form in scripted.asked] == [None, "not so secret", "not so secret"]


def test_slow_down() -> None:
    """Each time the provider says so, five seconds more, for good (RFC 8628 §3.5)."""
    time = Time()
    with provider(token=[SLOW, PENDING, SLOW, GIVEN]) as scripted:
        shown(scripted, time)
    assert time.slept == [1, 6, 6, 11]


@pytest.mark.parametrize(("interval", "first"), [(None, 5), (0, 1), (-7, 1), (2.5, 2.5), (10**9, 60)], ids=str)
def test_the_pace(interval: float | None, first: float) -> None:
    """Five seconds where the provider does not say; never without a pause, and never for ever."""
    time = Time()
    with provider(device=[device(interval=interval)]) as scripted:
        shown(scripted, time)
    assert time.slept == [first]


def test_a_lost_answer_is_asked_for_again() -> None:
    """A provider that does not answer once is asked less often, as it may have too much to do."""
    broken = Said(b"", headers={"Content-Length": "5", "Connection": "close"})
    time = Time()
    with provider(token=[broken, broken, GIVEN]) as scripted:
        shown(scripted, time)
    assert time.slept == [1, 2, 4]


def test_denial() -> None:
    """The person said no."""
    with provider(token=[PENDING, error("access_denied", "the \x1b[31mperson\n refused")]) as scripted:
        refused(scripted, NotAuthorized, "did not allow it", prompts=1)


def test_nobody_comes() -> None:
    """It ends when the code does, by the provider's word or by our clock, and never later than half an hour."""
    time = Time()
    with provider(token=[PENDING], device=[device(interval=50)]) as scripted:
        refused(scripted, Unreachable, "nobody allowed it in time", prompts=1, time=time)
    assert sum(time.slept) == 550
    with provider(token=[error("expired_token")]) as scripted:
        refused(scripted, Unreachable, "nobody allowed it in time", prompts=1)
    time = Time()
    with provider(token=[PENDING], device=[device(expires_in=10**9, interval=60)]) as scripted:
        refused(scripted, Unreachable, "nobody allowed it in time", prompts=1, time=time)
    assert sum(time.slept) == 1740
    with provider(token=[PENDING], device=[device(expires_in=-5)]) as scripted:
        refused(scripted, Unreachable, "in time", prompts=1)
        assert TOKEN not in scripted.paths()


@pytest.mark.parametrize(
    ("said", "kind", "words"),
    [
        (error("invalid_client", "who are\x1b[2J you"), Refused, r"the provider refuses: who are\[2J you"),
        (error("invalid_grant"), Refused, "invalid_grant"),
        (Said({"access_token": "only"}), Refused, "no ID token"),
        (Said({}, 500), Refused, "answers 500 and says nothing"),
        (Said({"id_token": "a" * (MAX_TOKEN + 1)}), Malformed, "an ID token of 16385 characters"),
        (Said({"id_token": 1}), Malformed, "not a _Tokens"),
        (Said(b"<html>"), Malformed, "not a _Tokens"),
        (Said(b"[" * 5000), Malformed, "not a _Tokens"),
        (Said(b" " * 100_000), Malformed, "sends over"),
        (Said(b"", 302, {"Location": "https://thief.example/"}), Refused, "sends us to 'https://thief.example/'"),
        (Said({"id_token": "a.b.c"}, 307, {"Location": "/token"}), Refused, "sends us to '/token'"),
    ],
)
def test_tokens_that_are_none(said: Said, kind: type[HandfastError], words: str) -> None:
    """The provider refuses, gives something else, far too much, or would have the device's code sent elsewhere."""
    with provider(token=[said]) as scripted:
        refused(scripted, kind, words, prompts=1)
        assert scripted.paths().count(TOKEN) == 1


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"verification_uri": "javascript:alert(1)"}, Malformed, "would have us open"),
        ({"verification_uri": "http://id.example.org/device"}, Malformed, "would have us open"),
        ({"verification_uri": "https://id.example.org/\x1b[2J"}, Malformed, "would have us open"),
        ({"verification_uri": "https://id.example.org/ x"}, Malformed, "would have us open"),
        ({"verification_uri": ""}, Malformed, "a code that is none"),
        ({"verification_uri_complete": "file:///etc/passwd"}, Malformed, "would have us open"),
        ({"user_code": ""}, Malformed, "a code that is none"),
        ({"user_code": "A\x1b]0;x"}, Malformed, "a code that is none"),
        ({"user_code": "A" * 65}, Malformed, "a code that is none"),
        ({"device_code": None}, Malformed, "not a _Device"),
        ({"expires_in": "soon"}, Malformed, "not a _Device"),
    ],
)
def test_prompts_that_nobody_is_shown(changes: dict[str, Any], kind: type[HandfastError], words: str) -> None:
    """What a terminal or a browser would act on never gets there."""
    with provider(device=[device(**changes)]) as scripted:
        refused(scripted, kind, words)
        assert TOKEN not in scripted.paths()


def test_without_a_whole_address() -> None:
    """The one with the code in it is optional."""
    with provider(device=[device(verification_uri_complete=None)]) as scripted:
        assert shown(scripted).complete == ""


@pytest.mark.parametrize(
    ("said", "words"),
    [(error("unauthorized_client"), "unauthorized_client"), (Said({}, 500), "without a reason")],
)
def test_a_client_that_may_not(said: Said, words: str) -> None:
    """The provider does not know this client, or does not let it."""
    with provider(device=[said]) as scripted:
        assert "allowed the device flow" in refused(scripted, Refused, words).hint


def test_another_issuer() -> None:
    """A provider that says it is somebody else: tokens would be mixed up (RFC 9700 §4.4)."""
    for issuer in ("https://id.example.com", "http://127.0.0.1:1", ""):
        with provider(metadata=[metadata(issuer)]) as scripted:
            refused(scripted, UntrustedPeer, "says that it is")
            assert scripted.paths() == [METADATA]


@pytest.mark.parametrize(
    ("changes", "kind", "words"),
    [
        ({"device_authorization_endpoint": None}, UsageError, "has no device flow"),
        ({"token_endpoint": None}, UsageError, "has no device flow"),
        ({"token_endpoint": "http://id.example.org/token"}, Malformed, "not a URL of an OpenID provider"),
        ({"device_authorization_endpoint": "ftp://127.0.0.1/"}, Malformed, "not a URL of an OpenID provider"),
        ({"jwks_uri": "https://user:pw@id.example.org/"}, Malformed, "not a URL of an OpenID provider"),
        ({"jwks_uri": None}, Malformed, "not a Metadata"),
    ],
)
def test_descriptions_that_do_not_do(changes: dict[str, Any], kind: type[HandfastError], words: str) -> None:
    """No device flow, or an endpoint over which anybody could listen."""
    with provider() as scripted:
        scripted.answers[METADATA] = [metadata(scripted.issuer, **changes)]
        refused(scripted, kind, words)
        assert scripted.paths() == [METADATA]


@pytest.mark.parametrize(
    ("said", "kind", "words"),
    [
        (Said({}, 404), Refused, "answers 404 where it should describe itself"),
        (Said(b"", 301, {"Location": "https://thief.example/"}), Refused, "sends us to"),
        (Said(b"x" * (MAX_METADATA + 1)), Malformed, "sends over"),
        (Said(b"x" * 100, headers={"Content-Length": str(10**12)}), Unreachable, "no answer from"),
        (Said(b"\x1f\x8b", headers={"Content-Encoding": "gzip"}), Malformed, "not a Metadata"),
    ],
)
def test_documents_that_are_none(said: Said, kind: type[HandfastError], words: str) -> None:
    """Not there, elsewhere, too long, cut off, or compressed into little."""
    if "Content-Length" in said.headers:
        said.headers["Connection"] = "close"
    with provider(metadata=[said]) as scripted:
        refused(scripted, kind, words)


def test_nobody_listens() -> None:
    """A provider that is not there is said by name."""
    with provider() as scripted:
        pass
    refused(scripted, Unreachable, "no answer from 127.0.0.1")


def test_an_issuer_in_the_clear() -> None:
    """What a registrar says is not followed into the clear, but to this very machine."""
    view = ProviderView("corp", "http://id.example.org", "handfast", ["openid"])
    with pytest.raises(Malformed, match="not a URL of an OpenID provider"):
        token(view, lambda _prompt: None)
