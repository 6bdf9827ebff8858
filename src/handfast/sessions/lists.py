"""
Where revocation lists lie on this machine: ``FILE.crl`` beside the session file, and the session's own directory.

Here they are found, read and kept; ``trust`` decides what they mean.
"""

from __future__ import annotations

import os
import threading
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from handfast.adapters import files
from handfast.errors import Fault, HandfastError, Refused, Unsafe
from handfast.sessions.hello import MAX_CRL
from handfast.sessions.party import Party

HOME_CRL = "session.crl"  # in the session's directory
HOME_ROOT = "authority/root.crt"


class Lists:
    """
    The lists that one party finds here.

    ``kept`` is where it keeps what it adopts, None for nowhere; ``problem`` is why the directory that its file names is
    not looked at, though something is there.
    """

    def __init__(self, party: Party, path: Path | None) -> None:
        self.kept = crl_path(path) if path is not None else None
        self._home, self.problem = _home(party)
        self._seen: dict[Path, tuple[int, ...] | None] = {}
        self._keeping = threading.Lock()
        self._number = 0

    def look(self) -> list[bytes | HandfastError]:
        """Return the lists that have changed since the last look, and what is wrong with one that cannot be read."""
        found: list[bytes | HandfastError] = []
        for path in (self.kept, self._home and self._home / HOME_CRL):
            try:
                der = self.changed(path) if path is not None else None
            except HandfastError as error:
                found.append(error)
            else:
                found += [] if der is None else [der]
        return found

    def changed(self, path: Path) -> bytes | None:
        """
        Return what is there, if it was not seen yet.

        :raises Unsafe: others can read or write it. :raises TooMuch, Fault: too long, or not to be read.
        """
        stamp = _stamp(path)
        if stamp == self._seen.get(path):
            return None
        self._seen[path] = stamp
        return None if stamp is None else files.read_private(path, limit=MAX_CRL)

    def keep(self, der: bytes, number: int) -> None:
        """
        Write a list to ``FILE.crl``, if none with a higher number was. From any thread: a disk may take its time.

        :raises Fault: it cannot be written.
        """
        with self._keeping:
            if self.kept is None or number < self._number:
                return
            files.write_atomic(self.kept, der)
            self._number = number
            self._seen[self.kept] = _stamp(self.kept)


def crl_path(path: Path) -> Path:
    """Return where the newest revocation list is kept for a session file."""
    return path.with_name(f"{path.name}.crl")


def _stamp(path: Path) -> tuple[int, ...] | None:
    with files.faults("read", path):
        try:
            status = os.stat(path)
        except FileNotFoundError:
            return None
    return status.st_mtime_ns, status.st_size, status.st_ino


def _home(party: Party) -> tuple[Path | None, HandfastError | None]:
    """
    Return the session's directory if it is on this machine, and why it is not used if something is there.

    The file only says where to look. It counts if it is ours, nobody else's, and of the same session; a list from
    there has to be signed like any other.
    """
    if party.home is None or not _exists(party.home):
        return None, None
    try:
        files.check_directory(party.home)
        root = x509.load_pem_x509_certificate((party.home / HOME_ROOT).read_bytes())
    except (Refused, Unsafe, Fault, OSError, ValueError) as error:
        return None, _unused(party.home, str(error))
    if root.public_bytes(Encoding.DER) != party.root.public_bytes(Encoding.DER):
        return None, _unused(party.home, "it is another session's")
    return party.home, None


def _unused(home: Path, why: str) -> Refused:
    return Refused(f"{str(home)!r} is not used: {why}", hint="what is revoked there is learned from peers only")


def _exists(path: Path) -> bool:
    """Whether it is there for us: what lies behind another user's closed door is not."""
    try:
        return path.exists()
    except OSError:
        return False
