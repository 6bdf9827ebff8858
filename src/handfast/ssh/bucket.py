"""
An object store as a letter box: addresses that take one upload each, and the collecting of what came.

Such an address is a URL with a signature in it (AWS Signature Version 4, in the query). It is good for one object, for
writing, for a time; and because ``If-None-Match: *`` is signed along with it, only until something lies there. So the
machine that gets it needs no credential, and nobody who reads it afterwards can replace what was uploaded.

No library signs this header into a URL but Amazon's own, which is ten times the size of this program.
"""

from __future__ import annotations

import asyncio
import hashlib
import hmac
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from email.utils import parsedate_to_datetime
from http import HTTPStatus
from typing import TYPE_CHECKING
from urllib.parse import quote, urlencode, urlsplit

import msgspec

from handfast.adapters.aws import Account
from handfast.adapters.tls import public_client_context
from handfast.core import span
from handfast.core.flow import Channel, Evidence
from handfast.core.hosts import Host
from handfast.core.records import Invitation
from handfast.errors import (
    Fault,
    HandfastError,
    Malformed,
    NotAuthorized,
    NotFound,
    Refused,
    TooMuch,
    Unreachable,
    Unsafe,
    UsageError,
)
from handfast.introducers.bucket import LATEST, MAX_UPLOAD, NAME, HostKeyUpload

if TYPE_CHECKING:
    import aiohttp

ONCE: Mapping[str, str] = {"If-None-Match": "*"}  # signed into an address: it takes one upload
LONGEST = timedelta(days=7)  # of a signed URL, says the specification
TIMEOUT = 30.0  # seconds for each request
_OURS = timedelta(minutes=5)  # how long the URLs last that we sign for ourselves
_TOGETHER = 16  # requests at a time
_MOST_TRIES = 3
_PROBE = "handfast-write-once"  # an object that stays, so that the question leaves nothing else behind
_BUCKET = re.compile(r"[a-z0-9][a-z0-9.-]{1,61}[a-z0-9]")
_PREFIX = re.compile(r"[A-Za-z0-9._-]+(?:/[A-Za-z0-9._-]+)*")
_ENDPOINT = re.compile(r"https?://[A-Za-z0-9.-]+(?::[0-9]{1,5})?/?|https?://\[[0-9a-fA-F:]+\](?::[0-9]{1,5})?/?")
_CODE = re.compile(rb"<Code>([A-Za-z0-9.]{1,80})</Code>")
_BUSY = frozenset({408, 409, 425, 429, 500, 502, 503, 504})


# --- signing: pure ---


def presign(
    method: str, url: str, account: Account, *, now: datetime, lasting: timedelta, headers: Mapping[str, str] = {}
) -> str:
    """
    Return ``url`` (no query of its own) with a signature in its query, for one method and exactly these ``headers``.

    Source: Amazon S3 API Reference, "Authenticating Requests: Using Query Parameters (AWS Signature Version 4)".

    :raises UsageError: longer than seven days, or not a positive number of seconds.
    """
    seconds = int(lasting.total_seconds())
    if not 0 < seconds <= LONGEST.total_seconds():
        raise UsageError(f"a signed URL cannot last {span.written(lasting)}", hint=f"1s to {LONGEST.days}d")
    parts = urlsplit(url)
    stamp = now.astimezone(UTC).strftime("%Y%m%dT%H%M%SZ")
    scope = f"{stamp[:8]}/{account.region}/s3/aws4_request"
    signed = sorted((("host", parts.netloc), *((name.lower(), value.strip()) for name, value in headers.items())))
    names = ";".join(name for name, _ in signed)
    query = {
        "X-Amz-Algorithm": "AWS4-HMAC-SHA256",
        "X-Amz-Credential": f"{account.key_id}/{scope}",
        "X-Amz-Date": stamp,
        "X-Amz-Expires": str(seconds),
        "X-Amz-SignedHeaders": names,
    }
    if account.session is not None:
        query["X-Amz-Security-Token"] = account.session
    written = urlencode(sorted(query.items()), quote_via=quote, safe="-_.~")
    lines = (method, parts.path, written, *(f"{name}:{value}" for name, value in signed), "", names, "UNSIGNED-PAYLOAD")
    hashed = hashlib.sha256("\n".join(lines).encode()).hexdigest()
    key = b"AWS4" + account.secret.reveal()
    for part in scope.split("/"):
        key = hmac.digest(key, part.encode(), "sha256")
    signature = hmac.digest(key, f"AWS4-HMAC-SHA256\n{stamp}\n{scope}\n{hashed}".encode(), "sha256").hex()
    return f"{parts.scheme}://{parts.netloc}{parts.path}?{written}&X-Amz-Signature={signature}"


