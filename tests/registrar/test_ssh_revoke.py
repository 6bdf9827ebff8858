"""What an operator takes back for SSH: a certificate by its serial, or those of whoever has no credential any more."""

from __future__ import annotations

from concurrent.futures import Future
from datetime import datetime
from typing import Any, cast

import pytest

from handfast.authority.sshsign import SshSigner
from handfast.core import views
from handfast.core.hosts import How, Place
from handfast.core.ports import Ledger
from handfast.core.records import SshRecord
from handfast.core.roles import Role
from handfast.core.sshcert import Kind, SshCertificate
from handfast.errors import Malformed, NotFound, Refused, Revoked, UsageError
from handfast.registrar import ssh_revoke
from handfast.registrar.operator import LocalOperator
from tests.registrar.hosts import believed, check_log, operator, signer, ssh
from tests.registrar.house import HOUR, NOW, House, Newcomer
from tests.ssh.certified import certify


def certified(house: House, holder: str = "web1.lan", key: int = 1, *, kind: Kind = Kind.HOST) -> SshCertificate:
    """Have a certificate made."""
    made = SshSigner.of(house.authority)
    return certify(house.ledger, made, holder, signer(key).public, kind=kind, at=house.clock.now())


def revoked(house: House) -> set[int]:
    """Which serials the next list has."""
    state = house.ledger.publish_krl("registrar", at=house.clock.now()).result()
    return {*state.hosts, *state.users}


def known(house: House, machine: str = "web1.lan", key: int = 1) -> None:
    """A machine that is known for SSH, and has no credential."""
    place = Place.parse([machine])
    operator(house).register(machine, (signer(key).public,), how=How.OPERATOR, detail="by me", place=place)


def test_a_certificate_is_taken_back_by_its_serial(house: House) -> None:
    """One, and no other; again, it is said that it was before. The operator's words are in the log."""
    known(house)
    mine, other = certified(house), certified(house, key=1, kind=Kind.USER)
    administration = house.administration
    assert administration.revoke_ssh(str(mine.serial), reason="it was stolen").revoked_reason == "unspecified"
    assert revoked(house) == {mine.serial}
    assert other.serial not in revoked(house)
    with pytest.raises(Revoked, match="was revoked before"):
        administration.revoke_ssh(str(mine.serial), reason="superseded")
    (remark,) = house.ledger.events(kind_prefix="revocation.remark")
    assert (remark.subject, remark.fields) == (str(mine.serial), {"remark": "it was stolen"})
    check_log(house)


@pytest.mark.parametrize("serial", ["", "0", "05", "-5", "+5", " 5", "5\n", "0x5", "a" * 16, "1" * 32, "web1.lan"])
def test_what_is_no_serial_is_refused(house: House, serial: str) -> None:
    """Nothing is read as something else: what is in hex is a credential's."""
    with pytest.raises(Malformed, match="not the serial of an SSH certificate") as caught:
        house.administration.revoke_ssh(serial, reason="superseded")
    assert "without --ssh" in caught.value.hint


@pytest.mark.parametrize("reason", ["", "x" * 201, "a\nb"])
def test_a_reason_is_a_line(house: House, reason: str) -> None:
    """As for a credential."""
    with pytest.raises(UsageError, match="not a reason"):
        house.administration.revoke_ssh("5", reason=reason)


def test_an_ssh_serial_without_the_flag_is_recognized(house: House) -> None:
    """Digits are a machine's name or a serial in hex; where an SSH certificate has them, that is said."""
    known(house)
    mine = certified(house)
    with pytest.raises(NotFound, match="no machine") as caught:
        house.administration.revoke(str(mine.serial), reason="superseded")
    assert caught.value.hint == "it is an SSH certificate's serial: add --ssh"
    assert revoked(house) == set()


def test_P33_with_the_machine_go_its_certificates(house: House) -> None:
    """Its host keys retire, and the ledger takes back what certifies them; the operator is told which."""
    house.join(house.invite(), Newcomer(), host=ssh(1, 2))
    both = {certified(house, key=1).serial, certified(house, key=2).serial}
    answer = LocalOperator(house.administration).revoke(views.RevokeRequest("web1.lan", "keyCompromise"))
    assert {int(serial) for serial in answer.ssh} == both == revoked(house)
    assert len(answer.host_keys) == 2
    assert len(answer.serials) == 1


def test_a_machine_that_is_known_to_ssh_alone_is_revoked_too(house: House) -> None:
    """It has never had a credential, and has a certificate."""
    known(house)
    mine = certified(house)
    answer = LocalOperator(house.administration).revoke(views.RevokeRequest("web1.lan", "keyCompromise"))
    assert answer == views.RevokeAnswer([], [signer(1).public.fingerprint], [str(mine.serial)])
    assert believed(house) == set()
    with pytest.raises(NotFound, match="no machine"):
        house.administration.revoke("web1.lan", reason="keyCompromise")


