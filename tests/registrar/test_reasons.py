"""Taking back: for which reason, how much of it, and what an operator is told."""

from __future__ import annotations

import contextlib
from typing import Any, cast

import pytest

from handfast.core.ports import Ledger
from handfast.core.roles import Role
from handfast.errors import InvitationCancelled, Refused, Revoked, UsageError
from handfast.registrar.administer import Administration
from tests.registrar.house import HOUR, Crash, Faulty, House, Newcomer, crash


@pytest.mark.parametrize("text", ["keyCompromise", "KEYCOMPROMISE", "key-compromise", "key compromise"])
def test_a_reason_is_known_in_any_spelling(house: House, text: str) -> None:
    """The CRL gets the standard's word, and nothing is remarked."""
    house.join(house.invite(), Newcomer())
    house.administration.revoke("web1.lan", reason=text)
    assert [revocation.reason for revocation in house.ledger.revocations()] == ["keyCompromise"]
    assert house.ledger.events(kind_prefix="revocation.remark") == []


def test_own_words_stay_in_the_log(house: House) -> None:
    """The CRL, which strangers read, says that it is not specified; the log says why."""
    house.join(house.invite(), Newcomer())
    house.administration.revoke("web1.lan", reason="left on a train")
    assert [revocation.reason for revocation in house.ledger.revocations()] == ["unspecified"]
    [remark] = house.ledger.events(kind_prefix="revocation.remark")
    assert (remark.subject, remark.fields) == ("web1.lan", {"remark": "left on a train"})


@pytest.mark.parametrize("text", ["", "x" * 201, "two\nlines", "\x1b[2J"])
def test_what_fits_on_no_line_is_refused(house: House, text: str) -> None:
    """Nothing is revoked by it."""
    house.join(house.invite(), Newcomer())
    with pytest.raises(UsageError, match="not a reason"):
        house.administration.revoke("web1.lan", reason=text)
    assert house.ledger.revocations() == []


def test_a_serial_is_taken_back_with_what_succeeded_it(house: House) -> None:
    """Who stole a key and renewed with it does not keep the successor."""
    stolen, thief = Newcomer(), Newcomer()
    first = house.join(house.invite(), stolen).credential.serial
    second = house.introduce(house.renewing(stolen, first, thief)).credential.serial
    assert set(house.administration.revoke(f"{first:032x}", reason="keyCompromise")) == {first, second}
    with pytest.raises(Revoked):
        house.introduce(house.renewing(thief, second, Newcomer()))


def test_a_superseded_serial_leaves_its_successor(house: House) -> None:
    """The machine goes on with the new one."""
    old, new = Newcomer(), Newcomer()
    first = house.join(house.invite(), old).credential.serial
    second = house.introduce(house.renewing(old, first, new)).credential.serial
    assert house.administration.revoke(f"{first:032x}", reason="superseded") == (first,)
    assert house.ledger.credential(second) is not None
    house.introduce(house.renewing(new, second, Newcomer()))


def test_another_operator_was_faster(house: House) -> None:
    """Half of it is revoked by somebody else meanwhile: the other half is taken back all the same."""
    old, new = Newcomer(), Newcomer()
    first = house.join(house.invite(), old).credential.serial
    house.introduce(house.renewing(old, first, new))
    base = house.administration

    class Faster:
        """The ledger, on which somebody else revokes the first one just before we do."""

        def __getattr__(self, name: str) -> Any:
            return getattr(house.ledger, name)

        def revoke(self, serial: int, **why: Any) -> Any:
            with contextlib.suppress(Revoked):
                house.ledger.revoke(first, reason="unspecified", at=house.clock.time).result()
            return house.ledger.revoke(serial, **why)

    slow = Administration(cast(Ledger, Faster()), base.clock, base.pin, base.addresses, base.excluded)
    slow.revoke("web1.lan", reason="keyCompromise")
    assert all(held.revoked_at is not None for held in house.ledger.credentials("web1.lan"))


def test_inviting_a_machine_that_holds_something_is_remarked(house: House) -> None:
    """A thief joins, keeps the honest machine away until the invitation expires: the next invitation tells."""
    house.join(house.invite(), Newcomer())
    _, again = house.administration.invite("web1.lan", role=Role.SERVER, lasting=HOUR)
    [remark] = house.administration.remarks(again)
    assert "web1.lan holds a credential that is valid or can come back" in remark


def test_a_server_without_a_name_is_remarked(house: House) -> None:
    """Nobody could verify it by name."""
    _, made = house.administration.invite("my_host", role=Role.SERVER, lasting=HOUR)
    assert ["--san" in remark for remark in house.administration.remarks(made)] == [True]
    _, made = house.administration.invite("my_host", role=Role.CLIENT, lasting=HOUR)
    assert list(house.administration.remarks(made)) == []


def test_an_invitation_is_cancelled_by_its_key_id(house: House) -> None:
    """One of several for the same machine; what came of the others stays."""
    house.join(house.invite(), Newcomer())
    lost = house.invite()
    assert house.administration.revoke(lost.key_id, reason="keyCompromise") == ()
    with pytest.raises(InvitationCancelled):
        house.join(lost, Newcomer())
    assert house.ledger.revocations() == []


def test_what_came_of_an_invitation_is_taken_back_with_it(house: House) -> None:
    """Somebody else has used it and renewed since: the operator names the key id that is in the alarm."""
    stolen, thief, later = house.invite(), Newcomer(), Newcomer()
    first = house.join(stolen, thief).credential.serial
    second = house.introduce(house.renewing(thief, first, later)).credential.serial
    assert set(house.administration.revoke(stolen.key_id, reason="keyCompromise")) == {first, second}
    with pytest.raises(Revoked):
        house.introduce(house.renewing(later, second, Newcomer()))
    with pytest.raises(Refused, match="nothing that could be revoked"):
        house.administration.revoke(stolen.key_id, reason="keyCompromise")


def test_an_abandoned_successor_is_no_way_back(house: House) -> None:
    """A credential expired; its key asked for a successor, which was abandoned: revoking the machine closes that."""
    who, late = Newcomer(), Newcomer()
    first = house.join(house.invite(), who).credential
    house.clock.time = first.grant.not_after + HOUR
    with pytest.raises(Crash):
        house.introduce(
            house.returning(who, first.serial, late),
            registrar=house.registrar(authority=Faulty(house.authority, "issue", before=crash)),
        )
    house.clock.time += 3 * HOUR
    assert house.ledger.abandon_intents(house.clock.time, at=house.clock.time).result() == 1
    assert first.serial in house.administration.revoke("web1.lan", reason="keyCompromise")
    with pytest.raises(Revoked):
        house.introduce(house.returning(who, first.serial, late))


def test_a_lapsed_machine_that_can_come_back_is_remarked(house: House) -> None:
    """Its credential has expired, and whoever has its reintroduction key is in again: the operator is told."""
    first = house.join(house.invite(), Newcomer()).credential
    house.clock.time = first.grant.not_after + HOUR
    _, again = house.administration.invite("web1.lan", role=Role.SERVER, lasting=HOUR)
    assert len(list(house.administration.remarks(again))) == 1
