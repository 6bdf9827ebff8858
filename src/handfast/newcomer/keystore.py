"""
How a newcomer keeps what it was given, so that a crash at any moment leaves all of the old or all of the new.

    DIR/cert.pem …               links through .current, made once; programs are pointed at these
    DIR/.current                 -> .generations/<serial>: the one link whose swap changes everything at once
    DIR/.generations/<serial>/   every file of one credential; never changed once it has its name
    DIR/.pending                 the keys of a request under way, and what they were made for
    DIR/.lock                    one join or renewal at a time

(The same technique as ``..data`` in the kubelet's volumes.) A key and a certificate of different
generations are therefore never seen together, unless a program opens one before and one after a swap.

With an owner, for services such as PostgreSQL that insist on one, the files of the layouts are given
to it. The directories, ``identity.json`` and the reintroduction key stay root's: who owns a
directory could lead root's next renewal elsewhere with a link.
"""

from __future__ import annotations

import errno
import json
import os
import pwd
import re
import secrets
import shutil
from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519
from cryptography.hazmat.primitives.serialization import Encoding

from handfast.adapters import files
from handfast.core.secret import Secret
from handfast.errors import Fault, Malformed, NotFound, Refused, UsageError
from handfast.newcomer.layouts import PASSWORD_FILE, Material, Place, layout_names, render
from handfast.newcomer.pending import Pending, key_pem, load_private_key, load_reintroduction_key

IDENTITY_FILE = "identity.json"
_CURRENT, _GENERATIONS, _UNFINISHED = ".current", ".generations", ".unfinished"
_PENDING, _LOCK, _REINTRODUCTION = ".pending", ".lock", "reintroduction-key.pem"
_GENERATION = re.compile(r"[0-9a-f]+(-[0-9]+)?")
_UID_GID = re.compile(r"([0-9]{1,9}):([0-9]{1,9})", re.ASCII)
_CHOICES = "keystore"  # the key in identity.json
_REJOIN = "restore the directory, or join again with a new invitation"
_MIN_PASSWORD = 6  # characters; keytool opens nothing with less


@dataclass(frozen=True, slots=True)
class _Choices:
    """What was asked for last time, kept in ``identity.json`` so that a renewal by a timer does the same."""

    layouts: tuple[str, ...] = ("pem",)
    owner: str | None = None


