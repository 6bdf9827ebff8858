"""
Files that a controller deploys to a service: taken as a stream, there whole or not at all.

A stream goes to a temporary name beside its place, is hashed on its way, flushed, and renamed when all of it is there
and its digest is the one that was announced. Names come over the network: one component, of a small set of characters,
opened below the directory that the policy names (``adapters/places.py``), through which no link is followed.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import secrets
import stat
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from handfast.adapters import places
from handfast.adapters.places import Place, Use
from handfast.errors import Fault, Malformed, NotFound, Refused, TooMuch

MAX_ARTIFACTS = 1_000  # of one service
_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._+@=-]{0,199}", re.ASCII)
_PART = ".handfast-"  # never a name of an artifact, which begin with a letter, a digit or an underscore
_LEFT = re.compile(r"\.handfast-[0-9a-f]{16}", re.ASCII)
DIRTY = 8 * 1024 * 1024  # bytes for which the disk is not told to begin
SPARE = 0.05  # of the disk, which stays free: without any, what else is on the machine stops


@dataclass(frozen=True, slots=True)
class Artifact:
    """A file that was deployed; ``size`` in bytes."""

    name: str
    size: int


def artifact_name(text: str) -> str:
    """
    Return the name of an artifact: one path component.

    :raises Malformed: a path, a hidden name, or characters that mean something to a shell or to nobody.
    """
    if not _NAME.fullmatch(text):
        raise Malformed(f"not a name of an artifact: {text[:80]!r}", hint="letters, digits and ._+@=- , up to 200")
    return text


class Incoming:
    """An artifact on its way: ``write`` each piece, then leave the block of ``Artifacts.incoming``."""

    def __init__(self, descriptor: int, most: int) -> None:
        self._descriptor, self._most = descriptor, most
        self._hash = hashlib.sha256()
        self.size = self._begun = 0

    def write(self, piece: bytes) -> None:
        """
        Write a piece. For a thread: it waits for the disk.

        :raises TooMuch: over what the policy allows. :raises Fault: the disk is full, or nearly so.
        """
        self.size += len(piece)
        if self.size > self._most:
            raise TooMuch(f"an artifact of over {self._most} bytes", hint="the agent's policy says how much")
        _spare(self._descriptor, len(piece))
        self._hash.update(piece)
        try:
            while piece:
                piece = piece[os.write(self._descriptor, piece) :]
            if self.size - self._begun >= DIRTY:
                # Linux begins to write it to the disk, and does not wait: or all of that would come at the end.
                os.posix_fadvise(self._descriptor, self._begun, 0, os.POSIX_FADV_DONTNEED)
                self._begun = self.size
        except OSError as error:
            raise Fault(f"cannot write the artifact: {error.strerror}", hint="is the disk full?") from error

    @property
    def sha256(self) -> str:
        """The digest of all that was written, in hexadecimal."""
        return self._hash.hexdigest()


@dataclass(frozen=True, slots=True)
class Artifacts:
    """
    The artifacts in one directory of a service.

    ``most`` is the size of one in bytes, ``total`` of all, those on their way included; ``mode`` what files get.
    """

    directory: Path
    most: int
    total: int
    mode: int = 0o644

    def listed(self) -> tuple[Artifact, ...]:
        """Return what is there, by name; whatever else lies in the directory is nobody's here."""
        with self._folder() as folder, _faults("the list of artifacts"):
            found = [
                Artifact(name, about.st_size)
                for name in os.listdir(folder.descriptor)
                if _NAME.fullmatch(name) and (about := folder.about(name)) and stat.S_ISREG(about.st_mode)
            ]
        return tuple(sorted(found, key=lambda artifact: artifact.name))

    def shown(self, name: str) -> Artifact:
        """Return one. :raises Malformed: no name. :raises NotFound: it is not there."""
        artifact_name(name)
        with self._folder() as folder:
            return Artifact(name, _about(folder, name).st_size)

    @contextmanager
    def incoming(self, name: str, *, size: int | None = None, sha256: str | None = None) -> Iterator[Incoming]:
        """
        Take an artifact inside the block, and put it in its place at the end; whatever fails, the old one stays.

        ``size`` (bytes) and ``sha256`` (hex) are what was announced.

        :raises Malformed: no name, or not what was announced: cut off, or changed.
        :raises TooMuch: too large, or too many. :raises Refused: something else has its name.
        :raises Unsafe: somebody could have led us to the directory. :raises Fault: the disk.
        """
        artifact_name(name)
        if size is not None and size > self.most:  # before anything of it has come
            raise TooMuch(f"{name!r} has {size} bytes, at most {self.most} are allowed", hint="see the agent's policy")
        with self._folder() as folder:
            self._check(folder, name)
            part = f"{_PART}{secrets.token_hex(8)}"
            most = min(self.most, self._room(folder, name, part, size or 0))
            _spare(folder.descriptor, size or 0)
            with _faults(name):
                descriptor = os.open(part, places.NEW, 0o600, dir_fd=folder.descriptor)
            try:
                coming = Incoming(descriptor, most)
                yield coming
                _compare(name, coming, size, sha256)
                # Others have come meanwhile; those that are still on their way look again as well.
                self._room(folder, name, part, coming.size)
                with _faults(name):
                    os.fchmod(descriptor, self.mode)
                    os.fsync(descriptor)
                    os.rename(part, name, src_dir_fd=folder.descriptor, dst_dir_fd=folder.descriptor)
                    os.fsync(folder.descriptor)
            finally:
                os.close(descriptor)
                with contextlib.suppress(OSError):  # whoever owns the directory may have moved it, or put another there
                    os.unlink(part, dir_fd=folder.descriptor)

    def remove(self, name: str) -> None:
        """Remove one. :raises NotFound: it is not there."""
        artifact_name(name)
        with self._folder() as folder:
            _about(folder, name)
            folder.remove(name)
            folder.sync()

    def clean(self) -> int:
        """Remove what a crash left behind, when nothing is coming; return how many. :raises Unsafe, Fault: as above."""
        with self._folder() as folder:
            return folder.clean(_LEFT)

    @contextmanager
    def _folder(self) -> Iterator[Place]:
        with contextlib.ExitStack() as stack:
            try:
                folder = stack.enter_context(places.opened(self.directory, Use.WRITE))
            except NotFound as error:  # of the caller's names none is meant
                raise Fault(
                    f"cannot open the directory for artifacts {str(self.directory)!r}: {error.message}",
                    hint="the agent's policy names it; make it, as root",
                ) from None
            yield folder

    def _check(self, folder: Place, name: str) -> None:
        with _faults(name):
            names = os.listdir(folder.descriptor)
        if name not in names and sum(bool(_NAME.fullmatch(each)) for each in names) >= MAX_ARTIFACTS:
            raise TooMuch(f"over {MAX_ARTIFACTS} artifacts", hint="remove some")
        about = folder.about(name)
        if about is not None and not stat.S_ISREG(about.st_mode):
            raise Refused(f"{name!r} is there, and is no file", hint="somebody else put it there; choose another name")

    def _room(self, folder: Place, name: str, part: str, size: int) -> int:
        """Return how many bytes there are for it, which takes the place of its name; ``part`` is its own."""
        with _faults(name):
            others = [each for each in os.listdir(folder.descriptor) if each not in {name, part}]
        abouts = [folder.about(each) for each in others if _NAME.fullmatch(each) or _LEFT.fullmatch(each)]
        room = self.total - sum(about.st_size for about in abouts if about and stat.S_ISREG(about.st_mode))
        if room <= 0 or size > room:
            raise TooMuch(f"over {self.total} bytes of artifacts with {name!r}", hint="remove some; see the policy")
        return room


