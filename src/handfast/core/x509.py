"""
What our certificates look like (RFC 5280, X509-SVID): leaf, root, issuing CA, and the revocation list.

Every field is ours. A leaf is a pure function of the grant, the serial and the issuing CA, and
``LeafProfile`` holds all of it that does not change from one leaf to the next.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable
from datetime import datetime, timedelta
from functools import lru_cache

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey, EllipticCurvePublicKey
from cryptography.x509.oid import ExtendedKeyUsageOID, NameOID

from handfast.core import keys
from handfast.core.flow import Grant
from handfast.core.names import IPNetwork, Names, network
from handfast.core.records import Revocation
from handfast.core.roles import Role
from handfast.errors import Malformed, Refused

ROOT_LIFETIME = timedelta(days=3652)  # ten years
ISSUING_LIFETIME = timedelta(days=1096)  # three years
BACKDATE = timedelta(hours=1)  # the clocks of new machines are wrong (docker swarm's figure)
CRL_LIFETIME = timedelta(days=7)  # see ``crl``
MAX_COMMON_NAME = 64  # ub-common-name, RFC 5280 appendix A.1

_CA_USAGE = x509.KeyUsage(
    digital_signature=False,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=True,
    crl_sign=True,
    encipher_only=False,
    decipher_only=False,
)
# No keyEncipherment, also for RSA keys: it would only allow TLS 1.2 key transport, which has no forward secrecy.
_LEAF_USAGE = x509.KeyUsage(
    digital_signature=True,
    content_commitment=False,
    key_encipherment=False,
    data_encipherment=False,
    key_agreement=False,
    key_cert_sign=False,
    crl_sign=False,
    encipher_only=False,
    decipher_only=False,
)


def trust_domain(pin: bytes) -> str:
    """
    Return the SPIFFE trust domain of a new authority whose root key has this pin (32 bytes).

    It starts with 64 bits of the pin, so that two sites never share one by accident: a verifier which is given both
    roots still tells their machines apart. The top-level domain ``internal`` is reserved for private use. What makes
    a root trusted is its whole pin, and not the trust domain.
    """
    return f"{pin.hex()[:16]}.handfast.internal"


def usages(role: Role) -> tuple[x509.ObjectIdentifier, ...]:
    """Return the extended key usages of a role's leaf, all of them."""
    return (ExtendedKeyUsageOID.SERVER_AUTH,) * role.serves + (ExtendedKeyUsageOID.CLIENT_AUTH,) * role.dials


def key_identifier(spki: bytes) -> x509.SubjectKeyIdentifier:
    """
    Return the key identifier of a DER SubjectPublicKeyInfo: RFC 7093 §2 method 4 with SHA-256.

    Chosen over RFC 5280's SHA-1 because it is the pin: the root's subject key identifier, which every
    tool displays, is the very value that an invitation carries.
    """
    return x509.SubjectKeyIdentifier(hashlib.sha256(spki).digest())


class LeafProfile:
    """
    How one issuing CA makes leaves. The constant part is built once per role, which saves a tenth of the time.

    ``crl_url`` is where relying parties fetch the CA's revocation list; None leaves the pointer out.
    """

    def __init__(self, issuing: x509.Certificate, crl_url: str | None = None) -> None:
        self._issuing = issuing
        self._bases = {role: _leaf_base(issuing, role, crl_url) for role in Role}

    def builder(self, grant: Grant, serial: int) -> x509.CertificateBuilder:
        """
        Return a builder that lacks nothing but the signature.

        The subject is ``CN=<machine>`` because PostgreSQL, among others, maps the common name; a machine name
        that does not fit 64 characters leaves the subject empty and the alternative name critical (RFC 5280
        §4.1.2.6).

        :raises Malformed: a key that is not certified.
        :raises Refused: nothing is left of the lifetime.
        """
        public_key = keys.load_spki(grant.public_key)
        not_before, not_after = validity(grant, self._issuing)
        short = len(grant.machine) <= MAX_COMMON_NAME
        return (
            self._bases[grant.role]
            .subject_name(_common_name(grant.machine) if short else x509.Name([]))
            .public_key(public_key)
            .serial_number(serial)
            .not_valid_before(not_before)
            .not_valid_after(not_after)
            .add_extension(_alternative_names(grant), critical=not short)
            .add_extension(key_identifier(grant.public_key), critical=False)
        )


