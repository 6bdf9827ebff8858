"""What we write, the real ssh-keygen finds; what would be another line in the file is not written."""

from __future__ import annotations

import contextlib
import fnmatch
import gc
import sys
from datetime import UTC, datetime
from pathlib import Path
from types import FrameType

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handfast.core import knownhosts
from handfast.core.hosts import Grade, Host, HostKey, How, Place, RetiredKey
from handfast.core.knownhosts import Line, Speaker
from handfast.core.sshkeys import SshKey
from handfast.errors import HandfastError, Malformed
from tests.core.sshmaterial import KINDS, ed25519_key, key, keygen, new_key, public, signer

PLACE = Place.parse(["web1.lan", "192.0.2.7", "2001:db8::7"], aliases=["web"], ports=(22, 2222))
SPELLINGS = PLACE.spellings("web1")
KEYS = [signer(kind).public for kind in KINDS]
AT = datetime(2026, 11, 22, 12, tzinfo=UTC)
UNKNOWN = key("ssh-mldsa-44@openssh.com", bytes(1312))


def test_a_line_names_every_spelling() -> None:
    """One line for each key has the machine under all its names, addresses and ports, in the clear."""
    lines = knownhosts.lines(SPELLINGS, KEYS)
    hosts = (
        "web1,web,web1.lan,192.0.2.7,2001:db8::7,"
        "[web1]:2222,[web]:2222,[web1.lan]:2222,[192.0.2.7]:2222,[2001:db8::7]:2222"
    )
    assert lines == [f"{hosts} {each}" for each in KEYS]
    assert knownhosts.lines(SPELLINGS, []) == []


def test_a_type_of_tomorrow() -> None:
    """A key of a type that we do not know is written like any other."""
    assert knownhosts.lines(["a"], [UNKNOWN]) == [f"a {UNKNOWN.algorithm} {UNKNOWN.base64}"]


@pytest.mark.peer("ssh-keygen")
def test_ssh_keygen_finds_every_spelling(tmp_path: Path) -> None:
    """`ssh-keygen -F` finds each key under each spelling, and shows its fingerprint."""
    file = tmp_path / "known_hosts"
    file.write_text("\n".join([*knownhosts.lines(SPELLINGS, KEYS), ""]))
    for each in SPELLINGS:
        assert keygen("-F", each, "-f", file).stdout.decode().count(" found: line ") == len(KEYS), each
    shown = keygen("-l", "-F", "web1", "-f", file).stdout.decode()
    assert [line.split()[2] for line in shown.splitlines() if not line.startswith("#")] == [
        each.fingerprint for each in KEYS
    ]
    for other in ("web2", "[web1]:23", "eb1", "192.0.2.70"):
        assert keygen("-F", other, "-f", file).returncode == 1


@pytest.mark.peer("ssh-keygen")
def test_ssh_keygen_lists_a_marker(tmp_path: Path) -> None:
    """`ssh-keygen -F` reads our CA line as what it is."""
    file = tmp_path / "known_hosts"
    authority = knownhosts.authority_line(["*.fleet", "!old.fleet"], KEYS[0])
    file.write_text(f"{authority}\n")
    found = keygen("-F", "web1.fleet", "-f", file).stdout.decode()
    assert [line for line in found.splitlines() if not line.startswith("#")] == [authority]
    assert found.count(" CA\n") == 1
    assert authority not in keygen("-F", "old.fleet", "-f", file).stdout.decode()
    assert authority not in keygen("-F", "fleet", "-f", file).stdout.decode()


def test_a_marker() -> None:
    """A CA speaks for its patterns."""
    assert knownhosts.authority_line(["*.fleet"], KEYS[0]) == f"@cert-authority *.fleet {KEYS[0]}"


def test_keyscan_form() -> None:
    """ssh-keyscan's form has a line for each spelling and key."""
    assert knownhosts.keyscan_lines(["a", "[a]:2222"], iter(KEYS[:2])) == [
        f"{host} {each}" for host in ("a", "[a]:2222") for each in KEYS[:2]
    ]


