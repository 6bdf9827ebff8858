"""
A client of ssh-agent (OpenSSH's PROTOCOL.agent, draft-ietf-sshm-ssh-agent): keys that sign without being shown.

An agent is believed in nothing but that it holds keys: what it signs is verified, what it says is bounded, and its
socket has to be our own user's or root's, since whoever runs it sees what is signed and what is added.
"""

from __future__ import annotations

import socket
import struct
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from os import geteuid
from pathlib import Path
from types import TracebackType
from typing import Self

from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from handfast.core import sshcert, sshkeys, sshsig
from handfast.core.sshcert import SshCertificate
from handfast.core.sshdata import Reader, string
from handfast.core.sshkeys import CERTIFICATE_SUFFIX, PROVABLE, SshKey
from handfast.core.sshsig import Signer
from handfast.errors import HandfastError, Malformed, NotFound, Refused, Unreachable, UntrustedPeer, UsageError

PATIENCE = 10.0  # seconds for what needs no person
SIGNING = 120.0  # seconds: the agent may ask its user (ssh-add -c)
MAX_MESSAGE = 256 * 1024  # bytes; OpenSSH's own limit
MAX_IDENTITIES = 2048  # OpenSSH's own limit

_FAILURE, _SUCCESS = 5, 6
_REQUEST_IDENTITIES, _IDENTITIES = 11, 12
_SIGN_REQUEST, _SIGN_RESPONSE = 13, 14
_REMOVE = 18
_ADD_CONSTRAINED, _LIFETIME = 25, 1
_RSA_SHA2_512 = 4
_WHAT = "the ssh-agent's answer"
_HINT = "`ssh-add -l` shows what it has"


@dataclass(frozen=True, slots=True)
class Identity:
    """One entry of an agent: a key, the certificate for it (wire form) where the entry is one, and a comment."""

    key: SshKey
    certificate: SshCertificate | None
    comment: str


