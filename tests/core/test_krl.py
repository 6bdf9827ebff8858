"""Lists of revoked keys: ssh-keygen finds in ours what we put there, and we in its; what we cannot read is refused."""

from __future__ import annotations

import struct
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from handfast.core import krl
from handfast.core.krl import Certificates, Krl, is_revoked, revoked
from handfast.core.sshcert import SshCertificate, read
from handfast.core.sshdata import string
from handfast.core.sshkeys import SshKey
from handfast.errors import HandfastError, Malformed
from tests.core.certmaterial import CA, GRANT, KEY, NOW, OTHER_CA, USER, crafted, issued
from tests.core.sshmaterial import KINDS, ed25519_key, keygen, new_key, public, signer

LAST = 2**64 - 1
EMPTY = Krl(1, NOW)
HOST = issued()


def of(*certificates: Certificates, keys: tuple[SshKey, ...] = (), digests: tuple[bytes, ...] = ()) -> Krl:
    """A list."""
    return Krl(7, NOW, certificates, frozenset(keys), frozenset(digests), "of the tests")


def theirs(directory: Path, listed: Krl, subject: SshKey | SshCertificate) -> bool:
    """Whether the real ssh-keygen finds it revoked by the list as we write it."""
    (directory / "krl").write_bytes(krl.build(listed))
    (directory / "subject.pub").write_text(f"{subject} root@host\n")
    asked = keygen("-Q", "-f", directory / "krl", directory / "subject.pub")
    said = asked.stdout.decode()
    assert (asked.returncode, "REVOKED" in said) in {(0, False), (1, True)}, asked
    return asked.returncode == 1


LISTS: dict[str, Krl] = {
    "empty": EMPTY,
    "serial": of(revoked(CA.public, serials=[5])),
    "serials": of(revoked(CA.public, serials=[1, 5, 9, LAST])),
    "range": of(revoked(CA.public, serials=range(2, 1000))),
    "both": of(revoked(CA.public, serials=[*range(4, 9), 20, 22, LAST - 2, LAST - 1, LAST])),
    "around": of(revoked(CA.public, serials=[4, 6])),
    "other-authority": of(revoked(OTHER_CA.public, serials=[5])),
    "any-authority": of(revoked(None, serials=[5])),
    "key-id": of(revoked(CA.public, key_ids=["web1", "web2"])),
    "other-key-id": of(revoked(CA.public, key_ids=["web"])),
    "key-id-of-any": of(revoked(None, key_ids=["web1"])),
    "two-authorities": of(revoked(OTHER_CA.public, serials=[9]), revoked(CA.public, serials=[5], key_ids=["x"])),
    "key": of(keys=(KEY, ed25519_key(1))),
    "other-key": of(keys=(ed25519_key(1),)),
    "digest": of(digests=(KEY.digest,)),
    "digests": of(digests=(b"a" * 32, KEY.digest, b"z" * 32)),
    "authority": of(keys=(CA.public,)),
    "authority-digest": of(digests=(CA.public.digest,)),
    "all": of(revoked(CA.public, serials=[5], key_ids=["web1"]), keys=(KEY,), digests=(KEY.digest,)),
}


@pytest.mark.peer("ssh-keygen")
@pytest.mark.parametrize("name", LISTS)
def test_ssh_keygen_says_what_we_say(name: str, tmp_path: Path) -> None:
    """Of each list ssh-keygen and we say the same, of a certificate, of its key, and of others."""
    listed = LISTS[name]
    for subject in (HOST, KEY, CA.public, issued(serial=9), issued(ca=OTHER_CA), issued(USER, serial=LAST)):
        assert theirs(tmp_path, listed, subject) == (is_revoked(listed, subject) is not None), subject


@pytest.mark.parametrize("name", LISTS)
def test_there_and_back(name: str) -> None:
    """What is read of a list is what was written, and it is written in one way."""
    listed = krl.read(krl.build(LISTS[name]))
    assert replace(listed, certificates=()) == replace(LISTS[name], certificates=())
    assert set(listed.certificates) == set(LISTS[name].certificates)
    assert krl.build(listed) == krl.build(LISTS[name])


def test_reasons() -> None:
    """Who is refused learns by what: key, authority, serial or key id."""
    assert is_revoked(EMPTY, HOST) is None
    assert is_revoked(LISTS["key"], KEY) == f"the key {KEY.fingerprint} is revoked"
    assert is_revoked(LISTS["digest"], HOST) == f"the key {KEY.fingerprint} is revoked"
    assert is_revoked(LISTS["authority"], HOST) == f"its authority {CA.public.fingerprint} is revoked"
    assert is_revoked(LISTS["serial"], HOST) == f"serial 5 of authority {CA.public.fingerprint} is revoked"
    assert is_revoked(LISTS["key-id"], HOST) == f"key id 'web1' of authority {CA.public.fingerprint} is revoked"


