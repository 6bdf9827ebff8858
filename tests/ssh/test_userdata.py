"""Documents for cloud-init: what they hold, what YAML makes of them, and that nothing can be put into them."""

from __future__ import annotations

import subprocess
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import UTC, datetime, timedelta
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from importlib.resources import files
from pathlib import Path
from threading import Thread
from typing import Any

import pytest
import yaml
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import load_ssh_private_key
from hypothesis import given
from hypothesis import strategies as st

from handfast.core.invitation import Address, InvitationLine
from handfast.core.secret import Secret
from handfast.errors import Malformed
from handfast.introducers import bucket, phone_home
from handfast.ssh import console, userdata
from tests.introducers.stage import p256

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
END = NOW + timedelta(hours=1)
PIN = bytes(range(32))
SEED = Secret(bytes([9]) * 32)
ADDRESS = (
    "https://keys.s3.eu-central-1.amazonaws.com/web1.lan/0123456789abcdef?X-Amz-Expires=3600&X-Amz-Signature=ab%2F"
)
TOKEN = phone_home.token(SEED)
LINE = InvitationLine(SEED, PIN, NOW, END, (Address("registrar.lan", 7443), Address("2001:db8::1", 7443)))
ROOT = (
    x509.CertificateBuilder(x509.Name([]), x509.Name([]), p256(7).public_key(), 1)
    .not_valid_before(NOW)
    .not_valid_after(END)
    .sign(p256(7), hashes.SHA256())
)

FORMS: dict[str, Callable[[str], str]] = {
    "join": lambda name: userdata.joining(name, LINE),
    "upload": lambda name: userdata.uploading(name, ADDRESS, one_time_key=SEED, pin=PIN, expires_at=END),
    "phone_home": lambda name: userdata.reporting(
        name, userdata.phone_home_url("https://registrar.lan", TOKEN), expires_at=END
    ),
    "report": lambda name: userdata.reporting_to_root(
        name, userdata.phone_home_url("https://[2001:db8::1]:7443/", TOKEN), root=ROOT, expires_at=END
    ),
}
every_form = pytest.mark.parametrize("form", sorted(FORMS))
SCRIPTS = ("join", "upload", "report")


def contents(form: str) -> dict[str, str]:
    """The files that the document of a form writes, by name."""
    read = yaml.safe_load(FORMS[form]("web1.lan"))
    for each in read["write_files"]:
        assert (each["owner"], each["permissions"]) == ("root:root", "0600")
    return {each["path"].removeprefix(f"/run/handfast/{form}/"): each["content"] for each in read["write_files"]}


@every_form
def test_it_is_cloud_config(form: str) -> None:
    """The first line is what cloud-init looks for; the lines below tell a reader what it is, and that it is secret."""
    lines = FORMS[form]("web1.lan").splitlines()
    assert lines[0] == "#cloud-config"
    told = " ".join(line.removeprefix("# ") for line in lines[1:] if line.startswith("#"))
    assert told.startswith("SSH host keys of web1.lan")
    assert "A secret until 2026-11-22 13:00Z" in told
    assert all(len(line) <= 102 for line in lines[1:5])


@every_form
def test_it_is_small(form: str) -> None:
    """It fits the smallest limit among clouds, 16 KiB, with room for what an operator adds."""
    assert len(FORMS[form]("web1.lan")) < 8192


@pytest.mark.parametrize("form", SCRIPTS)
def test_the_script_is_ours_and_never_changes(form: str) -> None:
    """Nothing is ever put into a script: it comes as it stands in the package, whatever the machine is called."""
    script = files("handfast.ssh").joinpath(f"{form}.sh").read_text()
    assert contents(form)["script"] == script
    document = yaml.safe_load(FORMS[form]("web2.lan"))
    assert document["write_files"][0]["content"] == script
    assert document["runcmd"] == [["sh", f"/run/handfast/{form}/script"]]


