"""What an operator does: every bound is checked, and taking back takes back everything."""

from __future__ import annotations

import base64
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from handfast.core.names import Names, network
from handfast.core.roles import Role
from handfast.errors import (
    AlreadySpent,
    HandfastError,
    InvitationCancelled,
    Malformed,
    NotFound,
    Refused,
    Revoked,
    UsageError,
)
from handfast.registrar.administer import LONGEST_INVITATION, MOST_USES, Administration
from handfast.registrar.operator import LocalOperator
from tests.registrar.house import ADDRESS, HOUR, NOW, Faulty, House, Newcomer


def test_an_invitation_keeps_the_public_half_only(house: House) -> None:
    """The seed is in the line and nowhere in the store."""
    line, record = house.administration.invite("Web1.LAN", role=Role.SERVER, lasting=HOUR)
    assert house.ledger.invitation(line.key_id) == record
    assert record.public_half == line.public_key()
    assert (record.machine, record.names.texts(), record.uses) == ("web1.lan", ("web1.lan",), 1)
    assert (line.not_before, line.not_after, line.addresses) == (NOW, NOW + HOUR, (ADDRESS,))
    assert line.pin == house.authority.pin


def test_P12_no_seed_reaches_the_disk(house: House) -> None:
    """Neither raw nor in hex or base64, in the database, its write-ahead log or its index."""
    line = house.invite()
    house.join(line, Newcomer())
    seed, path = line.seed.reveal(), Path(house.ledger.name)
    content = b"".join(file.read_bytes() for file in path.parent.glob(f"{path.name}*"))
    assert line.key_id.encode() in content
    for form in (seed, seed.hex().encode(), base64.b64encode(seed), base64.urlsafe_b64encode(seed)[:40]):
        assert form not in content
    for text in line.reveal(), line.reveal()[20:80]:
        assert text.encode() not in content


def test_two_invitations_share_nothing(house: House) -> None:
    """Seeds are random: the same command twice makes two."""
    assert house.invite().key_id != house.invite().key_id


@pytest.mark.parametrize(
    ("bounds", "error"),
    [
        ({"role": Role.REGISTRAR}, UsageError),
        ({"lasting": timedelta(0)}, UsageError),
        ({"lasting": -HOUR}, UsageError),
        ({"lasting": LONGEST_INVITATION + timedelta(seconds=1)}, UsageError),
        ({"uses": 0}, UsageError),
        ({"uses": -1}, UsageError),
        ({"uses": MOST_USES + 1}, UsageError),
        ({"sans": ("*.lan",)}, Malformed),
        ({"sans": ("",)}, Malformed),
        ({"sans": ("a.lan",) * 65}, Malformed),
    ],
)
def test_a_bound_that_means_nothing_is_refused(house: House, bounds: dict[str, Any], error: type[Exception]) -> None:
    """Zero is not unlimited, and nobody is invited to be a registrar; nothing is written."""
    with pytest.raises(error) as caught:
        house.invite(**bounds)
    assert isinstance(caught.value, HandfastError)
    assert caught.value.hint
    assert house.ledger.invitations() == []


@pytest.mark.parametrize("name", ["", "a b", "../x", "a/b", "ä"])
def test_a_bad_name_is_refused(house: House, name: str) -> None:
    """It would become a path of a SPIFFE ID."""
    with pytest.raises(Malformed):
        house.invite(name)


def test_a_machine_that_can_have_no_dns_name_has_none(house: House) -> None:
    """An underscore is fine for a client's name; its certificate carries no DNS name then."""
    house.invite("my_laptop", role=Role.CLIENT)
    assert house.ledger.invitations()[0].names == Names()


def test_without_an_address_there_is_no_invitation(house: House) -> None:
    """A line that leads nowhere would only be found out on the newcomer."""
    lost = Administration(house.ledger, house.clock, house.authority.pin, (), house.authority.excluded)
    with pytest.raises(UsageError, match="address"):
        lost.invite("web1.lan", role=Role.SERVER, lasting=HOUR)


def test_networks_are_kept(house: House) -> None:
    """None is everywhere, and an empty tuple stays nowhere."""
    for sources in (None, (), (network("10.0.0.0/24"),)):
        line = house.invite(sources=sources)
        record = house.ledger.invitation(line.key_id)
        assert record is not None
        assert record.sources == sources


def test_show_has_everything_and_list_has_everybody(house: House) -> None:
    """Invited, joined and alarming machines; one that nobody knows is not found."""
    line = house.invite()
    house.invite("web2.lan")
    house.join(line, Newcomer())
    with pytest.raises(AlreadySpent):
        house.join(line, Newcomer())
    listed = LocalOperator(house.administration).list()
    assert [(each.name, each.alarm_count) for each in listed] == [("web1.lan", 1), ("web2.lan", 0)]
    one, two = (house.administration.show(name) for name in ("web1.lan", "web2.lan"))
    assert (len(one.credentials), len(one.invitations), len(one.alarms)) == (1, 1, 1)
    assert two.machine is None
    assert house.administration.show("WEB1.lan") == one
    for name in ("web3.lan", "0" * 32):
        with pytest.raises(NotFound, match="no machine"):
            house.administration.show(name)


