"""Joining over real TLS: every lie leaves the disk as it was, and a retry comes with the same key."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable, Iterator
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from handfast.core import csr, keys, wire
from handfast.core.flow import Wish
from handfast.core.names import Names
from handfast.core.roles import Role
from handfast.errors import (
    EvidenceRejected,
    HandfastError,
    InvitationExpired,
    Malformed,
    Refused,
    Unreachable,
    UntrustedPeer,
    UsageError,
)
from handfast.introducers.invitation import Invited
from handfast.newcomer import connection
from handfast.newcomer.join import Joined, join
from handfast.newcomer.keystore import Keystore
from tests.authority.helpers import DAY, HOUR, NOW, Pki, new_key
from tests.newcomer.fake import Fake, a_line, der, http

PKI = Pki.make()
NAMES = Names.parse(["web1.home.lan"])


@pytest.fixture
def fake() -> Iterator[Fake]:
    """A registrar that is honest until it is told otherwise."""
    with Fake(PKI) as started:
        yield started


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where the newcomer keeps its identity."""
    return tmp_path / "out"


def joining(
    fake: Fake, out: Path, *, wish: Wish | None = None, now: Callable[[], datetime] = lambda: NOW, **line: Any
) -> Joined:
    """Join, by default with a wish for exactly what it is to get."""
    invitation = dataclasses.replace(a_line(PKI, fake.address), **line)
    insists = wish if wish is not None else Wish(Role.SERVER, NAMES)
    joined = join(Invited(invitation, insists), Keystore(out), layouts=("pem",), owner=None, now=now)
    assert joined is not None
    return joined


def adopted(out: Path) -> list[str]:
    """Every file that a program could use."""
    return sorted(path.name for path in out.glob("*.*") if not path.name.startswith("."))


def test_what_was_issued_is_adopted(fake: Fake, out: Path) -> None:
    """Key, certificate, chain, root and the story of how; the pending keys are gone."""
    joined = joining(fake, out)
    assert joined.checked.identity.names == NAMES
    assert (joined.registrar, joined.address) == ("registrar", fake.address)
    material = Keystore(out).load()
    assert material.certificate.serial_number == joined.checked.serial
    assert material.trust == tuple(der(PKI.root))
    about = material.identity
    assert about["pin"] == keys.format_pin(PKI.pin)
    assert about["method"] == "invitation"
    assert about["origin"] == f"invitation:{a_line(PKI).key_id}"
    assert about["names"] == ["web1.home.lan"]
    assert not (out / ".pending").exists()
    assert fake.requests == ["GET /v1/hello", "POST /v1/introductions/invitation"]


def test_without_wishes_it_takes_what_the_invitation_is_for(fake: Fake, out: Path) -> None:
    """Role and names come from the registrar then."""
    fake.role, fake.names = Role.AGENT, ("a.home.lan",)
    assert joining(fake, out, wish=Wish()).checked.identity.role is Role.AGENT


OTHER = Pki.make()
LIES: dict[str, dict[str, Any]] = {
    "another key": {"leaf": lambda fake: lambda r: fake.leaf_for(r, public_key=new_key().public_key())},
    "another name": {"leaf": lambda fake: lambda r: fake.leaf_for(r, names=("web2.home.lan",))},
    "a name more": {"leaf": lambda fake: lambda r: fake.leaf_for(r, names=("web1.home.lan", "home.lan"))},
    "another role": {"leaf": lambda fake: lambda r: fake.leaf_for(r, role=Role.PEER)},
    "the registrar's role": {"leaf": lambda fake: lambda r: fake.leaf_for(r, role=Role.REGISTRAR)},
    "expired": {"leaf": lambda fake: lambda r: fake.leaf_for(r, not_after=NOW - HOUR / 2)},
    "of the future": {"leaf": lambda fake: lambda r: fake.leaf_for(r, not_before=NOW + HOUR)},
    "another root": {"trust": lambda fake: der(OTHER.root)},
    "no root": {"trust": lambda fake: []},
    "no chain": {"chain": lambda fake: []},
    "another clock": {"time": lambda fake: NOW + HOUR / 2},
    "no signature": {"signature": lambda fake: b""},
    "another leaf after signing": {"certificate": lambda fake: der(fake.chain[0])[0]},
    "garbage for a chain": {"chain": lambda fake: [b"garbage"]},
}


