"""Who is kept out, and what silent, broken and hostile peers can take: a place for a moment, and nothing else."""

from __future__ import annotations

import asyncio
import contextlib
import socket
import ssl
from collections.abc import Callable
from pathlib import Path

import pytest

from handfast.core.roles import Role
from handfast.errors import HandfastError, Malformed, Refused, Revoked, Unreachable, UntrustedPeer
from handfast.sessions import hello
from handfast.sessions.channel import Channel
from handfast.sessions.engine import Engine, Limits, Link
from handfast.sessions.party import Party
from handfast.sessions.trust import Peer
from tests.sessions.conftest import Made
from tests.sessions.streams import ANSWER, HELLO, context, dial, engine, serving

QUICK = Limits(handshake=1.0, frame=0.2)


async def never(link: Link[Peer]) -> None:
    """A handler for those who must not get this far."""
    raise AssertionError(f"{link.peer} got in")


async def refused(server: Engine[Peer], attack: Callable[[socket.socket], object]) -> HandfastError:
    """Let ``attack`` do what it likes with a connection, and return why the server refused it."""
    loop = asyncio.get_running_loop()
    with socket.create_server(("127.0.0.1", 0)) as listening:
        theirs = await dial(listening)
        ours, _ = listening.accept()
    theirs.setblocking(True)
    theirs.settimeout(10)
    attacking = loop.run_in_executor(None, attack, theirs)
    try:
        async with server.link(ours) as link:
            await never(link)
    except HandfastError as error:
        with contextlib.suppress(OSError):
            await attacking
        assert server.open == 0
        return error
    finally:
        theirs.close()
    raise AssertionError("it was let in")


def python_client(party: Party, tmp: Path, **settings: object) -> Callable[[socket.socket], None]:
    """A TLS client of another make, with this party's certificate, and ``settings`` of its context changed."""
    (tmp / "party.pem").write_bytes(party.encode())
    made = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
    made.check_hostname, made.verify_mode = False, ssl.CERT_NONE
    alpn = settings.pop("alpn", [hello.ALPN])
    if settings.pop("identity", True):
        lines = (tmp / "party.pem").read_text().splitlines()
        (tmp / "party.pem").write_text("\n".join(line for line in lines if not line.startswith("#")) + "\n")
        made.load_cert_chain(tmp / "party.pem")
    if alpn:
        made.set_alpn_protocols(alpn)  # type: ignore[arg-type]
    for name, value in settings.items():
        setattr(made, name, value)

    def attack(connected: socket.socket) -> None:
        with made.wrap_socket(connected) as tls:
            tls.send(HELLO)
            while tls.recv(1000):
                pass

    return attack


async def test_who_says_nothing_is_let_go(ours: Made) -> None:
    """A connection without a byte is refused when its time is over, and keeps nobody."""
    error = await refused(engine(ours, "server", limits=QUICK), lambda connected: connected.recv(1))
    assert isinstance(error, Unreachable)
    assert "finish the TLS handshake within 1 s" in error.message


async def test_who_drips_a_handshake_is_let_go(ours: Made) -> None:
    """A byte at a time does not make the time longer."""

    def drip(connected: socket.socket) -> None:
        for byte in b"\x16\x03\x01\x02\x00\x01" + bytes(1000):
            connected.send(bytes([byte]))
            with contextlib.suppress(TimeoutError):
                connected.settimeout(0.02)
                if not connected.recv(1):
                    return

    assert isinstance(await refused(engine(ours, "server", limits=QUICK), drip), Unreachable)


@pytest.mark.parametrize(
    "garbage",
    [b"GET / HTTP/1.1\r\n\r\n", b"SSH-2.0-x\r\n", bytes(2000), b"\xff" * 2000, b"\x16\x03\x01\xff\xff" + bytes(70000)],
    ids=["http", "ssh", "zeros", "ones", "record too long"],
)
async def test_garbage_instead_of_a_handshake_is_malformed(ours: Made, garbage: bytes) -> None:
    """What is no TLS is refused at once, as that."""

    def send(connected: socket.socket) -> None:
        connected.sendall(garbage)
        while connected.recv(1000):
            pass

    error = await refused(engine(ours, "server"), send)
    assert isinstance(error, Malformed)
    assert "does not speak TLS" in error.message


