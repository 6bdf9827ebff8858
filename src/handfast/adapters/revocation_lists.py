"""
Revocation lists of other authorities, kept in memory and fetched again: from files, and over plain HTTP.

Nothing here is believed: who uses a list checks its signature and its time. What is held against whoever is on the way:
a list never goes back to an older one, and none displaces another but by the same key. Whose a list is, only a path can
say, when it needs it; until then some are kept beside each other, and the newest that is its issuer's counts
(``core.revocation``). A list that cannot be had stays as it was, until it ends.
"""

from __future__ import annotations

import asyncio
import hashlib
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from http import HTTPStatus
from pathlib import Path

from handfast.adapters.files import read_trusted
from handfast.core.revocation import MAX_LIST, RevocationList
from handfast.errors import HandfastError, Malformed, TooMuch, Unreachable

EVERY = timedelta(minutes=15)  # between two fetches of one URL; an authority makes a list some times a day
TIMEOUT = 20.0  # seconds for a whole list
MAX_UNPROVEN = 3  # lists of one source by nobody knows whom; each may be ``MAX_LIST`` large, and anybody can make them


@dataclass(slots=True)
class _Kept:
    lists: tuple[RevocationList, ...] = ()
    latest: bytes = b""  # SHA-256 of what came last
    stamp: tuple[int, int] | None = None  # of a file: when it was written, and its size
    due: datetime | None = None  # of a URL


@dataclass(frozen=True, slots=True)
class RevocationLists:
    """The lists of these sources, files and URLs. ``_kept`` is shared by values with other sources."""

    sources: tuple[str, ...] = ()
    _kept: dict[str, _Kept] = field(default_factory=dict, repr=False)

    def having(self, sources: tuple[str, ...]) -> RevocationLists:
        """Return a value for other sources, which keeps what was fetched; their files are read now, if they can be."""
        other = RevocationLists(sources, self._kept)
        for source in sources:
            kept = other._of(source)
            if not _is_url(source):
                try:
                    _read(Path(source), kept)
                except HandfastError:
                    continue  # ``refresh`` says so, and without a list nobody is introduced
        return other

    def current(self) -> tuple[RevocationList, ...]:
        """Return the lists that are there."""
        return tuple(self._there())

    async def refresh(self, now: datetime) -> None:
        """
        Read files that have changed, and fetch URLs that are due.

        :raises HandfastError: of one source or several; all the others were read.
        """
        failures = []
        for source in self.sources:
            try:
                await self._refresh(source, now)
            except HandfastError as error:
                failures.append(f"{source}: {error.message}")
        if failures:
            raise Unreachable(
                "revocation lists that cannot be had: " + "; ".join(failures),
                hint="where a current list is missing, x5c introduces nobody",
            )

    async def _refresh(self, source: str, now: datetime) -> None:
        kept = self._of(source)
        if not _is_url(source):
            await asyncio.to_thread(_read, Path(source), kept)  # a large list is work, and nobody has to wait for it
        elif kept.due is None or kept.due <= now or kept.due > now + EVERY:  # the last: the clock was set back
            await asyncio.to_thread(_keep, kept, await _fetch(source), source)
            kept.due = now + EVERY

    def _of(self, source: str) -> _Kept:
        return self._kept.setdefault(source, _Kept())

    def _there(self) -> Iterator[RevocationList]:
        for source in self.sources:
            yield from self._of(source).lists


def _is_url(source: str) -> bool:
    return source.startswith("http://")


def _read(path: Path, kept: _Kept) -> None:
    try:
        status = path.stat()
        stamp = (status.st_mtime_ns, status.st_size)
    except OSError:
        stamp = None  # what follows says why
    if stamp is None or stamp != kept.stamp:
        _keep(kept, read_trusted(path, limit=MAX_LIST), str(path))
        kept.stamp = stamp


def _keep(kept: _Kept, data: bytes, source: str) -> None:
    """Take a list in. :raises Malformed: it is none, or an older one than its issuer's that is held."""
    latest = hashlib.sha256(data).digest()
    if latest == kept.latest:
        return  # as most often; what is known of its signature stays known
    new = RevocationList.read(data, source)
    for old in kept.lists:
        if any(new.signed_by(key) for key in old.signers()) and new.since < old.since:
            raise Malformed(f"it is of {new.since:%Y-%m-%d %H:%M}Z, older than the one of {old.since:%Y-%m-%d %H:%M}Z")
    kept.lists = _worth_keeping((*kept.lists, new))
    kept.latest = latest


def _worth_keeping(lists: tuple[RevocationList, ...]) -> tuple[RevocationList, ...]:
    """Return those of which each key's newest is one, and the last few that no path has needed yet."""
    newest = {key: one for one in sorted(lists, key=lambda each: each.since) for key in one.signers()}
    proven = [one for one in lists if any(one is each for each in newest.values())]
    return (*proven, *[one for one in lists if not one.signers()][-MAX_UNPROVEN:])


async def _fetch(url: str) -> bytes:
    import aiohttp  # only here: whoever has no URL does not load it

    try:
        timeout = aiohttp.ClientTimeout(total=TIMEOUT)
        async with (
            aiohttp.ClientSession(timeout=timeout, auto_decompress=False) as session,
            session.get(url, allow_redirects=False) as answer,
        ):
            if answer.status != HTTPStatus.OK:
                raise Unreachable(f"status {answer.status}")
            data = bytearray()
            async for part in answer.content.iter_chunked(1 << 16):
                data += part
                if len(data) > MAX_LIST:
                    raise TooMuch(f"over {MAX_LIST} bytes")
    except (aiohttp.ClientError, TimeoutError, OSError, ValueError) as error:
        raise Unreachable(str(error)[:200] or type(error).__name__) from None
    return bytes(data)
