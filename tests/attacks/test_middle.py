"""P1, P2, P5: somebody sits in the middle, knows everything that is public, and even the invitation."""

from __future__ import annotations

import base64
import dataclasses
from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding

from handfast.adapters.tls import leaf_spki_sha256, newcomer_context
from handfast.authority.authority import PublicAuthority
from handfast.core import csr, wire
from handfast.core.flow import Wish
from handfast.core.invitation import InvitationLine
from handfast.core.roles import GRANTABLE, Role
from handfast.errors import EvidenceRejected, UntrustedPeer
from handfast.introducers import invitation
from handfast.introducers.invitation import Invited
from handfast.newcomer.connection import Connection
from handfast.newcomer.join import Joined, join
from handfast.newcomer.keystore import Keystore
from handfast.newcomer.renew import renew
from tests.attacks.mitm import Mitm
from tests.attacks.world import Registrar, run
from tests.authority.helpers import Pki, grant, new_key


def now() -> datetime:
    """The time."""
    return datetime.now(UTC)


def joining(line: InvitationLine, out: Path, *, via: Mitm | None = None) -> Joined:
    """Join, perhaps led astray."""
    led = line if via is None else dataclasses.replace(line, addresses=(via.address,))
    joined = join(Invited(led, Wish()), Keystore(out), layouts=("pem",), owner=None, now=now)
    assert joined is not None
    return joined


def likeness(registrar: Registrar) -> tuple[list[x509.Certificate], ec.EllipticCurvePrivateKey]:
    """A chain with every name of the true one and other keys: the best that somebody without ours can make."""
    public = PublicAuthority.read(registrar.data / "authority")
    pki, key = Pki.make(now=now(), name=public.name), new_key()
    own = grant(
        public.trust_domain,
        Role.REGISTRAR,
        machine="registrar",
        names=("127.0.0.1",),
        public_key=key.public_key(),
        not_before=now() - timedelta(hours=1),
        not_after=now() + timedelta(days=1),
    )
    return [pki.leaf(own), pki.issuing, pki.root], key


@pytest.fixture(scope="module")
def insider(registrar: Registrar, tmp_path_factory: pytest.TempPathFactory) -> Keystore:
    """A machine that has joined for the role peer: right root, genuine key, both usages."""
    out = tmp_path_factory.mktemp("insider") / "out"
    joining(registrar.invite("insider.lan", "--role", "peer"), out)
    return Keystore(out)


def stolen(keystore: Keystore) -> tuple[list[x509.Certificate], ec.EllipticCurvePrivateKey]:
    """What a thief of that machine has."""
    material = keystore.load()
    return [x509.load_der_x509_certificate(der) for der in (material.leaf, *material.chain)], material.private_key


def test_P1_a_perfect_likeness_is_refused(registrar: Registrar, tmp_path: Path) -> None:
    """All names are right, the true roots are relayed, the invitation is known to him: the key is not under the pin."""
    line = registrar.invite()
    with Mitm(registrar.address, *likeness(registrar)) as attacker:
        with pytest.raises(UntrustedPeer, match="does not chain"):
            joining(line, tmp_path / "out", via=attacker)
        assert not list((tmp_path / "out").glob("*.pem"))
    joining(line, tmp_path / "out")


def test_P1_his_own_roots_are_refused(registrar: Registrar, tmp_path: Path) -> None:
    """He sends his own root and chain in the hello, alone and beside the true one."""
    line, (chain, key) = registrar.invite(), likeness(registrar)
    public = PublicAuthority.read(registrar.data / "authority")
    own = [certificate.public_bytes(Encoding.DER) for certificate in chain]

    for trust in ([own[-1]], [own[-1], *public.trust], [*public.trust, own[-1]]):

        def lie(data: bytes, trust: list[bytes] = trust) -> bytes:
            hello = msgspec.json.decode(data.partition(b"\r\n\r\n")[2], type=wire.Hello)
            body = msgspec.json.encode(msgspec.structs.replace(hello, trust=trust, chain=own[1:2]))
            return f"HTTP/1.1 200 OK\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body

        with Mitm(registrar.address, chain, key, rewrite=lie) as attacker, pytest.raises(UntrustedPeer):
            joining(line, tmp_path / "out", via=attacker)


def test_P1_the_command_ends_with_5_and_keeps_nothing(registrar: Registrar, tmp_path: Path) -> None:
    """As a person meets it: exit code 5, the reason on stderr, no file that a program could use."""
    line = registrar.invite("web2.lan")
    with Mitm(registrar.address, *likeness(registrar)) as attacker:
        led = dataclasses.replace(line, addresses=(attacker.address,))
        done = run("join", "--out", str(tmp_path / "out"), stdin=led.reveal())
    assert done.returncode == 5
    assert done.stdout == ""
    assert "pinned root" in done.stderr
    assert "Traceback" not in done.stderr
    assert not list((tmp_path / "out").glob("[!.]*"))


