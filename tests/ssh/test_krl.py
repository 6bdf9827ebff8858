"""The list of revoked SSH keys: nothing but the registrar's own is believed, nothing goes back, nothing is cut off."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from handfast.core import krl as lists
from handfast.core.records import KrlState
from handfast.core.roles import Role
from handfast.core.vouched import Signature
from handfast.errors import Fault, Malformed, Unreachable, UntrustedPeer
from handfast.ssh import krl, snapshot
from handfast.ssh.krl import CONTENT_PATH, LABEL, SIGNATURE_PATH
from tests.authority.helpers import NOW, Pki, grant
from tests.ssh.fleet import KEY, PKI, key, listed, signed

OTHER = Pki.make()
LIST = listed(7, hosts=(1, 2, 3, 9), keys=(key("old"),))


def word(content: bytes, **changes: object) -> Signature:
    """The registrar's word for a list."""
    return signed(content, **{"label": LABEL, **changes})  # type: ignore[arg-type]


class Registrar:
    """Answers with what it has, and remembers what was asked for."""

    def __init__(self, content: bytes, signature: Signature | None = None) -> None:
        self.content = content
        self.signature = signature if signature is not None else word(content)
        self.asked: list[str] = []

    def get(self, path: str, most: int) -> bytes:
        """Answer a GET."""
        self.asked.append(path)
        answer = {CONTENT_PATH: self.content, SIGNATURE_PATH: msgspec.json.encode(self.signature)}[path]
        assert len(answer) <= most
        return answer


def fetch(registrar: Registrar, held: bytes | None = None) -> krl.Fetched:
    """As a machine does."""
    return krl.fetch(registrar.get, pin=PKI.pin, now=NOW, held=held)


# --- what is in it ---


def test_a_list_has_what_the_ledger_says() -> None:
    """Serials by their authority, digests of keys, and whose list it is."""
    read = lists.read(LIST)
    assert (read.version, read.at) == (7, NOW)
    (section,) = read.certificates
    assert section.authority == key("host-ca")
    assert [serial for serial in range(12) if section.has(serial)] == [1, 2, 3, 9]
    assert lists.is_revoked(read, key("old"))
    assert not lists.is_revoked(read, key("new"))


def test_an_empty_list_is_a_list() -> None:
    """There is one from the first day, as a file that is missing shuts everybody out."""
    state = KrlState(1, (), (), frozenset())
    content = krl.build(state, host_ca=key("a"), user_ca=key("b"), pin=PKI.pin, at=NOW)
    assert lists.read(content) == lists.Krl(1, NOW, comment=f"handfast {PKI.pin.hex()}")
    assert fetch(Registrar(content)).krl.version == 1


def test_users_and_hosts_are_apart() -> None:
    """A serial is revoked for the authority that signed it, and not for the other."""
    state = KrlState(2, (5,), (6,), frozenset())
    read = lists.read(krl.build(state, host_ca=key("a"), user_ca=key("b"), pin=PKI.pin, at=NOW))
    found = {each.authority: [serial for serial in range(9) if each.has(serial)] for each in read.certificates}
    assert found == {key("a"): [5], key("b"): [6]}


def test_a_list_that_nobody_reads_is_not_made(monkeypatch: pytest.MonkeyPatch) -> None:
    """Who fetches one that is too long would refuse it, and nobody would be told why."""
    monkeypatch.setattr(lists, "MAX_KRL", len(LIST) - 1)
    with pytest.raises(Fault, match=f"has {len(LIST)} bytes, and at most"):
        listed(7, hosts=(1, 2, 3, 9), keys=(key("old"),))


def test_P33_a_list_that_would_be_too_long_leaves_out_what_was_merely_replaced(monkeypatch: pytest.MonkeyPatch) -> None:
    """The oldest first, and no more than it must: who has the list hears of every key that was stolen."""
    bad, *sound = (key(name).digest for name in ("stolen", "a", "b", "c"))
    state = KrlState(3, (5,), (), frozenset((bad, *sound)), tuple(sound))

    def made() -> frozenset[bytes]:
        return lists.read(krl.build(state, host_ca=key("x"), user_ca=key("y"), pin=PKI.pin, at=NOW)).digests

    whole = len(krl.build(state, host_ca=key("x"), user_ca=key("y"), pin=PKI.pin, at=NOW))
    for limit, left in ((whole, 3), (whole - 1, 2), (whole - 36, 2), (whole - 37, 1), (whole - 108, 0)):
        monkeypatch.setattr(lists, "MAX_KRL", limit)
        assert made() == {bad, *sound[3 - left :]}
    monkeypatch.setattr(lists, "MAX_KRL", whole - 109)
    with pytest.raises(Fault, match="at most"):
        made()