class Agent:
    """
    A connection to an ssh-agent; a context manager.

    :raises Unreachable: nobody listens there, or nothing comes in time. :raises UntrustedPeer: it is another user's.
    """

    def __init__(self, path: Path) -> None:
        self._path = path
        self._socket = socket.socket(socket.AF_UNIX)
        try:
            self._connect()
        except BaseException:
            self._socket.close()
            raise

    def _connect(self) -> None:
        self._socket.settimeout(PATIENCE)
        with self._errors():
            self._socket.connect(str(self._path))
            credentials = self._socket.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
        _, uid, _ = struct.unpack("3i", credentials)
        if uid not in {geteuid(), 0}:
            raise UntrustedPeer(
                f"the ssh-agent at {str(self._path)!r} is run by the user with id {uid}, not by you ({geteuid()})",
                hint="whoever runs it sees what is signed: use an agent of your own",
            )

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Close the connection; what was added stays."""
        self._socket.close()

    def identities(self) -> tuple[Identity, ...]:
        """
        Return what the agent holds, but for entries of types that we do not know.

        :raises Unreachable, Malformed: no answer in time, or not such an answer.
        """
        reader = self._ask(bytes([_REQUEST_IDENTITIES]), _IDENTITIES, PATIENCE, "list its keys")
        if (count := reader.uint32()) > MAX_IDENTITIES:
            raise Malformed(f"{_WHAT} lists {count} keys, at most {MAX_IDENTITIES} are read", hint=_HINT)
        listed = [(reader.string(), reader.string()) for _ in range(count)]
        reader.end()
        return tuple(found for blob, comment in listed if (found := _identity(blob, comment)) is not None)

    def signer(self, key: SshKey) -> AgentSigner:
        """
        Return a key of the agent as something that signs, while this connection is open.

        :raises NotFound: the agent does not have it. :raises Malformed: a key of a type that is not verified here.
        """
        if key.algorithm not in PROVABLE:
            raise Malformed(f"a key of {key.algorithm!r} does not sign here", hint="ed25519, ecdsa or rsa")
        if not any(each.key == key and each.certificate is None for each in self.identities()):
            raise NotFound(f"the ssh-agent at {str(self._path)!r} does not have the key {key.fingerprint}", hint=_HINT)
        return AgentSigner(self, key)

    def sign(self, key: SshKey, data: bytes) -> bytes:
        """
        Return algorithm and signature over exactly ``data``, as ``Signer.signature`` does; RSA with rsa-sha2-512.

        :raises Refused: the agent will not. :raises UntrustedPeer: what it signed with is not that key.
        """
        flags = _RSA_SHA2_512 if key.algorithm == "ssh-rsa" else 0
        asked = bytes([_SIGN_REQUEST]) + string(key.blob) + string(data) + struct.pack(">I", flags)
        reader = self._ask(asked, _SIGN_RESPONSE, SIGNING, f"sign with {key.fingerprint}")
        signature = reader.string()
        reader.end()
        try:
            sshsig.check(key, signature, data)
        except HandfastError as error:  # an old agent passes over the flags, and signs with SHA-1
            raise UntrustedPeer(
                f"what the ssh-agent signed is no signature by {key.fingerprint}: {error.message}", hint=error.hint
            ) from None
        return signature

    def add(self, signer: Signer, certificate: SshCertificate, *, comment: str, lifetime: timedelta) -> None:
        """
        Add a certificate with its private key, as one entry, which the agent drops after ``lifetime`` (whole seconds).

        Not the bare key beside it: servers that count tries would be offered it first, for nothing.

        :raises UsageError: no lifetime. :raises Malformed: a certificate for another key, or a key that is not ed25519.
        :raises Refused: the agent will not: some take no certificates.
        """
        seconds = int(lifetime.total_seconds())
        if not 0 < seconds < 1 << 32:  # 0 would be: for ever
            raise UsageError(f"an ssh-agent keeps nothing for {lifetime}", hint="a second or more")
        private = signer.private
        if certificate.key != signer.public or not isinstance(private, Ed25519PrivateKey):
            raise Malformed(f"not a certificate for an ed25519 key that is there: {certificate.key.fingerprint}")
        public = private.public_key().public_bytes_raw()
        # PROTOCOL.agent and draft-ietf-sshm-ssh-agent §5.2.5: the certificate, ENC(A), and k || ENC(A).
        fields = (certificate.algorithm.encode(), certificate.blob, public, private.private_bytes_raw() + public)
        asked = b"".join([bytes([_ADD_CONSTRAINED]), *map(string, fields), string(comment.encode())])
        self._ask(asked + struct.pack(">BI", _LIFETIME, seconds), _SUCCESS, PATIENCE, "take a certificate").end()

    def remove(self, entry: SshKey | SshCertificate) -> None:
        """
        Remove an entry: of a certificate that, and of a key not its certificates.

        :raises Refused: there is none.
        """
        self._ask(bytes([_REMOVE]) + string(entry.blob), _SUCCESS, PATIENCE, "remove that key").end()

    def _ask(self, message: bytes, expected: int, patience: float, what: str) -> Reader:
        if len(message) > MAX_MESSAGE:
            raise Malformed(f"{len(message)} bytes for an ssh-agent, at most {MAX_MESSAGE}", hint="sign less at once")
        deadline = time.monotonic() + patience
        with self._errors():
            self._socket.settimeout(patience)
            self._socket.sendall(string(message))
            (size,) = struct.unpack(">I", self._take(4, deadline))
            if not 0 < size <= MAX_MESSAGE:
                self.close()
                raise Malformed(
                    f"{_WHAT} is {size} bytes long, 1 to {MAX_MESSAGE} are read", hint="is it an ssh-agent?"
                )
            answer = self._take(size, deadline)
        if answer[0] == _FAILURE:
            raise Refused(
                f"the ssh-agent at {str(self._path)!r} will not {what}",
                hint="is it locked (`ssh-add -X`), was it denied, or is the key gone?",
            )
        if answer[0] != expected:
            raise Malformed(f"{_WHAT} is message {answer[0]}, not {expected}", hint="is it an ssh-agent?")
        return Reader(answer[1:], what=_WHAT)

    def _take(self, size: int, deadline: float) -> bytes:
        """Read exactly so many bytes. An agent that drips them does not hold us."""
        found = bytearray()
        while len(found) < size:
            if (left := deadline - time.monotonic()) <= 0:
                raise TimeoutError
            self._socket.settimeout(left)
            if not (came := self._socket.recv(size - len(found))):
                raise ConnectionResetError("it closed the connection")
            found += came
        return bytes(found)

    @contextmanager
    def _errors(self) -> Iterator[None]:
        try:
            yield
        except TimeoutError:
            self.close()  # a late answer must not be taken for the next one
            raise Unreachable(
                f"the ssh-agent at {str(self._path)!r} does not answer in time", hint="does it ask you something?"
            ) from None
        except OSError as error:
            self.close()
            raise Unreachable(
                f"no ssh-agent at {str(self._path)!r}: {str(error.strerror or error).lower()}",
                hint='start one: eval "$(ssh-agent)"',
            ) from None


@dataclass(frozen=True, slots=True)
class AgentSigner:
    """A key in an agent, as ``core.hostproof.HostSigner``. Make one with ``Agent.signer``."""

    agent: Agent
    public: SshKey

    def sign(self, message: bytes, namespace: str) -> bytes:
        """Return an SSHSIG without armor. :raises HandfastError: as ``Agent.sign``."""
        return sshsig.made_by(self.public, lambda data: self.agent.sign(self.public, data), message, namespace)


def _identity(blob: bytes, comment: bytes) -> Identity | None:
    said = comment.decode("utf-8", "replace")
    shown = "".join(each if each.isprintable() else "?" for each in said)[:200]
    try:
        if Reader(blob, what=_WHAT).string().endswith(CERTIFICATE_SUFFIX.encode()):
            certificate = sshcert.read(blob)
            return Identity(certificate.key, certificate, shown)
        return Identity(sshkeys.from_blob(blob), None, shown)
    except Malformed:
        return None
