"""
Whether another authority has taken a certificate back: complete lists (RFC 5280 §5), given as values.

A list is believed by its issuer's signature, so it may come over any network. What somebody on the way can do is to
keep it back, or to give an older one, or another issuer's. So where lists are configured, silence is no good news: a
leaf whose issuer's current list is not there is refused. *Not* done: OCSP, delta lists, indirect lists, and lists for
some reasons only; the last three are refused when they are read.

Of several lists from one place the newest that its issuer has signed counts. Which issuer that is only a path says, and
paths come with strangers: so a signature is looked at when a path first needs it, and what came of it is remembered.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from datetime import datetime, timedelta
from enum import StrEnum
from itertools import pairwise

from cryptography import x509

from handfast.core import keys
from handfast.core.foreign import subject_of
from handfast.errors import EvidenceRejected, Malformed, Revoked, TooMuch

MAX_LIST = 16 * 1024 * 1024  # bytes; some 400,000 revoked certificates
MAX_SIGNERS = 8  # keys that are remembered for a list: CAs of its issuer's name; one, unless a CA has changed its key
SKEW = timedelta(minutes=5)  # the issuer's clock may be ahead of ours
_PEM = b"-----BEGIN"
_TIME = "%Y-%m-%d %H:%MZ"


class Coverage(StrEnum):
    """Of which certificates in a path a current list has to be there, once any list is configured."""

    LEAF = "leaf"
    CHAIN = "chain"
    """Of every one but the root, which can only be taken out of the configuration."""


@dataclass(frozen=True, slots=True)
class RevocationList:
    """One list that is whole and means what we understand. Build one with ``read``."""

    content: x509.CertificateRevocationList
    source: str
    since: datetime
    until: datetime
    users_only: bool = False
    cas_only: bool = False
    points: frozenset[str] = frozenset()
    # By SubjectPublicKeyInfo: looking at every byte of a large list would hold up everybody else, for each request.
    _judged: dict[bytes, bool] = field(default_factory=dict, compare=False, repr=False)
    # Of one that is somebody's: a forged one of 16 MiB would take four times as much memory.
    _serials: set[int] = field(default_factory=set, compare=False, repr=False)

    @classmethod
    def read(cls, data: bytes, source: str) -> RevocationList:
        """
        Read a list in DER or PEM. *Not* checked: its signature, as only a path says by whom it has to be.

        :raises TooMuch: over ``MAX_LIST`` bytes. :raises Malformed: none, or of a kind that is not used here.
        """
        if len(data) > MAX_LIST:
            raise TooMuch(f"a revocation list of {len(data)} bytes, at most {MAX_LIST} are read")
        try:
            load = x509.load_pem_x509_crl if data.lstrip().startswith(_PEM) else x509.load_der_x509_crl
            content = load(data)
            extensions, until = list(content.extensions), content.next_update_utc
        except keys.UNREADABLE as error:
            raise Malformed(f"not a revocation list: {str(error)[:120]!r}") from None
        if until is None:
            raise Malformed("a revocation list without an end: nobody could say when it is stale")
        point = x509.IssuingDistributionPoint
        scope = next((each.value for each in extensions if isinstance(each.value, point)), None)
        for each in extensions:
            if each.critical and not isinstance(each.value, point):  # of delta lists, among others
                raise Malformed(f"a revocation list with the critical extension {each.oid.dotted_string}")
        if scope is None:
            return cls(content, source, content.last_update_utc, until)
        if scope.indirect_crl or scope.only_some_reasons or scope.only_contains_attribute_certs or scope.relative_name:
            raise Malformed("an indirect revocation list, or one for some reasons or attribute certificates only")
        return cls(
            content,
            source,
            content.last_update_utc,
            until,
            scope.only_contains_user_certs,
            scope.only_contains_ca_certs,
            frozenset(_urls(scope.full_name)),
        )

    def signed_by(self, spki: bytes) -> bool:
        """Whether it is by the key with this SubjectPublicKeyInfo. *Not* checked: whether that is its issuer's."""
        known = self._judged.get(spki)
        if known is None:
            if len(self._judged) >= MAX_SIGNERS:
                self._judged.clear()
            known = self._judged[spki] = self._verifies(spki)
        return known

    def signers(self) -> frozenset[bytes]:
        """Return the keys by which its signature was found to be; none before a path has needed it."""
        return frozenset(spki for spki, good in tuple(self._judged.items()) if good)

    def has(self, serial: int) -> bool:
        """Whether a certificate of this number is on it; none is, before it was found to be by some key."""
        return serial in self._serials

    def _verifies(self, spki: bytes) -> bool:
        try:
            good = self.content.is_signature_valid(keys.load_spki(spki))
            if good and not self._serials:
                self._serials.update(each.serial_number for each in self.content)
        except (Malformed, *keys.UNREADABLE):
            return False
        return good

    def covers(self, certificate: x509.Certificate, *, leaf: bool) -> bool:
        """Whether a certificate of its issuer would be on it, were it revoked."""
        if self.cas_only if leaf else self.users_only:
            return False
        named = _points_of(certificate)
        # A certificate that names no list leaves it to whoever configured this one.
        return not self.points or not named or bool(self.points & named)

    def current(self, at: datetime) -> bool:
        """Whether its time has begun, and is not over."""
        return self.since - SKEW <= at < self.until


