"""A session's directory: made whole or not at all, and no credential that its ledger does not know."""

from __future__ import annotations

import os
import stat
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec

from handfast.config import settings
from handfast.core.roles import Role
from handfast.errors import Fault, Malformed, NotFound, Refused, Unsafe, UsageError
from handfast.registrar.operator import LocalOperator
from handfast.server import session
from handfast.wiring import open_administration
from tests.server.sessions import killed, parties
from tests.sessions.conftest import now

MONTH = timedelta(days=30)
HOSTILE = ["", " ", "a b", "../x", "a/b", "-x", "x\n# home: /", "\x1b[2J", "a\0b", "ä", "..", "x" * 254, "spiffe://x"]


class TestNew:
    """Making one."""

    def test_a_session_is_a_small_authority(self, tmp_path: Path) -> None:
        """Root and issuing CA end with the session, its rules know two roles, and nobody holds anything yet."""
        view = session.new("paper", tmp_path / "D", lifetime=timedelta(hours=90))
        assert (view.name, view.status, parties(view)) == ("paper", "open", {"server": "new", "client": "new"})
        for name in ("root.crt", "issuing/1.crt"):
            certificate = x509.load_pem_x509_certificate((tmp_path / "D/authority" / name).read_bytes())
            assert abs(certificate.not_valid_after_utc - now() - timedelta(hours=90)) < timedelta(minutes=1)
        rules = settings.load(tmp_path / "D/config.toml").rules
        assert rules.lifetime == timedelta(hours=90)
        assert rules.methods == {name: frozenset({Role.SERVER, Role.CLIENT}) for name in ("invitation", "renewal")}

    def test_it_is_for_its_owner(self, made: Path) -> None:
        """The directory is 0700, and no party's key is in it."""
        assert stat.S_IMODE(made.stat().st_mode) == 0o700
        assert {path.name for path in made.iterdir()} == {
            *("authority", "config.toml", "session.json", "ledger.sqlite3"),
        }

    def test_the_name_is_folded(self, tmp_path: Path) -> None:
        """Upper case is no other session."""
        assert session.new("Paper", tmp_path / "D", lifetime=MONTH).name == "paper"

    @pytest.mark.parametrize("name", HOSTILE)
    def test_hostile_names_are_refused(self, tmp_path: Path, name: str) -> None:
        """A name goes into certificates, files and terminals: letters, digits, dot, hyphen, underscore."""
        with pytest.raises((Malformed, UsageError)):
            session.new(name, tmp_path / "D", lifetime=MONTH)
        assert os.listdir(tmp_path) == []

    def test_a_name_has_to_fit_a_subject(self, tmp_path: Path) -> None:
        """Forty characters fit with what is added, and one more does not."""
        with pytest.raises(UsageError, match="not a session's name") as caught:
            session.new("x" * 41, tmp_path / "D", lifetime=MONTH)
        assert "at most 40" in caught.value.hint
        assert session.new("x" * 40, tmp_path / "D", lifetime=MONTH).name == "x" * 40

    @pytest.mark.parametrize("lifetime", [timedelta(seconds=119), timedelta(days=1097)])
    def test_it_lasts_minutes_to_years(self, tmp_path: Path, lifetime: timedelta) -> None:
        """What is over before it is used, or longer than an issuing CA lasts, is refused."""
        with pytest.raises(UsageError, match="a session lasts from 120s to 1096d"):
            session.new("paper", tmp_path / "D", lifetime=lifetime)

    @pytest.mark.parametrize("kind", ["session", "empty", "file", "dangling"])
    def test_whatever_exists_is_not_overwritten(self, tmp_path: Path, kind: str) -> None:
        """Another session, or anything else under the name, is left as it is."""
        path = tmp_path / "D"
        make: dict[str, Callable[[], object]] = {
            "session": partial(session.new, "other", path, lifetime=MONTH),
            "empty": path.mkdir,
            "file": path.touch,
            "dangling": lambda: path.symlink_to("nowhere"),
        }
        make[kind]()
        before = sorted(path.rglob("*"))
        with pytest.raises(Refused, match="/D' exists"):
            session.new("paper", path, lifetime=MONTH)
        assert sorted(path.rglob("*")) == before
        assert os.listdir(tmp_path) == ["D"]

    def test_kill_9_leaves_all_of_it_or_nothing(self, tmp_path: Path) -> None:
        """Killed at each sync and rename, there is a whole session or none, and the next try goes through."""
        died, step = True, 0
        while died:
            step += 1
            place = tmp_path / str(step)
            place.mkdir()
            died = killed(step, partial(session.new, "paper", place / "D", lifetime=MONTH))
            if not (place / "D").exists():
                session.new("paper", place / "D", lifetime=MONTH)
            assert session.show(place / "D").status == "open"
        assert step > 15


