"""
Certificates of other authorities for vectors/: chains that introduce, and every one that must not.

What the leaf's key signs is spelled in ``make_vectors``, the marker and the words of a finding here a second time.
"""

from __future__ import annotations

import dataclasses
import hashlib
from datetime import datetime, timedelta
from typing import Any

from cryptography import x509 as pyca
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding

from handfast.core.names import Names
from tests.introducers import vectors
from tests.introducers.x5c_material import CLIENT, DAY, NOW, Ca, p256, root, site, usage

Key = ec.EllipticCurvePrivateKey | Ed25519PrivateKey
THEIRS = site()
ED25519 = Ed25519PrivateKey.from_private_bytes(bytes([0x21]) * 32)
STRANGER = root("their root", p256("mallory")).below("their CA", p256("mallory's CA"))
NARROW = THEIRS.root.below("their CA", None, (pyca.NameConstraints([pyca.DNSName("other.lan")], None), True))
FOR_CLIENTS = THEIRS.root.below("their CA", None, (pyca.ExtendedKeyUsage([CLIENT]), False))
BELOW = THEIRS.ca.below("a CA too many")


def der(*certificates: pyca.Certificate) -> tuple[bytes, ...]:
    """As they are sent."""
    return tuple(each.public_bytes(Encoding.DER) for each in certificates)


def leaf(ca: Ca, *names: str, **how: Any) -> tuple[pyca.Certificate, ...]:
    """A leaf for the key of the site, and its CA."""
    return ca.leaf(THEIRS.key, *(names or ("web1.lan",)), **how), ca.certificate


@dataclasses.dataclass(frozen=True)
class Plan:
    """What a newcomer comes with, and what the registrar knows."""

    chain: tuple[pyca.Certificate, ...] = THEIRS.chain
    key: Key = THEIRS.key  # type: ignore[assignment]
    roots: tuple[pyca.Certificate, ...] = (THEIRS.root.certificate,)
    usages: tuple[str, ...] = ("serverAuth",)
    roles: tuple[str, ...] = ("server",)
    names: tuple[str, ...] = ("*.lan", "10.0.0.0/24")
    coverage: str = "leaf"
    cut: bool = False
    crls: tuple[pyca.CertificateRevocationList, ...] | None = None

    def configured(self) -> vectors.X5cConfigured:
        """What the registrar of the vector has in its configuration."""
        return vectors.X5cConfigured(
            roots=list(der(*self.roots)),
            eku=list(self.usages),
            roles=list(self.roles),
            names=list(self.names),
            require_crl=self.coverage,
            cut=self.cut,
            crls=None if self.crls is None else [each.public_bytes(Encoding.DER) for each in self.crls],
        )

    def sign(self, message: bytes) -> bytes:
        """By the key of the certificate, the same each time."""
        if isinstance(self.key, Ed25519PrivateKey):
            return self.key.sign(message)
        return self.key.sign(message, ec.ECDSA(hashes.SHA256(), deterministic_signing=True))

    @property
    def fingerprint(self) -> str:
        """SHA-256 of what the CA signed."""
        return hashlib.sha256(self.chain[0].tbs_certificate_bytes).hexdigest()

    @property
    def about(self) -> str:
        """What is said of the certificate where host keys are kept."""
        return f"the certificate {self.fingerprint[:16]} of {self.chain[0].subject.rfc4514_string()!r}"

    def named(self) -> tuple[str, Names]:
        """The machine and its names, without wildcards."""
        listed = self.chain[0].extensions.get_extension_for_class(pyca.SubjectAlternativeName).value
        dns = [name.lower() for name in listed.get_values_for_type(pyca.DNSName) if "*" not in name]
        return dns[0], Names.parse([*dns, *map(str, listed.get_values_for_type(pyca.IPAddress))])

    @property
    def until(self) -> datetime | None:
        """When the credential ends at the latest."""
        return self.chain[0].not_valid_after_utc if self.cut else None


def revoking(*certificates: pyca.Certificate, end: datetime = NOW + DAY) -> pyca.CertificateRevocationList:
    """A list of the CA."""
    return THEIRS.ca.crl(*certificates, end=end)


def by(**changes: Any) -> Plan:
    """The honest plan, changed."""
    return dataclasses.replace(Plan(), **changes)


_EXTENSION = (pyca.UnrecognizedExtension(pyca.ObjectIdentifier("1.2.3.4"), b"\x05\x00"), True)

