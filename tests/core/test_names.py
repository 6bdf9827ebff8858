"""Names are parsed once, compared exactly, and never mean more than they say."""

from __future__ import annotations

import fnmatch
import ipaddress
import re
import time

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handfast.core.names import (
    MAX_NAMES,
    NamePattern,
    Names,
    dns_name,
    ip_address,
    label_match,
    machine_name,
    network,
    text_match,
)
from handfast.errors import Malformed

LABELS = st.from_regex(r"[a-z0-9]([a-z0-9-]{0,10}[a-z0-9])?", fullmatch=True)
DNS = st.lists(LABELS, min_size=1, max_size=4).map(lambda labels: ".".join([*labels, "lan"]))
TEXTS = st.lists(DNS | st.ip_addresses().map(str), max_size=8)


@pytest.mark.parametrize(
    ("text", "name"),
    [
        ("web1", "web1"),
        ("Web1.Example.LAN", "web1.example.lan"),
        ("web1.lan.", "web1.lan"),
        ("xn--bcher-kva.example", "xn--bcher-kva.example"),
        ("1.a", "1.a"),
        ("a" * 63 + ".b", "a" * 63 + ".b"),
    ],
)
def test_dns_names_are_folded_to_one_form(text: str, name: str) -> None:
    """Case and one trailing dot do not make another name."""
    assert dns_name(text) == name


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "*.lan",
        "a..b",
        ".a",
        "a.b..",
        "-a.lan",
        "a-.lan",
        "a_b.lan",
        "a b.lan",
        "a\n",
        "a\x00.lan",
        "bücher.example",
        "\uff57eb1.lan",  # a full-width letter, which NFKC would fold
        "\u212a8s.lan",  # the Kelvin sign, which lower() folds into k
        "10.0.0.1",
        "a.1",
        "a" * 64 + ".lan",
        "a." * 127 + "lan",
        "web1.lan/../x",
    ],
)
def test_what_is_no_dns_name_is_refused(text: str) -> None:
    """Wildcards, look-alikes, control characters and what might be an address are no names, and are repeated quoted."""
    with pytest.raises(Malformed, match="not a DNS name") as caught:
        dns_name(text)
    assert caught.value.hint
    assert repr(text[:80]) in caught.value.message


@pytest.mark.parametrize("text", ["web1", "web-1.lan", "a", "my_host", "a.b_c-d", "9"])
def test_machine_names_may_be_labels_with_underscores(text: str) -> None:
    """A machine's name need not be a DNS name."""
    assert machine_name(text.upper()) == text


@pytest.mark.parametrize(
    "text", ["", ".", "-a", "a-", "a..b", "a/b", "a b", "a%b", "ä", "\u212a8s", "a\n", "a" * 254, "a:b"]
)
def test_what_could_leave_its_spiffe_segment_is_no_machine(text: str) -> None:
    """A machine's name is one segment of a path: no slash, no dots that climb, nothing to escape."""
    with pytest.raises(Malformed, match="not a machine name"):
        machine_name(text)


@pytest.mark.parametrize("text", ["10.0.0.0/24", "fd00::/64", "192.0.2.7/32"])
def test_networks_are_read(text: str) -> None:
    """CIDR in both families."""
    assert str(network(text)) == text


@pytest.mark.parametrize("text", ["10.0.0.1/24", "10.0.0.0/33", "lan", "", "10.0.0.0/255.255.255.1", "fe80::%eth0/64"])
def test_a_network_with_host_bits_is_a_typo(text: str) -> None:
    """A network is never widened in silence."""
    with pytest.raises(Malformed, match="not a network"):
        network(text)


@pytest.mark.parametrize("text", ["fe80::1%eth0", "fe80::1%1", "1.2.3", "010.0.0.1", "", "1.2.3.4 "])
def test_an_address_with_a_zone_is_none(text: str) -> None:
    """A zone means something on one machine only, and a certificate could not carry it."""
    with pytest.raises(ValueError, match=r".*"):
        ip_address(text)
    with pytest.raises(Malformed):
        Names.parse([text])


@given(TEXTS)
def test_parsing_is_canonical(texts: list[str]) -> None:
    """The same names in any order, case and number make equal values, and their texts parse to themselves."""
    names = Names.parse(texts)
    assert Names.parse([text.upper() for text in reversed(texts)] + texts) == names
    assert Names.parse(names.texts()) == names
    assert len(set(names.texts())) == len(names.texts())
    assert bool(names) is bool(texts)


@given(TEXTS, TEXTS)
def test_beyond_is_the_set_difference(some: list[str], allowed: list[str]) -> None:
    """Nothing is within what does not name it exactly; empty allows nothing."""
    names, limit = Names.parse(some), Names.parse(allowed)
    assert set(names.beyond(limit)) == set(names.texts()) - set(limit.texts())
    assert names.beyond(Names()) == names.texts()
    assert Names().beyond(limit) == ()


