"""
What a controller that was taken over tries on an agent, over both APIs: it gets what the policy gives, and no more.

Whoever is no controller does not get this far (`test_end_to_end.py`), but can open connections.
"""

from __future__ import annotations

import hashlib
import os
import re
import socket
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path
from urllib.parse import quote, urlencode

import pytest

from tests.agent.agents import Managed, Talk, managed

FORM = "application/x-www-form-urlencoded"
NAMES = [
    "..",
    "../secret",
    "../../../../etc/passwd",
    "/etc/passwd",
    "sub/../../secret",
    "./x.log",
    "a\0.log",
    "a\n.log",
    "a\r\nX: y",
    ";touch pwned",
    "$(touch pwned)",
    "`touch pwned`",
    "|reboot",
    "a b",
    "'\"",
    "-rf",
    "--help",
    "*",
    "%2e%2e%2fsecret",
    "\uff0e\uff0e\uff0fsecret",
    "x" * 300,
    "x/" * 100 + "x",
    ".handfast-0123456789abcdef",
    "\x7f",
    "é",
]
SERVICE_PATHS = [
    ("GET", "/v1/services/{}"),
    ("POST", "/v1/services/{}/start"),
    ("PUT", "/v1/services/{}/configuration"),
    ("GET", "/v1/services/{}/artifacts"),
    ("GET", "/v1/services/{}/logs"),
    ("GET", "/services/{}/status"),
    ("POST", "/services/{}/restart"),
    ("GET", "/services/{}/logs"),
    ("DELETE", "/services/{}/artifacts/x"),
]
NAME_PATHS = [
    ("POST", "/v1/services/web/{}"),
    ("GET", "/v1/services/web/artifacts/{}"),
    ("PUT", "/v1/services/web/artifacts/{}"),
    ("DELETE", "/v1/services/web/artifacts/{}"),
    ("GET", "/v1/services/web/logs/{}"),
    ("GET", "/v1/services/web/logs/{}?end"),
    ("GET", "/v1/services/web/logs/{}?since=1-2-3"),
    ("GET", "/services/web/{}"),
    ("POST", "/services/web/{}"),
    ("GET", "/services/web/artifacts/{}"),
    ("DELETE", "/services/web/artifacts/{}"),
    ("GET", "/services/web/logs/{}?num_lines=5"),
    ("DELETE", "/cluster_member_addresses/{}"),
]
SECRET = b"nobody's business"


@pytest.fixture(scope="module")
def met(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Managed]:
    """An agent."""
    with managed(tmp_path_factory.mktemp("attacked")) as made:
        (made.place / "logs/real.log").write_text("a line\n" * 100_000)
        (made.place / "logs/link.log").symlink_to("../secret")
        (made.place / "artifacts/link").symlink_to("../secret")
        yield made


@pytest.fixture(autouse=True)
def fresh(met: Managed) -> Iterator[None]:
    """Each test has connections of its own: an agent has places for a few."""
    met.talk = met.agent.talk()
    yield
    met.agent.talks.close()


def tree(place: Path) -> dict[str, int]:
    """All files there, but the agent's own."""
    found = {}
    for folder, folders, names in os.walk(place):
        if "agent" in folders:
            folders.remove("agent")
        for name in names:
            path = Path(folder, name)
            found[str(path)] = path.lstat().st_size
    return {path: size for path, size in found.items() if "/controller/" not in path}


@pytest.mark.parametrize(("method", "path"), SERVICE_PATHS + NAME_PATHS)
def test_no_name_leads_anywhere(method: str, path: str, met: Managed) -> None:
    """Quoted not at all, once and twice: always refused, nothing is told of the secret, nothing is written or run."""
    before, talk = tree(met.place), met.agent.talk()
    body = b"content" if method == "PUT" else None
    for name in NAMES:
        for written in {quote(name, safe=""), quote(quote(name, safe=""), safe=""), quote(name, safe="/.$;`'*|()-")}:
            answer = talk.ask(method, path.format(written), body)
            assert answer.status in {400, 403, 404, 405, 413, 500}, (name, written, answer)
            assert answer.status < 500 or not path.startswith("/v1"), (name, written, answer)
            assert SECRET not in answer.body
            if answer.headers.get("Connection") == "close":
                talk = met.agent.talk()
    assert tree(met.place) == before


