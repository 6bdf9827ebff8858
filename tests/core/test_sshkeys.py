"""SSH public keys: the line and the wire form are one key, and what is shown of it is what ssh shows."""

from __future__ import annotations

import base64
import contextlib
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handfast.core import sshkeys
from handfast.core.sshdata import string
from handfast.core.sshkeys import SshKey
from handfast.errors import HandfastError, Malformed
from tests.core.sshmaterial import KINDS, key, keygen, new_key, public, signer

ED25519 = signer().public


@pytest.mark.peer("ssh-keygen")
@pytest.mark.parametrize("kind", KINDS)
def test_real_keys(kind: str, tmp_path: Path) -> None:
    """A key's algorithm, line and fingerprint are those of the real ssh-keygen."""
    path = new_key(tmp_path, kind)
    read = public(path)
    text = path.with_name(path.name + ".pub").read_text()
    assert str(read) == " ".join(text.split()[:2])
    assert keygen("-lf", path).stdout.decode().split()[1] == read.fingerprint
    assert sshkeys.from_blob(read.blob) == read
    assert base64.b64decode(read.fingerprint.removeprefix("SHA256:") + "=") == read.digest


@pytest.mark.parametrize(
    "algorithm", ["ssh-mldsa-44@openssh.com", "x.y+z_1@a-b", "ssh-xmss@openssh.com", "abc", "a" * 64]
)
def test_types_that_we_do_not_know(algorithm: str) -> None:
    """A key of tomorrow's type is kept and printed: what is dropped would be asked about at the terminal."""
    made = key(algorithm, b"whatever")
    assert sshkeys.parse(f"{made} a comment") == made
    assert str(made) == f"{algorithm} {base64.b64encode(made.blob).decode()}"


@pytest.mark.parametrize("around", ["{}", "  {}  ", "{} root@host", "{}\n", "\t{}\tx y z", "{} \N{SNOWMAN}"])
def test_line(around: str) -> None:
    """White space and a comment around a key are dropped."""
    assert sshkeys.parse(around.format(ED25519)) == ED25519


def test_order() -> None:
    """Keys have a steady order, by algorithm first."""
    keys = [signer(kind).public for kind in KINDS]
    assert [each.algorithm for each in sorted(keys)] == sorted(each.algorithm for each in keys)


BAD_LINES = {
    "empty": "",
    "no-key": "ssh-ed25519",
    "no-base64": "ssh-ed25519 AAAA!",
    "half-base64": f"ssh-ed25519 {ED25519.base64[:-1]}",
    "other-alphabet": "ssh-ed25519 AAAA_-==",
    "other-name": f"ssh-rsa {ED25519.base64}",
    "other-case": f"SSH-ED25519 {ED25519.base64}",
    "options": f'from="*" {ED25519}',
    "known-hosts": f"web1 {ED25519}",
    "name-in-latin": "ssh-ed25519 " + base64.b64encode(string("ssh-é".encode()) + string(b"x")).decode(),
    "wide": f"ssh-ed25519 {chr(0xFF21) * 20}",
    "private": "-----BEGIN OPENSSH PRIVATE KEY-----",
}


@pytest.mark.parametrize("name", BAD_LINES)
def test_bad_line(name: str) -> None:
    """A line that is not `algorithm base64`, or that says two algorithms, is refused with what it should be."""
    with pytest.raises(Malformed) as caught:
        sshkeys.parse(BAD_LINES[name])
    assert "ssh-ed25519 AAAAC3Nz" in caught.value.hint


BAD_BLOBS = {
    "empty": b"",
    "short": b"\0\0\0",
    "name-alone": string(b"ssh-ed25519"),
    "name-cut": string(b"ssh-ed25519")[:-1],
    "name-empty": string(b"") + string(b"x"),
    "name-short": string(b"ab") + string(b"x"),
    "name-long": string(b"a" * 65) + string(b"x"),
    "name-upper": string(b"Ssh-rsa") + string(b"x"),
    "name-two-words": string(b"ssh rsa") + string(b"x"),
    "name-line-feed": string(b"ssh-rsa\n") + string(b"x"),
    "name-comma": string(b"ssh-rsa,x") + string(b"x"),
    "name-nul": string(b"ssh-rsa\0") + string(b"x"),
    "name-escape": string(b"ssh\x1b[0m") + string(b"x"),
    "length-beyond": b"\xff\xff\xff\xffssh-rsa",
    "long": string(b"ssh-rsa") + bytes(sshkeys.MAX_BLOB),
    "certificate": string(b"ssh-ed25519-cert-v01@openssh.com") + string(b"x"),
}


@pytest.mark.parametrize("name", BAD_BLOBS)
def test_bad_wire_form(name: str) -> None:
    """Bytes without an algorithm's name that may stand in a file, too many of them, or a certificate are refused."""
    with pytest.raises(Malformed) as caught:
        sshkeys.from_blob(BAD_BLOBS[name])
    assert caught.value.hint
    assert caught.value.message.isprintable()


@pytest.mark.peer("ssh-keygen")
def test_real_certificate(tmp_path: Path) -> None:
    """A host certificate is no host key: what it is worth is said by its CA, and it would pass for another key."""
    path = new_key(tmp_path, "ed25519")
    assert keygen("-q", "-s", path, "-h", "-I", "id", "-n", "web1", f"{path}.pub").returncode == 0
    with pytest.raises(Malformed, match="a certificate"):
        sshkeys.parse((tmp_path / "ed25519-cert.pub").read_text())


@given(st.binary())
def test_any_bytes(blob: bytes) -> None:
    """Any bytes are a key, which is then read again from its line, or refused with an error of ours."""
    with contextlib.suppress(HandfastError):
        read = sshkeys.from_blob(blob)
        assert sshkeys.parse(str(read)) == read == SshKey(read.algorithm, blob)


@given(st.text() | st.builds("{} {}".format, st.text(max_size=20), st.binary().map(base64.b64encode).map(bytes.decode)))
def test_any_line(line: str) -> None:
    """Any text is a key, or refused with an error of ours, whose message may go to a terminal."""
    try:
        sshkeys.parse(line)
    except HandfastError as error:
        shown = error.message
    else:
        shown = ""
    assert shown.isprintable()
