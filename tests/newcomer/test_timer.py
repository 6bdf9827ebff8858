"""The units that `renew --install` writes: exact words for systemd, and nothing of ours that it would expand."""

from __future__ import annotations

import os
import shlex
import stat
import subprocess
import sys
from pathlib import Path

import pytest

from handfast.errors import Fault, UsageError
from handfast.newcomer import timer
from handfast.newcomer.timer import install_timer


def install(tmp_path: Path, out: str = "/etc/handfast/identity", command: str | None = None) -> tuple[Path, Path]:
    """Write the units and return their paths."""
    done = install_timer(Path(out), command=command, unit_dir=tmp_path / "units")
    assert all(line.startswith("wrote ") for line in done)
    service, units = (Path(line.removeprefix("wrote ")) for line in done)
    return service, units


def exec_start(service: Path) -> str:
    """The command line in the unit."""
    (line,) = [line for line in service.read_text().splitlines() if line.startswith("ExecStart=")]
    return line.removeprefix("ExecStart=")


def test_the_units_are_written(tmp_path: Path) -> None:
    """A service that renews if due, and a timer that asks; both may be read by all, since they hold no secret."""
    service, units = install(tmp_path)
    assert service.name == "handfast-renew-etc-handfast-identity.service"
    assert units.name == "handfast-renew-etc-handfast-identity.timer"
    expected = [sys.executable, "-P", "-m", "handfast", "renew", "--out", "/etc/handfast/identity", "--if-due"]
    assert shlex.split(exec_start(service)) == expected
    assert "OnUnitActiveSec=" in units.read_text()
    assert "NoNewPrivileges=yes" in service.read_text()
    assert {stat.S_IMODE(path.stat().st_mode) for path in (service, units)} == {0o644}


def test_ssh_certificates_too(tmp_path: Path) -> None:
    """Where it is installed for them, they are asked for by the same unit, also if there are none yet."""
    install_timer(Path("/etc/handfast"), command=None, unit_dir=tmp_path, ssh=True)
    (service,) = tmp_path.glob("*.service")
    assert shlex.split(exec_start(service))[-4:] == ["--out", "/etc/handfast", "--ssh", "--if-due"]


def test_writing_again_changes_nothing(tmp_path: Path) -> None:
    """An update runs it again; the files are replaced whole."""
    first = [path.read_bytes() for path in install(tmp_path)]
    assert [path.read_bytes() for path in install(tmp_path)] == first
    assert len(list((tmp_path / "units").iterdir())) == 2


def test_two_directories_have_two_units(tmp_path: Path) -> None:
    """`/a/b` and `/a-b` do not overwrite each other: names are escaped as systemd-escape does."""
    outs = ("/a/b", "/a-b", "/a_b", "/a.b", "/ä")
    names = {install(tmp_path, out)[0].name for out in outs}
    assert len(names) == len(outs)
    assert r"handfast-renew-a\x2db.service" in names
    assert r"handfast-renew-\xc3\xa4.service" in names


def test_a_relative_directory_is_made_absolute(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The unit does not run where the operator stood."""
    monkeypatch.chdir(tmp_path)
    assert str(tmp_path / "out") in exec_start(install(tmp_path, "out")[0])


@pytest.mark.parametrize(
    ("command", "word"),
    [
        ("systemctl reload nginx", '"systemctl reload nginx"'),
        ('sh -c "a; b"', r'"sh -c \"a; b\""'),
        ("echo 100% $HOME", '"echo 100%% $$HOME"'),
        ("printf '\\n'", "\"printf '\\\\n'\""),
    ],
)
def test_a_hook_is_one_word_that_systemd_does_not_expand(tmp_path: Path, command: str, word: str) -> None:
    """Quotes, backslashes, percent and dollar signs reach the shell as they were given."""
    assert exec_start(install(tmp_path, command=command)[0]).endswith(f'"--if-due" "--exec" {word}')


@pytest.mark.parametrize("command", ["true\nExecStartPre=/bin/evil", "true\x00", "a\tb", "\x1b[1m"])
def test_a_hook_cannot_write_another_line(tmp_path: Path, command: str) -> None:
    """A line feed would begin a setting of its own."""
    with pytest.raises(UsageError, match="cannot put") as caught:
        install(tmp_path, command=command)
    assert "script" in caught.value.hint


@pytest.mark.parametrize("out", ["/a b", "/a\nb", "/a%h", '/a"b', "/a'b", "/a\\b", "/a$b", "/a\tb"])
def test_a_path_that_systemd_would_read_otherwise_is_refused(tmp_path: Path, out: str) -> None:
    """Also the description and the comment name it, where nothing is quoted."""
    with pytest.raises(UsageError, match="systemd unit"):
        install(tmp_path, out)
    assert not (tmp_path / "units").exists()


def test_without_systemd_there_is_a_hint(monkeypatch: pytest.MonkeyPatch) -> None:
    """Cron does it too."""
    monkeypatch.setattr(Path, "is_dir", lambda _path: False)
    with pytest.raises(UsageError, match="does not run systemd") as caught:
        install_timer(Path("/etc/handfast"), command=None, unit_dir=None)
    assert "cron" in caught.value.hint


def test_whether_it_is_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Units that are there have a hook that somebody chose; where no systemd runs, there are none."""
    monkeypatch.setattr(timer, "_unit_directory", lambda: tmp_path / "units")
    monkeypatch.setattr(timer, "runs_systemd", lambda: True)
    assert not timer.has_timer(Path("/a/b"))
    install(tmp_path, "/a/b")
    assert timer.has_timer(Path("/a/b"))
    assert not timer.has_timer(Path("/a-b"))
    monkeypatch.setattr(timer, "runs_systemd", lambda: False)
    assert not timer.has_timer(Path("/a/b"))


def test_the_timer_is_started(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """systemctl reads the units and starts the timer; its failure is a fault with its words."""
    calls: list[list[str]] = []

    def systemctl(arguments: list[str], **_options: object) -> subprocess.CompletedProcess[str]:
        calls.append(arguments)
        return subprocess.CompletedProcess(arguments, code, "", "Failed to connect to bus")

    monkeypatch.setattr(timer, "_unit_directory", lambda: tmp_path)
    monkeypatch.setattr(subprocess, "run", systemctl)
    monkeypatch.setattr(os, "geteuid", lambda: 0)
    code = 0
    assert install_timer(Path("/o"), command=None, unit_dir=None)[-1] == "started handfast-renew-o.timer"
    assert calls == [["systemctl", "daemon-reload"], ["systemctl", "enable", "--now", "handfast-renew-o.timer"]]
    code = 1
    with pytest.raises(Fault, match="Failed to connect to bus"):
        install_timer(Path("/o"), command=None, unit_dir=None)
