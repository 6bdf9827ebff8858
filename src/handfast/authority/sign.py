"""What every authority does before it signs, whichever certificates it makes."""

from __future__ import annotations

from datetime import datetime
from typing import Protocol

from cryptography import x509 as pyca
from cryptography.hazmat.primitives.serialization import Encoding

from handfast.core import keys, x509
from handfast.core.flow import Credential, Grant, Intent
from handfast.core.ports import Authority, Issuer
from handfast.core.records import Revocation
from handfast.core.roles import spiffe_id
from handfast.errors import Fault, PolicyRefused


class Profile(Protocol):
    """How an authority's leaves look."""

    def builder(self, grant: Grant, serial: int) -> pyca.CertificateBuilder:
        """Return a builder that lacks nothing but the signature."""


def leaf(intent: Intent, issuer: Issuer, profile: Profile, key: keys.LeafPrivateKey) -> Credential:
    """
    Sign exactly the intent's grant under its serial; see ``FileAuthority.issue``.

    :raises PolicyRefused: names which the issuer's name constraints exclude.
    :raises Fault: the grant is of another trust domain.
    """
    grant = intent.grant
    if intent.certificate is not None:
        return Credential(serial=intent.serial, grant=grant, certificate=intent.certificate)
    if grant.spiffe_id != spiffe_id(issuer.trust_domain, grant.role, grant.machine):
        raise Fault(f"the grant is for {grant.spiffe_id!r}, this authority is {issuer.trust_domain!r}")
    if excluded := issuer.excluded(grant.names):
        raise PolicyRefused(
            tuple(f"the name constraints of this authority exclude {name!r}" for name in excluded),
            hint="ask for other names: the constraints were set when the authority was made",
        )
    certificate = profile.builder(grant, intent.serial).sign(key, keys.signature_hash(key))
    return Credential(serial=intent.serial, grant=grant, certificate=certificate.public_bytes(Encoding.DER))


def revocation_list(
    revocations: list[Revocation], authority: Authority, key: keys.LeafPrivateKey, *, number: int, now: datetime
) -> bytes:
    """
    Return a DER revocation list of what this authority issued; see ``x509.crl``.

    :raises Malformed: a reason that RFC 5280 §5.3.1 does not have.
    """
    ours = [revocation for revocation in revocations if revocation.trust_domain == authority.trust_domain]
    return x509.crl(key, authority.issuing, ours, number=number, now=now).public_bytes(Encoding.DER)
