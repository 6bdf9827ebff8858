"""What is recorded of a machine's host keys: evidence by its grade, an operator's word, and what nobody may say."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime

import pytest

from handfast.core.flow import HostFinding
from handfast.core.hosts import Grade, Host, HostKey, How, Place, RetiredKey, placed
from handfast.core.sshkeys import MAX_KEYS
from handfast.errors import PolicyRefused
from handfast.policy.hosts import MAX_DETAIL, decide_host, expect_host
from handfast.policy.rules import HostRules, Readers, Rules
from tests.ledger.material import ssh_key

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
RULES = Rules(reserved=frozenset({"home"}))
PLACE = Place.parse(["web1.lan", "10.0.0.1"], aliases=["w1"], ports=(2222,))
EVERY = dataclasses.replace(RULES, ssh=HostRules(evidence=frozenset(How)))
WEAKER = [how for how in How if how.grade < Grade.PROVED]


def known(*keys: int, how: How = How.INVITATION, place: Place = PLACE, retired: tuple[int, ...] = ()) -> Host:
    """A machine of which these keys are known."""
    gone = tuple(RetiredKey(ssh_key(number), NOW, "superseded") for number in retired)
    return Host("web1.lan", place, tuple(HostKey(ssh_key(number), how, "", NOW) for number in keys), gone)


def found(*keys: int, how: How = How.INVITATION, **more: object) -> HostFinding:
    """What an introducer concluded."""
    finding = HostFinding("web1.lan", tuple(map(ssh_key, keys)), how, "a test")
    return dataclasses.replace(finding, **more)  # type: ignore[arg-type]


def reasons(finding: HostFinding, host: Host | None = None, rules: Rules = RULES) -> tuple[str, ...]:
    """Why it is refused."""
    with pytest.raises(PolicyRefused) as caught:
        decide_host(finding, rules, known=host)
    assert "handfast host show" in caught.value.hint
    return caught.value.reasons


def test_what_is_found_is_recorded() -> None:
    """Of a machine that nobody knew: its keys, how they became known, where it is."""
    grant = decide_host(found(2, 1, 1, place=PLACE), RULES, known=None)
    assert grant.keys == (ssh_key(1), ssh_key(2))
    assert (grant.machine, grant.how, grant.detail) == ("web1.lan", How.INVITATION, "a test")
    assert (grant.place, grant.complete) == (PLACE, True)


def test_the_defaults() -> None:
    """By default what the network alone says is no evidence, all that is evidence is believed, and holders read."""
    rules = HostRules()
    assert rules.evidence == frozenset(How) - {How.SCAN, How.SSH_HOSTKEY}
    assert (rules.accept, rules.readers) == (Grade.CHALLENGED, Readers.HOLDERS)


@pytest.mark.parametrize("how", list(How))
def test_only_what_is_configured_counts(how: How) -> None:
    """Each way may be taken out, and an empty list means that none counts."""
    nothing = dataclasses.replace(RULES, ssh=HostRules(evidence=frozenset()))
    assert reasons(found(1, how=how), rules=nothing) == (
        f"{how.value!r} does not count as evidence of a host key here ([ssh] evidence)",
    )
    assert decide_host(found(1, how=how), EVERY, known=None).how is how


def test_P15_a_scan_counts_only_by_name() -> None:
    """Trust on first use is not to be had by default."""
    assert "'scan' does not count" in reasons(found(1, how=How.SCAN))[0]


@pytest.mark.parametrize("how", [how for how in WEAKER if how is not How.OPERATOR])
def test_P15_weaker_evidence_adds_nothing(how: How) -> None:
    """Whoever can only report cannot put a key beside those that were proved, nor have one of these retired."""
    host = known(1, 2)
    (reason,) = reasons(found(1, 3, how=how, complete=False), host, EVERY)
    assert reason.startswith(
        f"{ssh_key(3).fingerprint} (ssh-ed25519) is new, and what is known of 'web1.lan' was proved"
    )
    assert reason.endswith(f"which {how.value} is not")
    assert reasons(found(1, how=how), host, EVERY) == (f"{ssh_key(2).fingerprint} is known better than by {how.value}",)


@pytest.mark.parametrize("how", WEAKER)
def test_weaker_evidence_may_confirm(how: How) -> None:
    """The same keys seen another way are one more reason to believe them."""
    assert decide_host(found(1, 2, how=how), EVERY, known=known(1, 2)).keys == (ssh_key(1), ssh_key(2))
    assert decide_host(found(1, how=how, complete=False), EVERY, known=known(1, 2)).keys == (ssh_key(1),)


@pytest.mark.parametrize("how", [how for how in How if how.grade is Grade.PROVED])
@pytest.mark.parametrize("before", list(How))
def test_the_best_evidence_rotates(how: How, before: How) -> None:
    """What is proved replaces what was known in whatever way."""
    grant = decide_host(found(2, how=how), EVERY, known=known(1, how=before))
    assert (grant.keys, grant.complete) == ((ssh_key(2),), True)


def test_a_report_replaces_what_was_only_seen() -> None:
    """The order of grades holds below the best, too."""
    assert decide_host(found(2, how=How.CONSOLE), EVERY, known=known(1, how=How.SCAN)).keys == (ssh_key(2),)
    assert "was reported, which scan is not" in reasons(found(2, how=How.SCAN), known(1, how=How.CONSOLE), EVERY)[0]


def test_an_operators_typo_adds_nothing_to_what_was_proved() -> None:
    """An operator who mistakes the machine is refused; what his own word retired, or a rotation, he brings back."""
    host = known(1, retired=(2,))
    assert "is new" in reasons(found(3, how=How.OPERATOR, complete=False), host)[0]
    assert decide_host(found(2, how=How.OPERATOR, complete=False), RULES, known=host).keys == (ssh_key(2),)
    assert "is new" in reasons(found(2, how=How.CONSOLE, complete=False), host)[0]


def test_an_operator_may_say_where_it_is() -> None:
    """Without keys, a place alone is no evidence that could be too weak."""
    grant = decide_host(found(how=How.OPERATOR, complete=False, place=PLACE), RULES, known=known(1))
    assert (grant.keys, grant.place) == ((), PLACE)


@pytest.mark.parametrize("how", list(How))
def test_nobody_is_the_registrar(how: How) -> None:
    """No evidence makes a machine of the registrar's own name."""
    assert "'home' is the registrar's own name" in reasons(found(1, how=how, machine="home"), rules=EVERY)