async def test_tls_1_2_is_refused(ours: Made, tmp_path: Path) -> None:
    """A client with nothing newer is refused, whatever its certificate."""
    attack = python_client(ours.party("client"), tmp_path, maximum_version=ssl.TLSVersion.TLSv1_2)
    error = await refused(engine(ours, "server"), attack)
    assert isinstance(error, Malformed)
    assert "protocol" in error.message


@pytest.mark.parametrize("alpn", [["http/1.1"], ["handfast-session/2"], []], ids=["http", "later version", "none"])
async def test_another_protocol_is_refused(ours: Made, tmp_path: Path, alpn: list[str]) -> None:
    """Who does not offer exactly this protocol is no session's peer, with the right certificate too."""
    error = await refused(engine(ours, "server"), python_client(ours.party("client"), tmp_path, alpn=alpn))
    assert isinstance(error, UntrustedPeer)
    assert "agreed to" in error.message


async def test_a_client_without_a_certificate_is_refused(ours: Made, tmp_path: Path) -> None:
    """Nobody is anonymous."""
    error = await refused(engine(ours, "server"), python_client(ours.party("client"), tmp_path, identity=False))
    assert isinstance(error, UntrustedPeer)
    assert "no certificate" in error.message


@pytest.mark.parametrize("who", ["client", "server"])
async def test_another_session_of_the_same_name_is_refused(ours: Made, theirs: Made, tmp_path: Path, who: str) -> None:
    """A certificate under another root is refused in TLS, before anybody is asked."""
    error = await refused(engine(ours, "server"), python_client(theirs.party(who), tmp_path))
    assert isinstance(error, UntrustedPeer)
    assert "not issued in this session" in error.message


async def test_a_server_cannot_come_as_a_client(ours: Made, tmp_path: Path) -> None:
    """The server's certificate, stolen or not, opens no server."""
    error = await refused(engine(ours, "server"), python_client(ours.party("server"), tmp_path))
    assert isinstance(error, UntrustedPeer)


async def test_the_client_refuses_another_sessions_server(ours: Made, theirs: Made) -> None:
    """A server of another session learns nothing but who asked, and the client says what is wrong."""
    server = engine(theirs, "server")
    async with serving(server, never) as listening:
        with pytest.raises(UntrustedPeer, match="not issued in this session"):
            async with engine(ours, "client").link(await dial(listening)) as link:
                await never(link)


async def test_a_friend_cannot_pretend_to_be_the_server(ours: Made) -> None:
    """A client of the same session who answers as server (EKU clientAuth) is refused by the client."""
    bob = ours.party("bob")
    from handfast.adapters.tls import session_server_context

    fake = Engine(session_server_context([bob.leaf, bob.issuing], bob.key, bob.root, alpn=hello.ALPN), anybody)
    async with serving(fake, never) as listening:
        with pytest.raises(UntrustedPeer):
            async with engine(ours, "client").link(await dial(listening)) as link:
                await never(link)


def anybody(_certificate: bytes) -> Peer:
    """An attacker's judge."""
    raise UntrustedPeer("nobody")


async def test_the_judge_is_asked_and_its_word_reaches_the_peer(ours: Made) -> None:
    """Whom the judge refuses hears why, in a frame, and never reaches the handler."""
    asked: list[bytes] = []

    def judge(certificate: bytes) -> Peer:
        asked.append(certificate)
        raise Revoked("you were revoked")

    server = Engine(
        context(ours.party("server")),
        judge,
        refusal=lambda error: hello.encode(hello.Answer(ok=False, crl=1, time=2, error=error.code, message=str(error))),
    )
    async with serving(server, never) as listening, engine(ours, "client").link(await dial(listening)) as link:
        await link.send(HELLO)  # which crosses the refusal and must not turn it into a reset
        answer = hello.decode(await link.receive(), hello.Answer)
        assert (answer.error, answer.message) == ("revoked", "you were revoked")
        with pytest.raises(Unreachable):
            await link.receive()
    from cryptography.hazmat.primitives.serialization import Encoding

    assert asked == [ours.party("client").leaf.public_bytes(Encoding.DER)]


