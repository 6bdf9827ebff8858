"""Directories on whose way nobody else can have led us, and what is done in them whatever becomes of their path."""

from __future__ import annotations

import os
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from handfast.adapters.places import Use, leftovers, opened
from handfast.errors import Fault, HandfastError, NotFound, TooMuch, Unsafe

NOBODY, OTHER = 65534, 65533


@pytest.fixture
def way(tmp_path: Path) -> Path:
    """Three directories below each other: a, b and c."""
    made = tmp_path / "a/b/c"
    made.mkdir(parents=True)
    for each in (made, *made.parents[:2]):
        each.chmod(0o755)
    return made


def give(*paths: Path, to: int = NOBODY) -> None:
    """Make them a user's."""
    for each in paths:
        os.chown(each, to, to)


def names(directory: Path) -> list[str]:
    """Return what lies there."""
    return sorted(os.listdir(directory))


def linked(path: Path) -> None:
    """Put a link in its place, to what was there: root's own, and as good as the directory."""
    path.rename(path.with_name("elsewhere"))
    path.symlink_to("elsewhere")


def a_file(path: Path) -> None:
    """Put a file in its place."""
    path.rename(path.with_name("elsewhere"))
    path.touch()


@pytest.mark.parametrize("use", Use)
def test_it_is_opened(use: Use, way: Path) -> None:
    """What is root's, or ours, from the first part to the last; also below a sticky directory, as /tmp is."""
    way.parents[1].chmod(0o1777)
    with opened(way, use) as place:
        assert (place.path, os.fstat(place.descriptor).st_ino) == (way, way.stat().st_ino)
    with opened(Path("/"), use) as place:
        assert os.fstat(place.descriptor).st_ino == Path("/").stat().st_ino


@pytest.mark.parametrize("use", Use)
@pytest.mark.parametrize(
    ("attack", "error", "message"),
    [
        (linked, Unsafe, "/c' is a link"),
        (lambda way: linked(way.parent), Unsafe, "/b' is a link"),
        (lambda way: way.parent.chmod(0o757), Unsafe, "/b' can be written by others (mode 0757)"),
        (a_file, Fault, "/c': not a directory"),
        (lambda way: a_file(way.parent), Fault, "/a/b/c': not a directory"),
        (lambda way: way.rmdir(), NotFound, "no directory '"),
    ],
    ids=["link", "link before", "writable before", "file", "file before", "nothing"],
)
def test_it_is_refused(
    attack: Callable[[Path], object], error: type[HandfastError], message: str, use: Use, way: Path
) -> None:
    """A link, also root's own, what others may write, what is no directory: for whatever it is wanted."""
    attack(way)
    with pytest.raises(error) as refused, opened(way, use):
        pass
    assert type(refused.value) is error
    assert message in refused.value.message
    assert refused.value.hint


@pytest.mark.parametrize(("use", "refused"), [(Use.TRUST, True), (Use.WRITE, True), (Use.READ, False)])
def test_a_group_that_writes_on_the_way(use: Use, refused: bool, way: Path) -> None:
    """It could exchange what we write into; of logs it shows another directory at most, as it is on real systems."""
    way.parent.chmod(0o775)
    if refused:
        with pytest.raises(Unsafe, match=r"/b' can be written by others \(mode 0775\)"), opened(way, use):
            pass
    else:
        with opened(way, use):
            pass


def test_the_last_one_may_be_anybodys_to_write(way: Path) -> None:
    """A service's own directory is as it wants; not so where a policy lies."""
    way.chmod(0o777)
    for use in (Use.WRITE, Use.READ):
        with opened(way, use):
            pass
    with pytest.raises(Unsafe, match=r"/c' can be written by others"), opened(way, Use.TRUST):
        pass


@pytest.mark.root
@pytest.mark.parametrize("use", [Use.WRITE, Use.READ])
def test_a_users_are_his_to_the_end(use: Use, way: Path) -> None:
    """Root goes through a user's directories into his, and never from there into root's, or another's."""
    give(way.parent, way)
    with opened(way, use):
        pass
    for whose in (0, OTHER):
        give(way, to=whose)
        message = rf"/c' belongs to user id {whose}, below a directory of user id {NOBODY}"
        with pytest.raises(Unsafe, match=message), opened(way, use):
            pass


