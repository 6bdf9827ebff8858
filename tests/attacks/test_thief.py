"""P3: somebody else has the invitation, over real TLS and with real processes racing."""

from __future__ import annotations

import dataclasses
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from pathlib import Path

from handfast.core.flow import Wish
from handfast.core.invitation import InvitationLine
from handfast.errors import AlreadySpent, HandfastError
from handfast.introducers.invitation import Invited
from handfast.newcomer.join import Joined, join
from handfast.newcomer.keystore import Keystore
from tests.attacks.world import Registrar, run


def attempt(line: InvitationLine, out: Path) -> Joined | HandfastError:
    """Join, and return what came of it."""
    try:
        joined = join(Invited(line, Wish()), Keystore(out), layouts=("pem",), owner=None, now=lambda: datetime.now(UTC))
        assert joined is not None
        return joined
    except HandfastError as error:
        return error


def test_P3_of_eight_that_race_one_wins(registrar: Registrar, tmp_path: Path) -> None:
    """Eight machines with one line at once: one certificate; the others are told, and so is the operator."""
    line = registrar.invite("raced.lan")
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda number: attempt(line, tmp_path / str(number)), range(8)))
    assert [type(result) for result in results].count(Joined) == 1
    assert [type(result) for result in results].count(AlreadySpent) == 7
    shown = registrar.show("raced.lan")
    assert len(shown["credentials"]) == 1
    assert {alarm["kind"] for alarm in shown["alarms"]} == {"alarm.second-key"}
    assert sum(bool(list((tmp_path / str(number)).glob("*.pem"))) for number in range(8)) == 1


def test_P3_of_eight_that_race_three_win_an_invitation_for_three(registrar: Registrar, tmp_path: Path) -> None:
    """Exactly as many as the operator said."""
    line = registrar.invite("three.lan", "--uses", "3")
    with ThreadPoolExecutor(8) as pool:
        results = list(pool.map(lambda number: attempt(line, tmp_path / str(number)), range(8)))
    assert [type(result) for result in results].count(Joined) == 3
    assert len(registrar.show("three.lan")["credentials"]) == 3


def test_P3_a_thief_after_the_machine_is_refused_with_3(registrar: Registrar, tmp_path: Path) -> None:
    """As a person meets it; `list` shows the alarm."""
    line = registrar.invite("robbed.lan")
    machine, thief = (run("join", "--out", str(tmp_path / who), stdin=line.reveal()) for who in ("machine", "thief"))
    assert (machine.returncode, thief.returncode) == (0, 3), machine.stderr + thief.stderr
    assert "Traceback" not in thief.stderr
    listed = run("list", "--data", str(registrar.data), "--json").stdout
    assert "alarm.second-key" in listed


def test_P2_a_stranger_with_another_seed_learns_one_code(registrar: Registrar, tmp_path: Path) -> None:
    """An unknown, a forged and a foreign invitation look the same from outside, and leave no trace in the log."""
    line = registrar.invite("stranger.lan")
    size = len(registrar.show("stranger.lan")["history"])
    other = registrar.invite("other.lan")
    forged = dataclasses.replace(line, seed=type(line.seed)(b"x" * 32))
    results = [attempt(each, tmp_path / str(number)) for number, each in enumerate((forged, other))]
    assert isinstance(results[0], HandfastError)
    assert results[0].code == "evidence-rejected"
    assert isinstance(results[1], Joined)
    assert len(registrar.show("stranger.lan")["history"]) == size