@pytest.mark.parametrize("name", ["link.log", "logs/link.log"])
def test_a_link_is_not_followed(name: str, met: Managed) -> None:
    """A service that puts links where its logs and artifacts are does not have other files read by it."""
    assert met.talk.ask("GET", f"/v1/services/web/logs/{name}").status == 404
    assert met.talk.ask("GET", f"/services/web/logs/{name}?num_lines=5").status == 404
    assert met.agent.talk().ask("PUT", "/v1/services/web/artifacts/link", b"x").status == 403
    assert (met.place / "secret").read_bytes().startswith(SECRET)


@pytest.mark.parametrize(
    "query",
    [
        "lines=x", "lines=0", "lines=10001", "lines=-1", "lines=1e9", "lines=" + "9" * 4000, "lines=", "lines=%00",
        "offset=1.5", "since=", "since=1-2", "since=../x", "since=" + "f" * 60, "since=-1-2-3", "since=1-2-3&lines=1",
        "end&since=1-2-3",
        "lines=٣", "other=1", "lines=5;reboot",
    ],
)  # fmt: skip
def test_no_parameter_but_the_known(query: str, met: Managed) -> None:
    """Each is refused as malformed."""
    answer = met.talk.ask("GET", f"/v1/services/web/logs/real.log?{quote(query, safe='=&%-')}")
    assert (answer.status, answer.json()["code"]) == (400, "malformed")


def test_marks_that_were_made_up(met: Managed) -> None:
    """A mark is not believed: of another file, or beyond the end, it gives the log and nothing else."""
    inode = (met.place / "secret").stat()
    for mark in (f"{inode.st_dev:x}-{inode.st_ino:x}-0", "ffffffffffffffff-ffffffffffffffff-ffffffffffffffff"):
        answer = met.talk.ask("GET", f"/v1/services/web/logs/real.log?since={mark}")
        assert answer.status == 200
        assert set(answer.json()["lines"]) == {"a line"}


@pytest.mark.parametrize(
    "body",
    [
        b"", b"x", b"[]", b"null", b"{}", b'{"files": {}}', b'{"files": []}', b'{"files": {"site": 1}}',
        b'{"files": {"other": "good"}}', b'{"files": {"../site": "good"}}', b'{"files": {"site": "\\ud800good"}}',
        b'{"files": {"site": "good", "\\u0000": "good"}}', b'{"files": {"site": "good"}, "check": ["true"]}',
        b"[" * 60_000, b"\xff\xfe", b'{"files": {"site": "good"}',
    ],
)  # fmt: skip
def test_a_configuration_is_what_it_should_be(body: bytes, met: Managed) -> None:
    """Anything else is refused, and no file is written."""
    answer = met.agent.talk().ask("PUT", "/v1/services/web/configuration", body)
    assert (answer.status, answer.json()["code"]) == (400, "malformed")
    assert not (met.place / "site.conf").exists()


@pytest.mark.parametrize(
    ("method", "path", "size"),
    [
        ("PUT", "/v1/services/web/artifacts/large", 10 * 1000**3),
        ("PUT", "/v1/services/web/configuration", 5 * 1024**2),
        ("POST", "/v1/introduction", 65_537),
        ("POST", "/v1/introduction/answer", 65_537),
        ("POST", "/v1/services/web/artifacts/x/pull", 65_537),
    ],
)
def test_what_is_announced_too_large_is_not_read(method: str, path: str, size: int, met: Managed) -> None:
    """Ten gigabytes are refused before the first byte of them."""
    answer = met.agent.talk().ask(method, path, None, Content_Length=str(size))
    assert (answer.status, answer.json()["code"], answer.headers["Connection"]) == (413, "too-much", "close")


@pytest.mark.parametrize(
    ("path", "chunk", "count"),
    [("/v1/services/web/artifacts/large", 1_000_000, 11), ("/v1/services/web/configuration", 1_000_000, 5)],
)
def test_what_grows_too_large_is_cut_off(path: str, chunk: int, count: int, met: Managed) -> None:
    """Nothing was announced; past the limit it is refused, and nothing is left of it."""
    before = tree(met.place)
    talk = met.agent.talk()
    body = b"".join(b"%x\r\n%s\r\n" % (chunk, b"x" * chunk) for _ in range(count)) + b"0\r\n\r\n"
    answer = talk.ask("PUT", path, body, Transfer_Encoding="chunked")
    assert (answer.status, answer.json()["code"]) == (413, "too-much")
    assert tree(met.place) == before


