"""Which ways lead to SSH certificates: those that wiring names, and no other that somebody has put into the folder."""

from __future__ import annotations

from pathlib import Path

import pytest

from handfast import introducers
from handfast.adapters.clock import SystemClock
from handfast.config import settings
from handfast.introducers import ssh_pop
from handfast.registrar.provider_keys import ProviderKeys
from handfast.wiring import service

PROVIDER = '[[oidc]]\nname = "corp"\nissuer = "https://id.example.org"\nclient_id = "handfast"\n'


def ways(tmp_path: Path, text: str = "") -> set[str]:
    """The ways that are open under a configuration."""
    (tmp_path / "config.toml").write_text(text)
    return set(service._for_certificates(settings.load(tmp_path / "config.toml"), ProviderKeys(SystemClock())))


@pytest.mark.parametrize(
    ("text", "more"),
    [
        ("", set()),
        (PROVIDER, {"oidc"}),
        ('[ssh]\nevidence = ["ssh-hostkey"]\n', {"ssh-hostkey"}),
        ("[ssh]\nevidence = []\n", set()),
    ],
)
def test_what_is_open(tmp_path: Path, text: str, more: set[str]) -> None:
    """A key that is known and an operator, always; a provider and the challenge, where the configuration has them."""
    assert ways(tmp_path, text) == {"ssh-pop", "operator"} | more


def test_a_new_way_is_off(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Being known is not being enabled: a half that wiring does not name is closed under every configuration."""

    class MyNewWay(ssh_pop.PopIntroducer):
        name = "my-new-way"

    known = introducers.known_for_certificates() | {"my-new-way": MyNewWay()}
    monkeypatch.setattr(introducers, "known_for_certificates", lambda: known)
    assert "my-new-way" not in ways(tmp_path)
    assert "my-new-way" not in ways(tmp_path, PROVIDER + '[ssh]\nevidence = ["ssh-hostkey", "x5c", "invitation"]\n')
