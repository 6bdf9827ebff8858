"""
Whether a certificate chains to the pinned root, at a given time, in the role we expect.

This is how a newcomer decides that it talks to its registrar, and what anybody holding a pin may ask.
The path starts at the root whose key is pinned and nowhere else: there is no store of trusted certificates,
and a root that comes along in the peer's bundle is worth nothing (rule 1 of the design, proof P1).
"""

from __future__ import annotations

import hmac
import re
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import Criticality, ExtensionPolicy, PolicyBuilder, Store, VerificationError

from handfast.core.keys import UNREADABLE, format_pin, spki_sha256
from handfast.core.names import Names, dns_name, machine_name
from handfast.core.roles import Role
from handfast.core.x509 import spiffe_domain, usages
from handfast.errors import Malformed, UntrustedPeer

MAX_CERTIFICATE = 16 * 1024  # bytes of DER
MAX_CERTIFICATES = 8  # a peer sends two or three; path building is exponential in what it is given
MAX_CAS_BELOW_ROOT = 1  # root, issuing CA, leaf
_SPIFFE = re.compile(r"spiffe://([a-z0-9._-]{1,255})/([a-z]+)/([a-z0-9._-]{1,253})")

# The defaults of the web's profile hold for us too (key usage, CA:FALSE, no unknown critical extension). They ask
# for one extended key usage, though, and ours follow from the role, which ``_check_role`` compares exactly.
_LEAF_POLICY = ExtensionPolicy.webpki_defaults_ee().require_present(
    x509.ExtendedKeyUsage, Criticality.AGNOSTIC, lambda _policy, _certificate, _usage: None
)
_USAGES = {ExtendedKeyUsageOID.SERVER_AUTH: "serverAuth", ExtendedKeyUsageOID.CLIENT_AUTH: "clientAuth"}
_CA_POLICY = ExtensionPolicy.webpki_defaults_ca()


@dataclass(frozen=True, slots=True)
class Identity:
    """What a leaf of ours says of its holder."""

    trust_domain: str
    role: Role
    machine: str
    names: Names
    not_before: datetime
    not_after: datetime


def load_certificate(der: bytes) -> x509.Certificate:
    """
    Read one DER certificate.

    :raises Malformed: not a certificate, or longer than ``MAX_CERTIFICATE`` bytes.
    """
    if len(der) > MAX_CERTIFICATE:
        raise Malformed(f"a certificate of {len(der)} bytes, at most {MAX_CERTIFICATE} are read")
    try:
        certificate = x509.load_der_x509_certificate(der)
    except UNREADABLE as error:
        raise Malformed(f"not a certificate: {str(error)[:120]!r}") from None
    if certificate.serial_number <= 0:
        raise Malformed("not a certificate: its serial number is not positive")
    return certificate


def pinned_root(candidates: Sequence[x509.Certificate], pin: bytes) -> x509.Certificate:
    """
    Return the self-signed certificate among ``candidates`` whose key has this pin.

    :raises UntrustedPeer: none has; names the pin expected and the pins found.
    """
    found = []
    for candidate in candidates[:MAX_CERTIFICATES]:
        actual = _pin_of(candidate)
        if actual is not None and hmac.compare_digest(actual, pin) and _self_signed(candidate):
            return candidate
        found.append(format_pin(actual) if actual is not None else "unreadable")
    raise UntrustedPeer(
        f"no root with the pin {format_pin(pin)}; the peer offered " + (", ".join(found) or "no certificate"),
        hint="somebody is in the middle, or it is another authority: compare the pin with its `handfast ca show`",
    )