@pytest.mark.parametrize("by", ["serial", "invitation"])
@pytest.mark.parametrize(
    ("reason", "stays"), [("keyCompromise", False), ("in my own words", False), ("superseded", True)]
)
def test_P33_with_the_last_credential_go_the_certificates(house: House, by: str, reason: str, stays: bool) -> None:
    """
    Also where it is taken back by its serial, or with its invitation, and with the host keys themselves.

    Else one that has no certificate yet would get it afterwards. What is merely superseded leaves all of it.
    """
    line = house.invite()
    serial = house.join(line, Newcomer(), host=ssh(1, 2)).credential.serial
    mine = certified(house)
    what = f"{serial:032x}" if by == "serial" else line.key_id
    answer = LocalOperator(house.administration).revoke(views.RevokeRequest(what, reason))
    assert answer.ssh == ([] if stays else [str(mine.serial)])
    assert len(answer.host_keys) == (0 if stays else 2)
    assert revoked(house) == (set() if stays else {mine.serial})
    assert believed(house) == ({1, 2} if stays else set())
    check_log(house)


def test_affiliation_changed_takes_certificates_and_leaves_sound_keys(house: House) -> None:
    """The machine's new home may certify them."""
    serial = house.join(house.invite(), Newcomer(), host=ssh(1)).credential.serial
    mine = certified(house)
    house.administration.revoke(f"{serial:032x}", reason="affiliationChanged")
    assert revoked(house) == {mine.serial}
    assert believed(house) == {1}
    assert certified(house).serial != mine.serial


def test_with_one_of_several_credentials_they_stay(house: House) -> None:
    """The machine is still introduced."""
    first = house.join(house.invite(), Newcomer(), host=ssh(1)).credential.serial
    house.join(house.invite(), Newcomer())
    certified(house)
    house.administration.revoke(f"{first:032x}", reason="keyCompromise")
    assert revoked(house) == set()


def test_an_unused_invitation_takes_nothing_along(house: House) -> None:
    """A machine that is known to SSH, and was only invited, keeps its certificate."""
    known(house)
    certified(house)
    house.administration.revoke(house.invite().key_id, reason="keyCompromise")
    assert revoked(house) == set()


def test_a_run_that_was_cut_off_is_finished(house: House) -> None:
    """The credential went, and the certificates did not: the same command does the rest."""
    serial = house.join(house.invite(), Newcomer(), host=ssh(1)).credential.serial
    mine = certified(house)
    house.ledger.revoke(serial, reason="keyCompromise", at=house.clock.now()).result()
    assert house.administration.revoke(f"{serial:032x}", reason="keyCompromise") == ()
    assert revoked(house) == {mine.serial}
    with pytest.raises(Refused):
        house.administration.revoke(f"{serial:032x}", reason="keyCompromise")


def test_P33_an_operator_s_logins_go_with_his_credential(house: House) -> None:
    """With the last one; a machine's certificate whose name he has, and others' logins, stay."""
    serial = house.join(house.invite("kim", role=Role.OPERATOR), Newcomer()).credential.serial
    mine, hers = certified(house, "kim", 5, kind=Kind.USER), certified(house, "lee", 6, kind=Kind.USER)
    house.administration.revoke(f"{serial:032x}", reason="privilegeWithdrawn")
    assert revoked(house) == {mine.serial}
    assert house.ledger.ssh_certificate(hers.serial) is not None


class Slow:
    """A ledger in which somebody gets another certificate while the first is taken back."""

    def __init__(self, house: House) -> None:
        self._house = house

    def __getattr__(self, name: str) -> Any:
        return getattr(self._house.ledger, name)

    def revoke_ssh(self, serial: int, *, reason: str, at: datetime) -> Future[None]:
        """As the ledger does, and too late."""
        done = self._house.ledger.revoke_ssh(serial, reason=reason, at=at)
        done.result()
        if len(self._house.ledger.ssh_certificates("web1.lan")) < 2:
            certified(self._house, key=2)
        return done


def test_a_certificate_that_is_got_meanwhile_goes_too(house: House) -> None:
    """It is looked again until nothing is found; and for the keys of these certificates there are no others."""
    known(house)
    known(house, key=2)
    certified(house)
    assert ssh_revoke.take_back(cast(Ledger, Slow(house)), "web1.lan", code="keyCompromise", at=NOW)
    assert len(revoked(house)) == 2
    with pytest.raises(Revoked, match="was revoked"):
        certified(house)


class Few(Slow):
    """A ledger that gives three at once, in the place of a thousand."""

    def ssh_standing(self, holder: str, *, at: datetime) -> list[SshRecord]:
        """As the ledger does."""
        return self._house.ledger.ssh_standing(holder, at=at)[:3]

    def revoke_ssh(self, serial: int, *, reason: str, at: datetime) -> Future[None]:
        """As the ledger does."""
        return self._house.ledger.revoke_ssh(serial, reason=reason, at=at)


def test_P33_nobody_keeps_a_certificate_by_having_many(house: House) -> None:
    """Who fetches certificates by the thousand, before his credential is revoked, has none afterwards."""
    made = {certified(house, "kim", number, kind=Kind.USER).serial for number in range(1, 8)}
    assert ssh_revoke.take_back(cast(Ledger, Few(house)), "kim", code="keyCompromise", at=NOW)
    assert revoked(house) == made


def test_what_is_over_is_not_taken_back(house: House) -> None:
    """It would only fill the log."""
    known(house)
    certified(house)
    house.clock.time = NOW + 2 * HOUR
    assert not ssh_revoke.take_back(house.ledger, "web1.lan", code="keyCompromise", at=house.clock.now())
