"""Where user-data is found: each place, what is wrong with it, and whose word counts for the instance's id."""

from __future__ import annotations

import base64
import json
import os
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from tempfile import TemporaryDirectory

import pytest
from structlog.testing import capture_logs

from handfast.agent import attributes, sources
from handfast.agent.sources import Found
from handfast.core.instancedata import MAX_USER_DATA
from handfast.errors import HandfastError, Malformed, NotFound, Unreachable, Unsafe

TEXT = b'{"steamcannon_ca_cert": "..."}'
Answers = dict[tuple[str, str], tuple[int, bytes]]


@contextmanager
def metadata(
    answers: Answers, token: str | None = None, *, google: bool = False, got: list[bytes] | None = None
) -> Iterator[tuple[str, int]]:
    """
    Serve as a metadata service; with a token, or as Google's, only to who has it or says that he means it.

    ``got`` gets the bodies of what is put.
    """

    class Handler(BaseHTTPRequestHandler):
        def _answer(self) -> None:
            status, body = answers.get((self.command, self.path), (404, b""))
            if token is not None and self.command == "GET" and self.headers["X-aws-ec2-metadata-token"] != token:
                status, body = 401, b""
            if google and self.headers["Metadata-Flavor"] != "Google":
                status, body = 403, b""
            if got is not None:
                got.append(self.rfile.read(int(self.headers["Content-Length"] or 0)))
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
    path.write_text(f"{sources.PREFIX}e30é\n")
    with pytest.raises(Malformed, match="is no base64"):
        sources.command_line(path)
    path.write_text("quiet\n")
    with pytest.raises(NotFound, match="on the kernel's command line"):
        sources.command_line(path)


