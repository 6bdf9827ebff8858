"""What an operator does with managed machines, over a real ledger: what is made, and every refusal."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any
from uuid import UUID

import pytest

from handfast.core import instancedata
from handfast.core.flow import Channel, Evidence, Opening, Wish
from handfast.core.instancedata import OURS
from handfast.core.instances import Instance, Issued, Shown, State, Stranger, Verified, lasting, met
from handfast.core.invitation import Address, InvitationLine
from handfast.core.roles import Role
from handfast.errors import EvidenceRejected, Malformed, NotFound, Refused, UsageError
from handfast.introducers.invitation import Invited
from handfast.registrar.instances import Instances, Wanted, managing
from tests.registrar.house import HOUR, NOW, House, Newcomer

KEY, OTHER = b"k" * 32, b"o" * 32
THERE = Address("10.0.0.9", 7575)


@pytest.fixture
def them(house: House) -> Instances:
    """An operator's."""
    return Instances(house.administration, house.authority.public.root)


def add(them: Instances, name: str = "app1.lan", **more: Any) -> Instance:
    """Add one for an hour."""
    return them.add(replace(Wanted(name=name, lasting=HOUR), **more))[1]


def quarantined(them: Instances, house: House, name: str = "app1.lan") -> Instance:
    """Have it quarantined, as a controller does."""
    before = them.one(name)
    after = met(before, Stranger("a wrong proof", OTHER), at=house.clock.now())
    return house.ledger.change_instance(before, after, at=house.clock.now()).result()


def test_what_is_made(them: Instances, house: House) -> None:
    """User-data that an agent reads, one invitation for one agent of that name, and an instance that waits for it."""
    data, made = them.add(Wanted(name="app1.lan", lasting=HOUR, address=THERE, instance_id="i-0abc"))
    read = instancedata.read(instancedata.written(data).encode())
    assert (read.instance, read.instance_id, read.listens) == ("app1.lan", "i-0abc", Address("::", 7575))
    assert (made.state, made.address, made.deadline, made.needs_key) == (
        State.WAITING, "10.0.0.9:7575", NOW + HOUR, False,
    )  # fmt: skip
    invited = house.ledger.invitation(made.invitation)
    assert invited is not None
    assert (invited.role, invited.machine, invited.uses) == (Role.AGENT, "app1.lan", 1)
    assert invited.public_half == read.line.public_key()
    assert them.all() == [lasting(made)] == [them.one("app1.lan")]


def test_where_it_is_reached(them: Instances) -> None:
    """At an address, by dialling, or nobody has said so yet; and an id of ours where there is none."""
    data, made = them.add(Wanted(name="a", lasting=HOUR))
    assert (made.state, made.address, data.listens) == (State.PENDING, None, Address("::", 7575))
    assert UUID(data.instance_id.removeprefix(OURS)).version == 4
    data, made = them.add(Wanted(name="b", lasting=HOUR, dials=Address("ctl.lan", 7576)))
    assert (made.state, made.dials, data.listens, data.dials) == (
        State.WAITING, True, None, Address("ctl.lan", 7576),
    )  # fmt: skip
    data, made = them.add(Wanted(name="c", lasting=HOUR, address=Address("10.0.0.9", 99)))
    assert data.listens == Address("::", 99)


@pytest.mark.parametrize(
    ("wanted", "error", "what"),
    [
        ({"name": "a b"}, Malformed, "not a machine name"),
        ({"instance_id": "a b"}, Malformed, "not an instance's id"),
        ({"lasting": timedelta(0)}, UsageError, "lasts from 1s to 30d"),
        ({"lasting": timedelta(days=31)}, UsageError, "lasts from 1s to 30d"),
        ({"address": THERE, "dials": THERE}, UsageError, r"an instance that dials 10\.0\.0\.9:7575 has no address: 10"),
    ],
)
def test_what_cannot_be_added(them: Instances, wanted: dict[str, Any], error: type[Exception], what: str) -> None:
    """And nothing is kept of it, neither an instance nor an invitation."""
    with pytest.raises(error, match=what):
        add(them, **wanted)
    assert (them.all(), them.administration.ledger.invitations()) == ([], [])


def test_a_name_that_is_taken(them: Instances) -> None:
    """By another instance: neither a second one nor its invitation is kept."""
    add(them)
    with pytest.raises(Refused, match="there is an instance"):
        add(them)
    assert len(them.administration.ledger.invitations()) == 1


def test_place(them: Instances) -> None:
    """Where it is may be said late, and again; not of one that dials."""
    add(them)
    assert them.place("app1.lan", THERE).state is State.WAITING
    assert them.place("app1.lan", Address("10.0.0.10", 1)).address == "10.0.0.10:1"
    assert them.one("app1.lan").address == "10.0.0.10:1"
    add(them, "app2.lan", dials=THERE)
    with pytest.raises(Refused, match="dials the controller"):
        them.place("app2.lan", THERE)
    with pytest.raises(NotFound, match=r"no instance 'app9\.lan'"):
        them.place("app9.lan", THERE)


def test_confirm(them: Instances, house: House) -> None:
    """Which key it has, until it is introduced; then only the certified one."""
    add(them, address=THERE, needs_key=True)
    assert them.confirm("app1.lan", OTHER).expected == OTHER
    before = them.confirm("app1.lan", KEY)
    for what in (Shown(KEY), Issued(KEY, 7), Verified(KEY)):
        after = met(before, what, at=NOW)
        before = house.ledger.change_instance(before, after, at=NOW).result()
    assert them.confirm("app1.lan", KEY).expected == KEY
    with pytest.raises(Refused, match="is introduced with another key"):
        them.confirm("app1.lan", OTHER)


