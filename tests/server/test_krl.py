"""The list of revoked SSH keys over HTTPS: for everybody, vouched for, and new as soon as something is taken back."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from handfast.authority.sshsign import SshSigner
from handfast.core import krl as lists
from handfast.core import sshkeys, views
from handfast.core.hosts import How, Place
from handfast.core.knownhosts import Speaker
from handfast.core.roles import Role
from handfast.core.sshcert import Kind, SshCertificate
from handfast.core.vouched import Signature
from handfast.errors import UntrustedPeer
from handfast.ledger import ssh_entries
from handfast.server.krl import LIFETIME
from handfast.ssh import krl, snapshot
from handfast.ssh.krl import CONTENT_PATH, SIGNATURE_PATH
from tests.ledger.material import ssh_key
from tests.server.running import Client, Running, running
from tests.ssh.certified import certify


@pytest.fixture
def registrar(tmp_path: Path) -> Iterator[Running]:
    """One that has just been made."""
    with running(tmp_path / "data") as started:
        yield started


def put(registrar: Running, machine: str, *numbers: int, at: tuple[str, ...] = ("10.0.0.7",)) -> None:
    """Have an operator enter a machine with certificates to come."""
    keys = tuple(map(ssh_key, numbers))
    side = registrar.service.host_keys
    side.register(machine, keys, how=How.OPERATOR, detail="by kim", place=Place.parse([machine, *at]))


def certified(registrar: Running, machine: str, number: int, *names: str, kind: Kind = Kind.HOST) -> SshCertificate:
    """Have a certificate made."""
    service = registrar.service
    signer = SshSigner.of(service.authority)
    return certify(service.ledger, signer, machine, ssh_key(number), *names, kind=kind, at=registrar.clock.now())


def fetched(registrar: Running, client: Client, held: bytes | None = None) -> krl.Fetched:
    """Get the list as a machine does."""

    def get(path: str, _most: int) -> bytes:
        status, body = client.call("GET", path)
        assert status == 200, body
        return body

    return krl.fetch(get, pin=registrar.service.authority.pin, now=registrar.clock.now(), held=held)


def test_an_empty_list_from_the_first_day(registrar: Running) -> None:
    """Before anything is revoked, or certified, sshd has a list to read; a stranger may have it."""
    with registrar.connect() as client:
        first = fetched(registrar, client)
        assert client.headers["Content-Type"] == "application/octet-stream"
    assert (first.krl.certificates, first.krl.keys, first.krl.digests) == ((), frozenset(), frozenset())


def test_it_is_vouched_for(registrar: Running) -> None:
    """Content and signature fit, to the pin; and not to another pin, nor to other content."""
    with registrar.connect() as client:
        content = client.call("GET", CONTENT_PATH)[1]
        signature = msgspec.json.decode(client.call("GET", SIGNATURE_PATH)[1], type=Signature)
    pin, now = registrar.service.authority.pin, registrar.clock.now()
    read, at = krl.verify(content, signature, pin=pin, now=now)
    assert (read, now - at < timedelta(minutes=5)) == (lists.read(content), True)
    for wrong, other in ((content, bytes(32)), (content + b"\5\0\0\0\0", pin)):
        with pytest.raises(UntrustedPeer):
            krl.verify(wrong, signature, pin=other, now=now)


REVOCATIONS: dict[str, Callable[[Running, int], object]] = {
    "the certificate": lambda each, serial: each.service.administration.revoke_ssh(str(serial), reason="superseded"),
    "the key": lambda each, _: each.service.host_keys.retire("web1.lan", ssh_key(1).fingerprint, reason="lost"),
    "the machine, for SSH": lambda each, _: each.service.host_keys.remove("web1.lan", reason="gone"),
    "the machine": lambda each, _: each.service.administration.revoke("web1.lan", reason="keyCompromise"),
    "the address": lambda each, _: put(each, "web2.lan", 3),
}


@pytest.mark.parametrize("what", REVOCATIONS)
def test_P33_what_is_taken_back_is_in_the_next_list(registrar: Running, what: str) -> None:
    """Whatever ends a certificate, the next list revokes it, on a connection that is open already; others stay."""
    put(registrar, "web1.lan", 1, 2)
    mine, other = certified(registrar, "web1.lan", 1, "web1.lan", "10.0.0.7"), certified(registrar, "web1.lan", 2)
    with registrar.connect() as client:
        before = fetched(registrar, client)
        assert lists.is_revoked(before.krl, mine) is None
        REVOCATIONS[what](registrar, mine.serial)
        after = fetched(registrar, client, before.content)
    assert lists.is_revoked(after.krl, mine)
    assert after.krl.version > before.krl.version
    if "machine" not in what:
        assert lists.is_revoked(after.krl, other) is None
    gone = {"the key": {1}, "the machine": {1, 2}, "the machine, for SSH": {1, 2}}.get(what, set())
    assert after.krl.digests == {ssh_key(number).digest for number in gone}


def test_P33_a_revoked_operator_logs_in_nowhere(registrar: Running) -> None:
    """With his credential go the SSH certificates that he got with it, and nobody else's."""
    registrar.credential("kim", Role.OPERATOR)
    mine = certified(registrar, "kim", 5, "root", kind=Kind.USER)
    other = certified(registrar, "lee", 6, "root", kind=Kind.USER)
    registrar.service.administration.revoke("kim", reason="privilegeWithdrawn")
    with registrar.connect() as client:
        listed = fetched(registrar, client).krl
    assert lists.is_revoked(listed, mine)
    assert lists.is_revoked(listed, other) is None


