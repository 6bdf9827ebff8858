"""The same command line ends with the same code as the real toolkit's: both are run."""

from __future__ import annotations

import pytest

from tests.interop.hosts import HANDFAST, Network
from tests.interop.nifi_toolkit import Toolkit

pytestmark = [pytest.mark.root, pytest.mark.slow, pytest.mark.peer("ip", "nifi-toolkit-1.28.1")]
TOKEN = ("-t", "7vTc0qJmR2kXwZ8yLbN4")
STATUS = ("status", "-u", "https://localhost:1")

LINES: list[tuple[str, ...]] = [
    (),
    ("-h",),
    ("bogus",),
    ("client", "-h"),
    ("CLIENT", "--help"),
    ("client",),
    ("client", "-t", ""),
    ("client", "-t", "short"),
    ("client", "-F", "-t", "short"),
    ("client", "-F"),
    ("client", "-t"),
    ("client", "-t", "-F"),
    ("client", "--bogus"),
    ("client", "-h", "--bogus"),
    ("client", "-s", "x", *TOKEN),
    ("client", "-d", "3", *TOKEN),
    ("client", "-F=yes", *TOKEN),
    ("client", "--c", "x", *TOKEN),
    ("client", "-PORT1", *TOKEN),
    ("client", *TOKEN, "-k", "abc"),
    ("client", *TOKEN, "-p", "abc"),
    ("client", *TOKEN, "-p", "99999"),
    ("client", *TOKEN, "-p", "1", "-p", "abc"),
    ("client", "-gFp", "1", *TOKEN),
    ("client", "--tok", TOKEN[1], "--PO=1"),
    ("client", f"-token={TOKEN[1]}", "-PORT", "1", "stray", "--", "-bogus"),
    ("client", *TOKEN, "-D", "garbage"),
    ("client", *TOKEN, "-D", "OU=x"),
    ("client", *TOKEN, "-T", "bogus", "-p", "1"),
    ("client", *TOKEN, "-k", "100", "-p", "1"),
    ("client", *TOKEN, "--subjectAlternativeNames", "a[3-"),
    ("client", "--configJsonIn", "nope"),
    ("server", "-h"),
    ("server",),
    ("server", *TOKEN, "-d", "abc"),
    ("standalone", "-h"),
    ("standalone", "-n", "n[1-"),
    ("standalone", "-k", "x"),
    ("standalone", "-C", "CN=a", "-C", "CN=b", "-C", "CN=c", "-B", "one", "-B", "two"),
    ("standalone", "-n", "a,b,c", "-S", "password-one", "-S", "password-two"),
    ("standalone", "-n", "a", "-f", "nope"),
    ("standalone", "-C", "garbage"),
    ("standalone", "--splitKeystore", "nope"),
    ("standalone", "--splitKeystore", "nope", "-S", "password"),
    ("status", "-h"),
    ("status",),
    ("status", "-u", ""),
    ("status", "-u", ":bad", "-ts", "x"),
    STATUS,
    (*STATUS, "-ts", "nope", "-tsp", "x", "-tst", "JKS"),
    (*STATUS, "-ks", "x", "-kst", "JKS", "-ksp", "x"),
]


@pytest.mark.timeout(300)
def test_the_codes_are_the_real_ones(net: Network) -> None:
    """Where the original ends with a mistake, and where it gives help."""
    toolkit, wait = Toolkit("1.28.1", net.office, {}), ("--wait", "0")
    (net.office.directory / "ours").mkdir()
    ours, theirs = {}, {}
    for line in LINES:
        theirs[line] = toolkit.run("theirs", *line, code=None).code
        more = wait if "-p" in line or "-PORT" in line or "--PO=1" in line else ()
        command = (*HANDFAST, "tls-toolkit", *line[:1], *more, *line[1:])
        ours[line] = net.office.run("sh", "-c", 'cd "$0" && exec "$@"', "ours", *command, code=None).code
    assert ours == theirs
