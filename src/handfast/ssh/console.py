"""
Host keys in a machine's console log, where cloud-init prints them at the first boot.

What it is worth, REPORTED: as much as the cloud's API that hands out the log, and everybody who can write to the
console. That is every process of root; the kernel, whose messages may quote devices and the network; and, where syslog
goes to the console, every user with ``logger``, which lets him choose tag and text. Also who is logged in there, and
``wall``. Nothing in the log is signed, and nobody can tell the lines of cloud-init from others that look the same.

So it is read early, before there are users on the machine, and nothing ambiguous is read:

- A marker is a whole line, by itself or behind the time, the host's name and the tag of cloud-init. In the middle of a
  line it is somebody's text.
- Key lines count if the same writer (tag and process id) wrote the marker before them. Others in between are skipped:
  the kernel writes when it wants to. What begins like a key and is none was cut up by that, and all is refused.
- Every block in the log has to have the same keys. Who adds one is noticed, as long as cloud-init's own is still there.
- Where there are fingerprints as well, which take another way to the console, each key has to be among them.

What is left: the log is a ring. Who can write to it may push the true block out and then print a false one.
"""

from __future__ import annotations

import hashlib
import re
from collections.abc import Iterator

from handfast.core import sshdata, sshkeys
from handfast.core.sshkeys import SshKey
from handfast.errors import EvidenceRejected, HandfastError, Malformed, TooMuch

MAX_LOG = 4 * 1024 * 1024  # bytes; clouds keep 64 KiB to 2 MiB
_KEYS, _FINGERPRINTS = "SSH HOST KEY KEYS", "SSH HOST KEY FINGERPRINTS"

# ECMA-48: control sequences, strings to the end of their line at most, and two-byte escapes.
_ESCAPES = re.compile(r"\x1b(?:\[[0-?]*[ -/]*[@-~]|[\]PX^_][^\x07\x1b\n]*(?:\x07|\x1b\\)|[ -/]*[0-~])")
_TAG = r"(?:cloud-init|ec2)(?:\[\d+\])?: "  # ec2 until 2021
_PREFIX = re.compile(
    r"(?P<priority><\d{1,3}>)"
    r"|(?P<kernel>\[ *\d+\.\d+\](?:\[ *[CT]\d+\])? )"
    r"|(?P<date>(?:[A-Z][a-z]{2} [ \d]\d \d\d:\d\d:\d\d(?:\.\d+)?|"
    r"\[?\d{4}-\d\d-\d\d[T ]\d\d:\d\d:\d\d(?:[.,]\d+)?(?:Z| ?[+-]\d\d:?\d\d)?\]?) )"
    rf"(?P<host>[\w.-]+ (?={_TAG}))?"
    rf"|(?P<tag>{_TAG})",
    re.ASCII,
)
_PROCESS = re.compile(r"\[\d+\]")
_LIKE_A_KEY = re.compile(r"\S+[ \t]+AAAA|(?:ssh|ecdsa)-\S", re.ASCII)
_SHA256 = re.compile(r"SHA256:[A-Za-z0-9+/]{43}(?!\S)", re.ASCII)
_MD5 = re.compile(r"(?:[0-9a-f]{2}:){15}[0-9a-f]{2}(?!\S)", re.ASCII)  # OpenSSH before 6.8
_HINT = (
    "take the log soon after the first boot, and all of it (AWS: `get-console-output --latest`); or enter the keys "
    "with `handfast host add`"
)


def host_keys(log: bytes) -> tuple[SshKey, ...]:
    """
    Return the host keys in a console log, in its order.

    *Not* checked: anything but the log, see above; and that the log is of the machine that it is said to be of.

    :raises Malformed: no block of keys; one that is cut off, empty or cut up; more keys than a machine may have.
    :raises EvidenceRejected: blocks that differ, or a key that is not among the fingerprints.
    :raises TooMuch: over ``MAX_LOG`` bytes.
    """
    if len(log) > MAX_LOG:
        raise TooMuch(f"a console log of {len(log)} bytes, at most {MAX_LOG} are read", hint="cut it to the first boot")
    text = _ESCAPES.sub("", log.decode("ascii", "replace"))
    lines = [_prefix(line.strip("\r")) for line in text.split("\n")]
    found = [_keys(block) for block in _blocks(lines, _KEYS)]
    if not found:
        raise Malformed(
            "no SSH host keys in this console log",
            hint=f"cloud-init prints them at the first boot, unless `ssh: emit_keys_to_console: false`; {_HINT}",
        )
    if any(set(other) != set(found[0]) for other in found):
        raise EvidenceRejected(
            f"the console log has {len(found)} blocks of SSH host keys that differ",
            hint="the machine was set up again, or somebody wrote into its console: ask the machine itself",
        )
    anonymous = [(_PROCESS.sub("", writer), line) for writer, line in lines]  # each line is of a logger of its own
    for block in _blocks(anonymous, _FINGERPRINTS):
        _compare(found[0], "\n".join(block))
    return found[0]


def _prefix(line: str) -> tuple[str, str]:
    """Split a line into who wrote it, without times, and what."""
    writer, place = [], 0
    while match := _PREFIX.match(line, place):
        kind = match.lastgroup or ""
        writer.append(f"{match['host'] or ''}{match['tag'] or kind}")
        place = match.end()
    return "/".join(writer), line[place:].rstrip()


def _blocks(lines: list[tuple[str, str]], title: str) -> Iterator[list[str]]:
    """Yield what stands between the markers, for each writer. :raises Malformed: one of them is not there."""
    begin, end = f"-----BEGIN {title}-----", f"-----END {title}-----"
    cut = Malformed(f"the block of {title!r} in the console log is cut off", hint=_HINT)
    opened: dict[str, list[str]] = {}
    for writer, text in lines:
        if text == begin:
            if writer in opened:
                raise cut
            opened[writer] = []
        elif text == end:
            if writer not in opened:
                raise cut
            yield opened.pop(writer)
        elif writer in opened:
            opened[writer].append(text)
    if opened:
        raise cut


def _keys(block: list[str]) -> tuple[SshKey, ...]:
    """Return the keys in a block."""
    keys: dict[SshKey, None] = {}
    for line in filter(_LIKE_A_KEY.match, block):
        try:
            key = sshkeys.parse(line)
            sshdata.strings(key.blob, what="the key")  # part of one may still be base64, and is not whole
        except HandfastError as error:
            raise Malformed(
                f"a key in the console log is cut up by other output: {line[:60]!r} ({error.message})", hint=_HINT
            ) from None
        keys[key] = None
    if not 0 < len(keys) <= sshkeys.MAX_KEYS:
        raise Malformed(f"a block of {len(keys)} SSH host keys in the console log", hint=_HINT)
    return tuple(keys)


def _compare(keys: tuple[SshKey, ...], fingerprints: str) -> None:
    """Compare with the fingerprints. :raises EvidenceRejected: a key is missing there."""
    shown = {*_SHA256.findall(fingerprints), *_MD5.findall(fingerprints)}
    for key in keys:
        old = hashlib.md5(key.blob, usedforsecurity=False).digest().hex(":")  # only ever in addition to the key
        if not shown & {key.fingerprint, old}:
            raise EvidenceRejected(
                f"the console log has the key {key.fingerprint}, which is not among its own fingerprints",
                hint="a key was left out by `ssh_fp_console_blacklist`, or somebody wrote into the console",
            )