@pytest.mark.parametrize("lie", LIES)
def test_every_lie_leaves_the_disk_as_it_was(fake: Fake, out: Path, lie: str) -> None:
    """Nothing is adopted, and the pending key waits for an honest answer."""
    fake.lie(**{what: how(fake) for what, how in LIES[lie].items()})
    with pytest.raises(UntrustedPeer):
        joining(fake, out)
    assert adopted(out) == []
    waiting = Keystore(out).pending(f"invitation:{a_line(PKI).key_id}").private_key.public_key()
    fake.lie()
    joining(fake, out)
    assert Keystore(out).load().private_key.public_key() == waiting


def test_a_replayed_answer_is_refused(fake: Fake, out: Path, tmp_path: Path) -> None:
    """A true answer to an earlier request of the same key does not fit this one."""
    said: list[bytes] = []

    def record(request: Any, digest: bytes) -> bytes | None:
        said.append(http(msgspec.json.encode(fake.answering(request, digest))))
        return None

    fake.answer = record
    with pytest.raises(Unreachable):
        joining(fake, out)
    fake.answer = lambda _request, _digest: said[0]
    with pytest.raises(UntrustedPeer, match="does not fit"):
        joining(fake, out)
    assert adopted(out) == []


def test_P4_a_retry_comes_with_the_same_key(fake: Fake, out: Path) -> None:
    """The registrar burns the invitation and hangs up; the same command again succeeds with the same key."""
    seen: list[bytes] = []

    def burn(request: Any, digest: bytes) -> bytes | None:
        seen.append(keys.spki(csr.read(request.csr)))
        seen.append(request.reintroduction_key)
        return None

    honest, fake.answer = fake.answer, burn
    with pytest.raises(Unreachable, match="did not answer") as caught:
        joining(fake, out)
    assert "same key" in caught.value.hint
    with pytest.raises(Unreachable):
        joining(fake, out)
    fake.answer = honest
    joining(fake, out)
    material = Keystore(out).load()
    assert seen[:2] == seen[2:]
    assert seen[0] == keys.spki(material.private_key.public_key())
    assert seen[1] == material.reintroduction_key.public_key().public_bytes_raw()


def test_another_invitation_means_another_key(fake: Fake, out: Path) -> None:
    """A key that was shown to one registrar is not shown to the next."""
    seen = []
    fake.answer = lambda request, _digest: seen.append(request.csr)
    for seed in (b"a" * 32, b"b" * 32):
        with pytest.raises(Unreachable):
            joining(fake, out, seed=a_line(PKI, seed=seed).seed)
    assert keys.spki(csr.read(seen[0])) != keys.spki(csr.read(seen[1]))


@pytest.mark.parametrize("years", [-60, -3, 3, 40])
def test_P9_a_clock_that_is_years_off_joins_and_is_told(fake: Fake, out: Path, years: int) -> None:
    """A new machine's clock says nothing: the registrar's counts, within the invitation's times."""
    wrong = NOW.replace(year=NOW.year + years)
    joined = joining(fake, out, now=lambda: wrong)
    assert joined.clock_offset == NOW - wrong
    assert Keystore(out).load().identity["clock_offset_seconds"] == round((NOW - wrong).total_seconds())


def test_an_expired_invitation_is_refused_before_anything_is_sent(fake: Fake, out: Path) -> None:
    """Expired by the verified registrar's clock: nothing but the hello was sent."""
    with pytest.raises(InvitationExpired, match="expired at"):
        joining(fake, out, not_before=NOW - DAY, not_after=NOW)
    assert fake.requests == ["GET /v1/hello"]


