"""The client's half of SSH's key exchange, against a server written from the RFCs, and against liars."""

from __future__ import annotations

import struct
from collections.abc import Callable

import pytest
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from hypothesis import given
from hypothesis import strategies as st

from handfast.core import sshwire
from handfast.core.sshwire import (
    ALGORITHMS,
    FAMILIES,
    MAX_GREETING,
    MAX_PACKET,
    MAX_RECEIVED,
    Conversation,
    Shown,
    converse,
)
from handfast.errors import Malformed, Unreachable, UntrustedPeer
from tests.ssh.fake import CERTIFIED, EXCHANGES, KEYS, FakeServer, certificate, mpint, packet, public, sign, string

PLAIN = tuple(KEYS)
EVERY = (*PLAIN, *(name + CERTIFIED for name in PLAIN))


def talk(
    server: FakeServer,
    algorithms: tuple[str, ...] = ALGORITHMS,
    *,
    tamper: Callable[[bytes], bytes] = lambda stream: stream,
    piece: int = 1 << 20,
) -> Shown:
    """Bring both halves together; ``tamper`` changes what comes from the server, which is cut into pieces."""
    client, host = converse(algorithms), server.conversation()
    sent, passed, said = next(client), 0, next(host)
    try:
        while True:
            stream = tamper(said)
            came = stream[passed : passed + piece]  # nothing: the server has no more to say, and hangs up
            passed += len(came)
            sent = client.send(came)
            if sent:
                try:
                    said += host.send(sent)
                except StopIteration:
                    assert not came
    except StopIteration as stop:
        shown: Shown = stop.value
        return shown


def feed(client: Conversation, pieces: list[bytes], sent: list[bytes] | None = None) -> None:
    """Hand the client these pieces, and keep what it sends."""
    for piece in (None, *pieces):
        answer = next(client) if piece is None else client.send(piece)
        if sent is not None:
            sent.append(answer)


@pytest.mark.parametrize("algorithm", EVERY)
@pytest.mark.parametrize("exchange", EXCHANGES)
def test_a_host_proves_its_key(algorithm: str, exchange: str) -> None:
    """Each kind of key is shown with each key exchange, plain or in its certificate, which is returned as it is."""
    shown = talk(FakeServer(algorithms=(algorithm,), exchanges=(exchange,)), EVERY)
    private = KEYS[algorithm.removesuffix(CERTIFIED)]
    certified = certificate(private) if algorithm.endswith(CERTIFIED) else b""
    assert shown == Shown("SSH-2.0-fake", (algorithm,), algorithm, public(private), certified)


@pytest.mark.parametrize("piece", [1, 7])
def test_pieces_do_not_matter(piece: int) -> None:
    """What comes a byte at a time is the same as what comes at once."""
    assert talk(FakeServer(algorithms=EVERY), piece=piece).key == public(KEYS["ssh-ed25519"])


def test_the_first_of_ours_that_it_has_is_shown() -> None:
    """The client's order counts (RFC 4253 §7.1), and everything the server has is reported, known to us or not."""
    offered = ("x-new@example.com", "ssh-rsa", "rsa-sha2-256", "ssh-ed25519")
    shown = talk(FakeServer(algorithms=offered), ("rsa-sha2-512", "rsa-sha2-256", "ssh-ed25519"))
    assert (shown.algorithm, shown.offered) == ("rsa-sha2-256", offered)


def test_nothing_in_common_is_an_answer() -> None:
    """A server whose keys are all of types that we do not know is not an error: it is known what it has."""
    assert talk(FakeServer(algorithms=("ssh-rsa", "ssh-mldsa"))) == Shown("SSH-2.0-fake", ("ssh-rsa", "ssh-mldsa"))


def test_sha1_is_never_asked_for() -> None:
    """`ssh-rsa` signs with SHA-1: it is in no list that we send."""
    server = FakeServer(algorithms=("ssh-rsa",))
    talk(server)
    assert "ssh-rsa" not in server.lists(server.payload(len(sshwire.VERSION) + 2) or b"")[1]
    assert len(ALGORITHMS) == len({name for family in FAMILIES for name in family})


def test_lines_may_come_before_the_version() -> None:
    """RFC 4253 §4.2 lets a server say something first, and some end their lines without a carriage return."""
    shown = talk(FakeServer(before=b"Welcome\r\nto\nSSH of ours\r\n", version=b"SSH-1.99-x y", line_end=b"\n"))
    assert shown.banner == "SSH-1.99-x y"


def test_other_messages_may_come_in_between() -> None:
    """Messages to be ignored, or for debugging, change nothing (RFC 4253 §11)."""
    noise = packet(b"\2" + string(b"x" * 300)) + packet(b"\4\0" + string(b"hello") + string(b"")) + packet(b"\3" * 5)
    assert talk(FakeServer(interjected=noise)).key == public(KEYS["ssh-ed25519"])


