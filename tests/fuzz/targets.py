"""
What strangers send, by who reads it: begun with what honest ones would send. See ``tests/fuzz/__main__.py``.

What is no error of ours is a finding.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass

from handfast.core import krl, sshcert, sshsig, sshwire, wire
from handfast.core.challenge import Challenge, Parameters, Proof, to_look
from handfast.core.flow import Channel, Evidence
from handfast.errors import Refused, Unreachable, UntrustedPeer
from handfast.introducers.ssh_hostkey import PAYLOAD_NAMESPACE
from tests.core.certmaterial import USER, issued
from tests.core.sshmaterial import KINDS, signer
from tests.core.test_krl import LISTS
from tests.introducers import vectors, vectors_challenge
from tests.introducers.challenges import CA, accept, judged, verify
from tests.introducers.stage import SERVER_SPKI
from tests.ssh.fake import EXCHANGES, FakeServer

MESSAGE, NAMESPACE = b"a message", "fuzz@handfast"


@dataclass(frozen=True)
class Target:
    """What reads a stranger's bytes, and what it reads with success, or nearly."""

    read: Callable[[bytes], object]
    seeds: Callable[[], Iterator[bytes]]


# --- the host-key challenge: the first byte says which message the others are ---


def asked(data: bytes) -> object:
    """Step 1."""
    return to_look(wire.decode(data, Parameters))


def proved(data: bytes) -> object:
    """Step 3."""
    return accept(wire.decode(data, Proof))


def redeemed(data: bytes) -> object:
    """Step 5."""
    return verify(Evidence("ssh-hostkey", data, Channel(SERVER_SPKI)))


def challenged(data: bytes) -> object:
    """The answer to step 1, well signed by a CA whose registrar is up to no good."""
    return judged(Challenge(data, CA.sign(data, PAYLOAD_NAMESPACE)))


STEPS: dict[str, Callable[[bytes], object]] = {
    "parameters": asked,
    "challenge": challenged,
    "proof": proved,
    "request": redeemed,
}


def challenge(data: bytes) -> object:
    """A message of either side."""
    return [*STEPS.values()][data[0] % len(STEPS)](data[1:]) if data else None


def challenges() -> Iterator[bytes]:
    """The vectors."""
    for path in vectors.files(vectors_challenge.FOLDER):
        vector = vectors_challenge.load(path)
        yield bytes([[*STEPS].index(vector.step)]) + vector.payload.encode()


# --- the others ---


def handshake(data: bytes) -> object:
    """All that a server says, up to its proof, to a client that asks for the kind of key that the first byte says."""
    client = sshwire.converse(sshwire.FAMILIES[data[0] % len(sshwire.FAMILIES)] if data else sshwire.ALGORITHMS)
    next(client)
    try:
        client.send(data[1:])
        while True:
            client.send(b"")  # the server has closed
    except StopIteration as shown:
        return shown.value


def handshakes() -> Iterator[bytes]:
    """Servers with each kind of key and key exchange; they sign for a client that is gone, as any replay would."""
    for number, family in enumerate(sshwire.FAMILIES):
        for exchange in EXCHANGES:
            server = FakeServer(algorithms=family, exchanges=(exchange,))
            client, host = sshwire.converse(family), server.conversation()
            next(client)
            said = next(host)
            with suppress(StopIteration):
                heard = said
                while True:
                    heard = host.send(client.send(heard))
                    said += heard
            yield bytes([number]) + said


def signature(data: bytes) -> object:
    """An SSHSIG as bytes, or armored where the first byte is odd."""
    given = data[1:].decode("latin-1") if data[:1] and data[0] % 2 else data[1:]
    return sshsig.verify(given, MESSAGE, namespace=NAMESPACE)


def signatures() -> Iterator[bytes]:
    """By a key of each kind."""
    for kind in KINDS:
        made = signer(kind).sign(MESSAGE, NAMESPACE)
        yield b"\0" + made
        yield b"\1" + sshsig.armor(made).encode()


def certificates() -> Iterator[bytes]:
    """A host's and a user's, which have all that a certificate can have."""
    yield issued().blob
    yield issued(USER).blob


def lists() -> Iterator[bytes]:
    """Lists of everything that can be revoked."""
    yield from map(krl.build, LISTS.values())


TARGETS = {
    "challenge": Target(challenge, challenges),
    "handshake": Target(handshake, handshakes),
    "signature": Target(signature, signatures),
    "certificate": Target(sshcert.read, certificates),
    "krl": Target(krl.read, lists),
}


def one(target: Target, data: bytes) -> None:
    """Have it read; that it is refused is as good."""
    with suppress(Refused, UntrustedPeer, Unreachable):
        target.read(data)
