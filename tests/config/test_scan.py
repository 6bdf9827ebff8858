"""``[ssh.scan]``: what an operator opens, and every way to write it wrong."""

from __future__ import annotations

import ipaddress
from pathlib import Path

import pytest

from handfast.config import settings
from handfast.config.scan import ScanSettings
from handfast.core.invitation import Address
from handfast.errors import ConfigError
from handfast.ssh.guard import Guard

PIN = "ab" * 32


def read(tmp_path: Path, text: str) -> ScanSettings:
    """The settings of a file."""
    path = tmp_path / "config.toml"
    path.write_text(text)
    return settings.load(path).scan


def test_nothing_is_open_without_a_word(tmp_path: Path) -> None:
    """Without the table only public addresses at port 22 are looked at."""
    assert read(tmp_path, "") == ScanSettings(guard=Guard())


def test_networks_and_ports(tmp_path: Path) -> None:
    """Both lists become what the guard goes by."""
    text = '[ssh.scan]\nallow = ["10.0.0.0/8", "fd00:1::/32"]\nports = [2222, 22]\n'
    networks = (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00:1::/32"))
    assert read(tmp_path, text).guard == Guard(allow=networks, ports=(2222, 22))


@pytest.mark.parametrize("directories", ['"/a"', '["/a", "/b"]'])
def test_vantage_points(tmp_path: Path, directories: str) -> None:
    """Registrars by address and pin, and one or several directories of what they let us in with."""
    settings = read(tmp_path, f'[ssh.scan]\nvantage = ["https://far.lan:7443#{PIN}"]\ncredential = {directories}\n')
    assert settings.vantage == ((Address("far.lan", 7443), bytes.fromhex(PIN)),)
    assert settings.credentials[0] == Path("/a")


def test_agents(tmp_path: Path) -> None:
    """Instances by their names, beside registrars, where this one is their controller; they need no credential."""
    watch = "[instances]\nwatch = true\n"
    settings = read(tmp_path, f'[ssh.scan]\nvantage = ["agent:app1.lan", "agent:APP2"]\n{watch}')
    assert (settings.agents, settings.vantage) == (("app1.lan", "app2"), ())
    both = f'[ssh.scan]\nvantage = ["agent:7443#{PIN}", "agent:app1.lan"]\ncredential = "/a"\n{watch}'
    settings = read(tmp_path, both)
    assert (settings.agents, settings.vantage) == (("app1.lan",), ((Address("agent", 7443), bytes.fromhex(PIN)),))


def test_agents_have_a_controller(tmp_path: Path) -> None:
    """Where this registrar does not watch its instances nobody could ask them, and no look would ever do."""
    with pytest.raises(
        ConfigError, match=r"vantage: 'agent:app1\.lan' is asked by its controller: \[instances\] watch"
    ):
        read(tmp_path, '[ssh.scan]\nvantage = ["agent:app1.lan"]\n')


@pytest.mark.parametrize(
    ("table", "mistake"),
    [
        ('allow = ["10.0.0.1/8"]', "allow: not a network: '10.0.0.1/8'"),
        ("allow = [5]", "allow: [5] is not of the right kind"),
        ('allow = "10.0.0.0/8"', "allow: '10.0.0.0/8' is not of the right kind"),
        ("ports = [0]", "ports: not a port: 0"),
        ("ports = [65536]", "ports: not a port: 65536"),
        ("ports = [true]", "ports: [True] is not of the right kind"),
        ('ports = ["ssh"]', "ports: ['ssh'] is not of the right kind"),
        ("ports = 22", "ports: 22 is not of the right kind"),
        ("ports = [1,2,3,4,5,6,7,8,9,10,11,12,13,14,15,16,17]", "ports: 17 ports, at most 16"),
        ('vantage = ["far.lan:7443"]', "vantage: no pin in 'far.lan:7443'"),
        ('vantage = ["https://far.lan:7443#00"]\ncredential = "d"', "vantage: "),
        ('vantage = ["far.lan:7443#" ]\ncredential = "d"', "vantage: "),
        (f'vantage = ["far.lan:7443#{PIN}"]', "credential: is missing: the directory"),
        (f'vantage = ["far.lan:7443#{PIN}", "https://far.lan:7443#{PIN}"]', "vantage: one of them stands there twice"),
        (f"vantage = {[f'r{n}.lan:7443#{PIN}' for n in range(9)]}", "vantage: 9 vantage points, at most 8"),
        ('vantage = ["agent:"]', "vantage: not a machine name: ''"),
        ('vantage = ["agent:a b"]', "vantage: not a machine name: 'a b'"),
        ('vantage = ["agent:a", "agent:A"]', "vantage: one of them stands there twice"),
        (f"vantage = {[f'agent:a{n}' for n in range(9)]}", "vantage: 9 vantage points, at most 8"),
        ('credential = ""', "credential: an empty path"),
        ("credential = 5", "credential: 5 is not of the right kind"),
        ("private = true", "private: unknown"),
    ],
)
def test_mistakes(tmp_path: Path, table: str, mistake: str) -> None:
    """Each is said with the key and the value."""
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, f"[ssh.scan]\n{table}\n")
    assert f"ssh.scan.{mistake}" in caught.value.message


def test_every_mistake_at_once(tmp_path: Path) -> None:
    """The first mistake does not hide the others."""
    with pytest.raises(ConfigError, match=r"scan\.allow: .*; ssh\.scan\.ports: .*; ssh\.scan\.x: unknown"):
        read(tmp_path, '[ssh.scan]\nallow = ["x"]\nports = [-1]\nx = 1\n')


def test_a_table_it_is(tmp_path: Path) -> None:
    """Something else under that name is a mistake."""
    with pytest.raises(ConfigError, match=r"ssh\.scan: has to be a table"):
        read(tmp_path, "[ssh]\nscan = []\n")
