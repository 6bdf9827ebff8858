"""SSHFP by updates: what is changed, which keys may sign it, which answers are believed. A real server: interop."""

from __future__ import annotations

import base64
import socket
import struct
import threading
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from datetime import UTC, datetime
from pathlib import Path

import dns.flags
import dns.message
import dns.name
import dns.rcode
import dns.tsig
import dns.update
import pytest

from handfast.core.hosts import Grade, Host, HostKey, How, Place, RetiredKey
from handfast.core.invitation import Address
from handfast.core.knownhosts import sshfp
from handfast.core.secret import Secret
from handfast.core.sshkeys import SshKey
from handfast.errors import HandfastError, Malformed, NotAuthorized, NotFound, Refused, TooMuch, Unreachable, Unsafe
from handfast.errors import UntrustedPeer as Untrusted
from handfast.ssh.dns import FUDGE, Change, Key, change, parse_server, read_key, update
from tests.ssh.fleet import key as ssh_key

NOW = datetime(2026, 11, 22, tzinfo=UTC)
SECRET = base64.b64encode(bytes(range(32))).decode()
KEY = Key("handfast", "hmac-sha256", Secret(bytes(range(32))))
NEW, OLD, RSA, UNKNOWN = ssh_key("new"), ssh_key("old"), ssh_key("r", "ssh-rsa"), ssh_key("u", "ssh-mldsa-44")
BIND = f'key "handfast" {{\n\talgorithm hmac-sha256;\n\tsecret "{SECRET}";\n}};\n'
KNOT = f"# hmac-sha256:handfast:{SECRET}\nkey:\n  - id: handfast\n    algorithm: hmac-sha256\n    secret: {SECRET}\n"


# --- what is changed ---


def host(*keys: SshKey, names: tuple[str, ...] = ("web1.lan",), how: How = How.INVITATION) -> Host:
    """A machine that once had OLD."""
    known = tuple(HostKey(key, how, "", NOW) for key in keys)
    return Host("web1", Place.parse(names) if names else Place(), known, (RetiredKey(OLD, NOW, "superseded"),))


def wanted(of: Host, former: tuple[str, ...] = (), *, remove: bool = False) -> Change | None:
    """What is to change of it in the zone lan."""
    return change(of, former=former, zone="lan", ttl=300, least=Grade.REPORTED, remove=remove)


def records(*keys: SshKey) -> tuple[object, ...]:
    """Their records."""
    return tuple(sshfp(key) for key in sorted(keys))


def test_believed_keys_stand_at_names_of_the_zone() -> None:
    """Each name in the zone has all believed keys, and nothing else; names elsewhere are left alone."""
    made = wanted(host(NEW, RSA, names=("web1.lan", "lan", "web1.elsewhere", "web1.notlan", "10.0.0.1")))
    assert made is not None
    assert made.exact == {"lan": records(NEW, RSA), "web1.lan": records(NEW, RSA)}
    assert made.gone == {}


def test_what_is_not_believed_leaves_no_record() -> None:
    """A key that was only seen, a type without a number in DNS, and --remove empty the name."""
    for made in (wanted(host(NEW, how=How.SCAN)), wanted(host(UNKNOWN)), wanted(host(NEW), remove=True)):
        assert made is not None
        assert made.exact == {"web1.lan": ()}


def test_names_that_it_had_lose_its_keys_only() -> None:
    """At a name that was its own, its keys' records go one by one: others may be somebody else's by now."""
    made = wanted(host(NEW), ("old.lan", "web1.lan", "old.elsewhere"))
    assert made is not None
    assert made.exact == {"web1.lan": records(NEW)}
    assert made.gone == {"old.lan": (sshfp(NEW), sshfp(OLD))}


def test_a_removed_machine_loses_all() -> None:
    """It has no place any more, only names that were its own."""
    made = wanted(host(names=()), ("web1.lan",))
    assert made is not None
    assert (made.exact, made.gone) == ({}, {"web1.lan": (sshfp(OLD),)})


def test_a_machine_of_another_zone_changes_nothing() -> None:
    """None, which the command tells as an error, and not an empty message that would look like success."""
    assert wanted(host(NEW, names=("web1.elsewhere",)), ("web1.notlan",)) is None


# --- the key file ---


def kept(directory: Path, text: str, mode: int = 0o600) -> Path:
    """The file."""
    path = directory / "key"
    path.write_text(text)
    path.chmod(mode)
    return path