class Keystore:
    """
    One newcomer's directory.

    For one thread; other processes are kept out by a lock.
    """

    def __init__(self, directory: Path) -> None:
        self.directory = Path(os.path.abspath(directory))
        self._held = False

    @contextmanager
    def exclusive(self) -> Iterator[None]:
        """
        Keep other joins and renewals out of this directory, which is created if need be.

        The methods that write take it themselves; a caller takes it around all of them.

        :raises Fault: another process holds it.
        :raises Unsafe: the directory is open to others.
        """
        if self._held:
            yield
            return
        owner = _owner(self._recorded().owner)
        files.private_directory(self.directory, group=owner and owner[1])
        with files.FileLock(self.directory / _LOCK):
            self._held = True
            try:
                files.remove_leftovers(self.directory)
                yield
            finally:
                self._held = False

    def check(
        self, *, layouts: Sequence[str] | None = None, owner: str | None = None, password: Secret | None = None
    ) -> None:
        """
        Find what ``adopt`` would refuse with the same arguments, before an invitation is spent on it.

        It rehearses with a certificate made for the purpose, so that the two cannot disagree.

        :raises UsageError: an unknown layout or owner, a path or password that a layout cannot use.
        :raises Refused: somebody's own file has a name we need.
        :raises Unsafe: the directory is open to others.
        """
        with self.exclusive():
            choices = self._chosen(layouts, owner)
            self._refuse_foreign(self._render(_rehearsal(), choices, password))

    def pending(self, purpose_id: str) -> Pending:
        """
        Return the keys for one purpose (an invitation's key id, the serial being renewed), durable already.

        The same purpose gets the same keys, after a crash or a lost answer too: a one-time marker
        burns against a key, so a new key could not repeat the request. Another purpose replaces them.

        :raises Fault: the disk is full, or the stored keys are damaged.
        """
        with self.exclusive():
            path = self.directory / _PENDING
            with suppress(NotFound):
                stored = _decode_pending(path, files.read_private(path))
                if stored.purpose_id == purpose_id:
                    return stored
            fresh = Pending.generate(purpose_id)
            files.write_atomic(path, fresh.encode())
            return fresh

    def discard_pending(self) -> None:
        """Forget the pending keys: the request came to its end. ``adopt`` does this by itself."""
        with self.exclusive(), files.faults("remove", self.directory / _PENDING), suppress(FileNotFoundError):
            os.unlink(self.directory / _PENDING)

    def adopt(
        self,
        material: Material,
        *,
        layouts: Sequence[str] | None = None,
        owner: str | None = None,
        password: Secret | None = None,
    ) -> None:
        """
        Put ``material`` in use, in all layouts at once, and forget the pending keys.

        ``layouts`` and ``owner`` (a user, or ``uid:gid``) None are those of last time, at first ``pem``
        and nobody; ``password`` None is the one of last time, at first a random one. The generation before
        this one stays until the next, for programs that are just reading it. *Not* checked: names, usage,
        validity and chain; that the credential is worth adopting is the caller's to know.

        :raises Malformed: the certificate is not for this key.
        :raises UsageError: an unknown layout or owner, a path or password that a layout cannot use.
        :raises Refused: somebody's own file has a name we need; nothing is overwritten.
        :raises Unsafe: the directory is open to others.
        :raises Fault: the disk is full, permissions. The old set is in use then, or the whole new one.
        """
        if material.certificate.public_key() != material.private_key.public_key():
            raise Malformed("the certificate is not for our key", hint="nothing was changed; try again")
        with self.exclusive():
            choices = self._chosen(layouts, owner)
            previous = self._current()
            contents = self._render(material, choices, password)
            self._refuse_foreign(contents)
            name = self._write_generation(material, contents, choices)
            self._link(contents)
            files.replace_symlink(self.directory / _CURRENT, f"{_GENERATIONS}/{name}")
            # What follows only tidies up: a failure here must not look like one of the adoption.
            with suppress(Fault):
                self._tidy(contents, keep={name, previous})
            with suppress(Fault):
                self.discard_pending()

    def load(self) -> Material:
        """
        Return what is in use, all of one generation even while another process adopts the next.

        *Not* checked: validity and chain.

        :raises NotFound: nothing has joined into this directory.
        :raises Unsafe: a file or directory is open to others.
        :raises Fault: a file is missing, damaged or unreadable, or key and certificate are of two pairs.
        """
        name = self._current()
        if name is None:
            raise NotFound(
                f"nothing has joined into {str(self.directory)!r} yet",
                hint=f"handfast join --out {self.directory}",
            )
        owner = _owner(self._recorded().owner)
        files.check_directory(self.directory, group=owner and owner[1])
        generation = self.directory / _GENERATIONS / name
        try:
            material = _read_generation(generation, owner and owner[0])
        except (NotFound, ValueError, TypeError) as error:
            raise Fault(f"{str(generation)!r} is damaged: {error}", hint=_REJOIN) from error
        if material.certificate.public_key() != material.private_key.public_key():
            raise Fault(f"privkey.pem and cert.pem in {str(self.directory)!r} are not a pair", hint=_REJOIN)
        return material

    # ------------------------------------------------------------------------------------- within

    def _current(self) -> str | None:
        """The name of the generation in use."""
        path = self.directory / _CURRENT
        with files.faults("read", path):
            try:
                target = os.readlink(path)
            except FileNotFoundError:
                return None
            except OSError as error:
                if error.errno != errno.EINVAL:
                    raise
                target = ""
        folder, _, name = target.partition("/")
        if folder != _GENERATIONS or not _GENERATION.fullmatch(name):
            raise Refused(f"{str(path)!r} is not a link that we made", hint="move it away, or choose another directory")
        return name

    def _recorded(self) -> _Choices:
        name = self._current()
        if name is None:
            return _Choices()
        path = self.directory / _GENERATIONS / name / IDENTITY_FILE
        try:
            recorded = json.loads(files.read_private(path))[_CHOICES]
            return _Choices(tuple(recorded["layouts"]), recorded["owner"])
        except NotFound:
            return _Choices()
        except (ValueError, TypeError, KeyError) as error:
            raise Fault(f"{str(path)!r} is damaged: {error}", hint=_REJOIN) from error

    def _chosen(self, layouts: Sequence[str] | None, owner: str | None) -> _Choices:
        recorded = self._recorded()
        choices = _Choices(
            recorded.layouts if layouts is None else layout_names(layouts), recorded.owner if owner is None else owner
        )
        ids = _owner(choices.owner)
        if ids is not None and os.geteuid() != 0:
            raise UsageError(
                f"only root can give files to {choices.owner!r}", hint="run as root, or as that user without an owner"
            )
        files.check_directory(self.directory, group=ids and ids[1])
        return choices

    def _render(self, material: Material, choices: _Choices, password: Secret | None) -> dict[str, bytes]:
        """All files of the layouts, and ``identity.json``."""
        identity = {**material.identity, _CHOICES: {"layouts": choices.layouts, "owner": choices.owner}}
        contents = render(choices.layouts, material, Place(self.directory, self._password(password)))
        return {**contents, IDENTITY_FILE: json.dumps(identity, indent=2).encode() + b"\n"}

    def _password(self, given: Secret | None) -> Secret:
        if given is not None:
            text = given.reveal()
            if len(text) < _MIN_PASSWORD or not (text.isascii() and text.decode().isprintable()):
                raise UsageError(
                    "the store password is too short or not printable ASCII",
                    hint=f"use {_MIN_PASSWORD} characters or more, or give none and have one made",
                )
            return given
        name, owner = self._current(), _owner(self._recorded().owner)
        if name is not None:
            with suppress(NotFound):
                path = self.directory / _GENERATIONS / name / PASSWORD_FILE
                return Secret(files.read_private(path, owner=owner and owner[0]).removesuffix(b"\n"))
        return Secret(secrets.token_urlsafe(32).encode())

    def _refuse_foreign(self, names: Iterable[str]) -> None:
        """Whatever has a name of ours and is not our link belongs to somebody."""
        foreign = [name for name in names if self._is_foreign(name)]
        if foreign:
            raise Refused(
                f"in the way in {str(self.directory)!r}: {', '.join(foreign)}",
                hint="move them away, or choose another directory; nothing was overwritten",
            )

    def _is_foreign(self, name: str) -> bool:
        path = self.directory / name
        return os.path.lexists(path) and not (path.is_symlink() and os.readlink(path) == f"{_CURRENT}/{name}")

    def _write_generation(self, material: Material, contents: Mapping[str, bytes], choices: _Choices) -> str:
        """Write and flush a whole generation, then give it its name. Nothing points to it yet."""
        owner = _owner(choices.owner)
        group = owner and owner[1]
        files.private_directory(self.directory, group=group)
        generations = self.directory / _GENERATIONS
        files.private_directory(generations, group=group)
        unfinished = generations / _UNFINISHED
        _remove_tree(unfinished)
        try:
            files.private_directory(unfinished, group=group)
            for name, data in contents.items():
                files.write_new(unfinished / name, data, owner=None if name == IDENTITY_FILE else owner)
            files.write_new(unfinished / _REINTRODUCTION, key_pem(material.reintroduction_key))
            files.sync_directory(unfinished)
            serial = f"{material.certificate.serial_number:032x}"
            # The same credential may be adopted again, in other layouts; what is in use is never touched.
            name = f"{serial}-2" if self._current() == serial else serial
            _remove_tree(generations / name)
            with files.faults("write", generations / name):
                os.rename(unfinished, generations / name)
            files.sync_directory(generations)
        except BaseException:
            shutil.rmtree(unfinished, ignore_errors=True)  # a full disk is full of this
            raise
        return name

    def _link(self, names: Iterable[str]) -> None:
        for name in names:
            path = self.directory / name
            if not path.is_symlink():
                with files.faults("write", path):
                    os.symlink(f"{_CURRENT}/{name}", path)
        files.sync_directory(self.directory)

    def _tidy(self, names: Container[str], *, keep: Container[str | None]) -> None:
        """Remove older generations, and links of layouts that are no longer wanted."""
        with files.faults("clean", self.directory):
            for name in os.listdir(self.directory / _GENERATIONS):
                if name not in keep:
                    _remove_tree(self.directory / _GENERATIONS / name)
            for name in os.listdir(self.directory):
                path = self.directory / name
                if name not in names and path.is_symlink() and os.readlink(path) == f"{_CURRENT}/{name}":
                    os.unlink(path)


