"""Host keys that sign, wherever they are: in files, in a real ssh-agent, or where only ssh-keygen reads them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from handfast.core import sshsig
from handfast.errors import HandfastError, NotFound, Refused, Unsafe, UntrustedPeer
from handfast.newcomer.host_signers import KeygenSigner, Signers, host_signers
from handfast.newcomer.ssh_agent import AgentSigner
from tests.core.sshmaterial import keygen, public
from tests.newcomer.agents import ssh_add, ssh_agent, standin
from tests.newcomer.test_hostkeys import made

pytestmark = pytest.mark.peer("ssh-keygen", "ssh-agent")


def named(directory: Path, kind: str, name: str = "") -> Path:
    """A key as sshd's default has it."""
    return made(directory, kind, name)


def lock(path: Path) -> None:
    """Give a key a passphrase."""
    assert keygen("-q", "-p", "-P", "", "-N", "secret", "-f", path).returncode == 0


@pytest.fixture
def askpass(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A program that tells ssh-keygen the passphrase, as a person at a terminal would."""
    path = tmp_path / "askpass"
    path.write_text("#!/bin/sh\necho secret\n")
    path.chmod(0o700)
    monkeypatch.setenv("SSH_ASKPASS", str(path))
    monkeypatch.setenv("SSH_ASKPASS_REQUIRE", "force")
    return path


@contextmanager
def found(directory: Path, agent: Path | None = None) -> Iterator[Signers]:
    """All that can sign, each having done so."""
    with host_signers(directory, agent=agent) as keys:
        for signer in keys.signers:
            assert sshsig.verify(signer.sign(b"message", "n"), b"message", namespace="n") == signer.public
        yield keys


def test_files(tmp_path: Path) -> None:
    """Keys in files sign, ed25519 first, and no agent is asked."""
    paths = {kind: named(tmp_path, kind) for kind in ("rsa", "p256", "ed25519")}
    with found(tmp_path, tmp_path / "no agent") as keys:
        assert [signer.public for signer in keys.signers] == [
            public(paths[kind]) for kind in ("ed25519", "p256", "rsa")
        ]
        assert keys.paths == {public(path): path for path in paths.values()}
        assert (keys.remarks, keys.agent) == ((), None)


def test_a_key_in_an_agent(tmp_path: Path) -> None:
    """Of which only the public half is there: the agent signs, and where it listens is told."""
    path, file = named(tmp_path, "ed25519"), named(tmp_path, "p256")
    with ssh_agent() as agent:
        ssh_add(agent, path)
        path.unlink()
        with found(tmp_path, agent) as keys:
            assert isinstance(keys.signers[0], AgentSigner)
            assert keys.paths == {public(path): path, public(file): file}
            assert (keys.remarks, keys.agent) == ((), agent)


def test_nobody_has_the_private_half(tmp_path: Path) -> None:
    """It is left out, and said so; where it is the only key, that is the error."""
    path = named(tmp_path, "ed25519")
    path.unlink()
    reason = f"'{path}.pub' is left out: its private half is neither there nor in an ssh-agent"
    with ssh_agent() as agent:
        for given in (None, agent):
            with pytest.raises(NotFound, match="can sign") as caught, found(tmp_path, given):
                pass
            assert reason in caught.value.message
        named(tmp_path, "p256")
        with found(tmp_path, agent) as keys:
            assert keys.remarks == (reason,)


def test_an_agent_that_is_none(tmp_path: Path) -> None:
    """What does not speak as an agent, or does not exist, costs the keys in files nothing."""
    named(tmp_path, "ed25519")
    other = named(tmp_path, "p256")
    other.unlink()
    with standin(lambda _message: b"HTTP/1.1 400") as agent:
        for given in (agent, tmp_path / "nowhere"):
            with found(tmp_path, given) as keys:
                assert len(keys.signers) == 1
                assert any(each.startswith("the ssh-agent is not used") for each in keys.remarks)


def test_a_key_with_a_passphrase(tmp_path: Path, askpass: Path) -> None:
    """ssh-keygen signs, once it is told the passphrase; there is no remark that it was left out."""
    path = named(tmp_path, "ed25519")
    named(tmp_path, "p256")
    lock(path)
    with found(tmp_path) as keys:
        assert isinstance(keys.signers[0], KeygenSigner)
        assert keys.remarks == ()
    askpass.write_text("#!/bin/sh\necho wrong\n")
    with host_signers(tmp_path, agent=None) as keys, pytest.raises(Refused, match="ssh-keygen did not sign") as caught:
        keys.signers[0].sign(b"message", "n")
    assert "passphrase" in caught.value.message
    assert "ssh-keygen -Y sign -n n -f" in caught.value.hint


def test_a_public_half_that_is_another_keys(tmp_path: Path, askpass: Path) -> None:
    """ssh-keygen signs with what it has: a signature by another key is noticed before it is sent."""
    path, other = named(tmp_path, "ed25519"), named(tmp_path, "ed25519", "other")
    expected = public(other)
    signer = KeygenSigner(expected, path)
    with pytest.raises(UntrustedPeer, match="ssh-keygen signed with") as caught:
        signer.sign(b"message", "n")
    assert public(path).fingerprint in caught.value.message
    path.with_name(f"{path.name}.pub").write_text(f"{expected}\n")
    other.unlink()
    with pytest.raises(NotFound, match="is another key"), found(tmp_path):
        pass


def test_no_ssh_keygen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without it, what only it reads cannot sign."""
    path = named(tmp_path, "ed25519")
    lock(path)
    monkeypatch.setenv("PATH", str(tmp_path))
    with host_signers(tmp_path, agent=None) as keys, pytest.raises(NotFound, match="no ssh-keygen to sign with"):
        keys.signers[0].sign(b"message", "n")


@pytest.mark.parametrize("said", ["nothing", "-----BEGIN SSH SIGNATURE-----\nAAAA\n-----END SSH SIGNATURE-----"])
def test_another_program_of_that_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, said: str) -> None:
    """Whatever else it prints is no signature."""
    path = named(tmp_path, "ed25519")
    key = public(path)
    program = tmp_path / "ssh-keygen"
    program.write_text(f"#!/bin/sh\ncat >/dev/null\necho '{said}'\n")
    program.chmod(0o755)
    monkeypatch.setenv("PATH", f"{tmp_path}:/usr/bin:/bin")
    with pytest.raises(UntrustedPeer, match="what ssh-keygen signed is no signature"):
        KeygenSigner(key, path).sign(b"message", "n")