# name, what it shows, outcome, plan
PLANS: tuple[tuple[str, str, vectors.Outcome, Plan], ...] = (
    ("plain", "a leaf, the CA above it, and the root is configured", "success", Plan()),
    ("root-along", "the root comes along, and counts for nothing", "success",
     by(chain=(*THEIRS.chain, THEIRS.root.certificate))),
    ("directly-below", "no CA between", "success", by(chain=leaf(THEIRS.root)[:1])),
    ("ed25519", "an Ed25519 leaf", "success",
     by(chain=(THEIRS.ca.leaf(ED25519, "web1.lan"), THEIRS.ca.certificate), key=ED25519)),
    ("first-name", "the first DNS name is the machine's, also behind an address", "success",
     by(chain=leaf(THEIRS.ca, "10.0.0.7", "B.lan", "a.lan"))),
    ("wildcard-and-name", "a wildcard is no name, and the other is", "success",
     by(chain=leaf(THEIRS.ca, "*.lan", "web1.lan"))),
    ("idn", "an IDN in its A-label form", "success", by(chain=leaf(THEIRS.ca, "xn--bcher-kva.lan"))),
    ("for-clients", "where clients' certificates count", "success",
     by(chain=leaf(THEIRS.ca, eku=[CLIENT]), usages=("clientAuth",))),
    ("cut", "the certificate's end is the credential's", "success", by(cut=True)),
    ("on-no-list", "a current list of its CA does not have it", "success", by(crls=(revoking(),))),
    ("chain-covered", "lists for the CA as well", "success",
     by(crls=(revoking(), THEIRS.root.crl()), coverage="chain")),
    ("revoked", "taken back by its CA", "revoked", by(crls=(revoking(THEIRS.leaf),))),
    ("ca-revoked", "its CA was taken back", "revoked",
     by(crls=(revoking(), THEIRS.root.crl(THEIRS.ca.certificate)))),
    ("stale-list", "the list of its CA is over", "evidence-rejected",
     by(crls=(revoking(end=NOW - timedelta(minutes=1)),))),
    ("no-list", "lists are configured, and none is there", "evidence-rejected", by(crls=())),
    ("list-of-another", "the list is another CA's", "evidence-rejected", by(crls=(THEIRS.root.crl(),))),
    ("forged-list", "a list in the CA's name, by another key", "evidence-rejected", by(crls=(STRANGER.crl(),))),
    ("ca-not-covered", "a list for the leaf alone, where the chain has to be covered", "evidence-rejected",
     by(crls=(revoking(),), coverage="chain")),
    ("self-signed", "the right names, by the holder's own hand", "evidence-rejected",
     by(chain=(root("web1.lan", THEIRS.key).leaf(THEIRS.key, "web1.lan"),))),
    ("another-root", "a root and a CA of the same names", "evidence-rejected", by(chain=leaf(STRANGER))),
    ("ca-missing", "the CA above it does not come along", "evidence-rejected", by(chain=THEIRS.chain[:1])),
    ("no-roots", "nothing is configured", "evidence-rejected", by(roots=())),
    ("expired", "over by a second", "evidence-rejected",
     by(chain=leaf(THEIRS.ca, end=NOW - timedelta(seconds=1)))),
    ("not-yet", "not for another minute", "evidence-rejected",
     by(chain=leaf(THEIRS.ca, begin=NOW + timedelta(minutes=1)))),
    ("a-ca-as-leaf", "a CA's certificate", "evidence-rejected", by(chain=THEIRS.chain[1:], key=THEIRS.ca.key)),
    ("a-leaf-as-ca", "a certificate that a leaf's key has signed", "evidence-rejected",
     by(chain=(Ca(THEIRS.leaf, THEIRS.key).leaf(THEIRS.key, "db1.lan"), *THEIRS.chain))),
    ("path-too-long", "a CA below one that may have none", "evidence-rejected",
     by(chain=(*leaf(BELOW), THEIRS.ca.certificate))),
    ("wrong-usage", "for clients, where servers count", "evidence-rejected",
     by(chain=leaf(THEIRS.ca, eku=[CLIENT]))),
    ("no-usage", "for nothing in particular", "evidence-rejected", by(chain=leaf(THEIRS.ca, eku=()))),
    ("wrong-usage-above", "below a CA for clients", "evidence-rejected", by(chain=leaf(FOR_CLIENTS))),
    ("may-not-sign", "its key may not sign", "evidence-rejected", by(chain=leaf(THEIRS.ca, sign=False))),
    ("name-constraint", "its CA may not speak for this name", "evidence-rejected", by(chain=leaf(NARROW))),
    ("critical-extension", "a critical extension that nobody knows", "evidence-rejected",
     by(chain=leaf(THEIRS.ca, extra=[_EXTENSION]))),
    ("only-wildcard", "no name but a wildcard", "evidence-rejected", by(chain=leaf(THEIRS.ca, "*.lan"))),
    ("only-address", "no name but an address", "evidence-rejected", by(chain=leaf(THEIRS.ca, "10.0.0.7"))),
    ("underscore", "a name that is no host's", "evidence-rejected", by(chain=leaf(THEIRS.ca, "a_b.lan"))),
    ("no-names", "no alternative name: the common name does not count", "evidence-rejected",
     by(chain=(THEIRS.ca.issue(THEIRS.key, "web1.lan", (usage(), True)), THEIRS.ca.certificate))),
    ("names-beyond", "one of its names is not allowed here", "policy-refused",
     by(chain=leaf(THEIRS.ca, "web1.lan", "db1.example"))),
    ("address-beyond", "one of its addresses is not allowed here", "policy-refused",
     by(chain=leaf(THEIRS.ca, "web1.lan", "10.0.1.7"))),
    ("no-names-allowed", "no name is allowed", "policy-refused", by(names=())),
    ("key-of-the-ca", "signed with the CA's key", "evidence-rejected", by(key=THEIRS.ca.key)),
    ("key-of-another", "signed with another key: the certificate is public", "evidence-rejected",
     by(key=p256("mallory"))),
)  # fmt: skip
