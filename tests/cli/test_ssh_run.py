"""`handfast ssh` before it is ssh: our own flags, and what is repeated here as its home takes too long to import."""

from __future__ import annotations

import subprocess
import sys
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from handfast import wiring
from handfast.adapters.user import find_program, setting, state_directory
from handfast.cli import ssh_run
from handfast.core.hosts import Grade, Host, HostKey, How, Place
from handfast.errors import Unreachable, UsageError
from handfast.policy.rules import HostRules
from handfast.ssh import launcher, snapshot
from tests.registrar.hosts import signer


@pytest.mark.parametrize(
    ("given", "source", "rest"),
    [
        (["h"], None, ["h"]),
        (["--data", "/d", "-p", "22", "h"], ("--data", "/d"), ["-p", "22", "h"]),
        (["--identity", "/i", "h"], ("--identity", "/i"), ["h"]),
        (["--registrar=https://r:1#p", "--", "-h"], ("--registrar", "https://r:1#p"), ["--", "-h"]),
        (["-v", "--data", "/d"], None, ["-v", "--data", "/d"]),
        (["--", "--data", "x"], None, ["--", "--data", "x"]),
        (["h", "--help"], None, ["h", "--help"]),
        (["--help", "x"], ("--help", ""), []),
        ([], None, []),
    ],
)
def test_our_flags_come_first(given: list[str], source: tuple[str, str] | None, rest: list[str]) -> None:
    """What follows the first word that is not ours is ssh's, whatever it looks like."""
    assert ssh_run.split(given) == (source, rest)


@pytest.mark.parametrize("given", [["--data"], ["--data="], ["--data", ""], ["--dat", "x"], ["--data=a", "--data=b"]])
def test_a_flag_that_means_nothing_is_refused(given: list[str]) -> None:
    """Without a value, unknown, or a second source."""
    with pytest.raises(UsageError):
        ssh_run.split(given)


