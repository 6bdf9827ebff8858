"""The snapshot: what is in it is found as ssh spells it, and nothing but the registrar's own is believed."""

from __future__ import annotations

import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from hypothesis import given
from hypothesis import strategies as st

from handfast.core.hosts import Grade, Host, How
from handfast.core.knownhosts import Speaker
from handfast.core.roles import Role
from handfast.core.vouched import Signature
from handfast.errors import Malformed, NotFound, Unreachable, Unsafe, UntrustedPeer
from handfast.ssh import launcher, snapshot
from handfast.ssh.snapshot import CONTENT_PATH, SIGNATURE_PATH, Kept
from tests.authority.helpers import NOW, Pki, grant
from tests.ssh.fleet import KEY, PKI, built, host, key, known, signed

WEB1 = host("web1", key("a"), key("b", "ssh-rsa"), places=("web1.lan", "10.0.0.1", "fd00::1"), aliases=("www",))
GIT = host("git", key("g"), places=("git.lan",), ports=(2222,), retired=(key("old"),))


def test_a_machine_is_found_by_each_of_its_spellings() -> None:
    """Name, DNS name, address and alias lead to the same machine, and it comes back as it was."""
    content = built(WEB1, GIT)
    for name in ("web1", "web1.lan", "10.0.0.1", "fd00::1", "www"):
        assert snapshot.lookup(content, name, 22) == WEB1
    assert snapshot.lookup(content, "git.lan", 2222) == GIT


def test_a_host_is_found_however_it_is_written() -> None:
    """Case, the root's dot, and the many forms of an IPv6 address do not hide a machine."""
    content = built(WEB1)
    for name in ("WEB1.lan", "web1.LAN.", "fd00:0:0::1", "FD00:0000::0001", "::ffff:10.0.0.1"):
        assert snapshot.lookup(content, name, 22) == WEB1


def test_another_port_is_another_place() -> None:
    """A name at a port that is not the machine's is nobody's; but its own name is itself at every port."""
    content = built(WEB1, GIT)
    assert snapshot.lookup(content, "git.lan", 22) is None
    assert snapshot.lookup(content, "web1.lan", 2222) is None
    assert snapshot.lookup(content, "www", 2222) is None
    assert snapshot.lookup(content, "web1", 2222) == WEB1
    assert snapshot.lookup(content, "git", 22) == GIT


@pytest.mark.parametrize(
    "name", ["", "web", "web10", "web1\tx", "\n", "web1\n", "*", "-oProxyCommand=id", "ü", "web1 ", "\0", "x" * 100_000]
)
def test_a_hostile_name_finds_nothing(name: str) -> None:
    """What is no machine's spelling is not found, whatever characters it has."""
    assert snapshot.lookup(built(WEB1, GIT), name, 22) is None


def test_an_empty_registry_is_a_snapshot_too() -> None:
    """Without machines there is a whole snapshot in which nothing is found."""
    content = built()
    assert snapshot.about(content).machines == 0
    assert snapshot.lookup(content, "web1", 22) is None
    assert list(snapshot.hosts(content)) == []


def test_a_key_known_too_badly_is_not_exported() -> None:
    """Only keys of the least grade and better are in it; a machine with none of them is nobody's."""
    seen, told = known(key("s"), How.SCAN), known(key("t"), How.CONSOLE)
    content = built(host("both", seen, told), host("only-seen", seen))
    found = snapshot.lookup(content, "both", 22)
    assert found is not None
    assert found.keys == (told,)
    assert snapshot.lookup(content, "only-seen", 22) is None
    lowest = snapshot.lookup(built(host("only-seen", seen), least=Grade.SEEN), "only-seen", 22)
    assert lowest is not None
    assert lowest.keys == (seen,)


def test_the_best_evidence_for_a_key_is_what_is_told() -> None:
    """A key that became known in two ways is told once, with the better one."""
    found = snapshot.lookup(built(host("m", known(key("a"), How.OPERATOR), known(key("a"), How.BUCKET))), "m", 22)
    assert found is not None
    assert [each.how for each in found.keys] == [How.BUCKET]


def test_a_removed_machine_is_still_known_as_removed() -> None:
    """Its own name is found, with its retired keys and no others."""
    gone = host("gone", retired=(key("old"),))
    assert snapshot.lookup(built(gone), "gone", 22) == gone


