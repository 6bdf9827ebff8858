"""cloud-init's markers in a console log: the keys are found, and nobody else's are believed."""

from __future__ import annotations

import contextlib
import hashlib
import re
import subprocess
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handfast.core.sshkeys import MAX_KEYS, SshKey
from handfast.errors import EvidenceRejected, HandfastError, Malformed, TooMuch
from handfast.ssh import console
from tests.core.sshmaterial import ed25519_key, key, new_key, public, rsa_key
from tests.peers import find
from tests.ssh.logs import BOOT, LOGGER, block, fingerprints, log

KEYS = (rsa_key(3072), ed25519_key(7), key("ssh-mldsa-44@openssh.com", bytes(range(256)) * 5))
MALLORY = ed25519_key(666)
BEGIN, *INSIDE, END = block(KEYS)
HONEST = [*fingerprints(KEYS), *block(KEYS)]


def refused(data: bytes, reason: str, error: type[HandfastError] = Malformed) -> str:
    """The hint with which a log is refused."""
    with pytest.raises(error, match=reason) as caught:
        console.host_keys(data)
    assert caught.value.hint
    return caught.value.hint


@pytest.mark.parametrize("end", ["\n", "\r\n", "\r\r\n", "\n\r"])
def test_block(end: str) -> None:
    """The keys between the markers are returned in their order, whatever ends the lines; unknown types too."""
    assert console.host_keys(log(block(KEYS), end=end)) == KEYS
    assert console.host_keys(log(HONEST, end=end)) == KEYS
    assert console.host_keys(end.join(block(KEYS)).encode()) == KEYS


@pytest.mark.peer("cloud-init-console")
@pytest.mark.peer("ssh-keygen")
@pytest.mark.root
@pytest.mark.parametrize("blacklist", ["ssh-dss", "ssh-rsa", "ssh-rsa,ecdsa-sha2-nistp256"])
def test_real_cloud_init(blacklist: str, tmp_path: Path) -> None:
    """What cloud-init's own script prints on a machine is read, also where some types are left out."""
    made = {kind: new_key(tmp_path, kind) for kind in ("ed25519", "p256", "rsa")}
    expected = []
    for kind, path in made.items():
        name = {"p256": "ecdsa"}.get(kind, kind)
        if public(path).algorithm not in blacklist.split(","):
            expected.append(public(path))
        path.with_name(f"{kind}.pub").rename(tmp_path / f"ssh_host_{name}_key.pub")
    script = f"mount --bind {tmp_path} /etc/ssh && exec {find('cloud-init-console')} '' {blacklist}"
    shown = subprocess.run(["unshare", "--mount", "sh", "-c", script], capture_output=True, check=True)
    assert set(console.host_keys(shown.stdout)) == set(expected)


PREFIXES = {
    "logger": LOGGER,
    "old": "ec2: ",
    "kernel": "[   19.205113] ",
    "kernel-with-caller": "[   19.205113][  T612] ",
    "journal-on-console": "[   19.205113] cloud-init[612]: ",
    "syslog": "Nov 22 11:19:58 vm1 cloud-init[612]: ",
    "syslog-of-syslog": "Nov  2 11:19:58 localhost cloud-init[1522]: <14>Nov  2 11:19:58 cloud-init: ",
    "rfc5424": "2026-11-22T11:19:58.123456+00:00 vm1 cloud-init[612]: ",
    "capture": "[2026-11-22 11:19:58] ",
    "capture-utc": "2026-11-22T11:19:58Z ",
    "capture-of-kernel": "2026-11-22 11:19:58,123 [   19.205113] cloud-init[612]: ",
}


@pytest.mark.parametrize("name", PREFIXES)
def test_prefixes(name: str) -> None:
    """Times, hosts and cloud-init's tag before each line are no part of it."""
    prefix = PREFIXES[name]
    assert console.host_keys(log(block(KEYS, prefix))) == KEYS
    assert console.host_keys(log(fingerprints(KEYS, prefix), block(KEYS, prefix))) == KEYS


