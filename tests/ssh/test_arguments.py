"""ssh's command line: where the destination is and where the options end, as ssh itself sees it."""

from __future__ import annotations

import subprocess

import pytest

from handfast.ssh.arguments import host_of, read
from tests.peers import find

# (arguments, host, index at which a further option is the last one that ssh reads)
LINES = [
    (["h"], "h", 1),
    (["u@h", "ls", "-p", "9"], "h", 1),
    (["-p", "2222", "h"], "h", 3),
    (["-tp2222", "h", "x"], "h", 2),
    (["-tp", "2222", "h", "x"], "h", 3),
    (["-4TvvJ", "u@j:22,k", "h"], "h", 3),
    (["-Jj", "-l", "h", "i"], "i", 4),
    (["h", "-p", "2222", "ls"], "h", 3),
    (["h", "-tt", "-oPort=1", "--", "-p", "1"], "h", 3),
    (["h", "--", "-p", "1"], "h", 1),
    (["--", "h", "-p", "1"], "h", 0),
    (["-v", "--", "h", "-p", "1"], "h", 1),
    (["-o", "--", "h", "-p", "1"], "h", 1),  # ssh looks at the word alone, not at what it was for
    (["-W", "a:22", "h"], "h", 3),
    (["-F/dev/null", "-o", "ProxyCommand=ssh j -W %h:%p", "h", "a", "b"], "h", 4),
    (["ssh://u@h:2222", "-T"], "h", 2),
    (["ssh://h"], "h", 1),
    (["u@x@h"], "h", 1),
    (["-S", "/tmp/s", "-O", "check", "h"], "h", 5),
    (["-e", "none", "-E/dev/null", "h"], "h", 4),
    (["fe80::1"], "fe80::1", 1),
]
NOBODY = [([], 0), (["-V"], 1), (["-p", "22"], 2), (["-p"], 1), (["--"], 0), (["-t", "--"], 1)]


@pytest.mark.parametrize(("line", "host", "end"), LINES)
def test_the_destination_is_found(line: list[str], host: str, end: int) -> None:
    """Whatever the form of the options before and behind it."""
    found = read(line)
    assert (found.host, found.end) == (host, end)


@pytest.mark.parametrize(("line", "end"), NOBODY)
def test_without_a_destination_there_is_none(line: list[str], end: int) -> None:
    """Where ssh would print its version or its usage, nobody is meant."""
    found = read(line)
    assert (found.destination, found.host, found.end) == (None, None, end)


@pytest.mark.peer("ssh")
@pytest.mark.parametrize(("line", "host", "end"), LINES)
def test_ssh_sees_the_same(line: list[str], host: str, end: int) -> None:
    """`ssh -G` names the same host, and an option that is put in where we say is one to ssh, and its last."""
    ssh = find("ssh")
    assert ssh is not None
    marked = [*line[:end], "-S", "/marked", *line[end:]]
    for arguments in (line, marked):
        printed = subprocess.run(
            [ssh, "-G", "-F", "/dev/null", *arguments] if "-F/dev/null" not in line else [ssh, "-G", *arguments],
            capture_output=True, text=True, check=False,
        )  # fmt: skip
        if "--" in line and line[0] == "-o":  # no option: ssh has more to say about it than where it ends
            return
        assert printed.returncode == 0, printed.stderr
        assert f"\nhostname {host}\n" in f"\n{printed.stdout}"
        assert arguments is line or "\ncontrolpath /marked\n" in printed.stdout


def test_options_are_found_wherever_they_stand() -> None:
    """Also in one word with others, and behind the destination; not in the remote command."""
    assert read(["-tS/x", "h"]).options == (("t", ""), ("S", "/x"))
    assert read(["h", "-S", "/x", "ls"]).has("S")
    assert not read(["h", "ls", "-S", "/x"]).has("S")
    assert not read(["-o", "-S", "h"]).has("S")


def test_a_destination_that_is_no_uri_is_left_as_it_is() -> None:
    """ssh is to refuse it in its own words."""
    assert host_of("ssh://[::1") == "ssh://[::1"
    assert host_of("ssh://u@[::1]:2222") == "::1"  # 9.2 refuses it, later ones may not