@pytest.mark.parametrize("address", ["10.0.0.1", "127.0.0.1", "2001:db8::1"])
def test_no_machine_is_an_address(address: str) -> None:
    """A machine is what its name says: an address may be another's tomorrow."""
    assert "is an address" in reasons(found(1, machine=address))[0]


def test_keys_are_counted() -> None:
    """Thirty-two at most, counted with those it has where they stay; a rotation counts the new ones."""
    assert decide_host(found(*range(MAX_KEYS)), RULES, known=known(99)).complete
    assert reasons(found(*range(MAX_KEYS + 1))) == ("33 host keys, at most 32 are allowed",)
    more = found(*range(20), how=How.INVITATION, complete=False)
    assert reasons(more, known(*range(15, 40))) == ("40 host keys, at most 32 are allowed",)


def test_every_reason_at_once() -> None:
    """Whoever is refused need not come twice to hear why."""
    host = dataclasses.replace(known(1), machine="home")
    assert len(reasons(found(2, machine="home", how=How.SCAN), host)) == 4


def test_what_a_machine_does_not_know_of_itself_stays() -> None:
    """Aliases, and a port that only the operator knows of, survive what the machine says; its names are as invited."""
    said = Place.parse(["www.lan", "10.0.0.2"])
    grant = decide_host(found(1, place=said), RULES, known=known(1))
    assert grant.place == said  # as it was said: the ledger knows what there is at that moment
    whole = Place.parse(["www.lan", "10.0.0.2"], aliases=["w1"], ports=(2222,))
    assert placed(known(1), said, How.INVITATION) == whole
    assert placed(None, said, How.INVITATION) == said
    assert placed(known(1), Place(), How.RENEWAL) == PLACE
    assert placed(known(1), Place.parse(["web1.lan"], ports=(2200,)), How.INVITATION).ports == (2200,)
    assert decide_host(found(1, how=How.RENEWAL), RULES, known=known(1)).place is None


@pytest.mark.parametrize("how", [How.OPERATOR, How.CONSOLE])
def test_an_operator_says_all_of_it(how: How) -> None:
    """So that an alias can be taken away, and a port be 22 again."""
    said = Place.parse(["web1.lan"])
    assert placed(known(1), said, how) == said


@pytest.mark.parametrize("how", list(How))
def test_a_way_is_prepared_only_where_a_new_key_could_come_by_it(how: How) -> None:
    """For a machine of which better is known, with that reason; else as if its keys were there already."""
    expect_host("web1.lan", how, EVERY, known=None)
    expect_host("web1.lan", how, EVERY, known=known())
    for before in How:
        host = known(1, how=before)
        if how.grade >= before.grade:
            expect_host("web1.lan", how, EVERY, known=host)
        else:
            with pytest.raises(PolicyRefused, match=f"{before.grade.name.lower()}, which {how.value} is not") as caught:
                expect_host("web1.lan", how, EVERY, known=host)
            assert "handfast host remove web1.lan" in caught.value.hint
    nothing = dataclasses.replace(RULES, ssh=HostRules(evidence=frozenset()))
    with pytest.raises(PolicyRefused, match=r"own name.*does not count"):
        expect_host("home", how, nothing, known=None)
    with pytest.raises(PolicyRefused, match="is an address"):
        expect_host("10.0.0.1", how, EVERY, known=None)


def test_the_detail_is_one_line() -> None:
    """What is shown to people has no control characters, and an end."""
    grant = decide_host(found(1, detail="a\n\x1b[2Jb" + "c" * 500), RULES, known=None)
    assert grant.detail == ("a[2Jb" + "c" * 500)[:MAX_DETAIL]