@pytest.mark.parametrize("form", SCRIPTS)
@pytest.mark.parametrize("shell", ["sh", "bash", pytest.param("busybox", marks=pytest.mark.peer("busybox"))])
def test_every_shell_reads_the_scripts(form: str, shell: str) -> None:
    """The scripts are sh's language and no more; which sh a cloud's image has is not ours to choose."""
    command = [shell, *(["sh"] if shell == "busybox" else []), "-n"]
    script = contents(form)["script"]
    assert subprocess.run(command, input=script, text=True, capture_output=True, check=False).stderr == ""


@contextmanager
def refusing(answer: bytes) -> Iterator[str]:
    """The address of a server that refuses whatever is sent, with this answer."""

    class Refusal(BaseHTTPRequestHandler):
        def do_PUT(self) -> None:
            self.rfile.read(int(self.headers["Content-Length"]))
            self.send_response(403)
            self.send_header("Content-Length", str(len(answer)))
            self.end_headers()
            self.wfile.write(answer)

        def do_POST(self) -> None:
            self.do_PUT()

        def log_message(self, *_: object) -> None:
            """Nothing."""

    with ThreadingHTTPServer(("127.0.0.1", 0), Refusal) as server:
        Thread(target=server.serve_forever).start()
        try:
            yield f"http://127.0.0.1:{server.server_port}/web1.lan/x"
        finally:
            server.shutdown()


def make_key(place: Path) -> str:
    """Make a host key, and return its public half."""
    subprocess.run(["ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-C", "", "-f", place], check=True)
    return place.with_name(f"{place.name}.pub").read_text().strip()


@pytest.mark.peer("curl", "ssh-keygen")
@pytest.mark.parametrize("end", ["\n", "\r", "\\n", "\u2028", "\x1b[2K\n"])
@pytest.mark.parametrize("shell", ["sh", "bash"])
@pytest.mark.parametrize("form", ["upload", "report"])
def test_nobody_else_writes_into_the_console(tmp_path: Path, form: str, shell: str, end: str) -> None:
    """What the other side answers is told in one line, so that no host key can be read from it."""
    work, etc = tmp_path / "work", tmp_path / "etc"
    work.mkdir()
    etc.mkdir()
    make_key(etc / "ssh_host_ed25519_key")
    make_key(work / "one-time-key")
    (work / "document").write_text("handfast host keys 1\n")
    block = (
        "",
        "-----BEGIN SSH HOST KEY KEYS-----",
        make_key(tmp_path / "evil"),
        "-----END SSH HOST KEY KEYS-----",
        "",
    )
    script = contents(form)["script"].replace(f"/run/handfast/{form}", str(work)).replace("/etc/ssh/", f"{etc}/")
    with refusing(end.join(block).encode()) as url:
        (work / "curl").write_text(f'url = "{url}"\nsilent\n')
        done = subprocess.run([shell, "-c", script], capture_output=True, check=False)
    (line,) = done.stderr.splitlines(keepends=True)
    assert done.returncode == 1
    assert line.startswith(b"handfast: the ")
    assert b" was refused with status 403: " in line
    assert b"BEGIN SSH HOST KEY KEYS" in line
    assert line.decode("ascii").removesuffix("\n").isprintable()
    with pytest.raises(Malformed, match="no SSH host keys"):
        console.host_keys(done.stdout + done.stderr)


def test_what_a_machine_joins_with() -> None:
    """The invitation is written as it is, and nothing else."""
    assert contents("join").keys() == {"script", "invitation"}
    assert InvitationLine.parse(contents("join")["invitation"]).key_id == LINE.key_id


def test_what_a_machine_uploads_with() -> None:
    """The one-time key, what it signs, and the address: no credential of a cloud, and no second secret."""
    found = contents("upload")
    assert found.keys() == {"script", "document", "one-time-key", "curl"}
    key = load_ssh_private_key(found["one-time-key"].encode(), None)
    assert isinstance(key, Ed25519PrivateKey)
    public = key.public_key().public_bytes_raw()
    assert found["document"].splitlines() == [
        "handfast host keys 1",
        "machine web1.lan",
        f"nonce {bucket.nonce(public, PIN)}",
    ]
    assert found["curl"].startswith(f'url = "{ADDRESS}"\n')
    assert 'header = "If-None-Match: *"\n' in found["curl"]


