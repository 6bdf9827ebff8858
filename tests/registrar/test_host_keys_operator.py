"""What an operator does with host keys: takes them back, with a machine or alone; and what is refused to him, too."""

from __future__ import annotations

import asyncio
import dataclasses
from collections.abc import Callable
from datetime import timedelta

import pytest

from handfast.core.flow import Channel, Evidence
from handfast.core.hosts import How, Place
from handfast.core.names import Names
from handfast.errors import NotFound, PolicyRefused, Refused, UsageError
from handfast.policy.rules import HostRules
from handfast.registrar.host_keys import HostKeys
from tests.registrar.hosts import believed, check_log, host_of, operator, renew, signer, ssh
from tests.registrar.house import HOUR, House, Newcomer

DAY = timedelta(days=1)


@pytest.mark.parametrize(("reason", "stay"), [("keyCompromise", False), ("it was stolen", False), ("superseded", True)])
def test_revoking_a_machine_retires_its_host_keys(house: House, reason: str, stay: bool) -> None:
    """Whoever has the machine has its host keys too; only what is merely superseded leaves them."""
    house.join(house.invite(), Newcomer(), host=ssh(1))
    house.administration.revoke("web1.lan", reason=reason)
    assert believed(house) == ({1} if stay else set())
    if not stay:
        assert [each.reason for each in host_of(house).retired] == [reason]
        assert house.ledger.host_at("10.0.0.7") is None
        assert house.ledger.host_at("web1.lan") == host_of(house)


def test_revoking_again_retires_host_keys_that_are_left(house: House) -> None:
    """A machine whose credential is gone already is revoked for the sake of its host keys."""
    house.join(house.invite(), Newcomer(), host=ssh(1))
    house.administration.revoke("web1.lan", reason="superseded")
    assert house.administration.revoke("web1.lan", reason="keyCompromise") == ()
    assert believed(house) == set()
    with pytest.raises(Refused, match="holds nothing that could be revoked"):
        house.administration.revoke("web1.lan", reason="keyCompromise")


def test_revoking_a_credential_leaves_host_keys_while_there_is_another(house: House) -> None:
    """By serial or by invitation only that is taken back; with the last one they go, or a thief has them certified."""
    first, second = (house.join(house.invite(), Newcomer(), host=ssh(1)).credential.serial for _ in range(2))
    house.administration.revoke(f"{first:032x}", reason="keyCompromise")
    assert believed(house) == {1}
    house.administration.revoke(f"{second:032x}", reason="keyCompromise")
    assert believed(house) == set()


def test_a_machine_that_was_removed_can_come_back(house: House) -> None:
    """With new host keys and a new invitation it is found again; audit and index agree all along."""
    house.join(house.invite(), Newcomer(), host=ssh(1))
    operator(house).remove("web1.lan", reason="destroyed")
    check_log(house)
    with pytest.raises(Refused, match="was retired"):
        house.join(house.invite(), Newcomer(), host=ssh(1))
    house.join(house.invite(), Newcomer(), host=ssh(2))
    assert house.ledger.host_at("web1.lan") == host_of(house)
    check_log(house)


def test_a_removed_machine_that_renews_is_found_by_its_name(house: House) -> None:
    """Neither that it has a key again nor its renewal says where it is; the name is the machine's own all the same."""
    who = Newcomer()
    answer = house.join(house.invite(), who, host=ssh(1))
    operator(house).remove("web1.lan", reason="a mistake")
    operator(house).register("web1.lan", (signer(2).public,), how=How.OPERATOR, detail="by me")
    assert house.ledger.host_at("web1.lan") == host_of(house)
    renew(house, who, answer, ssh(2, 3))
    assert house.ledger.host_at("web1.lan") == host_of(house)
    check_log(house)


def test_a_removed_machines_name_may_be_an_alias(house: House) -> None:
    """What it was called is free, also where nothing but its name was known."""
    side = operator(house)
    side.register("web_1", (signer(1).public,), how=How.OPERATOR, detail="", place=Place())
    side.remove("web_1", reason="gone")
    assert house.ledger.host_at("web_1") == host_of(house, "web_1")
    place = Place.parse([], aliases=["web_1"])
    side.register("gw", (signer(2).public,), how=How.OPERATOR, detail="", place=place)
    assert house.ledger.host_at("web_1") == host_of(house, "gw")
    check_log(house)


