"""Two sessions that know nothing of each other, and the files of their parties: made by the real commands' code."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from handfast.server import session
from handfast.sessions import party
from handfast.sessions.party import Party
from handfast.sessions.trust import Trust


def now() -> datetime:
    """The time by this machine's clock."""
    return datetime.now(UTC)


@dataclass(frozen=True, slots=True)
class Made:
    """A session's directory, and the files exported from it."""

    directory: Path

    def file(self, who: str) -> Path:
        """Where a party's file lies."""
        return self.directory.with_name(f"{self.directory.name}-{who}.pem")

    def party(self, who: str) -> Party:
        """A party, read from its file."""
        return party.read(self.file(who), now=now())

    def trust(self, who: str, *, kept: bool = False) -> Trust:
        """What a party believes; ``kept`` beside its file."""
        return Trust(self.party(who), now=now, path=self.file(who) if kept else None)

    def export(self, who: str) -> Path:
        """Make a party's file."""
        session.export(self.directory, who, self.file(who))
        return self.file(who)

    def publish(self) -> bytes:
        """The newest revocation list (DER), signed now."""
        with session.opened(self.directory) as opened:
            return session.publish(opened)


def make(directory: Path, *friends: str) -> Made:
    """Make a session with a file for each party."""
    session.new("paper", directory, lifetime=timedelta(days=30))
    made = Made(directory)
    for who in friends:
        session.friend(directory, who)
    for who in ("server", "client", *friends):
        made.export(who)
    return made


@pytest.fixture(scope="module")
def ours(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """A session that no test changes."""
    return make(tmp_path_factory.mktemp("ours") / "D", "bob")


@pytest.fixture(scope="module")
def theirs(tmp_path_factory: pytest.TempPathFactory) -> Made:
    """Another session, of the same name, that no test changes."""
    return make(tmp_path_factory.mktemp("theirs") / "D")


@pytest.fixture
def own(tmp_path: Path) -> Made:
    """A session for one test."""
    return make(tmp_path / "D", "bob")
