"""One-time addresses of an object store: signed as published, for one object, one method and one header."""

from __future__ import annotations

from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from urllib.parse import parse_qs, urlsplit

import pytest
from botocore.auth import S3SigV4QueryAuth
from botocore.awsrequest import AWSRequest
from botocore.credentials import Credentials
from hypothesis import given
from hypothesis import strategies as st

from handfast.adapters.aws import Account
from handfast.core.flow import Evidence
from handfast.core.hosts import Host
from handfast.core.secret import Secret
from handfast.errors import Fault, HandfastError, Malformed, NotAuthorized, NotFound, Unreachable, Unsafe, UsageError
from handfast.ssh import bucket
from handfast.ssh.bucket import ONCE, Bucket, presign
from tests.introducers.stage import NOW, an_invitation
from tests.introducers.uploads import expected

HOUR = timedelta(hours=1)
# Amazon S3 API Reference, "Authenticating Requests: Using Query Parameters", its example.
EXAMPLE = Account("AKIAIOSFODNN7EXAMPLE", Secret(b"wJalrXUtnFEMI/K7MDENG/bPxRfiCYEXAMPLEKEY"))


def test_the_published_example() -> None:
    """The signature is the one that Amazon publishes for its example."""
    now, url = datetime(2013, 5, 24, tzinfo=UTC), "https://examplebucket.s3.amazonaws.com/test.txt"
    assert presign("GET", url, EXAMPLE, now=now, lasting=timedelta(days=1)) == (
        "https://examplebucket.s3.amazonaws.com/test.txt?X-Amz-Algorithm=AWS4-HMAC-SHA256"
        "&X-Amz-Credential=AKIAIOSFODNN7EXAMPLE%2F20130524%2Fus-east-1%2Fs3%2Faws4_request"
        "&X-Amz-Date=20130524T000000Z&X-Amz-Expires=86400&X-Amz-SignedHeaders=host"
        "&X-Amz-Signature=aeeed9bbccd4d02ee5c0109b86d86835f995330da4c265957d157751f604d404"
    )


@given(
    st.sampled_from(
        ["https://keys.s3.eu-west-1.amazonaws.com", "http://127.0.0.1:9000/keys", "https://[::1]:9000/keys"]
    ),
    st.from_regex(r"\A(/[A-Za-z0-9._-]{1,12}){1,3}\Z"),
    st.sampled_from(["GET", "PUT"]),
    st.integers(1, 7 * 86400),
    st.none() | st.from_regex(r"\A[A-Za-z0-9/+=]{1,40}\Z"),
    st.sampled_from([{}, ONCE]),
)
def test_amazons_own_library_signs_the_same(
    base: str, path: str, method: str, seconds: int, session: str | None, headers: dict[str, str]
) -> None:
    """The signature is the one that botocore makes, with the header that it is about, and with temporary keys."""
    ours = Account(EXAMPLE.key_id, EXAMPLE.secret, "eu-west-1", session=session)
    url = presign(method, base + path, ours, now=datetime.now(UTC), lasting=timedelta(seconds=seconds), headers=headers)
    request = AWSRequest(method, base + path, headers=dict(headers))
    credentials = Credentials(EXAMPLE.key_id, EXAMPLE.secret.reveal().decode(), session)
    signing = S3SigV4QueryAuth(credentials, "s3", "eu-west-1", expires=seconds)
    signing.add_auth(request)
    theirs, made = parse_qs(urlsplit(request.url).query), parse_qs(urlsplit(url).query)
    if theirs["X-Amz-Date"] == made["X-Amz-Date"]:  # they have their own clock
        assert made == theirs
    assert made.keys() == theirs.keys()
    assert made["X-Amz-SignedHeaders"] == ["host;if-none-match" if headers else "host"]


@pytest.mark.parametrize("lasting", [timedelta(0), timedelta(seconds=-1), timedelta(days=7, seconds=1)])
def test_how_long_an_address_lasts(lasting: timedelta) -> None:
    """Longer than the specification allows is refused here, and not by the store when a machine boots."""
    with pytest.raises(UsageError, match="cannot last"):
        presign("PUT", "https://s3.example/keys/a", EXAMPLE, now=NOW, lasting=lasting)


