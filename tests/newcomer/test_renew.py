"""The successor of a credential over real TLS: how it is asked for, when, and what stays when it is refused."""

from __future__ import annotations

import dataclasses
import json
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from handfast.core import csr, keys, wire
from handfast.core.flow import Wish
from handfast.core.roles import GRANTABLE, Role
from handfast.errors import Fault, NotFound, Revoked, Unreachable, UntrustedPeer
from handfast.introducers.invitation import Invited
from handfast.newcomer.join import join
from handfast.newcomer.keystore import Keystore
from handfast.newcomer.renew import EARLIEST, LATEST, held, renew
from tests.authority.helpers import DAY, HOUR, NOW, Pki, new_key
from tests.newcomer.fake import Fake, a_line, http

PKI = Pki.make()


@pytest.fixture
def fake() -> Iterator[Fake]:
    """A registrar that is honest until it is told otherwise."""
    with Fake(PKI) as started:
        yield started


@pytest.fixture
def out(tmp_path: Path) -> Path:
    """Where the newcomer keeps its identity."""
    return tmp_path / "out"


def joined(fake: Fake, out: Path, role: Role = Role.SERVER) -> Keystore:
    """A machine that has joined at NOW."""
    fake.role = role
    line, keystore = a_line(PKI, fake.address), Keystore(out)
    join(Invited(line, Wish()), keystore, layouts=("pem",), owner=None, now=lambda: NOW)
    fake.requests.clear()
    return keystore


@pytest.mark.parametrize("role", sorted(GRANTABLE))
def test_every_role_renews(fake: Fake, out: Path, role: Role) -> None:
    """With a new key, proved by the old one; who dials presents its certificate in the handshake too."""
    keystore = joined(fake, out, role)
    old = keystore.load()
    fake.time = NOW + 12 * HOUR
    now_held = renew(keystore, now=lambda: NOW + 12 * HOUR)
    new = keystore.load()
    assert new.private_key.public_key() != old.private_key.public_key()
    assert new.reintroduction_key.public_key() != old.reintroduction_key.public_key()
    assert now_held.identity.role is role
    assert now_held.issued_at == NOW + 12 * HOUR
    assert new.identity["predecessor"] == f"{old.certificate.serial_number:032x}"
    assert new.identity["method"] == "renewal"
    assert fake.requests[-1] == "POST /v1/introductions/renewal"
    assert (fake.client is not None) is role.dials
    if fake.client is not None:
        assert fake.client == old.certificate


def test_after_its_end_it_comes_back_by_reintroduction(fake: Fake, out: Path) -> None:
    """The registrar's clock says that it has expired, and so does the machine's own: the kept key signs."""
    keystore = joined(fake, out)
    fake.time = NOW + 2 * DAY
    with pytest.raises(UntrustedPeer, match="does not chain"):
        renew(keystore, now=lambda: NOW + 2 * DAY)  # the fake's own certificate has ended, too
    fake.requests.clear()
    assert renew(keystore, now=lambda: NOW + DAY - HOUR).material.identity["method"] == "reintroduction"
    assert fake.requests == ["GET /v1/hello", "POST /v1/introductions/reintroduction"]


def move(out: Path, fake: Fake) -> None:
    """Let the machine call this one from now on."""
    path = next(out.glob(".generations/*/identity.json"))
    about = json.loads(path.read_text())
    about["addresses"] = [str(fake.address)]
    path.write_text(json.dumps(about))


@pytest.mark.parametrize("lie", ["another key", "another name", "another role"])
def test_a_lie_leaves_the_old_credential_in_use(fake: Fake, out: Path, lie: str) -> None:
    """The successor has exactly the names and the role of its predecessor, or it is none."""
    keystore = joined(fake, out)
    before = keystore.load().leaf
    fake.lie(
        leaf=lambda request: {
            "another key": lambda: fake.leaf_for(request, public_key=new_key().public_key()),
            "another name": lambda: fake.leaf_for(request, names=("web1.home.lan", "more.home.lan")),
            "another role": lambda: fake.leaf_for(request, role=Role.PEER),
        }[lie]()
    )
    with pytest.raises(UntrustedPeer):
        renew(keystore, now=lambda: NOW)
    assert keystore.load().leaf == before


