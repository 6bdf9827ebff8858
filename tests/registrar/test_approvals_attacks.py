"""Attacks on approvals: other keys, floods, old words, two at once, and what a stranger hears."""

from __future__ import annotations

import asyncio
from datetime import timedelta

import pytest

from handfast.errors import PolicyRefused, Refused, TooMuch, Waiting
from handfast.policy.hosts import decide_host
from tests.registrar.approvals import ASKING, approvals, ask, decide, entered, found, question
from tests.registrar.hosts import believed, check_log, host_of, signer, ssh
from tests.registrar.house import House, Newcomer

WEEK = timedelta(days=7)


@pytest.fixture(autouse=True)
def asking(house: House) -> None:
    """A registrar where a person looks at every change."""
    house.rules = ASKING


def test_P26_another_key_is_another_question(house: House) -> None:
    """A yes admits exactly the keys that were shown, at exactly that place."""
    entered(house, 1)
    mine, other = question(house, found(2)), question(house, found(3))
    more, elsewhere = question(house, found(2, 3)), question(house, found(2, places=("web1.lan", "10.6.6.6")))
    assert len({each.approval_id for each in (mine, other, more, elsewhere)}) == 4
    decide(house, mine)
    ask(house, found(2))
    for finding in (found(3), found(2, 3)):
        with pytest.raises(Waiting):
            ask(house, finding)
    assert host_of(house).current == {signer(2).public}


def test_P26_asking_again_is_the_same_question(house: House) -> None:
    """Whoever asks a thousand times has asked once; the log has one line of it."""
    entered(house, 1)
    before = len(house.kinds())
    assert len({question(house, found(2)).approval_id for _ in range(10)}) == 1
    assert house.kinds()[before:] == ["approval.asked"]


def test_P26_two_at_once_for_a_new_name(house: House) -> None:
    """Of two who come in the same moment as a machine that nobody knows, one is; the other waits for a person."""

    async def both() -> list[object]:
        ways = []
        for number in (1, 2):
            evidence, _ = house.joining(house.invite(), Newcomer(), host=ssh(number))
            ways.append(house.registrar().introduce(evidence, house.tls))
        return await asyncio.gather(*ways, return_exceptions=True)

    results = asyncio.run(both())
    refused = [each for each in results if isinstance(each, Refused | Waiting)]
    assert len(refused) == 1
    assert len(host_of(house).current) == 1
    check_log(house)


@pytest.mark.parametrize("places", [("web1.lan", "10.0.0.9"), ("web1.lan", "db.lan")])
def test_P26_what_became_anothers_meanwhile(house: House, places: tuple[str, ...]) -> None:
    """What was decided because nobody was reached so is refused where somebody is by now."""
    finding = found(1, places=places)
    ask(house, finding)
    grant = decide_host(finding, house.rules, known=None)
    entered(house, 2, machine="one", places=("one.lan", places[1]))
    with pytest.raises(Refused, match="is where 'one' is reached"):
        house.ledger.register(grant, None, at=house.clock.now()).result()
    assert house.ledger.host("web1.lan") is None


def test_P26_a_flood_of_questions_is_bounded(house: House) -> None:
    """Whoever makes up keys for a name has four questions open there, and the honest ones among them stay."""
    entered(house, 1)
    honest = question(house, found(2))
    for number in (3, 4, 5):
        question(house, found(number))
    with pytest.raises(TooMuch, match=r"4 sets of host keys wait for approval as those of 'web1\.lan'"):
        ask(house, found(6))
    assert question(house, found(2)) == honest
    decide(house, honest)
    assert host_of(house).current == {signer(2).public}


def test_P26_a_yes_is_not_for_later(house: House) -> None:
    """Keys that were accepted and then replaced are retired: the old yes does not bring them back."""
    entered(house, 1)
    decide(house, question(house, found(2)))
    decide(house, question(house, found(3)))
    with pytest.raises(PolicyRefused, match="was retired: only an operator brings it back"):
        ask(house, found(2))


def test_P26_a_question_ends(house: House) -> None:
    """What nobody decided in a week is over: it cannot be accepted, is not listed, and may be asked again."""
    entered(house, 1)
    view = question(house, found(2))
    house.clock.time += WEEK
    assert approvals(house).approvals() == []
    (row,) = approvals(house).approvals(every=True)
    assert row.status == "expired"
    with pytest.raises(Refused, match="is expired"):
        decide(house, view)
    assert question(house, found(2)).status == "open"


def test_P26_two_operators(house: House) -> None:
    """The first word counts: what was rejected is not accepted afterwards, nor the other way round."""
    entered(house, 1)
    view = question(house, found(2))
    decide(house, view, "rejected")
    with pytest.raises(Refused, match=f"the approval {view.approval_id} is rejected by alice"):
        decide(house, view)
    assert believed(house) == {1}


def test_P26_the_newcomer_does_not_hear_of_others(house: House) -> None:
    """Who asks learns the id of the question, and neither whose name nor which keys stand against it."""
    entered(house, 1, machine="secret", places=("web1.lan",))
    with pytest.raises(Waiting) as caught:
        ask(house, found(2))
    assert "secret" not in caught.value.message + caught.value.hint
    assert "SHA256" not in caught.value.message + caught.value.hint
