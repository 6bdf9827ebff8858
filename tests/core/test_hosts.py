"""Machines as SSH sees them: places are spelled as ssh looks for them, and evidence has its order."""

from __future__ import annotations

import contextlib
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handfast.core import hosts, knownhosts
from handfast.core.hosts import MAX_PLACES, Grade, Host, HostKey, How, Place, RetiredKey, spelling, superseded
from handfast.core.sshkeys import SshKey
from handfast.errors import HandfastError, Malformed
from tests.core.sshmaterial import ed25519_key, key, keygen, signer

AT = datetime(2026, 11, 22, tzinfo=UTC)


def test_every_way_has_a_grade_and_words() -> None:
    """For each way in which a key became known it is said what that is worth, and in words."""
    assert set(hosts._GRADES) == set(hosts._WORDS) == set(How)
    assert len({how.words for how in How}) == len(How)
    for how in How:
        assert how.grade in Grade
        assert how.words[0].islower()


def test_order_of_grades() -> None:
    """A scan proves nothing, a report is better, a signature by the key best; only a scan is merely seen."""
    assert Grade.SEEN < Grade.REPORTED < Grade.PROVED
    assert [how for how in How if how.grade is Grade.SEEN] == [How.SCAN]
    assert {how for how in How if how.grade is Grade.PROVED} == {
        How.INVITATION,
        How.RENEWAL,
        How.REINTRODUCTION,
        How.BUCKET,
        How.HOSTKEYS_PROVE,
        How.X5C,
    }


def test_place_is_parsed_to_one_form() -> None:
    """Names and addresses are told apart, folded, sorted, and there once."""
    place = Place.parse(
        ["Web1.LAN.", "web1.lan", "192.0.2.7", "2001:DB8::0007", "10.0.0.1"],
        aliases=["Web", "web"],
        ports=(2222, 22, 22),
    )
    assert place.names == ("web1.lan",)
    assert [str(each) for each in place.addresses] == ["10.0.0.1", "192.0.2.7", "2001:db8::7"]
    assert place.aliases == ("web",)
    assert place.ports == (22, 2222)
    assert Place.parse([]) == Place()
    assert Place().ports == (22,)


@pytest.mark.parametrize(
    "text", ["", "*", "a b", "web1,web2", "fe80::1%eth0", "10.0.0.0/24", "1.2.3", "a_b", "[::1]", "é", "a\n"]
)
def test_bad_place(text: str) -> None:
    """What is neither a name nor an address is refused: in a file it would mean something else."""
    with pytest.raises(Malformed) as caught:
        Place.parse([text])
    assert caught.value.hint


@pytest.mark.parametrize("alias", ["", "*", "a b", "-a", "!a", "a,b", "a..b", "|1|a", "@a", "é", "a\n"])
def test_bad_alias(alias: str) -> None:
    """An alias is a word that cannot be anything else in ssh's files."""
    with pytest.raises(Malformed, match="not a machine name"):
        Place.parse([], aliases=[alias])


@pytest.mark.parametrize("port", [0, -1, 65536])
def test_bad_port(port: int) -> None:
    """A port is 1 to 65535."""
    with pytest.raises(Malformed, match=f"not a port: {port}"):
        Place.parse([], ports=(22, port))


def test_too_many_places() -> None:
    """A machine that has more names than anybody needs is somebody filling our disk."""
    names = [f"web{number}.lan" for number in range(MAX_PLACES)]
    assert len(Place.parse(names).names) == MAX_PLACES
    for places, aliases, ports in (
        ([*names, "192.0.2.1"], [], ()),
        (names, ["web"], ()),
        ([], [], tuple(range(1, MAX_PLACES + 2))),
    ):
        with pytest.raises(Malformed, match=f"over {MAX_PLACES}"):
            Place.parse(places, aliases=aliases, ports=ports)


def test_spelling() -> None:
    """The port of SSH is not written, any other is, in brackets."""
    assert spelling("web1", 22) == "web1"
    assert spelling("web1", 2222) == "[web1]:2222"
    assert spelling("2001:db8::7", 22) == "2001:db8::7"
    assert spelling("2001:db8::7", 2222) == "[2001:db8::7]:2222"


def test_spellings() -> None:
    """The machine's own name is there bare, whatever its port, since that is what HostKeyAlias looks for."""
    place = Place.parse(["web1.lan", "192.0.2.7"], aliases=["web1"], ports=(2222,))
    assert place.spellings("web1") == ("web1", "[web1]:2222", "[web1.lan]:2222", "[192.0.2.7]:2222")
    assert Place().spellings("web1") == ("web1",)


@pytest.mark.peer("ssh-keygen")
def test_spelling_of_ssh(tmp_path: Path) -> None:
    """A machine's spellings are what ssh-keygen looks for, addresses in the form in which ssh has them."""
    place = Place.parse(["2001:DB8:0::7", "::ffff:192.0.2.7"], ports=(22, 2222))
    file = tmp_path / "known_hosts"
    file.write_text("".join(f"{line}\n" for line in knownhosts.lines(place.spellings("web1"), [ed25519_key(1)])))
    for each in ("web1", "2001:db8::7", "[2001:db8::7]:2222", "WEB1"):
        assert keygen("-F", each, "-f", file).returncode == 0, each


def of(*keys: tuple[SshKey, How]) -> Host:
    """A machine with these keys."""
    return Host("web1", Place(), tuple(HostKey(key, how, "", AT) for key, how in keys))