@pytest.mark.root
def test_trust_is_roots(way: Path) -> None:
    """What says what root does lies in no directory of a user's."""
    give(way)
    with pytest.raises(Unsafe, match=f"/c' belongs to user id {NOBODY}"), opened(way, Use.TRUST):
        pass


# --- what is done there ---


def test_it_stays_the_same_directory(way: Path, tmp_path: Path) -> None:
    """Once it is open another may have its path: all that follows is done in this one."""
    (tmp_path / "victim").mkdir()
    with opened(way, Use.WRITE) as place:
        way.rename(tmp_path / "moved")
        way.symlink_to(tmp_path / "victim")
        place.create("empty")
        place.write("file", b"content", mode=0o640)
        place.link("file", "second")
        place.rename("second", "third")
        place.remove("empty")
        place.remove("none")
        place.sync()
        about = place.about("file")
        assert about is not None
        assert (stat.S_IMODE(about.st_mode), about.st_nlink, place.about("none")) == (0o640, 2, None)
    assert (names(tmp_path / "moved"), names(tmp_path / "victim")) == (["file", "third"], [])


def test_links_in_it_are_themselves(way: Path, tmp_path: Path) -> None:
    """One is looked at, named, replaced and removed; what it leads to is not touched."""
    victim = tmp_path / "victim"
    victim.write_bytes(b"precious")
    before = victim.stat()
    (way / "link").symlink_to(victim)
    with opened(way, Use.WRITE) as place:
        about = place.about("link")
        assert about is not None
        assert stat.S_ISLNK(about.st_mode)
        place.link("link", "second")
        place.write("link", b"content", mode=0o600)
        with pytest.raises(Fault, match=r"cannot write '.*/second': file exists"):
            place.create("second")
        place.remove("second")
    assert (victim.read_bytes(), victim.stat(), names(way)) == (b"precious", before, ["link"])


def test_a_file_is_read(way: Path) -> None:
    """Only a file, as long as it may be, and never what a link leads to."""
    (way / "file").write_bytes(b"content")
    (way / "link").symlink_to("file")
    (way / "folder").mkdir()
    os.mkfifo(way / "pipe")
    with opened(way, Use.WRITE) as place:
        assert place.read("file", limit=7) == b"content"
        refusals: dict[str, tuple[type[HandfastError], str]] = {
            "file": (TooMuch, "/file' is longer than 6 bytes"),
            "link": (Unsafe, "/link' is a link"),
            "folder": (Unsafe, "/folder' is not a regular file"),
            "pipe": (Unsafe, "/pipe' is not a regular file"),
            "none": (Fault, "/none': no such file or directory"),
        }
        for name, (error, message) in refusals.items():
            with pytest.raises(error, match=message):
                place.read(name, limit=6)


def test_a_write_that_fails_leaves_nothing(way: Path) -> None:
    """What is in the way stays, and no temporary file beside it."""
    (way / "file").mkdir()
    with opened(way, Use.WRITE) as place, pytest.raises(Fault, match=r"cannot write '.*/file': is a directory"):
        place.write("file", b"content", mode=0o600)
    assert names(way) == ["file"]


def test_only_files_are_cleaned(way: Path) -> None:
    """A directory, or a link, of such a name stays and holds up nothing; what only looks like one as well."""
    left = [f".file.{number:016x}.tmp" for number in range(4)]
    (way / left[0]).mkdir()
    (way / left[1]).symlink_to("/nonexistent")
    for name in (*left[2:], ".other.0000000000000000.tmp", ".file.tmp", "file"):
        (way / name).touch()
    with opened(way, Use.WRITE) as place:
        assert place.clean(leftovers("file")) == 2
    assert names(way) == sorted([*left[:2], ".other.0000000000000000.tmp", ".file.tmp", "file"])


def test_what_a_write_leaves_is_found(way: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The temporary name is one that ``clean`` takes, also where the name has what an expression would read."""
    seen: list[str] = []
    monkeypatch.setattr("handfast.adapters.files.fill", lambda *_a, **_k: seen.extend(names(way)))
    with opened(way, Use.WRITE) as place:
        place.write("a.b[c]", b"", mode=0o600)
    assert len(seen) == 1
    assert leftovers("a.b[c]").fullmatch(seen[0])
