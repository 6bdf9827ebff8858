"""ssh-agent: the real one signs, keeps and forgets; whatever else answers is refused with a reason."""

from __future__ import annotations

import os
import struct
import subprocess
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handfast.core import sshkeys, sshleaf, sshsig
from handfast.core.sshcert import Kind, SshCertificate
from handfast.core.sshdata import string
from handfast.core.sshleaf import SshLeaf
from handfast.errors import Malformed, NotFound, Refused, Unreachable, UntrustedPeer, UsageError
from handfast.newcomer import ssh_agent
from handfast.newcomer.ssh_agent import Agent
from tests.core.sshmaterial import KINDS, keygen, new_key, public, signer
from tests.newcomer.agents import message, ssh_add, standin
from tests.newcomer.agents import ssh_agent as running

pytestmark = pytest.mark.peer("ssh-keygen", "ssh-agent")

HOUR = timedelta(hours=1)


def certificate(of: sshsig.Signer, kind: Kind = Kind.USER) -> SshCertificate:
    """A certificate for a key, by another."""
    now = datetime.now(UTC)
    leaf = SshLeaf(
        kind=kind, key=of.public, key_id="user ada", principals=("ada",), valid_after=now, valid_before=now + HOUR
    )
    return sshleaf.issue(leaf, signer("p256"), serial=7)


def lists(*entries: tuple[bytes, bytes]) -> bytes:
    """The answer of an agent that holds these."""
    return message(12, struct.pack(">I", len(entries)), *(string(a) + string(b) for a, b in entries))


@pytest.mark.parametrize("kind", KINDS)
def test_keys_sign(tmp_path: Path, kind: str) -> None:
    """A key in the agent signs as it would from its file, RSA with SHA-512, and ssh-keygen takes the signature."""
    path = new_key(tmp_path, kind)
    with running() as socket:
        assert "Identity added" in ssh_add(socket, path)
        path.unlink()
        with Agent(socket) as agent:
            (held,) = agent.identities()
            assert (held.key, held.certificate, held.comment) == (public(path), None, "root@host")
            made = agent.signer(held.key).sign(b"message", "test@handfast")
    assert sshsig.verify(made, b"message", namespace="test@handfast") == public(path)
    (tmp_path / "signed.sig").write_text(sshsig.armor(made))
    checked = keygen("-Y", "check-novalidate", "-n", "test@handfast", "-s", tmp_path / "signed.sig", stdin=b"message")
    assert checked.returncode == 0, checked.stderr
    if kind == "rsa":
        assert b"rsa-sha2-512" in made


def test_a_certificate_is_added_used_and_forgotten() -> None:
    """It is one entry with its private key, ssh-add shows it, it ends with its lifetime, and it can be removed."""
    key = signer()
    held = certificate(key)
    with running() as socket, Agent(socket) as agent:
        agent.add(key, held, comment="handfast: ada", lifetime=HOUR)
        shown = ssh_add(socket, "-L").split(" ", 2)
        assert (shown[0], shown[2].strip()) == (held.algorithm, "handfast: ada")
        (entry,) = agent.identities()
        assert (entry.key, entry.certificate) == (key.public, held)
        agent.remove(held)
        assert agent.identities() == ()
        with pytest.raises(Refused, match="will not remove that key"):
            agent.remove(held)
        agent.add(key, held, comment="handfast: ada", lifetime=timedelta(seconds=1))
        while agent.identities():  # the agent's own clock; the test's limit is pytest's
            pass


def test_a_certificate_alone_signs_nothing_as_its_key() -> None:
    """A key that is there with its certificate only is not taken for the bare key."""
    key = signer()
    with running() as socket, Agent(socket) as agent:
        agent.add(key, certificate(key), comment="ada", lifetime=HOUR)
        with pytest.raises(NotFound, match="does not have the key SHA256:"):
            agent.signer(key.public)


def test_what_is_not_added() -> None:
    """Neither a certificate for another key, nor one for ever, nor with a key of another type."""
    with running() as socket, Agent(socket) as agent:
        with pytest.raises(Malformed, match="not a certificate for an ed25519 key that is there"):
            agent.add(signer(), certificate(signer("p384")), comment="", lifetime=HOUR)
        with pytest.raises(Malformed, match="not a certificate for an ed25519 key"):
            agent.add(signer("p384"), certificate(signer("p384")), comment="", lifetime=HOUR)
        for lifetime in (timedelta(0), timedelta(milliseconds=900), timedelta(seconds=-5), timedelta(days=365 * 200)):
            with pytest.raises(UsageError, match="keeps nothing for"):
                agent.add(signer(), certificate(signer()), comment="", lifetime=lifetime)
        assert agent.identities() == ()


def test_a_locked_agent_says_so(tmp_path: Path) -> None:
    """It holds nothing while it is locked, and whoever asks it to sign or to add learns that it will not."""
    path = new_key(tmp_path, "ed25519")
    with running() as socket, Agent(socket) as agent:
        ssh_add(socket, path)
        held = agent.signer(public(path))
        ask = tmp_path / "askpass"
        ask.write_text("#!/bin/sh\necho locked\n")
        ask.chmod(0o700)
        environment = {"SSH_AUTH_SOCK": str(socket), "SSH_ASKPASS": str(ask), "SSH_ASKPASS_REQUIRE": "force"}
        subprocess.run(["ssh-add", "-x"], env={**os.environ, **environment}, check=True, capture_output=True)
        with pytest.raises(Refused, match="will not sign with SHA256:") as caught:
            held.sign(b"m", "n")
        assert "ssh-add -X" in caught.value.hint
        with pytest.raises(Refused, match="will not take a certificate"):
            agent.add(signer(), certificate(signer()), comment="", lifetime=HOUR)