def test_only_the_certificate() -> None:
    """By serial a certificate is revoked and not its key: the machine may have another one."""
    assert is_revoked(LISTS["serial"], KEY) is None
    assert is_revoked(LISTS["serial"], issued(serial=6)) is None


def test_a_certificate_without_a_serial() -> None:
    """A stranger's certificate with serial 0, which means none, is revoked by no serial."""
    unnumbered = read(crafted(serial=0))
    assert is_revoked(of(revoked(CA.public, serials=range(1, 100))), unnumbered) is None
    assert is_revoked(LISTS["key-id"], unnumbered) is not None


def test_the_same_whatever_the_order() -> None:
    """Serials, key ids and keys have no order: the same content is the same bytes."""
    keys = [ed25519_key(n) for n in range(9)]
    one = of(revoked(CA.public, serials=[9, 3, 4, 5, 3], key_ids=["b", "a"]), keys=tuple(keys))
    other = of(revoked(CA.public, serials=[3, 4, 5, 9], key_ids=["a", "b"]), keys=tuple(reversed(keys)))
    assert krl.build(one) == krl.build(other)


def test_ranges_where_they_are_shorter() -> None:
    """Three serials in a row are a range, two are not: so the list is as short as it can be."""
    empty = len(krl.build(of(revoked(CA.public))))
    assert len(krl.build(of(revoked(CA.public, serials=[1, 2])))) == empty + 5 + 16
    assert len(krl.build(of(revoked(CA.public, serials=[1, 2, 3])))) == empty + 5 + 16
    assert len(krl.build(of(revoked(CA.public, serials=range(1, 100_000))))) == empty + 5 + 16


def test_many() -> None:
    """A hundred thousand serials that are nowhere near each other are written, read and searched."""
    serials = [(n * 0x9E3779B97F4A7C15) % LAST + 1 for n in range(100_000)]
    listed = krl.read(krl.build(of(revoked(CA.public, serials=serials))))
    assert is_revoked(listed, issued(serial=serials[777])) is not None
    assert is_revoked(listed, HOST) is None


# --- lists of ssh-keygen ---


@pytest.mark.peer("ssh-keygen")
@pytest.mark.parametrize("serials", ["5", "1-1000", "5,7,9-11", "bitmap", str(LAST)])
def test_those_of_ssh_keygen(serials: str, tmp_path: Path) -> None:
    """A list that ssh-keygen made is read, whatever it has chosen to write: a list, a range or a bitmap."""
    each_second = [str(n) for n in range(1, 400, 2)]
    listing = each_second if serials == "bitmap" else serials.split(",")
    spec = "".join(f"serial: {each}\n" for each in listing) + "id: alice\n" + f"hash: {KEY.fingerprint}\n"
    (tmp_path / "spec").write_text(spec)
    (tmp_path / "ca.pub").write_text(f"{CA.public}\n")
    (tmp_path / "key.pub").write_text(f"{signer('rsa').public}\n")
    made = keygen(
        "-k", "-f", tmp_path / "krl", "-s", tmp_path / "ca.pub", "-z", "42", tmp_path / "spec", tmp_path / "key.pub"
    )
    assert made.returncode == 0, made
    assert serials != "bitmap" or b"\x22\0\0" in (tmp_path / "krl").read_bytes()
    listed = krl.read((tmp_path / "krl").read_bytes())
    assert listed.version == 42
    assert is_revoked(listed, KEY) == f"the key {KEY.fingerprint} is revoked"
    assert is_revoked(listed, signer("rsa").public) is not None
    alice = issued(USER, key=signer("p521").public, serial=1000_000)
    assert is_revoked(listed, alice) == f"key id 'alice' of authority {CA.public.fingerprint} is revoked"
    (found,) = listed.certificates
    assert [found.has(n) for n in (4, 5, 6, 7, LAST)] == expected(serials)


def expected(serials: str) -> list[bool]:
    """Whether 4, 5, 6, 7 and the last serial are revoked."""
    return {
        "5": [False, True, False, False, False],
        "1-1000": [True, True, True, True, False],
        "5,7,9-11": [False, True, False, True, False],
        "bitmap": [False, True, False, True, False],
        str(LAST): [False, False, False, False, True],
    }[serials]