# --- the registrar's word ---


def test_the_registrars_word_is_believed() -> None:
    """An honest list verifies, and comes back as it was read."""
    fetched = fetch(Registrar(LIST))
    assert (fetched.content, fetched.krl, fetched.at) == (LIST, lists.read(LIST), NOW.replace(microsecond=0))


def _change(true: Signature, **fields: object) -> Signature:
    return msgspec.structs.replace(true, **fields)


LIES: dict[str, Callable[[Signature], Signature]] = {
    "another signature": lambda true: _change(true, signature=word(b"x").signature),
    "a later time": lambda true: _change(true, time="2099-01-01T00:00:00Z"),
    "no time": lambda true: _change(true, time="yesterday"),
    "another hash": lambda true: _change(true, sha256=bytes(32)),
    "no signature": lambda true: _change(true, signature=b""),
    "another leaf": lambda true: _change(true, leaf=b"x"),
    "no chain": lambda true: _change(true, chain=[]),
    "no roots": lambda true: _change(true, trust=[]),
}


@pytest.mark.parametrize("lie", LIES)
def test_P30_every_lie_in_the_word_is_found(lie: str) -> None:
    """Who changes any field of it is refused."""
    with pytest.raises(UntrustedPeer):
        fetch(Registrar(LIST, LIES[lie](word(LIST))))


def test_P30_another_registrars_list_is_refused() -> None:
    """One that another authority vouches for is nobody's word."""
    with pytest.raises(UntrustedPeer, match="no root with the pin"):
        fetch(Registrar(LIST, word(LIST, pki=OTHER)))


def test_P30_a_list_names_its_authority() -> None:
    """One of another authority, though our registrar's signature fits, is refused."""
    foreign = listed(7, pin=OTHER.pin)
    with pytest.raises(UntrustedPeer, match="not of 'handfast"):
        fetch(Registrar(foreign))


@pytest.mark.parametrize("role", sorted(set(Role) - {Role.REGISTRAR}))
def test_P30_no_machine_speaks_for_the_registrar(role: Role) -> None:
    """A genuine certificate of another role, with a fitting signature, is refused."""
    leaf = PKI.leaf(grant(PKI.domain, role, machine="web1", public_key=KEY.public_key()))
    with pytest.raises(UntrustedPeer, match="not a registrar"):
        fetch(Registrar(LIST, word(LIST, leaf=leaf)))


def test_P30_the_word_for_a_snapshot_is_none_for_a_list() -> None:
    """Each kind of file has its own label: who has us sign one has no signature for the other."""
    with pytest.raises(UntrustedPeer, match="does not fit"):
        fetch(Registrar(LIST, word(LIST, label=snapshot.LABEL)))


def test_P30_an_old_word_is_refused() -> None:
    """Whoever keeps the newest from us has yesterday's to offer, and no other."""
    later = NOW + timedelta(hours=24, seconds=1)
    with pytest.raises(
        UntrustedPeer, match="word for the list of revoked SSH keys is of 2026-11-22T12:00:00Z, and here"
    ):
        krl.fetch(Registrar(LIST).get, pin=PKI.pin, now=later, held=None)


def test_what_the_registrar_vouches_for_has_to_be_a_list() -> None:
    """sshd would refuse every key with it."""
    with pytest.raises(UntrustedPeer, match="vouches for what cannot be read"):
        fetch(Registrar(LIST[:-1]))


def test_a_change_between_the_two_answers_is_no_lie() -> None:
    """Something is taken back after it signed: the signature is asked for once more."""
    registrar = Registrar(LIST, word(listed(6)))
    answers = iter([registrar.signature, word(LIST)])

    def get(path: str, most: int) -> bytes:
        registrar.signature = next(answers) if path == SIGNATURE_PATH else registrar.signature
        return registrar.get(path, most)

    assert krl.fetch(get, pin=PKI.pin, now=NOW, held=None).content == LIST


