"""
Options of OpenSSH's certificates (PROTOCOL.certkeys): names in alphabetical order, each once, with data behind each.

Critical ones narrow what a certificate is good for, so whoever does not know one refuses it; extensions widen it, so
they are passed over.
"""

from __future__ import annotations

from dataclasses import dataclass
from enum import StrEnum

from handfast.core import names
from handfast.core.names import IPNetwork
from handfast.core.sshdata import Reader, string, strings
from handfast.errors import HandfastError, Malformed

Options = tuple[tuple[str, bytes], ...]
"""Names, and the string behind each; empty where it has none."""

MAX_OPTIONS = 64
MAX_COMMAND = 4096  # characters
MAX_SOURCES = 64  # networks

_FORCE_COMMAND, _SOURCE_ADDRESS, _VERIFY_REQUIRED = "force-command", "source-address", "verify-required"
_HINT = "its authority is at fault"


class Permit(StrEnum):
    """What a user's certificate may allow; all else that sshd does for a login is forbidden by leaving it out."""

    AGENT_FORWARDING = "permit-agent-forwarding"
    PORT_FORWARDING = "permit-port-forwarding"
    PTY = "permit-pty"
    USER_RC = "permit-user-rc"
    X11_FORWARDING = "permit-X11-forwarding"


@dataclass(frozen=True, slots=True)
class Critical:
    """
    What narrows a user's certificate. There are none for hosts.

    ``force_command`` is run in the place of any other, ``source_address`` is from where alone sshd takes it; None means
    no such limit. ``verify_required`` has a token in hardware ask who its user is.
    """

    force_command: str | None = None
    source_address: tuple[IPNetwork, ...] | None = None
    verify_required: bool = False

    def options(self) -> Options:
        """Return them as they stand in a certificate."""
        found = []
        if self.force_command is not None:
            found.append((_FORCE_COMMAND, self.force_command.encode()))
        if self.source_address is not None:
            found.append((_SOURCE_ADDRESS, ",".join(map(str, self.source_address)).encode("ascii")))
        if self.verify_required:
            found.append((_VERIFY_REQUIRED, b""))
        return tuple(found)

    def texts(self) -> tuple[str, ...]:
        """Return them as ``ssh-keygen -L`` has them."""
        return tuple(f"{name} {data.decode()}".rstrip() for name, data in self.options())


UNLIMITED = Critical()


def read_critical(data: bytes) -> Critical:
    """
    Read the critical options of a certificate.

    :raises Malformed: one that we do not know, one that says nothing, or not in their one form.
    """
    command, sources, verify = None, None, False
    for name, value in read_options(data, what="critical options"):
        if name == _FORCE_COMMAND:
            command = _command(value)
        elif name == _SOURCE_ADDRESS:
            sources = _networks(value)
        elif name == _VERIFY_REQUIRED and not value:
            verify = True
        else:
            raise Malformed(f"a critical option that we do not know: {name[:64]!r}", hint=_HINT)
    return Critical(command, sources, verify)


def read_options(data: bytes, *, what: str) -> Options:
    """
    Read options or extensions, whatever their names; ``what`` they are called in messages.

    :raises Malformed: not in order, twice, too many, or with more than one string behind a name.
    """
    fields = strings(data, what=f"the list of {what}")
    if len(fields) % 2 or len(fields) > 2 * MAX_OPTIONS:
        raise Malformed(f"the list of {what} has {len(fields)} fields, not pairs, or over {MAX_OPTIONS}", hint=_HINT)
    found = tuple((_name(name, what), _value(value, what)) for name, value in zip(*[iter(fields)] * 2, strict=True))
    listed = [name.encode() for name, _ in found]
    if listed != sorted(set(listed)):  # read in two ways: the first counts for one reader, the last for another
        raise Malformed(f"the {what} are not in order, each once: {b' '.join(listed)[:200]!r}", hint=_HINT)
    return found


def written(options: Options) -> bytes:
    """Return options, which are in order, as they stand in a certificate."""
    return b"".join(string(name.encode()) + string(string(value) if value else b"") for name, value in options)


def _name(data: bytes, what: str) -> str:
    name = data.decode("ascii", "replace")
    if not name or not name.isascii() or not name.isprintable() or " " in name or len(name) > 64:
        raise Malformed(f"one of the {what} has no name but {data[:64]!r}", hint=_HINT)
    return name


def _value(data: bytes, what: str) -> bytes:
    """Return the string within the string that stands behind a name; nothing at all is an empty one."""
    if not data:
        return b""
    reader = Reader(data, what=f"one of the {what}")
    value = reader.string()
    reader.end()
    if not value:
        raise Malformed(f"one of the {what} has an empty string where nothing belongs", hint=_HINT)
    return value


def _command(value: bytes) -> str:
    try:
        command = value.decode("utf-8")
    except UnicodeDecodeError:
        command = ""
    if not command.strip() or not command.isprintable() or len(command) > MAX_COMMAND:
        raise Malformed(f"no command to force: {value[:80]!r}", hint="one line of text")
    return command


def _networks(value: bytes) -> tuple[IPNetwork, ...]:
    listed = value.decode("ascii", "replace").split(",")
    if len(listed) > MAX_SOURCES:
        raise Malformed(f"{len(listed)} source addresses, at most {MAX_SOURCES} are allowed", hint=_HINT)
    try:
        return tuple(names.network(each) for each in listed)
    except HandfastError as error:
        raise Malformed(f"not source addresses: {error.message}", hint=_HINT) from None