@pytest.mark.peer("ssh-keygen")
@pytest.mark.parametrize("kind", KINDS)
def test_every_kind_of_key(kind: str, tmp_path: Path) -> None:
    """Keys of every kind are revoked as they stand, and in the certificates that they are in."""
    key = public(new_key(tmp_path, kind))
    for listed in (of(keys=(key,)), of(digests=(key.digest,))):
        for subject in (key, issued(key=key)):
            assert theirs(tmp_path, listed, subject)
            assert is_revoked(listed, subject)
        assert not theirs(tmp_path, listed, HOST)


def test_one_authority_in_two_sections() -> None:
    """What several sections revoke of one authority is revoked; written again it is one section."""
    one, other = (certificates(section(0x20, serial.to_bytes(8))) for serial in (5, 6))
    both = krl.read(one + other[len(HEAD) :] + certificates(section(0x23, string(b"alice")))[len(HEAD) :])
    assert both.certificates == (Certificates(CA.public, ((5, 6),), frozenset({"alice"})),)


def test_a_range_within_another() -> None:
    """Ranges may overlap, and one be within another: no serial of either is forgotten."""
    wide, narrow = (section(0x21, struct.pack(">QQ", *each)) for each in ((1, 100), (5, 6)))
    for order in ((wide, narrow), (narrow, wide)):
        assert krl.read(certificates(*order)).certificates[0].serials == ((1, 100),)


# --- what is refused ---

HEAD = b"SSHKRL\n\0" + struct.pack(">IQQQ", 1, 1, 0, 0) + string(b"") + string(b"")


def section(kind: int, content: bytes) -> bytes:
    """A section, or one within."""
    return bytes([kind]) + string(content)


def certificates(*inner: bytes, reserved: bytes = b"") -> bytes:
    """A list of revoked certificates of our authority."""
    return HEAD + section(1, string(CA.public.blob) + string(reserved) + b"".join(inner))


BAD = {
    "empty": (b"", "cut off"),
    "something-else": (b"ssh-ed25519 AAAA of a file of keys", "not a list"),
    "later-format": (HEAD.replace(b"\0\0\0\1", b"\0\0\0\2", 1), "not a list"),
    "flags": (HEAD[:28] + b"\0" * 7 + b"\1" + HEAD[36:], "flags"),
    "reserved": (HEAD[:36] + string(b"x") + string(b""), "flags"),
    "comment-escape": (HEAD[:40] + string(b"\x1b[2J"), "the comment"),
    "far-time": (HEAD[:20] + b"\xff" * 8 + HEAD[28:], "after 1970"),
    "sha1": (HEAD + section(3, string(b"a" * 20)), "type 3"),
    "signature": (HEAD + section(4, b""), "type 4"),
    "extension": (HEAD + section(255, b""), "type 255"),
    "cut": (HEAD + b"\1", "cut off"),
    "short-digest": (HEAD + section(5, string(b"a" * 20)), "20 bytes"),
    "no-key": (HEAD + section(2, string(b"")), "not an SSH public key"),
    "inner-reserved": (certificates(reserved=b"x"), "reserved"),
    "inner-unknown": (certificates(section(0x39, b"")), "type 0x39"),
    "half-a-serial": (certificates(section(0x20, b"1234")), "4 bytes of type 0x20"),
    "serial-0": (certificates(section(0x20, bytes(8))), "no serials to revoke"),
    "backwards": (certificates(section(0x21, struct.pack(">QQ", 9, 5))), "no serials to revoke"),
    "long-range": (certificates(section(0x21, bytes(24))), "24 bytes of type 0x21"),
    "beyond": (certificates(section(0x22, b"\xff" * 8 + string(b"\3"))), "no serials to revoke"),
    "bitmap-behind": (certificates(section(0x22, bytes(8) + string(b"\2") + b"x")), "behind its end"),
    "key-id-line": (certificates(section(0x23, string(b"a\nb"))), "a key id"),
    "no-authority": (HEAD + section(1, string(b"x") + string(b"")), "not an SSH public key"),
    "long": (bytes(krl.MAX_KRL + 1), "at most"),
}


@pytest.mark.parametrize("name", BAD)
def test_never_read(name: str) -> None:
    """A list of which we would not see everything is refused whole: it may revoke what we are asked about."""
    data, message = BAD[name]
    with pytest.raises(Malformed, match=message):
        krl.read(data)


def test_attack_a_small_list_that_stands_for_too_much(monkeypatch: pytest.MonkeyPatch) -> None:
    """Bitmaps of a few bytes cannot have us hold more serials than the limit, in one section or in many."""
    monkeypatch.setattr(krl, "MAX_RANGES", 100)
    bitmap = section(0x22, bytes(8) + string(b"\x55" * 10 + b"\x54"))  # 43 serials
    assert krl.read(certificates(bitmap, bitmap)).certificates[0].has(2)
    for data in (certificates(bitmap, bitmap, bitmap), certificates(bitmap) + certificates(bitmap)[len(HEAD) :] * 2):
        with pytest.raises(Malformed, match="over 100 serials"):
            krl.read(data)