def test_P4_a_lost_answer_is_asked_for_with_the_same_key(fake: Fake, out: Path) -> None:
    """The old credential stays in use, and the pending key waits."""
    keystore = joined(fake, out)
    before, seen = keystore.load().leaf, []
    honest = fake.answer
    fake.answer = lambda request, _digest: seen.append(request.csr)
    for _ in range(2):
        with pytest.raises(Unreachable):
            renew(keystore, now=lambda: NOW)
    assert keystore.load().leaf == before
    fake.answer = honest
    renewed = renew(keystore, now=lambda: NOW)
    expected = keys.spki(renewed.material.private_key.public_key())
    assert [keys.spki(csr.read(der)) for der in seen] == [expected, expected]


def test_revoked_is_said_and_changes_nothing(fake: Fake, out: Path) -> None:
    """The machine keeps what it has and knows why it gets nothing more."""
    keystore = joined(fake, out)
    before = keystore.load().leaf
    body = msgspec.json.encode(wire.Problem("revoked", 403, "revoked", detail="was revoked (keyCompromise)"))
    fake.answer = lambda _request, _digest: http(body, status="403 Forbidden")
    with pytest.raises(Revoked, match="keyCompromise"):
        renew(keystore, now=lambda: NOW)
    assert keystore.load().leaf == before


def test_P1_another_root_gets_no_request(fake: Fake, out: Path) -> None:
    """The handshake itself fails: not even a hello is sent."""
    keystore = joined(fake, out)
    with Fake(Pki.make()) as impostor:
        move(out, impostor)
        with pytest.raises(UntrustedPeer, match="not from our root"):
            renew(keystore, now=lambda: NOW)
        assert impostor.requests == []


def test_P6_a_joined_machine_in_the_middle_gets_a_hello(fake: Fake, out: Path) -> None:
    """Right root, wrong role: refused after the hello, before any evidence; the certificate is not shown either."""
    keystore = joined(fake, out, Role.PEER)
    with Fake(PKI, role=Role.PEER) as middle:
        move(out, middle)
        with pytest.raises(UntrustedPeer, match="is a peer, not a registrar"):
            renew(keystore, now=lambda: NOW)
        assert middle.requests == ["GET /v1/hello"]
        assert middle.client is None


def test_P9_time_is_never_rolled_back(fake: Fake, out: Path) -> None:
    """A clock that was reset to 1970 counts as the time of the last certificate, one far ahead refuses."""
    keystore = joined(fake, out)
    assert renew(keystore, now=lambda: NOW - timedelta(days=20_000)).issued_at == NOW
    with pytest.raises(UntrustedPeer, match="does not chain"):
        renew(keystore, now=lambda: NOW + timedelta(days=1000))


def test_nothing_joined_renews_nothing(out: Path) -> None:
    """With the command that would help."""
    with pytest.raises(NotFound) as caught:
        renew(Keystore(out), now=lambda: NOW)
    assert "join" in caught.value.hint


@pytest.mark.parametrize(
    "change",
    [{"pin": "short"}, {"pin": None}, {"addresses": "x"}, {"addresses": ["nowhere"]}, {"issued_at": "then"}],
)
def test_a_damaged_identity_is_a_fault(fake: Fake, out: Path, change: dict[str, object]) -> None:
    """Ours, not the registrar's refusal: with what to do."""
    keystore = joined(fake, out)
    path = next(out.glob(".generations/*/identity.json"))
    path.write_text(json.dumps(json.loads(path.read_text()) | change))
    with pytest.raises(Fault, match=r"identity\.json") as caught:
        held(keystore)
    assert caught.value.hint


def test_it_is_due_between_half_and_two_thirds(fake: Fake, out: Path) -> None:
    """The same moment however often a timer asks, and another for each serial."""
    keystore = joined(fake, out)
    holding = held(keystore)
    life = holding.identity.not_after - holding.issued_at
    assert holding.issued_at + life * EARLIEST <= holding.due_at <= holding.issued_at + life * LATEST
    assert held(keystore).due_at == holding.due_at
    moments = {dataclasses.replace(holding, serial=serial).due_at for serial in range(1, 101)}
    assert len(moments) == 100