@dataclass(frozen=True, slots=True)
class Bucket:
    """A bucket, and the beginning of its objects' names (empty, or ending with a slash). Make one with ``parse``."""

    account: Account
    base: str
    prefix: str

    @classmethod
    def parse(cls, text: str, account: Account) -> Bucket:
        """
        Read ``s3://BUCKET[/PREFIX]``.

        :raises Malformed: not such a URL, or the account's endpoint is none.
        """
        name, _, prefix = text.removeprefix("s3://").partition("/")
        prefix = prefix.removesuffix("/")
        if not text.startswith("s3://") or not _BUCKET.fullmatch(name) or (prefix and not _PREFIX.fullmatch(prefix)):
            raise Malformed(f"not a bucket: {text[:80]!r}", hint="s3://BUCKET or s3://BUCKET/PREFIX")
        if {".", ".."} & set(prefix.split("/")):  # clients and proxies would leave such a part out
            raise Malformed(f"not a prefix: {prefix[:80]!r}", hint="words with slashes between")
        if account.endpoint is None:
            host = f"s3.{account.region}.amazonaws.com"
            # A dot in the bucket's name does not fit the wildcard in Amazon's certificate.
            base = f"https://{host}/{name}/" if "." in name else f"https://{name}.{host}/"
        elif not _ENDPOINT.fullmatch(account.endpoint):
            raise Malformed(f"not an endpoint: {account.endpoint[:80]!r}", hint="AWS_ENDPOINT_URL=https://host[:port]")
        else:
            base = f"{_without_default_port(account.endpoint)}/{name}/"
        return cls(account, base, f"{prefix}/" if prefix else "")

    def address(self, invitation: Invitation, *, now: datetime) -> str:
        """
        Return the URL that takes the upload of an invitation: once, and while the invitation lasts.

        It is sent with ``ONCE`` as its header. :raises UsageError: it lasts for over seven days.
        """
        url = self._url(invitation)
        return presign("PUT", url, self.account, now=now, lasting=invitation.expires_at - now, headers=ONCE)

    def _url(self, invitation: Invitation) -> str:
        """An object for each invitation: a machine that is made anew is another object."""
        return f"{self.base}{self.prefix}{invitation.machine}/{invitation.key_id}"

    def _ours(self, method: str, url: str, now: datetime, headers: Mapping[str, str] = {}) -> str:
        return presign(method, url, self.account, now=now, lasting=_OURS, headers=headers)


def _without_default_port(endpoint: str) -> str:
    """As every client writes the header ``Host``, which is signed."""
    scheme, _, place = endpoint.removesuffix("/").lower().partition("://")
    return f"{scheme}://{place.removesuffix(':443' if scheme == 'https' else ':80')}"


# --- the store ---


@dataclass(frozen=True, slots=True)
class Collected:
    """
    What became of one invitation: its ``host`` was registered, or a ``problem`` was met, or nothing is there yet.

    :ivar problem: of class ``Refused`` where the upload is no good, another where the store did not answer.
    """

    invitation: Invitation
    host: Host | None = None
    problem: HandfastError | None = None


def check_write_once(bucket: Bucket, *, now: Callable[[], datetime]) -> None:
    """
    Ask the store for what the addresses rely on, before a machine does: that nothing is overwritten.

    An object ``handfast-write-once`` is left there. An account or a bucket that is wrong shows here as well, and not
    only when a machine has booted in vain.

    :raises Unsafe: the store overwrites. :raises NotAuthorized: it refuses this account.
    :raises NotFound: it has no such bucket. :raises Unreachable: no answer.
    """
    asyncio.run(_check_write_once(bucket, now))


async def _check_write_once(bucket: Bucket, now: Callable[[], datetime]) -> None:
    url = f"{bucket.base}{bucket.prefix}{_PROBE}"
    async with _session() as session:
        for _ in range(2):  # the first may be the very first
            signed = bucket._ours("PUT", url, now(), ONCE)  # noqa: SLF001  this module's own
            status, body, _ = await _ask(session, "PUT", signed, headers=ONCE, data=b"Handfast asks.\n")
            if status == HTTPStatus.PRECONDITION_FAILED:
                return
            if status != HTTPStatus.OK:
                raise _refused(status, body)
    raise Unsafe(
        f"{_where(bucket)} overwrites what was uploaded once, though it was asked not to (If-None-Match: *)",
        hint="whoever reads the user-data could replace the keys; use a store that honors conditional writes",
    )


def collect(
    bucket: Bucket,
    invitations: Iterable[Invitation],
    publish: Callable[[Evidence], Host],
    *,
    now: Callable[[], datetime],
) -> list[Collected]:
    """
    Fetch what was uploaded for these invitations, and have it verified and registered by ``publish``.

    Those of other methods, used, cancelled, or ended for too long are left out. An upload stays where it is: there is
    nothing secret in it, and while it lies there nobody who has the address can put another one in its place. So the
    account needs to read, to list and to write, and not to delete; the bucket's own rules may clean up after a month.
    """
    awaited = [each for each in invitations if _awaited(each, now())]
    return [
        Collected(invitation, problem=found)
        if isinstance(found, HandfastError)
        else _publish(invitation, found, publish)
        for invitation, found in zip(awaited, asyncio.run(_fetch_all(bucket, awaited, now)), strict=True)
    ]