@pytest.mark.parametrize(
    ("text", "endpoint", "base", "prefix"),
    [
        ("s3://keys", None, "https://keys.s3.us-east-1.amazonaws.com/", ""),
        ("s3://keys/", None, "https://keys.s3.us-east-1.amazonaws.com/", ""),
        ("s3://host.keys/a/b", None, "https://s3.us-east-1.amazonaws.com/host.keys/", "a/b/"),
        ("s3://keys/new", "https://minio.lan:9000/", "https://minio.lan:9000/keys/", "new/"),
        ("s3://keys", "https://S3.Example:443", "https://s3.example/keys/", ""),
        ("s3://keys", "http://[::1]:80", "http://[::1]/keys/", ""),
        ("s3://keys", "http://127.0.0.1:443", "http://127.0.0.1:443/keys/", ""),
    ],
)
def test_where_a_bucket_is(text: str, endpoint: str | None, base: str, prefix: str) -> None:
    """Amazon's is a host of its own, others' a path; ports are left out where clients leave them out of `Host`."""
    made = Bucket.parse(text, Account("A", Secret(b"s"), endpoint=endpoint))
    assert (made.base, made.prefix) == (base, prefix)


@pytest.mark.parametrize(
    "text",
    ["", "keys", "https://keys", "s3://", "s3://Keys", "s3://k", "s3://keys/../a", "s3://keys//a", "s3://keys/a b",
     "s3://keys/a?b", "s3://a/./b", "s3://keys@evil/a", "s3://keys/ä"],
)  # fmt: skip
def test_no_bucket(text: str) -> None:
    """What is no plain name is refused, before anything is signed with it."""
    with pytest.raises(Malformed, match="not a"):
        Bucket.parse(text, EXAMPLE)


@pytest.mark.parametrize(
    "endpoint", ["minio.lan", "ftp://a", "https://a/b", "https://a?b", "https://u:p@a", "https://a:x"]
)
def test_no_endpoint(endpoint: str) -> None:
    """An endpoint is a scheme, a host and a port."""
    with pytest.raises(Malformed, match="not an endpoint"):
        Bucket.parse("s3://keys", Account("A", Secret(b"s"), endpoint=endpoint))


def test_every_invitation_has_its_own_address() -> None:
    """One object each, writing only, while the invitation lasts, and only where nothing lies yet."""
    letterbox = Bucket.parse("s3://keys/new", EXAMPLE)
    invitation = expected()
    url = letterbox.address(invitation, now=NOW)
    query = parse_qs(urlsplit(url).query)
    assert urlsplit(url).path == f"/new/web1.lan/{invitation.key_id}"
    assert query["X-Amz-SignedHeaders"] == ["host;if-none-match"]
    assert query["X-Amz-Expires"] == ["3600"]
    assert EXAMPLE.secret.reveal().decode() not in url


@pytest.mark.parametrize(
    ("status", "kind"),
    [(403, NotAuthorized), (301, NotAuthorized), (404, NotFound), (400, NotAuthorized), (503, Unreachable),
     (501, Unsafe), (200 + 6, Fault)],
)  # fmt: skip
def test_what_a_store_may_answer(status: int, kind: type[HandfastError]) -> None:
    """Each refusal is said with the store's own word for it."""
    error = bucket._refused(status, b"<Error><Code>SomethingOdd</Code>\x1b[31m</Error>")
    assert type(error) is kind
    assert error.message == f"the store answers {status} SomethingOdd"


def publisher(said: list[Evidence]) -> Callable[[Evidence], Host]:
    """What must not be called."""

    def publish(evidence: Evidence) -> Host:
        said.append(evidence)
        raise AssertionError

    return publish


def test_who_is_not_waited_for() -> None:
    """Invitations of another kind, used, cancelled, or long over are not asked about: there is no store here at all."""
    others = [
        an_invitation(),
        expected(spent=1),
        expected(cancelled="a test"),
        expected(expires_at=NOW - timedelta(days=31)),
    ]
    said: list[Evidence] = []
    nowhere = Bucket.parse("s3://keys", Account("A", Secret(b"s"), endpoint="http://127.0.0.1:9"))
    assert bucket.collect(nowhere, others, publisher(said), now=lambda: NOW) == []
    assert said == []


def test_nobody_answers() -> None:
    """A store that is not there is a problem of each that is waited for, and of nobody's upload."""
    nowhere = Bucket.parse("s3://keys", Account("A", Secret(b"s"), endpoint="http://127.0.0.1:9"))
    (met,) = bucket.collect(nowhere, [expected()], publisher([]), now=lambda: NOW)
    assert isinstance(met.problem, Unreachable)
    assert met.host is None
    with pytest.raises(Unreachable, match=r"no answer from 127\.0\.0\.1:9"):
        bucket.check_write_once(nowhere, now=lambda: NOW)