def published(registrar: Running) -> int:
    """How many lists were made."""
    return len(registrar.service.ledger.events(kind_prefix=ssh_entries.KRL_PUBLISHED))


def test_it_is_made_once_for_all_who_ask(registrar: Running) -> None:
    """A herd that asks at the same time, and again, has one list made; its tag says that it is the same."""
    put(registrar, "web1.lan", 1)

    def ask(_number: int) -> tuple[int, bytes]:
        with registrar.connect() as client:
            return client.call("GET", CONTENT_PATH)

    with ThreadPoolExecutor(8) as pool:
        answers = set(pool.map(ask, range(16)))
    assert len(answers) == 1
    assert published(registrar) == 1
    with registrar.connect() as client:
        client.call("GET", CONTENT_PATH)
        tag = client.headers["ETag"]
        status, body = client.call("GET", CONTENT_PATH, None, **{"If-None-Match": tag})
    assert (status, body) == (304, b"")


def test_what_takes_nothing_back_makes_no_list(registrar: Running) -> None:
    """Machines come and renew all day: whoever has the list fetches no other for that. A key that comes back does."""
    put(registrar, "web1.lan", 1)
    registrar.service.host_keys.retire("web1.lan", ssh_key(1).fingerprint, reason="a mistake")
    with registrar.connect() as client:
        first = fetched(registrar, client)
        put(registrar, "web1.lan", 2)
        put(registrar, "web2.lan", 3)
        certified(registrar, "web1.lan", 2)
        assert fetched(registrar, client).content == first.content
        put(registrar, "web1.lan", 1)
        assert fetched(registrar, client).krl.digests == frozenset()
    assert published(registrar) == 2


def test_it_is_made_anew_before_it_is_old(registrar: Running) -> None:
    """Certificates that are over leave it; and a clock that was set back does not keep one of the future."""
    with registrar.connect() as client:
        first = fetched(registrar, client)
        registrar.clock.offset = LIFETIME / 2
        assert fetched(registrar, client).content == first.content
        registrar.clock.offset = LIFETIME + timedelta(minutes=1)
        second = fetched(registrar, client)
        assert second.krl.version > first.krl.version
        registrar.clock.offset = timedelta()
        assert fetched(registrar, client).krl.version > second.krl.version


def test_what_is_over_stays_for_a_day(registrar: Running) -> None:
    """Clocks differ: at its end a certificate is still on the list. The ledger's tests hold when it leaves."""
    put(registrar, "web1.lan", 1)
    mine = certified(registrar, "web1.lan", 1)
    registrar.service.administration.revoke_ssh(str(mine.serial), reason="superseded")
    registrar.clock.offset = timedelta(hours=2)
    assert mine.valid_before < registrar.clock.now()
    with registrar.connect() as client:
        (listed,) = fetched(registrar, client).krl.certificates
    assert listed.has(mine.serial)


# --- what operators and others are shown ---


def operator(registrar: Running) -> Client:
    """A connection of an operator."""
    return registrar.connect(registrar.context_with(registrar.credential("kim", Role.OPERATOR)))


