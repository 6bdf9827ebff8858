"""The registrar's own pages: who may read them, how much of them, and that refusals are pages too."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from handfast.core.roles import Role
from handfast.errors import Fault, HandfastError, TooMuch, Unreachable
from handfast.server import pages
from tests.server import shown
from tests.server.running import Client, Running, running

PATHS = ["/machines", "/machines/web1.lan"]


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """A registrar with machines, and the default rules: whoever holds a credential may read."""
    with running(tmp_path_factory.mktemp("browse") / "data") as started:
        shown.fill(started.service.ledger)
        yield started


@pytest.fixture
def ruled(tmp_path: Path) -> Path:
    """A data directory to be."""
    (tmp_path / "data").mkdir(mode=0o700)
    return tmp_path / "data"


def read(client: Client, path: str) -> str:
    """Return a page that must come, with the policy that every page has."""
    status, body = client.call("GET", path)
    assert (status, client.headers["Content-Type"]) == (200, "text/html; charset=utf-8")
    assert {name: client.headers[name] for name in pages.HEADERS} == pages.HEADERS
    return body.decode()


def refused(client: Client, path: str, expected: int = 403) -> str:
    """Return a refusal that must come, as a page."""
    status, body = client.call("GET", path)
    assert (status, client.headers["Content-Type"]) == (expected, "text/html; charset=utf-8")
    assert {name: client.headers[name] for name in pages.HEADERS} == pages.HEADERS
    return body.decode()


@pytest.mark.parametrize("path", [*PATHS, "/machines/nobody.lan", "/machines?search=web"])
def test_a_stranger_reads_nothing(ours: Running, path: str) -> None:
    """Without a credential no name, no key, and not whether there is a machine."""
    with ours.connect() as client:
        text = refused(client, path)
    assert "No client certificate" in text
    assert "web1" not in text
    assert 'href="/machines' not in text


def test_a_stranger_gets_no_code(ours: Running) -> None:
    """The QR code has a key, and whose it is: it is read by whoever may read the page."""
    with ours.connect() as client:
        assert client.problem("GET", "/machines/web1.lan/qr.svg").status == 403
    joined = ours.credential("reader.lan", Role.CLIENT)
    with ours.connect(ours.context_with(joined)) as client:
        status, body = client.call("GET", "/machines/web1.lan/qr.svg")
        assert (status, client.headers["Content-Type"], body[:5]) == (200, "image/svg+xml", b"<svg ")


def test_a_holder_reads_host_keys(ours: Running) -> None:
    """Any credential of this authority opens the pages, and shows no credential of anybody."""
    joined = ours.credential("web1.lan", Role.CLIENT)
    with ours.connect(ours.context_with(joined)) as client:
        assert "db1.lan" in read(client, "/machines")
        text = read(client, "/machines/web1.lan")
    assert shown.ed25519(2).fingerprint in text
    assert "Credentials" not in text
    assert "Invited" not in text


def test_an_operator_reads_everything(ours: Running) -> None:
    """As `handfast web` would show it on the registrar's own machine."""
    ours.credential("web1.lan", Role.SERVER)
    joined = ours.credential("alice", Role.OPERATOR)
    with ours.connect(ours.context_with(joined)) as client:
        text = read(client, "/machines/web1.lan")
    assert "Credentials" in text
    assert "Credential issued" in text


@pytest.mark.parametrize(
    ("error", "status", "says"),
    [
        (TooMuch("too many readers", hint="try again in 7 s", after=7), 429, "Too many readers"),
        (Unreachable("the log witness is away"), 503, "The log witness is away"),
        (Fault("the disk at /srv/secret is gone"), 500, "The registrar failed; its log says why"),
    ],
)
@pytest.mark.parametrize("path", PATHS)
def test_every_refusal_is_a_page(
    ours: Running, monkeypatch: pytest.MonkeyPatch, path: str, error: HandfastError, status: int, says: str
) -> None:
    """Also too much and a fault, of which a stranger learns no more than a program does."""

    def failing(*_: object, **__: object) -> None:
        raise error

    joined = ours.credential("reader.lan", Role.CLIENT)
    for read_ in ("host", "hosts"):
        monkeypatch.setattr(ours.service.ledger, read_, failing)
    with ours.connect(ours.context_with(joined)) as client:
        text = refused(client, path, status)
        assert client.headers["Retry-After"] == ("7" if status == 429 else None)
    assert says.lower() in text.lower()
    assert "secret" not in text


def test_an_alias_leads_to_the_machine(ours: Running) -> None:
    """Whoever knows a machine by an address finds it."""
    joined = ours.credential("reader.lan", Role.CLIENT)
    with ours.connect(ours.context_with(joined)) as client:
        status, _ = client.call("GET", "/machines/10.0.0.7")
        assert (status, client.headers["Location"]) == (303, "/machines/web1.lan")
        status, body = client.call("GET", "/machines/nobody.lan")
        assert status == 404
        assert "No machine" in body.decode()


def test_anybody_may_read_where_the_operator_says_so(ruled: Path) -> None:
    """A hoster's public page: the list and the keys, and nothing of credentials, invitations or alarms."""
    (ruled / "config.toml").write_text('[ssh]\nreaders = "anybody"\n')
    with running(ruled) as started, started.connect() as client:
        shown.fill(started.service.ledger)
        assert "web1.lan" in read(client, "/machines?search=web")
        text = read(client, "/machines/web1.lan")
        assert shown.ed25519(2).base64 in text
        assert "Credentials" not in text
        assert client.call("GET", "/v1/machines")[0] == 403


def test_operators_only_where_the_operator_says_so(ruled: Path) -> None:
    """Then another machine's credential opens nothing."""
    (ruled / "config.toml").write_text('[ssh]\nreaders = "operators"\n')
    with running(ruled) as started:
        shown.fill(started.service.ledger)
        joined = started.credential("web1.lan", Role.CLIENT)
        with started.connect(started.context_with(joined)) as client:
            for path in PATHS:
                assert "db1" not in refused(client, path)


def test_the_files_are_for_everybody(ours: Running) -> None:
    """A refusal looks as the pages do; a file has no machine's name in it."""
    with ours.connect() as client:
        status, body = client.call("GET", "/static/handfast.css")
        assert (status, body) == (200, pages.asset("handfast.css").body)
        assert {name: client.headers[name] for name in pages.FILE_HEADERS} == pages.FILE_HEADERS
        assert client.problem("GET", "/static/pages.py").status == 404


@pytest.mark.parametrize("method", ["POST", "PUT", "DELETE"])
def test_nothing_can_be_changed(ours: Running, method: str) -> None:
    """The pages are read: no other method is known, for operators either."""
    joined = ours.credential("alice", Role.OPERATOR)
    with ours.connect(ours.context_with(joined)) as client:
        for path in PATHS:
            assert client.problem(method, path).status == 405