def test_a_key_that_others_read(tmp_path: Path) -> None:
    """That is no remark: nobody should have such a key certified."""
    named(tmp_path, "ed25519").chmod(0o644)
    with pytest.raises(Unsafe), found(tmp_path):
        pass


def test_too_many(tmp_path: Path) -> None:
    """Four at a time, ed25519 first; of the fifth it is said."""
    for number in range(3):
        named(tmp_path, "p256", f"p256-{number}")
    for number in range(2):
        named(tmp_path, "ed25519", f"ed25519-{number}")
    with found(tmp_path) as keys:
        assert [signer.public.algorithm for signer in keys.signers].count("ssh-ed25519") == 2
        assert len(keys.signers) == len(keys.paths) == 4
        (remark,) = keys.remarks
    assert remark.endswith("is left out: 4 keys at a time")


def test_nothing_there(tmp_path: Path) -> None:
    """The error says how to have some."""
    with pytest.raises(NotFound, match="no SSH host key in") as caught, found(tmp_path):
        pass
    assert caught.value.message == f"no SSH host key in {str(tmp_path)!r}"  # once
    assert isinstance(caught.value, HandfastError)
    assert "ssh-keygen -A" in caught.value.hint


def test_a_public_half_that_cannot_be_read(tmp_path: Path) -> None:
    """A damaged file is left out, and the others sign."""
    named(tmp_path, "ed25519")
    (tmp_path / "ssh_host_odd_key.pub").write_text("ssh-ed25519 !!!\n")
    with found(tmp_path) as keys:
        assert len(keys.signers) == 1
        assert any("ssh_host_odd_key.pub' is left out" in each for each in keys.remarks)