def test_an_artifact_is_whole_or_not_there(met: Managed) -> None:
    """Another digest, no digest in the field, broken chunks, cut off: the one before stays."""
    path, place = "/v1/services/web/artifacts/app", met.place / "artifacts/app"
    assert met.agent.talk().ask("PUT", path, b"before").status == 201
    wrong = f"sha-256=:{b64encode(hashlib.sha256(b'other').digest()).decode()}:"
    for field in (wrong, "", "sha-256=x", "md5=:AAAA:", "sha-256=:" + "A" * 42 + ":"):
        answer = met.agent.talk().ask("PUT", path, b"after", Repr_Digest=field)
        assert (answer.status, answer.json()["code"]) == (400, "malformed")
    answer = met.agent.talk().ask("PUT", path, b"5\r\nafter\r\nzz\r\n", Transfer_Encoding="chunked")
    assert answer.status == 400
    cut = met.agent.talk()
    cut.tls.sendall(f"PUT {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 1000\r\n\r\nafter".encode())
    cut.close()
    both = f"sha-512=:AAAA:, sha-256=:{b64encode(hashlib.sha256(b'after').digest()).decode()}:"
    assert place.read_bytes() == b"before"
    assert met.agent.talk().ask("PUT", path, b"after", Repr_Digest=both).status == 201
    assert place.read_bytes() == b"after"
    place.unlink()


def test_what_somebody_writes_into_the_stream(met: Managed) -> None:
    """He is on the way, and ends the connection as TLS notices him; that is no failure of ours, with all its frames."""
    before = tree(met.place)
    for name, written in (("text", b"HTTP/1.1 200 OK\r\n" * 100), ("record", b"\x17\x03\x03\x00\x20" + bytes(32))):
        talk, path = met.agent.talk(), f"/v1/services/web/artifacts/{name}"
        talk.tls.sendall(f"PUT {path} HTTP/1.1\r\nHost: a\r\nContent-Length: 3000000\r\n\r\n".encode() + bytes(2**21))
        os.write(talk.tls.fileno(), written)
        (told,) = met.agent.process.told(f'"artifact":"{name}"')
        assert '"code":"gone"' in told
        talk.close()
        assert met.agent.talk().ask("GET", path).status == 404
    assert tree(met.place) == before
    assert not [line for line in met.agent.process.lines if "Traceback" in line or '"unexpected"' in line]


@pytest.mark.parametrize(
    "url",
    ["https://repo.example/a", "http://127.0.0.1/", "file:///etc/passwd", "https://[", "x", "", "https://repo.example:x/"],
)  # fmt: skip
def test_nothing_is_fetched_without_leave(url: str, met: Managed) -> None:
    """The policy here names no place."""
    answer = met.talk.ask("POST", "/v1/services/web/artifacts/x/pull", {"url": url, "sha256": "0" * 64})
    assert answer.status in {400, 403}
    assert answer.json()["code"] in {"not-authorized", "malformed"}


@pytest.mark.parametrize(
    "body", [b"{}", b'{"url": "https://a/"}', b'{"url": "https://a/", "sha256": "' + b"A" * 64 + b'"}']
)
def test_a_pull_has_a_digest(body: bytes, met: Managed) -> None:
    """What is fetched is known beforehand, or not fetched."""
    assert met.talk.ask("POST", "/v1/services/web/artifacts/x/pull", body).json()["code"] == "malformed"


def test_what_the_policy_does_not_say(met: Managed) -> None:
    """Of the service that may be looked at, nothing else."""
    for method, path in (
        ("POST", "/v1/services/seen/stop"),
        ("GET", "/v1/services/seen/artifacts"),
        ("GET", "/v1/services/seen/logs"),
        ("GET", "/v1/services/seen/logs/real.log"),
    ):
        answer = met.agent.talk().ask(method, path)
        assert (answer.status, answer.json()["code"]) == (403, "not-authorized")
    body = {"files": {"site": "good"}}
    assert met.agent.talk().ask("PUT", "/v1/services/seen/configuration", body).json()["code"] == "not-authorized"


def test_methods_and_versions(met: Managed) -> None:
    """What no route has is refused in the API's own words."""
    assert met.talk.ask("DELETE", "/v1/agent").status == 405
    assert met.talk.ask("GET", "/v2/agent").json() == {"message": "not found"}
    assert met.talk.ask("GET", "/v1/nothing").json()["code"] == "not-found"