def test_a_wrong_guess_is_skipped_and_a_right_one_counts() -> None:
    """A server may send with its KEXINIT what it would send if we agreed at once (RFC 4253 §7)."""
    wrong = FakeServer(exchanges=("sntrup761x25519-sha512", "curve25519-sha256"), guess=packet(b"\x1fguess"))
    assert talk(wrong).key == public(KEYS["ssh-ed25519"])
    right = FakeServer(guess=packet(b"\2" + string(b"")))
    assert talk(right).key == public(KEYS["ssh-ed25519"])


@pytest.mark.parametrize(
    "said", [b"", b"HTTP/1.1 400 Bad Request\r\n\r\n", b"SSH-1.5-old\n", b"\0" * 600, b"220 mail\r\n"]
)
def test_another_protocol_gets_no_byte_from_us(said: bytes) -> None:
    """Until the peer says that it speaks SSH it is sent nothing: who names the target cannot talk to others with us."""
    client, sent = converse(), [b""]
    with pytest.raises((Unreachable, Malformed)):
        feed(client, [said, b"", b""], sent)
    assert sent == [b""] * len(sent)


# --- who lies ---


@pytest.mark.parametrize("algorithm", EVERY)
def test_a_key_without_its_private_half_is_refused(algorithm: str) -> None:
    """Who shows another's key, or another's certificate, and signs with his own, is told from its owner."""
    thief: dict[str, ed25519.Ed25519PrivateKey | ec.EllipticCurvePrivateKey | rsa.RSAPrivateKey] = {
        "ssh-ed25519": ed25519.Ed25519PrivateKey.generate(),
        "ecdsa-sha2-nistp256": ec.generate_private_key(ec.SECP256R1()),
        "ecdsa-sha2-nistp384": ec.generate_private_key(ec.SECP384R1()),
        "ecdsa-sha2-nistp521": ec.generate_private_key(ec.SECP521R1()),
    }
    plain = algorithm.removesuffix(CERTIFIED)
    signer = thief.get(plain) or rsa.generate_private_key(65537, 2048)
    with pytest.raises(UntrustedPeer, match="does not have the private key of SHA256:"):
        talk(FakeServer(algorithms=(algorithm,), signer=signer), EVERY)


def test_a_signature_of_another_time_is_refused() -> None:
    """A reply that was recorded proves nothing later: our values are fresh each time."""
    old = FakeServer()
    talk(old)
    (recorded,) = old.signed
    with pytest.raises(UntrustedPeer):
        talk(FakeServer(signature=lambda _: recorded))


def test_a_man_in_the_middle_of_the_exchange_is_refused() -> None:
    """Who lets the host sign and puts in a value of his own has changed what was signed."""
    other = ed25519.Ed25519PrivateKey.generate().public_key().public_bytes_raw()

    def swap(stream: bytes) -> bytes:
        """In the reply alone."""
        at = stream.rfind(struct.pack(">I", 32)) if stream.count(b"ssh-ed25519") > 2 else -1
        return stream if at < 0 else stream[: at + 4] + other + stream[at + 36 :]

    with pytest.raises(UntrustedPeer):
        talk(FakeServer(exchanges=("curve25519-sha256",)), tamper=swap)


@pytest.mark.parametrize(
    ("algorithm", "signed_with"),
    [("rsa-sha2-512", "rsa-sha2-256"), ("rsa-sha2-512", "ssh-rsa"), ("rsa-sha2-256", "ssh-rsa")],
)
def test_only_the_signature_that_was_agreed_counts(algorithm: str, signed_with: str) -> None:
    """A server cannot fall back to another hash than was agreed, and to SHA-1 least of all."""
    server = FakeServer(algorithms=(algorithm,), signature=lambda _: sign(KEYS[algorithm], b"x", signed_with))
    with pytest.raises(Malformed, match=f"'{algorithm}' was agreed"):
        talk(server, (algorithm,))


def test_a_signature_by_a_key_of_another_type_is_refused() -> None:
    """Whoever verifies by himself cannot mix up a key and an algorithm either."""
    for algorithm in PLAIN:
        good = sign(KEYS[algorithm], b"message", algorithm)
        sshwire.verify(public(KEYS[algorithm]), good, b"message", algorithm=algorithm)
        other = "ssh-ed25519" if algorithm != "ssh-ed25519" else "rsa-sha2-512"
        with pytest.raises(Malformed, match="of type"):
            sshwire.verify(public(KEYS[other]), good, b"message", algorithm=algorithm)


