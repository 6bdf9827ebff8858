"""A key store whose adoption ends at any step: killed, failing, or on a full disk."""

from __future__ import annotations

import errno
import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from handfast.errors import Fault
from handfast.newcomer import layouts
from handfast.newcomer.keystore import Keystore
from tests.newcomer.crash import LAYOUTS, interrupted, tidy, whole
from tests.newcomer.material import material

OLD, NEW = material(0xA), material(0xB)
ROOT = Path(__file__).parents[2]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """A place nobody has made yet."""
    return tmp_path / "web1"


@pytest.fixture
def store(directory: Path) -> Keystore:
    """A key store there."""
    return Keystore(directory)


class TestCrash:
    """Killed at any step, the directory holds all the old or all the new."""

    def drive(self, mode: str, directory: Path) -> dict[str, int]:
        done = subprocess.run(
            [sys.executable, "-m", "tests.newcomer.crash", mode, directory],
            check=False,
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"},
        )
        assert done.returncode == 0, done.stderr
        counts: dict[str, int] = json.loads(done.stdout)
        return counts

    @pytest.mark.parametrize(("mode", "before"), [("kill", "old"), ("first", "nothing")])
    def test_kill_at_every_step(self, directory: Path, mode: str, before: str) -> None:
        """kill -9 at any system call leaves all before or all after, and the next adoption works and tidies up."""
        counts = self.drive(mode, directory)
        assert counts["steps"] > 40
        assert counts[before] + counts["new"] == counts["steps"]
        assert counts[before] > counts["new"] > 1

    def test_failure_at_every_step(self, store: Keystore, directory: Path) -> None:
        """A failing system call is a fault, or only untidy; the set in use is whole, and a retry works."""

        def fail() -> None:
            raise OSError(errno.EIO, os.strerror(errno.EIO))

        store.adopt(OLD, layouts=LAYOUTS)
        step, made, failures = 0, ["some"], []
        while step <= len(made):
            step += 1
            adopted = True
            with interrupted(step, fail) as made:
                try:
                    store.adopt(NEW)
                except Fault as error:
                    adopted = False
                    failures.append(error.message)
            assert whole(directory) in ({0xB} if adopted else {0xA, 0xB})
            store.adopt(OLD)
            assert whole(directory) == 0xA
            tidy(directory)
        assert len(failures) > 40
        assert all("input/output error" in message for message in failures)

    def test_failure_frees_the_disk(self, store: Keystore, directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        """What could not be finished does not stay to fill the disk."""
        store.adopt(OLD)

        def fail(*_: object) -> None:
            raise OSError(errno.ENOSPC, "No space left on device")

        monkeypatch.setattr(os, "rename", fail)
        with pytest.raises(Fault, match="no space left"):
            store.adopt(NEW)
        assert os.listdir(directory / ".generations") == [f"{0xA:032x}"]

    def test_everything_is_flushed_before_the_swap(
        self, store: Keystore, directory: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Power may fail: the link never reaches the disk before what it leads to."""
        flushed: set[int] = set()
        lacking: list[str] = []
        fsync, replace_ = os.fsync, os.replace

        def note(fd: int) -> None:
            flushed.add(os.fstat(fd).st_ino)
            fsync(fd)

        def swap(source: Path, target: Path) -> None:
            if Path(target).name == ".current":
                generation = directory / os.readlink(source)
                needed = [directory, generation.parent, generation, *generation.iterdir()]
                lacking.extend(str(path) for path in needed if path.stat().st_ino not in flushed)
                flushed.clear()
            replace_(source, target)

        monkeypatch.setattr(os, "fsync", note)
        monkeypatch.setattr(os, "replace", swap)
        store.adopt(OLD, layouts=list(layouts.LAYOUTS))
        assert lacking == []
        assert directory.stat().st_ino in flushed

    @pytest.mark.root
    def test_full_disk(self, tmp_path: Path) -> None:
        """On a file system that is really full a renewal fails with a hint, and the old set stays in use."""
        mount = f"mount -t tmpfs -o size=160k,mode=700 none {tmp_path}"
        drive = f"exec {sys.executable} -m tests.newcomer.crash full {tmp_path}"
        done = subprocess.run(
            ["unshare", "--mount", "sh", "-c", f"{mount} && {drive}"],
            check=False,
            capture_output=True,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"},
        )
        assert done.returncode == 0, done.stderr
        assert json.loads(done.stdout)["refused"] > 3
