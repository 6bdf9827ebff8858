"""``[instances]``: whether `up` is the controller of managed machines, and every way to write it wrong."""

from __future__ import annotations

from pathlib import Path

import pytest

from handfast import config
from handfast.config_instances import InstanceSettings
from handfast.errors import ConfigError


def read(tmp_path: Path, text: str) -> InstanceSettings:
    """The settings of a file."""
    path = tmp_path / "config.toml"
    path.write_text(text)
    return config.load(path).instances


def test_nobody_watches_without_a_word(tmp_path: Path) -> None:
    """A registrar dials nobody unless it is told to."""
    assert read(tmp_path, "") == read(tmp_path, "[instances]\n") == InstanceSettings(watch=False)


def test_it_is_said(tmp_path: Path) -> None:
    """One word makes `up` their controller."""
    assert read(tmp_path, "[instances]\nwatch = true\n").watch


@pytest.mark.parametrize(
    ("text", "mistake"),
    [
        ('[instances]\nwatch = "yes"\n', r"instances\.watch: 'yes' is not of the right kind"),
        ("[instances]\nwatch = 1\n", r"instances\.watch: 1 is not of the right kind"),
        ("[instances]\nwach = true\n", r"instances\.wach: unknown"),
        ("instances = true\n", "instances: belongs in a table"),
    ],
)
def test_mistakes(tmp_path: Path, text: str, mistake: str) -> None:
    """Each is told with its place."""
    with pytest.raises(ConfigError, match=mistake):
        read(tmp_path, text)