def test_a_removed_machine_gives_up_its_name() -> None:
    """A machine that lives and has the name now is found by it, whichever of the two comes first."""
    gone = host("web1.lan", retired=(key("old"),))
    for name in ("aaa", "zzz"):
        lives = host(name, key("a"), places=("web1.lan",))
        for order in ((gone, lives), (lives, gone)):
            assert snapshot.lookup(built(*order), "web1.lan", 22) == lives
            assert list(snapshot.hosts(built(*order))) == list(order)


def test_a_machine_is_what_its_name_says() -> None:
    """Whoever claims another's name as an alias does not get it; of two other claims, the first counts."""
    true = host("web1", key("a"))
    thief = host("aaa", key("t"), aliases=("web1", "www"))
    late = host("zzz", key("z"), aliases=("www",))
    for order in ((true, thief, late), (thief, late, true)):
        content = built(*order)
        assert snapshot.lookup(content, "web1", 22) == true
        assert snapshot.lookup(content, "www", 22) == thief


def test_words_of_others_begin_no_line_and_no_field() -> None:
    """A detail with tabs, line feeds and control characters stays one field of one line."""
    evil = "x\tkey ssh-ed25519 AAAA proved invitation 2026 y\nweb9\tkey\x1b[2J\0"
    content = built(host("m", known(key("a"), detail=evil)), WEB1)
    found = snapshot.lookup(content, "m", 22)
    assert found is not None
    assert [each.key for each in found.keys] == [key("a")]
    assert found.keys[0].detail.isprintable()
    assert snapshot.lookup(content, "web9", 22) is None


def test_an_unknown_type_of_key_is_kept() -> None:
    """OpenSSH adds types of keys: what we do not know is exported like any other."""
    odd = key("pq", "ssh-mldsa44-ed25519@openssh.com")
    assert snapshot.lookup(built(host("m", odd)), "m", 22) == host("m", odd)


def test_fields_of_later_versions_are_passed_over() -> None:
    """A field of a kind that we do not know, such as a CA for the host, is no obstacle."""
    line = launcher.find(built(GIT), b"git")
    assert line is not None
    assert snapshot.read(line + b"\tca *.lan ssh-ed25519 AAAA") == GIT


@given(st.lists(st.from_regex(r"[a-z0-9]([a-z0-9.-]{0,10}[a-z0-9])?", fullmatch=True), unique=True, max_size=40))
def test_every_name_is_found_among_any_others(names: list[str]) -> None:
    """Whatever names there are, each leads to its own machine."""
    machines = [host(name, key(name)) for name in names if ".." not in name]
    content = built(*machines)
    assert [snapshot.lookup(content, each.machine, 22) for each in machines] == machines
    assert list(snapshot.hosts(content)) == machines


@given(st.binary(max_size=200))
def test_what_is_no_snapshot_is_refused(content: bytes) -> None:
    """Bytes of any kind are refused with a sentence."""
    with pytest.raises(Malformed, match="not a whole snapshot"):
        snapshot.about(content)


@pytest.mark.parametrize("cut", [1, 10, 200])
def test_half_a_snapshot_is_refused(cut: int) -> None:
    """One that was cut off does not say that the rest is nobody's."""
    with pytest.raises(Malformed):
        snapshot.about(built(WEB1, GIT)[:-cut])


def test_the_same_machines_give_the_same_bytes() -> None:
    """Whoever has the file already fetches its signature only."""
    assert built(WEB1, GIT) == built(WEB1, GIT)


SPEAKER = Speaker(("*.lan", "!evil.lan", "[*.lan]:2222"), key("ca"))


def test_the_ca_stands_in_it() -> None:
    """A CA that may speak comes out with the names for which it may; it is no machine, and hides none."""
    content = built(WEB1, GIT, speaker=SPEAKER)
    assert snapshot.speaker(content) == SPEAKER
    assert list(snapshot.hosts(content)) == [WEB1, GIT]
    assert snapshot.lookup(content, "web1", 22) == WEB1
    assert snapshot.lookup(content, "ca", 22) is None


