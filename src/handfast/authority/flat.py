"""
An authority whose root signs leaves itself, for wires that allow a chain of exactly one (NiFi's tls-toolkit).

    root.crt    CA, issuer of every leaf, and the certificate of the TLS server
    root.key    its key, PKCS#8, for the owner alone

Weaker than ``authority.FileAuthority`` by the wire's own doing: the root's key cannot be offline, because it proves
the server in every handshake, and whoever takes it takes the authority. So it is an authority of its own, with
another root and another trust domain, and no verifier of the first is asked to trust it.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509 as pyca
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.hashes import SHA256
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from handfast.adapters import files
from handfast.authority import sign
from handfast.authority.layout import ROOT, ROOT_KEY
from handfast.authority.room import building, require_new
from handfast.authority.signers import file
from handfast.core import keys, nifi_x509, x509
from handfast.core.flow import Credential, Intent
from handfast.core.names import Names
from handfast.core.records import Revocation
from handfast.core.secret import Secret
from handfast.errors import Fault, NotFound, Refused, UsageError

RSA_BITS = range(2048, 4096 + 1)  # above, every handshake costs this server tens of milliseconds
_CURVES: dict[int, type[ec.EllipticCurve]] = {256: ec.SECP256R1, 384: ec.SECP384R1}
_MASTER = b"handfast nifi one-time tokens v1"


def new_key(algorithm: str = "RSA", key_size: int = 2048) -> keys.LeafPrivateKey:
    """
    Make a root's key: ``RSA`` of 2048 to 4096 bits, or ``EC`` of 256 or 384; upper or lower case.

    :raises UsageError: any other.
    """
    match algorithm.upper():
        case "RSA" if key_size in RSA_BITS:
            return rsa.generate_private_key(keys.RSA_EXPONENT, key_size)
        case "EC" if key_size in _CURVES:
            return ec.generate_private_key(_CURVES[key_size]())
    raise UsageError(
        f"a CA has no {algorithm[:80]!r} key of {key_size} bits",
        hint="use RSA with 2048 to 4096, or EC with 256 or 384",
    )


def create(
    directory: Path,
    *,
    subject: pyca.Name,
    now: datetime,
    days: int,
    algorithm: str = "RSA",
    key_size: int = 2048,
    passphrase: Secret | None = None,
) -> None:
    """
    Make a root in ``directory``, which must not exist; ``subject`` is in a certificate's order (``dn.parse``).

    :raises Refused: the directory exists, or the passphrase is empty.
    :raises Malformed: a subject without a common name. :raises UsageError: another kind of key, no days.
    :raises Fault: the disk failed; nothing is left behind then.
    """
    require_new(directory)
    key = new_key(algorithm, key_size)
    _store(directory, nifi_x509.root(key, subject=subject, days=days, now=now), key, passphrase)


def adopt(
    directory: Path,
    *,
    certificate: pyca.Certificate,
    key: keys.LeafPrivateKey,
    now: datetime,
    passphrase: Secret | None = None,
) -> tuple[str, ...]:
    """
    Take over the CA of a toolkit into ``directory``, which must not exist; return what the operator should know.

    Every node that trusts its certificate goes on doing so. *Not* checked: who has copies of the key.

    :raises Refused: not a root that can be used (see ``nifi_x509.check_root``), not its key, the directory exists.
    :raises Malformed: a weak key. :raises Fault: the disk failed; nothing is left behind then.
    """
    remarks = nifi_x509.check_root(certificate, now=now)
    if key.public_key() != certificate.public_key():
        raise Refused("the key does not belong to the CA's certificate", hint="take both from the same key store")
    _store(directory, certificate, key, passphrase)
    return remarks


@dataclass(frozen=True, slots=True)
class PublicFlatAuthority:
    """The public half: all that inviting, showing and verifying needs. Reading it takes no passphrase."""

    root: pyca.Certificate

    @classmethod
    def read(cls, directory: Path) -> PublicFlatAuthority:
        """
        Read the certificate of an authority.

        :raises NotFound: no authority there.
        :raises Unsafe: others may read or write the directory.
        :raises Fault: damaged.
        """
        try:
            files.check_directory(directory)  # whoever can write here could exchange the root
        except NotFound:
            raise NotFound(f"no NiFi authority in {str(directory)!r}", hint="make or migrate one first") from None
        try:
            root = pyca.load_pem_x509_certificate((directory / ROOT).read_bytes())
            nifi_x509.check_kind(root)  # the root of another kind of authority does not come to sign leaves
        except (OSError, Refused, *keys.UNREADABLE) as error:
            raise _damaged(directory, str(error)) from error
        return cls(root)

    @property
    def pin(self) -> bytes:
        """SHA-256 of the root's SubjectPublicKeyInfo."""
        return keys.spki_sha256(self.root.public_key())

    @property
    def trust_domain(self) -> str:
        """That of the pin: a root which another program made states none."""
        return x509.trust_domain(self.pin)

    @property
    def trust(self) -> tuple[bytes, ...]:
        """The root (DER)."""
        return (self.root.public_bytes(Encoding.DER),)

    def excluded(self, names: Names) -> tuple[str, ...]:
        """Return those of ``names`` that the root's name constraints leave out."""
        return x509.excluded(self.root, names)