def test_without_a_source_it_is_the_registrar_here_then_the_one_that_was_joined(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The environment counts first; a registrar that runs here before the one that this machine has joined."""
    for name in ("HANDFAST_DATA", "HANDFAST_REGISTRAR"):
        monkeypatch.delenv(name, raising=False)
    data, identity = tmp_path / "data", tmp_path / "identity"
    monkeypatch.setattr("handfast.config.data_directory", lambda: data)
    monkeypatch.setenv("HANDFAST_OUT", str(identity))
    with pytest.raises(UsageError, match="from which registry"):
        ssh_run._default()
    for directory, file in ((identity, "identity.json"), (data, ssh_run.LEDGER)):
        directory.mkdir()
        (directory / file).touch()
        flag = "--identity" if directory == identity else "--data"
        assert ssh_run._default() == (flag, str(directory))
    monkeypatch.setenv("HANDFAST_REGISTRAR", "https://r:1#p")
    assert ssh_run._default() == ("--registrar", "https://r:1#p")


def test_what_is_repeated_agrees() -> None:
    """The names of files, and how well a key has to be known where nothing is set."""
    assert (ssh_run.LEDGER, ssh_run.CONFIG) == (wiring.LEDGER, wiring.CONFIG)
    assert ssh_run.accepted(Path("/nonexistent")) == HostRules().accept


def test_a_start_loads_little() -> None:
    """It stands in for ssh: neither click nor what signs, serves or stores is imported on the way."""
    code = "import sys, handfast.cli.ssh_run, handfast.ledger.host_lookup; print(*sys.modules)"
    line = [sys.executable, "-c", code]
    loaded = set(subprocess.run(line, capture_output=True, text=True, check=True).stdout.split())
    assert not loaded & {"click", "cryptography", "msgspec", "sqlalchemy", "aiohttp", "ssl", "asyncio", "subprocess"}


PIN = bytes(32)


def snapshot_of(age: timedelta, directory: Path, *, most: timedelta | None) -> None:
    """What `ssh-config install --most-age` keeps, as old as that."""
    host = Host("web1", Place.parse(["web1.lan"]), (HostKey(signer(1).public, How.INVITATION, "", datetime.now(UTC)),))
    content = snapshot.build([host], least=Grade.REPORTED, registrar="home", pin=PIN)
    snapshot.keep(directory / "handfast" / "ssh", snapshot.Kept(content, datetime.now(UTC) - age, None))
    if most is not None:
        settings = f"most {int(most.total_seconds())}\n"
        (directory / "handfast" / "ssh" / launcher.SETTINGS).write_text(settings)


DAY = timedelta(days=1)


@pytest.mark.parametrize(("age", "most"), [(DAY / 2, DAY), (DAY * 6, DAY * 7), (DAY * 20, DAY * 30), (-DAY / 2, DAY)])
def test_offline_it_goes_by_what_plain_ssh_goes_by(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, age: timedelta, most: timedelta
) -> None:
    """While the registrar is down, what it said last counts for as long as was installed, and no machine is lost."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    snapshot_of(age, tmp_path, most=most)
    found = ssh_run.offline(PIN, Unreachable("it is down")).lookup("web1.lan", 22)
    assert found is not None
    assert found.machine == "web1"


@pytest.mark.parametrize(
    ("age", "most", "why"),
    [
        (DAY * 6, DAY, "6.0 days old, and 1.0 days are allowed"),
        (DAY * 8, DAY * 7, "8.0 days old, and 7.0 days are allowed"),
        (-DAY * 30, DAY * 7, "from 30.0 days in the future"),
        (DAY / 2, None, "it is down"),
    ],
)
def test_P13_offline_a_key_that_was_taken_back_does_not_live_longer_than_was_installed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, age: timedelta, most: timedelta | None, why: str
) -> None:
    """Whoever keeps us from the registrar, or sets this clock back, gains no more time than at plain ssh."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    snapshot_of(age, tmp_path, most=most)
    with pytest.raises(Unreachable, match="it is down") as refused:
        ssh_run.offline(PIN, Unreachable("it is down"))
    assert why in refused.value.message


def test_offline_another_registrar_s_word_is_none(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The snapshot is of the registrar that was asked, or it is not used."""
    monkeypatch.setenv("XDG_STATE_HOME", str(tmp_path))
    snapshot_of(DAY / 2, tmp_path, most=DAY)
    with pytest.raises(Unreachable, match="it is down"):
        ssh_run.offline(b"\1" * 32, Unreachable("it is down"))


def test_the_environment_is_read() -> None:
    """An empty variable is none; state lies where XDG says, else in the home directory."""
    assert setting("data", {"HANDFAST_DATA": "/d"}) == "/d"
    assert setting("data", {"HANDFAST_DATA": ""}) is None
    assert state_directory({"XDG_STATE_HOME": "/x"}) == Path("/x/handfast")
    assert state_directory({}) == Path.home() / ".local/state/handfast"


def test_a_program_is_found_past_ourselves(tmp_path: Path) -> None:
    """On PATH, but not where a link of the same name leads to us, nor in the directory where somebody calls it."""
    for folder in ("a", "b", "c"):
        (tmp_path / folder).mkdir()
    (tmp_path / "us").write_text("")
    (tmp_path / "us").chmod(0o755)
    (tmp_path / "a" / "ssh").symlink_to(tmp_path / "us")
    (tmp_path / "b" / "ssh").write_text("no program")
    (tmp_path / "c" / "ssh").write_text("")
    (tmp_path / "c" / "ssh").chmod(0o755)
    path = f".:{tmp_path}/nowhere:{tmp_path}/a:{tmp_path}/b:{tmp_path}/c"
    assert find_program("ssh", but=tmp_path / "us", environ={"PATH": path}) == tmp_path / "c" / "ssh"
    assert find_program("ssh", but=tmp_path / "other", environ={"PATH": path}) == tmp_path / "a" / "ssh"
    assert find_program("ssh", but=tmp_path / "us", environ={"PATH": "."}) is None
