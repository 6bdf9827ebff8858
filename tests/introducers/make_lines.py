"""The invitation lines of vectors/, spelled from docs/protocols and not from ``handfast.core.invitation``."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterator

from handfast.core.invitation import PREFIX
from tests.introducers import vectors
from tests.introducers.stage import LINE


def a_line(where: str = "registrar.lan:7443", *, version: int = 1, flags: int = 0) -> str:
    """The line of ``stage.LINE``, spelled here."""
    times = b"".join(int(time.timestamp()).to_bytes(4, "big") for time in (LINE.not_before, LINE.not_after))
    body = bytes([version, flags]) + times + LINE.seed.reveal() + LINE.pin
    checksum = hashlib.sha256(body + where.encode()).digest()[:4]
    return f"{PREFIX}{base64.urlsafe_b64encode(body + checksum).decode()}@{where}"


def lines() -> Iterator[tuple[str, vectors.LineVector]]:
    """Good ones and bad ones."""
    plain = a_line()
    several = ["registrar.lan:7443", "192.0.2.1:443", "[2001:db8::1]:7443"]
    yield "plain", _line("one address by name", plain, ["registrar.lan:7443"])
    yield "several-addresses", _line("a name, IPv4 and IPv6, in the order to try", a_line(",".join(several)), several)
    yield "white-space-around", _line("what a terminal adds is ignored", f"  {plain}\r\n", ["registrar.lan:7443"])
    bad = {
        "typo-in-the-secret": ("one character changed", plain[:40] + ("A" if plain[40] != "A" else "B") + plain[41:]),
        "typo-in-the-address": ("the checksum covers the address", plain.replace("registrar", "registar")),
        "typo-in-the-port": ("and the port", plain.replace(":7443", ":7433")),
        "cut": ("the last character was not copied", plain[:-1]),
        "broken-in-two": ("a line feed in the middle", plain[:60] + "\n" + plain[60:]),
        "twice": ("pasted twice", plain + plain),
        "empty": ("nothing", ""),
        "something-else": ("another tool's token", "SWMTKN-1-abc-def"),
        "other-prefix": ("the prefix of another version", plain.replace("handfast1_", "handfast2_")),
        "version-2": ("a version that this one does not read, checksum and all", a_line(version=2)),
        "flags": ("flags that this one does not know", a_line(flags=1)),
        "no-port": ("an address without a port, checksum and all", a_line("registrar.lan")),
        "port-0": ("port 0", a_line("registrar.lan:0")),
        "bare-ipv6": ("IPv6 without brackets", a_line("2001:db8::1:7443")),
        "five-addresses": ("more addresses than allowed", a_line("a:1,b:1,c:1,d:1,e:1")),
        "no-address": ("an empty address between two", a_line("a:1,,b:1")),
    }
    for name, (describes, line) in bad.items():
        yield name, vectors.LineVector(describes=describes, outcome="invitation-invalid", line=line, reads=None)


def _line(describes: str, line: str, addresses: list[str]) -> vectors.LineVector:
    read = vectors.Read(
        key_id=hashlib.sha256(LINE.public_key()).hexdigest()[:16],
        public_key=LINE.public_key(),
        seed=LINE.seed.reveal(),
        pin=LINE.pin,
        not_before=LINE.not_before,
        not_after=LINE.not_after,
        addresses=addresses,
    )
    return vectors.LineVector(describes=describes, outcome="success", line=line, reads=read)