def _awaited(invitation: Invitation, now: datetime) -> bool:
    is_open = invitation.cancelled is None and invitation.spent < invitation.uses
    return invitation.method == NAME and is_open and now < invitation.expires_at + LATEST


def _publish(invitation: Invitation, upload: HostKeyUpload | None, publish: Callable[[Evidence], Host]) -> Collected:
    if upload is None:
        return Collected(invitation)
    try:
        return Collected(invitation, host=publish(Evidence(NAME, msgspec.json.encode(upload), Channel(b""))))
    except Refused as problem:
        return Collected(invitation, problem=problem)


async def _fetch_all(
    bucket: Bucket, invitations: Iterable[Invitation], now: Callable[[], datetime]
) -> list[HostKeyUpload | HandfastError | None]:
    turn = asyncio.Semaphore(_TOGETHER)

    async def one(invitation: Invitation) -> HostKeyUpload | HandfastError | None:
        async with turn:
            try:
                return await _fetch(session, bucket, invitation, now)
            except HandfastError as problem:  # of one must not keep the others
                return problem

    async with _session() as session:
        return await asyncio.gather(*map(one, invitations))


async def _fetch(
    session: aiohttp.ClientSession, bucket: Bucket, invitation: Invitation, now: Callable[[], datetime]
) -> HostKeyUpload | None:
    """Return what lies there, or None. :raises HandfastError: the store does not say."""
    signed = bucket._ours("GET", bucket._url(invitation), now())  # noqa: SLF001  this module's own
    status, body, headers = await _ask(session, "GET", signed)
    if status == HTTPStatus.NOT_FOUND and _code(body) != "NoSuchBucket":
        return None
    if status != HTTPStatus.OK:
        raise _refused(status, body)
    if len(body) > MAX_UPLOAD:
        raise TooMuch(f"an upload of over {MAX_UPLOAD} bytes for {invitation.machine!r}", hint="nobody honest made it")
    try:
        uploaded_at = parsedate_to_datetime(headers.get("Last-Modified", "")).astimezone(UTC)
    except ValueError:
        raise Malformed(f"{_where(bucket)} does not say when it was uploaded", hint="is it an S3 store?") from None
    return HostKeyUpload(key_id=invitation.key_id, uploaded_at=uploaded_at, upload=body)


def _session() -> aiohttp.ClientSession:
    import aiohttp

    return aiohttp.ClientSession(
        connector=aiohttp.TCPConnector(ssl=public_client_context()),
        timeout=aiohttp.ClientTimeout(total=TIMEOUT),
        trust_env=True,  # proxies
        auto_decompress=False,  # a small body must not become a large one
        skip_auto_headers=("Content-Type",),
    )


async def _ask(
    session: aiohttp.ClientSession, method: str, url: str, *, headers: Mapping[str, str] = {}, data: bytes | None = None
) -> tuple[int, bytes, Mapping[str, str]]:
    """Return status, at most one byte over ``MAX_UPLOAD``, and headers. A store that is busy is asked again."""
    import aiohttp
    from yarl import URL

    delay, tries = 0.5, 0
    while True:
        tries += 1
        try:
            request = session.request(method, URL(url, encoded=True), headers=headers, data=data, allow_redirects=False)
            async with request as answer:
                body = await _read(answer)
                if answer.status not in _BUSY or tries >= _MOST_TRIES:
                    return answer.status, body, answer.headers
        except (aiohttp.ClientError, TimeoutError, OSError) as error:
            if tries >= _MOST_TRIES:
                words = str(error)[:200] or type(error).__name__
                where = urlsplit(url).netloc
                raise Unreachable(f"no answer from {where}: {words}", hint="is AWS_ENDPOINT_URL right?") from None
        await asyncio.sleep(delay)
        delay *= 2


async def _read(answer: aiohttp.ClientResponse) -> bytes:
    body = b""
    async for part in answer.content.iter_any():
        body += part
        if len(body) > MAX_UPLOAD:
            return body[: MAX_UPLOAD + 1]
    return body


def _code(body: bytes) -> str:
    found = _CODE.search(body)
    return found[1].decode() if found else ""


def _refused(status: int, body: bytes) -> HandfastError:
    words = f"the store answers {status} {_code(body)}".rstrip()
    if status in _BUSY:
        return Unreachable(words, hint="try again later")
    if 300 <= status < 400:
        return NotAuthorized(words, hint="the bucket is in another region: set AWS_REGION")
    if status == HTTPStatus.NOT_IMPLEMENTED:
        return Unsafe(words, hint="it has no conditional writes (If-None-Match: *), which keep an upload from others")
    if status == HTTPStatus.NOT_FOUND:
        return NotFound(words, hint="is there a bucket of this name, in AWS_REGION?")
    if 400 <= status < 500:
        return NotAuthorized(words, hint="do the AWS_ variables, the bucket's name and this machine's clock fit?")
    return Fault(words)


def _where(bucket: Bucket) -> str:
    return f"the store at {urlsplit(bucket.base).netloc}"