@pytest.mark.parametrize(
    ("algorithm", "blob"),
    [
        ("ssh-ed25519", public(KEYS["rsa-sha2-512"]).blob),
        ("ssh-ed25519", certificate(KEYS["ssh-ed25519"])),
        ("ssh-ed25519" + CERTIFIED, public(KEYS["ssh-ed25519"]).blob),
        ("ssh-ed25519" + CERTIFIED, certificate(KEYS["ecdsa-sha2-nistp256"])),
        ("ecdsa-sha2-nistp256", public(KEYS["ecdsa-sha2-nistp384"]).blob),
        ("rsa-sha2-512", public(KEYS["ssh-ed25519"]).blob),
    ],
    ids=["rsa", "certificate", "plain", "ecdsa-certificate", "curve", "ed25519"],
)
def test_a_key_of_another_type_is_refused(algorithm: str, blob: bytes) -> None:
    """What is shown has to be of the type that was agreed; a certificate is none of the plain types."""
    with pytest.raises(Malformed, match="of type"):
        talk(FakeServer(algorithms=(algorithm,), host_key=lambda _: blob), EVERY)


def test_only_a_host_certificate_is_one() -> None:
    """A user who has a certificate is no host by that."""
    user = certificate(KEYS["ssh-ed25519"], kind=1)
    with pytest.raises(Malformed, match="shows a user certificate, which is not a host's"):
        talk(FakeServer(algorithms=("ssh-ed25519" + CERTIFIED,), host_key=lambda _: user), EVERY)


def test_a_weak_rsa_key_is_refused() -> None:
    """The signature of a key that others can break says nothing."""
    weak = rsa.generate_private_key(65537, 1024)
    server = FakeServer(algorithms=("rsa-sha2-512",), signer=weak, host_key=lambda _: public(weak).blob)
    with pytest.raises(Malformed, match="1024 bits"):
        talk(server, ("rsa-sha2-512",))


@pytest.mark.parametrize("exchange", EXCHANGES)
@pytest.mark.parametrize("value", [b"", bytes(32), b"\4" * 65, bytes(1088 + 32), b"x" * 5000])
def test_values_that_are_none_are_refused(exchange: str, value: bytes) -> None:
    """Points of small order or beside the curve, and values of a wrong length, never reach a secret."""
    with pytest.raises(Malformed, match="that is none"):
        talk(FakeServer(exchanges=(exchange,), value=lambda _: value))


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        mpint(1),
        mpint(0) + mpint(1),
        mpint(1) * 3,
        string(b"\xff") + mpint(1),
        string(b"\0\1") + mpint(1),
        b"\xff" * 9,
    ],
)
def test_numbers_of_ecdsa_have_one_form(raw: bytes) -> None:
    """Two positive numbers as short as can be, and nothing else, are a signature (RFC 5656 §3.1.2)."""
    name = "ecdsa-sha2-nistp256"
    bad = string(name.encode()) + string(raw)
    with pytest.raises(Malformed, match="signature"):
        talk(FakeServer(algorithms=(name,), signature=lambda _: bad))


# --- bounds ---


def test_what_it_says_before_its_version_is_bounded() -> None:
    """Lines without end, or one line without end, are given up before they fill memory."""
    for line in (b"a\r\n", b"a" * 1000):
        with pytest.raises(Malformed, match=f"over {MAX_GREETING} bytes without an SSH version"):
            talk(FakeServer(before=line * 20_000), piece=1000)


@pytest.mark.parametrize(
    "version", [b"SSH-2.0-" + b"x" * 300, b"SSH-1.5-x", b"SSH-2.0-", b"SSH-2.0-\x1b[2J", b"SSH-2.0-\xe9"]
)
def test_versions_that_are_none_are_refused(version: bytes) -> None:
    """A version is of SSH 2.0, short, and of printable characters: it is shown on terminals."""
    with pytest.raises(Malformed, match="says that it is"):
        talk(FakeServer(version=version))


@pytest.mark.parametrize(
    "head", [(MAX_PACKET + 4, 4), (0xFFFFFFFC, 4), (0, 0), (4, 4), (12, 3), (12, 11), (12, 12), (13, 4), (1, 255)]
)
def test_packets_that_are_none_are_refused(head: tuple[int, int]) -> None:
    """A packet is a multiple of eight, has four bytes of padding and one of payload, and at most so many in all."""
    with pytest.raises(Malformed, match=f"sends a packet of {head[0]} bytes"):
        talk(FakeServer(interjected=struct.pack(">IB", *head)))


def test_noise_is_bounded() -> None:
    """Messages to be ignored come to an end."""
    noise = packet(b"\2" + bytes(30_000)) * 9
    with pytest.raises(Malformed, match=f"over {MAX_RECEIVED} bytes"):
        talk(FakeServer(interjected=noise), piece=1000)


