"""
The files of ours that a configuration of sshd reads, and the writing of them.

Whoever may write one of these directories decides what sshd says and whom it lets in, so they have to be root's.
"""

from __future__ import annotations

import os
import re
import stat
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

from handfast.adapters import files
from handfast.core import krl
from handfast.core.sshkeys import SshKey
from handfast.errors import Refused, Unsafe

DROP_INS, DROP_IN, OURS = "sshd_config.d", "10-handfast.conf", "handfast"
USER_CA, REVOKED = "user_ca.pub", "revoked.krl"
_MARK = "# Written by handfast, which replaces and removes it, for the registrar "
MAX_FILE = 64 * 1024  # bytes of a drop-in or a certificate
_LEFT = re.compile(r"\.[0-9a-f]{16}\.tmp\Z")
_OTHERS_WRITE = stat.S_IWGRP | stat.S_IWOTH


@dataclass(frozen=True, slots=True)
class Users:
    """Who may log in: everybody with a certificate by ``authority`` for the user's name, unless ``krl`` has it."""

    authority: SshKey
    krl: bytes


@dataclass(frozen=True, slots=True)
class Places:
    """Our files for one configuration of sshd, and whether they are ours."""

    config: Path
    pin: str

    @property
    def drop_in(self) -> Path:
        return self.config.parent / DROP_INS / DROP_IN

    @property
    def ours(self) -> Path:
        return self.config.parent / OURS

    @property
    def user_ca(self) -> Path:
        return self.ours / USER_CA

    @property
    def revoked(self) -> Path:
        return self.ours / REVOKED

    def lines(self, certificates: Sequence[Path], users: Users | None) -> bytes:
        """Return the drop-in."""
        lines = [_MARK + self.pin, *(f"HostCertificate {path}" for path in certificates)]
        if users is not None:
            lines += [
                "# Who has a certificate by this CA for a user's name may log in as that user.",
                f"TrustedUserCAKeys {self.user_ca}",
                f"RevokedKeys {self.revoked}",
            ]
        return "".join(f"{line}\n" for line in lines).encode()

    def named(self) -> tuple[Path, ...] | None:
        """
        Return the certificates that our drop-in names, None where there is none.

        :raises Refused: the file is somebody else's, or for another registrar.
        """
        held = content(self.drop_in, MAX_FILE)
        if held is None:
            return None
        first, *lines = held.decode("utf-8", errors="replace").splitlines() or [""]
        if not first.startswith(_MARK):
            raise Refused(f"{str(self.drop_in)!r} is not ours", hint="move it away, then try again")
        if first != _MARK + self.pin:
            raise Refused(
                f"{str(self.drop_in)!r} is for the registrar {first.removeprefix(_MARK)[:16]}…, not {self.pin[:16]}…",
                hint="take that out first, with `handfast renew --ssh --uninstall` where it was installed from",
            )
        words = (line.partition(" ") for line in lines)
        return tuple(Path(value) for name, _, value in words if name == "HostCertificate")


def revoked_file(config: Path) -> Path:
    """Where the sshd of ``config`` finds the list of revoked keys."""
    return config.absolute().parent / OURS / REVOKED


def write_krl(config: Path, fresh: bytes) -> bool:
    """
    Put a list of revoked keys where sshd reads it at each login; return whether it is another one than before.

    It is replaced whole, for sshd lets nobody in without it. *Not* checked: whose it is, and that it is not older.

    :raises Malformed: not a list. :raises Unsafe, Fault: as ``install``.
    """
    path = revoked_file(config)
    krl.read(fresh)
    directory(path.parent, make=False)
    _tidy(path)
    if content(path, krl.MAX_KRL) == fresh:
        return False
    files.write_atomic(path, fresh, 0o644)
    return True


@dataclass(slots=True)
class Changes:
    """What was there before, for each file that was changed."""

    before: dict[Path, bytes | None] = field(default_factory=dict)
    read: bool = False  # sshd was told to read it

    def write(self, path: Path, data: bytes) -> None:
        """Put ``data`` there, if it is not there yet."""
        _tidy(path)
        held = content(path, krl.MAX_KRL)
        if held != data:
            self.before.setdefault(path, held)
            files.write_atomic(path, data, 0o644)

    def undo(self) -> None:
        """Put everything back, the last change first."""
        for path, held in reversed(self.before.items()):
            if held is None:
                remove_file(path)
            elif content(path, krl.MAX_KRL) != held:
                files.write_atomic(path, held, 0o644)


def forget(places: Places) -> None:
    """Remove what says whom to let in; no sshd that still reads it may run."""
    for path in (places.user_ca, places.revoked):
        remove_file(path)
    with suppress(OSError):
        places.ours.rmdir()


def remove_file(path: Path) -> None:
    """Remove it if it is there. :raises Fault: permissions."""
    with files.faults("remove", path), suppress(FileNotFoundError):
        os.unlink(path)


def _tidy(path: Path) -> None:
    """Remove what a run that was killed has left of ``write_atomic``."""
    for left in path.parent.glob(f".{path.name}.*.tmp"):
        if _LEFT.search(left.name):
            remove_file(left)


def content(path: Path, limit: int) -> bytes | None:
    """
    Return what is in a file that we may replace, None where there is none.

    :raises Unsafe: a link, no file, or another user's.
    """
    with files.faults("read", path):
        try:
            status = path.lstat()
        except FileNotFoundError:
            return None
        if not stat.S_ISREG(status.st_mode):
            raise Unsafe(f"{str(path)!r} is not a regular file", hint="move it away, then try again")
        if status.st_uid != os.geteuid():
            raise Unsafe(f"{str(path)!r} belongs to user id {status.st_uid}", hint="move it away, then try again")
        with path.open("rb") as file:
            return file.read(limit + 1)


def directory(path: Path, *, make: bool) -> None:
    """:raises Unsafe: others than root can write it."""
    with files.faults("open", path):
        if make and not path.exists():
            path.mkdir(0o700)
            path.chmod(0o755)  # nothing in it is secret
            files.sync_directory(path.parent)
        status = path.stat()
    if not stat.S_ISDIR(status.st_mode):
        raise Refused(f"{str(path)!r} is not a directory", hint="move it away, then try again")
    if status.st_uid != os.geteuid() or status.st_mode & _OTHERS_WRITE:
        raise Unsafe(
            f"{str(path)!r} can be written by others: user id {status.st_uid}, mode {stat.S_IMODE(status.st_mode):04o}",
            hint=f"chown root {path} && chmod 755 {path}",
        )