def validity(grant: Grant, issuer: x509.Certificate) -> tuple[datetime, datetime]:
    """
    Return the first and last moment of the grant's leaf, cut to its issuer's: what outlives that verifies nowhere.

    :raises Refused: nothing is left.
    """
    first, last = issuer.not_valid_before_utc, issuer.not_valid_after_utc
    not_before, not_after = max(grant.not_before, first), min(grant.not_after, last)
    if not_after <= not_before:
        raise Refused(
            f"no lifetime is left for {grant.machine!r}: the issuing CA is valid"
            f" from {first:%Y-%m-%d %H:%M} to {last:%Y-%m-%d %H:%M} UTC",
            hint="check the clock of this machine; if it is right, the issuing CA has to be replaced",
        )
    return not_before, not_after


def root(
    key: EllipticCurvePrivateKey, *, name: str, now: datetime, lifetime: timedelta = ROOT_LIFETIME
) -> x509.Certificate:
    """
    Return a self-signed root for ``key``: one CA below it, its trust domain as SPIFFE ID.

    ``name`` is the authority's name for people. The organization is the trust domain, so that the roots of two sites
    with one name have different subjects.

    :raises Malformed: a name that does not fit.
    """
    spki = keys.spki(key.public_key())
    domain = trust_domain(hashlib.sha256(spki).digest())
    subject = _ca_name(domain, f"{name} root CA")
    return (
        _ca_builder(subject, spki, domain, now=now, path_length=1)
        .issuer_name(subject)
        .not_valid_after(now + lifetime)
        .public_key(key.public_key())
        .sign(key, keys.signature_hash(key))
    )


def issuing(
    root_certificate: x509.Certificate,
    root_key: EllipticCurvePrivateKey,
    public_key: EllipticCurvePublicKey,
    *,
    name: str,
    generation: int,
    now: datetime,
    constraints: x509.NameConstraints | None = None,
) -> x509.Certificate:
    """
    Return an issuing CA's certificate: three years at most, no CA below it.

    ``generation`` counts the issuing CAs of this root, and keeps their subjects apart.
    """
    domain = spiffe_domain(root_certificate)
    subject = _ca_name(domain, f"{name} issuing CA {generation}")
    builder = (
        _ca_builder(subject, keys.spki(public_key), domain, now=now, path_length=0)
        .issuer_name(root_certificate.subject)
        .not_valid_after(min(now + ISSUING_LIFETIME, root_certificate.not_valid_after_utc))
        .public_key(public_key)
        .add_extension(authority_key_identifier(root_certificate), critical=False)
    )
    if constraints is not None:
        builder = builder.add_extension(constraints, critical=True)
    return builder.sign(root_key, keys.signature_hash(root_key))


def name_constraints(permitted_dns: Iterable[str], permitted_ips: Iterable[IPNetwork]) -> x509.NameConstraints | None:
    """
    Return constraints to names under these DNS suffixes and addresses in these networks; None if both are empty.

    RFC 5280 §4.2.1.10 leaves a kind of name that is not mentioned unconstrained. Here empty means no: with only DNS
    suffixes every IP address is excluded, and the other way round.
    """
    dns = [x509.DNSName(suffix) for suffix in permitted_dns]
    networks = tuple(permitted_ips)
    ips = [x509.IPAddress(net) for net in networks]
    if not dns and not ips:
        return None
    excluded: list[x509.GeneralName] = []
    if not dns:
        excluded.append(x509.DNSName(""))
    versions = {net.version for net in networks}
    everything = (network("0.0.0.0/0"), network("::/0"))
    excluded += [x509.IPAddress(net) for net in everything if net.version not in versions]
    return x509.NameConstraints(permitted_subtrees=[*dns, *ips], excluded_subtrees=excluded or None)


