"""Exports and revocations: no credential that the ledger does not know, and no list that knows less."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import timedelta
from functools import partial
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from handfast.core.views import serial_text
from handfast.errors import Fault, NotFound, PolicyRefused, Refused, UsageError
from handfast.ledger import audit
from handfast.server import session
from handfast.sessions import party
from handfast.wiring import log_origin, open_administration
from tests.server.running import Hand
from tests.server.sessions import killed, parties
from tests.sessions.conftest import now

MONTH = timedelta(days=30)


def serials(directory: Path) -> set[int]:
    """What is on the revocation list of the directory."""
    return {each.serial_number for each in x509.load_der_x509_crl((directory / "session.crl").read_bytes())}


@contextmanager
def later(monkeypatch: pytest.MonkeyPatch, offset: timedelta) -> Iterator[None]:
    """The owner's clock, moved."""
    with monkeypatch.context() as patch:
        patch.setattr(session, "SystemClock", lambda: Hand(offset))
        yield


class TestExport:
    """A file, and a credential of its own."""

    def test_it_goes_through_policy_and_ledger(self, made: Path, tmp_path: Path) -> None:
        """The certificate in the file is the one on record, decided by policy, and the log proves itself."""
        exported = session.export(made, "server", tmp_path / "f")
        with session.opened(made) as opened:
            (record,) = opened.ledger.credentials("server")
            assert (record.serial, record.method) == (exported.serial, "operator")
            assert record.certificate == exported.leaf.public_bytes(Encoding.DER)
            assert record.not_after == opened.authority.not_after
            assert "an operator asked for it" in record.why[0]
        assert party.read(tmp_path / "f", now=now()).serial == exported.serial

    def test_each_export_is_its_own(self, made: Path, tmp_path: Path) -> None:
        """Twice the same party is two keys and two serials, both to be seen."""
        first, second = (session.export(made, "client", tmp_path / name) for name in ("a", "b"))
        assert first.key.public_key() != second.key.public_key()
        (view,) = (each for each in session.show(made).parties if each.name == "client")
        assert set(view.serials) == {serial_text(first.serial), serial_text(second.serial)}

    def test_nobody_else_is_exported(self, made: Path, tmp_path: Path) -> None:
        """A name that was not made a party gets nothing, and nothing is written down."""
        with pytest.raises(NotFound, match="has no party 'bob'") as caught:
            session.export(made, "bob", tmp_path / "f")
        assert "handfast session friend" in caught.value.hint
        assert os.listdir(tmp_path) == ["D"]

    def test_nothing_is_overwritten_or_issued(self, made: Path, tmp_path: Path) -> None:
        """Where the file exists, no credential is made that nobody would have."""
        (tmp_path / "f").write_text("precious")
        with pytest.raises(Refused, match="/f' exists"):
            session.export(made, "client", tmp_path / "f")
        assert (tmp_path / "f").read_text() == "precious"
        assert parties(session.show(made))["client"] == "new"

    def test_what_cannot_be_written_is_taken_back(self, made: Path, tmp_path: Path) -> None:
        """A missing directory: the credential that nobody has is revoked, and the next try is another one."""
        with pytest.raises(Fault, match="no such file or directory"):
            session.export(made, "client", tmp_path / "gone" / "f")
        assert parties(session.show(made))["client"] == "revoked"
        session.export(made, "client", tmp_path / "f")
        assert parties(session.show(made))["client"] == "valid"

    @pytest.mark.root
    def test_a_full_disk(self, made: Path, tmp_path: Path) -> None:
        """A file system that is really full: no half of a key is left, and the same command goes on with room."""
        disk = tmp_path / "disk"
        disk.mkdir()
        subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k,mode=0700", "none", disk], check=True)
        try:
            filler = disk / "filler"
            with filler.open("wb", buffering=0) as file, suppress(OSError):
                while True:
                    file.write(bytes(4096))
            with pytest.raises(Fault, match="no space left on device") as caught:
                session.export(made, "client", disk / "f")
            assert "free some space" in caught.value.hint
            assert os.listdir(disk) == ["filler"]
            filler.unlink()
            assert session.export(made, "client", disk / "f").name == "client"
        finally:
            subprocess.run(["umount", disk], check=True)

    def test_kill_9_leaves_no_unknown_credential(self, made: Path, tmp_path: Path) -> None:
        """Killed at each sync and rename: a file is whole or absent, and what is in it is on record."""
        died, step, out = True, 0, tmp_path
        while died:
            step += 1
            out = tmp_path / f"f{step}"
            died = killed(step, partial(session.export, made, "client", out))
            if out.exists():
                with session.opened(made) as opened:
                    record = opened.ledger.credential(party.read(out, now=now()).serial)
                assert record is not None
                assert record.status(now()) == "valid"
        assert out.exists()
        assert step > 5
        assert session.export(made, "client", tmp_path / "last").name == "client"

    def test_a_session_that_is_over(self, made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """After its end nobody becomes a party, and it says so."""
        with later(monkeypatch, timedelta(days=30, seconds=1)):
            assert session.show(made).status == "over"
            with pytest.raises(Refused, match=r"the session 'paper' was over at ") as caught:
                session.export(made, "client", tmp_path / "f")
        assert "make a new one" in caught.value.hint
        with later(monkeypatch, timedelta(days=30, seconds=-30)), pytest.raises(PolicyRefused, match="issuing CA ends"):
            session.export(made, "client", tmp_path / "f")


class TestRevoke:
    """Taking back."""

    def test_all_that_a_party_holds(self, made: Path, tmp_path: Path) -> None:
        """Every export of it is on the list; the others stay."""
        both = [session.export(made, "client", tmp_path / name) for name in ("a", "b")]
        session.export(made, "server", tmp_path / "c")
        assert set(session.revoke(made, "client")) == {serial_text(each.serial) for each in both}
        assert serials(made) == {each.serial for each in both}
        assert parties(session.show(made)) == {"server": "valid", "client": "revoked"}
        assert stat.S_IMODE((made / "session.crl").stat().st_mode) == 0o600

    def test_lists_are_numbered_upward(self, made: Path, tmp_path: Path) -> None:
        """Every list has a higher number than the one before: only so can it replace it."""
        numbers = []
        for name in ("a", "b"):
            session.export(made, "client", tmp_path / name)
            session.revoke(made, "client")
            crl = x509.load_der_x509_crl((made / "session.crl").read_bytes())
            numbers.append(crl.extensions.get_extension_for_class(x509.CRLNumber).value.crl_number)
        assert numbers[0] < numbers[1]

    def test_twice_is_refused_and_the_list_is_whole(self, made: Path, tmp_path: Path) -> None:
        """Nothing is left to do; but the list is written again: a crash may have come before it was."""
        exported = session.export(made, "client", tmp_path / "f")
        session.revoke(made, "client")
        (made / "session.crl").unlink()
        with pytest.raises(Refused, match="'client' holds nothing that could be revoked"):
            session.revoke(made, "client")
        assert serials(made) == {exported.serial}

    def test_what_was_revoked_elsewhere_comes_on_the_list(self, made: Path, tmp_path: Path) -> None:
        """`handfast revoke` works on the directory as on every registrar's; the next command publishes it."""
        exported = session.export(made, "client", tmp_path / "f")
        administration = open_administration(made)
        administration.revoke(serial_text(exported.serial), reason="keyCompromise")
        administration.ledger.close()  # type: ignore[attr-defined]
        session.export(made, "server", tmp_path / "g")
        assert serials(made) == {exported.serial}

    def test_nothing_and_nobody(self, made: Path) -> None:
        """A party that never got anything, and a name that is none, are told apart."""
        with pytest.raises(Refused, match="'client' holds nothing") as caught:
            session.revoke(made, "client")
        assert "neither exported nor invited" in caught.value.hint
        with pytest.raises(NotFound, match="has no party 'bob'"):
            session.revoke(made, "bob")
        with pytest.raises(UsageError, match="not a reason"):
            session.revoke(made, "client", reason="")

    def test_kill_9_between_ledger_and_list(self, made: Path, tmp_path: Path) -> None:
        """Wherever it is killed, saying it again ends with the serial on the list."""
        died, step = True, 0
        while died:
            step += 1
            exported = session.export(made, "client", tmp_path / f"f{step}")
            died = killed(step, partial(session.revoke, made, "client"))
            with suppress(Refused):  # "nothing left": the ledger had it before
                session.revoke(made, "client")
            assert exported.serial in serials(made)

    def test_the_log_is_whole_after_all_that(self, made: Path, tmp_path: Path) -> None:
        """What a session does is in a log that proves itself, like a registrar's."""
        session.export(made, "client", tmp_path / "f")
        session.revoke(made, "client")
        with session.opened(made) as opened:
            public = opened.authority.public
            audit.verify(opened.ledger, public.log_key, log_origin(public), None)
            kinds = [event.kind for event in opened.ledger.events()]
        assert kinds == [
            *("credential.intended", "credential.issued", "crl.published", "credential.revoked", "crl.published"),
        ]