@contextmanager
def _faults(name: str) -> Iterator[None]:
    """Turn what the disk says into ours; not what is raised by whoever sends, which may be an ``OSError`` too."""
    try:
        yield
    except OSError as error:
        raise Fault(
            f"cannot keep {name!r}: {error.strerror}", hint="is the disk full, or not ours to write?"
        ) from error


def _about(folder: Place, name: str) -> os.stat_result:
    about = folder.about(name)
    if about is None or not stat.S_ISREG(about.st_mode):
        raise NotFound(f"no artifact {name!r}", hint="see the list of artifacts")
    return about


def _spare(descriptor: int, size: int) -> None:
    """Refuse what would leave too little of the disk of a descriptor free."""
    with _faults("the artifact"):
        disk = os.fstatvfs(descriptor)
    if disk.f_bavail * disk.f_frsize - size < SPARE * disk.f_blocks * disk.f_frsize:
        raise Fault(f"under {SPARE:.0%} of the disk would be free", hint="free some space; remove artifacts")


def _compare(name: str, coming: Incoming, size: int | None, sha256: str | None) -> None:
    if size is not None and coming.size != size:
        raise Malformed(f"{name!r} has {coming.size} of {size} bytes", hint="it was cut off on its way: send it again")
    if sha256 is not None and coming.sha256 != sha256.lower():
        raise Malformed(
            f"{name!r} has the SHA-256 {coming.sha256}, announced was {sha256[:64]}",
            hint="it is not the file that was meant: somebody changed it, or the digest",
        )
