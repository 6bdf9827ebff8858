"""What a newcomer was given: all of the old or all of the new, private, and never over somebody's files."""

from __future__ import annotations

import errno
import json
import os
import stat
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat, pkcs12

from handfast.core.secret import Secret
from handfast.errors import Fault, Malformed, NotFound, Refused, Unsafe, UsageError
from handfast.newcomer import layouts
from handfast.newcomer.keystore import Keystore
from tests.newcomer.crash import LAYOUTS, tidy, whole
from tests.newcomer.material import material

OLD, NEW = material(0xA), material(0xB)
PEM_NAMES = {"cert.pem", "chain.pem", "fullchain.pem", "privkey.pem", "trust.pem", "identity.json"}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A place nobody has made yet."""
    return tmp_path / "web1"


@pytest.fixture
def store(directory: Path) -> Keystore:
    """A key store there."""
    return Keystore(directory)


def visible(directory: Path) -> set[str]:
    """The public names in a directory."""
    return {name for name in os.listdir(directory) if not name.startswith(".")}


def public(key: ec.EllipticCurvePrivateKey | ed25519.Ed25519PrivateKey) -> bytes:
    """A key's SubjectPublicKeyInfo."""
    return key.public_key().public_bytes(Encoding.DER, PublicFormat.SubjectPublicKeyInfo)


class TestAdoptAndLoad:
    """What is adopted is what is loaded."""

    def test_round_trip(self, store: Keystore, directory: Path) -> None:
        """What was adopted is loaded, by another process too, under the names of the contract."""
        store.adopt(OLD)
        loaded = Keystore(directory).load()
        assert (loaded.leaf, loaded.chain, loaded.trust) == (OLD.leaf, OLD.chain, OLD.trust)
        assert public(loaded.private_key) == public(OLD.private_key)
        assert public(loaded.reintroduction_key) == public(OLD.reintroduction_key)
        assert loaded.identity == {"serial": 0xA}
        assert visible(directory) == PEM_NAMES
        assert json.loads((directory / "identity.json").read_bytes())["serial"] == 0xA

    @pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
    def test_modes(self, store: Keystore, directory: Path, umask: int) -> None:
        """Every file is 0600 and every directory 0700, whatever the umask."""
        old = os.umask(umask)
        try:
            store.pending("x")
            store.adopt(OLD, layouts=list(layouts.LAYOUTS))
            store.pending("y")
        finally:
            os.umask(old)
        for folder, _, names in os.walk(directory):
            assert stat.S_IMODE(os.stat(folder).st_mode) == 0o700
            for name in names:
                assert stat.S_IMODE(os.stat(os.path.join(folder, name)).st_mode) == 0o600

    def test_one_link_changes_everything(self, store: Keystore, directory: Path) -> None:
        """The public names are links which a renewal does not touch."""
        store.adopt(OLD)
        before = {name: os.lstat(directory / name).st_ino for name in PEM_NAMES}
        store.adopt(NEW)
        assert {name: os.lstat(directory / name).st_ino for name in PEM_NAMES} == before
        assert os.readlink(directory / "cert.pem") == ".current/cert.pem"
        assert store.load().leaf == NEW.leaf

    def test_one_previous_generation_stays(self, store: Keystore, directory: Path) -> None:
        """A program in the middle of reading the last set can finish; older ones, with their keys, go."""
        for serial in (1, 2, 3):
            store.adopt(material(serial))
        assert set(os.listdir(directory / ".generations")) == {f"{2:032x}", f"{3:032x}"}

    def test_same_credential_again(self, store: Keystore, directory: Path) -> None:
        """The same answer may be adopted any number of times; what is in use is replaced, not changed."""
        generations = set()
        for _ in range(4):
            store.adopt(OLD, layouts=LAYOUTS)
            assert whole(directory) == 0xA
            generations.add(os.path.basename(os.readlink(directory / ".current")))
        assert generations == {f"{0xA:032x}", f"{0xA:032x}-2"}
        tidy(directory)

    def test_another_key_is_not_adopted(self, store: Keystore, directory: Path) -> None:
        """A certificate for another key changes nothing."""
        store.adopt(OLD)
        with pytest.raises(Malformed, match="not for our key"):
            store.adopt(replace(NEW, private_key=OLD.private_key))
        assert store.load().leaf == OLD.leaf

    def test_layouts_are_remembered_and_dropped(self, store: Keystore, directory: Path) -> None:
        """A renewal writes the layouts of the join; names of a layout no longer wanted disappear."""
        store.adopt(OLD, layouts=["kubernetes"])
        store.adopt(NEW)
        assert visible(directory) == PEM_NAMES | {"tls.crt", "tls.key", "ca.crt"}
        assert (directory / "tls.crt").read_bytes() == (directory / "fullchain.pem").read_bytes()
        store.adopt(OLD, layouts=["spiffe"])
        assert visible(directory) == PEM_NAMES | {"svid.pem", "svid_key.pem", "svid_bundle.pem"}

    def test_password_is_made_once(self, store: Keystore, directory: Path) -> None:
        """The stores of a renewal open with the password that was put into a program's configuration."""
        store.adopt(OLD, layouts=LAYOUTS)
        password = (directory / "store-password").read_bytes()
        assert len(password.strip()) == 43
        store.adopt(NEW)
        assert (directory / "store-password").read_bytes() == password
        assert whole(directory) == 0xB

    def test_password_given(self, store: Keystore, directory: Path) -> None:
        """A given password is used, and by the next renewal too."""
        store.adopt(OLD, layouts=LAYOUTS, password=Secret(b"changeit"))
        store.adopt(NEW)
        assert pkcs12.load_pkcs12((directory / "keystore.p12").read_bytes(), b"changeit").key is not None

    @pytest.mark.parametrize("bad", [b"", b"tiny!", b"with\nnewline", "pässword".encode(), b"\xff" * 8])
    def test_password_refused(self, store: Keystore, bad: bytes) -> None:
        """A password that some program could not use is refused without being repeated."""
        with pytest.raises(UsageError, match="store password") as caught:
            store.adopt(OLD, layouts=LAYOUTS, password=Secret(bad))
        assert caught.value.hint
        assert not bad or repr(bad)[2:-1] not in caught.value.message


