"""What other processes do to a ledger, in tests that need more than one."""

from __future__ import annotations

import multiprocessing
from multiprocessing.connection import Connection
from multiprocessing.synchronize import Barrier

from handfast.core.flow import Once
from handfast.core.records import Event
from handfast.errors import AlreadySpent
from tests.ledger.material import NOW, Place, grant
from tests.ledger.ssh_material import host_leaf, known, ssh_grant

processes = multiprocessing.get_context("spawn")  # a fork would carry over the threads of this process


def intend_then_hang(place: Place, marker: str, key: int, answers: Connection) -> None:
    """Reserve a serial, tell it, and wait to be killed before anything is issued."""
    store = place.open()
    answers.send(store.intend(grant(key), Once(marker), at=NOW).result().serial)
    answers.recv()


def intend_without_end(place: Place, answers: Connection) -> None:
    """Reserve serials until killed; tell each one once it is durable."""
    store = place.open()
    number = 0
    while True:
        number += 1
        answers.send(store.intend(grant(number), Once(f"endless:{number}"), at=NOW).result().serial)


def race(place: Place, marker: str, key: int, start: Barrier, answers: Connection) -> None:
    """Try to spend a marker at the same moment as others."""
    store = place.open()
    start.wait()
    try:
        answers.send(store.intend(grant(key), Once(marker), at=NOW).result().serial)
    except AlreadySpent:
        answers.send(None)
    store.close()


def note_many(place: Place, number: int, count: int, start: Barrier) -> None:
    """Write events, one transaction after the other."""
    with place.open() as store:
        start.wait()
        for i in range(count):
            store.note(Event("test.noted", NOW, f"process{number}", {"i": str(i)})).result()


def open_first(place: Place, start: Barrier) -> None:
    """Open a ledger that does not exist yet at the same moment as others."""
    start.wait()
    with place.open() as store:
        store.note(Event("test.opened", NOW, "somebody")).result()


def intend_ssh_then_hang(place: Place, answers: Connection) -> None:
    """Reserve a serial for a host's key, tell it, and wait to be killed before anything is issued."""
    store = place.open()
    known(store, 1)
    (intent,) = store.intend_ssh(ssh_grant(host_leaf(1)), None, at=NOW).result()
    answers.send(intent.serial)
    answers.recv()
