"""known-hosts and what is said of host keys, in the corners: nothing known, no credential that fits, a revocation."""

from __future__ import annotations

from pathlib import Path

import pytest

from handfast.adapters.clock import SystemClock
from handfast.authority import ceremony
from handfast.cli import ssh_config
from handfast.cli.main import run
from handfast.core.keys import format_pin
from handfast.core.roles import Role
from handfast.errors import UsageError
from handfast.ssh.config import Source
from handfast.wiring import AUTHORITY
from tests.registrar.hosts import signer

PIN, OTHER = bytes(32), b"\1" * 32


@pytest.fixture
def data(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The directory of a registrar that never ran, and a machine that has joined none."""
    directory = tmp_path / "data"
    directory.mkdir(0o700)
    ceremony.create(directory / AUTHORITY, name="registrar", now=SystemClock().now())
    monkeypatch.setenv("HANDFAST_DATA", str(directory))
    monkeypatch.setenv("HANDFAST_OUT", str(tmp_path / "none"))
    monkeypatch.delenv("HANDFAST_REGISTRAR", raising=False)
    return directory


@pytest.mark.parametrize("form", ["openssh", "ca", "ssh-keyscan", "json", "sshfp"])
def test_nothing_known(data: Path, capsys: pytest.CaptureFixture[str], form: str) -> None:
    """JSON is an empty list, which a program can read; everything else is empty."""
    assert run(["known-hosts", "--format", form]) == 0
    assert capsys.readouterr().out == ("[]\n" if form == "json" else "")


def test_revoking_a_machine_says_which_host_keys_go(data: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An operator reads, and a program is told, that the SSH host keys are refused too."""
    key, other = signer(1).public, signer(2).public
    for name, public in (("web1.lan", key), ("web2.lan", other)):
        assert run(["invite", name, "--address", "r.lan:7443"]) == 0
        assert run(["host", "add", name, "--key", str(public)]) == 0
    capsys.readouterr()
    assert run(["revoke", "web1.lan", "--reason", "keyCompromise"]) == 0
    assert f"web1.lan: its SSH host key {key.fingerprint} is refused from now on" in capsys.readouterr().err
    assert run(["revoke", "web2.lan", "--reason", "keyCompromise", "--json"]) == 0
    assert f'"host_keys":["{other.fingerprint}"]' in capsys.readouterr().out


class Holding:
    """A credential, as far as it is looked at."""

    def __init__(self, role: Role, pin: bytes) -> None:
        self.identity, self.role, self.pin = self, role, pin


@pytest.mark.parametrize(
    ("role", "pin", "presented"),
    [(Role.CLIENT, PIN, True), (Role.OPERATOR, PIN, True), (Role.SERVER, PIN, False), (Role.CLIENT, OTHER, False)],
)
def test_the_machine_s_own_credential_is_shown_to_its_own_registrar(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, role: Role, pin: bytes, presented: bool
) -> None:
    """Another registrar may tell anybody, and so may ours where TLS takes this credential from servers only."""
    (tmp_path / "identity.json").touch()
    monkeypatch.setenv("HANDFAST_OUT", str(tmp_path))
    monkeypatch.setattr("handfast.newcomer.renew.held", lambda _keystore: Holding(role, pin))
    url = f"https://r.lan:7443#{format_pin(PIN)}"
    own = str(tmp_path) if presented else None
    assert ssh_config.at_registrar(url, None) == Source(registrar=url, identity=own)
    assert ssh_config.at_registrar(url, Path("/else")) == Source(registrar=url, identity="/else")
    assert ssh_config.at_registrar(None, None) == Source(identity=str(tmp_path))


def test_without_a_registrar_and_a_credential_there_is_nobody_to_ask(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """It is said what to give."""
    monkeypatch.setenv("HANDFAST_OUT", str(tmp_path))
    with pytest.raises(UsageError, match="from which registrar"):
        ssh_config.at_registrar(None, None)
