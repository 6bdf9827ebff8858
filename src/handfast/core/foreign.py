"""
Whether a certificate of another authority chains to one of the roots that an operator has named for it (RFC 5280 §6).

``cryptography`` builds and verifies the path: signatures, validity of every certificate, basic constraints and path
length, key usages, name constraints, and that no critical extension is left over. What it does not do, and what is done
here or nowhere:

* it never looks at the leaf's own key: an RSA key of 512 bits, or one that takes a second to verify with, passes
* it takes a leaf for a client or a server; which of them counts here is an operator's to say, along the whole path
* it asks a leaf with a key usage for none in particular, and ours has to sign
* revocation: ``core.revocation``
* constraints on subjects (``directoryName``), and CAs with Ed25519 keys: it refuses them. So do we

The name of the leaf is not compared with anything: its names are what is to be found out.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime
from enum import StrEnum
from itertools import pairwise

from cryptography import x509
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, padding, rsa
from cryptography.x509.oid import ExtendedKeyUsageOID
from cryptography.x509.verification import Criticality, ExtensionPolicy, Policy, PolicyBuilder, Store, VerificationError

from handfast.core import keys
from handfast.core.names import Names, dns_name
from handfast.errors import EvidenceRejected, Malformed

MAX_INTERMEDIATES = 4  # CAs between a leaf and its root; the web has one or two
MAX_ROOTS = 64
MAX_BUNDLE = 1024 * 1024  # bytes of PEM that an operator names
LeafKey = ec.EllipticCurvePublicKey | rsa.RSAPublicKey | ed25519.Ed25519PublicKey
_HINT = "present the certificate with the CAs between it and its root, and its own key"


class Usage(StrEnum):
    """What a leaf has to be for."""

    SERVER = "serverAuth"
    CLIENT = "clientAuth"

    @property
    def oid(self) -> x509.ObjectIdentifier:
        """As it stands in certificates."""
        return {Usage.SERVER: ExtendedKeyUsageOID.SERVER_AUTH, Usage.CLIENT: ExtendedKeyUsageOID.CLIENT_AUTH}[self]


def _signs(_policy: Policy, _certificate: x509.Certificate, usage: x509.KeyUsage | None) -> None:
    if usage is not None and not usage.digital_signature:
        raise ValueError("the key may not sign")


# Extended usages are compared by ``_usages``, as the verifier would ask all of them for one that it chooses.
_LEAF_POLICY = (
    ExtensionPolicy.webpki_defaults_ee()
    .require_present(x509.ExtendedKeyUsage, Criticality.AGNOSTIC, lambda _policy, _certificate, _usage: None)
    .may_be_present(x509.KeyUsage, Criticality.AGNOSTIC, _signs)
)
_CA_POLICY = ExtensionPolicy.webpki_defaults_ca().may_be_present(
    x509.ExtendedKeyUsage, Criticality.AGNOSTIC, lambda _policy, _certificate, _usage: None
)

_MAY_BE_CRITICAL = (
    x509.BasicConstraints,
    x509.ExtendedKeyUsage,
    x509.KeyUsage,
    x509.NameConstraints,
    x509.SubjectAlternativeName,
)


def read_roots(data: bytes) -> tuple[x509.Certificate, ...]:
    """
    Return the CAs of a PEM bundle that an operator trusts: those that ``verified_path`` can end at.

    *Not* checked: that they are valid at any time, and for whom (name constraints, extended usages).

    :raises Malformed: no PEM certificate, too many, one that is no CA, with a key that is not verified with, or below
        which every leaf would be refused.
    """
    try:
        found = tuple(x509.load_pem_x509_certificates(data))
    except keys.UNREADABLE as error:
        raise Malformed(f"no PEM certificates: {str(error)[:120]!r}") from None
    if len(found) > MAX_ROOTS:
        raise Malformed(f"{len(found)} certificates, at most {MAX_ROOTS} are read as roots")
    try:
        for each in found:
            _check_ca(each)
            _check_root(each)
    except keys.UNREADABLE as error:
        raise Malformed(f"a certificate that cannot be read: {str(error)[:120]!r}") from None
    return found


def verified_path(
    leaf: x509.Certificate,
    intermediates: Sequence[x509.Certificate],
    *,
    roots: Sequence[x509.Certificate],
    usages: frozenset[Usage],
    at: datetime,
) -> tuple[x509.Certificate, ...]:
    """
    Return the path from ``leaf`` to one of ``roots``, that one included. *Not* checked: revocation, and the leaf's key.

    :raises EvidenceRejected: there is none that is valid ``at`` that time and for one of ``usages``.
    """
    if not roots:
        raise EvidenceRejected("no root of another authority is configured", hint="[x5c] roots names them")
    if len(intermediates) > MAX_INTERMEDIATES:
        raise _rejected(leaf, f"{len(intermediates)} CAs come with it, at most {MAX_INTERMEDIATES} are read")
    try:
        _check_order((leaf, *intermediates))
        for each in intermediates:
            _check_ca(each)  # before a stranger's key costs anything
        verifier = (
            PolicyBuilder()
            .store(Store(list(roots)))
            .time(at)
            .max_chain_depth(MAX_INTERMEDIATES)
            .extension_policies(ca_policy=_CA_POLICY, ee_policy=_LEAF_POLICY)
            .build_client_verifier()
        )
        path = tuple(verifier.verify(leaf, list(intermediates)).chain)
        fitting = usages & _usages(path)
    except (VerificationError, Malformed, *keys.UNREADABLE) as error:
        raise _rejected(leaf, _brief(error) + _outside(leaf, at)) from None
    if not fitting:
        raise _rejected(leaf, f"it, or a CA above it, is not for {' or '.join(sorted(usages)) or 'anything'}")
    return path


def leaf_key(leaf: x509.Certificate) -> LeafKey:
    """
    Return the leaf's key, if it is one that signatures are verified with: P-256, P-384, Ed25519, RSA 2048 to 8192.

    :raises EvidenceRejected: another one.
    """
    try:
        public_key = leaf.public_key()
        if isinstance(public_key, ed25519.Ed25519PublicKey):
            return public_key
        return keys.check_strength(public_key)
    except (Malformed, *keys.UNREADABLE) as error:
        raise _rejected(leaf, getattr(error, "message", None) or str(error)[:120]) from None


def verify(key: LeafKey, signature: bytes, message: bytes) -> bool:
    """
    Whether ``signature`` is by ``key``: ECDSA with SHA-256 (SHA-384 for P-384), Ed25519, RSA with PSS or PKCS #1 v1.5.

    Both of RSA, with SHA-256, as some modules that keep keys know only one. The salt of PSS is as long as the digest.
    """
    if isinstance(key, rsa.RSAPublicKey):
        return any(_rsa(key, signature, message, scheme) for scheme in (_PSS, padding.PKCS1v15()))
    try:
        if isinstance(key, ed25519.Ed25519PublicKey):
            key.verify(signature, message)
        else:
            key.verify(signature, message, ec.ECDSA(keys.signature_hash(key)))
    except InvalidSignature:
        return False
    return True


_PSS = padding.PSS(mgf=padding.MGF1(hashes.SHA256()), salt_length=hashes.SHA256.digest_size)


def _rsa(key: rsa.RSAPublicKey, signature: bytes, message: bytes, scheme: padding.PSS | padding.PKCS1v15) -> bool:
    try:
        key.verify(signature, message, scheme, hashes.SHA256())
    except InvalidSignature:
        return False
    return True


def sign(key: object, message: bytes) -> bytes:
    """
    Return what ``verify`` takes, RSA with PSS.

    :raises Malformed: a private key of another kind.
    """
    if isinstance(key, ed25519.Ed25519PrivateKey):
        return key.sign(message)
    if isinstance(key, ec.EllipticCurvePrivateKey):
        return key.sign(message, ec.ECDSA(keys.signature_hash(key)))
    if isinstance(key, rsa.RSAPrivateKey):
        return key.sign(message, _PSS, hashes.SHA256())
    raise Malformed(f"a key of kind {type(key).__name__} cannot sign here", hint="use P-256, P-384, Ed25519 or RSA")


def names_of(leaf: x509.Certificate) -> tuple[str, Names]:
    """
    Return what a machine with this certificate is called, the first of its DNS names, and all that it is reached as.

    Only alternative names count, DNS names and addresses: a common name says what somebody typed. A wildcard stands for
    names, and is none. Names are in ASCII, so that two which look alike are never equal.

    :raises EvidenceRejected: a name that is none, no DNS name, or too many.
    """
    try:
        listed = leaf.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        written = [name for name in listed.get_values_for_type(x509.DNSName) if not name.startswith("*.")]
        dns = [dns_name(name) for name in written]
        found = Names.parse([*dns, *map(str, listed.get_values_for_type(x509.IPAddress))])
    except (Malformed, *keys.UNREADABLE) as error:
        raise _rejected(leaf, getattr(error, "message", None) or f"names: {str(error)[:120]}") from None
    if not dns:
        raise _rejected(leaf, "it has no DNS name that is one machine's")
    return dns[0], found


def subject_of(certificate: x509.Certificate) -> str:
    """Return who a certificate says it is, for people: its subject, or its first name where that is empty."""
    if text := _written(lambda: certificate.subject):
        return text
    try:
        listed = certificate.extensions.get_extension_for_class(x509.SubjectAlternativeName).value
        return next(iter(listed.get_values_for_type(x509.DNSName)), "nobody")[:200]
    except keys.UNREADABLE:
        return "nobody"


def issuer_of(certificate: x509.Certificate) -> str:
    """Return who a certificate says has issued it, for people."""
    return _written(lambda: certificate.issuer)


def _written(name: Callable[[], x509.Name]) -> str:
    try:
        return name().rfc4514_string()[:200]
    except keys.UNREADABLE:
        return "an unreadable name"


def _usages(path: Sequence[x509.Certificate]) -> frozenset[Usage]:
    """Return what every certificate of a path allows. A CA that says nothing allows all, a leaf nothing."""
    allowed = frozenset(Usage)
    for position, each in enumerate(path):
        try:
            said = set(each.extensions.get_extension_for_class(x509.ExtendedKeyUsage).value)
        except x509.ExtensionNotFound:
            continue  # of the leaf it was required
        if position and ExtendedKeyUsageOID.ANY_EXTENDED_KEY_USAGE in said:
            continue
        allowed &= {usage for usage in Usage if usage.oid in said}
    return allowed


def _check_order(chain: Sequence[x509.Certificate]) -> None:
    """
    Refuse a chain in which not each certificate is by the next, or one comes again: as TLS has it (RFC 8446 §4.4.2).

    Of CAs with one name the verifier tries every path, which would cost us fifty milliseconds for a stranger's loop.

    :raises Malformed: it is not in order.
    """
    for each, above in pairwise(chain):
        if each.issuer != above.subject:
            raise Malformed(f"{subject_of(above)!r} comes after {subject_of(each)!r}, and is not its issuer")
    if len({each.subject for each in chain[1:]}) != len(chain) - 1:
        raise Malformed("one CA comes twice")


def _check_ca(certificate: x509.Certificate) -> None:
    """Refuse what can be no CA of a path. :raises Malformed: it cannot. :raises ValueError: it is unreadable."""
    basic = [each.value for each in certificate.extensions if isinstance(each.value, x509.BasicConstraints)]
    if not basic or not basic[0].ca:
        raise Malformed(f"the certificate of {subject_of(certificate)!r} is no CA's")
    keys.check_strength(certificate.public_key())


def _check_root(certificate: x509.Certificate) -> None:
    """
    Refuse a CA with which no path is valid: said to an operator now, it is not told to all his machines later.

    :raises Malformed: it has not the form that ``_CA_POLICY`` demands. ``openssl req -x509`` alone makes such a one.
    """
    who = subject_of(certificate)
    usage = [each.value for each in certificate.extensions if isinstance(each.value, x509.KeyUsage)]
    if not usage or not usage[0].key_cert_sign:
        raise Malformed(
            f"every certificate by {who!r} would be refused: its key usage does not allow to sign any",
            hint="make it with `-addext keyUsage=critical,keyCertSign,cRLSign`, with the same key",
        )
    for each in certificate.extensions:
        needless = each.critical and not isinstance(each.value, _MAY_BE_CRITICAL)
        if needless or (not each.critical and isinstance(each.value, x509.BasicConstraints)):
            raise Malformed(
                f"every certificate by {who!r} would be refused: it has the extension {each.oid.dotted_string}"
                f" {'' if each.critical else 'not '}marked as critical",
                hint="have its authority make it anew as RFC 5280 says, with the same key",
            )


def _rejected(leaf: x509.Certificate, why: str) -> EvidenceRejected:
    return EvidenceRejected(f"the certificate of {subject_of(leaf)!r} introduces nobody: {why}", hint=_HINT)


def _outside(leaf: x509.Certificate, at: datetime) -> str:
    begin, end = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    return "" if begin <= at <= end else f" (valid from {begin:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} UTC)"


def _brief(error: Exception) -> str:
    return (getattr(error, "message", None) or str(error)).split(" (encountered processing", 1)[0][:200]
