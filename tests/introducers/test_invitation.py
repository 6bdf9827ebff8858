"""The invitation's own refusals; what all introducers share is in tests/contract/test_introducers.py."""

from __future__ import annotations

import dataclasses
from datetime import timedelta

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from handfast.core import csr
from handfast.core.flow import Once, Wish
from handfast.core.names import Names, network
from handfast.core.roles import Role
from handfast.errors import EvidenceRejected, InvitationCancelled, InvitationExpired, Malformed
from handfast.introducers.invitation import REGISTRAR_HALF
from tests.introducers.stage import LINE, NAMES, NEXT_RETURN_KEY, NOW, an_invitation, by_invitation, ed25519


def test_the_finding_says_what_the_operator_bound() -> None:
    """Machine, role, names and networks are the invitation's; the wish is the newcomer's, and only a wish."""
    wish = Wish(Role.SERVER, Names.parse(["web1.lan"]))
    honest = by_invitation(wish=wish, sources=(network("10.0.0.0/24"),))
    finding = REGISTRAR_HALF.verify(honest.evidence, honest.stage)
    assert finding.entitlement.machine == "web1.lan"
    assert finding.entitlement.roles == {Role.SERVER}
    assert finding.entitlement.names == NAMES
    assert finding.entitlement.sources == (network("10.0.0.0/24"),)
    assert finding.wish == wish
    assert finding.once == Once(f"invitation:{LINE.key_id}", 1)
    assert finding.reintroduction_key == NEXT_RETURN_KEY.public_key().public_bytes_raw()
    assert finding.expired_at is None
    assert LINE.key_id in finding.proof


def test_a_wish_beyond_the_invitation_is_found_and_left_to_policy() -> None:
    """Verifying says who this is; what they may have is decided with every reason at once."""
    wish = Wish(Role.OPERATOR, Names.parse(["other.lan"]))
    honest = by_invitation(wish=wish)
    finding = REGISTRAR_HALF.verify(honest.evidence, honest.stage)
    assert finding.wish == wish
    assert finding.entitlement.names == NAMES


@pytest.mark.parametrize("late", [timedelta(0), timedelta(seconds=1), timedelta(days=400)])
def test_the_end_is_outside(late: timedelta) -> None:
    """At its end an invitation is over, and its holder is told so."""
    honest = by_invitation(record=an_invitation(expires_at=NOW - late))
    with pytest.raises(InvitationExpired, match="expired at") as caught:
        REGISTRAR_HALF.verify(honest.evidence, honest.stage)
    assert "ask for a new one" in caught.value.hint


def test_a_cancelled_one_says_so_to_its_holder_only() -> None:
    """Cancelled comes before expired, and both only after the signature: a stranger cannot ask."""
    record = an_invitation(cancelled="lost", expires_at=NOW)
    honest = by_invitation(record=record)
    with pytest.raises(InvitationCancelled, match=LINE.key_id):
        REGISTRAR_HALF.verify(honest.evidence, honest.stage)
    stranger = dataclasses.replace(record, public_half=ed25519(9).public_key().public_bytes_raw())
    honest.stage.invitations = {LINE.key_id: stranger}
    with pytest.raises(EvidenceRejected):
        REGISTRAR_HALF.verify(honest.evidence, honest.stage)


def test_a_used_one_is_still_verified() -> None:
    """The same key may ask again after a lost answer: whether a use is left is the ledger's to say."""
    honest = by_invitation(record=an_invitation(spent=1))
    assert REGISTRAR_HALF.verify(honest.evidence, honest.stage).once.uses == 1


def test_names_are_parsed_strictly() -> None:
    """A wildcard in a well-signed wish is Malformed, not a name."""
    wish = Wish(None, Names(("*.lan",)))
    honest = by_invitation(wish=wish)
    with pytest.raises(Malformed, match=r"\*\.lan"):
        REGISTRAR_HALF.verify(honest.evidence, honest.stage)


def test_a_weak_key_is_refused() -> None:
    """Genuine evidence does not make a curve acceptable that we do not certify."""
    honest = by_invitation(csr_der=csr.build(ec.generate_private_key(ec.SECP256K1())))
    with pytest.raises(Malformed):
        REGISTRAR_HALF.verify(honest.evidence, honest.stage)


def test_two_attempts_are_never_signed_alike() -> None:
    """The newcomer's own nonce makes each transcript new even where the registrar repeats its nonce."""
    assert by_invitation().signed != by_invitation().signed
