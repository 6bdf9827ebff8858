"""
The invitation: one line that a person can paste.

    handfast1_<104 characters of base64url>@host:port[,host:port…]

The 78 bytes are: version, flags, not-before and not-after (Unix seconds, 4 bytes each), the 32-byte
seed of an Ed25519 key, the 32-byte pin of the root, and 4 bytes of SHA-256 over everything before them
and the addresses, so that a typo anywhere fails before anything is sent. The stable prefix is for
secret scanners. The key id is the hash of the seed's public key: it need not travel.

The line is a secret while it is unused: whoever reads it first may join in its name, within its bounds.
"""

from __future__ import annotations

import base64
import binascii
import hashlib
import re
import struct
from dataclasses import dataclass
from datetime import UTC, datetime

from cryptography.hazmat.primitives import serialization
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from handfast.core.keys import parse_pin
from handfast.core.names import dns_name, ip_address
from handfast.core.secret import Secret
from handfast.errors import InvitationInvalid, Malformed

PREFIX = "handfast1_"
SCANNER_PATTERN = r"handfast1_[A-Za-z0-9_-]{104}@"
MAX_ADDRESSES = 4
_VERSION = 1
_BODY = struct.Struct(">BBII32s32s")
_LINE = re.compile(r"handfast1_([A-Za-z0-9_-]{104})@([A-Za-z0-9.:,\[\]-]{3,1024})")
_PORT = re.compile(r"[0-9]{1,5}")
_HINT = "copy the whole line again, from handfast1_ to the port"


@dataclass(frozen=True, slots=True)
class Address:
    """Where a registrar listens: a DNS name or IP address, and a TCP port."""

    host: str
    port: int

    @classmethod
    def parse(cls, text: str) -> Address:
        """
        Read ``host:port`` or ``[v6]:port``.

        :raises Malformed: no port, a port outside 1-65535, or no host.
        """
        host, colon, port = text.rpartition(":")
        bracketed = host.startswith("[") and host.endswith("]")
        if not colon or not _PORT.fullmatch(port) or not 0 < int(port) < 65536 or (":" in host and not bracketed):
            raise Malformed(f"not an address: {text[:80]!r}", hint="write it as name:port, 192.0.2.1:port or [v6]:port")
        host = host[1:-1] if bracketed else host
        try:
            return cls(str(ip_address(host)), int(port))
        except ValueError:
            return cls(dns_name(host), int(port))

    def __str__(self) -> str:
        return f"[{self.host}]:{self.port}" if ":" in self.host else f"{self.host}:{self.port}"


def parse_registrar(text: str) -> tuple[Address, bytes]:
    """Read ``https://host:port#PIN``. :raises Malformed: no address, or no whole pin."""
    address, hash_sign, pin = text.removeprefix("https://").partition("#")
    if not hash_sign:
        raise Malformed(f"no pin in {text[:80]!r}", hint="write it as https://host:port#PIN; `handfast ca show` has it")
    return Address.parse(address.rstrip("/")), parse_pin(pin)


@dataclass(frozen=True, slots=True)
class InvitationLine:
    """A parsed invitation. ``seed`` is the secret; everything else may be shown."""

    seed: Secret
    pin: bytes
    not_before: datetime
    not_after: datetime
    addresses: tuple[Address, ...]

    @classmethod
    def parse(cls, text: str) -> InvitationLine:
        """
        Read an invitation; surrounding white space is allowed, nothing else is.

        *Not checked*: whether it is still good. Only the registrar knows.

        :raises InvitationInvalid: not an invitation, another version, or the checksum does not fit.
        """
        match = _LINE.fullmatch(text.strip())
        if match is None:
            # The text itself may be a secret (a password pasted by mistake), so it is not repeated.
            raise InvitationInvalid("this is not an invitation", hint=_HINT)
        try:
            raw = base64.b64decode(match[1].encode(), altchars=b"-_", validate=True)
        except binascii.Error:  # unreachable: the pattern admits exactly the alphabet and length
            raise InvitationInvalid("this is not an invitation", hint=_HINT) from None
        body, checksum = raw[: _BODY.size], raw[_BODY.size :]
        if checksum != _checksum(body, match[2]):
            raise InvitationInvalid("the invitation has a typo: its checksum does not fit", hint=_HINT)
        version, flags, start, end, seed, pin = _BODY.unpack(body)
        if version != _VERSION or flags:
            raise InvitationInvalid(
                f"the invitation has version {version}, flags {flags}; this handfast reads version 1",
                hint="install a newer handfast",
            )
        try:
            # What is beyond the last one allowed stays together, and is no address.
            addresses = tuple(Address.parse(part) for part in match[2].split(",", MAX_ADDRESSES - 1))
        except Malformed as error:
            raise InvitationInvalid(f"the invitation has a bad address ({error})", hint=_HINT) from None
        return cls(Secret(seed), pin, datetime.fromtimestamp(start, UTC), datetime.fromtimestamp(end, UTC), addresses)

    def reveal(self) -> str:
        """Return the line itself: a secret. Print it once and keep it out of logs and arguments."""
        if not 0 < len(self.addresses) <= MAX_ADDRESSES:
            raise ValueError(f"an invitation has 1 to {MAX_ADDRESSES} addresses")
        start, end = int(self.not_before.timestamp()), int(self.not_after.timestamp())
        body = _BODY.pack(_VERSION, 0, start, end, self.seed.reveal(), self.pin)
        where = ",".join(str(address) for address in self.addresses)
        payload = base64.urlsafe_b64encode(body + _checksum(body, where)).decode()
        return f"{PREFIX}{payload}@{where}"

    def signing_key(self) -> Ed25519PrivateKey:
        """Return the key whose public half the registrar keeps."""
        return Ed25519PrivateKey.from_private_bytes(self.seed.reveal())

    def public_key(self) -> bytes:
        """Return the raw public half: all that the registrar stores."""
        return self.signing_key().public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)

    @property
    def key_id(self) -> str:
        """Return the public name of this invitation."""
        return key_id(self.public_key())


def key_id(public_key: bytes) -> str:
    """Return the first eight bytes of SHA-256 over a raw Ed25519 public key, in hex."""
    return hashlib.sha256(public_key).digest()[:8].hex()


def _checksum(body: bytes, where: str) -> bytes:
    return hashlib.sha256(body + where.encode()).digest()[:4]