def test_an_impostor_cannot_make_an_invitation_look_expired(out: Path) -> None:
    """Who claims a late time without the pinned root is an impostor first, whatever time he claims."""
    with Fake(OTHER) as impostor:
        impostor.time = NOW + 400 * DAY
        with pytest.raises(UntrustedPeer):
            joining(impostor, out)


def test_a_registrar_of_the_past_is_refused(fake: Fake, out: Path) -> None:
    """Its time is before the invitation was made: perhaps an old certificate of which somebody has the key."""
    with pytest.raises(UntrustedPeer, match="before the invitation was made"):
        joining(fake, out, not_before=NOW + HOUR, not_after=NOW + DAY)
    assert fake.requests == ["GET /v1/hello"]
    joining(fake, out, not_before=NOW + timedelta(minutes=4), not_after=NOW + DAY)


def test_a_refusal_comes_with_its_code(fake: Fake, out: Path) -> None:
    """What the registrar refuses ends in the same class here, and nothing is adopted."""
    body = msgspec.json.encode(wire.Problem("no", 403, "evidence-rejected", hint="ask"))
    fake.answer = lambda _request, _digest: http(body, status="403 Forbidden")
    with pytest.raises(EvidenceRejected):
        joining(fake, out)
    assert adopted(out) == []


@pytest.mark.parametrize("body", [b"{}", b"[" * 100_000, b'{"certificate":1}'])
def test_an_answer_that_is_none_is_refused(fake: Fake, out: Path, body: bytes) -> None:
    """Malformed, and nothing is adopted."""
    fake.answer = lambda _request, _digest: http(body)
    with pytest.raises(Malformed):
        joining(fake, out)
    assert adopted(out) == []


@pytest.mark.parametrize("answer", [lambda whole: whole[: len(whole) // 2], lambda _whole: None], ids=["half", "none"])
def test_a_lost_answer_is_unreachable(
    fake: Fake, out: Path, answer: Callable[[bytes], bytes | None], monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half an answer, or none: exit code 4 and not 3, since running it again will do."""
    monkeypatch.setattr(connection, "DEADLINE", 1.0)
    honest = fake.answer
    fake.answer = lambda request, digest: answer(honest(request, digest) or b"")
    with pytest.raises(Unreachable):
        joining(fake, out)
    fake.answer = honest
    joining(fake, out)


def test_what_the_disk_would_refuse_is_refused_before_anything_is_sent(fake: Fake, out: Path) -> None:
    """An unknown layout or owner, or somebody's own file in the way, does not cost an invitation."""
    line = a_line(PKI, fake.address)
    for layouts, owner in ((("parchment",), None), (("pem",), "nobody-of-this-name")):
        with pytest.raises(UsageError):
            join(Invited(line, Wish()), Keystore(out), layouts=layouts, owner=owner, now=lambda: NOW)
    out.mkdir(mode=0o700, exist_ok=True)
    (out / "cert.pem").write_text("mine")
    with pytest.raises(HandfastError):
        joining(fake, out)
    assert (out / "cert.pem").read_text() == "mine"
    assert fake.requests == []


def test_the_same_invitation_said_again_is_the_same_machine(fake: Fake, out: Path) -> None:
    """A boot script that runs twice asks with the key that it has, and raises no alarm."""
    joining(fake, out)
    before = Keystore(out).load()
    joining(fake, out)
    after = Keystore(out).load()
    assert keys.spki(after.certificate.public_key()) == keys.spki(before.certificate.public_key())


def test_an_invitation_said_again_after_the_end_points_to_renewal(fake: Fake, out: Path) -> None:
    """The registrar would answer with the certificate that has expired, which would look like an impostor's."""
    joining(fake, out)
    asked = len(fake.requests)
    with pytest.raises(Refused, match="its certificate has expired") as caught:
        joining(fake, out, now=lambda: NOW + 2 * DAY)
    assert "handfast renew" in caught.value.hint
    assert len(fake.requests) == asked
