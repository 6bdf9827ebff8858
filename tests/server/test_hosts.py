"""SSH host keys over HTTPS: who reads them, what comes back, and what machines report of themselves."""

from __future__ import annotations

import hashlib
import secrets
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import replace
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlencode

import msgspec
import pytest

from handfast.core import views
from handfast.core.hosts import Grade, How, Place
from handfast.core.names import Names
from handfast.core.roles import Role
from handfast.core.secret import Secret
from handfast.core.vouched import Signature
from handfast.errors import UntrustedPeer
from handfast.introducers import phone_home
from handfast.policy.rules import HostRules, Readers
from handfast.registrar.host_keys import HostKeys
from handfast.server import hosts
from handfast.server.routes import ROUTES
from handfast.ssh import snapshot
from tests.ledger.material import ssh_key
from tests.server.running import Client, Running, running

READ = (
    "/v1/machines/web1.lan/ssh",
    "/v1/ssh/hosts",
    "/v1/ssh/lookup?host=web1.lan",
    snapshot.CONTENT_PATH,
    snapshot.SIGNATURE_PATH,
    "/.well-known/ssh-known-hosts",
)
FORM = "application/x-www-form-urlencoded"


def put(registrar: Running, machine: str, *numbers: int, how: How = How.OPERATOR, places: tuple[str, ...] = ()) -> None:
    """Have an operator enter a machine."""
    place = Place.parse(places or (machine,))
    keys = tuple(map(ssh_key, numbers))
    side = registrar.service.host_keys
    if how is How.SCAN:
        side = replace(side, rules=replace(side.rules, ssh=HostRules(evidence=frozenset(How))))
    side.register(machine, keys, how=how, detail="by kim", place=place)


