"""The registrar may end at any point of the flow: no certificate without its intent, and the same key goes on."""

from __future__ import annotations

import asyncio
import resource
import threading
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from handfast.authority.authority import FileAuthority
from handfast.core import chain
from handfast.core.flow import Answer
from handfast.errors import AlreadySpent, Fault, InvitationCancelled
from tests.registrar.house import HOUR, Crash, Faulty, House, Newcomer, TlsKey, crash
from tests.registrar.house import house as open_house

POINTS = ("before intend", "after intend", "before issue", "after issue", "before issued", "after issued")


class Dying(TlsKey):
    """The process ends before the answer is signed."""

    def prove(self, transcript: bytes, certificate: bytes, trust: tuple[bytes, ...], time: datetime) -> bytes:
        raise Crash


def broken(house: House, point: str) -> dict[str, Any]:
    """The parts of a registrar that ends at this point."""
    when, method = point.split()
    part, original = ("authority", house.authority) if method == "issue" else ("ledger", house.ledger)
    return {part: Faulty(original, method, before=crash) if when == "before" else Faulty(original, method, after=crash)}


@pytest.mark.parametrize("point", POINTS)
def test_P4_a_crash_at_any_step_costs_nothing(tmp_path: Path, made: FileAuthority, point: str) -> None:
    """After it, and with the ledger opened anew, the same key gets one certificate and another key none."""
    who = Newcomer()
    with open_house(tmp_path, made) as house:
        line = house.invite()
        with pytest.raises(Crash):
            house.join(line, who, registrar=house.registrar(**broken(house, point)))
        intended = house.ledger.credentials()
        assert len(intended) == (0 if point == "before intend" else 1)
        assert [record.certificate is not None for record in intended] in ([], [point == "after issued"])
    with open_house(tmp_path, made) as house:
        answer = house.join(line, who)
        (record,) = house.ledger.credentials()
        assert record.certificate == answer.credential.certificate
        assert [one.serial for one in intended] in ([], [record.serial])
        assert chain.load_certificate(answer.credential.certificate).serial_number == record.serial
        with pytest.raises(AlreadySpent):
            house.join(line, Newcomer())


@pytest.mark.parametrize("point", POINTS[1:])
def test_P3_a_crash_gives_the_marker_to_nobody_else(tmp_path: Path, made: FileAuthority, point: str) -> None:
    """Once intended, the invitation belongs to that key even though it has no certificate yet."""
    with open_house(tmp_path, made) as house:
        line = house.invite()
        with pytest.raises(Crash):
            house.join(line, Newcomer(), registrar=house.registrar(**broken(house, point)))
    with open_house(tmp_path, made) as house, pytest.raises(AlreadySpent):
        house.join(line, Newcomer())


@pytest.mark.parametrize("after_issue", [False, True])
def test_P4_a_renewal_that_crashed_goes_on_after_its_intent_was_abandoned(house: House, after_issue: bool) -> None:
    """The timer comes hours later with the same key: it renews, and what may have been signed stays revoked."""
    old, new = Newcomer(), Newcomer()
    first = house.join(house.invite(), old).credential.serial
    point = "after issue" if after_issue else "before issue"
    with pytest.raises(Crash):
        house.introduce(house.renewing(old, first, new), registrar=house.registrar(**broken(house, point)))
    house.clock.time += timedelta(hours=3)
    assert house.ledger.abandon_intents(house.clock.time, at=house.clock.time).result() == 1
    renewed = house.introduce(house.renewing(old, first, new)).credential
    (revoked,) = house.ledger.revocations()
    assert revoked.serial not in {first, renewed.serial}
    with pytest.raises(AlreadySpent):
        house.introduce(house.renewing(old, first, Newcomer()))


def test_P3_a_machine_that_is_revoked_does_not_come_back_by_an_abandoned_intent(house: House) -> None:
    """Its invitation is used up, and cancelled all the same: its key has no certificate yet."""
    line, who = house.invite(), Newcomer()
    with pytest.raises(Crash):
        house.join(line, who, registrar=house.registrar(**broken(house, "before issue")))
    house.ledger.abandon_intents(house.clock.time + HOUR, at=house.clock.time).result()
    house.administration.revoke("web1.lan", reason="keyCompromise")
    with pytest.raises(InvitationCancelled):
        house.join(line, who)