def test_release(them: Instances, house: House) -> None:
    """Out of quarantine, with a reason, while its secret is good; nothing else leads out."""
    add(them, address=THERE)
    quarantined(them, house)
    elsewhere = Address("10.0.0.10", 7575)
    assert (them.place("app1.lan", elsewhere).state, them.one("app1.lan").state) == (State.QUARANTINED,) * 2
    with pytest.raises(Refused, match="is quarantined: a wrong proof"):
        them.confirm("app1.lan", KEY)
    for reason in ("", "a\nb", "x" * 201):
        with pytest.raises(UsageError, match="not a reason"):
            them.release("app1.lan", reason=reason)
    free = them.release("app1.lan", reason="the switch was replaced")
    assert (free.state, free.address) == (State.WAITING, str(elsewhere))
    assert house.ledger.events(subject="app1.lan")[-1].fields["why"] == "the switch was replaced"
    with pytest.raises(Refused, match=r"'app1\.lan' is neither quarantined nor failed"):
        them.release("app1.lan", reason="again")
    quarantined(them, house)
    house.clock.time += 2 * HOUR
    with pytest.raises(Refused, match=r"the secret of 'app1\.lan' is over"):
        them.release("app1.lan", reason="late")


def test_remove(them: Instances, house: House) -> None:
    """Also from quarantine; its secret ends with it."""
    made = add(them)
    quarantined(them, house)
    with pytest.raises(UsageError, match="not a reason"):
        them.remove("app1.lan", reason="")
    assert them.remove("app1.lan", reason="gone").name == "app1.lan"
    invited = house.ledger.invitation(made.invitation)
    assert invited is not None
    assert invited.status(NOW) == "cancelled"
    with pytest.raises(NotFound):
        them.remove("app1.lan", reason="gone")


def test_somebody_else_was_quicker(them: Instances, house: House, monkeypatch: pytest.MonkeyPatch) -> None:
    """What is said about an instance that has changed at this moment is not done, and not in silence."""
    add(them, address=THERE)
    before = them.one("app1.lan")
    quarantined(them, house)
    monkeypatch.setattr(Instances, "one", lambda _self, _name: before)
    with pytest.raises(Refused, match="has changed at this moment: it is quarantined"):
        them.place("app1.lan", Address("10.0.0.10", 1))
    assert house.ledger.instance("app1.lan") == quarantined_as(house)


def quarantined_as(house: House) -> Instance:
    """The instance, which is still in quarantine where it was."""
    found = house.ledger.instance("app1.lan")
    assert found is not None
    assert (found.state, found.address) == (State.QUARANTINED, "10.0.0.9:7575")
    return found


@pytest.mark.parametrize("method", ["invitation", "instance"])
def test_P54_the_secret_is_good_at_no_door(them: Instances, house: House, method: str) -> None:
    """Who has read user-data is not introduced where newcomers are, whatever he signs."""
    data, made = them.add(Wanted(name="app1.lan", lasting=HOUR, address=THERE, needs_key=True))
    opening = Opening(Newcomer().csr, Newcomer().way_back.public_key().public_bytes_raw(), bytes(32), house.tls.spki)
    opening = replace(opening, nonce=house.context.new_nonce())
    message, _ = Invited(data.line, Wish(Role.AGENT), method).present(opening)
    for named in ("invitation", "instance"):
        evidence = Evidence(named, message, Channel(house.tls.spki))
        with pytest.raises((EvidenceRejected, NotFound)) as refused:
            house.introduce(evidence)
        assert refused.value.code == ("evidence-rejected" if named == "invitation" else "not-found")
    invited = house.ledger.invitation(made.invitation)
    assert invited is not None
    assert (invited.spent, invited.cancelled) == (0, None)


def test_the_secret_is_good_for_its_controller(them: Instances, house: House) -> None:
    """Over a connection that its controller has made it introduces its instance; a newcomer's line does not, there."""
    data, _ = them.add(Wanted(name="app1.lan", lasting=HOUR, address=THERE))
    newcomer = Newcomer()
    key = newcomer.way_back.public_key().public_bytes_raw()

    def evidence(line: InvitationLine, method: str) -> Evidence:
        opening = Opening(newcomer.csr, key, house.context.new_nonce(), house.tls.spki)
        message, _ = Invited(line, Wish(Role.AGENT), method).present(opening)
        return Evidence("instance", message, Channel(house.tls.spki))

    flow = managing(house.registrar())
    with pytest.raises(EvidenceRejected, match="is unknown"):
        house.introduce(evidence(house.invite("app2.lan", role=Role.AGENT), "instance"), registrar=flow)
    with pytest.raises(EvidenceRejected, match="does not fit"):
        house.introduce(evidence(data.line, "invitation"), registrar=flow)
    answer = house.introduce(evidence(data.line, "instance"), registrar=flow)
    assert answer.credential.grant.machine == "app1.lan"


def test_what_leads_to_an_agent_alone(house: House) -> None:
    """The flow of managed machines makes agents and nothing else, and renews them where renewal does so for others."""
    flow = managing(house.registrar())
    assert flow.rules.methods == {name: frozenset({Role.AGENT}) for name in ("instance", "renewal", "reintroduction")}
    assert set(flow.introducers) == set(flow.rules.methods)
    never = replace(house.registrar(), rules=replace(house.rules, methods={"renewal": frozenset({Role.SERVER})}))
    assert managing(never).rules.methods == {
        "instance": frozenset({Role.AGENT}), "renewal": frozenset(), "reintroduction": frozenset(),
    }  # fmt: skip
