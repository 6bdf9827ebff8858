"""Keys of OpenID providers: fetched in time, seldom, once for all that wait, and never believed for ever."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Callable
from dataclasses import dataclass, field, replace
from datetime import UTC, datetime, timedelta

import pytest

from handfast.core.openid import MAX_KEYS, Provider, read_metadata
from handfast.errors import HandfastError, Malformed, Refused, Unreachable, UntrustedPeer
from handfast.introducers.oidc import Keys, read_keys
from handfast.registrar.provider_keys import PAUSE, REFRESH, USABLE, ProviderKeys, fetch_keys
from tests.introducers.stage_login import CORP, CORP_KEY, KID, OTHER, OTHER_KEY, jwk, key_set
from tests.newcomer.provider import KEYS, METADATA, Said, metadata, provider

SECOND = timedelta(seconds=1)
FIRST, SECOND_SET = read_keys(key_set(jwk(CORP_KEY))), read_keys(key_set(jwk(CORP_KEY), jwk(OTHER_KEY, "next")))


@dataclass
class Hand:
    """A clock that a test moves."""

    time: datetime = datetime(2026, 11, 22, tzinfo=UTC)

    def now(self) -> datetime:
        """What it shows."""
        return self.time


@dataclass
class World:
    """Providers that answer what a test says, and count."""

    clock: Hand = field(default_factory=Hand)
    said: Keys | HandfastError = FIRST
    fetched: list[str] = field(default_factory=list)
    gate: asyncio.Event | None = None

    async def fetch(self, provider: Provider) -> Keys:
        """One fetch."""
        self.fetched.append(provider.name)
        if self.gate is not None:
            await self.gate.wait()
        if isinstance(self.said, HandfastError):
            raise self.said
        return self.said

    @property
    def keys(self) -> ProviderKeys:
        """What is under test."""
        return ProviderKeys(self.clock, fetch=self.fetch)


def test_nothing_is_known_at_first() -> None:
    """Then what a token names is fetched, and known."""
    world = World()
    keys = world.keys
    assert keys.of(CORP) is None
    asyncio.run(keys.have(CORP, KID))
    assert keys.of(CORP) == FIRST
    assert keys.of(OTHER) is None
    asyncio.run(keys.have(CORP, KID))
    assert world.fetched == ["corp"]


def test_a_key_that_is_not_known_is_looked_for_seldom() -> None:
    """Whoever sends tokens with invented key ids has us ask once in a while, and not each time."""
    world = World()
    keys = world.keys
    for _ in range(50):
        asyncio.run(keys.have(CORP, "invented"))
    assert world.fetched == ["corp"]
    world.clock.time += PAUSE
    world.said = SECOND_SET
    asyncio.run(keys.have(CORP, "next"))
    assert keys.of(CORP) == SECOND_SET
    assert world.fetched == ["corp"] * 2


def test_many_that_wait_have_it_fetched_once() -> None:
    """A herd of logins after a start or a change of keys is one question."""
    world = World()

    async def herd() -> None:
        world.gate, keys = asyncio.Event(), world.keys
        waiting = [asyncio.create_task(keys.have(CORP, KID)) for _ in range(20)]
        await asyncio.sleep(0)
        world.gate.set()
        await asyncio.gather(*waiting)
        assert keys.of(CORP) == FIRST

    asyncio.run(herd())
    assert world.fetched == ["corp"]


def test_many_that_wait_for_a_provider_that_hangs() -> None:
    """They wait once, all together, and not one after the other."""
    world = World(said=Unreachable("it took too long"))

    async def herd() -> None:
        world.gate, keys = asyncio.Event(), world.keys
        waiting = [asyncio.create_task(keys.have(CORP, KID)) for _ in range(20)]
        await asyncio.sleep(0)
        world.clock.time += 3 * PAUSE
        world.gate.set()
        await asyncio.gather(*waiting)

    asyncio.run(herd())
    assert world.fetched == ["corp"]


def test_a_provider_that_does_not_answer() -> None:
    """What is known stays good for a day, and not a second longer; the failure is told to whoever looks after it."""
    world = World()
    keys = world.keys
    asyncio.run(keys.refresh((CORP,)))
    world.said = Unreachable("no answer")
    world.clock.time += USABLE - SECOND
    asyncio.run(keys.have(CORP, "unknown"))  # is no reason to refuse what the known keys verify
    assert keys.of(CORP) == FIRST
    world.clock.time += SECOND
    assert keys.of(CORP) is None
    world.clock.time += PAUSE
    with pytest.raises(Unreachable, match="no answer"):
        asyncio.run(keys.refresh((CORP,)))
    world.said = FIRST
    world.clock.time += PAUSE
    asyncio.run(keys.have(CORP, KID))
    assert keys.of(CORP) == FIRST


def test_refreshed_every_hour() -> None:
    """Not sooner; and one provider's failure does not keep the others'."""
    world = World()
    keys = world.keys
    for _ in range(3):
        asyncio.run(keys.refresh((CORP, OTHER)))
    assert world.fetched == ["corp", "other"]
    world.clock.time += REFRESH
    asyncio.run(keys.refresh((CORP, OTHER)))
    assert world.fetched == ["corp", "other"] * 2


def test_a_clock_that_was_set_back() -> None:
    """What was fetched in the future is of unknown age: it is fetched again, and not believed until then."""
    world = World()
    keys = world.keys
    asyncio.run(keys.refresh((CORP,)))
    world.clock.time -= timedelta(days=300)
    assert keys.of(CORP) is None
    asyncio.run(keys.have(CORP, KID))
    assert keys.of(CORP) == FIRST


def test_a_name_with_another_issuer_is_another_provider() -> None:
    """After a change of the configuration nothing is left of what the old one said."""
    world = World()
    keys = world.keys
    asyncio.run(keys.have(CORP, KID))
    assert keys.of(replace(CORP, issuer="https://new.example.org")) is None
    assert keys.of(replace(CORP, client_id="another")) == FIRST


# --- fetching ---


def fetched(said: dict[str, list[Said | Callable[[], Said]]]) -> tuple[Keys, list[str]]:
    """What a provider's keys are, and what it was asked for."""
    with provider(**said) as scripted:
        for answer in scripted.answers[METADATA]:
            assert isinstance(answer, Said)
        return asyncio.run(fetch_keys(Provider("corp", scripted.issuer, "handfast"))), scripted.paths()


