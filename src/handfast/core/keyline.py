"""
The line by which a new agent shows its key: on its machine's console, and in the guest attributes of Google's cloud.

On the console a second line has the key in words, for people; no program reads it.

What a console is worth: as much as the cloud's API that hands out its log, and everybody who can write to it: root's
processes, the kernel, whose messages may quote devices and the network, and users through syslog where that goes there.
The agent writes at its start, early in the first boot. So what was first since the last boot counts; another key after
it is somebody's, and all is refused. Guest attributes are worth less: any process there, of any user, may write them.
"""

from __future__ import annotations

import re

from handfast.core import fingerprint_words, guest_attributes
from handfast.core.instance_views import fingerprint, parse_fingerprint
from handfast.errors import EvidenceRejected, Malformed, NotFound, TooMuch

MAX_LOG = 4 * 1024 * 1024  # bytes; clouds keep 64 KiB to 2 MiB
NAMESPACE, ATTRIBUTE = "handfast", "agent-key"  # in guest attributes
_TITLE, _WORDS = "handfast-agent", "handfast-agent-words"
# ECMA-48: control sequences, and two-byte escapes; a login screen is full of them.
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[ -/]*[0-~])")
_BOOT = re.compile(r"(?:<\d{1,3}>)?\[ *0\.000000\](?:\[ *[CT]\d+\])? Linux version \S", re.ASCII)


def written(name: str, key: bytes) -> str:
    """Return the line of an instance whose key has this SHA-256."""
    return f"{_TITLE} {name} {fingerprint(key)}"


def in_words(name: str, key: bytes) -> str:
    """Return the second line, for people: the same key in words."""
    return f"{_WORDS} {name} {fingerprint_words.words(key)}"


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


def key_in(name: str, answer: bytes) -> bytes:
    """
    Return the key (SHA-256) that an instance's guest attributes have, as ``gcloud`` prints them or the API answers.

    The value is the whole line, so that another instance's are noticed. *Not* checked: of which machine they are.

    :raises NotFound: the agent has written none. :raises EvidenceRejected: several, or another instance's.
    :raises Malformed: no guest attributes, or no fingerprint. :raises TooMuch: more than there can be.
    """
    where = f"{NAMESPACE}/{ATTRIBUTE}"
    attributes = guest_attributes.read(answer, path=where)
    found = [each.value for each in attributes if (each.namespace, each.key) == (NAMESPACE, ATTRIBUTE)]
    if not found:
        raise NotFound(
            f"no {where!r} in these guest attributes",
            hint="were they enabled before it booted (enable-guest-attributes=TRUE)? else its console has the key",
        )
    if len(found) > 1:
        raise EvidenceRejected(
            f"these guest attributes have {where!r} {len(found)} times", hint="give those of one instance, as they are"
        )
    title, _, rest = found[0].partition(" ")
    of, _, shown = rest.partition(" ")
    if title != _TITLE or not shown.startswith("SHA256:"):
        raise Malformed(f"not an agent's key in the guest attributes: {found[0][:120]!r}")
    if of != name:
        raise EvidenceRejected(f"these guest attributes are of {of[:80]!r}, not of {name!r}", hint="give its own")
    return parse_fingerprint(shown)
