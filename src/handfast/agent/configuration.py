"""
Configuration files of a service: replaced all of them or none, and only once their own checks say yes.

Until then the old file has a second name beside it, which a start after a crash puts back. All of it happens below the
descriptor of the file's directory (``adapters/places.py``): its service may own that, and exchange it meanwhile.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path

from handfast.adapters import places
from handfast.adapters.places import Place, Use
from handfast.agent import programs
from handfast.agent.policy import ConfigFile
from handfast.errors import Fault, NotFound, Refused

NEW_MODE = 0o640  # of a file that was not there: for root, and the group of its directory


async def replace(changed: list[ConfigFile], contents: list[bytes]) -> None:
    """
    Write files, run their checks, and put everything back if one says no.

    :raises Refused: a check does. :raises Unsafe, NotFound: a file's directory, as ``places.opened``.
    :raises Fault: what should be a file is none, the disk, a check that cannot be run.
    """
    with ExitStack() as folders:
        targets: list[_Target] = []
        with ExitStack() as undo:  # which goes on where one of them cannot be put back
            for each, content in zip(changed, contents, strict=True):
                target = folders.enter_context(_opened(each.path))
                old = target.keep()
                undo.callback(target.restore)
                target.write(content, each.mode, old)
                targets.append(target)
            for check in dict.fromkeys(each.check for each in changed if each.check):
                done = await programs.run(check)
                if done.status:
                    raise Refused(f"{check[0]!r} does not accept it: {done.last_line}", hint="the old files are back")
            undo.pop_all()
        for target in targets:
            target.forget()


def recover(path: Path) -> None:
    """
    Put back what a crash in the middle left: nobody had said that the new file is good.

    :raises Unsafe, Fault: as ``replace``. A directory that is not there may come later than the agent.
    """
    try:
        with _opened(path) as target:
            target.restore()
            target.place.clean(places.leftovers(path.name))
    except NotFound:
        return


@dataclass(frozen=True, slots=True)
class _Target:
    """A file in its open directory; there may be none."""

    place: Place
    name: str

    @property
    def _before(self) -> str:
        """Where the old file is kept."""
        return f"{self.name}.handfast-before"

    @property
    def _none(self) -> str:
        """What says that there was no old file."""
        return f"{self.name}.handfast-none"

    def keep(self) -> os.stat_result | None:
        """Keep the old file under a second name, or that there was none, and return what it was."""
        old, path = self.place.about(self.name), str(self.place.path / self.name)
        if old is not None and stat.S_ISLNK(old.st_mode):
            raise Fault(f"{path!r} is a link", hint="the policy has to name the file itself")
        if old is not None and not stat.S_ISREG(old.st_mode):
            raise Fault(f"{path!r} is no regular file", hint="the policy has to name a file")
        self.forget()
        if old is None:
            self.place.create(self._none)
        else:
            self.place.link(self.name, self._before)
        return old

    def write(self, content: bytes, mode: int | None, old: os.stat_result | None) -> None:
        """Put the new one in its place: as readable, and as much somebody's, as the old one was."""
        if old is not None:
            owner = (old.st_uid, old.st_gid)
            mode = stat.S_IMODE(old.st_mode) & 0o777 if mode is None else mode
        else:
            # Who is not root can give to no other group, and need not.
            group = os.fstat(self.place.descriptor).st_gid if os.geteuid() == 0 else os.getegid()
            owner = (os.geteuid(), group)
        self.place.write(self.name, content, mode=NEW_MODE if mode is None else mode, owner=owner)

    def restore(self) -> None:
        """Put the old file back, where one is kept; otherwise nothing was changed."""
        if self.place.about(self._before) is not None:
            self.place.rename(self._before, self.name)
            # Two names of one file, where the new one was not there yet, are both left by rename(2). One that stays
            # would be put back at a later start, over whatever root has written since.
            self.place.remove(self._before)
        elif self.place.about(self._none) is not None:
            self.place.remove(self.name)
            self.place.remove(self._none)
        self.place.sync()

    def forget(self) -> None:
        """Keep the old file no longer."""
        self.place.remove(self._before)
        self.place.remove(self._none)
        self.place.sync()


@contextmanager
def _opened(path: Path) -> Iterator[_Target]:
    with places.opened(path.parent, Use.WRITE) as place:
        yield _Target(place, path.name)
