"""Readers of SSH host keys are many and may be strangers: what they cost the others, and what they may hold."""

from __future__ import annotations

import asyncio
import hashlib
import http.client
import json
import sqlite3
import ssl
import threading
from collections.abc import Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ThreadPoolExecutor, wait
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from handfast.adapters.buckets import Share
from handfast.core.hosts import Host, HostKey, How
from handfast.core.hosts import Place as Reached
from handfast.core.roles import Role
from handfast.errors import Fault, TooMuch
from handfast.ledger import host_entries
from handfast.policy.rules import Readers
from handfast.server.limits import Limits
from handfast.server.state import State
from handfast.ssh import snapshot
from tests.ledger.material import ssh_key
from tests.server.running import Client, Running, running
from tests.server.test_hosts import FORM, expected, form, put, with_readers

LARGE = bytes(32 << 20)  # more than any kernel keeps for a connection
DOWNLOADS = (snapshot.CONTENT_PATH, "/.well-known/ssh-known-hosts")
READ = ("/v1/machines/web1.lan/ssh", "/v1/ssh/hosts", "/v1/ssh/lookup?host=web1.lan", "/machines", "/machines/web1.lan")


@pytest.fixture
def states(monkeypatch: pytest.MonkeyPatch) -> list[State]:
    """The state of each registrar that starts."""
    found: list[State] = []
    real = State.start

    def start(*args: Any) -> State:
        found.append(real(*args))
        return found[-1]

    monkeypatch.setattr(State, "start", start)
    return found


@contextmanager
def serving(tmp_path: Path, limits: Limits = Limits()) -> Iterator[Running]:  # noqa: B008  a value
    """A registrar with a machine, for anybody to read, which waits long for who does not."""
    data = with_readers(tmp_path / "data", Readers.ANYBODY)
    with running(data, limits=replace(limits, unread=600.0)) as registrar:
        put(registrar, "web1.lan", 1)
        yield registrar


# --- the disk ---


@contextmanager
def stuck(registrar: Running, monkeypatch: pytest.MonkeyPatch) -> Iterator[threading.Event]:
    """Have whoever searches for `slow` wait for the end of the block; the event says that somebody does."""
    begun, over = threading.Event(), threading.Event()
    real = registrar.service.ledger.hosts

    def hosts(**query: Any) -> list[Host]:
        if query.get("search") == "slow":
            begun.set()
            assert over.wait(120)
        return real(**query)

    monkeypatch.setattr(registrar.service.ledger, "hosts", hosts)
    try:
        yield begun
    finally:
        over.set()


def asked(registrar: Running, path: str) -> tuple[int, bytes, str | None]:
    """One stranger's request: status, body, and when to try again."""
    with registrar.connect() as client:
        client.socket.settimeout(120)
        status, body = client.call("GET", path)
        return status, body, client.headers["Retry-After"]


