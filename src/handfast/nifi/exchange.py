"""
The node's half of NiFi's wire: one request to a certificate authority that a shared token authenticates.

Nothing is known of the authority but its host name and the token. TLS is unauthenticated at first; the MAC in the
answer, over the key that the peer proved in the handshake, shows that it knows the token. Everything that the
original checked is checked here in its order, and then what it did not: that the certificate is for our key, with our
subject and names, from that authority, no authority itself, and valid now.

Inherent in this wire, and not mended here: the request shows whoever answers a MAC made with the token, so that a
weak token can be guessed at leisure; and the names in the request are not covered by that MAC.
"""

from __future__ import annotations

import contextlib
import ipaddress
import secrets
import ssl
import time
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import datetime, timedelta

from cryptography import x509
from cryptography.exceptions import InvalidSignature

from handfast.adapters.tls import foreign_client_context, peer_chain
from handfast.core import dn, keys
from handfast.core.chain import load_certificate
from handfast.core.secret import Secret
from handfast.core.wire import decode
from handfast.errors import EvidenceRejected, HandfastError, Malformed, Refused, Unreachable, UntrustedPeer, UsageError
from handfast.introducers import nifi as wire
from handfast.nifi.https import Answer, NotYetError, Place, ask, connected

CLOCK_STEP = timedelta(minutes=5)  # the authority does not backdate, and its clock may be ahead of ours
_FIRST_PAUSE, _LONGEST_PAUSE = 0.5, 5.0  # seconds between two attempts to reach an authority that is starting
_CHANCE = secrets.SystemRandom()
_NOTHING_KEPT = "nothing was kept of the answer"
_SPENT = "already used with another key"  # what our registrar says of a one-time token; another CA has none


@dataclass(frozen=True, slots=True)
class Wanted:
    """
    What a node asks to be certified: ``subject`` in a certificate's order (``core.dn``), ``names`` beside its CN.

    A name that is an IP address is asked for as one.
    """

    subject: x509.Name
    names: tuple[str, ...]

    def general_names(self) -> list[x509.GeneralName]:
        """
        Return the alternative names in the order of the original: the common name as a DNS name, then the others.

        :raises UsageError: no common name, or a name that is not ASCII.
        """
        common = dn.common_name(self.subject)
        if common is None:
            raise UsageError(
                f"the subject {dn.written(self.subject)!r} has no common name",
                hint="write it as 'CN=node1.lan, OU=NIFI'",
            )
        try:
            found = [x509.DNSName(common), *map(_general_name, self.names)]
        except ValueError:
            raise UsageError("an alternative name is not ASCII", hint="write it in its xn-- form") from None
        return list(dict.fromkeys(found))


@dataclass(frozen=True, slots=True)
class Enrolled:
    """A leaf and the authority that signed it, all checked; and what a person should know of it."""

    leaf: x509.Certificate
    ca: x509.Certificate
    remarks: tuple[str, ...]


def csr(key: keys.LeafPrivateKey, wanted: Wanted) -> x509.CertificateSigningRequest:
    """Return the request as the original makes it: the subject in typed order, and the names."""
    builder = x509.CertificateSigningRequestBuilder(dn.reverse(wanted.subject))
    builder = builder.add_extension(x509.SubjectAlternativeName(wanted.general_names()), critical=False)
    return builder.sign(key, keys.signature_hash(key))


def enrol(
    place: Place,
    wanted: Wanted,
    *,
    key: keys.LeafPrivateKey,
    known: x509.Certificate | None,
    token: Secret,
    wait: timedelta,
    now: Callable[[], datetime],
    tell: Callable[[str], None],
) -> Enrolled:
    """
    Ask the authority at ``place`` for a certificate; whoever has not the key of ``known`` is sent nothing.

    While nobody listens there it is tried again, for ``wait``; not after anything was sent.

    :raises Unreachable: no answer in time.
    :raises UntrustedPeer: it is not the authority, does not know the token, or certified something else.
    :raises Refused: it said no.
    """
    request = wire.encode_request(token, csr(key, wanted))
    with _reached(place, wait, tell) as connection:
        ca = _authority(peer_chain(connection), place)
        _require(known, ca, place)
        answer = ask(connection, place, "POST", "/", request)
    if answer.status != 200:
        raise _refusal(answer, place)
    try:
        leaf = wire.decode_answer(answer.body, token, ca)
    except EvidenceRejected as error:
        raise UntrustedPeer(f"{place}: {error.message}", hint=error.hint) from None
    except Malformed as error:
        raise UntrustedPeer(f"{place} does not answer as a NiFi CA: {error.message}", hint=_NOTHING_KEPT) from None
    remarks = _check(leaf, ca, wanted, key, now())
    return Enrolled(leaf, ca, remarks)