def test_a_machine_is_shown_with_its_certificates(registrar: Running) -> None:
    """Serial, key, names, end and revocation; in the machine's view, and where it is looked up."""
    put(registrar, "web1.lan", 1, 2)
    certified(registrar, "web1.lan", 9, kind=Kind.USER)  # of a person who is called so
    first, second = certified(registrar, "web1.lan", 1), certified(registrar, "web1.lan", 2)
    registrar.service.administration.revoke_ssh(str(first.serial), reason="keyCompromise")
    with operator(registrar) as client:
        for path in ("/v1/machines/web1.lan/ssh", "/v1/ssh/lookup?host=10.0.0.7"):
            view = msgspec.json.decode(client.call("GET", path)[1], type=views.HostView)
            shown = {int(each.serial): each for each in view.certificates}
            assert shown.keys() == {first.serial, second.serial}
            mine = shown[first.serial]
            assert (mine.status, mine.revoked_reason, mine.kind) == ("revoked", "keyCompromise", "host")
            assert (mine.fingerprint, mine.principals) == (ssh_key(1).fingerprint, ["web1.lan"])
            assert (shown[second.serial].status, shown[second.serial].revoked_at) == ("valid", None)
            assert shown[second.serial].until == views.time_text(second.valid_before)


def test_operators_list_and_revoke_from_elsewhere(registrar: Running) -> None:
    """All certificates that are not over; one is taken back by its serial; who is no operator does neither."""
    put(registrar, "web1.lan", 1)
    mine = certified(registrar, "web1.lan", 1)
    request = msgspec.json.encode(views.RevokeRequest(str(mine.serial), "it was stolen", "ssh"))
    with registrar.connect() as stranger:
        assert stranger.problem("GET", "/v1/ssh/certificates").code == "not-authorized"
        assert stranger.problem("POST", "/v1/revocations", request).code == "not-authorized"
    with operator(registrar) as client:
        listed = msgspec.json.decode(client.call("GET", "/v1/ssh/certificates")[1], type=list[views.CertificateView])
        assert [(each.serial, each.status) for each in listed] == [(str(mine.serial), "valid")]
        answer = msgspec.json.decode(client.call("POST", "/v1/revocations", request)[1], type=views.RevokeAnswer)
        assert answer == views.RevokeAnswer([], [], [str(mine.serial)])
        assert client.problem("POST", "/v1/revocations", request).code == "revoked"
    notes = registrar.service.ledger.events(subject=str(mine.serial))
    assert [(each.kind, each.fields.get("remark", "kim")) for each in notes] == [
        ("operator.revoke", "kim"), ("revocation.remark", "it was stolen"), ("operator.revoke", "kim"),
    ]  # fmt: skip


@pytest.mark.parametrize("serial", ["", "0", "-1", "5 ", "0x5", "5e3", "\u0665", "9" * 21, "web1.lan", "f" * 32])
def test_what_is_no_serial_is_refused(registrar: Running, serial: str) -> None:
    """Decimal digits, as OpenSSH writes them, and nothing that could be read as something else."""
    request = msgspec.json.encode(views.RevokeRequest(serial, "superseded", "ssh"))
    with operator(registrar) as client:
        assert client.problem("POST", "/v1/revocations", request).code == "malformed"


@pytest.mark.parametrize("serial", ["5", "18446744073709551615", "99999999999999999999"])
def test_an_unknown_serial_is_not_found(registrar: Running, serial: str) -> None:
    """Also one that is larger than any."""
    request = msgspec.json.encode(views.RevokeRequest(serial, "superseded", "ssh"))
    with operator(registrar) as client:
        assert client.problem("POST", "/v1/revocations", request).code == "not-found"


def test_known_hosts_with_a_ca(tmp_path: Path) -> None:
    """Where the CA may speak for names its line comes first, and keys that are nobody's any more are refused."""
    place = tmp_path / "data"
    place.mkdir(mode=0o700)
    settings = '[ssh]\nreaders = "anybody"\n[ssh.certificates]\npatterns = ["*.lan", "!evil.lan"]\n'
    (place / "config.toml").write_text(settings)
    with running(place) as registrar, registrar.connect() as client:
        put(registrar, "web1.lan", 1, 2, at=())
        put(registrar, "gone.lan", 3, at=())
        side, host_ca = registrar.service.host_keys, sshkeys.parse(registrar.service.authority.public.ssh_host_ca)
        side.retire("web1.lan", ssh_key(2).fingerprint, reason="x")
        side.remove("gone.lan", reason="x")
        first, *lines = client.call("GET", "/.well-known/ssh-known-hosts")[1].decode().splitlines()
        assert first == f"@cert-authority *.lan,!evil.lan {host_ca}"
        assert set(lines) == {f"web1.lan {ssh_key(1)}", *(f"@revoked * {ssh_key(number)}" for number in (2, 3))}
        content = client.call("GET", snapshot.CONTENT_PATH)[1]
        assert snapshot.speaker(content) == Speaker(("*.lan", "!evil.lan"), host_ca)
