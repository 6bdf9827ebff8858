"""The authority of a listener for NiFi: made once, opened ever after, and what its operator is told."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from handfast.errors import Refused
from handfast.nifi.service import Adopted, NifiSettings, open_authority
from tests.authority.helpers import NOW


def opened(directory: Path, *, days: int = 825, later: timedelta = timedelta(), adopted: Adopted | None = None) -> str:
    """Open it, after a while, and return what was told; the subject has to be the first one."""
    told: list[str] = []
    settings = NifiSettings(key_algorithm="EC", key_size=256, days=days)
    authority = open_authority(
        directory, settings, hostname="ca.lan", adopted=adopted, now=NOW + later, passphrase=None, warn=told.append
    )
    assert authority.root.subject.rfc4514_string() == "CN=ca.lan,OU=NIFI"
    return "; ".join(told)


@pytest.mark.parametrize(("later", "told"), [(timedelta(days=5), False), (timedelta(days=15), True)])
def test_an_authority_that_ends_soon(tmp_path: Path, later: timedelta, told: bool) -> None:
    """It has no successor by itself: whoever starts the server is told in its last month, and after its end."""
    assert opened(tmp_path / "nifi", days=40) == ""
    assert ("ends at 20" in opened(tmp_path / "nifi", later=later)) is told
    assert "ends at 20" in opened(tmp_path / "nifi", later=timedelta(days=50))


def test_an_authority_is_not_replaced(tmp_path: Path) -> None:
    """Another CA cannot be taken over where there is one: the nodes of this one would lose their trust."""
    opened(tmp_path / "nifi")
    theirs = open_authority(
        tmp_path / "theirs", NifiSettings(key_algorithm="EC", key_size=256), hostname="ca.lan", adopted=None, now=NOW,
        passphrase=None, warn=lambda _remark: None,
    )  # fmt: skip
    with pytest.raises(Refused, match="exists"):
        opened(tmp_path / "nifi", adopted=Adopted(theirs.root, theirs.root_key))