def test_times_pass() -> None:
    """Each line has a time of its own, and each fingerprint a logger of its own."""
    lines = [f"Nov 22 11:19:{at:02} vm1 cloud-init[612]: {line}" for at, line in enumerate(block(KEYS))]
    shown = [f"[   19.{at:06}] cloud-init[{at}]: {line}" for at, line in enumerate(fingerprints(KEYS, ""))]
    assert console.host_keys(log(shown, lines)) == KEYS


def test_three_ways_to_one_console() -> None:
    """The same block may arrive by the console, syslog and the kernel, line by line in between each other."""
    ways = [block(KEYS, prefix) for prefix in ("", LOGGER, "[   19.205113] cloud-init[612]: ")]
    assert console.host_keys(log([line for lines in zip(*ways, strict=True) for line in lines])) == KEYS


NOISE = [
    "[   19.301122] EXT4-fs (vda1): resizing filesystem",
    "\x1b[K[  \x1b[0;32mOK\x1b[0m  ] Started \x1b[0;1;39mOpenBSD Secure Shell server\x1b[0m.",
    "",
    "\x1b[1;31mssh.service: Failed\x1b[0m",
    "Nov 22 11:19:58 vm1 sshd[700]: Server listening on :: port 22.",
    "\x00\x07\x08garbage\xff",
    "ci-info: | ssh-rsa | AAAA |",
]


def test_noise() -> None:
    """What others write between two lines, and colors within them, changes nothing."""
    noisy = [line for each in HONEST for line in (*NOISE, f"\x1b[0m{each}\x1b[0K  ")]
    assert console.host_keys(log(NOISE, noisy)) == KEYS


def test_old_fingerprints() -> None:
    """The fingerprints of OpenSSH before 6.8 are compared too."""

    def md5(each: SshKey) -> str:
        return hashlib.md5(each.blob).digest().hex(":")

    assert console.host_keys(log(fingerprints(KEYS, "ec2: ", md5), block(KEYS))) == KEYS
    refused(log(fingerprints(KEYS[:1], "ec2: ", md5), block(KEYS)), "not among its own", EvidenceRejected)


def test_more_fingerprints_than_keys() -> None:
    """cloud-init leaves DSA keys out of the block, and not their fingerprints."""
    dsa = key("ssh-dss", *[b"\1" * 128] * 4)
    assert console.host_keys(log(fingerprints([dsa, *KEYS]), block(KEYS))) == KEYS


@pytest.mark.parametrize("data", [b"", b"\n", log(), log(fingerprints(KEYS)), log(INSIDE)])
def test_no_block(data: bytes) -> None:
    """Without a block there is nothing, also where keys or fingerprints stand in the log."""
    assert "emit_keys_to_console" in refused(data, "no SSH host keys in this console log")


CUT = {
    "no-end": [BEGIN, *INSIDE],
    "no-begin": [*INSIDE, END],
    "begins-twice": [BEGIN, *INSIDE, *block(KEYS)],
    "ends-twice": [*block(KEYS), *INSIDE, END],
    "end-by-another": [BEGIN, *INSIDE, LOGGER + END],
    "end-in-a-line": [BEGIN, *INSIDE, END + "[   19.301122] EXT4-fs"],
    "fingerprints-no-end": [*fingerprints(KEYS)[:-2], *block(KEYS)],
    "fingerprints-no-begin": [*fingerprints(KEYS)[2:], *block(KEYS)],
}


@pytest.mark.parametrize("name", CUT)
def test_truncated(name: str) -> None:
    """A block that has only one of its markers was cut off, and a whole one beside it does not help."""
    assert "get-console-output --latest" in refused(log(CUT[name]), "is cut off")


def test_every_truncation() -> None:
    """No beginning of a log has other keys than the whole, and none but the last few has any."""
    data = "\r\n".join(HONEST).encode()
    whole = data.rindex(b"-----") + 5
    for size in range(len(data)):
        found: tuple[SshKey, ...] = ()
        with contextlib.suppress(HandfastError):
            found = console.host_keys(data[:size])
        assert found == (KEYS if size >= whole else ())