def test_attack_a_bitmap_of_megabytes() -> None:
    """A bitmap is not longer than one can be searched at once."""
    with pytest.raises(Malformed, match="type 0x22"):
        krl.read(certificates(section(0x22, bytes(8) + string(b"\1" + bytes(krl.MAX_BITMAP)))))


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"version": 2**64}, "version 0x1"),
        ({"version": -1}, "version -0x1"),
        ({"at": datetime(1969, 1, 1, tzinfo=UTC)}, "made at 1969"),
        ({"digests": frozenset({b"short"})}, "not a SHA-256"),
        ({"comment": "a\nb"}, "a key id or comment"),
        ({"certificates": (revoked(CA.public, key_ids=["a\nb"]),)}, "a key id or comment"),
        ({"certificates": (revoked(CA.public, key_ids=[""]),)}, "a key id or comment"),
    ],
)
def test_never_built(changes: dict[str, object], message: str) -> None:
    """What nobody could read again is not written."""
    with pytest.raises(Malformed, match=message):
        krl.build(replace(EMPTY, **changes))  # type: ignore[arg-type]


@pytest.mark.parametrize("serial", [0, -1, LAST + 1])
def test_no_serials(serial: int) -> None:
    """Serial 0 would be read as none, and OpenSSH refuses a list that has it."""
    with pytest.raises(Malformed, match="no serials"):
        revoked(CA.public, serials=[serial])


# --- whatever comes ---

SERIALS = st.lists(st.integers(1, 40) | st.integers(LAST - 3, LAST), max_size=20)


@given(SERIALS, SERIALS, st.sets(st.text(st.characters(codec="ascii", categories=["L"]), min_size=1), max_size=4))
def test_any_content(mine: list[int], others: list[int], key_ids: set[str]) -> None:
    """Whatever is revoked is found after writing and reading, and nothing else."""
    listed = of(revoked(CA.public, serials=mine, key_ids=key_ids), revoked(None, serials=others))
    found = krl.read(krl.build(listed))
    assert krl.build(found) == krl.build(listed)
    ours = next(each for each in found.certificates if each.authority == CA.public)
    for serial in (*range(45), *range(LAST - 5, LAST + 1)):
        assert ours.has(serial) == (serial in mine)


@given(SERIALS, SERIALS)
def test_what_covers_another_list(mine: list[int], others: list[int]) -> None:
    """A list covers another one if it revokes each serial of it, for the same authority."""
    ours, theirs = of(revoked(CA.public, serials=mine)), of(revoked(CA.public, serials=others))
    assert krl.covers(ours, theirs) == (set(others) <= set(mine))
    assert krl.covers(of(), theirs) == (not others)
    assert krl.covers(of(revoked(None, serials=mine)), theirs) == (not others)  # said otherwise, so not known to


@pytest.mark.parametrize(
    "more",
    [
        Krl(1, NOW, keys=frozenset({KEY})),
        Krl(1, NOW, digests=frozenset({KEY.digest})),
        Krl(1, NOW, (revoked(CA.public, key_ids=["web1"]),)),
    ],
)
def test_keys_and_key_ids_are_covered_too(more: Krl) -> None:
    """What is revoked in other words than a serial must not get lost either."""
    assert krl.covers(more, Krl(9, NOW))
    assert krl.covers(more, more)
    assert not krl.covers(Krl(9, NOW), more)


@given(st.binary(max_size=300), st.booleans())
@example(b"", True)
def test_whatever_comes(data: bytes, head: bool) -> None:
    """Bytes are a list or are refused, and end in no other error."""
    try:
        found = krl.read(HEAD + data if head else data)
    except HandfastError:
        return
    assert krl.read(krl.build(found)) == found


@given(st.sampled_from(sorted(LISTS)), st.data())
def test_attack_a_list_cut_short(name: str, data: st.DataObject) -> None:
    """Of a list that was cut off anywhere nothing is believed, but where a whole section is missing."""
    whole = krl.build(LISTS[name])
    cut = whole[: data.draw(st.integers(0, len(whole) - 1))]
    try:
        found = krl.read(cut)
    except HandfastError:
        return
    assert krl.build(found) == cut  # it cannot show that sections are missing: only a signature around it can


def test_the_grant_of_the_tests() -> None:
    """The certificates here name what the lists revoke."""
    assert (GRANT.key_id, HOST.serial, HOST.key) == ("web1", 5, KEY)
