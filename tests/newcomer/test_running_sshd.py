"""The machine's own sshd, as far as that can be told without one: which unit, which process, which address."""

from __future__ import annotations

import os
import shutil
import socket
import subprocess
from dataclasses import replace
from pathlib import Path

import pytest

from handfast.errors import Fault, NotFound, Unreachable
from handfast.newcomer import running_sshd
from handfast.newcomer.running_sshd import Settings, Sshd
from tests.core.certmaterial import issued
from tests.core.sshmaterial import signer

NOWHERE = Settings((), (), (), frozenset(), None, None, None)


@pytest.mark.parametrize(
    ("text", "place"),
    [
        ("0.0.0.0:22", ("127.0.0.1", 22)),
        ("[::]:2222", ("::1", 2222)),
        ("10.1.2.3:22", ("10.1.2.3", 22)),
        ("[fd00::1]:22", ("fd00::1", 22)),
        ("10.1.2.3:22 rdomain 4", ("10.1.2.3", 22)),
    ],
)
def test_where_it_listens(text: str, place: tuple[str, int]) -> None:
    """As `sshd -T` prints it; everywhere is also loopback."""
    assert running_sshd._listen(text) == place


def test_no_sshd(monkeypatch: pytest.MonkeyPatch) -> None:
    """A machine without OpenSSH's server is told so."""
    monkeypatch.setattr(shutil, "which", lambda *_names, **_options: None)
    with pytest.raises(NotFound, match="no sshd on this machine"):
        Sshd()


def test_it_listens_nowhere() -> None:
    """Then nothing is shown, and it is said why."""
    (reason,) = running_sshd.not_shown(NOWHERE, [issued()], certain=True)
    assert "cannot be seen: sshd listens nowhere" in reason
    assert not running_sshd.answers(NOWHERE)
    with pytest.raises(Unreachable, match="nowhere"):
        running_sshd._shown(NOWHERE, ["ssh-ed25519"], 0.0)


def test_who_turns_us_away_listens() -> None:
    """A full sshd closes connections at once, and proves no key: it is there all the same, unlike one that is ended."""
    with socket.create_server(("127.0.0.1", 0)) as listening:
        place: tuple[str, int] = listening.getsockname()
        assert running_sshd.may_listen(replace(NOWHERE, listens=(("127.0.0.2", 9), place)))
    assert not running_sshd.may_listen(replace(NOWHERE, listens=(place,)))
    assert not running_sshd.may_listen(NOWHERE)


def test_nobody_knows_who_listens_behind_a_filter(monkeypatch: pytest.MonkeyPatch) -> None:
    """Then somebody may."""

    def filtered(*_: object, **__: object) -> socket.socket:
        raise TimeoutError

    monkeypatch.setattr(socket, "create_connection", filtered)
    assert running_sshd.may_listen(replace(NOWHERE, listens=(("127.0.0.1", 22),)))


def test_the_algorithms_of_a_certificate() -> None:
    """An RSA key's is shown under the names of its signatures; its own name is SHA-1's."""
    names = running_sshd.algorithms(issued(key=signer("rsa").public))
    assert names == ("rsa-sha2-512-cert-v01@openssh.com", "rsa-sha2-256-cert-v01@openssh.com")
    assert running_sshd.algorithms(issued()) == ("ecdsa-sha2-nistp384-cert-v01@openssh.com",)


@pytest.mark.parametrize("content", ["", "\n", "x\n", "-1\n", "0\n", "1\n", "99999999999\n"])
def test_a_pid_file_that_names_no_sshd(tmp_path: Path, content: str) -> None:
    """Nobody gets a signal: not init, not a process group, not whoever has the number now."""
    path = tmp_path / "pid"
    path.write_text(content)
    assert running_sshd._running(path) is None
    path.write_text(f"{os.getpid()}\n")  # a Python
    assert running_sshd._running(path) is None
    assert running_sshd._running(tmp_path / "nowhere") is None
    assert running_sshd._running(None) is None


@pytest.mark.parametrize(("active", "code"), [("ssh.service", 0), ("sshd.service", 0), ("sshd.service", 1), ("", 0)])
def test_systemd_reloads_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, active: str, code: int) -> None:
    """The unit that runs is reloaded, as Debian or others call it; if none does, the pid file says who runs."""
    calls: list[str] = []

    def run(command: list[str]) -> subprocess.CompletedProcess[str]:
        calls.append(" ".join(command))
        if command[1] == "is-active":
            return subprocess.CompletedProcess(command, 0 if command[-1] == active else 3, "", "")
        return subprocess.CompletedProcess(command, code, "", "Job failed")

    monkeypatch.setattr(running_sshd, "_SYSTEMD", tmp_path)
    monkeypatch.setattr(running_sshd, "_run", run)
    monkeypatch.setattr(running_sshd, "PATIENCE", 0.1)
    sshd = Sshd.__new__(Sshd)
    sshd.config = running_sshd.DEFAULT_CONFIG
    if code:
        with pytest.raises(Fault, match=r"systemctl reload sshd\.service failed: Job failed"):
            sshd.reload(NOWHERE)
    else:
        assert not sshd.reload(NOWHERE)  # it cannot be known, without a pid file
    assert [call for call in calls if "reload" in call] == ([f"systemctl reload {active}"] if active else [])
    calls.clear()
    sshd.config = tmp_path / "sshd_config"  # another sshd than the machine's
    assert not sshd.reload(NOWHERE)
    assert calls == []