CUT_UP = {
    "in-base64": INSIDE[0][:100] + "[   19.301122] EXT4-fs",
    "after-the-type": "ssh-rsa [   19.301122] EXT4-fs",
    "line-feed": INSIDE[0][:103] + "\n" + INSIDE[0][103:],
    "whole-base64-of-a-part": INSIDE[0][: 8 + 200],
    "another-type": INSIDE[1].replace("ssh-ed25519", "ssh-rsa"),
    "glued": "EXT4-fsssh-ed25519 AAAAC3NzaC1lZDI1NTE5",
    "certificate": str(SshKey("ssh-ed25519-cert-v01@openssh.com", MALLORY.blob)),
}


@pytest.mark.parametrize("name", CUT_UP)
def test_cut_up(name: str) -> None:
    """A line that begins like a key and is none, or part of one, lets nothing of its block be believed."""
    refused(log([BEGIN, *INSIDE, CUT_UP[name], END]), "is cut up by other output: ")


def test_how_many() -> None:
    """A block without keys, or with more than a machine has, is refused."""
    refused(log([BEGIN, END]), "a block of 0 SSH host keys")
    refused(log(block([ed25519_key(number) for number in range(MAX_KEYS + 1)])), f"a block of {MAX_KEYS + 1} SSH")
    assert len(console.host_keys(log(block([ed25519_key(number) for number in range(MAX_KEYS)])))) == MAX_KEYS


def test_too_long() -> None:
    """A log beyond what any cloud keeps is not read."""
    refused(bytes(console.MAX_LOG + 1), "at most", TooMuch)


@pytest.mark.parametrize(
    "second", [block([MALLORY]), block(KEYS[:2]), block([*KEYS, MALLORY]), block([MALLORY], LOGGER)]
)
def test_attack_a_second_block(second: list[str]) -> None:
    """Whoever adds a block of his own, before or after, has no key believed: both are refused with a sentence."""
    marked = [f"{line} x" if line in (second[0], second[-1]) else line for line in second]  # text behind a marker
    assert console.host_keys(log(marked, HONEST)) == KEYS
    for parts in ((HONEST, second), (second, HONEST)):
        hint = refused(log(*parts), "2 blocks of SSH host keys that differ", EvidenceRejected)
        assert "somebody wrote into its console" in hint


def test_the_same_block_twice() -> None:
    """A block that is there twice, in whatever order, says one thing."""
    assert console.host_keys(log(HONEST, block(KEYS[::-1]))) == KEYS


# What reaches the console behind a prefix that its writer has not chosen: text in names, passwords, URLs, devices.
QUOTING = {
    "sshd": "Nov 22 11:19:58 vm1 sshd[700]: Invalid user {} from 192.0.2.66 port 4711",
    "at-the-end": "Nov 22 11:19:58 vm1 app[700]: {}",
    "a-tag-in-the-text": "Nov 22 11:19:58 vm1 app[700]: cloud-init[612]: {}",
    "a-line-in-the-text": "Nov 22 11:19:58 vm1 app[700]: [   19.2] cloud-init[612]: {}",
    "kernel": "[   19.301122] usb 1-1: Product: {}",
    "getty": "vm1 login: {}",
    "behind-a-carriage-return": "vm1 login: \r{}",
    "behind-a-vertical-tab": "vm1 login: \v{}",
    "behind-another-line-end": "vm1 login: \x85{}",
    "tag-alike": "cloud-initx: {}",
    "tag-of-a-host-without-time": "vm1 cloud-init[612]: {}",
    "in-quotes": '"{}"',
    "indented": " {}",
    "lower-case-date": "nov 22 11:19:58 cloud-init: {}",
}


@pytest.mark.parametrize("name", QUOTING)
def test_attack_quoted_text(name: str) -> None:
    """A whole block in text that some program quotes is no block, and in the middle of the true one adds no key."""
    quoted = [QUOTING[name].format(line) for line in block([MALLORY])]
    refused(log(quoted), "no SSH host keys")
    with contextlib.suppress(Malformed):
        assert console.host_keys(log([BEGIN, INSIDE[0], *quoted, *INSIDE[1:], END])) == KEYS