async def test_no_session_of_tls_is_resumed(ours: Made) -> None:
    """A second connection with the first one's ticket is a whole handshake: key and certificate are proved anew."""
    got: list[Link[Peer]] = []

    async def handle(link: Link[Peer]) -> None:
        await link.receive()
        got.append(link)
        await link.send(ANSWER)
        await link.receive()

    client = engine(ours, "client")
    async with serving(engine(ours, "server"), handle) as listening:
        async with client.link(await dial(listening)) as link:
            await link.send(HELLO)
            await link.receive()
            ticket = link._channel._tls.get_session()
        again = Channel(await dial(listening), client.context)
        assert ticket is not None
        again._tls.set_session(ticket)
        await again.handshake()
        await again.send(HELLO)
        assert await again.receive(4) == ANSWER
        # In a resumption the server would send no certificate.
        assert b"Certificate" not in (again._tls.get_cipher_name() or "").encode()
        assert again._tls.get_peer_certificate(as_cryptography=True) is not None
        assert again._tls.get_finished() is not None
        assert [each.peer.machine for each in got] == ["client", "client"]
        again.close()


async def test_a_crowd_of_silent_connections_keeps_nobody_out(ours: Made) -> None:
    """With every stranger's place taken, the one that has been silent longest goes, and a peer comes in."""
    done: asyncio.Future[str] = asyncio.get_running_loop().create_future()

    async def handle(link: Link[Peer]) -> None:
        done.set_result(link.peer.machine)

    server = engine(ours, "server", limits=Limits(strangers=8))
    async with serving(server, handle) as listening:
        crowd = [await dial(listening) for _ in range(20)]
        async with engine(ours, "client").link(await dial(listening)):
            assert await done == "client"
        with pytest.raises(ConnectionResetError):
            await asyncio.get_running_loop().sock_recv(crowd[0], 1)
        for each in crowd:
            each.close()


async def test_a_bug_in_one_handler_ends_its_connection_alone(ours: Made) -> None:
    """An unexpected exception is logged, and the next peer is served."""
    calls: list[int] = []

    async def handle(link: Link[Peer]) -> None:
        calls.append(1)
        if len(calls) == 1:
            raise ZeroDivisionError
        await link.send(ANSWER)

    async with serving(engine(ours, "server"), handle) as listening:
        client = engine(ours, "client")
        async with client.link(await dial(listening)) as link:
            with pytest.raises(Unreachable):
                await link.receive()
        async with client.link(await dial(listening)) as link:
            assert await link.receive() == b"ok"


async def test_close_ends_everything_and_says_so(ours: Made) -> None:
    """After ``close`` nobody waits on anything."""
    client = engine(ours, "client")

    async def handle(link: Link[Peer]) -> None:
        await link.receive()

    async with serving(engine(ours, "server"), handle) as listening, client.link(await dial(listening)) as link:
        client.close()
        with pytest.raises(Revoked, match="this side is stopping"):
            await link.receive()
    assert client.open == 0


def test_roles_have_contexts_of_their_own(ours: Made) -> None:
    """A party's side in TLS follows from its role, and a key of another pair makes none."""
    assert context(ours.party("server")).is_server
    assert not context(ours.party("bob")).is_server
    assert ours.party("bob").role is Role.CLIENT


def test_a_key_of_another_pair_is_unsafe(ours: Made) -> None:
    """A context is not made of parts that do not belong together."""
    from handfast.adapters.tls import session_client_context

    bob, client = ours.party("bob"), ours.party("client")
    with pytest.raises(Refused, match="no pair"):
        session_client_context([bob.leaf], client.key, bob.root, alpn=hello.ALPN)