def raw(talk: Talk, sent: bytes) -> bytes:
    """Send bytes, and return all that comes until the agent closes."""
    talk.tls.sendall(sent)
    received = b""
    while piece := talk.tls.recv(65536):
        received += piece
    return received


@pytest.mark.parametrize(
    "sent",
    [
        b"GET /v1/agent HTTP/1.1\r\nHost: a\r\nContent-Length: 5\r\nTransfer-Encoding: chunked\r\n\r\n0\r\n\r\n",
        b"GET /v1/agent HTTP/1.1\r\nHost: a\r\nX: " + b"x" * 10_000 + b"\r\n\r\n",
        b"GET /" + b"x" * 20_000 + b" HTTP/1.1\r\nHost: a\r\n\r\n",
        b"GET /v1/agent HTTP/1.1\r\n" + b"".join(b"X-%d: y\r\n" % number for number in range(200)) + b"\r\n",
        b"\x16\x03\x01\x02\x00\x01",
        b"GET /v1/agent HTTP/1.1\r\nHost: a\r\nContent-Length: -1\r\n\r\n",
        b"HANDFAST-AGENT/1 x\n",
    ],
)
def test_what_is_no_request(sent: bytes, met: Managed) -> None:
    """It is refused with 400, and the connection ends."""
    received = raw(met.agent.talk(), sent + b"\r\n\r\n")
    assert re.findall(rb"HTTP/1.\d (\d+)", received) == [b"400"]


def test_requests_one_behind_the_other(met: Managed) -> None:
    """Pipelined, each has its answer, in order; a body that nobody has read is not taken for the next request."""
    get = b"GET /v1/services/%s HTTP/1.1\r\nHost: a\r\n\r\n"
    last = b"GET /api_version HTTP/1.1\r\nHost: a\r\nConnection: close\r\n\r\n"
    received = raw(met.agent.talk(), get % b"seen" + get % b"none" + get % b"seen" + last)
    assert re.findall(rb"HTTP/1.1 (\d+)", received) == [b"200", b"404", b"200", b"200"]
    inner = b"POST /v1/services/web/start HTTP/1.1\r\nHost: a\r\n\r\n"
    outer = b"POST /v1/services/none/stop HTTP/1.1\r\nHost: a\r\nContent-Length: %d\r\n\r\n" % len(inner)
    received = raw(met.agent.talk(), outer + inner + last)
    assert re.findall(rb"HTTP/1.1 (\d+)", received) in ([b"404"], [b"404", b"200"])
    assert met.talk.ask("GET", "/v1/services/web").json() == {"state": "stopped"}


def test_a_hundred_that_say_nothing_keep_nobody_out(met: Managed) -> None:
    """Open connections without a handshake: the controller gets in at once, and the oldest of them are dropped."""
    address = (met.agent.address.host, met.agent.address.port)
    silent = [socket.create_connection(address) for _ in range(100)]
    try:
        assert met.agent.talk().ask("GET", "/v1/agent").status == 200
        silent[0].settimeout(30)
        assert silent[0].recv(1) == b""
    finally:
        for each in silent:
            each.close()
    assert met.agent.talk().ask("GET", "/v1/agent").status == 200


def test_one_who_does_not_read(met: Managed) -> None:
    """Asks for megabytes of a log, over and over, and reads nothing: the others are served meanwhile."""
    greedy = met.agent.talk()
    greedy.tls.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
    greedy.tls.settimeout(1)
    request = b"GET /v1/services/web/logs/real.log?lines=10000 HTTP/1.1\r\nHost: a\r\n\r\n"
    with pytest.raises(TimeoutError):
        greedy.tls.sendall(request * 1_000_000)
    for _ in range(20):
        assert met.agent.talk().ask("GET", "/v1/services").status == 200
    memory = Path(f"/proc/{met.agent.process.pid}/status").read_text()
    assert int(memory.split("VmRSS:")[1].split()[0]) < 150_000


def test_its_log_has_no_lines_of_theirs(met: Managed) -> None:
    """Names with line feeds come out as JSON: nobody writes a line of the agent's log."""
    met.talk.ask("GET", "/v1/services/" + quote('x\n{"event": "forged"}', safe=""))
    send = urlencode({"hostname": "x\n{}", "address": "y"}).encode()
    met.agent.talk().ask("POST", "/cluster_member_addresses", send, Content_Type=FORM)
    assert not [line for line in met.agent.process.lines if not line.startswith("{")]
    assert not [line for line in met.agent.process.lines if line.startswith('{"event": "forged"}')]