@pytest.mark.parametrize(
    "prefix", [LOGGER, "ec2: ", "[   19.3] ", "[   19.3] cloud-init[613]: ", "Nov 22 11:19:58 vm1 cloud-init: "]
)
def test_attack_a_key_from_another_writer(prefix: str) -> None:
    """A key line that another process gets into the true block does not count: it has not begun it."""
    own = "[   19.3] cloud-init[612]: "
    assert console.host_keys(log([BEGIN, *INSIDE, f"{prefix}{MALLORY}", END])) == KEYS
    lines = block(KEYS, own)
    assert console.host_keys(log([*lines[:2], f"{prefix}{MALLORY}", *lines[2:]])) == KEYS
    assert console.host_keys(log([*lines[:2], str(MALLORY), *lines[2:]])) == KEYS


def test_attack_a_key_in_the_block() -> None:
    """Who writes to the console itself, and hits the block, is betrayed by the fingerprints; if there are any."""
    hit = [BEGIN, str(MALLORY), *INSIDE, END]
    refused(log(fingerprints(KEYS), hit), re.escape(f"has the key {MALLORY.fingerprint}, which"), EvidenceRejected)
    assert MALLORY in console.host_keys(log(hit))


def test_attack_false_fingerprints() -> None:
    """Fingerprints of his own do not help him: every block of them has to have every key."""
    hit = [BEGIN, str(MALLORY), *INSIDE, END]
    for parts in (
        (fingerprints([MALLORY]), fingerprints(KEYS), hit),
        (fingerprints([*KEYS, MALLORY]), hit, fingerprints(KEYS)),
    ):
        refused(log(*parts), "not among its own fingerprints", EvidenceRejected)


@pytest.mark.parametrize(
    "hidden", ["\x1b]0;", "\x1bP", "\x1b[8m", "\x1b_", "\x1bX", "\x1b", "\x9d", "\x08" * 40, "\x1b[2J"]
)
def test_attack_hidden_by_escapes(hidden: str) -> None:
    """What a terminal would hide, swallow or overwrite hides nothing from us: no sequence reaches over its line."""
    assert console.host_keys(log([hidden], HONEST)) == KEYS
    refused(log([f"x{hidden}"], HONEST, block([MALLORY])), "differ", EvidenceRejected)


def test_attack_no_time_is_lost() -> None:
    """A log of the greatest size, made to be slow, is read in the time that its size takes."""
    for line in (
        b"[ 1.1] ",
        b"<1>",
        b"\x1b[",
        b"\x1b]",
        b"cloud-init: ",
        b"A" * 64 + b" ",
        b"aa:" * 15,
        b"ssh-",
        b"\n",
    ):
        with contextlib.suppress(HandfastError):
            console.host_keys(line * (1024 * 1024 // len(line)))


@given(st.binary())
def test_anything(data: bytes) -> None:
    """Any bytes are refused with an error of ours."""
    with pytest.raises(HandfastError):
        console.host_keys(data)


PIECES = st.sampled_from(
    [*HONEST, *BOOT, *NOISE, *block([MALLORY]), LOGGER, "\r", "\x1b[0m", BEGIN[:20], INSIDE[0][:90]]
)


@given(st.lists(PIECES | st.text(max_size=5)), st.sampled_from(["\n", "\r\n", ""]))
def test_pieces(pieces: list[str], end: str) -> None:
    """So is any log of true and false pieces, or it has keys that stand in it."""
    with contextlib.suppress(HandfastError):
        assert set(console.host_keys(end.join(pieces).encode())) <= {*KEYS, MALLORY}


@given(st.integers(0, len("\n".join(HONEST))), st.text() | st.builds("\n{}\n".format, PIECES))
def test_whatever_is_put_in(place: int, text: str) -> None:
    """Whatever is written anywhere into an honest log: no key is believed that cloud-init has not printed."""
    honest = "\n".join(HONEST)
    with contextlib.suppress(HandfastError):
        assert set(console.host_keys((honest[:place] + text + honest[place:]).encode())) <= set(KEYS)
