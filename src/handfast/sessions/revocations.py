"""A session's revocation list: what makes one ours, and newer than another. Pure."""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509

from handfast.core import keys
from handfast.core.x509 import authority_key_identifier
from handfast.errors import UntrustedPeer
from handfast.sessions.hello import MAX_CRL

MAX_CLOCK_SKEW = timedelta(days=1)  # certificates are backdated by an hour, time zones are within 14
_NOTHING = "nothing of it was believed"


@dataclass(frozen=True, slots=True)
class Revocations:
    """A list that the session's issuing CA signed: its number, and the serials taken back."""

    number: int
    serials: frozenset[int]
    der: bytes


def read(der: bytes, issuing: x509.Certificate, *, now: datetime) -> Revocations:
    """
    Read a revocation list, which a peer may have sent, if the issuing CA of this session signed it.

    *Not* checked: ``nextUpdate``. An old list still says what was taken back, and whoever has no newer one would gain
    nothing from forgetting it. Nor whether it is newer than another: compare ``number``.

    :raises UntrustedPeer: of another CA, signed by another key, not readable, no complete list, too long, or of the
        far future.
    """
    found = _opened(der, issuing)
    try:
        # A leaf's name is not the CA's, and its key signs nothing that verifies here.
        if not found.is_signature_valid(keys.check_strength(issuing.public_key())):
            raise _not_ours()
        number = _number(found, issuing)
        serials = frozenset(each.serial_number for each in found)
        made = found.last_update_utc
    except keys.UNREADABLE as error:
        raise _unreadable(error) from None
    if made > now + MAX_CLOCK_SKEW:
        raise UntrustedPeer(
            f"the revocation list was made at {made:%Y-%m-%d %H:%M}Z, and it is {now:%Y-%m-%d %H:%M}Z here",
            hint="one of the two clocks is wrong: check this machine's first",
        )
    return Revocations(number, serials, der)


def claimed_number(der: bytes, issuing: x509.Certificate) -> int:
    """
    Return the number in a list, to see whether it is worth reading: its signature, which takes longest, is not checked.

    :raises UntrustedPeer: another CA's, too long, not readable, or without a number.
    """
    found = _opened(der, issuing)
    try:
        return _number(found, issuing)
    except keys.UNREADABLE as error:
        raise _unreadable(error) from None


def _opened(der: bytes, issuing: x509.Certificate) -> x509.CertificateRevocationList:
    if len(der) > MAX_CRL:
        raise UntrustedPeer(f"a revocation list of {len(der)} bytes, at most {MAX_CRL} are read", hint=_NOTHING)
    try:
        found = x509.load_der_x509_crl(der)
        if found.issuer != issuing.subject:
            raise _not_ours()
    except keys.UNREADABLE as error:
        raise _unreadable(error) from None
    return found


def _not_ours() -> UntrustedPeer:
    return UntrustedPeer("the revocation list is not signed by this session's authority", hint=_NOTHING)


def _unreadable(error: Exception) -> UntrustedPeer:
    return UntrustedPeer(f"not a revocation list: {str(error)[:120]!r}", hint=_NOTHING)


def _number(found: x509.CertificateRevocationList, issuing: x509.Certificate) -> int:
    """Return its number. A list with further extensions may be partial (RFC 5280 §5.2), and ours have none."""
    present = {each.value for each in found.extensions}
    numbers = [each.crl_number for each in present if isinstance(each, x509.CRLNumber)]
    if len(present) != len(found.extensions) or present - {
        authority_key_identifier(issuing),
        *(x509.CRLNumber(number) for number in numbers),
    }:
        raise UntrustedPeer("the revocation list has extensions that ours have not", hint=_NOTHING)
    if len(numbers) != 1 or numbers[0] <= 0:
        raise UntrustedPeer("the revocation list has no number", hint=_NOTHING)
    return numbers[0]
