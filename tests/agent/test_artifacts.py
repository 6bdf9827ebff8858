"""Artifacts: there whole or not at all, under names that lead nowhere else."""

from __future__ import annotations

import hashlib
import os
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from handfast.agent import artifacts
from handfast.agent.artifacts import Artifact, Artifacts, artifact_name
from handfast.errors import Fault, Malformed, NotFound, Refused, TooMuch, Unsafe
from tests.agent.agents import managed

DATA = b"the program\n" * 100
SHA256 = hashlib.sha256(DATA).hexdigest()


def there(directory: Path, *, most: int = 10_000, total: int = 100_000) -> Artifacts:
    """Return the artifacts of a directory."""
    return Artifacts(directory, most, total)


def put(store: Artifacts, name: str = "site.war", data: bytes = DATA, **announced: Any) -> None:
    """Deploy it in three pieces."""
    with store.incoming(name, **announced) as coming:
        for piece in (data[:5], data[5:9], data[9:]):
            coming.write(piece)


def names(directory: Path) -> list[str]:
    """Return everything that lies there, hidden or not."""
    return sorted(os.listdir(directory))


def test_an_artifact_is_deployed(tmp_path: Path) -> None:
    """It is there, readable by the service, and listed; nothing else is left."""
    put(there(tmp_path), size=len(DATA), sha256=SHA256)
    assert (tmp_path / "site.war").read_bytes() == DATA
    assert (tmp_path / "site.war").stat().st_mode & 0o7777 == 0o644
    assert there(tmp_path).listed() == (Artifact("site.war", len(DATA)),)
    assert there(tmp_path).shown("site.war").size == len(DATA)
    assert names(tmp_path) == ["site.war"]


def test_a_new_one_takes_the_place_of_the_old(tmp_path: Path) -> None:
    """Whoever has the old one open keeps it; the name is the new one's."""
    put(there(tmp_path))
    with (tmp_path / "site.war").open("rb") as old:
        put(there(tmp_path), data=b"new")
        assert old.read() == DATA
    assert (tmp_path / "site.war").read_bytes() == b"new"


@pytest.mark.parametrize(
    ("announced", "message"),
    [
        ({"size": len(DATA) + 1}, "'site.war' has 1200 of 1201 bytes"),
        ({"sha256": "0" * 64}, f"'site.war' has the SHA-256 {SHA256}, announced was 0000"),
        ({"sha256": ""}, "announced was "),
    ],
)
def test_what_is_not_what_was_announced_is_refused(announced: dict[str, Any], message: str, tmp_path: Path) -> None:
    """Cut off or changed on its way: the old one stays, and nothing of the new."""
    put(there(tmp_path), data=b"old")
    with pytest.raises(Malformed, match=message):
        put(there(tmp_path), **announced)
    assert ((tmp_path / "site.war").read_bytes(), names(tmp_path)) == (b"old", ["site.war"])


def test_a_sender_that_goes_away_leaves_nothing(tmp_path: Path) -> None:
    """An error in the middle of it, whatever it is, leaves the old one and no part."""

    def broken() -> None:
        with there(tmp_path).incoming("site.war") as coming:
            coming.write(b"half")
            raise ConnectionResetError

    with pytest.raises(ConnectionResetError):
        broken()
    assert names(tmp_path) == []


def test_size_is_bounded(tmp_path: Path) -> None:
    """10 GB are refused before the first byte where they are announced, and at the limit where they are not."""
    with pytest.raises(TooMuch, match=r"'site\.war' has 10737418240 bytes, at most 10000 are allowed"):
        put(there(tmp_path), size=10 * 2**30)
    with pytest.raises(TooMuch, match="an artifact of over 1199 bytes"):
        put(there(tmp_path, most=1199))
    put(there(tmp_path, most=1200))