Lists = Iterable[RevocationList]


def check_path(path: Sequence[x509.Certificate], lists: Lists, *, coverage: Coverage, at: datetime) -> None:
    """
    Refuse a path, leaf first and root last, of which a certificate was taken back, or may have been.

    :raises Revoked: one was. :raises EvidenceRejected: nobody can say, as no current list of its issuer is there.
    """
    every = tuple(lists)
    for position, (each, issuer) in enumerate(pairwise(path)):
        told = tuple(_newest(every, issuer))
        # What is on any list of its issuer was taken back, also where that list is stale or meant for others.
        for one in told:
            if one.has(each.serial_number):
                raise Revoked(
                    f"the certificate of {subject_of(each)!r} is on the revocation list of its CA ({one.source})",
                    hint="get another one from that CA",
                )
        covering = [one for one in told if one.covers(each, leaf=position == 0)]
        needed = position == 0 or coverage is Coverage.CHAIN or bool(covering)
        if needed and not any(one.current(at) for one in covering):
            there = ", ".join(f"{one.source} is from {one.since:{_TIME}} to {one.until:{_TIME}}" for one in covering)
            raise EvidenceRejected(
                f"nobody can say whether the certificate of {subject_of(each)!r} was revoked: no current list of its"
                f" CA is there ({there or 'none at all'})",
                hint="see [x5c] crls in the configuration, and the log for why a list is missing",
            )


def _newest(every: Iterable[RevocationList], issuer: x509.Certificate) -> Iterable[RevocationList]:
    """Return from each source the newest list by this CA: what anybody else put there neither counts nor displaces."""
    spki = _spki(issuer)
    found: dict[str, RevocationList] = {}
    for one in every:
        if one.content.issuer == issuer.subject and one.signed_by(spki):
            held = found.get(one.source)
            if held is None or one.since >= held.since:
                found[one.source] = one
    return found.values()


def _spki(issuer: x509.Certificate) -> bytes:
    try:
        return keys.spki(issuer.public_key())
    except keys.UNREADABLE:
        return b""  # nobody's: no list is by it


def _urls(names: Iterable[x509.GeneralName] | None) -> Iterable[str]:
    return (name.value for name in names or () if isinstance(name, x509.UniformResourceIdentifier))


def _points_of(certificate: x509.Certificate) -> frozenset[str]:
    try:
        points = certificate.extensions.get_extension_for_class(x509.CRLDistributionPoints).value
    except keys.UNREADABLE:
        return frozenset()
    return frozenset(url for point in points for url in _urls(point.full_name))