def test_messages_have_their_fields_and_no_more() -> None:
    """A list of algorithms, or a reply, with something behind it or with too little is not read as another one."""
    server = FakeServer()
    good = server.kexinit()
    for kexinit in (good + b"x", good[:-1], good[:40]):
        server = FakeServer()
        server.kexinit = lambda kexinit=kexinit: kexinit  # type: ignore[method-assign,misc]
        with pytest.raises(Malformed, match="its list of algorithms"):
            talk(server)
    for fields in (b"", 2 * string(b"x"), 4 * string(b"x"), string(b"x") + b"x"):
        server = FakeServer()
        server.reply = lambda *_, fields=fields: packet(b"\x1f" + fields)  # type: ignore[method-assign]
        with pytest.raises(Malformed, match="its reply"):
            talk(server)


@pytest.mark.parametrize("lists", [b"a,,b", b",", b"x" * 65, b"a\x1b[2Jb", b"\xe9", b"a b"])
def test_names_that_are_none_are_refused(lists: bytes) -> None:
    """Names of algorithms are short words of printable characters (RFC 4251 §6)."""
    server = FakeServer()
    server.algorithms = (lists.decode("latin-1"),)
    good = server.kexinit
    server.kexinit = lambda: good().replace(lists.decode("latin-1").encode(), lists)  # type: ignore[method-assign]
    with pytest.raises(Malformed):
        talk(server)


def test_no_common_key_exchange_says_what_there_is() -> None:
    """An old device is not mistaken for a dead one."""
    with pytest.raises(Unreachable, match="only 'diffie-hellman-group1-sha1'") as caught:
        talk(FakeServer(exchanges=("diffie-hellman-group1-sha1",)))
    assert "curve25519-sha256" in caught.value.hint


def test_why_sshd_hangs_up_is_told() -> None:
    """What sshd says before its version, and when it disconnects, is in the message; its control characters are not."""
    client = converse()
    next(client)
    client.send(b"Not allowed at this \x1btime\r\n")
    with pytest.raises(Unreachable, match=r"before it sends its version, saying 'Not allowed at this \\x1btime'"):
        client.send(b"")
    goodbye = packet(b"\1" + struct.pack(">I", 2) + string(b"no \x1bmatching") + string(b""))
    with pytest.raises(Unreachable, match=r"ends the connection: 'no \\x1bmatching'"):
        talk(FakeServer(interjected=goodbye))


def test_a_message_out_of_order_is_refused() -> None:
    """Nothing but what belongs there is taken for it."""
    with pytest.raises(Malformed, match="sends message 21 where 20 belongs"):
        talk(FakeServer(interjected=packet(b"\x15")))


# --- everything else ---


@given(data=st.data(), algorithm=st.sampled_from(EVERY), exchange=st.sampled_from(EXCHANGES))
def test_no_change_on_the_way_yields_another_key(data: st.DataObject, algorithm: str, exchange: str) -> None:
    """Whatever one changes, cuts or adds, there is the true key or an error of ours, never another key."""
    server = FakeServer(algorithms=(algorithm,), exchanges=(exchange,))
    at, cut = data.draw(st.integers(0, 3500)), data.draw(st.integers(0, 40))
    put = data.draw(st.binary(max_size=40))

    def change(stream: bytes) -> bytes:
        """At one place, once what lies before it was there."""
        return stream if len(stream) < at + cut else stream[:at] + put + stream[at + cut :]

    try:
        shown = talk(server, EVERY, tamper=change)
    except (Malformed, Unreachable, UntrustedPeer):
        return
    assert shown.key in {public(KEYS[algorithm.removesuffix(CERTIFIED)]), None}
    assert shown.key is not None or algorithm not in shown.offered


@given(st.binary(max_size=3000))
def test_any_bytes_are_an_error_of_ours(noise: bytes) -> None:
    """Whatever comes, the conversation ends in one of three ways."""
    for head in (b"", b"SSH-2.0-x\r\n", b"SSH-2.0-x\n" + struct.pack(">IB", 404, 4) + b"\x14"):
        with pytest.raises((Malformed, Unreachable, UntrustedPeer)):
            feed(converse(), [head + noise, b""])


@given(st.binary(max_size=600), st.sampled_from(PLAIN))
def test_any_signature_is_an_error_of_ours(noise: bytes, algorithm: str) -> None:
    """A stranger's signature is read without a surprise; his certificate is ``core.sshcert``'s."""
    key = public(KEYS[algorithm])
    for signature in (noise, string(algorithm.encode()) + string(noise)):
        with pytest.raises((Malformed, UntrustedPeer)):
            sshwire.verify(key, signature, b"message", algorithm=algorithm)