def test_nobody_there(tmp_path: Path) -> None:
    """No socket, and one that nobody listens on, say how to start an agent."""
    with pytest.raises(Unreachable, match="no such file") as caught:
        Agent(tmp_path / "agent")
    assert "eval" in caught.value.hint
    with running() as socket:
        gone = socket
    with pytest.raises(Unreachable, match="no ssh-agent"):
        Agent(gone)


@pytest.mark.root
def test_another_users_agent(monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever runs an agent sees what is added: it has to be our own, or root's."""
    monkeypatch.setattr(ssh_agent, "geteuid", lambda: 65534)
    with running() as socket:
        Agent(socket).close()  # root's
    monkeypatch.undo()
    with standin(lambda _: None) as socket:
        script = f"import os,socket,sys,time; os.seteuid(65534); s=socket.socket(socket.AF_UNIX); s.bind('{socket}2');"
        script += "s.listen(); print(flush=True); sys.stdin.read()"
        socket.parent.chmod(0o777)
        with subprocess.Popen(["python3", "-c", script], stdin=subprocess.PIPE, stdout=subprocess.PIPE) as process:
            assert process.stdout is not None
            process.stdout.readline()
            with pytest.raises(UntrustedPeer, match="run by the user with id 65534, not by you"):
                Agent(Path(f"{socket}2"))
            process.communicate()


@pytest.mark.parametrize(
    ("answer", "words"),
    [
        (struct.pack(">I", 0), "is 0 bytes long"),
        (struct.pack(">I", 1 << 20) + b"\x0c", "is 1048576 bytes long"),
        (b"HTTP/1.1 400 Bad Request\r\n\r\n", "bytes long, 1 to 262144 are read"),
        (message(14), "is message 14, not 12"),
        (message(12), "is cut off"),
        (message(12, struct.pack(">I", 2)), "is cut off"),
        (message(12, struct.pack(">I", 5000)), "lists 5000 keys"),
        (message(12, struct.pack(">I", 0), b"x"), "bytes behind its end"),
    ],
)
def test_answers_that_are_none(answer: bytes, words: str) -> None:
    """What does not speak the protocol is refused by what is wrong with it."""
    with standin(lambda _: answer) as socket, Agent(socket) as agent, pytest.raises(Malformed, match=words):
        agent.identities()


def test_an_agent_that_hangs_up() -> None:
    """An end in the middle is no answer."""
    with (
        standin(lambda _: b"") as socket,
        Agent(socket) as agent,
        pytest.raises(Unreachable, match="it closed the connection"),
    ):
        agent.identities()


def test_an_agent_that_says_nothing(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is waited for so long and no longer, and its late answer is not taken for the next one."""
    monkeypatch.setattr(ssh_agent, "PATIENCE", 0.05)
    with standin(lambda _: None) as socket, Agent(socket) as agent:
        with pytest.raises(Unreachable, match="does not answer in time"):
            agent.identities()
        with pytest.raises(Unreachable, match="no ssh-agent"):
            agent.identities()


def test_entries_that_we_do_not_know() -> None:
    """A broken or unknown entry is passed over, and a comment cannot write on the terminal."""
    key = signer().public
    entries = ((b"", b""), (b"nonsense", b""), (string(b"x-cert-v01@openssh.com"), b""), (key.blob, b"a\x1b[2Jb\n"))
    with standin(lambda _: lists(*entries)) as socket, Agent(socket) as agent:
        (held,) = agent.identities()
    assert (held.key, held.comment) == (key, "a?[2Jb?")


@given(st.binary(max_size=200), st.binary(max_size=50))
def test_any_bytes_as_an_entry(blob: bytes, comment: bytes) -> None:
    """An entry is one, or is passed over; its comment is harmless in any case."""
    for found in (ssh_agent._identity(blob, comment), ssh_agent._identity(signer().public.blob, comment)):
        assert found is None or found.comment.isprintable()


def test_a_signature_by_another_key() -> None:
    """What an agent signs is verified before it is used."""

    def answer(asked: bytes) -> bytes:
        return lists((key.blob, b"")) if asked[0] == 11 else message(14, string(signer("p256").signature(b"x")))

    key = signer().public
    with (
        standin(answer) as socket,
        Agent(socket) as agent,
        pytest.raises(UntrustedPeer, match="is no signature by SHA"),
    ):
        agent.signer(key).sign(b"m", "n")


def test_an_agent_that_knows_no_sha2(tmp_path: Path) -> None:
    """An old one passes over the flags and signs with SHA-1, which is refused by name."""
    key = signer("rsa").public

    def answer(asked: bytes) -> bytes:
        made = string(string(b"ssh-rsa") + string(b"\1" * 256))
        return lists((key.blob, b"")) if asked[0] == 11 else message(14, made)

    with standin(answer) as socket, Agent(socket) as agent, pytest.raises(UntrustedPeer, match="over SHA-1"):
        agent.signer(key).sign(b"m", "n")


def test_keys_that_do_not_sign_here() -> None:
    """Keys in hardware sign something else, and are refused before the agent asks for a touch."""
    token = sshkeys.from_blob(b"".join(map(string, (b"sk-ssh-ed25519@openssh.com", b"\1" * 32, b"ssh:"))))
    with running() as socket, Agent(socket) as agent, pytest.raises(Malformed, match="does not sign here"):
        agent.signer(token)


def test_what_is_too_long_is_not_sent() -> None:
    """The protocol's own limit holds on this side as well."""
    with running() as socket, Agent(socket) as agent, pytest.raises(Malformed, match="bytes for an ssh-agent"):
        agent.sign(signer().public, bytes(300_000))
