"""The authority of a listener for NiFi: made once, opened ever after, and what its operator is told."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path

import pytest

from handfast.core.invitation import Address
from handfast.core.secret import Secret
from handfast.errors import Refused, UsageError
from handfast.nifi.service import Adopted, NifiSettings, open_authority
from handfast.wiring import Overrides, open_service
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
    with pytest.raises(Refused, match="has another authority for NiFi"):
        opened(tmp_path / "nifi", adopted=Adopted(theirs.root, theirs.root_key))


def test_taking_over_again_is_no_mistake(tmp_path: Path) -> None:
    """The flag may stay in a unit: the second start finds what the first took over."""
    theirs = open_authority(
        tmp_path / "theirs", NifiSettings(key_algorithm="EC", key_size=256), hostname="ca.lan", adopted=None, now=NOW,
        passphrase=None, warn=lambda _remark: None,
    )  # fmt: skip
    for _ in range(2):
        assert opened(tmp_path / "nifi", adopted=Adopted(theirs.root, theirs.root_key)) == ""


def test_a_name_that_the_authority_does_not_have(tmp_path: Path) -> None:
    """A certificate keeps its name: who sets another one is told, or every client would say that it is not the CA."""
    opened(tmp_path / "nifi")
    told: list[str] = []
    settings = NifiSettings(hostname="other.lan")
    open_authority(
        tmp_path / "nifi", settings, hostname="other.lan", adopted=None, now=NOW, passphrase=None, warn=told.append
    )
    assert told == ["the NiFi authority is called 'ca.lan': clients must give that as -c, and not 'other.lan'"]


@pytest.mark.parametrize(
    "overrides",
    [
        Overrides(nifi={"hostname": "ca.lan"}),
        Overrides(token=Secret(b"a token of more than 16 bytes")),
        Overrides(nifi={"token_file": Path("token")}),
    ],
    ids=["hostname", "token", "token file"],
)
def test_settings_without_a_listener_are_not_ignored(tmp_path: Path, overrides: Overrides) -> None:
    """Whoever gives --from-nifi or the like and no address would believe that his cluster is served."""
    with pytest.raises(UsageError, match="settings for NiFi's protocol, and no address for it"):
        open_service(tmp_path / "data", overrides, passphrase=None)


def test_a_refused_token_leaves_no_authority_behind(tmp_path: Path) -> None:
    """Or the migration that was meant would be refused for it, and a new CA cut the cluster off."""
    overrides = Overrides(nifi={"listen": Address("127.0.0.1", 0)}, token=Secret(b"short"))
    with pytest.raises(UsageError, match="a token of 5 bytes"):
        open_service(tmp_path / "data", overrides, passphrase=None)
    assert not (tmp_path / "data" / "nifi").exists()
