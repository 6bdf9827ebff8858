"""The vectors in the protocol pages are what the code computes."""

from __future__ import annotations

import base64
import hashlib
import re
from datetime import UTC, datetime

import msgspec
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from handfast.core import hostproof, keys, sshkeys, sshsig, transcript, vouched
from handfast.core.hostproof import HostKeys
from handfast.core.invitation import InvitationLine, key_id
from handfast.core.merkle import Frontier, leaf_hash
from handfast.core.records import KrlState
from handfast.core.secret import Secret
from handfast.introducers import invitation, nifi, reintroduction, renewal
from handfast.ledger import entries
from handfast.sessions import hello
from handfast.sessions.hello import Answer, Crl, Dial, Failed, Hello, Phone, Ping, Pong
from handfast.ssh import krl
from tests.docs.markdown import ROOT, blocks

PROTOCOLS = ROOT / "docs" / "protocols"


def vectors(page: str) -> dict[str, str]:
    """The last block of a page, as a table."""
    *_, last = blocks((PROTOCOLS / page).read_text())
    return dict(re.split(r"  +", line, maxsplit=1) for line in last.text.splitlines() if line)


GIVEN = vectors("invitation.md")
LINE = InvitationLine.parse(GIVEN["line"])
SEEN = {"pin": LINE.pin, "server_spki": bytes.fromhex(GIVEN["server SPKI hash"])}
NONCES = {"nonce": bytes.fromhex(GIVEN["registrar nonce"]), "newcomer_nonce": bytes.fromhex(GIVEN["newcomer nonce"])}
CSR, NEXT = bytes.fromhex(GIVEN["csr"]), bytes.fromhex(GIVEN["reintroduction key"])


def test_the_line() -> None:
    """The page's line holds the page's seed, pin, times and address, and is written as it was read."""
    assert LINE.seed.reveal().hex() == GIVEN["seed"]
    assert LINE.pin.hex() == GIVEN["pin"]
    assert LINE.not_before == datetime.fromisoformat(GIVEN["not before"])
    assert LINE.not_after == datetime.fromisoformat(GIVEN["not after"])
    assert [str(address) for address in LINE.addresses] == [GIVEN["address"]]
    assert (LINE.public_key().hex(), LINE.key_id) == (GIVEN["public key"], GIVEN["key id"])
    assert LINE.reveal() == GIVEN["line"]


def test_the_invitation_transcripts() -> None:
    """Request digest, its signature, and the answer's digest."""
    request = invitation.InvitationRequest(
        key_id=LINE.key_id,
        csr=CSR,
        reintroduction_key=NEXT,
        signature=bytes(64),
        role=None,
        names=[GIVEN["names"]],
        host=None,
        **NONCES,
    )
    digest = invitation.transcript(request, method="invitation", **SEEN)
    assert digest.hex() == GIVEN["request digest"]
    assert LINE.signing_key().sign(digest).hex() == GIVEN["request signature"]
    leaf, root = bytes.fromhex(GIVEN["leaf"]), bytes.fromhex(GIVEN["root"])
    assert transcript.answer(digest, leaf, (root,), GIVEN["time"]).hex() == GIVEN["answer digest"]