def _read_generation(generation: Path, owner: int | None) -> Material:
    """:raises NotFound: a file is missing. :raises ValueError, TypeError: one is damaged."""

    def theirs(name: str) -> bytes:
        return files.read_private(generation / name, owner=owner)

    (leaf,) = _ders(theirs("cert.pem"))
    identity = json.loads(files.read_private(generation / IDENTITY_FILE))
    return Material(
        leaf=leaf,
        chain=_ders(theirs("chain.pem")),
        trust=_ders(theirs("trust.pem")),
        private_key=load_private_key(theirs("privkey.pem")),
        reintroduction_key=load_reintroduction_key(files.read_private(generation / _REINTRODUCTION)),
        identity={key: value for key, value in identity.items() if key != _CHOICES},
    )


def _ders(pem: bytes) -> tuple[bytes, ...]:
    return tuple(certificate.public_bytes(Encoding.DER) for certificate in x509.load_pem_x509_certificates(pem))


def _decode_pending(path: Path, data: bytes) -> Pending:
    try:
        return Pending.decode(data)
    except (ValueError, TypeError, KeyError, AttributeError):
        # Not replaced by a new key: this one may be the only key that its invitation still admits.
        raise Fault(
            f"{str(path)!r} is damaged", hint="delete it; if it was for an invitation, a new one may be needed"
        ) from None


def _owner(text: str | None) -> tuple[int, int] | None:
    """Return uid and gid of a user's name or of ``uid:gid``. :raises UsageError: neither, or unknown."""
    if text is None:
        return None
    if match := _UID_GID.fullmatch(text):
        return int(match[1]), int(match[2])
    try:
        user = pwd.getpwnam(text)
    except KeyError:
        raise UsageError(f"no user {text!r} on this machine", hint="give a user's name, or uid:gid") from None
    return user.pw_uid, user.pw_gid


def _remove_tree(path: Path) -> None:
    with files.faults("remove", path), suppress(FileNotFoundError):
        shutil.rmtree(path)


def _rehearsal() -> Material:
    """A self-signed certificate that never leaves this process."""
    key = ec.generate_private_key(ec.SECP256R1())
    name, day = x509.Name([]), datetime(2000, 1, 1, tzinfo=UTC)
    leaf = (
        x509.CertificateBuilder(name, name, key.public_key(), 1, day, day)
        .sign(key, hashes.SHA256())
        .public_bytes(Encoding.DER)
    )
    return Material(leaf, (leaf,), (leaf,), key, ed25519.Ed25519PrivateKey.generate())