@pytest.mark.parametrize(
    "text",
    [
        BIND,
        f'// by hand\nkey handfast {{ secret "{SECRET}"; algorithm "hmac-sha256"; }}',
        KNOT,
        f'key:\n- algorithm: HMAC-SHA256.\n  id: "handfast"\n  secret: "{SECRET}"\n',
    ],
)
def test_key_files_of_bind_and_knot_are_read(tmp_path: Path, text: str) -> None:
    """As their tools write them, and by hand in any order."""
    key = read_key(kept(tmp_path, text))
    assert (key.name, key.algorithm, key.secret.reveal()) == ("handfast", "hmac-sha256", bytes(range(32)))
    assert SECRET not in repr(key)


@pytest.mark.parametrize(
    "weak", ["hmac-md5", "hmac-md5.sig-alg.reg.int", "hmac-sha1", "hmac-sha224", "hmac-sha256-128"]
)
def test_weak_algorithms_are_refused(tmp_path: Path, weak: str) -> None:
    """MD5, SHA-1, and what cuts a signature short."""
    with pytest.raises(Refused, match=f"is for '{weak}'"):
        read_key(kept(tmp_path, BIND.replace("hmac-sha256", weak)))


def test_a_short_secret_is_refused(tmp_path: Path) -> None:
    """Under 128 bits it could be guessed, also an empty one."""
    with pytest.raises(Refused, match="has 15 bytes"):
        read_key(kept(tmp_path, BIND.replace(SECRET, base64.b64encode(bytes(15)).decode())))


def test_a_key_that_others_read_is_refused(tmp_path: Path) -> None:
    """Whoever reads it can say any key in our zone."""
    with pytest.raises(Unsafe):
        read_key(kept(tmp_path, BIND, 0o640))
    with pytest.raises(NotFound):
        read_key(tmp_path / "none")


@pytest.mark.parametrize(
    "text",
    [
        "",
        SECRET,
        BIND * 2,
        KNOT + f"  - id: second\n    algorithm: hmac-sha256\n    secret: {SECRET}\n",
        BIND.replace("algorithm hmac-sha256;", ""),
        BIND.replace(SECRET, SECRET[:-1]),
        BIND.replace(SECRET, "not base64!"),
        BIND.replace('"handfast"', '"hand..fast"'),
        "\udcff".encode("utf-8", "surrogateescape").decode("latin-1"),
    ],
)
def test_other_files_are_refused_without_their_content(tmp_path: Path, text: str) -> None:
    """Not exactly one whole key: nothing is guessed, and no part of the file is shown."""
    with pytest.raises(Malformed) as caught:
        read_key(kept(tmp_path, text))
    assert caught.value.message == f"no TSIG key can be read in {str(tmp_path / 'key')!r}"
    assert SECRET[:8] not in caught.value.message + caught.value.hint


# --- the server ---


def test_servers_are_read_as_people_write_them() -> None:
    """With a port or without, and IPv6 both ways."""
    assert parse_server("ns1.lan") == Address("ns1.lan", 53)
    assert parse_server("ns1.lan:5353") == Address("ns1.lan", 5353)
    assert parse_server("2001:db8::1") == Address("2001:db8::1", 53)
    assert parse_server("[2001:db8::1]:5353") == Address("2001:db8::1", 5353)
    with pytest.raises(Malformed):
        parse_server("ns1.lan:0")


WANTED = Change(zone="lan", ttl=300, exact={"web1.lan": (sshfp(NEW),)}, gone={})  # type: ignore[dict-item]
RING = dns.tsig.Key(dns.name.from_text("handfast"), bytes(range(32)), "hmac-sha256")
OTHER = dns.tsig.Key(dns.name.from_text("handfast"), bytes(32), "hmac-sha256")
Answer = Callable[[dns.update.UpdateMessage], bytes]


@contextmanager
def server(answer: Answer) -> Iterator[Address]:
    """A server that reads one update, signed as it should be, and says this."""
    listener = socket.create_server(("127.0.0.1", 0))

    def serve() -> None:
        connection, _ = listener.accept()
        with connection, connection.makefile("rb") as stream:
            (length,) = struct.unpack(">H", stream.read(2))
            asked = dns.message.from_wire(stream.read(length), keyring=RING)
            assert isinstance(asked, dns.update.UpdateMessage)
            assert asked.had_tsig
            connection.sendall(answer(asked))
            connection.shutdown(socket.SHUT_WR)
            stream.read()

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    with closing(listener):
        yield Address("127.0.0.1", listener.getsockname()[1])
    thread.join(30)


def says(code: dns.rcode.Rcode, ring: dns.tsig.Key | None = RING, *, number: int = 0) -> Answer:
    """An answer with this code, signed with this key or with none."""

    def answer(asked: dns.update.UpdateMessage) -> bytes:
        made = dns.message.make_response(asked)
        made.set_rcode(code)
        made.id = (made.id + number) % 65536
        made.keyring, made.tsig, made.request_mac = None, None, b""
        if ring is not None:
            made.use_tsig(ring)
            made.request_mac = asked.mac or b""
        wire = made.to_wire()
        return struct.pack(">H", len(wire)) + wire

    return answer