def verify_chain(
    leaf: x509.Certificate,
    intermediates: Sequence[x509.Certificate],
    roots: Sequence[x509.Certificate],
    *,
    pin: bytes,
    role: Role,
    at: datetime,
) -> Identity:
    """
    Verify that ``leaf`` was issued under the root with this pin for ``role``, and is valid ``at`` that time.

    ``roots`` are candidates and may come from the peer: the pin alone decides. Checked: RFC 5280 §6 (signatures,
    validity, path length, name constraints, key usage), the exact extended key usages of the role, exactly one
    SPIFFE ID with this role and the root's trust domain. *Not* checked: revocation, and whether the leaf is for
    a host name; a registrar is known by its role.

    :raises UntrustedPeer: anything else; names what was expected and what was found.
    """
    root = pinned_root(roots, pin)
    if len(intermediates) > MAX_CERTIFICATES:
        raise UntrustedPeer(f"a chain of {len(intermediates)} certificates, at most {MAX_CERTIFICATES} are read")
    verifier = (
        PolicyBuilder()
        .store(Store([root]))
        .time(at)
        .max_chain_depth(MAX_CAS_BELOW_ROOT)
        .extension_policies(ca_policy=_CA_POLICY, ee_policy=_LEAF_POLICY)
        .build_client_verifier()
    )
    try:
        verifier.verify(leaf, list(intermediates))
    except (VerificationError, *UNREADABLE) as error:
        raise UntrustedPeer(
            f"the certificate of {_subject(leaf)!r} does not chain to the pinned root at {at:%Y-%m-%d %H:%M} UTC:"
            f" {_brief(error)}{_outside(leaf, at)}",
            hint="check the clock of this machine; if it is right, the peer is not who it should be",
        ) from None
    identity = read_identity(leaf)
    _check_role(leaf, identity, role)
    if identity.trust_domain != _domain_of(root):
        raise UntrustedPeer(
            f"the certificate is of trust domain {identity.trust_domain!r}, its root of {_domain_of(root)!r}",
            hint="the authority that issued it is misconfigured or abused",
        )
    return identity


def read_identity(certificate: x509.Certificate) -> Identity:
    """
    Return what a leaf says of itself. *Not* checked: who signed it, when it is valid, its usages.

    :raises UntrustedPeer: not exactly one SPIFFE ID ``spiffe://<trust domain>/<role>/<machine>``, or names of
        other kinds.
    """
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
    except UNREADABLE:
        raise _no_identity("no readable alternative name") from None
    uris = names.get_values_for_type(x509.UniformResourceIdentifier)
    if len(uris) != 1:
        raise _no_identity(f"{len(uris)} SPIFFE IDs, exactly one is expected")
    match = _SPIFFE.fullmatch(uris[0])
    if match is None or match[2] not in set(Role):
        raise _no_identity(f"the SPIFFE ID {uris[0][:200]!r} has no role of ours")
    dns = names.get_values_for_type(x509.DNSName)
    ips = names.get_values_for_type(x509.IPAddress)
    if len(dns) + len(ips) + 1 != len(list(names)):
        raise _no_identity("a name that is neither DNS, IP nor SPIFFE")
    try:
        machine = machine_name(match[3])
        parsed = Names.parse([*map(dns_name, dns), *map(str, ips)])
    except Malformed as error:
        raise _no_identity(error.message) from None
    return Identity(
        trust_domain=match[1],
        role=Role(match[2]),
        machine=machine,
        names=parsed,
        not_before=certificate.not_valid_before_utc,
        not_after=certificate.not_valid_after_utc,
    )


def _check_role(leaf: x509.Certificate, identity: Identity, role: Role) -> None:
    if identity.role is not role:
        raise UntrustedPeer(
            f"{identity.machine!r} is a {identity.role}, not a {role}",
            hint="its credential is genuine, but not for this purpose: is the address right?",
        )
    present = set(leaf.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
    if present != set(usages(role)):
        found = ", ".join(sorted(_USAGES.get(usage, usage.dotted_string) for usage in present))
        raise UntrustedPeer(
            f"the certificate of the {role} {identity.machine!r} is for {found}",
            hint="no authority of ours issues that",
        )


def _pin_of(certificate: x509.Certificate) -> bytes | None:
    try:
        return spki_sha256(certificate.public_key())
    except UNREADABLE:  # a key that cannot be read is not the pinned one
        return None


def _self_signed(certificate: x509.Certificate) -> bool:
    # A certificate that somebody else signed over the root's public key is not the root's own word.
    try:
        certificate.verify_directly_issued_by(certificate)
    except (InvalidSignature, *UNREADABLE):
        return False
    return True


def _domain_of(root: x509.Certificate) -> str:
    try:
        return spiffe_domain(root)
    except Malformed as error:
        raise UntrustedPeer(error.message, hint=error.hint) from None


def _no_identity(what: str) -> UntrustedPeer:
    return UntrustedPeer(f"the certificate names no machine of ours: {what}", hint="was it issued by Handfast?")


def _subject(certificate: x509.Certificate) -> str:
    try:
        return certificate.subject.rfc4514_string()[:200]
    except ValueError:
        return "an unreadable subject"


def _outside(leaf: x509.Certificate, at: datetime) -> str:
    begin, end = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    return "" if begin <= at <= end else f" (valid from {begin:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC)"


def _brief(error: Exception) -> str:
    return str(error).split(" (encountered processing", 1)[0][:200]
