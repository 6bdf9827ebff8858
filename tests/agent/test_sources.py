"""Where user-data is found: each place, what is wrong with it, and whose word counts for the instance's id."""

from __future__ import annotations

import base64
import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

import pytest

from handfast.agent import sources
from handfast.agent.sources import Found
from handfast.core.instancedata import MAX_USER_DATA
from handfast.errors import HandfastError, Malformed, NotFound, Unreachable

TEXT = b'{"steamcannon_ca_cert": "..."}'
Answers = dict[tuple[str, str], tuple[int, bytes]]


@contextmanager
def metadata(answers: Answers, token: str | None = None) -> Iterator[tuple[str, int]]:
    """Serve as a metadata service; with a token, only to who has it."""

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            status, body = answers.get((self.command, self.path), (404, b""))
            if token is not None and self.command == "GET" and self.headers["X-aws-ec2-metadata-token"] != token:
                status, body = 401, b""
            self.send_response(status)
            self.send_header("Content-Length", str(len(body)))
            self.end_headers()
            self.wfile.write(body)

        do_GET = do_PUT = _answer  # noqa: N815

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    thread = threading.Thread(target=server.serve_forever, daemon=True)
    thread.start()
    try:
        yield "127.0.0.1", server.server_port
    finally:
        server.shutdown()
        thread.join()
        server.server_close()


def quiet(_remark: str) -> None:
    """Say nothing."""


def test_a_file_is_read(tmp_path: Path) -> None:
    """As cloud-init wrote it; others who can read it are told of."""
    path = tmp_path / "user-data"
    path.write_bytes(TEXT)
    path.chmod(0o600)
    said: list[str] = []
    assert sources.read(str(path), said.append).text == TEXT
    path.chmod(0o644)
    sources.read(str(path), said.append)
    assert len(said) == 1
    assert "can be read or written by others" in said[0]


@pytest.mark.parametrize(
    "meta", ["instance-id: i-1\nlocal-hostname: web1\n", '{"instance-id": "i-1", "x": 1}', "'instance-id': 'i-1'\n"]
)
def test_a_seed_is_read(meta: str, tmp_path: Path) -> None:
    """NoCloud's two files, with the id in either of the forms that people write."""
    (tmp_path / "user-data").write_bytes(TEXT)
    assert sources.nocloud((tmp_path / "none", tmp_path)) == Found(TEXT)
    (tmp_path / "meta-data").write_text(meta.replace(", ", ",\n"))
    assert sources.nocloud((tmp_path,)) == Found(TEXT, "i-1")


def test_the_command_line_is_read(tmp_path: Path) -> None:
    """One word of it, in base64."""
    path = tmp_path / "cmdline"
    path.write_text(f"root=/dev/vda1 {sources.PREFIX}{base64.b64encode(TEXT).decode()} quiet\n")
    assert sources.command_line(path) == Found(TEXT)
    path.write_text(f"{sources.PREFIX}!!\n")
    with pytest.raises(Malformed, match="is no base64"):
        sources.command_line(path)
    path.write_text("quiet\n")
    with pytest.raises(NotFound, match="on the kernel's command line"):
        sources.command_line(path)


EC2: Answers = {
    ("PUT", "/latest/api/token"): (200, b"secret"),
    ("GET", "/latest/meta-data/instance-id"): (200, b"i-0123\n"),
    ("GET", "/latest/user-data"): (200, TEXT),
}
OPENSTACK: Answers = {
    ("GET", "/openstack/latest/meta_data.json"): (200, json.dumps({"uuid": "u-1"}).encode()),
    ("GET", "/openstack/latest/user_data"): (200, TEXT),
}


def test_aws_is_asked_with_a_token() -> None:
    """Version 2 of its service: a token first, which a forwarded request of somebody else does not get."""
    with metadata(EC2, token="secret") as service:
        assert sources.ec2(service) == Found(TEXT, "i-0123")


def test_openstack_is_asked() -> None:
    """Its own paths, and the instance's UUID."""
    with metadata(OPENSTACK) as service:
        assert sources.openstack(service) == Found(TEXT, "u-1")


@pytest.mark.parametrize(
    ("ask", "answers", "kind", "message"),
    [
        (sources.ec2, EC2 | {("GET", "/latest/user-data"): (404, b"")}, NotFound, "has no '/latest/user-data'"),
        (sources.ec2, EC2 | {("PUT", "/latest/api/token"): (403, b"")}, Unreachable, "with status 403"),
        (sources.ec2, EC2 | {("GET", "/latest/user-data"): (302, b"")}, Unreachable, "with status 302"),
        (
            sources.ec2,
            EC2 | {("GET", "/latest/user-data"): (200, b"x" * (MAX_USER_DATA + 1))},
            Malformed,
            "user-data of over 16384 bytes",
        ),
        (
            sources.openstack,
            OPENSTACK | {("GET", "/openstack/latest/meta_data.json"): (200, b"[]")},
            Malformed,
            "does not say which instance this is",
        ),
    ],
)
def test_what_a_service_does_not_say_is_an_error(
    ask: Callable[[tuple[str, int]], Found], answers: Answers, kind: type[HandfastError], message: str
) -> None:
    """Nothing there, something else there, too much: said, and never taken for user-data."""
    with metadata(answers) as service, pytest.raises(kind, match=message):
        ask(service)


def test_nobody_there_is_said() -> None:
    """Outside of a cloud nobody answers."""
    with metadata({}) as service:
        pass
    with pytest.raises(Unreachable, match="no metadata service: ConnectionRefusedError"):
        sources.ec2(service)


def test_every_place_is_tried(monkeypatch: pytest.MonkeyPatch) -> None:
    """Where nothing is said, each is looked at in its order, and all of it is told if there is nothing."""

    def missing() -> Found:
        raise NotFound("nothing there")

    for name in ("command_line", "nocloud", "ec2", "openstack"):
        monkeypatch.setattr(sources, name, missing)
    with pytest.raises(NotFound) as refused:
        sources.read("auto", quiet)
    assert refused.value.message.count("nothing there") == 4
    monkeypatch.setattr(sources, "ec2", lambda: Found(TEXT, "i-1"))
    assert sources.read("auto", quiet) == sources.read("ec2", quiet) == Found(TEXT, "i-1")