@pytest.mark.parametrize("speaker", [None, Speaker((), key("ca"))])
def test_without_patterns_there_is_no_ca(speaker: Speaker | None) -> None:
    """A CA that may speak for no name is not told; a machine that is called so is none."""
    machine = host("ca", key("a"), places=("ca.lan",))
    content = built(machine, speaker=speaker)
    assert snapshot.speaker(content) is None
    assert list(snapshot.hosts(content)) == [machine]
    assert content == built(machine)


# --- the signature ---

CONTENT = built(WEB1, GIT)
OTHER = Pki.make()


def test_the_registrars_word_is_believed() -> None:
    """An honest signature verifies, and tells when it was made."""
    assert snapshot.verify(CONTENT, signed(CONTENT), pin=PKI.pin, now=NOW) == NOW.replace(microsecond=0)


def _change(true: Signature, **fields: object) -> Signature:
    return msgspec.structs.replace(true, **fields)


LIES: dict[str, Callable[[Signature], Signature]] = {
    "another signature": lambda true: _change(true, signature=signed(b"x").signature),
    "a later time": lambda true: _change(true, time="2099-01-01T00:00:00Z"),
    "an earlier time": lambda true: _change(true, time="2001-01-01T00:00:00Z"),
    "no time": lambda true: _change(true, time="yesterday"),
    "another hash": lambda true: _change(true, sha256=bytes(32)),
    "no signature": lambda true: _change(true, signature=b""),
    "another leaf": lambda true: _change(true, leaf=b"x"),
    "no chain": lambda true: _change(true, chain=[]),
    "no roots": lambda true: _change(true, trust=[]),
}


@pytest.mark.parametrize("lie", LIES)
def test_P16_every_lie_in_a_signature_is_found(lie: str) -> None:
    """A man in the middle who changes any field is refused."""
    with pytest.raises(UntrustedPeer):
        snapshot.verify(CONTENT, LIES[lie](signed(CONTENT)), pin=PKI.pin, now=NOW)


def test_P16_a_signature_is_for_one_snapshot() -> None:
    """The signature of another snapshot of the same registrar does not fit."""
    with pytest.raises(UntrustedPeer, match="another snapshot"):
        snapshot.verify(CONTENT, signed(built(GIT)), pin=PKI.pin, now=NOW)


def test_P16_another_authority_is_refused() -> None:
    """A chain to another root than the pinned one is nobody's word."""
    with pytest.raises(UntrustedPeer, match="no root with the pin"):
        snapshot.verify(CONTENT, signed(CONTENT, pki=OTHER), pin=PKI.pin, now=NOW)


@pytest.mark.parametrize("role", sorted(set(Role) - {Role.REGISTRAR}))
def test_P16_no_machine_speaks_for_the_registrar(role: Role) -> None:
    """A genuine certificate of another role, with a fitting signature, is refused."""
    leaf = PKI.leaf(grant(PKI.domain, role, machine="web1", public_key=KEY.public_key()))
    with pytest.raises(UntrustedPeer, match="not a registrar"):
        snapshot.verify(CONTENT, signed(CONTENT, leaf=leaf), pin=PKI.pin, now=NOW)


def test_a_snapshot_names_its_authority() -> None:
    """One that names another pin is refused, though its signature fits: doctor would tell a lie."""
    content = built(WEB1, pin=OTHER.pin)
    with pytest.raises(UntrustedPeer, match="is one of the authority"):
        snapshot.verify(content, signed(content), pin=PKI.pin, now=NOW)


def test_a_time_to_come_is_refused() -> None:
    """Signed ahead of time, it would count as fresh for too long."""
    with pytest.raises(UntrustedPeer, match="was signed at"):
        snapshot.verify(CONTENT, signed(CONTENT), pin=PKI.pin, now=NOW - timedelta(minutes=6))


# --- fetching and keeping ---


class Registrar:
    """Answers with what it has, and remembers what was asked for."""

    def __init__(self, content: bytes, signature: Signature | None = None) -> None:
        self.content = content
        self.signature = signature if signature is not None else signed(content)
        self.asked: list[str] = []

    def get(self, path: str, most: int) -> bytes:
        """Answer a GET."""
        self.asked.append(path)
        answer = {CONTENT_PATH: self.content, SIGNATURE_PATH: msgspec.json.encode(self.signature)}[path]
        assert len(answer) <= most
        return answer


