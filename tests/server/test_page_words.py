"""What the pages say of a machine's past."""

from __future__ import annotations

from pathlib import Path

import pytest

from handfast.core.hosts import Grade, How
from handfast.errors import Refused
from handfast.ledger import entries, host_entries, open_sqlite
from handfast.registrar.introduce import refusal
from handfast.server import page_words
from handfast.server.pages import Pages, Sight
from tests.server import shown
from tests.server.running import Hand


def test_whatever_the_ledger_writes_of_a_machine_is_said_in_a_sentence(tmp_path: Path) -> None:
    """Each kind of entry that a machine can have, alarms first of all: none is shown as a program's name for it."""
    kinds = {
        kind
        for module in (entries, host_entries)
        for name, kind in vars(module).items()
        if name.isupper() and isinstance(kind, str) and "." in kind
    } - {entries.CRL_PUBLISHED}  # which is a registrar's
    assert len(kinds) >= 14
    assert kinds <= set(page_words._SENTENCES)
    with open_sqlite(tmp_path / "ledger") as ledger:
        shown.register(ledger, "web1.lan", shown.ed25519(1))
        with pytest.raises(Refused):
            shown.register(ledger, "web1.lan", shown.ed25519(2), how=How.RENEWAL, detail="")
        refusal_of = refusal("web1.lan", method="renewal", marker="renewal:1", error=Refused("too late"), at=shown.NOW)
        ledger.note(refusal_of).result()
        page = Pages(ledger, Hand(), Grade.REPORTED).machine("web1.lan", Sight.OPERATOR).body.decode()
    assert "host keys known of which none is web1.lan&#39;s" in page
    assert "1 alarm" in page
    assert "Refused by renewal: too late" in page
    assert not [kind for kind in kinds if kind in page]