def test_json() -> None:
    """In JSON there is all that a program needs to know of a machine's keys, whatever their type."""
    written = msgspec.json.decode(msgspec.json.encode(knownhosts.view("web1", ["web1"], [KEYS[0], UNKNOWN])))
    assert written == {
        "machine": "web1",
        "hosts": ["web1"],
        "keys": [
            {
                "algorithm": "ssh-ed25519",
                "key": KEYS[0].base64,
                "fingerprint": KEYS[0].fingerprint,
                "sshfp": f"4 2 {KEYS[0].digest.hex()}",
            },
            {
                "algorithm": UNKNOWN.algorithm,
                "key": UNKNOWN.base64,
                "fingerprint": UNKNOWN.fingerprint,
                "sshfp": None,
            },
        ],
    }


@pytest.mark.peer("ssh-keygen")
@pytest.mark.parametrize("kind", KINDS)
def test_sshfp(kind: str, tmp_path: Path) -> None:
    """SSHFP records are the SHA-256 ones that `ssh-keygen -r` prints."""
    path = new_key(tmp_path, kind)
    record = knownhosts.sshfp(public(path))
    assert record is not None
    assert f"web1 IN SSHFP {record}" in keygen("-r", "web1", "-f", path).stdout.decode().splitlines()
    assert record.rdata == bytes([record.algorithm, 2]) + record.digest


def test_no_sshfp() -> None:
    """A type that has no number in DNS has no record: a wrong one would be refused by whoever looks."""
    for algorithm in ("ssh-dss", "ssh-mldsa-44@openssh.com", "sk-ssh-ed25519@openssh.com"):
        assert knownhosts.sshfp(key(algorithm, b"x")) is None


HOSTILE = [
    "",
    "*",
    "a*",
    "a?",
    "!a",
    "a,b",
    "a b",
    "a\tb",
    "a\nb ssh-ed25519 AAAA",
    "a\n",
    "#a",
    "@revoked",
    "|1|a|b",
    "-oProxyCommand=x",
    ".a",
    "A",
    "é",
    "a\0",
    "a\x1b[0m",
    "a;id",
    "$(id)",
    "[a]",
    "[a]:",
    "[a]:022",
    "[a]:222222",
    "[a]:22]:22",
    "[[a]]:22",
    "[*]:22",
    "a\N{CYRILLIC SMALL LETTER A}",
]


@pytest.mark.parametrize("host", HOSTILE)
def test_attack_hostile_names(host: str) -> None:
    """A name that would be a pattern, a marker, a hash, an option or another line is refused by its value."""
    for write in (knownhosts.lines, knownhosts.keyscan_lines):
        with pytest.raises(Malformed, match="not for a known_hosts file") as caught:
            write(["good", host], KEYS)
        assert caught.value.hint


@pytest.mark.parametrize(
    "pattern", ["", "!", "a,*", "a *", "* ", "*\n*", "|1|*|*", "#*", "@*", "-*", "!!a", "[*]:*", "*é"]
)
def test_attack_hostile_patterns(pattern: str) -> None:
    """So is a pattern that would be more than one."""
    with pytest.raises(Malformed, match="not for a known_hosts file"):
        knownhosts.authority_line(["*.fleet", pattern], KEYS[0])


def test_no_host() -> None:
    """A line without a host would begin with the key's type, and is refused."""
    with pytest.raises(Malformed, match="without a host"):
        knownhosts.lines([], KEYS)


def test_read() -> None:
    """What we and ssh-keyscan write is read again, with comments, markers and hashed names."""
    text = "\n".join(
        [
            "# web1:22 SSH-2.0-OpenSSH_9.2p1",
            *knownhosts.lines(["web1", "[web1]:2222"], [KEYS[0]]),
            "",
            f"  |1|ZdJ4Mtlq/=|b2+= {KEYS[1]} a comment of words\r",
            f"@revoked\t*\t{KEYS[2]}",
        ]
    )
    assert knownhosts.read(text) == [
        Line("", ("web1", "[web1]:2222"), KEYS[0]),
        Line("", ("|1|ZdJ4Mtlq/=|b2+=",), KEYS[1]),
        Line("@revoked", ("*",), KEYS[2]),
    ]
    assert knownhosts.read("") == []


