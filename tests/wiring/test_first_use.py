"""A controller is made when it is first needed: once, whoever needs it, and however many at a time."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from handfast.adapters.files import FileLock
from handfast.core import instancedata
from handfast.errors import ConfigError, Fault
from handfast.wiring import LOCK, make_authority, open_instances
from handfast.wiring import service as services


def adding(name: str, data: Path) -> subprocess.Popen[bytes]:
    """`handfast instance add`, as an operator types it."""
    words = ["instance", "add", name, "--address", "192.0.2.7:7575", "--data", str(data), "--format", "json"]
    env = {"PATH": os.defpath, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "handfast", *words]
    return subprocess.Popen(command, env=env, stdout=subprocess.PIPE, stderr=subprocess.PIPE, cwd=data.parent)


def test_the_first_instance_makes_the_controller(tmp_path: Path) -> None:
    """Four at once on no directory at all: one authority, which all four machines are to obey, and one says so."""
    data = tmp_path / "D"
    done = [each.communicate(timeout=50) for each in [adding(f"app{number}.lan", data) for number in range(4)]]
    assert sum(b"its authority was made" in said for _, said in done) == 1, done
    roots = {json.loads(out)[instancedata.CA_KEY] for out, _ in done}
    pins = {instancedata.read(out).line.pin for out, _ in done}
    assert (len(roots), len(pins)) == (1, 1)
    assert [each.name for each in open_instances(data).all()] == [f"app{number}.lan" for number in range(4)]
    assert not make_authority(data, passphrase=None)


def test_a_wrong_configuration_makes_none(tmp_path: Path) -> None:
    """A mistake in the settings is told, and nothing is made by half of them."""
    (tmp_path / "D").mkdir(mode=0o700)
    (tmp_path / "D/config.toml").write_text("[registrar]\nlisten = 1\n")
    with pytest.raises(ConfigError):
        make_authority(tmp_path / "D", passphrase=None)
    assert not (tmp_path / "D/authority").exists()


def test_while_somebody_else_is_at_it(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever holds the directory for too long is named; nothing is made beside him."""
    monkeypatch.setattr(services, "_PATIENCE", 0.0)
    (tmp_path / "D").mkdir(mode=0o700)
    with FileLock(tmp_path / "D" / LOCK), pytest.raises(Fault, match="is in use by process"):
        make_authority(tmp_path / "D", passphrase=None)
    assert not (tmp_path / "D/authority").exists()
