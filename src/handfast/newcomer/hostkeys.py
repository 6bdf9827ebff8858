"""The host keys of this machine's sshd, which sign for themselves when it joins and when it renews."""

from __future__ import annotations

import grp
from pathlib import Path

from handfast.adapters import files
from handfast.core import sshkeys, sshsig
from handfast.core.hostproof import HostKeys
from handfast.core.sshkeys import MAX_KEYS, SshKey
from handfast.errors import HandfastError, Malformed, NotFound, TooMuch

DEFAULT_DIRECTORY = Path("/etc/ssh")
_PATTERN = "ssh_host_*_key"


def load(directory: Path, *, ports: tuple[int, ...]) -> tuple[HostKeys, tuple[str, ...]]:
    """
    Read the host keys in ``directory`` (as sshd's default has them: ``ssh_host_*_key``), and why others were left out.

    A key that we cannot sign with (a type we do not know, or one in hardware) is left out with a remark: what is not
    proved is not published.

    :raises NotFound: there is none. :raises Unsafe, Fault: one is readable by others, or by us not at all.
    """
    found: list[sshsig.Signer] = []
    remarks: list[str] = []
    for path in sorted(directory.glob(_PATTERN)):
        try:
            found.append(signer(path))
        except Malformed as error:
            remarks.append(f"{str(path)!r} is not published: {error.message}")
    if not found:
        hint = "make them with `ssh-keygen -A`, or say where they are with --ssh-dir"
        raise NotFound(f"no SSH host keys in {str(directory)!r}" + "".join(f"; {each}" for each in remarks), hint=hint)
    if len(found) > MAX_KEYS:
        raise TooMuch(f"{len(found)} SSH host keys in {str(directory)!r}, at most {MAX_KEYS} can be published")
    return HostKeys(tuple(found), ports), tuple(remarks)


def located(directory: Path) -> dict[SshKey, Path]:
    """Return where each key in ``directory`` is, or would be: of one in an ssh-agent the public half is there."""
    private = {*directory.glob(_PATTERN), *(path.with_suffix("") for path in directory.glob(f"{_PATTERN}.pub"))}
    return {key: path for path in sorted(private) if (key := public(path)) is not None}


def public(path: Path) -> SshKey | None:
    """Return which key sshd has at the path of a ``HostKey``, as far as that is known. *Not* checked: that it does."""
    try:
        return signer(path).public
    except HandfastError:  # in ssh-agent, or in hardware: what is there is the public half
        beside = path if path.suffix == ".pub" else path.with_name(f"{path.name}.pub")
    try:
        return sshkeys.parse(beside.read_text("utf-8", errors="replace"))
    except (OSError, HandfastError):
        return None


def readable(path: Path) -> bool:
    """Whether there is a private key that we can sign with. :raises Unsafe, Fault: as ``load``."""
    try:
        sshsig.load_private(files.read_private(path, group=_group(), limit=sshsig.MAX_PRIVATE))
    except Malformed:
        return False
    return True


def signer(path: Path) -> sshsig.Signer:
    """
    Read a private key; with a public one beside it, that has to be its own.

    :raises Malformed: not a key that we can sign with. :raises NotFound, Unsafe, Fault: it cannot be read.
    """
    found = sshsig.load_private(files.read_private(path, group=_group(), limit=sshsig.MAX_PRIVATE))
    beside = path.with_name(path.name + ".pub")
    try:
        said = sshkeys.parse(beside.read_text("utf-8", errors="replace"))
    except (OSError, HandfastError):
        return found  # sshd needs none, and ours follows from the private one
    if said != found.public:
        # sshd would serve the private one's; whoever reads the other file would wait for a key that never comes.
        raise Malformed(f"{beside.name} is another key: {said.fingerprint}, and not {found.public.fingerprint}")
    return found


def _group() -> int | None:
    """Red Hat's sshd lets this group read its keys, for ssh-keysign."""
    try:
        return grp.getgrnam("ssh_keys").gr_gid
    except KeyError:
        return None