@pytest.fixture
def cloud_init(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A machine whose cloud-init has run at this boot, as instance i-1; user-data is there of that, and of i-0."""
    with TemporaryDirectory() as scratch:  # not below pytest's directory, which is closed to others
        place = Path(scratch)
        place.chmod(0o755)
        monkeypatch.setattr(sources, "_GIVEN", place)
        monkeypatch.setattr(sources, "_CLOUD_INIT", place / ".instance-id")
        monkeypatch.setattr(sources, "_CLOUD_ID", place / "cloud-id")
        (place / ".instance-id").write_text("i-1\n")
        for name, text in ("i-0", b"another's"), ("i-1", TEXT):
            (place / name).mkdir()
            (place / name / "user-data.txt").write_bytes(text)
            (place / name / "user-data.txt").chmod(0o600)
        yield place


def test_what_cloud_init_was_given(cloud_init: Path) -> None:
    """Its own copy, with the id by which it knows this machine: wherever it came from, a volume too."""
    assert sources.read("cloud-init", quiet) == Found(TEXT, "i-1")
    (cloud_init / "cloud-id").write_text("gce\n")
    assert sources.read("cloud-init", quiet).google
    (cloud_init / "i-1").rename(cloud_init / "a_b")
    (cloud_init / ".instance-id").write_text("a/b")
    assert sources.cloud_init() == Found(TEXT, "a/b", google=True)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        (None, "cloud-init has not said which instance this is"),
        ("iid-datasource-none\n", "cloud-init has not said which instance this is"),
        ("i-2", "no file '.*/i-2/user-data.txt'"),
    ],
)
def test_what_cloud_init_was_given_elsewhere(said: str | None, message: str, cloud_init: Path) -> None:
    """On a copied disk, before cloud-init has run or under another id, there is only another machine's: not ours."""
    (cloud_init / ".instance-id").unlink()
    if said is not None:
        (cloud_init / ".instance-id").write_text(said)
    with pytest.raises(NotFound, match=message):
        sources.cloud_init()


def test_cloud_init_without_user_data(cloud_init: Path) -> None:
    """It writes an empty file then, after which other places are looked at."""
    (cloud_init / "i-1" / "user-data.txt").write_bytes(b"\n")
    with pytest.raises(NotFound, match="cloud-init was given no user-data"):
        sources.cloud_init()


@pytest.mark.root
def test_what_cloud_init_was_given_is_roots(cloud_init: Path) -> None:
    """What a user could have put there is not what root obeys."""
    os.chown(cloud_init / "i-1" / "user-data.txt", 65534, 65534)
    with pytest.raises(Unsafe, match="belongs to user id 65534"):
        sources.cloud_init()


@pytest.mark.root
def test_an_agent_that_is_not_roots_looks_elsewhere(cloud_init: Path) -> None:
    """It may not read cloud-init's copy, and `auto` goes on."""
    os.seteuid(65534)
    try:
        with pytest.raises(NotFound, match="is for root alone"):
            sources.cloud_init()
    finally:
        os.seteuid(0)


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


GOOGLE: Answers = {
    ("GET", "/computeMetadata/v1/instance/id"): (200, b"7312093"),
    ("GET", "/computeMetadata/v1/instance/attributes/user-data"): (200, TEXT),
    ("PUT", "/computeMetadata/v1/instance/guest-attributes/handfast/agent-key"): (200, b""),
}


def test_google_is_asked() -> None:
    """With the header that it demands, which a forwarded request of somebody else does not have."""
    with metadata(GOOGLE, google=True) as service:
        assert sources.gce(service) == Found(TEXT, "7312093", google=True)


def test_a_guest_attribute_is_written() -> None:
    """The value as it is, and nothing else; a service that does not take it says so."""
    got: list[bytes] = []
    with metadata(GOOGLE, google=True, got=got) as service:
        sources.write_attribute("handfast", "agent-key", "a line", service)
        assert got == [b"a line"]
        with pytest.raises(NotFound, match="has no '/computeMetadata/v1/instance/guest-attributes/handfast/other'"):
            sources.write_attribute("handfast", "other", "a line", service)


@pytest.mark.parametrize(("status", "reason"), [(403, "with status 403"), (404, "has no"), (302, "with status 302")])
def test_a_key_that_is_not_taken_is_said_and_no_more(status: int, reason: str, monkeypatch: pytest.MonkeyPatch) -> None:
    """Guest attributes that are not enabled, or a service that leads elsewhere: the agent goes on."""
    answers = dict.fromkeys(GOOGLE, (status, b""))
    with metadata(answers) as service, capture_logs() as said:
        monkeypatch.setattr(sources.write_attribute, "__defaults__", (service,))
        attributes.publish("web1", bytes(32))
    (line,) = said
    assert line["event"] == "the guest attributes do not have our key"
    assert reason in line["reason"]
    assert "enable-guest-attributes=TRUE" in line["hint"]


@pytest.mark.parametrize(
    ("cloud", "google"), [("gce", True), ("gce\n", True), ("ec2", False), ("gcex", False), (None, False)]
)
def test_cloud_init_says_whose_cloud_it_is(
    cloud: str | None, google: bool, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file that cloud-init has written comes from the cloud that it has found; nobody else is sent anything."""
    path, says = tmp_path / "user-data", tmp_path / "cloud-id-of"
    path.write_bytes(TEXT)
    path.chmod(0o600)
    if cloud is not None:
        says.write_text(cloud)
    (tmp_path / "cloud-id").symlink_to(says)  # as cloud-init has it
    monkeypatch.setattr(sources, "_CLOUD_ID", tmp_path / "cloud-id")
    assert sources.read(str(path), quiet).google is google


@pytest.mark.parametrize(
    ("ask", "answers", "kind", "message"),
    [
        (sources.gce, GOOGLE | {("GET", "/computeMetadata/v1/instance/id"): (403, b"")}, Unreachable, "status 403"),
        (
            sources.gce,
            GOOGLE | {("GET", "/computeMetadata/v1/instance/attributes/user-data"): (404, b"")},
            NotFound,
            "has no '/computeMetadata/v1/instance/attributes/user-data'",
        ),
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

    for name in ("command_line", "nocloud", "cloud_init", "ec2", "gce", "openstack"):
        monkeypatch.setattr(sources, name, missing)
    with pytest.raises(NotFound) as refused:
        sources.read("auto", quiet)
    assert refused.value.message.count("nothing there") == 6
    monkeypatch.setattr(sources, "ec2", lambda: Found(TEXT, "i-1"))
    assert sources.read("auto", quiet) == sources.read("ec2", quiet) == Found(TEXT, "i-1")