class TestFriend:
    """One more client."""

    def test_a_friend_is_a_client_of_its_own(self, made: Path, tmp_path: Path) -> None:
        """Own name, own key, role client."""
        session.friend(made, "bob")
        bob, client = (session.export(made, who, tmp_path / who) for who in ("bob", "client"))
        assert (bob.name, bob.role) == ("bob", Role.CLIENT)
        assert bob.key.public_key() != client.key.public_key()
        assert parties(session.show(made)) == {"server": "new", "client": "valid", "bob": "valid"}

    @pytest.mark.parametrize("who", ["bob", "BOB", "server", "client"])
    def test_the_same_twice_is_refused(self, made: Path, who: str) -> None:
        """A name is one party; server and client are there from the start."""
        session.friend(made, "bob")
        with pytest.raises(Refused, match="is a party of the session 'paper' already"):
            session.friend(made, who)

    def test_a_machine_of_the_ledger_is_no_friend(self, made: Path) -> None:
        """Whoever got in by `handfast invite` has its role there: a second one under the same name is refused."""
        with session.opened(made) as opened:
            session._issue(opened, "carol", Role.SERVER, ec.generate_private_key(ec.SECP256R1()))
        with pytest.raises(Refused, match="'carol' is a party"):
            session.friend(made, "carol")

    def test_the_registrars_name_is_refused(self, made: Path) -> None:
        """It is on the certificate that invitations are served with."""
        with pytest.raises(UsageError, match="'registrar' is the name"):
            session.friend(made, "registrar")

    @pytest.mark.parametrize("who", HOSTILE)
    def test_hostile_names_are_refused(self, made: Path, who: str) -> None:
        """A friend's name goes where the session's goes."""
        before = (made / "session.json").read_bytes()
        with pytest.raises(Malformed, match="not a machine name"):
            session.friend(made, who)
        assert (made / "session.json").read_bytes() == before

    def test_two_at_once_are_both_there(self, made: Path) -> None:
        """Neither of two commands loses what the other wrote."""
        code = "import sys; from pathlib import Path; from handfast.server import session\n"
        code += "session.friend(Path(sys.argv[1]), sys.argv[2])"
        env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)}
        names = [f"friend{number}" for number in range(4)]
        running = [subprocess.Popen([sys.executable, "-c", code, made, name], env=env) for name in names]
        assert [each.wait(60) for each in running] == [0] * 4
        assert set(parties(session.show(made))) == {"server", "client", *names}


class TestDirectory:
    """Opening one."""

    def test_it_is_a_registrars_directory(self, made: Path, tmp_path: Path) -> None:
        """The operator's commands work on it unchanged."""
        session.export(made, "client", tmp_path / "f")
        administration = open_administration(made)
        assert [machine.name for machine in LocalOperator(administration).list()] == ["client"]
        administration.ledger.close()  # type: ignore[attr-defined]

    def test_everybody_who_can_get_in_is_shown(self, made: Path) -> None:
        """Also who was invited past the session's own commands."""
        with session.opened(made) as opened:
            session._issue(opened, "carol", Role.CLIENT, ec.generate_private_key(ec.SECP256R1()))
        assert parties(session.show(made))["carol"] == "valid"
        session.revoke(made, "carol")
        assert parties(session.show(made))["carol"] == "revoked"

    @pytest.mark.parametrize(
        "action",
        [
            session.show,
            lambda directory: session.friend(directory, "x"),
            lambda directory: session.revoke(directory, "x"),
        ],
        ids=["show", "friend", "revoke"],
    )
    def test_no_session(self, tmp_path: Path, action: Callable[[Path], object]) -> None:
        """Nothing there, or a directory of something else: how to make one, and nothing is made by itself."""
        for path in (tmp_path, tmp_path / "nothing"):
            tmp_path.chmod(0o700)
            with pytest.raises(NotFound, match="no session in ") as caught:
                action(path)
            assert "handfast session new" in caught.value.hint
        assert os.listdir(tmp_path) == []

    def test_a_directory_that_others_can_read_is_refused(self, made: Path) -> None:
        """The keys in it make parties."""
        made.chmod(0o755)
        with pytest.raises(Unsafe, match="mode 0755"):
            session.show(made)

    @pytest.mark.parametrize(
        ("content", "says"), [(b"{", "is damaged"), (b'{"version":2,"name":"x","parties":{}}', "is of version 2")]
    )
    def test_a_damaged_or_newer_file_is_a_fault(self, made: Path, content: bytes, says: str) -> None:
        """Nothing is guessed."""
        (made / "session.json").write_bytes(content)
        with pytest.raises(Fault, match=says):
            session.show(made)
