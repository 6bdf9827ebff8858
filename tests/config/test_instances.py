"""``[instances]``: whether `up` is the controller of managed machines, and every way to write it wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from handfast.config import settings
from handfast.config.instances import InstanceSettings, SecondKey, called_at
from handfast.core.invitation import Address
from handfast.errors import ConfigError, UsageError


def read(tmp_path: Path, text: str) -> InstanceSettings:
    """The settings of a file."""
    path = tmp_path / "config.toml"
    path.write_text(text)
    return settings.load(path).instances


def test_nobody_watches_without_a_word(tmp_path: Path) -> None:
    """A registrar dials nobody unless it is told to."""
    assert read(tmp_path, "") == read(tmp_path, "[instances]\n") == InstanceSettings(watch=False)


def test_it_is_said(tmp_path: Path) -> None:
    """One word makes `up` their controller."""
    assert read(tmp_path, "[instances]\nwatch = true\n").watch


def test_calls_and_second_keys(tmp_path: Path) -> None:
    """Nobody can call without a word, and a second key revokes nothing without one."""
    assert (read(tmp_path, "").listen, read(tmp_path, "").on_second_key) == (None, SecondKey.QUARANTINE)
    found = read(tmp_path, '[instances]\nlisten = "0.0.0.0:7576"\non_second_key = "quarantine-both"\n')
    assert found == InstanceSettings(listen=Address("0.0.0.0", 7576), on_second_key=SecondKey.BOTH)


def test_where_agents_call() -> None:
    """Where it listens; or there on the registrar's host, where it listens at all addresses; or nobody knows."""
    registrar = (Address("ca.lan", 7443),)
    assert called_at(InstanceSettings(listen=Address("192.0.2.1", 7576)), registrar) == Address("192.0.2.1", 7576)
    assert called_at(InstanceSettings(listen=Address("::", 7576)), registrar) == Address("ca.lan", 7576)
    assert called_at(InstanceSettings(listen=Address("0.0.0.0", 7576)), registrar) == Address("ca.lan", 7576)
    with pytest.raises(UsageError, match="nobody takes agents' calls here"):
        called_at(InstanceSettings(), registrar)
    with pytest.raises(UsageError, match="nobody takes agents' calls here"):
        called_at(InstanceSettings(listen=Address("::", 0)), registrar)
    with pytest.raises(UsageError, match="is no address to call"):
        called_at(InstanceSettings(listen=Address("::", 7576)), ())


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ('[instances]\nwatch = "yes"\n', r"instances\.watch: 'yes' is not of the right kind"),
        ("[instances]\nwatch = []\n", r"instances\.watch: \[\] is not of the right kind"),
        ("[instances]\nwatch = true\nwatch = false\n", "cannot read .*: Cannot overwrite a value"),
        ('[instances]\nlisten = ""\n', r"instances\.listen: not an address: ''"),
        ('[instances]\nlisten = ":7576"\n', r"instances\.listen: not a DNS name: ''"),
        ('[instances]\nlisten = "0.0.0.0"\n', r"instances\.listen: not an address: '0\.0\.0\.0'"),
        ('[instances]\nlisten = "0.0.0.0:65536"\n', r"instances\.listen: not an address: '0\.0\.0\.0:65536'"),
        ('[instances]\nlisten = "0.0.0.0:-1"\n', r"instances\.listen: not an address: '0\.0\.0\.0:-1'"),
        ('[instances]\nlisten = "::7576"\n', r"instances\.listen: not an address: '::7576'"),
        ('[instances]\nlisten = "https://ca.lan:7576"\n', r"instances\.listen: not an address: 'https://ca\.lan:7576'"),
        ('[instances]\nlisten = "a b:7576"\n', r"instances\.listen: not a DNS name: 'a b'"),
        (
            '[instances]\nlisten = ["0.0.0.0:7576"]\n',
            r"instances\.listen: \['0\.0\.0\.0:7576'\] is not of the right kind",
        ),
        ("[instances]\nlisten = true\n", r"instances\.listen: True is not of the right kind"),
        ('[instances.listen]\nhost = "::"\n', r"instances\.listen: \{'host': '::'\} is not of the right kind"),
        ('[instances]\non_second_key = ""\n', r"instances\.on_second_key: '' is none of quarantine, quarantine-both"),
        ('[instances]\non_second_key = "QUARANTINE"\n', r"instances\.on_second_key: 'QUARANTINE' is none of"),
        ("[instances]\non_second_key = true\n", r"instances\.on_second_key: True is none of"),
        ('[instances]\non_second_key = ["quarantine"]\n', r"instances\.on_second_key: \['quarantine'\] is none of"),
        ("[[instances]]\nwatch = true\n", "instances: unknown"),
        ("instances = []\n", "instances: belongs in a table"),
        ('[instances]\nlisten = "7576"\n', r"instances\.listen: not an address: '7576'"),
        ("[instances]\nlisten = 7576\n", r"instances\.listen: 7576 is not of the right kind"),
        ('[instances]\non_second_key = "both"\n', r"'both' is none of quarantine, quarantine-both"),
        ("[instances]\nwatch = 1\n", r"instances\.watch: 1 is not of the right kind"),
        ("[instances]\nwach = true\n", r"instances\.wach: unknown"),
        ("instances = true\n", "instances: belongs in a table"),
    ],
)
def test_mistakes(tmp_path: Path, text: str, mistake: str) -> None:
    """Each is told with its place."""
    with pytest.raises(ConfigError, match=mistake):
        read(tmp_path, text)


def test_every_mistake_is_told(tmp_path: Path) -> None:
    """All of them at once, and where to read how it is written."""
    text = '[instances]\nwatch = "yes"\nlisten = "x"\non_second_key = "both"\nmore = 1\n'
    with pytest.raises(ConfigError) as told:
        read(tmp_path, text)
    for mistake in ("instances.watch: ", "instances.listen: ", "instances.on_second_key: ", "instances.more: unknown"):
        assert mistake in told.value.message
    assert told.value.hint == "see docs/operations.md"


def test_a_port_that_the_system_chooses(tmp_path: Path) -> None:
    """Port 0 is read: for tests, and for a .socket unit, which says another one."""
    assert read(tmp_path, '[instances]\nlisten = "[::]:0"\n').listen == Address("::", 0)
