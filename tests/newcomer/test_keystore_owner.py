"""A key store whose files belong to a service, while root goes on renewing them."""

from __future__ import annotations

import os
import shutil
import stat
import subprocess
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from handfast.errors import Unsafe, UsageError
from handfast.newcomer.keystore import Keystore
from tests.newcomer.material import material

OLD, NEW = material(0xA), material(0xB)
NOBODY = 65534


@pytest.mark.root
class TestOwner:
    """The service reads its files and owns nothing else."""

    @pytest.fixture
    def reachable(self) -> Iterator[Path]:
        """A directory whose parents everybody may pass, unlike pytest's own."""
        path = Path(tempfile.mkdtemp(prefix="handfast-test-"))
        path.chmod(0o755)
        yield path
        shutil.rmtree(path)

    def as_nobody(self, script: str, *arguments: object) -> subprocess.CompletedProcess[str]:
        return subprocess.run(
            ["sh", "-c", script, "sh", *map(str, arguments)],
            user=NOBODY,
            group=NOBODY,
            extra_groups=[],
            check=False,
            capture_output=True,
            text=True,
        )

    @pytest.mark.parametrize("umask", [0o022, 0o077])
    def test_service_reads_and_cannot_write(self, reachable: Path, umask: int) -> None:
        """The owner opens its files through directories that we made, and can change no directory."""
        directory = reachable / "made" / "web1"
        old = os.umask(umask)
        try:
            store = Keystore(directory)
            store.pending("x")
            store.adopt(OLD, layouts=["postgresql"], owner=f"{NOBODY}:{NOBODY}")
        finally:
            os.umask(old)
        assert self.as_nobody('cat "$1/server.key" "$1/root.crt"', directory).returncode == 0
        for path in (directory, directory / ".generations", directory / ".current/"):
            assert path.stat().st_uid == 0
            assert self.as_nobody('touch "$1/planted"', path).returncode != 0
            assert self.as_nobody('ls "$1"', path).returncode == 0
        assert stat.S_IMODE((directory / "server.key").stat().st_mode) == 0o600
        assert (directory / "server.key").stat().st_uid == NOBODY

    def test_what_root_acts_on_stays_roots(self, reachable: Path) -> None:
        """The service cannot change where and as what root renews: identity.json is not its own."""
        store = Keystore(reachable / "web1")
        store.adopt(OLD, owner=f"{NOBODY}:{NOBODY}")
        for name in ("identity.json", ".current/reintroduction-key.pem"):
            assert (store.directory / name).stat().st_uid == 0
            assert self.as_nobody('cat "$1"', store.directory / name).returncode != 0

    def test_remembered(self, reachable: Path) -> None:
        """A renewal without an owner keeps the one of the join, and load reads its files."""
        store = Keystore(reachable / "web1")
        store.adopt(OLD, owner=f"{NOBODY}:{NOBODY}", layouts=["pkcs12"])
        store.adopt(NEW)
        assert store.load().leaf == NEW.leaf
        for name in ("privkey.pem", "store-password"):
            assert (store.directory / name).stat().st_uid == NOBODY

    def test_by_name(self, reachable: Path) -> None:
        """A user's name stands for its id and its first group."""
        store = Keystore(reachable / "web1")
        store.adopt(OLD, owner="nobody")
        assert (store.directory / "privkey.pem").stat().st_uid == NOBODY
        store.check(owner="nobody")

    def test_given_to_an_existing_store(self, reachable: Path) -> None:
        """A store that was root's alone can get an owner later."""
        store = Keystore(reachable / "web1")
        store.adopt(OLD)
        store.adopt(NEW, owner=f"{NOBODY}:{NOBODY}")
        assert self.as_nobody('cat "$1/privkey.pem"', store.directory).returncode == 0

    def test_a_users_directory_is_refused(self, reachable: Path) -> None:
        """Root does not write where the user could plant links."""
        (reachable / "web1").mkdir(0o700)
        os.chown(reachable / "web1", NOBODY, NOBODY)
        with pytest.raises(Unsafe, match=f"user id {NOBODY}"):
            Keystore(reachable / "web1").check(owner=f"{NOBODY}:{NOBODY}")

    def test_only_root_gives(self, reachable: Path) -> None:
        """Anybody else is told so before anything is sent."""
        (reachable / "web1").mkdir(0o700)
        os.chown(reachable / "web1", NOBODY, NOBODY)
        os.seteuid(NOBODY)
        try:
            with pytest.raises(UsageError, match="only root") as caught:
                Keystore(reachable / "web1").check(owner="root")
            Keystore(reachable / "web1").adopt(OLD)
        finally:
            os.seteuid(0)
        assert caught.value.hint
