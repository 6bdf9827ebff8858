"""
Artifacts on their way into the agent: as a request's body, or fetched by it from a place that its policy names.

What comes is written by threads, one piece after the other, while the next one comes: so memory holds a few of them,
however fast they are sent.
"""

from __future__ import annotations

import asyncio
import re
import sys
from base64 import b64decode
from collections import deque
from collections.abc import AsyncIterator, Callable
from concurrent.futures import ThreadPoolExecutor
from contextlib import AbstractContextManager, asynccontextmanager
from typing import Protocol, TypeVar
from urllib.parse import SplitResult, unquote, urljoin, urlsplit

import aiohttp
from yarl import URL

from handfast.adapters.threads import finished
from handfast.adapters.tls import public_client_context
from handfast.agent.artifacts import Artifacts
from handfast.core.agentjson import ArtifactAbout
from handfast.errors import Malformed, NotAuthorized, Unreachable

PIECE = 1024 * 1024  # bytes
AHEAD = 3  # of them that wait for the disk
SLOWEST = 60.0  # seconds for a piece
RATE = 64 * 1024  # bytes a second, on average from then on: there are few places for what comes
HEAD = 30.0  # seconds until a server has said whether it has a file, or where else it is
LONGEST = 6 * 3600.0  # seconds for a whole artifact
REDIRECTS = 5
_DIGEST = re.compile(r"(?:^|,)\s*sha-256=:([A-Za-z0-9+/]{43}=):", re.ASCII)  # RFC 9530, RFC 8941 §3.3.5
T = TypeVar("T")


class Content(Protocol):
    """What can be read piece by piece: a request's body, an answer's, or a part of a form."""

    async def __call__(self) -> bytes:
        """Return some bytes; none at the end."""


async def receive(
    artifacts: Artifacts, name: str, content: Content, *, size: int | None = None, sha256: str | None = None
) -> ArtifactAbout:
    """
    Take an artifact, whole or not at all, and say what came.

    ``size`` (bytes) and ``sha256`` (hex) are what was announced.

    :raises TimeoutError: it comes too slowly. Otherwise as ``Artifacts.incoming``.
    """
    async with asyncio.timeout(LONGEST), _in_threads(artifacts.incoming(name, size=size, sha256=sha256)) as coming:
        writer = ThreadPoolExecutor(1, "artifact")  # a thread of its own keeps them in order
        written: deque[asyncio.Future[None]] = deque()
        try:
            async for piece in _pieces(content):
                if len(written) == AHEAD:
                    await written.popleft()
                written.append(asyncio.get_running_loop().run_in_executor(writer, coming.write, piece))
            while written:
                await written.popleft()
        finally:  # of several failures that there may be, one is told; and nothing writes any more
            await finished(writer.shutdown, wait=True, cancel_futures=True)
            await asyncio.gather(*written, return_exceptions=True)
    return ArtifactAbout(name, coming.size, coming.sha256)


def announced_digest(header: str | None) -> str | None:
    """
    Return the SHA-256 (hex) in a ``Repr-Digest`` field (RFC 9530), None where there is no field.

    :raises Malformed: a field without one: whoever sends it wants something to be compared.
    """
    if header is None:
        return None
    found = _DIGEST.search(header)
    if found is None:
        raise Malformed(f"no SHA-256 in Repr-Digest: {header[:120]!r}", hint="Repr-Digest: sha-256=:BASE64:")
    return b64decode(found[1]).hex()