def test_a_name_is_not_its_parent_or_child() -> None:
    """Names are compared whole: no suffix, no wildcard, no address in a mapped form."""
    allowed = Names.parse(["lan", "10.0.0.1"])
    assert len(Names.parse(["web1.lan", "::ffff:10.0.0.1", "10.0.0.1"]).beyond(allowed)) == 2


def test_too_many_names_are_refused_before_they_are_read() -> None:
    """Who sends ten thousand names fills no certificate."""
    assert len(Names.parse([f"h{n}.lan" for n in range(MAX_NAMES)]).dns) == MAX_NAMES
    with pytest.raises(Malformed, match="10000 names, at most 64"):
        Names.parse(["*"] * 10_000)


def test_addresses_are_sorted_by_number() -> None:
    """10.0.0.9 comes before 10.0.0.10, IPv4 before IPv6."""
    names = Names.parse(["fd00::1", "10.0.0.10", "10.0.0.9"])
    assert [ipaddress.ip_address(text) for text in names.texts()] == list(names.ips)
    assert names.texts() == ("10.0.0.9", "10.0.0.10", "fd00::1")


@pytest.mark.parametrize(
    ("pattern", "name", "allowed"),
    [
        ("node1.lan", "node1.lan", True),
        ("Node1.LAN.", "node1.lan", True),
        ("node1.lan", "node1.lan.evil", False),
        ("node1.lan", "xnode1.lan", False),
        ("node1.lan", "node1xlan", False),
        ("*.nifi.lan", "node1.nifi.lan", True),
        ("*.nifi.lan", "nifi.lan", False),
        ("*.nifi.lan", "a.node1.nifi.lan", False),
        ("*.nifi.lan", "node1.nifi.lan.evil", False),
        ("node*.lan", "node.lan", True),
        ("node*.lan", "node1.evil.lan", False),
        ("n*1.*.lan", "node1.a.lan", True),
        ("n*1.*.lan", "n1.lan", False),
        ("n**1.lan", "node1.lan", True),
        ("*", "localhost", True),
        ("*", "node1.lan", False),
        ("10.0.0.0/24", "node1.lan", False),
        ("10.0.0.*", "node1.lan", False),
    ],
)
def test_a_star_never_crosses_a_dot(pattern: str, name: str, allowed: bool) -> None:
    """Who allows `*.nifi.lan` allows neither the domain itself nor what is below another one."""
    assert NamePattern.parse(pattern).allows(dns_name(name)) is allowed


@pytest.mark.parametrize(
    ("pattern", "address", "allowed"),
    [
        ("10.0.0.0/24", "10.0.0.255", True),
        ("10.0.0.0/24", "10.0.1.0", False),
        ("10.0.0.7", "10.0.0.7", True),
        ("10.0.0.7", "10.0.0.70", False),
        ("fd00::/64", "fd00::7", True),
        ("fd00::7", "fd00::8", False),
        ("0.0.0.0/0", "fd00::7", False),
        ("0.0.0.0/0", "::ffff:10.0.0.7", False),
        ("*", "10.0.0.7", False),
        ("10.0.0.*", "10.0.0.7", False),
    ],
)
def test_addresses_are_allowed_by_networks_only(pattern: str, address: str, allowed: bool) -> None:
    """No text with stars allows an address, and IPv4 and IPv6 never allow each other."""
    assert NamePattern.parse(pattern).allows(ip_address(address)) is allowed


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "10.0.0.1/24",
        "fe80::1%eth0",
        "a..b",
        "*..lan",
        "?.lan",
        "[ab].lan",
        "a_b.lan",
        "*.bücher",
        "a b",
        "a\n",
    ],
)
def test_what_is_no_pattern_is_refused(text: str) -> None:
    """A typo in what is allowed is found when it is read, host bits and other wild cards too."""
    with pytest.raises(Malformed):
        NamePattern.parse(text)


@given(st.text("ab*.", max_size=8), st.text("ab.", max_size=8))
def test_a_star_is_any_text_and_nothing_else_is_special(pattern: str, value: str) -> None:
    """As the shell matches, where only `*` is special; within labels it is the same label by label."""
    assert text_match(value, pattern) == (re.fullmatch(fnmatch.translate(pattern), value) is not None)
    labelled = "".join("[^.]*" if one == "*" else re.escape(one) for one in pattern)
    assert label_match(value, pattern) == (re.fullmatch(labelled, value) is not None)


@pytest.mark.parametrize("special", ["?", "[a]", "a|b", ".", "\\*", "^a$", "(a)"])
def test_other_characters_stand_for_themselves(special: str) -> None:
    """What other languages of patterns have is only text here."""
    assert text_match(special, special)
    assert not text_match("a", special)


def test_matching_takes_no_time() -> None:
    """A pattern of many stars does not try everything: the time grows with the text."""
    begin = time.process_time()
    for pattern in ("*a" * 200 + "b", "*a*" * 200 + "b", "*" * 1000 + "b", "*" + "ab" * 200 + "*c"):
        assert not text_match("a" * 5000, pattern)
    assert time.process_time() - begin < 0.2
