"""
The authority at work: one function that issues, one that lists what was revoked.

It implements ``core.ports.Authority`` from a directory which ``ceremony.create`` made. The root's private key is
never opened here.
"""

from __future__ import annotations

from dataclasses import dataclass
from datetime import datetime
from pathlib import Path

from cryptography import x509 as pyca
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ec import EllipticCurvePrivateKey
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey
from cryptography.hazmat.primitives.serialization import (
    Encoding,
    PublicFormat,
    load_pem_public_key,
    load_ssh_public_key,
)

from handfast.adapters import files
from handfast.authority import layout, sign
from handfast.authority.signers import file
from handfast.core import keys, x509
from handfast.core.flow import Credential, Intent
from handfast.core.names import Names
from handfast.core.records import Revocation
from handfast.core.secret import Secret
from handfast.errors import Fault, NotFound


@dataclass(frozen=True, slots=True, kw_only=True)
class PublicAuthority:
    """
    The public half: all that inviting, showing and verifying needs. Opening it takes no passphrase.

    ``pin`` is the SHA-256 of the root's SubjectPublicKeyInfo; ``chain`` (DER) goes along with every leaf and
    ``trust`` (DER) to whoever has to verify one. ``root_crl`` (DER) is the root's own revocation list: nginx,
    PostgreSQL and curl want it beside the issuing CA's. ``ssh_host_key`` and ``ssh_user_key`` are those of the SSH CAs.
    """

    name: str
    root: pyca.Certificate
    issuing: pyca.Certificate
    pin: bytes
    trust_domain: str
    chain: tuple[bytes, ...]
    trust: tuple[bytes, ...]
    root_crl: bytes
    log_key: Ed25519PublicKey
    ssh_host_key: Ed25519PublicKey
    ssh_user_key: Ed25519PublicKey
    generation: int

    @classmethod
    def read(cls, directory: Path) -> PublicAuthority:
        """
        Read the certificates of an authority and check that they belong together.

        :raises NotFound: no authority there.
        :raises Unsafe: others may read or write the directory.
        :raises Fault: damaged.
        """
        _check_directory(directory)
        state = layout.read_state(directory)
        try:
            root = pyca.load_pem_x509_certificate((directory / layout.ROOT).read_bytes())
            issuing = pyca.load_pem_x509_certificate((directory / layout.issuing(state.issuing, "crt")).read_bytes())
            issuing.verify_directly_issued_by(root)
            root_crl = pyca.load_pem_x509_crl((directory / layout.ROOT_CRL).read_bytes())
            log_key = load_pem_public_key((directory / layout.LOG_PUBLIC).read_bytes())
            host_key, user_key = (
                load_ssh_public_key((directory / f"{ca}.pub").read_bytes())
                for ca in (layout.SSH_HOST_CA, layout.SSH_USER_CA)
            )
        except (OSError, InvalidSignature, *keys.UNREADABLE) as error:
            raise _damaged(directory, str(error) or type(error).__name__) from error
        if not (
            isinstance(log_key, Ed25519PublicKey)
            and isinstance(host_key, Ed25519PublicKey)
            and isinstance(user_key, Ed25519PublicKey)
        ):
            raise _damaged(directory, "a public key for the log or for SSH is not Ed25519")
        return cls(
            name=state.name,
            root=root,
            issuing=issuing,
            pin=keys.spki_sha256(root.public_key()),
            trust_domain=x509.spiffe_domain(root),
            chain=(issuing.public_bytes(Encoding.DER),),
            trust=(root.public_bytes(Encoding.DER),),
            root_crl=root_crl.public_bytes(Encoding.DER),
            log_key=log_key,
            ssh_host_key=host_key,
            ssh_user_key=user_key,
            generation=state.issuing,
        )

    @property
    def ssh_host_ca(self) -> str:
        """The SSH host CA's public key as OpenSSH writes it, for a ``@cert-authority`` line in known_hosts."""
        return self.ssh_host_key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode("ascii")

    @property
    def ssh_user_ca(self) -> str:
        """The SSH user CA's public key as OpenSSH writes it, for sshd's ``TrustedUserCAKeys``."""
        return self.ssh_user_key.public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode("ascii")

    @property
    def crl_names(self) -> tuple[str, str]:
        """The issuing CA's names in URLs: ``issuing-<generation>``, and its key's SHA-256 in hex."""
        return f"issuing-{self.generation}", keys.spki_sha256(self.issuing.public_key()).hex()

    def excluded(self, names: Names) -> tuple[str, ...]:
        """Return those of ``names`` which the issuing CA may not certify: a leaf with one verifies nowhere."""
        return x509.excluded(self.issuing, names)