@pytest.fixture(scope="module")
def registrar(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """One with a machine."""
    with running(tmp_path_factory.mktemp("hosts") / "data") as started:
        put(started, "web1.lan", 1, 2, places=("web1.lan", "10.0.0.7", "fd00::7"))
        yield started


@pytest.fixture(scope="module")
def holder(registrar: Running) -> Iterator[Client]:
    """A connection of a machine that has joined."""
    joined = registrar.credential("client.lan", Role.CLIENT)
    with registrar.connect(registrar.context_with(joined)) as client:
        yield client


def view(client: Client, path: str) -> views.HostView:
    """One machine."""
    status, body = client.call("GET", path)
    assert status == 200, body
    return msgspec.json.decode(body, type=views.HostView)


def every(client: Client, query: str = "") -> list[views.HostView]:
    """A page of machines."""
    status, body = client.call("GET", f"/v1/ssh/hosts{query}")
    assert status == 200, body
    return msgspec.json.decode(body, type=list[views.HostView])


# --- who ---


def with_readers(place: Path, readers: Readers) -> Path:
    """A data directory whose operator has said who reads."""
    place.mkdir(mode=0o700)
    (place / "config.toml").write_text(f'[ssh]\nreaders = "{readers}"\n')
    return place


@pytest.mark.parametrize("readers", list(Readers))
def test_readers_are_whom_the_operator_said(tmp_path: Path, readers: Readers) -> None:
    """A stranger, the holder of a credential and an operator each read what the rule says, of every route."""
    with running(with_readers(tmp_path / "data", readers)) as registrar:
        put(registrar, "web1.lan", 1)
        allowed = {
            "stranger": readers is Readers.ANYBODY,
            Role.CLIENT: readers is not Readers.OPERATORS,
            Role.OPERATOR: True,
        }
        for who, may in allowed.items():
            context = None
            if isinstance(who, Role):
                context = registrar.context_with(registrar.credential(f"{who}.lan", who))
            with registrar.connect(context) as client:
                for path in READ:
                    if may:
                        assert client.call("GET", path)[0] == 200, (who, path)
                    else:
                        problem = client.problem("GET", path)
                        assert (problem.status, problem.code) == (403, "not-authorized"), (who, path)


def test_every_route_of_host_keys_is_tested() -> None:
    """A new route has to say who reads it."""
    mine = {route.path for route in ROUTES if route.handler.__module__ == hosts.__name__}
    read = {path.partition("?")[0].replace("web1.lan", "{name}") for path in READ}
    assert mine == read | {"/v1/ssh/phone-home/{token}"}


def test_nothing_of_it_is_in_the_clear(registrar: Running) -> None:
    """The plain listener has revocation lists and nothing else."""
    assert [route.path for route in ROUTES if "ssh" in route.path and route.plain] == []


def test_a_revoked_holder_is_out_at_once(registrar: Running) -> None:
    """Who was revoked reads nothing more, on the connection that is open already."""
    joined = registrar.credential("thief.lan", Role.CLIENT)
    with registrar.connect(registrar.context_with(joined)) as client:
        assert client.call("GET", READ[0])[0] == 200
        registrar.service.administration.revoke("thief.lan", reason="keyCompromise")
        for path in READ:
            assert client.problem("GET", path).code == "not-authorized"


# --- what ---


def test_a_machine(registrar: Running, holder: Client) -> None:
    """Keys, how each became known, places, and lines that ssh reads."""
    found = view(holder, "/v1/machines/web1.lan/ssh")
    assert found == view(holder, "/v1/machines/WEB1.lan/ssh")
    assert (found.names, found.addresses, found.ports) == (["web1.lan"], ["10.0.0.7", "fd00::7"], [22])
    assert [(key.fingerprint, key.grade, key.believed) for key in found.keys] == [
        (ssh_key(number).fingerprint, "reported", True) for number in (1, 2)
    ]
    assert found.keys[0].evidence[0].detail == "by kim"
    assert found.known_hosts == [f"web1.lan,10.0.0.7,fd00::7 {ssh_key(number)}" for number in (1, 2)]
    problem = holder.problem("GET", "/v1/machines/nobody.lan/ssh")
    assert (problem.status, problem.code) == (404, "not-found")
    assert holder.problem("GET", "/v1/machines/a..b/ssh").code == "malformed"


@pytest.mark.parametrize(
    "query",
    ["host=web1.lan", "host=WEB1.LAN.", "host=web1.lan&port=22", "host=10.0.0.7", "host=fd00::7", "host=fd00:0::0007"],
)
def test_lookup(holder: Client, query: str) -> None:
    """What ssh may ask for, in every spelling of it, leads to the machine."""
    assert view(holder, f"/v1/ssh/lookup?{query}").machine == "web1.lan"


@pytest.mark.parametrize(
    ("query", "code"),
    [
        ("", "malformed"),
        ("host=", "malformed"),
        ("host=web1.lan&port=", "malformed"),
        ("host=web1.lan&port=0", "malformed"),
        ("host=web1.lan&port=65536", "malformed"),
        ("host=web1.lan&port=-22", "malformed"),
        ("host=web1.lan&port=%D9%A2%D9%A2", "malformed"),
        ("host=web1.lan&port=000001" + "9" * 1500, "malformed"),
        ("host=web1.lan&port=2222", "not-found"),
        ("host=web2.lan", "not-found"),
        ("host=10.0.0.8", "not-found"),
        ("host=web1.lan%00", "malformed"),
        ("host=%5Bweb1.lan%5D:22", "malformed"),
        ("host=*", "malformed"),
        ("host=fe80::1%25eth0", "malformed"),
    ],
)
def test_lookups_that_find_nothing(holder: Client, query: str, code: str) -> None:
    """What is no host or no port is refused, what is nobody's is not found; nothing is an error of ours."""
    assert holder.problem("GET", f"/v1/ssh/lookup?{query}").code == code


def test_pages(tmp_path: Path) -> None:
    """A hundred machines at once, then those after the last; the last page is the empty one."""
    with running(with_readers(tmp_path / "data", Readers.ANYBODY)) as registrar, registrar.connect() as client:
        for number in range(103):
            put(registrar, f"m{number:03}.lan", number)
        first = every(client)
        rest = every(client, f"?after={first[-1].machine}")
        assert [each.machine for each in (*first, *rest)] == [f"m{number:03}.lan" for number in range(103)]
        assert len(first) == 100
        assert every(client, "?after=m102.lan") == []


@pytest.mark.parametrize(
    ("search", "found"),
    [
        ("web1", ["web1.lan"]),
        ("EB1.L", ["web1.lan"]),
        ("10.0.0.7", ["web1.lan"]),
        (ssh_key(2).fingerprint, ["web1.lan"]),
        ("%", []),
        ("_", []),
        ("!", []),
        ("nobody", []),
        ("", ["web1.lan"]),
    ],
)
def test_search(holder: Client, search: str, found: list[str]) -> None:
    """Part of a name, an address or a fingerprint finds; what means something to a database means nothing here."""
    assert [each.machine for each in every(holder, f"?search={quote(search)}")] == found


@pytest.mark.parametrize("name", ["after", "search"])
@pytest.mark.parametrize("value", ["%00", "%1b%5b2J", "%ff", "%ed%a0%80", "%0a"])
def test_hostile_searches(holder: Client, name: str, value: str) -> None:
    """Bytes that are no text, or that no database takes, are refused, or find nothing."""
    status, body = holder.call("GET", f"/v1/ssh/hosts?{name}={value}")
    assert status in {200, 400}, body


def test_only_what_is_believed_is_handed_out(tmp_path: Path) -> None:
    """A key that was only seen is shown as such, and is in no line and in no snapshot."""
    with running(with_readers(tmp_path / "data", Readers.ANYBODY)) as registrar, registrar.connect() as client:
        put(registrar, "web1.lan", 1, how=How.SCAN)
        found = view(client, "/v1/machines/web1.lan/ssh")
        assert [(key.grade, key.believed) for key in found.keys] == [("seen", False)]
        assert found.known_hosts == []
        assert client.call("GET", "/.well-known/ssh-known-hosts")[1] == b""
        assert list(snapshot.hosts(client.call("GET", snapshot.CONTENT_PATH)[1])) == []


def test_known_hosts(registrar: Running, holder: Client) -> None:
    """All lines as one file of plain text."""
    status, body = holder.call("GET", "/.well-known/ssh-known-hosts")
    assert (status, holder.headers["Content-Type"]) == (200, "text/plain; charset=utf-8")
    assert body.decode().splitlines() == [f"web1.lan,10.0.0.7,fd00::7 {ssh_key(number)}" for number in (1, 2)]


# --- the snapshot ---


def test_the_snapshot_is_vouched_for(registrar: Running, holder: Client) -> None:
    """Content and signature fit, to the pin; and not to another pin, nor to other content."""
    content = holder.call("GET", snapshot.CONTENT_PATH)[1]
    signature = msgspec.json.decode(holder.call("GET", snapshot.SIGNATURE_PATH)[1], type=Signature)
    pin, now = registrar.service.authority.pin, datetime.now(UTC)
    assert now - snapshot.verify(content, signature, pin=pin, now=now) < timedelta(minutes=5)
    with pytest.raises(UntrustedPeer):
        snapshot.verify(content, signature, pin=bytes(32), now=now)
    with pytest.raises(UntrustedPeer):
        snapshot.verify(content.replace(b"web1", b"web2"), signature, pin=pin, now=now)


@pytest.mark.parametrize("path", [snapshot.CONTENT_PATH, "/.well-known/ssh-known-hosts"])
def test_it_is_made_when_something_has_changed(tmp_path: Path, path: str) -> None:
    """It is kept between requests, and new after every change of a machine; its tag says so."""
    with running(with_readers(tmp_path / "data", Readers.ANYBODY)) as registrar, registrar.connect() as client:
        tags = []
        side = registrar.service.host_keys
        changes: list[Callable[[], object]] = [
            lambda: put(registrar, "web1.lan", 1, 2),
            lambda: side.retire("web1.lan", ssh_key(1).fingerprint, reason="x"),
            lambda: put(registrar, "web1.lan", places=("web1.lan", "10.0.0.9")),
            lambda: side.remove("web1.lan", reason="gone"),
        ]
        for change in (None, *changes):
            if change is not None:
                change()
            tag = f'"{hashlib.sha256(client.call("GET", snapshot.CONTENT_PATH)[1]).hexdigest()}"'
            status, content = client.call("GET", path)
            assert (status, client.headers["ETag"]) == (200, tag)
            assert client.call("GET", path, None, **{"If-None-Match": tag}) == (304, b"")
            assert client.headers["ETag"] == tag
            assert client.call("GET", path)[1] == content
            tags.append(tag)
        assert len(set(tags)) == len(tags)
        for other in (tags[0], '"x"', "x", f"{tags[0]}, {tags[1]}"):
            assert client.call("GET", path, None, **{"If-None-Match": other})[0] == 200
        for same in (f"W/{tags[-1]}", f"{tags[0]}, {tags[-1]}", "*"):
            assert client.call("GET", path, None, **{"If-None-Match": same})[0] == 304


def test_a_herd_has_it_made_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Many who ask at once after a change cost what one costs."""
    built: list[int] = []
    real = snapshot.build

    def build(*args: Any, **more: Any) -> bytes:
        built.append(1)
        return real(*args, **more)

    monkeypatch.setattr(snapshot, "build", build)
    with running(with_readers(tmp_path / "data", Readers.ANYBODY)) as registrar:
        put(registrar, "web1.lan", 1)

        def ask(_number: int) -> int:
            with registrar.connect() as client:
                return client.call("GET", snapshot.CONTENT_PATH)[0]

        with ThreadPoolExecutor(8) as pool:
            assert set(pool.map(ask, range(16))) == {200}
    assert built == [1]


# --- reports ---


def expected(registrar: Running, machine: str, *names: str) -> str:
    """Have a machine report itself, and return the path for it."""
    token = phone_home.token(Secret(secrets.token_bytes(32)))
    side: HostKeys = registrar.service.host_keys
    half, hour = phone_home.public_half(token), timedelta(hours=1)
    side.expect(machine, half, how=How.PHONE_HOME, names=Names.parse(names), lasting=hour)
    return f"/v1/ssh/phone-home/{token.reveal().decode()}"


def form(*numbers: int) -> bytes:
    """What cloud-init posts."""
    return urlencode({"pub_key_ed25519": str(ssh_key(numbers[0])), "hostname": "liar", "fqdn": "web1.lan"}).encode()


def test_a_report(registrar: Running) -> None:
    """A stranger with the token is the machine that was waited for, once; again it may say the same."""
    path = expected(registrar, "new.lan", "new.lan", "10.0.0.20")
    with registrar.connect() as client:
        for _ in range(2):
            assert client.call("POST", path, form(50), **{"Content-Type": FORM}) == (204, b"")
        host = registrar.service.ledger.host("new.lan")
        assert host is not None
        assert (host.believed(Grade.REPORTED), host.place.hosts()) == ((ssh_key(50),), ("new.lan", "10.0.0.20"))
        assert registrar.service.ledger.host("liar") is None
        problem = client.call("POST", path, form(51), **{"Content-Type": FORM})
        assert (problem[0], msgspec.json.decode(problem[1])["code"]) == (409, "already-spent")
    assert registrar.service.ledger.host("new.lan") == host
    alarms = registrar.service.ledger.events(kind_prefix="alarm.", subject="new.lan")
    assert [each.kind for each in alarms] == ["alarm.second-key"]


def test_a_report_of_another_machines_key(registrar: Running) -> None:
    """A clone is refused and alarms, and the token is still good for keys of its own."""
    path = expected(registrar, "clone.lan")
    with registrar.connect() as client:
        status, body = client.call("POST", path, form(1), **{"Content-Type": FORM})
        assert (status, msgspec.json.decode(body)["code"]) == (403, "refused")
        assert registrar.service.ledger.host("clone.lan") is None
        assert client.call("POST", path, form(60), **{"Content-Type": FORM})[0] == 204


@pytest.mark.parametrize(
    "media", ["application/json", "multipart/form-data; boundary=x", "text/plain", "application/octet-stream"]
)
def test_other_media_are_refused(registrar: Running, media: str) -> None:
    """Only the form that cloud-init sends is read."""
    path = expected(registrar, f"media{secrets.token_hex(4)}.lan")
    with registrar.connect() as client:
        assert client.call("POST", path, form(70), **{"Content-Type": media})[0] == 415


def test_reports_have_limits(registrar: Running) -> None:
    """A body that is too long is refused, before it is read; nonsense is refused as such; other methods are none."""
    path = expected(registrar, "limits.lan")
    with registrar.connect() as client:
        assert client.call("POST", path, b"a=" + b"b" * (64 * 1024), **{"Content-Type": FORM})[0] == 413
    with registrar.connect() as client:
        for body in (b"", b"%ff=%ff", b"pub_key_ed25519=ssh-ed25519+AAAA", b"pub_key_ed25519=N%2FA", b"a=1&a=2"):
            status, answer = client.call("POST", path, body, **{"Content-Type": FORM})
            assert (status, msgspec.json.decode(answer)["code"]) in {(400, "malformed"), (403, "evidence-rejected")}
        assert client.call("GET", path)[0] == 405
    assert registrar.service.ledger.host("limits.lan") is None


@pytest.mark.parametrize("token", ["x", "hfreport1_" + "A" * 43, "..%2F..%2Fhello", "%00", "A" * 1900])
def test_tokens_that_nobody_has(registrar: Running, token: str) -> None:
    """A stranger learns nothing from guessing, and is counted."""
    with registrar.connect() as client:
        status, answer = client.call("POST", f"/v1/ssh/phone-home/{token}", form(80), **{"Content-Type": FORM})
        assert status in {400, 403, 404, 429}, answer