def test_what_is_here_already_is_not_fetched_again(tmp_path: Path) -> None:
    """An unchanged snapshot costs the signature, and is fresh again by it."""
    state = tmp_path / "state"
    first = snapshot.fetch(Registrar(CONTENT).get, pin=PKI.pin, now=NOW, held=None)
    snapshot.keep(state, first)
    later = NOW + timedelta(hours=1)
    registrar = Registrar(CONTENT, signed(CONTENT, at=later))
    held = snapshot.load(state)
    again = snapshot.fetch(registrar.get, pin=PKI.pin, now=later, held=held)
    before = (state / launcher.HOSTS).stat()
    snapshot.keep(state, again, before=held)
    assert registrar.asked == [SIGNATURE_PATH]
    assert (state / launcher.HOSTS).stat().st_ino == before.st_ino
    assert snapshot.load(state).at == later.replace(microsecond=0)


def test_a_change_between_the_two_answers_is_no_lie() -> None:
    """The registrar learns of a machine after it signed: the signature is asked for once more."""
    registrar = Registrar(CONTENT, signed(built(GIT)))
    answers = iter([registrar.signature, signed(CONTENT)])

    def get(path: str, most: int) -> bytes:
        registrar.signature = next(answers) if path == SIGNATURE_PATH else registrar.signature
        return registrar.get(path, most)

    assert snapshot.fetch(get, pin=PKI.pin, now=NOW, held=None).content == CONTENT


def test_P16_an_older_snapshot_does_not_replace_a_newer_one(tmp_path: Path) -> None:
    """Replayed from yesterday, it would bring back a retired key."""
    held = Kept(CONTENT, NOW, signed(CONTENT))
    old = Registrar(built(GIT), signed(built(GIT), at=NOW - timedelta(minutes=30)))
    with pytest.raises(UntrustedPeer, match="there is one of"):
        snapshot.fetch(old.get, pin=PKI.pin, now=NOW, held=held)


def test_another_authoritys_snapshot_does_not_count() -> None:
    """Who changes to another registrar takes its first answer, though it was signed before the last of the old one."""
    other = built(GIT, pin=OTHER.pin)
    held = Kept(other, NOW + timedelta(minutes=1), signed(other))
    assert snapshot.fetch(Registrar(CONTENT).get, pin=PKI.pin, now=NOW, held=held).content == CONTENT


def test_a_registrar_that_is_down_changes_nothing() -> None:
    """What could not be fetched is said by whoever fetches; nothing is made up."""

    def get(path: str, most: int) -> bytes:
        raise Unreachable("cannot reach it")

    with pytest.raises(Unreachable):
        snapshot.fetch(get, pin=PKI.pin, now=NOW, held=Kept(CONTENT, NOW, None))


def test_a_snapshot_is_the_users_own(tmp_path: Path) -> None:
    """It is written for its owner alone, and not into a directory that others can read."""
    state = tmp_path / "state"
    snapshot.keep(state, Kept(CONTENT, NOW, signed(CONTENT)))
    assert (state / launcher.HOSTS).stat().st_mode & 0o777 == 0o600
    loaded = snapshot.load(state)
    assert loaded.signature is not None
    assert snapshot.verify(loaded.content, loaded.signature, pin=PKI.pin, now=NOW) == loaded.at
    state.chmod(0o755)
    with pytest.raises(Unsafe):
        snapshot.keep(state, Kept(CONTENT, NOW, None))
    with pytest.raises(NotFound):
        snapshot.load(tmp_path)


@pytest.mark.slow
@pytest.mark.timeout(300)
def test_100_000_machines_are_built_in_seconds() -> None:
    """A registrar can make the snapshot of a large fleet; each machine is found in it."""

    def fleet() -> list[Host]:
        return [host(f"m{number:06}", key(str(number)), places=(f"m{number:06}.lan",)) for number in range(100_000)]

    machines = fleet()
    begun = time.process_time()
    content = built(*machines)
    assert time.process_time() - begun < 30  # 2 of the development machine
    assert snapshot.lookup(content, "m099999.lan", 22) == machines[-1]
