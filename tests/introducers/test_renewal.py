"""Renewal's own refusals; what all introducers share is in tests/contract/test_introducers.py."""

from __future__ import annotations

from datetime import timedelta
from typing import Any

import pytest
from cryptography import x509 as pyca
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import rsa
from cryptography.hazmat.primitives.serialization import Encoding

from handfast.core.flow import Once, Wish
from handfast.core.records import CredentialRecord
from handfast.core.roles import GRANTABLE, Role
from handfast.errors import EvidenceRejected, PolicyRefused, Revoked
from handfast.introducers.renewal import REGISTRAR_HALF
from tests.introducers.stage import (
    DAY,
    NAMES,
    NOW,
    OTHER_KEY,
    SERIAL,
    a_credential,
    by_renewal,
    certificate,
)

DIALING = sorted(role for role in GRANTABLE if role.dials)
SERVING_ONLY = sorted(role for role in GRANTABLE if not role.dials)


@pytest.mark.parametrize("role", SERVING_ONLY)
def test_a_server_renews_by_signature(role: Role) -> None:
    """Its certificate is no client's, so the old key signs in the message; names and role are the ledger's."""
    honest = by_renewal(record=a_credential(role))
    finding = REGISTRAR_HALF.verify(honest.evidence, honest.stage)
    assert finding.entitlement.roles == {role}
    assert finding.entitlement.names == NAMES
    assert finding.wish == Wish()
    assert finding.once == Once(f"successor:{SERIAL:032x}")
    assert finding.expired_at is None


@pytest.mark.parametrize("role", DIALING)
def test_who_dials_presents_its_certificate_too(role: Role) -> None:
    """With the certificate in the handshake it is accepted, without or with another's it is refused."""
    record = a_credential(role)
    honest = by_renewal(record=record, client=certificate())
    assert REGISTRAR_HALF.verify(honest.evidence, honest.stage).entitlement.roles == {role}
    for client in (None, certificate(serial=SERIAL + 1)):
        attempt = by_renewal(record=record, client=client)
        with pytest.raises(EvidenceRejected, match="not presented as client certificate"):
            REGISTRAR_HALF.verify(attempt.evidence, attempt.stage)


def test_another_key_cannot_renew() -> None:
    """Knowing a serial, which is public, is no possession."""
    honest = by_renewal(key=OTHER_KEY)
    with pytest.raises(EvidenceRejected, match="does not fit"):
        REGISTRAR_HALF.verify(honest.evidence, honest.stage)


@pytest.mark.parametrize("role", [Role.CLIENT, Role.OPERATOR])
def test_a_client_certificate_without_the_signature_is_not_enough(role: Role) -> None:
    """A TLS terminator that holds the connection does not hold the key."""
    honest = by_renewal(record=a_credential(role), client=certificate(), key=OTHER_KEY)
    with pytest.raises(EvidenceRejected, match="does not fit"):
        REGISTRAR_HALF.verify(honest.evidence, honest.stage)


def test_revoked_says_so_to_the_holder() -> None:
    """Revoked before expired, with the reason: it holds the key, so it is entitled to know."""
    honest = by_renewal(record=a_credential(revoked_at=NOW, revoked_reason="keyCompromise", not_after=NOW))
    with pytest.raises(Revoked, match="keyCompromise"):
        REGISTRAR_HALF.verify(honest.evidence, honest.stage)


def test_expired_names_the_way_back() -> None:
    """At its end a credential no longer renews."""
    honest = by_renewal(record=a_credential(not_after=NOW))
    with pytest.raises(PolicyRefused, match="expired") as caught:
        REGISTRAR_HALF.verify(honest.evidence, honest.stage)
    assert "reintroduction" in caught.value.hint


def test_what_was_never_issued_renews_nothing() -> None:
    """An intent without a certificate has no holder."""
    honest = by_renewal(record=a_credential(certificate=None))
    with pytest.raises(EvidenceRejected, match="not in the ledger"):
        REGISTRAR_HALF.verify(honest.evidence, honest.stage)


def test_an_rsa_credential_cannot_renew_and_is_told() -> None:
    """Only elliptic-curve keys sign requests; an RSA one, which a foreign client may hold, joins anew."""
    key = rsa.generate_private_key(65537, 2048)
    name = pyca.Name([])
    foreign = (
        pyca.CertificateBuilder(name, name, key.public_key(), SERIAL)
        .not_valid_before(NOW - DAY)
        .not_valid_after(NOW + DAY)
        .sign(key, hashes.SHA256())
    )
    honest = by_renewal(record=a_credential(certificate=foreign.public_bytes(Encoding.DER)))
    with pytest.raises(EvidenceRejected, match="RSA 2048"):
        REGISTRAR_HALF.verify(honest.evidence, honest.stage)


def test_only_renewals_of_late_are_counted() -> None:
    """Those of the machine within the last 24th of the life, without the own successor: that would be a retry."""
    honest = by_renewal(record=a_credential())
    assert REGISTRAR_HALF.verify(honest.evidence, honest.stage).renewals == 0  # it is one day old, and invited
    lately: dict[str, Any] = {"intended_at": NOW - timedelta(minutes=1), "not_after": NOW + DAY}
    honest.stage.credentials |= {
        SERIAL: a_credential(marker=f"successor:{1:032x}", **lately),
        1: a_credential(serial=1, marker=f"successor:{2:032x}", **lately),
        2: a_credential(serial=2, marker=f"successor:{3:032x}", **(lately | {"intended_at": NOW - DAY / 24 * 1.1})),
        3: a_credential(serial=3, **lately),
        4: a_credential(serial=4, marker=f"successor:{SERIAL:032x}", **lately),
    }
    assert REGISTRAR_HALF.verify(honest.evidence, honest.stage).renewals == 2


def test_the_line_of_predecessors_is_not_walked() -> None:
    """However long it is, nobody has more than his own credential read before he is admitted."""
    lately: dict[str, Any] = {"intended_at": NOW - timedelta(minutes=1), "not_after": NOW + DAY}
    honest = by_renewal(record=a_credential(marker=f"successor:{1:032x}", **lately))
    read: list[int] = []
    known = honest.stage.credential

    def credential(serial: int) -> CredentialRecord | None:
        read.append(serial)
        return known(serial)

    honest.stage.credential = credential  # type: ignore[method-assign]
    REGISTRAR_HALF.verify(honest.evidence, honest.stage)
    assert read == [SERIAL]