async def pull(
    artifacts: Artifacts,
    name: str,
    url: str,
    *,
    sha256: str,
    places: tuple[str, ...],
    wanted: Callable[[], bool] = lambda: True,
) -> ArtifactAbout:
    """
    Fetch an artifact by HTTPS from under one of ``places``, verified by the system's CAs and by its digest.

    It ends when it is not ``wanted`` any more, which is looked at whenever something comes: so within a minute.

    :raises NotAuthorized: the URL, or where it redirects to, is in none of these places.
    :raises Unreachable: the server, or the file there. Otherwise as ``receive``.
    """
    connector = aiohttp.TCPConnector(ssl=public_client_context(), limit=1)
    timeout = aiohttp.ClientTimeout(total=LONGEST, sock_connect=10.0, sock_read=SLOWEST)
    headers = {"Accept-Encoding": "identity", "User-Agent": "handfast-agent"}
    jar = aiohttp.DummyCookieJar()
    async with aiohttp.ClientSession(
        connector=connector, timeout=timeout, headers=headers, cookie_jar=jar, auto_decompress=False
    ) as session:
        try:
            for _ in range(REDIRECTS + 1):
                check_place(url, places)
                if not wanted():
                    raise Unreachable(f"nobody waits for {_shown(url)} any more")
                async with await _answer(session, url) as answer:
                    if answer.status in {301, 302, 303, 307, 308}:
                        url = _joined(url, answer.headers.get("Location", ""))
                        continue
                    if answer.status != 200:
                        raise Unreachable(f"{_shown(url)} answered with status {answer.status}")
                    content, size = _while(wanted, answer.content.readany), answer.content_length
                    return await receive(artifacts, name, content, size=size, sha256=sha256)
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            # Its kind only: what aiohttp says has the URL in it, with its query.
            reason = "it took too long" if isinstance(error, TimeoutError) else type(error).__name__
            raise Unreachable(f"cannot fetch {_shown(url)}: {reason}", hint="from that machine, is it there?") from None
    raise Unreachable(f"over {REDIRECTS} redirects, the last to {_shown(url)}")


async def _answer(session: aiohttp.ClientSession, url: str) -> aiohttp.ClientResponse:
    """Return the head of what a server answers. aiohttp itself would wait through any number of interim ones."""
    async with asyncio.timeout(HEAD):
        # As it was checked: nothing is quoted anew.
        return await session.get(URL(url, encoded=True), allow_redirects=False)


def _while(wanted: Callable[[], bool], content: Content) -> Content:
    async def read() -> bytes:
        if not wanted():
            raise ConnectionAbortedError
        return await content()

    return read


def check_place(url: str, places: tuple[str, ...]) -> None:
    """
    Check that a URL is under one of the places that the policy names (https, a folder).

    :raises NotAuthorized: it is not, or a server could read it in two ways.
    """
    parts = _split(url)
    path = unquote(parts.path)
    plain = url.isascii() and url.isprintable() and not re.search(r"[\s\\]", path) and path.isprintable()
    # Quoted twice, or with a parameter in the middle (`..;/`), a path is another one for some servers.
    twice = re.search(r"%2f|%25|;|%3b", parts.path, re.IGNORECASE)
    straight = not {".", ".."} & set(path.split("/")) and "@" not in parts.netloc and not twice
    if plain and straight and any(_under(parts, urlsplit(place)) for place in places):
        return
    raise NotAuthorized(
        f"the policy of this machine does not allow to fetch {_shown(url)}", hint="it names places with `pull`"
    )


def _under(parts: SplitResult, place: SplitResult) -> bool:
    here, there = ((each.scheme, each.hostname, each.port or 443) for each in (parts, place))
    return here == there and parts.scheme == "https" and parts.path.startswith(place.path)


def _split(url: str) -> SplitResult:
    try:
        parts = urlsplit(url)
        _ = parts.port  # which may be no number, and is only looked at here
    except ValueError:
        raise Malformed(f"not a URL: {_shown(url)}", hint="https://HOST/PATH") from None
    return parts


def _joined(url: str, location: str) -> str:
    try:
        return urljoin(url, location)
    except ValueError:
        raise Unreachable(f"{_shown(url)} leads to what is no URL") from None


def _shown(url: str) -> str:
    # Without its query: signed URLs have their secret there.
    return repr(url.partition("?")[0][:200])


async def _pieces(content: Content) -> AsyncIterator[bytes]:
    """Give what comes in pieces of a size that is worth a thread's turn."""
    loop = asyncio.get_running_loop()
    began, came, size = loop.time(), 0, PIECE
    while size >= PIECE:
        parts, size = [], 0
        # Also for one who sends a byte at a time; and who was fast before has nothing saved up by that.
        async with asyncio.timeout_at(min(loop.time(), began + came / RATE) + SLOWEST):
            while size < PIECE and (part := await content()):
                parts.append(part)
                size += len(part)
        came += size
        if parts:
            yield b"".join(parts)


@asynccontextmanager
async def _in_threads(manager: AbstractContextManager[T]) -> AsyncIterator[T]:
    """Enter and leave a block that waits for the disk in threads. It is left whatever happens, also if cancelled."""
    entered: list[T] = []
    try:
        await finished(lambda: entered.append(manager.__enter__()))
        yield entered[0]
    except BaseException:
        if entered:
            await finished(manager.__exit__, *sys.exc_info())
        raise
    await finished(manager.__exit__, None, None, None)
