"""
The line by which a new agent shows its key on its machine's console, and what a console's log says by it.

What it is worth: as much as the cloud's API that hands out the log, and everybody who can write to the console: root's
processes, the kernel, whose messages may quote devices and the network, and users through syslog where that goes there.
The agent writes at its start, early in the first boot. So what was first since the last boot counts; another key after
it is somebody's, and all is refused.
"""

from __future__ import annotations

import re

from handfast.core.instance_views import fingerprint, parse_fingerprint
from handfast.errors import EvidenceRejected, Malformed, NotFound, TooMuch

MAX_LOG = 4 * 1024 * 1024  # bytes; clouds keep 64 KiB to 2 MiB
_TITLE = "handfast-agent"
# ECMA-48: control sequences, and two-byte escapes; a login screen is full of them.
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[ -/]*[0-~])")
_BOOT = re.compile(r"(?:<\d{1,3}>)?\[ *0\.000000\](?:\[ *[CT]\d+\])? Linux version \S", re.ASCII)


def written(name: str, key: bytes) -> str:
    """Return the line of an instance whose key has this SHA-256."""
    return f"{_TITLE} {name} {fingerprint(key)}"


def key_of(name: str, log: bytes) -> bytes:
    """
    Return the key (SHA-256) that a console log shows for an instance, since its last boot.

    A whole line counts, and nothing in the middle of one, which is somebody's text. *Not* checked: that the log is of
    the machine that it is said to be of.

    :raises NotFound: no such line. :raises EvidenceRejected: two that differ. :raises TooMuch: over ``MAX_LOG`` bytes.
    """
    if len(log) > MAX_LOG:
        raise TooMuch(f"a console log of {len(log)} bytes, at most {MAX_LOG} are read", hint="cut it to the last boot")
    begin, found = f"{_TITLE} {name} ", list[str]()
    for line in re.split(r"[\r\n]+", _ESCAPES.sub("", log.decode("ascii", "replace"))):
        if _BOOT.match(line):
            found = []
        elif line.startswith(begin):
            found.append(line.removeprefix(begin).rstrip())
    if not found:
        raise NotFound(
            f"no line {begin.strip()!r} in this console log",
            hint="take it after the first boot, and all of it (AWS: `get-console-output --latest`)",
        )
    if len(set(found)) > 1:
        raise EvidenceRejected(
            f"the console log has different keys of {name!r}: {', '.join(dict.fromkeys(found))[:200]}",
            hint="somebody else writes into the console: ask the machine itself",
        )
    if not found[0].startswith("SHA256:"):
        raise Malformed(f"not a fingerprint in the console log: {found[0][:80]!r}")
    return parse_fingerprint(found[0])