def test_the_host_claim() -> None:
    """What a host key signs, with the page's seed; what the request signs of it, and then as a whole."""
    seed = Ed25519PrivateKey.from_private_bytes(bytes.fromhex(GIVEN["host key seed"]))
    host = sshsig.load_private(seed.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    assert str(host.public) == GIVEN["host key"]
    request = invitation.InvitationRequest(
        key_id=LINE.key_id,
        csr=CSR,
        reintroduction_key=NEXT,
        signature=bytes(64),
        role=None,
        names=[GIVEN["names"]],
        host=None,
        **NONCES,
    )
    keys = HostKeys((host,), (int(GIVEN["ports"]),))
    made = hostproof.claim(keys, request, method="invitation", **SEEN)
    assert made is not None
    (proof,) = made.keys
    assert proof.signature.hex() == GIVEN["host key signature"]
    possession = bytes.fromhex(GIVEN["possession digest"])
    assert sshsig.verify(proof.signature, possession, namespace="hostkeys@handfast") == host.public
    assert hostproof.commitment(made).hex() == GIVEN["commitment"]
    digest = invitation.transcript(msgspec.structs.replace(request, host=made), method="invitation", **SEEN)
    assert digest.hex() == GIVEN["with it: digest"]
    assert LINE.signing_key().sign(digest).hex() == GIVEN["with it: signature"]


def test_the_renewal_transcripts() -> None:
    """Both kinds of succession, over the same inputs."""
    given = vectors("renewal.md")
    serial = "0123456789abcdef0123456789abcdef"
    ours = renewal.RenewalRequest(serial=serial, csr=CSR, reintroduction_key=NEXT, signature=b"", host=None, **NONCES)
    assert renewal.transcript(ours, **SEEN).hex() == given["renewal digest"]
    late = reintroduction.ReintroductionRequest(
        serial=serial, csr=CSR, reintroduction_key=NEXT, signature=bytes(64), host=None, **NONCES
    )
    assert reintroduction.transcript(late, **SEEN).hex() == given["reintroduction digest"]


def test_the_log() -> None:
    """An entry in its canonical form, its leaf hash, and the empty tree."""
    given = vectors("log.md")
    entry = given["entry"].encode()
    event = entries.decode(entry)
    assert entries.encode(event) == entry
    assert event.at == datetime(2026, 1, 1, tzinfo=UTC)
    assert leaf_hash(entry).hex() == given["leaf hash"]
    assert Frontier().root().hex() == given["empty tree"]


def test_nifi() -> None:
    """The tag over a key, and a one-time token from master and salt."""
    given = vectors("nifi.md")
    public_key, salt = keys.load_spki(bytes.fromhex(given["public key"])), bytes.fromhex(given["salt"])
    assert x509.SubjectKeyIdentifier.from_public_key(public_key).digest.hex() == given["key identifier"]
    assert nifi.tag(Secret(given["token"].encode()), public_key) == base64.b64decode(given["tag"])
    token = nifi.one_time_token(Secret(bytes.fromhex(given["master"])), salt)
    assert (token.reveal().decode(), key_id(salt)) == (given["one-time token"], given["key id"])


def test_the_frames_of_sessions() -> None:
    """Each kind of message, as it is sent and as it is read."""
    at, token, why = 1767225600, "AAECAwQFBgcICQoLDA0ODw", "cannot reach 127.0.0.1:11111"
    messages = {
        "hello, stream": Hello(want="stream", crl=0, time=at, token=token),
        "hello, control": Hello(want="control", crl=7, time=at, crl_der=b"list", about={"handfast": "0.1.0"}),
        "answer, yes": Answer(ok=True, crl=7, time=at + 1),
        "answer, no": Answer(ok=False, crl=7, time=at + 1, error=hello.UNREACHABLE_SERVICE, message=why),
        "dial": Dial(token=token),
        "failed": Failed(token=token, error=hello.UNREACHABLE_SERVICE, message=why),
        "phone": Phone(to="desk.example:9502", every=5.0),
        "crl": Crl(crl_der=b"list"),
        "ping": Ping(),
        "pong": Pong(),
    }
    given = vectors("sessions.md")
    assert {name: hello.encode(message).hex() for name, message in messages.items()} == given
    for name, message in messages.items():
        body = bytes.fromhex(given[name])[2:]
        read = hello.decode(body, type(message)) if isinstance(message, Hello | Answer) else hello.decode_control(body)
        assert read == message


def test_the_list_of_revoked_ssh_keys() -> None:
    """The list is these bytes, and what the registrar signs for it is that."""
    given = vectors("krl.md")
    host_ca, user_ca, retired = (sshkeys.parse(given[name]) for name in ("host CA", "user CA", "retired key"))
    hosts, users = (tuple(map(int, given[name].split())) for name in ("host serials", "user serials"))
    state = KrlState(int(given["version"]), hosts, users, frozenset({retired.digest}))
    pin, at = bytes.fromhex(given["pin"]), datetime.fromisoformat(given["made"])
    content = krl.build(state, host_ca=host_ca, user_ca=user_ca, pin=pin, at=at)
    digest = hashlib.sha256(content).digest()
    assert (content.hex(), digest.hex()) == (given["list"], given["list's SHA-256"])
    assert vouched.transcript(krl.LABEL, digest, given["time"]).hex() == given["signed"]