def test_a_crash_before_the_answer_costs_nothing(house: House) -> None:
    """Everything is on record; the retry is answered from there."""
    line, who = house.invite(), Newcomer()
    honest = house.tls
    evidence, _ = house.joining(line, who)
    house.tls = Dying(honest.key)
    with pytest.raises(Crash):
        house.introduce(evidence)
    house.tls = honest
    (record,) = house.ledger.credentials()
    assert house.join(line, who).credential.certificate == record.certificate


@pytest.mark.parametrize("method", ["intend", "issued"])
def test_a_disk_that_is_full_signs_or_answers_nothing(house: House, method: str) -> None:
    """The kernel itself refuses the write: a Fault with a hint; with room again the same key goes on."""
    line, who = house.invite(), Newcomer()
    authority = Faulty(house.authority, "issue")
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)

    def fill() -> None:
        log = Path(f"{house.ledger.name}-wal")
        resource.setrlimit(resource.RLIMIT_FSIZE, (log.stat().st_size, limits[1]))

    try:
        registrar = house.registrar(ledger=Faulty(house.ledger, method, before=fill), authority=authority)
        with pytest.raises(Fault) as caught:
            house.join(line, who, registrar=registrar)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert "disk" in caught.value.hint
    assert authority.calls == (0 if method == "intend" else 1)
    assert [record.certificate for record in house.ledger.credentials()] == ([] if method == "intend" else [None])
    answer = house.join(line, who)
    (record,) = house.ledger.credentials()
    assert record.certificate == answer.credential.certificate


@pytest.mark.parametrize("turns", range(6))
async def test_a_caller_that_goes_away_costs_nothing(house: House, turns: int) -> None:
    """Cancelled after any number of turns of the loop: the same key comes again and is introduced once."""
    line, who = house.invite(), Newcomer()
    registrar = house.registrar()
    task = asyncio.ensure_future(registrar.introduce(house.joining(line, who)[0], house.tls))
    for _ in range(turns):
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    evidence, signed = house.joining(line, who)
    answer = await registrar.introduce(evidence, house.tls)
    house.check_proof(answer, signed)
    assert len(house.ledger.credentials()) == 1


async def test_cancelled_before_it_was_spent_is_not_spent(house: House) -> None:
    """Between verifying and the transaction: the change that nobody waits for is not made."""
    line, registrar = house.invite(), house.registrar()
    busy, release = threading.Event(), threading.Event()

    def hold(_tx: Any) -> None:
        busy.set()
        release.wait(10)

    held = house.ledger._writer.submit(hold)
    busy.wait(10)
    task = asyncio.ensure_future(registrar.introduce(house.joining(line, Newcomer())[0], house.tls))
    while house.ledger._writer._queue.empty():  # noqa: ASYNC110  the queue is the ledger's own
        await asyncio.sleep(0)
    task.cancel()
    await asyncio.gather(task, return_exceptions=True)
    release.set()
    held.result(10)
    evidence, signed = house.joining(line, Newcomer())
    house.check_proof(await registrar.introduce(evidence, house.tls), signed)
    assert len(house.ledger.credentials()) == 1


async def race(house: House, count: int, *, uses: int, who: Callable[[], Newcomer] = Newcomer) -> list[Any]:
    """Let ``count`` newcomers come at once with one invitation."""
    line, registrar = house.invite(uses=uses), house.registrar()
    attempts = [registrar.introduce(house.joining(line, who())[0], house.tls) for _ in range(count)]
    return await asyncio.gather(*attempts, return_exceptions=True)


@pytest.mark.parametrize("uses", [1, 3])
async def test_P3_of_twenty_that_race_exactly_as_many_win_as_allowed(house: House, uses: int) -> None:
    """One for one use, three for three; all others are told that it is spent, and the operator is told too."""
    results = await race(house, 20, uses=uses)
    won = [result for result in results if isinstance(result, Answer)]
    assert len(won) == uses
    assert all(isinstance(result, AlreadySpent) for result in results if not isinstance(result, Answer))
    assert len({answer.credential.serial for answer in won}) == uses
    assert len(house.ledger.credentials()) == uses
    assert 1 <= len(house.administration.show("web1.lan").alarms) <= 20 - uses


async def test_P4_one_key_that_races_with_itself_gets_one_certificate(house: House) -> None:
    """An impatient newcomer that sends twenty times at once is one newcomer."""
    who = Newcomer()
    results = await race(house, 20, uses=1, who=lambda: who)
    assert len({answer.credential.certificate for answer in results}) == 1
    assert len(house.ledger.credentials()) == 1
    assert house.administration.show("web1.lan").alarms == ()
