"""What the registrar signs of its log: only what extends the log that it signed before."""

from __future__ import annotations

import sqlite3
from pathlib import Path
from typing import Any

import msgspec
import pytest

from handfast.core import checkpoint, merkle
from handfast.core.roles import Role
from handfast.ledger import entries
from handfast.server.limits import Limits
from handfast.wiring import CHECKPOINT, LEDGER
from tests.server.running import Client, Running, running
from tests.server.test_life import wait

SOON = Limits(tick=0.05)


def rewrite(data: Path) -> None:
    """Rewrite the past as somebody who can write the store and has no key: the log is whole, and another one."""
    with sqlite3.connect(data / LEDGER) as store:
        store.execute("DELETE FROM checkpoints")
        tree, lied = merkle.Frontier(), False
        for index, stored in store.execute("SELECT leaf_index, entry FROM events ORDER BY leaf_index").fetchall():
            event = entries.decode(stored)
            if event.kind not in entries.OF_TABLES and not lied:
                event.fields["lie"] = "yes"
                lied = True
            entry = entries.encode(event)
            tree = tree.append(merkle.leaf_hash(entry))
            change = "UPDATE events SET entry = ?, leaf_hash = ? WHERE leaf_index = ?"
            store.execute(change, (entry, merkle.leaf_hash(entry), index))
        store.execute("UPDATE log_head SET frontier = ?", (tree.encode(),))
        assert lied
    store.close()


def failing(client: Client) -> list[Any]:
    """What /readyz says is wrong."""
    found: list[Any] = msgspec.json.decode(client.call("GET", "/readyz")[1])["failing"]
    return found


def signed_size(registrar: Running) -> int:
    """The size of the newest checkpoint; -1 without one."""
    note = registrar.service.ledger.last_checkpoint()
    return -1 if note is None else checkpoint.parse(note).size


def signed_now(registrar: Running) -> bool:
    """Whether the newest checkpoint is one of the whole log."""
    return signed_size(registrar) == registrar.service.ledger.head().size


def test_a_log_rewritten_under_a_running_registrar_is_not_signed(tmp_path: Path) -> None:
    """Also when every stored checkpoint is gone: the registrar remembers what it signed, says so, and is not ready."""
    with running(tmp_path / "data", limits=SOON) as registrar, registrar.connect() as client:
        # Of two entries without rows the first is changed: what the table says still fits.
        client.call("GET", f"/crl/{registrar.service.authority.public.crl_names[0]}.crl")
        registrar.credential("web1.lan", Role.SERVER)
        wait(lambda: signed_now(registrar))
        assert failing(client) == []
        rewrite(tmp_path / "data")
        wait(lambda: failing(client) == ["log"])
        assert b"handfast_log_tampered 1.0" in client.call("GET", "/metrics")[1]
    with running(tmp_path / "data", clients="after", limits=Limits(tick=60)) as registrar:
        assert signed_size(registrar) in (-1, registrar.service.ledger.head().size)


@pytest.mark.parametrize(
    "change",
    [
        "UPDATE events SET entry = CAST(entry || ' ' AS BLOB) WHERE leaf_index = 0",
        "UPDATE events SET entry = 'text' WHERE leaf_index = 0",
        "DELETE FROM events",
    ],
)
def test_a_log_changed_under_a_stopped_registrar_is_not_signed(tmp_path: Path, change: str) -> None:
    """At the start the entries are compared with the newest checkpoint in the store."""
    with running(tmp_path / "data") as registrar:
        registrar.credential("web1.lan", Role.SERVER)
    with sqlite3.connect(tmp_path / "data" / LEDGER) as store:
        store.execute(change)
    store.close()
    with running(tmp_path / "data", clients="again", limits=SOON) as registrar, registrar.connect() as client:
        before = signed_size(registrar)
        wait(lambda: failing(client) == ["log"])
        registrar.credential("web2.lan", Role.SERVER)
        assert signed_size(registrar) == before


def test_a_log_rewritten_under_a_stopped_registrar_is_not_signed(tmp_path: Path) -> None:
    """With every checkpoint gone from the store, the one in the data directory says that there was one."""
    data = tmp_path / "data"
    with running(data, limits=SOON) as registrar, registrar.connect() as client:
        client.call("GET", f"/crl/{registrar.service.authority.public.crl_names[0]}.crl")
        registrar.credential("web1.lan", Role.SERVER)
        wait(lambda: signed_now(registrar))
    kept = (data / CHECKPOINT).read_text()
    assert (data / CHECKPOINT).stat().st_mode & 0o777 == 0o644
    rewrite(data)
    with running(data, clients="again", limits=SOON) as registrar, registrar.connect() as client:
        wait(lambda: failing(client) == ["log"])
        registrar.credential("web2.lan", Role.SERVER)
        assert signed_size(registrar) == -1
    assert (data / CHECKPOINT).read_text() == kept


def test_the_newer_checkpoint_of_store_and_file_counts(tmp_path: Path) -> None:
    """A store put back to an older state with its own checkpoint is found; a file left behind by a crash is none."""
    data = tmp_path / "data"
    with running(data, limits=SOON) as registrar:
        wait((data / CHECKPOINT).exists)
        older = (data / CHECKPOINT).read_text()
        registrar.credential("web1.lan", Role.SERVER)
        wait(lambda: signed_now(registrar))
        wait(lambda: (data / CHECKPOINT).read_text() == registrar.service.ledger.last_checkpoint())
        newer = (data / CHECKPOINT).read_text()
    assert checkpoint.parse(older).size < checkpoint.parse(newer).size
    (data / CHECKPOINT).write_text(older)
    with running(data, clients="again", limits=SOON) as registrar, registrar.connect() as client:
        registrar.credential("web2.lan", Role.SERVER)
        wait(lambda: signed_now(registrar))
        assert failing(client) == []
    with sqlite3.connect(data / LEDGER) as store:
        store.execute("DELETE FROM checkpoints WHERE size > ?", (checkpoint.parse(older).size,))
        store.execute("UPDATE events SET entry = CAST(entry || ' ' AS BLOB) WHERE leaf_index = ?", (3,))
    store.close()
    with running(data, clients="third", limits=SOON) as registrar, registrar.connect() as client:
        wait(lambda: failing(client) == ["log"])


def test_the_log_is_signed_on_across_restarts(tmp_path: Path) -> None:
    """An honest log is signed again as it grows, by a registrar that has just started and by the same one."""
    with running(tmp_path / "data") as registrar:
        registrar.credential("web1.lan", Role.SERVER)
    with running(tmp_path / "data", clients="again", limits=SOON) as registrar, registrar.connect() as client:
        for name in ("web2.lan", "web3.lan"):
            registrar.credential(name, Role.SERVER)
            wait(lambda: signed_now(registrar))
        assert failing(client) == []
