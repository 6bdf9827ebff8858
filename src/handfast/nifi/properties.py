"""
``nifi.properties``: read by the rules of ``java.util.Properties.load``, and updated in place.

The file is taken as ISO 8859-1, as Java takes it, so that bytes which we do not understand come out unchanged. Only
the lines of the values that are set are replaced; comments, order, blank lines and unknown keys stay.

There is no template file here. What NiFi 1.28.1 starts with is a table of keys and values, ``nifi-properties.toml``.
"""

from __future__ import annotations

import re
import tomllib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from functools import cache
from importlib.resources import files

from handfast.errors import UsageError
from handfast.nifi.stores import Passwords

MAX_TEMPLATE = 1 << 20  # bytes
# Base ports; an instance's rank, counted from 0, is added.
PORTS = {
    "nifi.web.https.port": 9443,
    "nifi.remote.input.socket.port": 10443,
    "nifi.cluster.node.protocol.port": 11443,
}
_BLANK = " \t\f"
_LINE = re.compile(r"([^\r\n]*)(\r\n|\r|\n|\Z)")
_CONTINUED = re.compile(r"(?<!\\)(?:\\\\)*\\\Z")  # an odd number of backslashes at the end
_KEY = re.compile(r"((?:\\.|[^\\=: \t\f])*)[ \t\f]*[=:]?[ \t\f]*", re.DOTALL)
_ESCAPE = re.compile(r"\\(?:u(.{0,4})|(.))", re.DOTALL)
_ESCAPED = {"t": "\t", "n": "\n", "r": "\r", "f": "\f"}


@dataclass(frozen=True, slots=True)
class Stores:
    """What a node's ``nifi.properties`` says of its stores: file names in ``conf``, types as typed, passwords."""

    keystore: str
    keystore_type: str
    truststore: str
    truststore_type: str
    passwords: Passwords


def parse(data: bytes) -> dict[str, str]:
    """
    Return the keys and values of a properties file.

    :raises UsageError: a key that is there twice, a broken Unicode escape, a file that is too long.
    """
    return {key: value for _, key, value in _entries(data) if key is not None}


def update(template: bytes, values: Mapping[str, str]) -> bytes:
    """
    Return ``template`` with these values: in their places, or at the end.

    :raises UsageError: as ``parse``.
    """
    remaining = dict(values)
    written: list[str] = []
    ending, open_end = "\n", False
    for raw, key, _ in _entries(template):
        ending = _LINE.findall(raw)[0][1] or ending
        line = raw if key is None or key not in remaining else _line(key, remaining.pop(key), ending)
        written.append(line)
        open_end = key is not None and _CONTINUED.search(line.rstrip("\r\n")) is not None
    if remaining and written:
        if not written[-1].endswith(("\n", "\r")):
            written.append(ending)
        if open_end:  # its backslash would swallow the next line
            written.append(ending)
    written += [_line(key, value, ending) for key, value in remaining.items()]
    return "".join(written).encode("latin-1")


def for_node(template: bytes, *, hostname: str, rank: int, stores: Stores) -> bytes:
    """
    Return the ``nifi.properties`` of one instance, passwords in the clear: what the toolkit sets, and nothing else.

    ``rank`` counts from 1.

    :raises UsageError: as ``parse``.
    """
    passwords = stores.passwords
    values = {
        "nifi.security.keystore": f"./conf/{stores.keystore}",
        "nifi.security.keystoreType": stores.keystore_type,
        "nifi.security.keystorePasswd": passwords.keystore.reveal().decode(),
        "nifi.security.keyPasswd": passwords.key.reveal().decode(),
        "nifi.security.truststore": f"./conf/{stores.truststore}",
        "nifi.security.truststoreType": stores.truststore_type,
        "nifi.security.truststorePasswd": passwords.truststore.reveal().decode(),
        "nifi.remote.input.host": hostname,
        "nifi.web.https.host": hostname,
        "nifi.cluster.node.address": hostname,
        "nifi.remote.input.secure": "true",
        "nifi.cluster.protocol.is.secure": "true",
        "nifi.web.http.host": "",
        "nifi.web.http.port": "",
    }
    return update(template, values | {key: str(port + rank - 1) for key, port in PORTS.items()})


@cache
def default_template() -> bytes:
    """Return the properties with which NiFi 1.28.1 is installed, grouped by prefix."""
    table = tomllib.loads(files(__package__).joinpath("nifi-properties.toml").read_text())
    groups = [
        "".join(_line(f"{prefix}.{key}", value, "\n") for key, value in group.items())
        for prefix, group in table.items()
    ]
    return "\n".join(groups).encode("latin-1")


def _entries(data: bytes) -> Iterator[tuple[str, str | None, str]]:
    """Yield each logical line: as it stands in the file, its key (None in comments and blank lines), its value."""
    if len(data) > MAX_TEMPLATE:
        raise UsageError(f"a properties file of {len(data)} bytes", hint="check that this is the right file")
    seen: set[str] = set()
    for raw, logical in _logical_lines(data.decode("latin-1")):
        if logical is None:
            yield raw, None, ""
            continue
        found = next(_KEY.finditer(logical))  # it matches the empty string too
        key, value = _unescape(found[1]), _unescape(logical[found.end() :])
        if key in seen:
            raise UsageError(f"{key[:80]!r} is in the properties file twice", hint="remove one of the two lines")
        seen.add(key)
        yield raw, key, value


def _logical_lines(text: str) -> Iterator[tuple[str, str | None]]:
    """Yield lines with their continuations, as they stand and joined; joined is None for comments and blank lines."""
    lines = (found for found in _LINE.finditer(text) if found[0])
    for line in lines:
        raw, logical = line[0], line[1].lstrip(_BLANK)
        if not logical or logical[0] in "#!":
            yield raw, None
            continue
        raws, parts = [raw], [logical]  # joined once: a file of continuations would take an hour
        while _CONTINUED.search(parts[-1]):
            parts[-1] = parts[-1][:-1]
            if (following := next(lines, None)) is None:
                break
            raws.append(following[0])
            parts.append(following[1].lstrip(_BLANK))
        yield "".join(raws), "".join(parts)


def _unescape(text: str) -> str:
    plain = _ESCAPE.sub(_unescaped, text)
    # Two escapes may be one character; half of one stands for nothing.
    return plain.encode("utf-16-be", "surrogatepass").decode("utf-16-be", "replace")


def _unescaped(found: re.Match[str]) -> str:
    if found[1] is None:
        return _ESCAPED.get(found[2], found[2])
    if not re.fullmatch(r"[0-9A-Fa-f]{4}", found[1]):
        raise UsageError(f"not an escape: {found[0]!r} in the properties file", hint=r"write \u and four hex digits")
    return chr(int(found[1], 16))


def _line(key: str, value: str, ending: str) -> str:
    escaped = "".join(map(_escape, value))
    if value[:1] == " ":
        escaped = "\\" + escaped
    return f"{key}={escaped}{ending}"


def _escape(character: str) -> str:
    if character == "\\":
        return "\\\\"
    if " " <= character <= "~":
        return character
    units = character.encode("utf-16-be")  # Java's escapes are UTF-16 units
    return "".join(f"\\u{units[i]:02X}{units[i + 1]:02X}" for i in range(0, len(units), 2))