def test_a_serial_can_be_revoked(house: House) -> None:
    """In hex, with or without colons; once."""
    credential = house.join(house.invite(), Newcomer()).credential
    text = f"{credential.serial:032X}"
    assert house.administration.revoke(text, reason="superseded") == (credential.serial,)
    with pytest.raises(Revoked):
        house.administration.revoke(":".join(text[i : i + 2] for i in range(0, 32, 2)), reason="superseded")
    assert [revocation.reason for revocation in house.ledger.revocations()] == ["superseded"]


@pytest.mark.parametrize("reason", ["", "x" * 10_000, "two\nlines", "\x1b[31mred"])
def test_a_reason_is_one_line(house: House, reason: str) -> None:
    """It is shown to people; nothing is revoked by a mistake."""
    house.join(house.invite(), Newcomer())
    with pytest.raises(UsageError) as caught:
        house.administration.revoke("web1.lan", reason=reason)
    assert "keyCompromise" in caught.value.hint
    assert house.ledger.revocations() == []


def test_who_holds_nothing_cannot_be_revoked(house: House) -> None:
    """An unknown name is not found; one that was revoked has nothing left."""
    with pytest.raises(NotFound):
        house.administration.revoke("web1.lan", reason="keyCompromise")
    house.join(house.invite(), Newcomer())
    house.administration.revoke("web1.lan", reason="keyCompromise")
    with pytest.raises(Refused, match="nothing that could be revoked"):
        house.administration.revoke("web1.lan", reason="keyCompromise")


def test_revoking_a_machine_takes_back_everything(house: House) -> None:
    """Both valid credentials of a renewal, and invitations that are still open."""
    old, new = Newcomer(), Newcomer()
    first = house.join(house.invite(), old).credential.serial
    second = house.introduce(house.renewing(old, first, new)).credential.serial
    open_line = house.invite()
    assert set(house.administration.revoke("web1.lan", reason="keyCompromise")) == {first, second}
    with pytest.raises(InvitationCancelled):
        house.join(open_line, Newcomer())
    for who, serial in ((old, first), (new, second)):
        with pytest.raises(Revoked):
            house.introduce(house.renewing(who, serial, Newcomer()))


def test_an_open_invitation_alone_can_be_revoked(house: House) -> None:
    """A machine that has not come yet."""
    line = house.invite()
    assert house.administration.revoke("web1.lan", reason="superseded") == ()
    with pytest.raises(InvitationCancelled):
        house.join(line, Newcomer())


def test_an_old_copy_of_the_keys_does_not_come_back_after_revocation(house: House) -> None:
    """The first credential expired, the machine joined anew; a thief with the first one's keys is shut out, too."""
    stolen = Newcomer()
    first = house.join(house.invite(), stolen).credential
    house.clock.time = first.grant.not_after + HOUR
    house.join(house.invite(), Newcomer())
    assert first.serial in house.administration.revoke("web1.lan", reason="keyCompromise")
    with pytest.raises(Revoked):
        house.introduce(house.returning(stolen, first.serial, Newcomer()))


def test_what_has_a_successor_and_has_ended_is_left_alone(house: House) -> None:
    """The CRL does not grow with a machine's whole past."""
    old, new = Newcomer(), Newcomer()
    first = house.join(house.invite(), old).credential
    house.clock.time += 23 * HOUR
    second = house.introduce(house.renewing(old, first.serial, new)).credential
    house.clock.time += 2 * HOUR
    assert house.administration.revoke("web1.lan", reason="keyCompromise") == (second.serial,)


@pytest.mark.parametrize("point", ["join", "renew"])
def test_who_comes_while_being_revoked_is_revoked_too(house: House, point: str) -> None:
    """A join or a renewal between reading and revoking does not slip through."""
    line, who, late = house.invite(uses=2), Newcomer(), Newcomer()
    first = house.join(line, who).credential.serial

    def slip() -> None:
        if faulty.calls == 1:
            house.join(line, late) if point == "join" else house.introduce(house.renewing(who, first, late))

    method = {"join": "cancel", "renew": "revoke"}[point]
    faulty = Faulty(house.ledger, method, before=slip)
    base = house.administration
    slow = Administration(faulty, base.clock, base.pin, base.addresses, base.excluded)
    slow.revoke("web1.lan", reason="keyCompromise")
    held = house.ledger.credentials("web1.lan")
    assert len(held) == 2
    assert all(credential.revoked_at is not None for credential in held)