def test_the_operators_side_refuses(house: House) -> None:
    """Unknown machines, keys that are not theirs, reasons that are none, names and addresses that nobody may have."""
    side = operator(house, dataclasses.replace(house.rules, reserved=frozenset({"home"})))
    key = (signer(1).public,)
    refused: list[tuple[type[Exception], str, Callable[[], object]]] = [
        (NotFound, "no host keys of 'web1.lan' are known", lambda: side.host("web1.lan")),
        (NotFound, "no host keys of 'web1.lan'", lambda: side.remove("web1.lan", reason="x")),
        (NotFound, "no host keys", lambda: side.retire("web1.lan", "SHA256:x", reason="x")),
        (UsageError, "not a reason", lambda: side.remove("web1.lan", reason="a\nb")),
        (UsageError, "not a reason", lambda: side.retire("web1.lan", "SHA256:x", reason="")),
        (PolicyRefused, "registrar's own name", lambda: side.register("home", key, how=How.OPERATOR, detail="")),
        (PolicyRefused, "is an address", lambda: side.register("10.0.0.1", key, how=How.OPERATOR, detail="")),
        (Refused, "neither host keys nor a place", lambda: side.register("a", (), how=How.OPERATOR, detail="")),
        (PolicyRefused, "is the registrar's own name", lambda: side.expect(
            "home", bytes(32), how=How.BUCKET, names=Names(), lasting=HOUR)),
        (UsageError, "'scan' has no one-time report", lambda: side.expect(
            "a", bytes(32), how=How.SCAN, names=Names(), lasting=HOUR)),
        (UsageError, "lasts from 1s to 30d", lambda: side.expect(
            "a", bytes(32), how=How.BUCKET, names=Names(), lasting=31 * DAY)),
    ]  # fmt: skip
    for kind, words, ask in refused:
        with pytest.raises(kind, match=words):
            ask()
    side.register("web1.lan", key, how=How.OPERATOR, detail="")
    with pytest.raises(NotFound, match="has no host key 'SHA256:nothing'"):
        side.retire("web1.lan", "SHA256:nothing", reason="x")
    assert side.retire("web1.lan", key[0].fingerprint, reason="x").keys == ()


def test_what_would_be_refused_is_not_waited_for(house: House) -> None:
    """Before a machine is given anything: a name that cannot have keys, a way that does not count, better evidence."""
    bucket_only = HostRules(evidence=frozenset({How.BUCKET, How.OPERATOR, How.INVITATION}))
    side = operator(house, dataclasses.replace(house.rules, ssh=bucket_only))
    wide = operator(house)

    def wait_for(side: HostKeys, name: str, how: How) -> None:
        side.expect(name, how.value.encode().ljust(32, b"."), how=how, names=Names(), lasting=HOUR)

    with pytest.raises(PolicyRefused, match="'phone-home' does not count"):
        wait_for(side, "web1.lan", How.PHONE_HOME)
    with pytest.raises(PolicyRefused, match="is an address"):
        wait_for(side, "10.0.0.1", How.BUCKET)
    with pytest.raises(PolicyRefused) as both:
        side.check_expected("10.0.0.1", How.RENEWAL)
    assert len(both.value.reasons) == 2
    assert house.ledger.invitations() == []
    house.join(house.invite(), Newcomer(), host=ssh(1))
    with pytest.raises(PolicyRefused, match=r"'web1\.lan' was proved, which phone-home is not") as better:
        wait_for(wide, "web1.lan", How.PHONE_HOME)
    assert better.value.hint == "if that machine is gone: handfast host remove web1.lan"
    wait_for(wide, "web1.lan", How.BUCKET)  # which is as good
    wide.check_expected("web1.lan", How.INVITATION)
    wide.remove("web1.lan", reason="gone")
    wait_for(wide, "web1.lan", How.PHONE_HOME)


@pytest.mark.parametrize("method", ["invitation", "renewal", "scan", "operator", ""])
def test_other_methods_publish_nothing(house: House, method: str) -> None:
    """Only what is made for nothing but host keys is asked; the others have to come through the flow."""
    with pytest.raises(NotFound, match="no way"):
        asyncio.run(operator(house).publish(Evidence(method, b"{}", Channel(house.tls.spki))))