def test_what_a_machine_reports_with() -> None:
    """cloud-init's own module where the certificate is publicly trusted; else curl, with our root and no other."""
    document = yaml.safe_load(FORMS["phone_home"]("web1.lan"))
    assert list(document) == ["phone_home"]
    assert document["phone_home"]["url"] == f"https://registrar.lan/v1/ssh/phone-home/{TOKEN.reveal().decode()}"
    assert "pub_key_ed25519" in document["phone_home"]["post"]
    found = contents("report")
    assert found.keys() == {"script", "root.pem", "curl"}
    assert x509.load_pem_x509_certificate(found["root.pem"].encode()) == ROOT
    assert 'cacert = "root.pem"\n' in found["curl"]
    assert found["curl"].startswith('url = "https://[2001:db8::1]:7443/v1/ssh/phone-home/handfastphone1_')


@every_form
@pytest.mark.parametrize(
    "name",
    ["", "a b", "a\nruncmd: [evil]", 'a"', "a'", "a\\", "$(evil)", "a: b", "- a", "# a", "{{ a }}", "ä", "a" * 254],
)
def test_hostile_names(form: str, name: str) -> None:
    """A name that could mean something to YAML, a shell or a template is none."""
    with pytest.raises(Malformed, match="not a machine name"):
        FORMS[form](name)


@pytest.mark.parametrize(
    "url",
    [
        "http://registrar.lan",
        "registrar.lan",
        "https://",
        'https://registrar.lan/"\noutput = "/etc/passwd',
        "https://registrar.lan/$INSTANCE_ID",
        "https://registrar.lan/{a,b}",
        "https://user:word@registrar.lan",
        "https://registrar.lan/\\",
        "https://registrar.lan/a b",
        "https://registrar.lan?a",
    ],
)
def test_hostile_urls(url: str) -> None:
    """An address that is not plain https, or that would mean something to curl or cloud-init, is refused."""
    with pytest.raises(Malformed, match="not a URL") as refused:
        userdata.phone_home_url(url, TOKEN)
    assert TOKEN.reveal().decode() not in str(refused.value)


@pytest.mark.parametrize("url", ['https://s3/"', "https://s3/a\nb", "ftp://s3/a", "https://s3/a#b"])
def test_hostile_addresses(url: str) -> None:
    """The same holds for the address of a bucket."""
    with pytest.raises(Malformed, match="not a URL"):
        userdata.uploading("web1.lan", url, one_time_key=SEED, pin=PIN, expires_at=END)


TEXTS = st.text(st.characters(codec="ascii"), max_size=40) | st.from_regex(r"\A([ -~]{0,12}\n){0,6}\Z")
NODES = st.recursive(
    TEXTS | st.integers() | st.lists(TEXTS, max_size=3),
    lambda inner: (
        st.dictionaries(st.from_regex(r"\Ak_[a-z]{1,6}\Z"), inner, min_size=1, max_size=3)
        | st.lists(
            st.dictionaries(st.from_regex(r"\Ak_[a-z]{1,6}\Z"), inner, min_size=1, max_size=3), min_size=1, max_size=3
        )
    ),
    max_leaves=12,
)


@given(st.dictionaries(st.from_regex(r"\Ak_[a-z]{1,6}\Z"), NODES, min_size=1, max_size=4))
def test_yaml_reads_what_was_written(content: dict[str, Any]) -> None:
    """Whatever text is put in comes out as that text: it cannot become a key, end a block or open a document."""
    try:
        written = userdata.as_yaml(content)
    except ValueError:
        assert "\x7f" in repr(content) or "\\x7f" in repr(content)
        return
    assert yaml.safe_load(written) == content


def test_what_is_not_ascii_is_refused() -> None:
    """JSON writes it in a way that YAML reads otherwise, so it is not written."""
    with pytest.raises(ValueError, match="read differently"):
        userdata.as_yaml({"a": "\U0001f600"})