def failure(answer: Answer, *, patience: float = 30) -> HandfastError:
    """What the update ends with."""
    with server(answer) as where, pytest.raises(HandfastError) as caught:
        update(where, KEY, WANTED, patience=patience)
    assert SECRET[:8] not in caught.value.message + caught.value.hint
    return caught.value


def test_a_signed_yes_is_believed() -> None:
    """The update says: no alias there, these records and no others; and the answer is the server's own."""
    seen: list[str] = []

    def answer(asked: dns.update.UpdateMessage) -> bytes:
        assert asked.tsig is not None
        assert asked.tsig[0].fudge == FUDGE == 60
        seen.extend(str(rrset) for section in (asked.prerequisite, asked.update) for rrset in section)
        return says(dns.rcode.NOERROR)(asked)

    with server(answer) as where:
        update(where, KEY, WANTED)
    assert seen == ["web1.lan. NONE CNAME", "web1.lan. ANY SSHFP", f"web1.lan. 300 IN SSHFP {sshfp(NEW)}"]


@pytest.mark.parametrize("ring", [None, OTHER], ids=["unsigned", "another key"])
def test_a_yes_that_anybody_could_say_is_not_believed(ring: dns.tsig.Key | None) -> None:
    """Else somebody in between could keep a retired key in the zone without anybody's knowing."""
    error = failure(says(dns.rcode.NOERROR, ring))
    assert type(error) is Untrusted
    assert "is not signed with the key 'handfast'" in error.message


@pytest.mark.parametrize(
    ("code", "kind", "words"),
    [
        (dns.rcode.REFUSED, NotAuthorized, "does not let the key 'handfast' change 'lan' (REFUSED)"),
        (dns.rcode.NOTAUTH, Refused, "is not the primary server of a zone 'lan' with web1.lan (NOTAUTH)"),
        (dns.rcode.NOTZONE, Refused, "is not the primary server of a zone 'lan' with web1.lan (NOTZONE)"),
        (dns.rcode.YXRRSET, Refused, "an alias (CNAME) stands at one of web1.lan (YXRRSET)"),
        (dns.rcode.NXRRSET, Refused, "'lan' is not as"),
        (dns.rcode.NXDOMAIN, Refused, "(NXDOMAIN)"),
        (dns.rcode.NOTIMP, Refused, "does not take updates (NOTIMP)"),
        (dns.rcode.FORMERR, Refused, "does not take updates (FORMERR)"),
        (dns.rcode.SERVFAIL, Refused, "could not change 'lan' (SERVFAIL)"),
    ],
)
@pytest.mark.parametrize("ring", [None, RING], ids=["unsigned", "signed"])
def test_each_no_has_its_words(code: dns.rcode.Rcode, kind: type, words: str, ring: dns.tsig.Key | None) -> None:
    """Class, code's name, and what to do; a server that does not sign its refusals is understood as well."""
    error = failure(says(code, ring))
    assert type(error) is kind
    assert words in error.message
    assert error.hint


def test_an_answer_to_something_else_is_refused() -> None:
    """Another message's number, or no DNS at all."""
    assert type(failure(says(dns.rcode.NOERROR, number=1))) is Malformed
    assert type(failure(lambda asked: b"\0\5HTTP/")) is Malformed


def test_what_does_not_fit_is_said() -> None:
    """64 KiB is what a message can be; nothing is sent of one that would be longer."""
    many = tuple(sshfp(ssh_key(str(number))) for number in range(32))
    names = {f"{'x' * 60}.{number}.lan": many for number in range(64)}
    change = Change(zone="lan", ttl=300, exact=names, gone={})  # type: ignore[arg-type]
    with closing(socket.create_server(("127.0.0.1", 0))) as listener:
        where = Address("127.0.0.1", listener.getsockname()[1])
        with pytest.raises(TooMuch, match="the records of 64 names do not fit into one message"):
            update(where, KEY, change)


def test_silence_ends() -> None:
    """A server that says nothing, one that hangs up, and none at all are unreachable."""
    done = threading.Event()

    def silent(asked: dns.update.UpdateMessage) -> bytes:
        done.wait(30)
        return b""

    with server(silent) as where:
        with pytest.raises(Unreachable, match="does not answer within"):
            update(where, KEY, WANTED, patience=0.2)
        done.set()
    assert type(failure(lambda asked: b"\0")) is Unreachable
    with closing(socket.create_server(("127.0.0.1", 0))) as probe:
        free = Address("127.0.0.1", probe.getsockname()[1])
    with pytest.raises(Unreachable, match="cannot reach"):
        update(free, KEY, WANTED)
