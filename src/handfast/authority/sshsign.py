"""The authority's SSH keys at work: one for hosts, one for users, and neither signs what the other does."""

from __future__ import annotations

from dataclasses import dataclass

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat

from handfast.authority.authority import FileAuthority
from handfast.core import sshkeys, sshleaf
from handfast.core.flow import SshCredential, SshIntent
from handfast.core.sshcert import Kind
from handfast.core.sshkeys import SshKey
from handfast.core.sshsig import Signer


@dataclass(frozen=True, slots=True)
class SshSigner:
    """``core.ports.SshAuthority``, with keys in memory. Make one with ``of``."""

    host: Signer
    user: Signer

    @classmethod
    def of(cls, authority: FileAuthority) -> SshSigner:
        """Return what signs with an authority's SSH keys."""
        return cls(_signer(authority.ssh_host_ca()), _signer(authority.ssh_user_ca()))

    @property
    def host_ca(self) -> SshKey:
        """The key by which host certificates are verified."""
        return self.host.public

    @property
    def user_ca(self) -> SshKey:
        """The key by which user certificates are verified."""
        return self.user.public

    def certify(self, intent: SshIntent) -> SshCredential:
        """
        Sign exactly the intent's leaf under its serial, by the CA for its kind.

        An intent that already has its certificate gets that one: no serial is signed twice.

        :raises Malformed: as ``core.sshleaf.issue``.
        """
        if intent.certificate is not None:
            return SshCredential(intent.serial, intent.leaf, intent.certificate)
        ca = self.host if intent.leaf.kind is Kind.HOST else self.user
        return SshCredential(intent.serial, intent.leaf, sshleaf.issue(intent.leaf, ca, serial=intent.serial).blob)

    def sign(self, message: bytes, *, namespace: str) -> bytes:
        """Return an SSHSIG (no armor) by the host CA, for what we ask of a host and have to know again."""
        return self.host.sign(message, namespace)


def _signer(private: Ed25519PrivateKey) -> Signer:
    line = private.public_key().public_bytes(Encoding.OpenSSH, PublicFormat.OpenSSH).decode("ascii")
    return Signer(sshkeys.parse(line), private)
