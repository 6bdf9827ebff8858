"""What follows from a look: one thing that is not as it was said, from anywhere, and the keys are not believed."""

from __future__ import annotations

import ipaddress
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handfast.core.look import Answered, Led, Look, Seen
from handfast.policy.look import against_look, notes
from tests.ssh.fake import KEYS, certificate, public

ED, EC = public(KEYS["ssh-ed25519"]), public(KEYS["ecdsa-sha2-nistp256"])
A, B, ELSEWHERE = map(ipaddress.ip_address, ("192.0.2.1", "2001:db8::1", "192.0.2.9"))
LOOK = Look(("db1.example", "db1.lan.example"), (A, B), (ED, EC), (22, 2222))
LED = (Led("db1.example", (A, B)), Led("db1.lan.example", (B,)))
ANSWERED = tuple(Answered(address, port, (ED, EC)) for address in (A, B) for port in (22, 2222))
SEEN = Seen(LED, ANSWERED)


def test_all_as_it_was_said() -> None:
    """Names that lead to the addresses given, and every one of those with every key at every port: nothing against."""
    assert against_look(LOOK, (SEEN, replace(SEEN, by="far"))) == ()
    assert notes(LOOK, (SEEN,)) == ()


def test_more_keys_than_were_asked_for() -> None:
    """What a host has besides is no reason against it."""
    more = replace(
        SEEN, answered=tuple(replace(each, keys=(ED, EC, public(KEYS["rsa-sha2-512"]))) for each in ANSWERED)
    )
    assert against_look(LOOK, (more,)) == ()


@pytest.mark.parametrize(
    "led",
    [
        Led("db1.example", (ELSEWHERE,)),
        Led("db1.example", (A, ELSEWHERE)),
        Led("db1.example", (), "no address of 'db1.example' was found"),
        Led("db1.example", ()),
        Led("db1.example", (A,), "no answer in time"),
        None,
        Led("other.example", (A,)),
    ],
    ids=["elsewhere", "one more", "failed", "nowhere", "half", "not asked", "another"],
)
def test_P27_a_name_that_leads_elsewhere(led: Led | None) -> None:
    """Whatever is wrong with a name, the reason is the same, and says nothing of where it leads."""
    seen = replace(SEEN, led=(*(() if led is None else (led,)), LED[1]))
    reason = "'db1.example' does not lead to the addresses given, or not only to these"
    assert against_look(LOOK, (seen,)) == (reason,)


def test_a_name_that_was_answered_for_twice() -> None:
    """Two answers about one name both count: the good one does not hide the other."""
    seen = replace(SEEN, led=(Led("db1.example", (ELSEWHERE,)), *LED))
    assert len(against_look(LOOK, (seen,))) == 1


@pytest.mark.parametrize(
    "answer",
    [
        Answered(A, 22, (ED,)),
        Answered(A, 22, failed="cannot reach 192.0.2.1:22: Connection refused"),
        Answered(A, 22, (public(KEYS["rsa-sha2-512"]), ED)),
        Answered(A, 22, (ED,), (certificate(KEYS["ecdsa-sha2-nistp256"]),)),
        Answered(A, 2022, (ED, EC)),
        Answered(ELSEWHERE, 22, (ED, EC)),
        None,
    ],
    ids=["one key", "closed", "another", "certificate only", "another port", "another address", "not asked"],
)
def test_P27_a_host_that_does_not_show_a_key(answer: Answered | None) -> None:
    """Whatever a host does instead of showing a key, a stranger hears that it did not show it."""
    seen = replace(SEEN, answered=(*(() if answer is None else (answer,)), *ANSWERED[1:]))
    reasons = against_look(LOOK, (seen,))
    assert f"192.0.2.1 at port 22 did not show {EC.fingerprint}" in reasons
    assert all(reason.startswith("192.0.2.1 at port 22 did not show SHA256:") for reason in reasons)


def test_P27_one_who_disagrees_is_enough() -> None:
    """All who looked have to have seen it; whoever could not look has not, and a stranger does not hear who."""
    blind = Seen(tuple(Led(name, (), "unreachable") for name in LOOK.names), (), by="far")
    assert len(against_look(LOOK, (SEEN, blind))) == 2 + 8
    assert against_look(LOOK, (SEEN, blind)) == against_look(LOOK, (blind, SEEN)) == against_look(LOOK, (blind,))
    assert "far" not in str(against_look(LOOK, (SEEN, blind)))


@pytest.mark.parametrize(
    "look", [replace(LOOK, addresses=()), replace(LOOK, ports=()), replace(LOOK, keys=()), Look((), (), (), ())]
)
def test_nothing_seen_is_nothing_proved(look: Look) -> None:
    """Without anybody who looked, or anything to look at, nothing was shown."""
    assert against_look(look, (SEEN,)) == ("nobody has looked",)
    assert against_look(LOOK, ()) == ("nobody has looked",)


@given(
    st.lists(st.sampled_from(range(len(ANSWERED))), unique=True),
    st.lists(st.sampled_from(range(len(LED))), unique=True),
)
def test_nothing_may_be_missing(answered: list[int], led: list[int]) -> None:
    """Whatever part of what has to be seen is missing, there is a reason against it."""
    seen = Seen(tuple(LED[n] for n in led), tuple(ANSWERED[n] for n in answered))
    whole = len(answered) == len(ANSWERED) and len(led) == len(LED)
    assert (against_look(LOOK, (seen,)) == ()) is whole


def test_our_own_log_has_all_of_it() -> None:
    """What was seen instead stands in the notes: where names led, what answered, certificates, and who saw it."""
    other = Answered(B, 22, (EC,), (certificate(KEYS["ssh-ed25519"]), b"rubbish"))
    seen = Seen((Led("db1.example", (ELSEWHERE,)), Led("db1.lan.example", (), "no answer in time")),
                (Answered(A, 22, failed="cannot reach it"), other, Answered(B, 2222)), by="far")  # fmt: skip
    found, until = notes(LOOK, (seen,)), f"until 9999-12-31 by {ED.fingerprint} (not verified)"
    assert found[:5] == (
        "far: 'db1.example' leads to 192.0.2.9",
        "far: 'db1.lan.example' leads to no answer in time",
        "far: 192.0.2.1 at port 22: cannot reach it",
        f"far: 2001:db8::1 at port 22 shows {EC.fingerprint}",
        f"far: 2001:db8::1 at port 22 shows a certificate: {ED.fingerprint} as 'web1.lan' {until}",
    )
    assert found[5].startswith("far: 2001:db8::1 at port 22 shows a certificate: ")
    assert found[6] == "far: 2001:db8::1 at port 2222 shows none of the keys"


def test_notes_are_lines() -> None:
    """What a peer or a resolver says cannot move the cursor of whoever reads the log, and is not without end."""
    evil = Answered(A, 22, failed="says '\x1b[2Jroot\nok'")
    assert "far: 192.0.2.1 at port 22: says '[2Jrootok'" in notes(LOOK, (Seen((), (evil,), by="far"),))
    many = Seen((), tuple(Answered(A, 22, failed=f"no {number}") for number in range(1000)))
    assert len(notes(LOOK, (many,))) == 200
    (long,) = (each for each in notes(LOOK, (Seen((), (Answered(A, 22, failed="x" * 10_000),)),)) if "x" in each)
    assert len(long) == 400
    assert long.endswith("x…")
