"""The certificate of another authority, and its key, which this machine introduces itself with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.types import PrivateKeyTypes
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from handfast.adapters.files import faults, read_private
from handfast.core import foreign, keys
from handfast.core.chain import MAX_CERTIFICATE
from handfast.core.foreign import MAX_INTERMEDIATES
from handfast.core.invitation import Address
from handfast.core.roles import Role
from handfast.errors import Malformed, NotFound, TooMuch
from handfast.introducers.x5c import Certified

_MOST = 2 * (1 + MAX_INTERMEDIATES) * MAX_CERTIFICATE  # bytes of PEM, with what people write between
_HINT = "CERT is a PEM file with the certificate first, then the CAs above it (fullchain.pem); KEY is its own"


@dataclass(frozen=True, slots=True)
class KeyFile:
    """A private key in memory, as it was read."""

    key: PrivateKeyTypes

    def sign(self, message: bytes) -> bytes:
        """See ``introducers.x5c.LeafSigner``."""
        return foreign.sign(self.key, message)


def certified(
    certificate: Path, key: Path, *, addresses: Sequence[Address], pin: bytes, role: Role | None = None
) -> Certified:
    """
    Read a certificate with the CAs above it, and its private key, both PEM, as a way to be introduced.

    *Not* checked: whether it is valid, and whether the registrar trusts its root. It says.

    :raises NotFound: no such file. :raises Unsafe: others can read the key. :raises Fault: one cannot be read.
    :raises Malformed: no certificate, a key that is encrypted, of a kind that is not used, or another one's.
    :raises EvidenceRejected: the certificate names no machine.
    """
    found = _certificates(certificate)
    private = _private(key)
    leaf = foreign.leaf_key(found[0])
    if keys.spki(private.key.public_key()) != keys.spki(leaf):
        raise Malformed(
            f"{str(key)!r} is not the key of the first certificate in {str(certificate)!r}",
            hint=_HINT,
        )
    foreign.names_of(found[0])  # who could not be introduced with it hears that before anybody is asked
    return Certified(found, private, pin, tuple(addresses), role)


def _certificates(path: Path) -> tuple[x509.Certificate, ...]:
    with faults("read", path):
        try:
            with path.open("rb") as file:
                data = file.read(_MOST + 1)
        except FileNotFoundError:
            raise NotFound(f"no file {str(path)!r}", hint=_HINT) from None
    if len(data) > _MOST:
        raise TooMuch(f"{str(path)!r} is longer than {_MOST} bytes", hint=_HINT)
    try:
        found = tuple(x509.load_pem_x509_certificates(data))
    except keys.UNREADABLE:
        raise Malformed(f"no PEM certificate in {str(path)!r}", hint=_HINT) from None
    if len(found) > 1 + MAX_INTERMEDIATES:
        raise TooMuch(f"{len(found)} certificates in {str(path)!r}, at most {1 + MAX_INTERMEDIATES} are sent")
    return found


def _private(path: Path) -> KeyFile:
    try:
        return KeyFile(load_pem_private_key(read_private(path), password=None))
    except TypeError:
        raise Malformed(f"the key in {str(path)!r} is encrypted", hint="decrypt it into a file of mode 0600") from None
    except keys.UNREADABLE:
        # Without what the library says of it: that may quote the file.
        raise Malformed(f"no PEM private key in {str(path)!r}", hint=_HINT) from None