def test_their_number_is_bounded(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A directory is not filled with names; one that is there may be replaced."""
    monkeypatch.setattr(artifacts, "MAX_ARTIFACTS", 2)
    put(there(tmp_path), "a")
    put(there(tmp_path), "b")
    with pytest.raises(TooMuch, match="over 2 artifacts"):
        put(there(tmp_path), "c")
    put(there(tmp_path), "a", b"again")


def test_their_sizes_together_are_bounded(tmp_path: Path) -> None:
    """What is there and what is on its way counts, less what is replaced; at the begin, on the way, and at the end."""
    store = there(tmp_path, total=3 * len(DATA))
    put(store, "a")
    put(store, "b")
    (tmp_path / "notes").symlink_to(tmp_path / "a")
    put(store, "b", DATA + DATA)
    put(store, "a", size=len(DATA))
    with pytest.raises(TooMuch, match=f"over {3 * len(DATA)} bytes of artifacts with 'c'"):
        put(store, "c", b"x")
    store.remove("a")
    with pytest.raises(TooMuch, match="of artifacts with 'c'"):
        put(store, "c", size=len(DATA) + 1)
    with pytest.raises(TooMuch, match=f"an artifact of over {len(DATA)} bytes"):
        put(store, "c", DATA + b"x")
    assert names(tmp_path) == ["b", "notes"]


def test_two_on_their_way_do_not_pass_together(tmp_path: Path) -> None:
    """Each had room when it began; the one that ends first sees the other."""
    store = there(tmp_path, total=len(DATA))

    def second() -> None:
        with store.incoming("a") as first, store.incoming("b") as other:
            first.write(DATA[:700])
            other.write(DATA[:501])

    with pytest.raises(TooMuch, match="of artifacts with 'b'"):
        second()
    put(store, "b")
    assert names(tmp_path) == ["b"]


def test_some_of_the_disk_stays_free(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """One that would fill it is refused at its head, or when that is seen; what is there stays."""
    put(there(tmp_path), data=b"old")
    disk = os.statvfs(tmp_path)
    free = disk.f_bavail * disk.f_frsize
    with pytest.raises(Fault, match=r"under 5% of the disk would be free"):
        put(Artifacts(tmp_path, free, free), size=free)
    with there(tmp_path).incoming("site.war") as coming:
        monkeypatch.setattr(artifacts, "SPARE", 1.0)
        with pytest.raises(Fault, match=r"under 100% of the disk would be free"):
            coming.write(b"new")
        monkeypatch.undo()
        coming.write(b"next")
    monkeypatch.setattr(artifacts, "SPARE", 1.0)
    with pytest.raises(Fault, match="would be free"):
        put(there(tmp_path))
    assert ((tmp_path / "site.war").read_bytes(), names(tmp_path)) == (b"next", ["site.war"])


def test_what_is_gone_meanwhile_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whoever owns the directory may rename what was listed a moment ago: that is no failure of ours."""
    put(there(tmp_path))
    listed = [*names(tmp_path), "gone.war"]
    monkeypatch.setattr("os.listdir", lambda _folder: listed)
    assert there(tmp_path).listed() == (Artifact("site.war", len(DATA)),)
    put(there(tmp_path), "gone.war")
    there(tmp_path).remove("gone.war")
    put(there(tmp_path), data=b"new")
    assert there(tmp_path).shown("site.war").size == 3


@pytest.mark.parametrize(
    "name",
    [
        "", ".", "..", "../x", "/etc/passwd", "a/b", "a\0b", ".hidden", "-rf", "a b", "a;reboot", "$(id)", "`id`",
        "a\n", "\u00e9", "x" * 201,
    ],
)  # fmt: skip
def test_a_name_is_one_plain_word(name: str, tmp_path: Path) -> None:
    """No path, no option, nothing that a shell would read, in whatever is done with an artifact."""
    with pytest.raises(Malformed, match="not a name of an artifact"):
        artifact_name(name)
    for act in (there(tmp_path).shown, there(tmp_path).remove, lambda each: put(there(tmp_path), each)):
        with pytest.raises(Malformed, match="not a name of an artifact"):
            act(name)
    assert names(tmp_path) == []


def test_links_are_not_followed(tmp_path: Path) -> None:
    """A link that the service put there is neither read nor written through, nor is a linked directory."""
    secret, folder = tmp_path / "secret", tmp_path / "folder"
    secret.write_bytes(b"secret")
    folder.mkdir()
    (folder / "site.war").symlink_to(secret)
    assert there(folder).listed() == ()
    with pytest.raises(NotFound, match=r"no artifact 'site\.war'"):
        there(folder).shown("site.war")
    with pytest.raises(Refused, match=r"'site\.war' is there, and is no file"):
        put(there(folder))
    (tmp_path / "linked").symlink_to(folder)
    with pytest.raises(Unsafe, match="linked' is a link"):
        there(tmp_path / "linked").listed()
    with pytest.raises(Fault, match=r"cannot open the directory for artifacts '.*/none'"):
        there(tmp_path / "none").listed()
    assert secret.read_bytes() == b"secret"


def test_one_is_removed(tmp_path: Path) -> None:
    """What is there is removed, once; no directory, and nothing that is no artifact."""
    put(there(tmp_path))
    there(tmp_path).remove("site.war")
    (tmp_path / "folder").mkdir()
    for name in ("site.war", "folder"):
        with pytest.raises(NotFound, match=f"no artifact '{name}'"):
            there(tmp_path).remove(name)
    assert names(tmp_path) == ["folder"]


KILLED = """
import os, signal, sys
from pathlib import Path
from typing import Any
from handfast.agent.artifacts import Artifacts
with Artifacts(Path(sys.argv[1]), 10_000, 10_000).incoming("site.war") as coming:
    coming.write(b"half of it")
    os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_kill_leaves_the_old_one(tmp_path: Path) -> None:
    """An agent that dies in the middle leaves the old artifact, and a part that the next start removes."""
    put(there(tmp_path), data=b"old")
    ended = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], check=False)
    assert ended.returncode == -signal.SIGKILL
    assert ((tmp_path / "site.war").read_bytes(), len(names(tmp_path))) == (b"old", 2)
    assert there(tmp_path).clean() == 1
    assert names(tmp_path) == ["site.war"]
    assert there(tmp_path).listed() == (Artifact("site.war", 3),)


def stray(directory: Path) -> list[str]:
    """Put there what looks like something of ours, and is not."""
    folder, link, other = ".handfast-0123456789abcdef", ".handfast-00112233445566ff", ".handfast-evil"
    (directory / folder).mkdir()
    (directory / link).symlink_to("/nonexistent")
    (directory / other).mkdir()
    return sorted([folder, link, other])


def test_only_parts_are_cleaned(tmp_path: Path) -> None:
    """What the directory's owner has put there under such names stays, and holds up nothing."""
    left = stray(tmp_path)
    (tmp_path / ".handfast-fedcba9876543210").touch()
    assert there(tmp_path).clean() == 1
    assert names(tmp_path) == left


def test_a_directory_does_not_end_the_agent(tmp_path: Path) -> None:
    """One `mkdir` by the service's user, and the agent starts all the same, and takes artifacts."""
    with managed(tmp_path) as met:
        left = stray(tmp_path / "artifacts")
        met.agent.talks.close()
        met.agent.process.stop()
        met.agent.start()
        assert met.agent.talk().ask("PUT", "/v1/services/web/artifacts/app", DATA).status == 201
        assert names(tmp_path / "artifacts") == [*left, "app"]
