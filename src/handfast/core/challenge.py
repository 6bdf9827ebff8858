"""
The messages of the host-key challenge (``introducers.ssh_hostkey``): what each has to look like, and what is signed.

What the registrar signs is bytes that it gets back as they were, so they have one form: a payload or token that is
written otherwise is refused, and none has a second one of the same content.
"""

from __future__ import annotations

from datetime import datetime
from typing import Annotated, Literal, TypeVar

import msgspec
from msgspec import Meta

from handfast.core import look, sshkeys, sshsig, wire
from handfast.core.hosts import MAX_PLACES
from handfast.core.look import Look
from handfast.core.names import IPAddress, dns_name, ip_address
from handfast.core.sshkeys import SshKey
from handfast.core.sshsig import MAX_SIGNATURE
from handfast.core.transcript import digest
from handfast.core.vantage import LookRequest
from handfast.errors import Malformed

MAX_KEYS = 4  # sshd has three by default
NONCE_PATH, TOKEN_PATH = "/v1/ssh/hostkey/nonce", "/v1/ssh/hostkey/token"
PAYLOAD, TOKEN = "the payload", "the token"  # as errors call them

_PROOF = b"handfast/1 ssh-hostkey proof"

Random = Annotated[bytes, Meta(min_length=32, max_length=32)]
Signature = Annotated[bytes, Meta(max_length=MAX_SIGNATURE)]
Signatures = Annotated[list[Signature], Meta(min_length=1, max_length=MAX_KEYS)]
_Name = Annotated[str, Meta(min_length=1, max_length=253)]
_Address = Annotated[str, Meta(min_length=2, max_length=45)]
_Port = Annotated[int, Meta(ge=1, le=65535)]
_Key = Annotated[bytes, Meta(max_length=2048)]  # RSA of 8192 bits, the longest that we verify with, has 1047
_Names = Annotated[list[_Name], Meta(min_length=1, max_length=look.MAX_NAMES)]
_Addresses = Annotated[list[_Address], Meta(min_length=1, max_length=look.MAX_ADDRESSES)]
_Ports = Annotated[list[_Port], Meta(min_length=1, max_length=look.MAX_PORTS)]
_Keys = Annotated[list[_Key], Meta(min_length=1, max_length=MAX_KEYS)]
_Fingerprints = Annotated[list[Annotated[str, Meta(max_length=60)]], Meta(min_length=1, max_length=MAX_KEYS)]
_Time = Annotated[datetime, Meta(tz=True)]
Signed = Annotated[bytes, Meta(max_length=wire.MAX_REQUEST)]


class Parameters(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """
    Step 1, and POST /v1/ssh/hostkey/nonce: as what and where the host is reached, and its keys (wire form).

    The first name becomes the machine's. All stand in their one form, each once.
    """

    names: _Names
    addresses: _Addresses
    ports: _Ports
    keys: _Keys
    newcomer_nonce: Random


class Payload(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """What the registrar saw at ``issued_at``, and asks the host to sign: JSON in this order, without white space."""

    version: Literal[1]
    trust_domain: str
    pin: Random
    names: _Names
    addresses: _Addresses
    ports: _Ports
    keys: _Keys
    nonce: Random
    newcomer_nonce: Random
    issued_at: _Time
    expires_at: _Time

    @property
    def marker(self) -> str:
        """The one-time marker that its keys spend."""
        return f"ssh-hostkey:{self.nonce.hex()}"


class Challenge(msgspec.Struct, frozen=True):
    """The answer to it: a ``Payload`` as bytes, and the SSHSIG of the SSH host CA over exactly these."""

    payload: bytes
    ca_signature: bytes


class Proof(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Step 3, and POST /v1/ssh/hostkey/token: an SSHSIG of each of the payload's keys, in their order."""

    payload: Signed
    ca_signature: Signature
    signatures: Signatures


class Token(msgspec.Struct, frozen=True, forbid_unknown_fields=True):
    """Step 4: which payload was proved, by its SHA-256, and which keys, by their fingerprints; JSON as ``Payload``."""

    version: Literal[1]
    payload_sha256: Random
    keys: _Fingerprints
    issued_at: _Time
    expires_at: _Time


class TokenAnswer(msgspec.Struct, frozen=True):
    """The answer to a proof: a ``Token`` as bytes, and the SSHSIG of the SSH host CA over exactly these."""

    token: bytes
    ca_signature: bytes


def parameters(looked: Look, *, newcomer_nonce: bytes) -> Parameters:
    """Return a look as the message that asks for it; ``newcomer_nonce`` is 32 fresh random bytes."""
    addresses, keys = [str(address) for address in looked.addresses], [key.blob for key in looked.keys]
    return Parameters(list(looked.names), addresses, list(looked.ports), keys, newcomer_nonce)


def to_look(asked: Parameters | Payload | LookRequest) -> Look:
    """
    Return what is to be looked at.

    *Not* checked: whether we may look there, which only a ``Looker`` knows.

    :raises Malformed: a name, address or key that is none, or stands not in its one form, or twice.
    """
    names = tuple(_name(name) for name in asked.names)
    addresses = tuple(_address(text) for text in asked.addresses)
    keys = tuple(_key(blob) for blob in asked.keys)
    for what, given in {"names": names, "addresses": addresses, "ports": asked.ports, "keys": keys}.items():
        if len(set(given)) != len(given):
            raise Malformed(f"one of the {what} stands there twice", hint="give each once")
    if len(names) + len(addresses) > MAX_PLACES:  # as many as a machine can have
        raise Malformed(f"over {MAX_PLACES} names and addresses", hint="use several machines")
    return Look(names, addresses, keys, tuple(asked.ports))


def _name(text: str) -> str:
    name = dns_name(text)
    if name != text:
        raise Malformed(f"the name {text[:80]!r} is not in its one form", hint=f"write it as {name!r}")
    return full_name(name)


def full_name(name: str) -> str:
    """
    Return a DNS name that is one everywhere.

    :raises Malformed: without a domain it would be whoever told a DHCP server that he is called so.
    """
    if "." not in name:
        raise Malformed(f"not a full DNS name: {name!r}", hint="write it with its domain")
    return name


def _address(text: str) -> IPAddress:
    try:
        address = ip_address(text)
    except ValueError:
        raise Malformed(f"not an IP address: {text[:80]!r}", hint="in full, and without a zone (%eth0)") from None
    one = getattr(address, "ipv4_mapped", None) or address
    if str(one) != text:
        raise Malformed(f"the address {text[:80]!r} is not in its one form", hint=f"write it as {str(one)!r}")
    return address


def _key(blob: bytes) -> SshKey:
    key = sshkeys.from_blob(blob)
    sshsig.load_public(key)  # what it signs will have to be verified
    return key


def proof_message(challenge: Challenge | Proof, *, server_spki: bytes, pin: bytes) -> bytes:
    """Return what each host key signs in step 3; ``server_spki`` is of the connection to which the proof is posted."""
    return digest(_PROOF, challenge.payload, challenge.ca_signature, server_spki, pin)


S = TypeVar("S", Payload, Token)


def read(data: bytes, kind: type[S], *, what: str) -> S:
    """
    Read a payload or a token.

    *Not* checked: who wrote it, and when.

    :raises Malformed: it is none, or is not written in the one way, so that there are two of the same content.
    """
    found = wire.decode(data, kind)
    if written(found) != data:
        raise Malformed(f"{what} is not written in its one form", hint="send it as it came, byte by byte")
    return found


def written(content: Payload | Token) -> bytes:
    """Return the bytes that are signed."""
    return msgspec.json.encode(content)