class FileAuthority:
    """
    An authority that signs, with its keys in files. Make one with ``open``.

    ``public`` is its public half; the port's properties are taken from it. ``crl_url`` goes into every leaf
    that it issues; None leaves the pointer out.
    """

    def __init__(self, public: PublicAuthority, signers: Signers, crl_url: str | None = None) -> None:
        self.public = public
        self.root, self.issuing, self.pin = public.root, public.issuing, public.pin
        self.trust_domain, self.chain, self.trust = public.trust_domain, public.chain, public.trust
        self.not_before, self.not_after = public.issuing.not_valid_before_utc, public.issuing.not_valid_after_utc
        self._signers = signers
        self._profile = x509.LeafProfile(public.issuing, crl_url)

    @classmethod
    def open(cls, directory: Path, *, passphrase: Secret | None = None) -> FileAuthority:
        """
        Open an authority for signing. The root's private key may be away.

        :raises NotFound: no authority there.
        :raises Unsafe: the directory or a key is accessible to others.
        :raises Refused: the keys are encrypted and the passphrase is missing or wrong.
        :raises Fault: damaged, or a key that does not belong to its certificate.
        """
        public = PublicAuthority.read(directory)
        return cls(public, Signers.load(directory, public, passphrase))

    def with_crl_url(self, url: str | None) -> FileAuthority:
        """
        Return this authority with another place for its CRL: known only when the registrar's address is.

        :raises UsageError: not an http URL.
        """
        if url is not None:
            x509.distribution_points(url)
        return FileAuthority(self.public, self._signers, url)

    def excluded(self, names: Names) -> tuple[str, ...]:
        """Return those of ``names`` which the issuing CA may not certify."""
        return self.public.excluded(names)

    def issue(self, intent: Intent) -> Credential:
        """
        Sign exactly the intent's grant under its serial.

        An intent that already has its certificate gets that one: no serial is signed twice.

        :raises PolicyRefused: names which the issuing CA's name constraints exclude.
        :raises Malformed: a key that is not certified.
        :raises Refused: the issuing CA has expired.
        :raises Fault: the grant is of another trust domain.
        """
        return sign.leaf(intent, self, self._profile, self._signers.issuing)

    def crl(self, revocations: list[Revocation], *, number: int, now: datetime) -> bytes:
        """
        Return a DER revocation list (RFC 5280 §5) signed by the issuing CA; ``number`` must grow from list to list.

        Only what this authority issued is on it.

        :raises Malformed: a reason that RFC 5280 §5.3.1 does not have.
        """
        return sign.revocation_list(revocations, self, self._signers.issuing, number=number, now=now)

    def log_signer(self) -> Ed25519PrivateKey:
        """Return the key that signs the log's checkpoints."""
        return self._signers.log

    def ssh_host_ca(self) -> Ed25519PrivateKey:
        """Return the key that signs SSH host certificates."""
        return self._signers.ssh_host

    def ssh_user_ca(self) -> Ed25519PrivateKey:
        """Return the key that signs SSH user certificates."""
        return self._signers.ssh_user


@dataclass(frozen=True, slots=True, kw_only=True)
class Signers:
    """The private keys of an authority, without its root's."""

    issuing: EllipticCurvePrivateKey
    log: Ed25519PrivateKey
    ssh_host: Ed25519PrivateKey
    ssh_user: Ed25519PrivateKey

    @classmethod
    def load(cls, directory: Path, public: PublicAuthority, passphrase: Secret | None) -> Signers:
        """Load each key and compare it with its public half; see ``FileAuthority.open`` for the errors."""
        name = layout.issuing(layout.read_state(directory).issuing, "key")
        issuing = file.load(directory / name, passphrase)
        if not isinstance(issuing, EllipticCurvePrivateKey) or issuing.public_key() != public.issuing.public_key():
            raise _stranger(directory, name)

        def load(name: str, public_key: Ed25519PublicKey) -> Ed25519PrivateKey:
            key = file.load(directory / name, passphrase)
            if not isinstance(key, Ed25519PrivateKey) or key.public_key() != public_key:
                raise _stranger(directory, name)
            return key

        return cls(
            issuing=issuing,
            log=load(layout.LOG_KEY, public.log_key),
            ssh_host=load(layout.SSH_HOST_CA, public.ssh_host_key),
            ssh_user=load(layout.SSH_USER_CA, public.ssh_user_key),
        )


def _check_directory(directory: Path) -> None:
    try:
        # Whoever can write here could exchange the root that every invitation pins.
        files.check_directory(directory)
    except NotFound:
        raise NotFound(f"no authority in {str(directory)!r}", hint="`handfast up` makes one") from None


def _damaged(directory: Path, what: str) -> Fault:
    return Fault(f"the authority in {str(directory)!r} is damaged: {what}", hint="restore it from its backup")


def _stranger(directory: Path, name: str) -> Fault:
    return _damaged(directory, f"{name!r} does not belong to its public half")