# --- what is here already ---


def test_what_is_here_already_is_not_fetched_again(tmp_path: Path) -> None:
    """An unchanged list costs the signature, and the file is not touched."""
    path = tmp_path / "krl"
    krl.refresh(path, Registrar(LIST).get, pin=PKI.pin, now=NOW)
    before = path.stat()
    registrar = Registrar(LIST)
    krl.refresh(path, registrar.get, pin=PKI.pin, now=NOW)
    assert registrar.asked == [SIGNATURE_PATH]
    assert (path.stat().st_ino, path.stat().st_mode & 0o777) == (before.st_ino, 0o644)


@pytest.mark.parametrize("version", [1, 6, 7])
def test_P31_what_was_revoked_does_not_come_back(tmp_path: Path, version: int) -> None:
    """An older list, replayed, or another one of the same version, is refused, and the file stays."""
    path = tmp_path / "krl"
    krl.refresh(path, Registrar(LIST).get, pin=PKI.pin, now=NOW)
    for old in (listed(version, hosts=(1, 3, 9), keys=(key("old"),)), listed(version, hosts=(1, 2, 3, 9))):
        with pytest.raises(UntrustedPeer, match=f"sent version {version} of .* version 7 has"):
            krl.refresh(path, Registrar(old).get, pin=PKI.pin, now=NOW)
    assert path.read_bytes() == LIST


def test_what_is_over_leaves_the_list() -> None:
    """A higher version may have less in it: certificates that have expired."""
    assert fetch(Registrar(listed(8)), held=LIST).krl.version == 8


def test_a_lower_version_that_revokes_as_much_is_no_step_back() -> None:
    """Two processes make lists of one ledger: what one has kept for hours is taken after what the other made."""
    other = listed(6, hosts=(1, 2, 3, 4, 9), keys=(key("old"), key("older")))
    assert fetch(Registrar(other), held=LIST).content == other


@pytest.mark.parametrize("held", [b"", LIST[:-1], b"\0" * 100, listed(99, pin=OTHER.pin)])
def test_what_is_damaged_or_of_another_authority_is_replaced(tmp_path: Path, held: bytes) -> None:
    """It says nothing about versions of ours, and sshd lets nobody in by one that is damaged."""
    path = tmp_path / "krl"
    path.write_bytes(held)
    assert krl.refresh(path, Registrar(LIST).get, pin=PKI.pin, now=NOW).content == path.read_bytes() == LIST


def test_a_registrar_that_is_down_changes_nothing(tmp_path: Path) -> None:
    """The list that is here serves on."""
    path = tmp_path / "krl"
    path.write_bytes(LIST)

    def get(path: str, most: int) -> bytes:
        raise Unreachable("cannot reach it")

    with pytest.raises(Unreachable):
        krl.refresh(path, get, pin=PKI.pin, now=NOW)
    assert path.read_bytes() == LIST


KILLED = """
import os, signal, sys
from pathlib import Path
from handfast.ssh import krl
moment, path, new = sys.argv[1], Path(sys.argv[2]), Path(sys.argv[3]).read_bytes()
true = getattr(os, moment)
def killed(*arguments, **named):
    if moment == "write":
        true(arguments[0], bytes(arguments[1])[: len(arguments[1]) // 2])
    os.kill(os.getpid(), signal.SIGKILL)
setattr(os, moment, killed)
krl.keep(path, new)
"""


@pytest.mark.parametrize("moment", ["write", "fsync", "replace"])
def test_a_cut_off_list_never_gets_there(tmp_path: Path, moment: str) -> None:
    """Killed in the middle of it, the old list is there, whole; the next run puts the new one there."""
    path, new = tmp_path / "krl", tmp_path / "new"
    path.write_bytes(listed(1))
    new.write_bytes(LIST)
    done = subprocess.run([sys.executable, "-c", KILLED, moment, path, new], check=False, env=os.environ)
    assert done.returncode == -signal.SIGKILL
    assert path.read_bytes() == listed(1)
    krl.keep(path, LIST)
    assert path.read_bytes() == LIST


def test_the_reader_refuses_what_it_would_have_to_pass_over() -> None:
    """A list with a section of a later kind says more than we know."""
    with pytest.raises(Malformed, match="section of type 9"):
        lists.read(LIST + b"\x09\0\0\0\0")
