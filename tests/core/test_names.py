"""Names are parsed once, compared exactly, and never mean more than they say."""

from __future__ import annotations

import ipaddress

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handfast.core.names import MAX_NAMES, Names, dns_name, ip_address, machine_name, network
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