def test_discovery_and_keys() -> None:
    """The document says where the keys are."""
    keys, paths = fetched({"keys": [Said(key_set(jwk(CORP_KEY)))]})
    assert keys == FIRST
    assert paths == [METADATA, KEYS]


@pytest.mark.parametrize(
    ("said", "kind", "words"),
    [
        ({"metadata": [metadata("https://id.example.com")]}, UntrustedPeer, "says that it is"),
        ({"metadata": [Said({}, 500)]}, Refused, "answers 500"),
        ({"metadata": [Said(b"", 302, {"Location": "https://thief.example"})]}, Refused, "sends us to"),
        ({"keys": [Said(b"", 302, {"Location": "https://thief.example"})]}, Refused, "sends us to"),
        ({"keys": [Said({}, 404)]}, Refused, "answers 404"),
        ({"keys": [Said(b" " * 10_000_000)]}, Malformed, f"sends over {MAX_KEYS} bytes"),
        ({"keys": [Said({"keys": []})]}, Malformed, "no key in the provider's key set"),
        ({"keys": [Said(b"<html>")]}, Malformed, "not a KeySet"),
    ],
)
def test_providers_that_are_broken_or_worse(
    said: dict[str, list[Said | Callable[[], Said]]], kind: type[HandfastError], words: str
) -> None:
    """Another issuer, a redirect, ten megabytes, nothing of use: each is refused by what it is."""
    with pytest.raises(kind, match=words):
        fetched(said)


def test_keys_on_this_very_machine() -> None:
    """A provider elsewhere cannot have us ask ourselves."""
    document = metadata("https://id.example.org", jwks_uri="http://127.0.0.1:1/keys").body
    with pytest.raises(Malformed, match="which is this machine"):
        read_metadata(json.dumps(document).encode(), issuer="https://id.example.org")