def excluded(issuer: x509.Certificate, names: Names) -> tuple[str, ...]:
    """Return those of ``names`` that ``issuer``'s name constraints do not permit (RFC 5280 §4.2.1.10)."""
    permitted = _permitted(issuer)
    if permitted is None:
        return ()
    suffixes, networks = permitted
    dns = tuple(name for name in names.dns if not f".{name}".endswith(suffixes))
    return dns + tuple(str(ip) for ip in names.ips if not any(ip in net for net in networks))


@lru_cache(maxsize=8)  # of the few issuing CAs of a process; asked twice for each leaf
def _permitted(issuer: x509.Certificate) -> tuple[tuple[str, ...], tuple[IPNetwork, ...]] | None:
    try:
        constraints = issuer.extensions.get_extension_for_class(x509.NameConstraints).value
    except x509.ExtensionNotFound:
        return None
    permitted = constraints.permitted_subtrees or []
    suffixes = tuple(f".{n.value}" for n in permitted if isinstance(n, x509.DNSName))
    return suffixes, tuple(
        n.value for n in permitted if isinstance(n, x509.IPAddress) and isinstance(n.value, IPNetwork)
    )


def crl(
    key: keys.LeafPrivateKey,
    issuer: x509.Certificate,
    revocations: Iterable[Revocation],
    *,
    number: int,
    now: datetime,
    lifetime: timedelta = CRL_LIFETIME,
) -> x509.CertificateRevocationList:
    """
    Return a v2 revocation list (RFC 5280 §5) with reasons, its number and the issuer's key identifier.

    The default lifetime is seven days. A shorter one would turn an outage of the registrar into one of every verifier
    that insists on a current list (nginx does, and fetches nothing by itself). This one gains little for whoever
    withholds newer lists, as a default leaf is dead within a day.

    What expired longer than a lifetime ago is left off, so that the list does not grow for ever; it was on a list
    issued beyond its end by then (RFC 5280 §3.3).

    :raises Malformed: a reason that RFC 5280 §5.3.1 does not have, or has not for complete lists.
    """
    builder = (
        x509.CertificateRevocationListBuilder(issuer.subject, now - BACKDATE, now + lifetime)
        .add_extension(authority_key_identifier(issuer), critical=False)
        .add_extension(x509.CRLNumber(number), critical=False)
    )
    for revocation in revocations:
        if now < revocation.not_after + lifetime:
            builder = builder.add_revoked_certificate(_revoked(revocation))
    return builder.sign(key, keys.signature_hash(key))


def revocation_reason(text: str) -> x509.ReasonFlags:
    """
    Return the reason with this RFC 5280 §5.3.1 name, such as ``keyCompromise``.

    :raises Malformed: another name; ``removeFromCRL``, which only delta lists have.
    """
    known = {flag.value: flag for flag in x509.ReasonFlags if flag is not x509.ReasonFlags.remove_from_crl}
    if text not in known:
        raise Malformed(f"not a reason for revocation: {text[:80]!r}", hint="one of " + ", ".join(sorted(known)))
    return known[text]


def authority_key_identifier(issuer: x509.Certificate) -> x509.AuthorityKeyIdentifier:
    """
    Return the identifier of the issuer's key, as the issuer's own certificate states it.

    One that states none is not ours; then it is the SHA-1 of RFC 5280 §4.2.1.2, which everybody can compute.
    """
    try:
        own = issuer.extensions.get_extension_for_class(x509.SubjectKeyIdentifier).value
    except x509.ExtensionNotFound:
        return x509.AuthorityKeyIdentifier.from_issuer_public_key(keys.check_strength(issuer.public_key()))
    return x509.AuthorityKeyIdentifier.from_issuer_subject_key_identifier(own)