@pytest.mark.parametrize("end", ["\f", "\v", "\x1c", "\x85", "\u2028", "\r"])
def test_attack_a_line_that_only_we_see(end: str) -> None:
    """Only a line feed ends a line, as for ssh: a comment cannot hide a key from one of both."""
    assert knownhosts.read(f"# a comment{end}web1 {KEYS[0]}\n") == []


@pytest.mark.peer("ssh-keygen")
def test_read_what_ssh_keygen_hashed(tmp_path: Path) -> None:
    """A file that ssh-keygen has hashed is read, names as they stand."""
    file = tmp_path / "known_hosts"
    file.write_text("\n".join([*knownhosts.lines(["web1", "192.0.2.7"], KEYS), ""]))
    assert keygen("-q", "-H", "-f", file).returncode == 0
    read = knownhosts.read(file.read_text())
    assert {line.key for line in read} == set(KEYS)
    assert all(host.startswith("|1|") for line in read for host in line.hosts)


@pytest.mark.parametrize(
    "line",
    [
        "web1",
        "web1 ssh-ed25519",
        "web1 ssh-ed25519 AAAA",
        f"web1 ssh-rsa {KEYS[0].base64}",
        "@revoked * x",
        "web1 2048 35 7",
    ],
)
def test_read_refuses(line: str) -> None:
    """A line that is none is refused by its number, not skipped: a revocation may be what nobody could read."""
    with pytest.raises(Malformed, match="line 2: ") as caught:
        knownhosts.read(f"# first\n{line}\n")
    assert caught.value.hint


@given(st.text())
def test_read_anything(text: str) -> None:
    """Any text is read, or refused with an error of ours."""
    with contextlib.suppress(HandfastError):
        knownhosts.read(text)


@given(st.lists(st.text(max_size=12), min_size=1), st.integers(0, 2**256 - 1))
def test_what_is_written_is_read(hosts: list[str], number: int) -> None:
    """Whatever hosts are given: they are refused, or come out of the file as the same hosts of the same key."""
    found: SshKey = ed25519_key(number)
    try:
        lines = knownhosts.lines(hosts, [found])
    except Malformed:
        return
    assert knownhosts.read("\n".join(lines)) == [Line("", tuple(hosts), found)]


# --- a whole file ---

CA = ed25519_key(99)


def host(machine: str, *keys: int, retired: tuple[int, ...] = (), place: Place | None = None) -> Host:
    """A machine; an operator entered its keys."""
    known = tuple(HostKey(ed25519_key(number), How.OPERATOR, "", AT) for number in keys)
    gone = tuple(RetiredKey(ed25519_key(number), AT, "") for number in retired)
    return Host(machine, place or Place(), known, gone)


FLEET = [
    host("web1", 1, retired=(2, 3)),
    host("web2", 3, place=Place.parse(["web2.lan"])),  # has the disk that was web1's
    host("empty", retired=(4,), place=Place.parse(["empty.lan"])),
    host("gone", retired=(5, 1)),
]


@pytest.mark.parametrize(
    ("speaker", "first", "revoked"),
    [
        (None, [], [2, 4]),
        (Speaker((), CA), [], [2, 4]),
        (Speaker(("*.lan", "!evil.lan"), CA), [f"@cert-authority *.lan,!evil.lan {CA}"], [2, 4, 5]),
    ],
)
def test_all_that_a_file_says(speaker: Speaker | None, first: list[str], revoked: list[int]) -> None:
    """The CA's line, if it speaks; keys by their names; and keys that were somebody's and are nobody's are refused."""
    told = [f"web1 {ed25519_key(1)}", f"web2,web2.lan {ed25519_key(3)}"]
    lines = knownhosts.of_all(FLEET, least=Grade.REPORTED, speaker=speaker)
    refused = {f"@revoked * {ed25519_key(number)}" for number in revoked}
    assert lines[: -len(refused)] == first + told
    assert set(lines[-len(refused) :]) == refused


def test_what_is_known_too_badly_is_not_told() -> None:
    """Only keys of the least grade and better."""
    assert knownhosts.of_all([host("web1", 1)], least=Grade.PROVED, speaker=None) == []


