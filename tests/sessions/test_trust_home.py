"""Where a session file says that its session's own directory is."""

from __future__ import annotations

from pathlib import Path

import pytest

from handfast.sessions import trust


def test_a_home_behind_a_closed_door_is_none(monkeypatch: pytest.MonkeyPatch) -> None:
    """The owner's directory may lie where this user, or a unit with ProtectHome, cannot look: that is no fault."""

    def closed(_path: Path) -> bool:
        raise PermissionError(13, "permission denied")

    monkeypatch.setattr(Path, "exists", closed)
    assert trust._exists(Path("/home/ann/paper")) is False