@contextlib.contextmanager
def _reached(place: Place, wait: timedelta, tell: Callable[[str], None]) -> Iterator[ssl.SSLSocket]:
    deadline, pause, told = time.monotonic() + wait.total_seconds(), _FIRST_PAUSE, False
    context = foreign_client_context()
    with contextlib.ExitStack() as stack:
        while (connection := _attempt(stack, place, context, late=time.monotonic() >= deadline)) is None:
            if not told:
                tell(f"waiting for {place}, {wait.total_seconds():.0f} s at most")
                told = True
            left = max(0.0, deadline - time.monotonic())
            time.sleep(min(left, _CHANCE.uniform(pause / 2, pause)))  # not all nodes of a cluster at once
            pause = min(2 * pause, _LONGEST_PAUSE)
        yield connection


def _attempt(stack: contextlib.ExitStack, place: Place, context: ssl.SSLContext, *, late: bool) -> ssl.SSLSocket | None:
    try:
        return stack.enter_context(connected(place, context))
    except NotYetError as error:
        if late:
            raise Unreachable(
                f"cannot reach {place}: {error}", hint="is the CA running, and the port open? nothing was sent"
            ) from None
        return None


def _authority(chain: list[bytes], place: Place) -> x509.Certificate:
    """Return the peer's certificate if it may be the authority's; this proves nothing, and ends mistakes early."""
    if len(chain) != 1:
        raise UntrustedPeer(
            f"{place} presents {len(chain)} certificates, and a NiFi CA exactly one",
            hint="is a proxy or a service mesh in between, or is this another service?",
        )
    try:
        ca = load_certificate(chain[0])
        ca.public_key()  # may be of a kind that is not read
        common, names = dn.common_name(ca.subject), _dns_and_ips(ca)
    except (Malformed, *keys.UNREADABLE) as error:
        raise UntrustedPeer(f"{place} presents no readable certificate: {str(error)[:120]!r}") from None
    host = place.host
    if names is not None and _general_name(host.lower()) not in map(_lower, names):
        shown = ", ".join(str(name.value) for name in names)[:200]
        raise UntrustedPeer(
            f"the certificate of {place} is not for {host!r}: its alternative names are {shown or 'none'}",
            hint="give the CA's host name as it was given to the CA (-c)",
        )
    if common != host:
        raise UntrustedPeer(
            f"the certificate of {place} has the common name {common!r}, expected {host!r}",
            hint="give the CA's host name as it was given to the CA (-c), in the same case",
        )
    return ca


def _require(known: x509.Certificate | None, ca: x509.Certificate, place: Place) -> None:
    """:raises UntrustedPeer: what was proved in the handshake is another key than that of the authority we know."""
    if known is not None and keys.spki(ca.public_key()) != keys.spki(known.public_key()):
        raise UntrustedPeer(
            f"{place} has another key than the CA which this node trusts; nothing was sent",
            hint="if the CA was replaced on purpose, move the key store and the trust store away and run it again; "
            "if not, somebody answers in its name",
        )


def _refusal(answer: Answer, place: Place) -> HandfastError:
    """Return the error for a status that is not 200; a page of HTML is not repeated."""
    said = _said(answer.body)
    message = f"{place} answered with status {answer.status}" + (f": {said[:200]!r}" if said else "")
    if said == "forbidden":
        return EvidenceRejected(message, hint="compare the token here and there; a one-time token may be spent")
    if _SPENT in said:
        return Refused(message, hint="ask for a new token; tell the CA's operator if it was not you who used it")
    if 400 <= answer.status < 500:
        return Refused(message, hint="the CA's operator decides who may have which names; its log has more")
    hint = "see the CA's log: a NiFi CA answers so to a token of under 16 bytes of its own, or a subject it cannot read"
    return Unreachable(message, hint=hint if answer.status >= 500 else "is this the CA's port?")


