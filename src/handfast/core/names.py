"""
The names a certificate may carry: DNS names and IP addresses, parsed once and compared exactly.

Machine names follow the DNS preferred syntax (RFC 1123 §2.1) or a single label; they become the
last segment of a SPIFFE ID. Names are ASCII: an internationalised name is given in its A-label
form (``xn--…``), so that two names that look alike never compare equal.
"""

from __future__ import annotations

import ipaddress
import re
from dataclasses import dataclass

from handfast.errors import Malformed

IPAddress = ipaddress.IPv4Address | ipaddress.IPv6Address
IPNetwork = ipaddress.IPv4Network | ipaddress.IPv6Network

MAX_NAMES = 64  # names in one certificate; more is somebody filling our disk
_LABEL = r"[a-z0-9](?:[a-z0-9-]{0,61}[a-z0-9])?"
_DNS = re.compile(rf"{_LABEL}(?:\.{_LABEL})*")
_MACHINE = re.compile(r"[a-z0-9](?:[a-z0-9._-]{0,251}[a-z0-9])?")


def dns_name(text: str) -> str:
    """
    Return ``text`` as a lower-case DNS name without a trailing dot.

    :raises Malformed: wildcards, underscores, empty labels, over 253 characters, not ASCII.
    """
    name = text.lower().removesuffix(".")
    if not text.isascii():  # before lower() counts, which makes a k of the Kelvin sign
        hint = "an internationalized name is written in its ASCII form: xn--…"
        raise Malformed(f"not a DNS name: {text[:80]!r}", hint=hint)
    if len(name) > 253 or not _DNS.fullmatch(name):
        raise Malformed(f"not a DNS name: {text[:80]!r}", hint="use letters, digits, hyphens and dots; no wildcard")
    if name.rsplit(".", 1)[-1].isdigit():
        # RFC 1123 §2.1: an all-numeric last label could be read as an IPv4 address.
        raise Malformed(f"not a DNS name: {text[:80]!r} ends in a number", hint="give an IP address in full")
    return name


def machine_name(text: str) -> str:
    """
    Return ``text`` as a machine's name: 1 to 253 of ``a-z 0-9 . _ -``, starting and ending alphanumeric.

    :raises Malformed: anything else; upper case is folded.
    """
    name = text.lower()
    if not text.isascii() or not _MACHINE.fullmatch(name) or ".." in name:
        raise Malformed(
            f"not a machine name: {text[:80]!r}", hint="use 1 to 253 of a-z, 0-9, dot, underscore and hyphen"
        )
    return name


def ip_address(text: str) -> IPAddress:
    """
    Return an IP address.

    :raises ValueError: none, or one with a zone (``fe80::1%eth0``), which means something on one machine only.
    """
    if "%" in text:
        raise ValueError(text)
    return ipaddress.ip_address(text)


def network(text: str) -> IPNetwork:
    """Return a CIDR network; host bits must be zero, so that a typo is not widened silently."""
    try:
        if "%" in text:
            raise ValueError("a zone means something on one machine only")
        return ipaddress.ip_network(text, strict=True)
    except ValueError as error:
        raise Malformed(
            f"not a network: {text[:80]!r} ({error})", hint="write it as 10.0.0.0/24 or fd00::/64"
        ) from None


@dataclass(frozen=True, slots=True)
class Names:
    """A set of DNS names and IP addresses, sorted, without duplicates. Build one with ``parse``."""

    dns: tuple[str, ...] = ()
    ips: tuple[IPAddress, ...] = ()

    @classmethod
    def parse(cls, texts: list[str] | tuple[str, ...]) -> Names:
        """
        Read names as a person writes them: an IP address if it parses as one, else a DNS name.

        :raises Malformed: a name that is neither.
        :raises Malformed: more than ``MAX_NAMES`` names.
        """
        if len(texts) > MAX_NAMES:
            raise Malformed(f"{len(texts)} names, at most {MAX_NAMES} are allowed", hint="use several machines")
        dns: set[str] = set()
        ips: set[IPAddress] = set()
        for text in texts:
            try:
                ips.add(ip_address(text))
            except ValueError:
                dns.add(dns_name(text))
        return cls(tuple(sorted(dns)), tuple(sorted(ips, key=lambda ip: (ip.version, int(ip)))))

    def beyond(self, allowed: Names) -> tuple[str, ...]:
        """Return what is here and not in ``allowed``; empty when this is a subset."""
        return tuple(n for n in self.texts() if n not in set(allowed.texts()))

    def texts(self) -> tuple[str, ...]:
        """All names as text, DNS first."""
        return (*self.dns, *(str(ip) for ip in self.ips))

    def __bool__(self) -> bool:
        return bool(self.dns or self.ips)


@dataclass(frozen=True, slots=True)
class NamePattern:
    """Which names an operator allows: a DNS name in which ``*`` stays within one label, or a network."""

    dns: str | None = None
    network: IPNetwork | None = None

    @classmethod
    def parse(cls, text: str) -> NamePattern:
        """
        Read ``*.nifi.lan``, ``node1.lan``, ``10.0.0.0/24`` or ``10.0.0.7``.

        :raises Malformed: neither a name nor a network.
        """
        try:
            return cls(network=network(text))
        except Malformed:
            dns_name(text.replace("*", "x"))
            return cls(dns=text.lower().removesuffix("."))

    def allows(self, name: str | IPAddress) -> bool:
        """Whether a name as in ``Names`` fits."""
        if isinstance(name, str):
            return self.dns is not None and label_match(name, self.dns)
        return self.network is not None and name in self.network


def label_match(value: str, pattern: str) -> bool:
    """Whether a dotted name fits a pattern in which ``*`` stays within one label; case does not count."""
    values, patterns = value.split("."), pattern.split(".")
    return len(values) == len(patterns) and all(map(text_match, values, patterns))


def text_match(value: str, pattern: str, *, any_one: str = "") -> bool:
    """
    Whether a text fits a pattern in which ``*`` is any text, and nothing else is special; case does not count.

    Nothing else but the character ``any_one``, where there is one, which stands for any one character.
    """
    first, *others = pattern.casefold().split("*")
    rest = value.casefold()
    if not others:
        return len(rest) == len(first) and _place(rest, first, any_one) == 0
    last = len(rest) - len(others[-1])
    if last < len(first) or _place(rest[: len(first)], first, any_one) or _place(rest[last:], others[-1], any_one):
        return False
    rest = rest[len(first) : last]
    for part in filter(None, others[:-1]):  # the leftmost that fits leaves the most for the others: nothing is retried
        place = _place(rest, part, any_one)
        if place < 0:
            return False
        rest = rest[place + len(part) :]
    return True


def _place(text: str, part: str, any_one: str) -> int:
    """Return where a part without stars first stands in a text; -1 where it does not."""
    if not any_one or any_one not in part:
        return text.find(part)
    for place in range(len(text) - len(part) + 1):
        if all(wanted in (any_one, found) for wanted, found in zip(part, text[place:], strict=False)):
            return place
    return -1
