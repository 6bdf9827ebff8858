"""
The keys of OpenID providers, as they were last fetched: every hour, and when a token names one that is not known.

Anybody can send such a token, so that is done seldom, and once for all that wait.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable, Iterable
from dataclasses import dataclass
from datetime import datetime, timedelta
from http import HTTPStatus

from handfast.adapters import web
from handfast.core import openid
from handfast.core.openid import MAX_KEYS, MAX_METADATA, Provider
from handfast.core.ports import Clock
from handfast.errors import HandfastError, Refused
from handfast.introducers.oidc import Keys, read_keys

REFRESH = timedelta(hours=1)
USABLE = timedelta(hours=24)  # a key that the provider took back is believed no longer, also while it cannot be asked
PAUSE = timedelta(seconds=10)  # between two fetches from one provider, whoever asks


@dataclass(frozen=True, slots=True)
class _Fetched:
    keys: Keys
    at: datetime


class ProviderKeys:
    """What is known of the providers' keys; it outlives a change of the configuration."""

    def __init__(self, clock: Clock, *, fetch: Callable[[Provider], Awaitable[Keys]] | None = None) -> None:
        self._clock, self._fetch = clock, fetch or fetch_keys
        self._known: dict[str, _Fetched] = {}  # by issuer
        self._tried: dict[str, datetime] = {}
        self._turns: dict[str, asyncio.Lock] = {}

    def of(self, provider: Provider) -> Keys | None:
        """Return a provider's keys; None where they were never fetched, or too long ago."""
        found = self._known.get(provider.issuer)
        return found.keys if found is not None and self._age(found.at) < USABLE else None

    async def have(self, provider: Provider, kid: str | None) -> None:
        """
        See to it that the key which a token names is known, if the provider has it.

        A provider that does not answer is no reason to refuse what can be verified without it.
        """
        known = self.of(provider)
        if known is not None and known.knows(kid):
            return
        try:
            await self._again(provider)
        except HandfastError:
            return  # the same is tried by ``refresh``, whose failures are logged

    async def refresh(self, providers: Iterable[Provider]) -> None:
        """Fetch what is old. :raises HandfastError: what the first of those said that could not be had."""
        done = await asyncio.gather(
            *(self._again(each) for each in providers if self._old(each)), return_exceptions=True
        )
        for failure in done:
            if failure is not None:
                raise failure

    def _old(self, provider: Provider) -> bool:
        found = self._known.get(provider.issuer)
        return found is None or self._age(found.at) >= REFRESH

    def _age(self, at: datetime) -> timedelta:
        age = self._clock.now() - at
        return age if age >= timedelta() else timedelta.max  # the clock was set back: nothing is known of it

    async def _again(self, provider: Provider) -> None:
        """Fetch, unless somebody has tried just now; whoever comes in between waits for the one that does."""
        turn = self._turns.setdefault(provider.issuer, asyncio.Lock())
        async with turn:
            tried = self._tried.get(provider.issuer)
            if tried is not None and self._age(tried) < PAUSE:
                return
            try:
                keys = await self._fetch(provider)
                self._known[provider.issuer] = _Fetched(keys, self._clock.now())
            finally:  # and not before: who waited for one that took long would try again, one after the other
                self._tried[provider.issuer] = self._clock.now()


async def fetch_keys(provider: Provider) -> Keys:
    """
    Ask a provider for its keys (OpenID Connect Discovery 1.0).

    :raises UntrustedPeer: it is another issuer. :raises HandfastError: no answer, or not such an answer.
    """
    metadata = openid.read_metadata(
        await _document(openid.metadata_url(provider.issuer), MAX_METADATA), issuer=provider.issuer
    )
    return read_keys(await _document(metadata.jwks_uri, MAX_KEYS))


async def _document(url: str, limit: int) -> bytes:
    status, body = await web.ask(url, limit=limit)
    if status != HTTPStatus.OK:
        raise Refused(f"{url} answers {status}", hint="is the issuer in [[oidc]] right?")
    return body
