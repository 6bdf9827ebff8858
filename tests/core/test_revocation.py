"""What lists of revoked certificates say of a path, and what their silence means."""

from __future__ import annotations

import dataclasses
import re
from datetime import datetime, timedelta

import pytest
from cryptography import x509 as pyca
from cryptography.hazmat.primitives.serialization import Encoding

from handfast.core import keys, revocation
from handfast.core.revocation import Coverage, RevocationList
from handfast.errors import EvidenceRejected, Malformed, Revoked, TooMuch
from tests.introducers.x5c_material import DAY, NOW, Ca, Extension, p256, root, site

THEIRS = site()
PATH = (*THEIRS.chain, THEIRS.root.certificate)
URL = "http://their.lan/crl"
HOUR = timedelta(hours=1)


def read(content: pyca.CertificateRevocationList, source: str = "a list") -> RevocationList:
    """As it would come from a file."""
    return RevocationList.read(content.public_bytes(Encoding.DER), source)


def check(
    *lists: pyca.CertificateRevocationList,
    path: tuple[pyca.Certificate, ...] = PATH,
    coverage: Coverage = Coverage.LEAF,
    at: datetime = NOW,
) -> None:
    """Look at a path."""
    revocation.check_path(path, map(read, lists), coverage=coverage, at=at)


def scope(
    *, users: bool = False, cas: bool = False, url: str | None = None, indirect: bool = False,
    reasons: frozenset[pyca.ReasonFlags] | None = None, attributes: bool = False,
) -> Extension:  # fmt: skip
    """What a list says that it is about."""
    name = [pyca.UniformResourceIdentifier(url)] if url else None
    return pyca.IssuingDistributionPoint(name, None, users, cas, reasons, indirect, attributes), True


def points(*urls: str) -> Extension:
    """Where a certificate says that its list is."""
    return (
        pyca.CRLDistributionPoints(
            [pyca.DistributionPoint([pyca.UniformResourceIdentifier(url)], None, None, None) for url in urls]
        ),
        False,
    )


def test_who_is_on_no_list_passes() -> None:
    """A current list of the leaf's CA that does not have it, in DER or in PEM."""
    check(THEIRS.ca.crl())
    check(THEIRS.ca.crl(THEIRS.ca.leaf(p256("another"), "other.lan")))
    text = THEIRS.ca.crl().public_bytes(Encoding.PEM)
    revocation.check_path(PATH, [RevocationList.read(b"\n" + text, "")], coverage=Coverage.LEAF, at=NOW)


def test_who_is_on_the_list_is_refused() -> None:
    """By name, and with the list that says so."""
    with pytest.raises(Revoked, match=r"'CN=web1\.lan' is on the revocation list of its CA \(a list\)") as caught:
        check(THEIRS.ca.crl(THEIRS.leaf))
    assert caught.value.hint


def test_a_CA_that_was_taken_back_vouches_for_nobody() -> None:
    """Whatever has to be covered: a list that is there counts."""
    for coverage in Coverage:
        with pytest.raises(Revoked, match="CN=their CA"):
            check(THEIRS.ca.crl(), THEIRS.root.crl(THEIRS.ca.certificate), coverage=coverage)


@pytest.mark.parametrize("late", [DAY, DAY * 400, -HOUR * 2])
def test_without_a_current_list_nobody_passes(late: timedelta) -> None:
    """A stale list, or one of the future, says nothing; when it ended is said."""
    with pytest.raises(EvidenceRejected, match="a list is from 2026-11-22 11:00Z to 2026-11-23 12:00Z") as caught:
        check(THEIRS.ca.crl(), at=NOW + late)
    assert "[x5c] crls" in caught.value.hint


def test_a_clock_ahead_of_ours_by_minutes_does_no_harm() -> None:
    """The issuer's clock is not ours."""
    check(THEIRS.ca.crl(begin=NOW + timedelta(minutes=4)))


@pytest.mark.parametrize("late", [timedelta(0), DAY * 3])
def test_who_is_on_a_stale_list_was_revoked(late: timedelta) -> None:
    """What was taken back stays so, as long as the list is kept."""
    with pytest.raises(Revoked):
        check(THEIRS.ca.crl(THEIRS.leaf), at=NOW + late)


def test_another_list_cannot_stand_in() -> None:
    """Somebody on the way who hands over another issuer's list, or makes one in its name, hides nothing."""
    impostor = Ca(root("their CA", p256("mallory")).certificate, p256("mallory"))
    for other in (THEIRS.root.crl(), root("stranger").crl(), impostor.crl(), impostor.crl(THEIRS.leaf)):
        with pytest.raises(EvidenceRejected, match=re.escape("no current list of its CA is there (none at all)")):
            check(other)
    check(impostor.crl(THEIRS.leaf), THEIRS.ca.crl())  # and it revokes nobody


def test_silence_about_a_CA() -> None:
    """Where only leaves have to be covered, a CA without a list passes; where the chain has to, it does not."""
    check(THEIRS.ca.crl(), coverage=Coverage.LEAF)
    with pytest.raises(EvidenceRejected, match="CN=their CA"):
        check(THEIRS.ca.crl(), coverage=Coverage.CHAIN)
    check(THEIRS.ca.crl(), THEIRS.root.crl(), coverage=Coverage.CHAIN)


def test_a_stale_list_of_a_CA_refuses() -> None:
    """Where a list for CAs is configured it has to be current, though it was not asked for."""
    with pytest.raises(EvidenceRejected, match="CN=their CA"):
        check(THEIRS.ca.crl(), THEIRS.root.crl(end=NOW - timedelta(minutes=1)))