class FlatAuthority:
    """
    An authority with one key. Make one with ``open``, or for a root in memory, which is not checked, from its parts.

    ``root_key`` is for the TLS server: on this wire the CA's key is the server's, so unlike the other signers it has
    to be the key itself and not something that signs with it.
    """

    def __init__(self, public: PublicFlatAuthority, key: keys.LeafPrivateKey) -> None:
        self.public = public
        self.root = self.issuing = public.root
        self.pin, self.trust_domain, self.trust = public.pin, public.trust_domain, public.trust
        self.chain: tuple[bytes, ...] = ()
        self.not_before, self.not_after = public.root.not_valid_before_utc, public.root.not_valid_after_utc
        self.root_key = key
        self._profile = nifi_x509.LeafProfile(public.root)

    @classmethod
    def open(cls, directory: Path, *, passphrase: Secret | None = None) -> FlatAuthority:
        """
        Open an authority for signing.

        :raises NotFound: no authority there.
        :raises Unsafe: the directory or the key is accessible to others.
        :raises Refused: the key is encrypted and the passphrase is missing or wrong.
        :raises Fault: damaged, or a key that does not belong to its certificate.
        """
        public = PublicFlatAuthority.read(directory)
        key = file.read(directory / ROOT_KEY, passphrase)
        if not isinstance(key, rsa.RSAPrivateKey | ec.EllipticCurvePrivateKey) or (
            key.public_key() != public.root.public_key()
        ):
            raise _damaged(directory, f"{ROOT_KEY!r} does not belong to its certificate")
        return cls(public, key)

    def excluded(self, names: Names) -> tuple[str, ...]:
        """Return those of ``names`` that the root's name constraints leave out."""
        return self.public.excluded(names)

    def issue(self, intent: Intent) -> Credential:
        """
        Sign exactly the intent's grant under its serial.

        An intent that already has its certificate gets that one: no serial is signed twice.

        :raises PolicyRefused: names which the root's name constraints exclude.
        :raises Malformed: a key that is not certified, or a subject that cannot be.
        :raises Refused: the root has expired.
        :raises Fault: the grant is of another trust domain.
        """
        return sign.leaf(intent, self, self._profile, self.root_key)

    def crl(self, revocations: list[Revocation], *, number: int, now: datetime) -> bytes:
        """
        Return a DER revocation list (RFC 5280 §5) signed by the root; ``number`` must grow from list to list.

        Only what this authority issued is on it.

        :raises Malformed: a reason that RFC 5280 §5.3.1 does not have.
        """
        return sign.revocation_list(revocations, self, self.root_key, number=number, now=now)

    def token_master(self) -> Secret:
        """
        Return the 32-byte secret that one-time tokens are derived from.

        It comes from the root's private key, so that there is no second secret to lose: whoever has the key needs
        no token, and a migrated key that comes back from its backup brings its tokens along.
        """
        private = self.root_key.private_bytes(Encoding.DER, PrivateFormat.PKCS8, NoEncryption())
        return Secret(HKDF(algorithm=SHA256(), length=32, salt=None, info=_MASTER).derive(private))


def _store(directory: Path, certificate: pyca.Certificate, key: keys.LeafPrivateKey, passphrase: Secret | None) -> None:
    with building(directory, passphrase) as room:
        room.public(ROOT, certificate.public_bytes(Encoding.PEM))
        room.key(room.directory / ROOT_KEY, key)
        room.appear(directory)


def _damaged(directory: Path, what: str) -> Fault:
    return Fault(f"the NiFi authority in {str(directory)!r} is damaged: {what}", hint="restore it from its backup")
