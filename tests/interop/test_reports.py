"""Reports of host keys by the user-data's own script: honest, again, by others, to somebody else than the registrar."""

from __future__ import annotations

from pathlib import Path

import pytest
import yaml

from handfast.core.hosts import Host as Known
from handfast.core.hosts import How
from handfast.wiring import open_ledger
from tests.interop.first_boot import INSTANCE, boot, host_keys, lines
from tests.interop.hosts import Host, Registrar

pytestmark = [pytest.mark.peer("curl", "ssh-keygen"), pytest.mark.root]


def document(registrar: Registrar, name: str, *flags: str) -> str:
    """What an operator gives to the cloud."""
    return registrar.host.handfast("userdata", name, "--data", registrar.data, "--phone-home", *flags).stdout


def known(registrar: Registrar, name: str) -> Known | None:
    """What the registrar knows of a machine."""
    with open_ledger(registrar.data) as ledger:
        return ledger.host(name)


def alarms(registrar: Registrar) -> int:
    """How many there are."""
    with open_ledger(registrar.data) as ledger:
        return len(ledger.events(kind_prefix="alarm."))


@pytest.fixture
def at_once(tmp_path: Path) -> str:
    """A directory with a `sleep` that does not, for scripts that would wait ten minutes in all."""
    (tmp_path / "bin").mkdir()
    (tmp_path / "bin" / "sleep").write_text("#!/bin/sh\n")
    (tmp_path / "bin" / "sleep").chmod(0o755)
    return str(tmp_path / "bin")


def test_a_report(local: Registrar, tmp_path: Path) -> None:
    """The keys are known afterwards, as reported, and the token is gone from the machine."""
    etc_ssh = host_keys(tmp_path / "ssh")
    booted = boot(document(local, "web1", "--san", "web1.lan"), etc_ssh, tmp_path / "boot")
    assert (booted.code, booted.stdout, booted.stderr) == (0, "", "handfast: reported the host keys\n")
    host = known(local, "web1")
    assert host is not None
    assert {str(each.key) for each in host.keys} == lines(etc_ssh)
    assert {each.how for each in host.keys} == {How.PHONE_HOME}
    assert INSTANCE in host.keys[0].detail
    assert host.place.names == ("web1.lan",)


def test_the_same_report_again(local: Registrar, tmp_path: Path) -> None:
    """A lost answer is asked for again, and changes nothing."""
    etc_ssh, text = host_keys(tmp_path / "ssh", "ed25519"), document(local, "web2")
    assert boot(text, etc_ssh, tmp_path / "one").code == 0
    before = known(local, "web2")
    assert boot(text, etc_ssh, tmp_path / "two").code == 0
    assert known(local, "web2") == before


def test_other_keys_with_the_same_token(local: Registrar, tmp_path: Path) -> None:
    """Whoever reads the user-data afterwards is refused, and the operator is told."""
    text, honest = document(local, "web3"), host_keys(tmp_path / "ssh", "ed25519")
    assert boot(text, honest, tmp_path / "one").code == 0
    before = alarms(local)
    attacked = boot(text, host_keys(tmp_path / "hostile", "ed25519"), tmp_path / "two")
    assert (attacked.code, attacked.stdout) == (1, "")
    assert "SOMEBODY ELSE HAS REPORTED HOST KEYS" in attacked.stderr
    assert alarms(local) == before + 1
    host = known(local, "web3")
    assert host is not None
    assert {str(each.key) for each in host.keys} == lines(honest)


def test_no_such_token(local: Registrar, tmp_path: Path) -> None:
    """A stranger learns nothing but that it is none."""
    text = document(local, "web4").replace("handfastphone1_", "handfastphone1_A")
    booted = boot(text, host_keys(tmp_path / "ssh", "ed25519"), tmp_path / "boot")
    assert booted.code == 1
    assert "refused with status 403" in booted.stderr
    assert '"evidence-rejected"' in booted.stderr
    assert "web4" not in booted.stderr
    assert known(local, "web4") is None


def test_a_report_to_somebody_else(here: Host, local: Registrar, tmp_path: Path, at_once: str) -> None:
    """Whoever sits there without our root's certificate is told nothing: curl ends before it sends."""
    other = Registrar(here, data="other")
    text = document(local, "web5").replace(f":{local.port}/", f":{other.port}/")
    booted = boot(text, host_keys(tmp_path / "ssh", "ed25519"), tmp_path / "boot", path=at_once)
    assert (booted.code, booted.stdout) == (1, "")
    assert "certificate" in booted.stderr
    assert "handfast: no answer in 15 tries" in booted.stderr
    assert known(local, "web5") is None


def test_nothing_secret_is_in_arguments(local: Registrar) -> None:
    """What everybody on the machine can see of its processes has neither token nor address."""
    read = yaml.safe_load(document(local, "web6"))
    assert "handfastphone1_" not in str(read["runcmd"])
    scripts = [each["content"] for each in read["write_files"] if each["path"].endswith("/script")]
    assert len(scripts) == 1
    assert "handfastphone1_" not in scripts[0]