def test_P5_an_insider_in_the_middle_receives_a_hello_and_nothing_else(
    registrar: Registrar, insider: Keystore, tmp_path: Path
) -> None:
    """Right root, wrong role: he is sent one GET that anybody could send, without key id, request or proof."""
    line = registrar.invite("web3.lan")
    with (
        Mitm(registrar.address, *stolen(insider)) as attacker,
        pytest.raises(UntrustedPeer, match="is a peer, not a registrar"),
    ):
        joining(line, tmp_path / "out", via=attacker)
    head, _, rest = bytes(attacker.seen).partition(b"\r\n\r\n")
    first, *headers = head.decode().split("\r\n")
    assert first == "GET /v1/hello HTTP/1.1"
    assert {header.split(":")[0] for header in headers} == {"Host", "Accept-Encoding", "Accept"}
    assert rest == b""
    pending = Keystore(tmp_path / "out").pending(f"invitation:{line.key_id}")
    public = pending.reintroduction_key.public_key().public_bytes_raw()
    for secret in (line.seed.reveal(), line.public_key(), line.pin, csr.build(pending.private_key)[30:90], public):
        for form in (
            secret,
            secret.hex().encode(),
            base64.b64encode(secret)[:-4],
            base64.urlsafe_b64encode(secret)[:-4],
        ):
            assert form not in attacker.seen
    assert line.key_id.encode() not in attacker.seen
    joining(line, tmp_path / "out")


@pytest.mark.parametrize("role", sorted(role for role in GRANTABLE if role.serves))
def test_P6_no_role_that_serves_stands_in_for_the_registrar(registrar: Registrar, tmp_path: Path, role: Role) -> None:
    """Every role that a machine can get and serve with, in the middle of a join and of a renewal."""
    joining(registrar.invite(f"{role}-thief.lan", "--role", role), tmp_path / "thief")
    victim = Keystore(tmp_path / "victim")
    joining(registrar.invite(f"{role}-victim.lan"), victim.directory)
    before = victim.load().leaf
    with Mitm(registrar.address, *stolen(Keystore(tmp_path / "thief"))) as attacker:
        with pytest.raises(UntrustedPeer):
            joining(registrar.invite("web4.lan"), tmp_path / "out", via=attacker)
        lead(victim, attacker)
        with pytest.raises(UntrustedPeer, match="not a registrar"):
            renew(victim, now=now)
        assert b"POST" not in attacker.seen
    assert victim.load().leaf == before


def lead(keystore: Keystore, attacker: Mitm) -> None:
    """Lead a machine's renewals to somebody else."""
    path = next(keystore.directory.glob(".generations/*/identity.json"))
    about = msgspec.json.decode(path.read_bytes())
    path.write_bytes(msgspec.json.encode(about | {"addresses": [str(attacker.address)]}))


def present(connection: Connection, line: InvitationLine, spki: bytes) -> bytes:
    """A genuine message, signed for a TLS key, with a fresh nonce of the true registrar."""
    hello = connection.call("GET", "/v1/hello", wire.Hello)
    return invitation.present(
        line,
        csr_der=csr.build(new_key()),
        reintroduction_key=bytes(32),
        wish=Wish(),
        nonce=hello.nonce,
        server_spki=spki,
    )[0]


def post(connection: Connection, body: bytes) -> wire.IntroductionAnswer:
    """Send evidence."""
    return connection.call("POST", "/v1/introductions/invitation", wire.IntroductionAnswer, body)


def connected(registrar: Registrar) -> Connection:
    """A connection to the true registrar, unverified, as an attacker makes it."""
    return Connection(registrar.address, newcomer_context(), deadline=30)


def test_P2_what_was_signed_for_the_middle_is_worthless_at_the_registrar(
    registrar: Registrar, insider: Keystore
) -> None:
    """Even a newcomer that did not check would not help him: its signature names his TLS key, not the registrar's."""
    line = registrar.invite("web5.lan")
    chain, key = stolen(insider)
    with Mitm(registrar.address, chain, key) as attacker:
        careless = Connection(attacker.address, newcomer_context(), deadline=30)
        body = present(careless, line, leaf_spki_sha256(careless.leaf))
        with pytest.raises(EvidenceRejected):
            post(careless, body)
        careless.close()
        assert b"POST /v1/introductions/invitation" in attacker.seen
    honest = connected(registrar)
    assert post(honest, present(honest, line, leaf_spki_sha256(honest.leaf))).certificate
    honest.close()


def test_P2_a_recorded_message_gives_no_other_key_a_certificate(registrar: Registrar) -> None:
    """Repeated whole it is answered with the same certificate, useless without its key; changed it is refused."""
    connection = connected(registrar)
    body = present(connection, registrar.invite("web6.lan"), leaf_spki_sha256(connection.leaf))
    first = post(connection, body)
    connection.close()
    again = connected(registrar)
    assert post(again, body).certificate == first.certificate
    tree = msgspec.json.decode(body)
    other = base64.b64encode(csr.build(new_key())).decode()
    for change in (
        {"csr": other},
        {"names": ["web6.lan"]},
        {"reintroduction_key": base64.b64encode(b"x" * 32).decode()},
    ):
        with pytest.raises(EvidenceRejected):
            post(again, msgspec.json.encode(tree | change))
    again.close()
