"""Reintroduction's own refusals; what all introducers share is in tests/contract/test_introducers.py."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest

from handfast.core.flow import Once
from handfast.core.roles import Role
from handfast.errors import EvidenceRejected, PolicyRefused, Revoked
from handfast.introducers.reintroduction import REGISTRAR_HALF
from tests.introducers.stage import DAY, NAMES, NOW, SERIAL, a_credential, by_reintroduction, ed25519


@pytest.mark.parametrize("ago", [timedelta(0), DAY, timedelta(days=700)])
def test_the_finding_says_when_the_credential_ended(ago: timedelta) -> None:
    """How long ago is too long is policy's; the marker is shared with renewal, so there is one successor."""
    honest = by_reintroduction(record=a_credential(not_after=NOW - ago))
    finding = REGISTRAR_HALF.verify(honest.evidence, honest.stage)
    assert finding.expired_at == NOW - ago
    assert finding.once == Once(f"successor:{SERIAL:032x}")
    assert finding.entitlement.names == NAMES
    assert finding.entitlement.roles == {Role.SERVER}


def test_a_valid_credential_is_not_bypassed() -> None:
    """While it is valid its own key has to prove it: the weaker way is never the fallback of the stronger."""
    honest = by_reintroduction(record=a_credential(not_after=NOW + timedelta(seconds=1)))
    with pytest.raises(PolicyRefused, match="still valid"):
        REGISTRAR_HALF.verify(honest.evidence, honest.stage)


def test_revoked_stays_revoked_after_its_end() -> None:
    """Sleeping past the end is no way around a revocation."""
    honest = by_reintroduction(record=a_credential(not_after=NOW - DAY, revoked_at=NOW, revoked_reason="keyCompromise"))
    with pytest.raises(Revoked, match="keyCompromise"):
        REGISTRAR_HALF.verify(honest.evidence, honest.stage)


@pytest.mark.parametrize("changes", [{"reintroduction_key": None}, {"certificate": None}])
def test_without_a_key_on_record_there_is_no_way_back(changes: dict[str, Any]) -> None:
    """Nothing registered, or nothing issued: refused, and not with an exception of another kind."""
    honest = by_reintroduction(record=a_credential(not_after=NOW - DAY, **changes))
    with pytest.raises(EvidenceRejected, match="not in the ledger, or no key"):
        REGISTRAR_HALF.verify(honest.evidence, honest.stage)


def test_another_key_does_not_come_back() -> None:
    """The successor's key, or anybody's, is not the one that was registered."""
    for number in (6, 9):
        honest = by_reintroduction(key=ed25519(number))
        with pytest.raises(EvidenceRejected, match="does not fit"):
            REGISTRAR_HALF.verify(honest.evidence, honest.stage)