def test_one_current_list_of_several_is_enough() -> None:
    """While a new one has come and the old is still there."""
    check(THEIRS.ca.crl(end=NOW - timedelta(minutes=1)), THEIRS.ca.crl())


def test_a_list_for_others_does_not_cover() -> None:
    """One for CAs says nothing of leaves, and the other way round; but who is on it was revoked."""
    check(THEIRS.ca.crl(extra=[scope(users=True)]))
    for extra in (scope(cas=True), scope(url="http://their.lan/other")):
        leaf = THEIRS.ca.leaf(THEIRS.key, "web1.lan", extra=[points(URL)])
        with pytest.raises(EvidenceRejected, match="nobody can say"):
            check(THEIRS.ca.crl(extra=[extra]), path=(leaf, *PATH[1:]))
        with pytest.raises(Revoked):
            check(THEIRS.ca.crl(leaf, extra=[extra]), path=(leaf, *PATH[1:]))
    with pytest.raises(EvidenceRejected, match="CN=their CA"):
        check(THEIRS.ca.crl(), THEIRS.root.crl(extra=[scope(users=True)]), coverage=Coverage.CHAIN)
    check(THEIRS.ca.crl(), THEIRS.root.crl(extra=[scope(cas=True)]), coverage=Coverage.CHAIN)


def test_a_part_of_a_list_covers_whom_it_names() -> None:
    """Large authorities split their lists; the leaf says which part is about it."""
    leaf = THEIRS.ca.leaf(THEIRS.key, "web1.lan", extra=[points(URL, "ldap://their.lan")])
    check(THEIRS.ca.crl(extra=[scope(users=True, url=URL)]), path=(leaf, *PATH[1:]))
    check(THEIRS.ca.crl(extra=[scope(users=True, url=URL)]))  # says nothing: the operator has said it
    check(THEIRS.ca.crl(), path=(leaf, *PATH[1:]))  # a list of everything


def test_lists_of_kinds_that_are_not_used_are_refused() -> None:
    """Understood by half they would say too little."""
    kinds = (
        scope(indirect=True),
        scope(reasons=frozenset({pyca.ReasonFlags.key_compromise})),
        scope(attributes=True),
        (pyca.DeltaCRLIndicator(1), True),
        (pyca.UnrecognizedExtension(pyca.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), True),
    )
    for extra in kinds:
        with pytest.raises(Malformed, match=r"a revocation list with the critical|an indirect revocation list"):
            read(THEIRS.ca.crl(extra=[extra]))
    read(THEIRS.ca.crl(extra=[(pyca.CRLNumber(7), False)]))


@pytest.mark.parametrize("data", [b"", b"-----BEGIN X509 CRL-----\n", b"\x30\x03\x02\x01\x01", b"<html>"])
def test_what_is_no_list_is_refused(data: bytes) -> None:
    """A login page is no list."""
    with pytest.raises(Malformed, match="not a revocation list"):
        RevocationList.read(data, "")


def test_a_list_has_bounds() -> None:
    """Of its size, and an end in time."""
    with pytest.raises(TooMuch, match="at most 16777216"):
        RevocationList.read(bytes(revocation.MAX_LIST + 1), "")
    der = bytearray(THEIRS.ca.crl().public_bytes(Encoding.DER))
    at = der.index(b"\x17\x0d261123120000Z")
    shorter = der[:at] + der[at + 15 :]
    for length in (2, 4):  # of the whole, and of what is signed
        shorter[length] -= 15
    with pytest.raises(Malformed, match="without an end"):
        RevocationList.read(bytes(shorter), "")


def test_a_list_is_frozen() -> None:
    """Nothing extends its time."""
    with pytest.raises(dataclasses.FrozenInstanceError):
        read(THEIRS.ca.crl()).until = NOW + DAY * 99  # type: ignore[misc]


def test_of_one_sources_lists_the_newest_by_the_CA_counts() -> None:
    """Yesterday's list beside today's hides nothing, and neither does a newer one by another key."""
    impostor = Ca(root("their CA", p256("mallory")).certificate, p256("mallory"))
    today, yesterday = THEIRS.ca.crl(THEIRS.leaf), THEIRS.ca.crl(begin=NOW - DAY)
    forged = impostor.crl(begin=NOW - timedelta(minutes=1))
    for order in ((today, yesterday, forged), (forged, yesterday, today)):
        with pytest.raises(Revoked):
            check(*order)
    check(THEIRS.ca.crl(THEIRS.leaf, begin=NOW - DAY), THEIRS.ca.crl())  # it was on hold, and is no more


def test_a_signature_is_looked_at_once_for_each_key() -> None:
    """Of a large list that is 80 ms, for which everybody else would wait with each request."""
    one, impostor = read(THEIRS.ca.crl()), root("their CA", p256("mallory")).certificate
    assert one.signers() == frozenset()
    for _ in range(2):
        revocation.check_path(PATH, [one], coverage=Coverage.LEAF, at=NOW)
        with pytest.raises(EvidenceRejected):
            revocation.check_path((THEIRS.leaf, impostor), [one], coverage=Coverage.LEAF, at=NOW)
    theirs = keys.spki(THEIRS.ca.certificate.public_key())
    assert one.signers() == {theirs}
    assert one._judged == {theirs: True, keys.spki(impostor.public_key()): False}


def test_what_is_remembered_of_a_list_is_bounded() -> None:
    """However many keys a CA's name has had."""
    one = read(THEIRS.ca.crl())
    for number in range(revocation.MAX_SIGNERS + 2):
        assert not one.signed_by(keys.spki(p256(f"another {number}").public_key()))
    assert len(one._judged) <= revocation.MAX_SIGNERS
    assert not one.signed_by(b"no key")
    assert one.signed_by(keys.spki(THEIRS.ca.certificate.public_key()))