def test_operators_do_not_wait_for_readers(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """While readers fill their queue, the next is told to come again, and an operator has every answer at once."""
    with serving(tmp_path, Limits(readings_per_source=3)) as registrar, ThreadPoolExecutor(4) as pool:
        operator = registrar.context_with(registrar.credential("kim", Role.OPERATOR))
        with stuck(registrar, monkeypatch) as begun:
            flood: set[Future[tuple[int, bytes, str | None]]] = {
                pool.submit(asked, registrar, "/v1/ssh/hosts?search=slow") for _ in range(4)
            }
            assert begun.wait(60)
            done, waiting = wait(flood, timeout=60, return_when=FIRST_COMPLETED)
            (status, body, after), *others = [each.result() for each in done]
            assert (status, json.loads(body)["code"], after, others) == (429, "too-much", "1", [])
            for path in READ:
                assert asked(registrar, path)[0] == 429
            with registrar.connect(operator) as client:
                for path in (*READ, "/v1/machines/kim"):
                    assert client.call("GET", path)[0] == 200
        assert {each.result()[0] for each in waiting} == {200}
        assert asked(registrar, READ[1])[0] == 200


def test_a_source_leaves_places_to_others() -> None:
    """One source has its share and no more, and all together no more than there is; a place comes back either way."""
    share = Share(3, 2)
    with ExitStack() as held:
        for source in ("a", "a", "b"):
            held.enter_context(share.place(source))
        for source in ("a", "b", "c"):
            with pytest.raises(TooMuch) as refused, share.place(source):
                pass
            assert refused.value.after == 1
    with pytest.raises(Fault), share.place("a"), share.place("a"):
        raise Fault("whatever it was")
    with share.place("a"), share.place("a"), share.place("b"):
        assert share._sources.total() == 3
    assert not share._sources


# --- downloads ---


@pytest.fixture
def large(monkeypatch: pytest.MonkeyPatch) -> str:
    """The path of all machines, of which there are very many."""
    monkeypatch.setattr(snapshot, "build", lambda *_args, **_more: LARGE)
    return snapshot.CONTENT_PATH


def begun(client: Client, path: str) -> http.client.HTTPResponse:
    """Ask for something, and read the head of the answer."""
    client.socket.settimeout(120)
    client.http.request("GET", path)
    return client.http.getresponse()


def buffered(registrar: Running, states: list[State]) -> int:
    """How much the registrar keeps in memory for clients that do not read, in bytes."""

    async def count() -> int:
        transports: list[Any] = list(states[0].connections.peers)
        return sum(each.get_write_buffer_size() for each in transports)

    return asyncio.run_coroutine_threadsafe(count(), registrar.loop).result(60)


def test_who_does_not_read_costs_little(tmp_path: Path, states: list[State], large: str) -> None:
    """Of a large answer a little is in memory for each who has begun it; and so many at a time may, the next later."""
    with serving(tmp_path, Limits(downloads_per_source=4)) as registrar, ExitStack() as open_:
        clients = [open_.enter_context(registrar.connect()) for _ in range(4)]
        answers = [open_.enter_context(begun(client, large)) for client in clients]
        assert [each.status for each in answers] == [200] * 4
        assert buffered(registrar, states) < 4 * (1 << 20)
        for path in DOWNLOADS:
            status, body, after = asked(registrar, path)
            assert (status, json.loads(body)["code"], after) == (429, "too-much", "1")
        assert asked(registrar, "/v1/ssh/hosts")[0] == 200
        content = answers[0].read()
        assert hashlib.sha256(content).digest() == hashlib.sha256(LARGE).digest()
        assert answers[0].headers["Content-Length"] == str(len(LARGE))
        assert answers[0].headers["Server"] == "handfast"
        again = open_.enter_context(begun(clients[0], large))  # on the same connection, in the place that it has left
        assert again.status == 200


def everything(client: Client) -> bytes:
    """What comes until the connection ends, however it does."""
    parts = []
    with suppress(ConnectionError, ssl.SSLError):
        while part := client.socket.recv(1 << 16):
            parts.append(part)
    return b"".join(parts)


def test_a_download_has_an_end(tmp_path: Path, large: str) -> None:
    """Who reads a byte now and then does not hold a place for ever: the connection is closed, and the place is free."""
    with serving(tmp_path, Limits(download=0.0, downloads_per_source=1)) as registrar:
        for _ in range(2):
            with registrar.connect() as client:
                client.socket.settimeout(120)
                client.socket.sendall(f"GET {large} HTTP/1.1\r\nHost: x\r\n\r\n".encode())
                content = everything(client)
            assert len(content) < len(LARGE)
            assert content.count(b"HTTP/1.1") <= 1  # no other answer in the middle of it
            assert b"HTTP/1.1 429" not in content


def test_what_is_kept_is_not_made_again(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """As long as nothing changes, no request for all machines reads them."""
    with serving(tmp_path) as registrar, registrar.connect() as client:
        before = [client.call("GET", path) for path in DOWNLOADS]
        monkeypatch.setattr(registrar.service.ledger, "hosts", lambda **_query: pytest.fail("read again"))
        assert [client.call("GET", path) for path in DOWNLOADS] == before


def _add_many(ledger: Path) -> None:
    """More machines than are read at once, in the middle of all names."""
    with sqlite3.connect(ledger) as database:
        for number in range(2000):
            key = HostKey(ssh_key(number + 100), How.OPERATOR, "", datetime.now(UTC))
            host = Host(f"m{number:04}", Reached(), (key,))
            row = (host.machine, host_entries.host_to_json(host))
            database.execute("INSERT INTO hosts (machine, state, revision) VALUES (?, ?, 1)", row)
    database.close()


def test_a_name_that_moves_is_always_somebodys(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A snapshot is of one moment: a name that goes from the last machine to the first is never that of nobody."""
    with serving(tmp_path) as registrar, registrar.connect() as client:
        put(registrar, "zeta", 2, places=("moves.lan",))
        _add_many(registrar.service.data / "ledger.sqlite3")
        real, moves = registrar.service.ledger.hosts, iter([("alpha", 3)])

        def hosts(**query: Any) -> list[Host]:
            found = real(**query)
            for machine, number in moves:
                put(registrar, machine, number, places=("moves.lan",))
            return found

        monkeypatch.setattr(registrar.service.ledger, "hosts", hosts)
        for machine in ("zeta", "alpha"):
            content = client.call("GET", snapshot.CONTENT_PATH)[1]
            found = snapshot.lookup(content, "moves.lan", 22)
            assert found is not None
            assert found.machine == machine


# --- reports ---


def test_a_token_is_good_for_few_reports(tmp_path: Path) -> None:
    """Who holds a token is counted by it before anything is parsed, and other machines behind his address are not."""
    few = Limits(failures=1e-6, failures_burst=2)
    with serving(tmp_path, few) as registrar, registrar.connect() as client:
        mine, others = expected(registrar, "new.lan"), expected(registrar, "other.lan")

        def report(path: str, number: int) -> tuple[int, bytes]:
            return client.call("POST", path, form(number), **{"Content-Type": FORM})

        assert [report(mine, 50)[0] for _ in range(3)] == [204, 204, 429]
        assert client.headers["Retry-After"] == "1000000"
        status, body = client.call("POST", mine, b"%zz=" * 9000, **{"Content-Type": FORM})
        assert (status, b"too often" in body) == (429, True)
        assert report(others, 51)[0] == 204


def test_tokens_that_nobody_made_are_not_kept(tmp_path: Path, states: list[State]) -> None:
    """A stranger who invents tokens is refused, and cannot push out the counts of those that there are."""
    with serving(tmp_path) as registrar, registrar.connect() as client:
        status, body = client.call("POST", "/v1/ssh/phone-home/handfastphone1_x", form(1), **{"Content-Type": FORM})
        assert (status, json.loads(body)["code"]) == (403, "evidence-rejected")
        assert not states[0].reports._buckets