class TestPending:
    """Keys are kept before they are used."""

    def test_same_purpose_same_keys(self, store: Keystore, directory: Path) -> None:
        """After a crash the same request is made with the same keys: its marker belongs to them."""
        first = store.pending("invitation-1")
        second = Keystore(directory).pending("invitation-1")
        assert public(first.private_key) == public(second.private_key)
        assert public(first.reintroduction_key) == public(second.reintroduction_key)
        assert isinstance(first.private_key.curve, ec.SECP256R1)

    def test_another_purpose_new_keys(self, store: Keystore) -> None:
        """Keys are never shared between purposes, and the last purpose is the one kept."""
        first, second = store.pending("1"), store.pending("2")
        assert public(first.private_key) != public(second.private_key)
        assert public(first.reintroduction_key) != public(second.reintroduction_key)
        assert public(store.pending("1").private_key) != public(first.private_key)

    def test_durable_before_use(self, store: Keystore, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """No key comes back that is not stored: a request with it could not be repeated."""
        store.discard_pending()

        def fail(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "fsync", fail)
        with pytest.raises(Fault, match="no space left"):
            store.pending("1")
        assert not (directory / ".pending").exists()

    def test_adopt_ends_it(self, store: Keystore, directory: Path) -> None:
        """After the adoption the pending keys are gone."""
        store.pending("1")
        store.adopt(OLD)
        assert not (directory / ".pending").exists()
        store.discard_pending()

    @pytest.mark.parametrize("damage", [b"", b"{}", b"[]", b"null", b"\xff", b'{"purpose_id":"1","private_key":1}'])
    def test_damaged_is_not_replaced(self, store: Keystore, directory: Path, damage: bytes) -> None:
        """Damaged keys are an error that says what to do: a new key would only raise an alarm."""
        store.pending("1")
        (directory / ".pending").write_bytes(damage)
        with pytest.raises(Fault, match="damaged") as caught:
            store.pending("1")
        assert "delete it" in caught.value.hint
        assert (directory / ".pending").read_bytes() == damage

    def test_read_by_others(self, store: Keystore, directory: Path) -> None:
        """Pending keys that others could read are not used."""
        store.pending("1")
        (directory / ".pending").chmod(0o644)
        with pytest.raises(Unsafe):
            store.pending("1")


class TestRefusals:
    """What cannot be is refused, and nothing is written."""

    def test_nothing_joined(self, store: Keystore, directory: Path) -> None:
        """Before a join there is nothing to load, with or without a directory, and loading makes none."""
        for _ in range(2):
            with pytest.raises(NotFound, match="nothing has joined") as caught:
                store.load()
            assert caught.value.hint == f"handfast join --out {directory}"
            assert not (directory / ".lock").exists()
            directory.mkdir(exist_ok=True)

    @pytest.mark.parametrize("kind", ["file", "link", "directory"])
    def test_foreign_names(self, store: Keystore, directory: Path, kind: str) -> None:
        """Somebody's own cert.pem, whatever it is, is neither overwritten nor replaced; check says so before."""
        directory.mkdir(0o700)
        path = directory / "cert.pem"
        if kind == "file":
            path.write_bytes(b"mine")
        elif kind == "link":
            path.symlink_to("../elsewhere")
        else:
            path.mkdir()
        before = os.lstat(path)
        attempts: list[Callable[[], object]] = [store.check, lambda: store.adopt(OLD)]
        for attempt in attempts:
            with pytest.raises(Refused, match=r"in the way in .*: cert\.pem") as caught:
                attempt()
            assert "move them away" in caught.value.hint
        assert os.lstat(path).st_ino == before.st_ino
        assert visible(directory) == {"cert.pem"}
        assert not (directory / ".generations").exists()

    @pytest.mark.parametrize("target", [None, "/etc", ".generations/../..", ".generations/", "elsewhere/0a"])
    def test_foreign_current(self, store: Keystore, directory: Path, target: str | None) -> None:
        """A ``.current`` that we did not make is not followed."""
        directory.mkdir(0o700)
        if target is None:
            (directory / ".current").write_bytes(b"")
        else:
            (directory / ".current").symlink_to(target)
        for attempt in (store.load, store.check, lambda: store.adopt(OLD)):
            with pytest.raises(Refused, match="not a link that we made"):
                attempt()

    def test_open_directory(self, store: Keystore, directory: Path) -> None:
        """A directory that others can enter is refused for all uses."""
        store.adopt(OLD)
        directory.chmod(0o755)
        for attempt in (store.load, store.check, lambda: store.pending("1"), lambda: store.adopt(NEW)):
            with pytest.raises(Unsafe, match="0755") as caught:
                attempt()
            assert caught.value.hint == f"chmod 700 {directory}"

    @pytest.mark.parametrize("name", ["privkey.pem", "identity.json", ".current/reintroduction-key.pem"])
    def test_open_file(self, store: Keystore, directory: Path, name: str) -> None:
        """A file that others can read is refused."""
        store.adopt(OLD)
        (directory / name).chmod(0o640)
        with pytest.raises(Unsafe, match="0640"):
            store.load()

    def test_mismatch(self, store: Keystore, directory: Path) -> None:
        """A key exchanged by hand is noticed."""
        store.adopt(OLD)
        other = layouts.pem(NEW, layouts.Place(directory, Secret(b"")))["privkey.pem"]
        (directory / "privkey.pem").write_bytes(other)
        with pytest.raises(Fault, match="not a pair") as caught:
            store.load()
        assert caught.value.hint

    @pytest.mark.parametrize("name", [*sorted(PEM_NAMES - {"fullchain.pem"}), ".current/reintroduction-key.pem"])
    @pytest.mark.parametrize("damage", [None, b"", b"garbage"])
    def test_damage(self, store: Keystore, directory: Path, name: str, damage: bytes | None) -> None:
        """A missing or damaged file is a fault that names the place; adopting again mends all but the choices."""
        store.adopt(OLD)
        if damage is None:
            (directory / name).resolve().unlink()
        else:
            (directory / name).write_bytes(damage)
        with pytest.raises(Fault, match="damaged") as caught:
            store.load()
        assert str(directory) in caught.value.message
        assert caught.value.hint

    def test_unknown_layout(self, store: Keystore) -> None:
        """An unknown layout is found before anything is written."""
        with pytest.raises(UsageError, match="unknown layout"):
            store.check(layouts=["apache"])
        with pytest.raises(UsageError, match="unknown layout"):
            store.adopt(OLD, layouts=["apache"])

    def test_unusable_path(self, tmp_path: Path) -> None:
        """What only rendering can refuse is found by check: afterwards the invitation would be spent."""
        store = Keystore(tmp_path / "a$b")
        with pytest.raises(UsageError, match="nginx"):
            store.check(layouts=["nginx"])

    def test_check_changes_nothing(self, store: Keystore, directory: Path) -> None:
        """A rehearsal leaves a lock and no more."""
        store.check(layouts=list(layouts.LAYOUTS))
        assert os.listdir(directory) == [".lock"]

    @pytest.mark.parametrize("owner", ["no-such-user-here", "1:", ":1", "1:2:3", "-1:-1", "", "1"])
    def test_unknown_owner(self, store: Keystore, owner: str) -> None:
        """An owner who does not exist is found before anything is written."""
        with pytest.raises(UsageError, match="no user"):
            store.check(owner=owner)

    def test_one_at_a_time(self, store: Keystore, directory: Path) -> None:
        """A second join into the same directory is refused with the holder's process id, and works afterwards."""
        other = Keystore(directory)
        with store.exclusive():
            store.pending("1")
            for attempt in (lambda: other.pending("1"), lambda: other.adopt(OLD), other.check, other.discard_pending):
                with pytest.raises(Fault, match=f"in use by process {os.getpid()}"):
                    attempt()
            store.adopt(OLD)
        other.adopt(NEW)
        assert other.load().leaf == NEW.leaf

    def test_lock_is_freed_after_an_error(self, store: Keystore, directory: Path) -> None:
        """A failed adoption does not keep the directory locked."""
        with pytest.raises(UsageError):
            store.adopt(OLD, layouts=["apache"])
        Keystore(directory).adopt(OLD)