def distribution_points(url: str) -> x509.CRLDistributionPoints:
    """
    Return the pointer to a revocation list. Plain HTTP is right here: the list is signed (RFC 5280 §8).

    :raises Malformed: not an HTTP URL in ASCII.
    """
    if not url.startswith(("http://", "https://")) or not url.isascii() or not url.isprintable() or " " in url:
        raise Malformed(f"not a URL for a revocation list: {url[:80]!r}", hint="write it as http://host:port/v1/crl")
    where = [x509.UniformResourceIdentifier(url)]
    return x509.CRLDistributionPoints([x509.DistributionPoint(where, None, None, None)])


def spiffe_domain(certificate: x509.Certificate) -> str:
    """
    Return the trust domain that a CA's certificate states as its SPIFFE ID (X509-SVID §3.2: no path).

    :raises Malformed: none, several, or one with a path.
    """
    try:
        names = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        ids = names.get_values_for_type(x509.UniformResourceIdentifier)
    except keys.UNREADABLE:
        ids = []
    domain = ids[0].removeprefix("spiffe://") if len(ids) == 1 and ids[0].startswith("spiffe://") else ""
    if not domain or "/" in domain:
        raise Malformed(
            f"the CA {certificate.subject.rfc4514_string()!r} states no trust domain", hint="is it one of Handfast's?"
        )
    return domain


def _ca_name(domain: str, common_name: str) -> x509.Name:
    if len(common_name) > MAX_COMMON_NAME or not common_name.isprintable() or common_name.strip() != common_name:
        raise Malformed(f"not a name for a CA: {common_name[:80]!r}", hint="use at most 40 printable characters")
    return x509.Name(
        [x509.NameAttribute(NameOID.ORGANIZATION_NAME, domain), x509.NameAttribute(NameOID.COMMON_NAME, common_name)]
    )


def _ca_builder(
    subject: x509.Name, spki: bytes, domain: str, *, now: datetime, path_length: int
) -> x509.CertificateBuilder:
    return (
        x509.CertificateBuilder(subject_name=subject)
        .serial_number(x509.random_serial_number())
        .not_valid_before(now - BACKDATE)
        .add_extension(x509.BasicConstraints(ca=True, path_length=path_length), critical=True)
        .add_extension(_CA_USAGE, critical=True)
        .add_extension(key_identifier(spki), critical=False)
        .add_extension(
            x509.SubjectAlternativeName([x509.UniformResourceIdentifier(f"spiffe://{domain}")]), critical=False
        )
    )


def _leaf_base(issuing: x509.Certificate, role: Role, crl_url: str | None) -> x509.CertificateBuilder:
    builder = (
        x509.CertificateBuilder(issuer_name=issuing.subject)
        .add_extension(x509.BasicConstraints(ca=False, path_length=None), critical=True)
        .add_extension(_LEAF_USAGE, critical=True)
        .add_extension(x509.ExtendedKeyUsage(usages(role)), critical=False)
        .add_extension(authority_key_identifier(issuing), critical=False)
    )
    return builder if crl_url is None else builder.add_extension(distribution_points(crl_url), critical=False)


def _common_name(machine: str) -> x509.Name:
    return x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, machine)])


def _alternative_names(grant: Grant) -> x509.SubjectAlternativeName:
    return x509.SubjectAlternativeName(
        [
            x509.UniformResourceIdentifier(grant.spiffe_id),
            *map(x509.DNSName, grant.names.dns),
            *map(x509.IPAddress, grant.names.ips),
        ]
    )


def _revoked(revocation: Revocation) -> x509.RevokedCertificate:
    reason = revocation_reason(revocation.reason)
    builder = x509.RevokedCertificateBuilder(revocation.serial, revocation.at)
    if reason is not x509.ReasonFlags.unspecified:  # RFC 5280 §5.3.1: then absent
        builder = builder.add_extension(x509.CRLReason(reason), critical=False)
    return builder.build()