def test_believed() -> None:
    """Only keys that are known well enough are believed; one that became known twice counts by its best, once."""
    one, two, three = sorted((signer("ed25519").public, signer("p256").public, signer("p384").public))
    host = of((three, How.SCAN), (two, How.CONSOLE), (one, How.SCAN), (one, How.INVITATION), (two, How.OPERATOR))
    assert host.believed(Grade.SEEN) == (one, two, three)
    assert host.believed(Grade.REPORTED) == (one, two)
    assert host.believed(Grade.PROVED) == (one,)
    assert host.grade is Grade.PROVED
    assert of((one, How.SCAN)).grade is Grade.SEEN


def test_a_machine_without_keys() -> None:
    """A machine that was removed has no grade and nothing to believe, whatever keys it had."""
    host = Host("web1", Place(), (), (RetiredKey(ed25519_key(1), AT, "removed"),))
    assert host.grade is None
    assert host.believed(Grade.SEEN) == ()


def test_a_new_machine() -> None:
    """A machine begins with a place or with a key, whichever is known first, and keeps one when the other comes."""
    place, known = Place.parse(["web1.lan"]), HostKey(ed25519_key(1), How.CONSOLE, "", AT)
    assert hosts.described(None, "web1", place) == Host("web1", place, ())
    assert hosts.with_key(None, "web1", known) == Host("web1", Place(), (known,))
    both = Host("web1", place, (known,))
    assert hosts.with_key(hosts.described(None, "web1", place), "web1", known) == both
    assert hosts.described(hosts.with_key(None, "web1", known), "web1", place) == both
    assert hosts.described(both, "web1", Place()).keys == (known,)


def test_keys_in_whatever_order() -> None:
    """The order in which keys became known leaves no trace: the audit compares what it folds with the tables."""
    reasons = [HostKey(ed25519_key(number), how, "", AT) for number in (1, 2) for how in (How.SCAN, How.INVITATION)]
    for first, *others in (reasons, reasons[::-1]):
        host = hosts.with_key(None, "web1", first)
        for each in others:
            host = hosts.with_key(host, "web1", each)
        assert host.keys == of(*((each.key, each.how) for each in host.keys)).keys
        assert [(each.key, each.how) for each in host.keys] == [
            (ed25519_key(number), how) for number in (1, 2) for how in (How.INVITATION, How.SCAN)
        ]


def test_a_key_goes_and_comes_back() -> None:
    """A retired key loses every reason to believe it; one that comes back is not retired any more."""
    one, two = ed25519_key(1), ed25519_key(2)
    host = of((one, How.SCAN), (one, How.INVITATION), (two, How.CONSOLE))
    gone = RetiredKey(one, AT, "superseded")
    without = hosts.without_key(host, gone)
    assert [each.key for each in without.keys] == [two]
    assert without.retired == (gone,)
    assert without.believed(Grade.SEEN) == (two,)
    back = hosts.with_key(without, "web1", HostKey(one, How.OPERATOR, "", AT))
    assert back.retired == ()
    assert back.believed(Grade.REPORTED) == (one, two)


def test_a_place_that_another_machine_has_got() -> None:
    """Names, addresses and aliases that went to another machine are gone, the rest and the ports are not."""
    place = Place.parse(["web1.lan", "db.lan", "192.0.2.7", "2001:db8::7"], aliases=["web", "db"], ports=(2222,))
    rest = hosts.without_hosts(place, frozenset({"db.lan", "192.0.2.7", "db", "nobody"}))
    assert rest == Place.parse(["web1.lan", "2001:db8::7"], aliases=["web"], ports=(2222,))
    assert hosts.without_hosts(place, frozenset()) == place


@given(st.lists(st.text(max_size=40)), st.lists(st.text(max_size=20)), st.lists(st.integers()))
def test_any_place(places: list[str], aliases: list[str], ports: list[int]) -> None:
    """Any place is refused with an error of ours, or all its spellings may stand in a known_hosts file."""
    with contextlib.suppress(HandfastError):
        place = Place.parse(places, aliases=aliases, ports=tuple(ports))
        assert knownhosts.lines(place.spellings("web1"), [ed25519_key(1)])


@given(
    st.lists(st.ip_addresses().map(str) | st.from_regex(r"[a-z]{1,9}\.lan", fullmatch=True), max_size=9),
    st.lists(st.integers(1, 65535), min_size=1, max_size=3),
)
def test_any_good_place(places: list[str], ports: list[int]) -> None:
    """Every name and address is spelled for every port, as a known_hosts file may have it."""
    place = Place.parse(places, ports=tuple(ports))
    spellings = place.spellings("web1")
    known = [*place.names, *map(str, place.addresses)]
    assert {spelling(host, port) for host in known for port in ports} <= set(spellings)
    assert knownhosts.lines(spellings, [ed25519_key(1)])


def test_a_complete_set_supersedes() -> None:
    """What is not in it retires; but a renewal says nothing of keys that cannot sign for themselves."""
    mldsa, old, new = key("ssh-mldsa-44@openssh.com", bytes(1312)), key("ssh-ed25519", b"1" * 32), key("ssh-rsa", b"2")
    host = Host("m", Place(), tuple(HostKey(each, How.HOSTKEYS_PROVE, "", AT) for each in (mldsa, old)))
    for how in How:
        same = how in {How.RENEWAL, How.REINTRODUCTION}
        assert superseded(host, [new], how) == ((old,) if same else tuple(sorted((mldsa, old))))
        assert superseded(host, [mldsa, old], how) == superseded(None, [new], how) == ()
