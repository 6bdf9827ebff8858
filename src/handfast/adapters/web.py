"""
One request to a server of the public web, bounded: no redirect is followed, and size and time have an end.

Whom to trust is the system's CAs and the host's name; nothing of ours is trusted because of it.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING
from urllib.parse import urlsplit

from handfast.adapters.tls import public_client_context
from handfast.errors import Malformed, Refused, Unreachable

if TYPE_CHECKING:
    import aiohttp

TIMEOUT = 15.0  # seconds for the whole of a request


async def ask(url: str, *, form: Mapping[str, str] | None = None, limit: int) -> tuple[int, bytes]:
    """
    GET ``url``, or POST ``form`` to it; return status and body.

    :raises Unreachable: no whole answer in time. :raises Refused: it sends us elsewhere.
    :raises Malformed: over ``limit`` bytes.
    """
    import aiohttp

    where = urlsplit(url).netloc
    try:
        async with (
            aiohttp.ClientSession(
                connector=aiohttp.TCPConnector(ssl=public_client_context() if url.startswith("https:") else True),
                timeout=aiohttp.ClientTimeout(total=TIMEOUT),
                trust_env=True,  # proxies
                auto_decompress=False,  # a small body must not become a large one
                cookie_jar=aiohttp.DummyCookieJar(),
                headers={"Accept": "application/json"},
            ) as session,
            session.request("GET" if form is None else "POST", url, data=form, allow_redirects=False) as answer,
        ):
            body = await _read(answer, limit)
    except (aiohttp.ClientError, TimeoutError, OSError) as error:
        words = str(error)[:200] or "it took too long"
        raise Unreachable(
            f"no answer from {where}: {words}", hint="is it running, and can it be reached from here?"
        ) from None
    if 300 <= answer.status < 400:
        raise Refused(
            f"{where} sends us to {answer.headers.get('Location', 'nowhere')[:120]!r}", hint="give the address itself"
        )
    if len(body) > limit:
        raise Malformed(f"{where} sends over {limit} bytes", hint="is it an OpenID provider?")
    return answer.status, body


async def _read(answer: aiohttp.ClientResponse, limit: int) -> bytes:
    """Return the body, or one byte more than the limit."""
    body = b""
    async for part in answer.content.iter_any():
        body += part
        if len(body) > limit:
            return body[: limit + 1]
    return body