@pytest.mark.peer("ssh-keygen")
def test_ssh_keygen_reads_the_whole_file(tmp_path: Path) -> None:
    """It finds the CA for a name of its patterns, the machine's key, and the revoked ones for every name."""
    path = tmp_path / "known_hosts"
    lines = knownhosts.of_all(FLEET, least=Grade.REPORTED, speaker=Speaker(("*.lan",), CA))
    path.write_text("".join(f"{line}\n" for line in lines))
    found = keygen("-F", "web2.lan", "-f", path).stdout.decode()
    assert [line.split()[0] for line in found.splitlines() if not line.startswith("#")] == [
        "@cert-authority", "web2,web2.lan", "@revoked", "@revoked", "@revoked",
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("patterns", "name"),
    [
        (("*.lan",), "web1.lan"),
        (("*.lan",), "a.b.lan"),
        (("*.LAN",), "web1.lan"),
        (("web?.lan",), "web1.lan"),
        (("*?b?.lan",), "aabb.lan"),
        (("*.lan", "web1.org"), "web1.org"),
        (("!db.lan", "*.lan"), "web1.lan"),
    ],
)
def test_a_name_for_which_a_ca_speaks(patterns: tuple[str, ...], name: str) -> None:
    """As ssh reads patterns."""
    assert knownhosts.speaks_for(patterns, name)


@pytest.mark.parametrize(
    ("patterns", "name"),
    [
        ((), "web1.lan"),
        (("*.lan",), "web1.org"),
        (("*.lan",), "lan"),
        (("*.lan",), "web1.lan.evil.org"),
        (("[*.lan]:2222",), "web1.lan"),
        (("web?.lan",), "web10.lan"),
        (("web1.lan",), "web1xlan"),
        (("ab*ba",), "aba"),
        (("!db.lan", "*.lan"), "db.lan"),
        (("!*.lan",), "web1.org"),
    ],
)
def test_a_name_for_which_it_does_not(patterns: tuple[str, ...], name: str) -> None:
    """A negation alone fits nothing, and without a pattern nothing does."""
    assert not knownhosts.speaks_for(patterns, name)


@given(st.lists(st.text("ab.*?!", min_size=1, max_size=8), max_size=3), st.text("ab.", max_size=8))
def test_patterns_mean_what_they_mean_to_the_shell(patterns: list[str], name: str) -> None:
    """Another matcher says the same of each pattern, and one that is negated forbids."""
    fits = [fnmatch.fnmatchcase(name, each.removeprefix("!")) for each in patterns]
    bad = any(fit and each.startswith("!") for fit, each in zip(fits, patterns, strict=True))
    assert knownhosts.speaks_for(patterns, name) is (any(fits) and not bad)


LINEAR = {"casefold", "find", "split", "removeprefix", "startswith", "len", "append", "all", "any", "filter"}


def steps(pattern: str, name: str) -> int:
    """How many calls it takes to match; each is of one of ours, or of what takes time as its argument is long."""
    found: list[str] = []

    def count(_frame: FrameType, event: str, what: object) -> None:
        if event in {"call", "c_call"}:
            found.append(getattr(what, "__name__", ""))

    gc.disable()  # others have callbacks there, whose calls are none of ours
    sys.setprofile(count)
    try:
        knownhosts.speaks_for((pattern,), name)
    finally:
        sys.setprofile(None)
        gc.enable()
    assert set(found) <= LINEAR | {"", "setprofile"}, "what it calls may take longer than its argument is long"
    return len(found)


@pytest.mark.parametrize("pattern", ["*-*-*-*.lan", "******b", "*a*a*a*a*a*ab", "*a?*a?*a?*a?b", "*?*?*?*?b", "*?a?b"])
def test_stars_cost_a_stranger_nothing(pattern: str) -> None:
    """A name that is four times as long takes at most four times the steps: no star makes the matcher try again."""
    for letter in "a-":
        short, long = (steps(pattern, letter * length) for length in (60, 240))
        assert long <= 4 * short + 40, (short, long)
