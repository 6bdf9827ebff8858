"""Why a credential was revoked: one of RFC 5280's words for strangers, the operator's own for the log."""

from __future__ import annotations

import pytest

from handfast.errors import UsageError
from tests.registrar.house import House, Newcomer


@pytest.mark.parametrize("text", ["keyCompromise", "KEYCOMPROMISE", "key-compromise", "key compromise"])
def test_a_reason_is_known_in_any_spelling(house: House, text: str) -> None:
    """The CRL gets the standard's word, and nothing is remarked."""
    house.join(house.invite(), Newcomer())
    house.administration.revoke("web1.lan", reason=text)
    assert [revocation.reason for revocation in house.ledger.revocations()] == ["keyCompromise"]
    assert house.ledger.events(kind_prefix="revocation.remark") == []


def test_own_words_stay_in_the_log(house: House) -> None:
    """The CRL, which strangers read, says that it is not specified; the log says why."""
    house.join(house.invite(), Newcomer())
    house.administration.revoke("web1.lan", reason="left on a train")
    assert [revocation.reason for revocation in house.ledger.revocations()] == ["unspecified"]
    [remark] = house.ledger.events(kind_prefix="revocation.remark")
    assert (remark.subject, remark.fields) == ("web1.lan", {"remark": "left on a train"})


@pytest.mark.parametrize("text", ["", "x" * 201, "two\nlines", "\x1b[2J"])
def test_what_fits_on_no_line_is_refused(house: House, text: str) -> None:
    """Nothing is revoked by it."""
    house.join(house.invite(), Newcomer())
    with pytest.raises(UsageError, match="not a reason"):
        house.administration.revoke("web1.lan", reason=text)
    assert house.ledger.revocations() == []