def _said(body: bytes) -> str:
    """Return the error that an answer names, or nothing: most of what answers is a page of HTML."""
    try:
        return decode(body, wire.NifiAnswer).error or ""
    except Malformed:
        return ""


def _check(
    leaf: x509.Certificate, ca: x509.Certificate, wanted: Wanted, key: keys.LeafPrivateKey, now: datetime
) -> tuple[str, ...]:
    """Return what a person should know. :raises UntrustedPeer: the certificate is not what was asked for."""
    try:
        leaf.verify_directly_issued_by(ca)
        ours = keys.spki(leaf.public_key()) == keys.spki(key.public_key())
        subjects = (wanted.subject, dn.reverse(wanted.subject))
        wrong = [
            (not ours, "is for another key than ours"),
            (leaf.subject not in subjects, f"is for the subject {dn.written(leaf.subject)!r}"),
            (_is_ca(leaf) is True, "would make this node an authority"),
            (_is_ca(ca) is False, "was signed by a certificate which is no authority's"),
        ]
        missing, remarks = compare_names(wanted, leaf)
    except InvalidSignature:
        raise UntrustedPeer("the certificate was not signed by the CA's key", hint=_NOTHING_KEPT) from None
    except keys.UNREADABLE as error:  # another issuer than ``ca``, or not readable
        raise UntrustedPeer(f"the certificate is not the CA's: {str(error)[:120]!r}", hint=_NOTHING_KEPT) from None
    for bad, what in wrong:
        if bad:
            raise UntrustedPeer(f"the certificate {what}", hint=_NOTHING_KEPT)
    for what, certificate in (("CA's certificate", ca), ("certificate", leaf)):
        _check_time(what, certificate, now)
    if missing:
        raise UntrustedPeer(
            f"the certificate lacks {', '.join(missing)}",
            hint=f"{_NOTHING_KEPT}; a CA of NiFi 1.12.0 drops all names: use another release",
        )
    return remarks


def _check_time(what: str, certificate: x509.Certificate, now: datetime) -> None:
    start, end = certificate.not_valid_before_utc, certificate.not_valid_after_utc
    if not start - CLOCK_STEP <= now < end:
        raise UntrustedPeer(
            f"the {what} is valid from {start:%Y-%m-%d %H:%M}Z to {end:%Y-%m-%d %H:%M}Z",
            hint=f"it is {now:%Y-%m-%d %H:%M}Z here: is the clock right, here and at the CA?",
        )


def compare_names(wanted: Wanted, leaf: x509.Certificate) -> tuple[tuple[str, ...], tuple[str, ...]]:
    """
    Return the names that were asked for and are not in the certificate, and remarks.

    One deviation is only remarked: the toolkit from 1.24 on writes an address as the DNS name ``#0404…``, its
    encoding in hex.
    """
    got = _dns_and_ips(leaf) or []
    remarks, missing = [], []
    for name in wanted.general_names():
        if name in got:
            continue
        if isinstance(name, x509.IPAddress) and x509.DNSName(_mangled(name)) in got:
            remarks.append(
                f"the CA wrote the address {name.value} as a DNS name, as NiFi's toolkit does since 1.24: "
                "peers will not accept this node by its address"
            )
        else:
            missing.append(str(name.value))
    return tuple(missing), tuple(remarks)


def _mangled(address: x509.IPAddress) -> str:
    packed = address.value.packed if not isinstance(address.value, _NETWORKS) else b""
    return f"#04{len(packed):02x}{packed.hex()}"


_NETWORKS = (ipaddress.IPv4Network, ipaddress.IPv6Network)


def _general_name(text: str) -> x509.GeneralName:
    try:
        return x509.IPAddress(ipaddress.ip_address(text))
    except ValueError:
        return x509.DNSName(text)


def _lower(name: x509.GeneralName) -> x509.GeneralName:
    return x509.DNSName(name.value.lower()) if isinstance(name, x509.DNSName) else name


def _dns_and_ips(certificate: x509.Certificate) -> list[x509.GeneralName] | None:
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except x509.ExtensionNotFound:
        return None
    return [name for name in names if isinstance(name, x509.DNSName | x509.IPAddress)]


def _is_ca(certificate: x509.Certificate) -> bool | None:
    """Return what its basic constraints say; None without them, as in certificates older than the extension."""
    try:
        return certificate.extensions.get_extension_for_class(x509.BasicConstraints).value.ca
    except x509.ExtensionNotFound:
        return None
