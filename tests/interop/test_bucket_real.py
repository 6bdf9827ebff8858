"""
Uploads to real stores: one that checks signatures and their end, and one that keeps what was uploaded first.

rclone does the former and overwrites; moto does the latter and believes every signature. The user-data's own script
uploads, with curl and ssh-keygen; a real registrar's ledger takes what was collected.
"""

from __future__ import annotations

import asyncio
import contextlib
import http.client
import secrets
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from pathlib import Path
from urllib.parse import urlsplit

import pytest
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

from handfast.adapters.aws import Account
from handfast.adapters.clock import SystemClock
from handfast.authority import ceremony
from handfast.authority.authority import FileAuthority
from handfast.core.flow import Evidence
from handfast.core.hosts import Host as Machine
from handfast.core.hosts import How
from handfast.core.names import Names
from handfast.core.records import Invitation
from handfast.core.secret import Secret
from handfast.errors import AlreadySpent, EvidenceRejected, Malformed, NotFound, TooMuch, Unsafe
from handfast.introducers import known_for_hosts
from handfast.registrar.host_keys import HostKeys
from handfast.ssh import userdata
from handfast.ssh.bucket import ONCE, Bucket, Collected, check_write_once, collect, presign
from tests.interop.first_boot import INSTANCE, boot, host_keys, lines
from tests.interop.hosts import Host, program
from tests.registrar.house import House, house

pytestmark = [pytest.mark.peer("curl", "ssh-keygen"), pytest.mark.root]
HOUR = timedelta(hours=1)
now = SystemClock().now


@dataclass
class Store:
    """A store, and the one bucket in it."""

    endpoint: str
    root: Path | None = None

    @property
    def account(self) -> Account:
        """Whose the bucket is."""
        return Account("AKIAHANDFAST", Secret(b"the store's secret"), endpoint=self.endpoint)

    @property
    def bucket(self) -> Bucket:
        """The bucket, and a folder in it."""
        return Bucket.parse("s3://keys/new", self.account)

    def ask(self, method: str, url: str, body: bytes = b"", *, once: bool = True) -> int:
        """Send a request as anybody may who has a URL, and return its status."""
        parts = urlsplit(url)
        with contextlib.closing(http.client.HTTPConnection(parts.netloc, timeout=30)) as connection:
            connection.request(method, f"{parts.path}?{parts.query}", body or None, dict(ONCE) if once else {})
            return connection.getresponse().status


@pytest.fixture(scope="module")
def rclone(here: Host) -> Store:
    """A store that checks every signature and its time, and overwrites."""
    root = here.directory / "rclone"
    (root / "keys").mkdir(parents=True)
    flags = ("--config", "/dev/null", "--addr", "127.0.0.1:0", "--auth-key", "AKIAHANDFAST,the store's secret")
    served = here.start(Path(sys.executable).with_name("rclone"), "serve", "s3", root, *flags).expect("http://")
    return Store("http://127.0.0.1:" + served.rstrip("/] ").rpartition(":")[2], root)


@pytest.fixture(scope="module")
def moto(here: Host) -> Store:
    """A store that never overwrites where it is asked not to, and looks at no signature."""
    served = here.start(sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", "0").expect("http://")
    store = Store(served.rpartition(" ")[2].strip())
    url = presign("PUT", f"{store.endpoint}/keys", store.account, now=now(), lasting=HOUR)
    assert store.ask("PUT", url, once=False) == 200
    return store


@pytest.fixture
def registrar(tmp_path: Path) -> Iterator[House]:
    """A registrar's ledger and flow; its clock is ours, as that of the stores is."""
    (tmp_path / "data").mkdir(0o700)
    directory = tmp_path / "data" / "authority"
    ceremony.create(directory, name="registrar", now=now(), passphrase=None, permitted_dns=(), permitted_ips=())
    with house(tmp_path / "data", FileAuthority.open(directory, passphrase=None)) as made:
        made.clock.time = now()
        yield made


@dataclass(frozen=True)
class Expected:
    """A machine that an operator has made user-data for."""

    invitation: Invitation
    key: Secret
    url: str
    document: str


def host_keys_of(registrar: House) -> HostKeys:
    """The registrar's half of it."""
    return HostKeys(known_for_hosts(), registrar.rules, registrar.ledger, registrar.context)


def expect(registrar: House, store: Store, name: str = "", *, lasting: timedelta = HOUR) -> Expected:
    """As `handfast userdata NAME --bucket` does it."""
    name = name or f"web-{secrets.token_hex(4)}.lan"
    seed = Secret(secrets.token_bytes(32))
    public = Ed25519PrivateKey.from_private_bytes(seed.reveal()).public_key().public_bytes_raw()
    invitation = host_keys_of(registrar).expect(
        name, public, how=How.BUCKET, names=Names.parse([name]), lasting=lasting
    )
    url = store.bucket.address(invitation, now=registrar.clock.time)
    return Expected(invitation, seed, url, document(registrar, invitation, seed, url))


def document(registrar: House, invitation: Invitation, key: Secret, url: str) -> str:
    """The user-data."""
    pin, end = registrar.authority.pin, invitation.expires_at
    return userdata.uploading(invitation.machine, url, one_time_key=key, pin=pin, expires_at=end)


def gather(registrar: House, store: Store, *invitations: Invitation) -> list[Collected]:
    """As `handfast host collect` does it."""

    def publish(evidence: Evidence) -> Machine:
        return asyncio.run(host_keys_of(registrar).publish(evidence))

    return collect(store.bucket, invitations, publish, now=now)


@pytest.fixture(params=["rclone", "moto"])
def store(request: pytest.FixtureRequest) -> Store:
    """Each of the two."""
    found: Store = request.getfixturevalue(request.param)
    return found


def test_from_the_first_boot_to_the_ledger(registrar: House, store: Store, tmp_path: Path) -> None:
    """A machine boots and uploads: its keys are known afterwards, as proved, and what it had for that is gone."""
    etc_ssh = host_keys(tmp_path / "ssh")
    web = expect(registrar, store)
    assert gather(registrar, store, web.invitation) == [Collected(web.invitation)]
    booted = boot(web.document, etc_ssh, tmp_path / "boot")
    assert (booted.code, booted.stdout) == (0, ""), booted.stderr
    assert booted.stderr == "handfast: uploaded 3 host keys\n"
    (found,) = gather(registrar, store, web.invitation)
    assert found.host is not None, found.problem
    assert {str(each.key) for each in found.host.keys} == lines(etc_ssh)
    assert {each.how for each in found.host.keys} == {How.BUCKET}
    assert INSTANCE in found.host.keys[0].detail
    assert found.host.place.names == (web.invitation.machine,)
    assert registrar.ledger.host(web.invitation.machine) == found.host


def test_collected_twice(registrar: House, store: Store, tmp_path: Path) -> None:
    """The same upload again changes nothing, for whoever still has the invitation as open."""
    web = expect(registrar, store)
    boot(web.document, host_keys(tmp_path / "ssh", "ed25519"), tmp_path / "boot")
    (first,), (second,) = (gather(registrar, store, web.invitation) for _ in range(2))
    assert first == second
    before = registrar.kinds()
    assert gather(registrar, store, web.invitation) == [second]
    assert registrar.kinds() == before
    (spent,) = (each for each in registrar.ledger.invitations() if each.key_id == web.invitation.key_id)
    assert gather(registrar, store, spent) == []


def test_many_at_a_time(registrar: House, rclone: Store, tmp_path: Path) -> None:
    """One that is missing and one that is spoiled do not keep the others."""
    etc_ssh = [host_keys(tmp_path / f"ssh{number}", "ed25519") for number in range(3)]
    machines = [expect(registrar, rclone) for _ in range(5)]
    for number, each in enumerate(machines[:3]):
        boot(each.document, etc_ssh[number], tmp_path / f"boot{number}")
    assert rclone.ask("PUT", machines[3].url, b"<html>") == 200
    found = gather(registrar, rclone, *(each.invitation for each in machines))
    assert [each.host is not None for each in found] == [True, True, True, False, False]
    assert [type(each.problem) for each in found[3:]] == [Malformed, type(None)]


def changes(url: str) -> Iterator[tuple[str, str]]:
    """The URL with each part of it changed."""
    parts = urlsplit(url)
    yield "another object", url.replace(parts.path, f"{parts.path}0")
    yield "another machine", url.replace("/new/web-", "/new/www-")
    for pair in parts.query.split("&"):
        name, _, value = pair.partition("=")
        yield f"without {name}", url.replace(f"&{pair}", "").replace(f"?{pair}&", "?")
        changed = value[:-1] + ("0" if value[-1] != "0" else "1")
        yield f"another {name}", url.replace(pair, f"{name}={changed}")
    yield "a longer time", url.replace("X-Amz-Expires=3", "X-Amz-Expires=9")
    yield "no header", url.replace("host%3Bif-none-match", "host")
    yield "nothing signed", url.partition("?")[0]


def test_an_address_that_was_tampered_with(registrar: House, rclone: Store) -> None:
    """No part of an address can be changed: not the object, the time, the header, the account."""
    web = expect(registrar, rclone)
    for what, url in changes(web.url):
        assert rclone.ask("PUT", url, b"x") in range(400, 500), what
    assert gather(registrar, rclone, web.invitation) == [Collected(web.invitation)]


def test_an_address_is_for_one_upload(registrar: House, rclone: Store) -> None:
    """It neither reads nor deletes, and without the header that keeps it from overwriting it is worth nothing."""
    web = expect(registrar, rclone)
    assert rclone.ask("PUT", web.url, b"x", once=False) in range(400, 500)
    assert rclone.ask("PUT", web.url, b"x") == 200
    for method in ("GET", "DELETE", "POST"):
        assert rclone.ask(method, web.url) in range(400, 500), method


def test_an_address_that_has_expired(registrar: House, rclone: Store, tmp_path: Path) -> None:
    """After its end nothing can be uploaded, and the machine says so."""
    registrar.clock.time = datetime.now(UTC) - 2 * HOUR
    web = expect(registrar, rclone)
    booted = boot(web.document, host_keys(tmp_path / "ssh", "ed25519"), tmp_path / "boot")
    assert (booted.code, booted.stdout) == (1, "")
    assert "the upload was refused with status 4" in booted.stderr
    assert gather(registrar, rclone, web.invitation) == [Collected(web.invitation)]


def test_P14_nobody_can_replace_an_upload(registrar: House, moto: Store, tmp_path: Path) -> None:
    """Whoever has all of the user-data, and comes second, is refused by the store."""
    web = expect(registrar, moto)
    honest, hostile = host_keys(tmp_path / "ssh", "ed25519"), host_keys(tmp_path / "hostile", "ed25519")
    assert boot(web.document, honest, tmp_path / "boot").code == 0
    attacked = boot(web.document, hostile, tmp_path / "attack")
    assert attacked.code == 1
    assert "SOMEBODY ELSE HAS UPLOADED HOST KEYS" in attacked.stderr
    (found,) = gather(registrar, moto, web.invitation)
    assert found.host is not None
    assert {str(each.key) for each in found.host.keys} == lines(honest)


def test_P14_replaced_after_it_was_collected(registrar: House, rclone: Store, tmp_path: Path) -> None:
    """Where a store overwrites, other keys after the first ones are refused by the ledger, and an alarm."""
    web = expect(registrar, rclone)
    honest, hostile = host_keys(tmp_path / "ssh", "ed25519"), host_keys(tmp_path / "hostile", "ed25519")
    boot(web.document, honest, tmp_path / "boot")
    gather(registrar, rclone, web.invitation)
    assert boot(web.document, hostile, tmp_path / "attack").code == 0
    (found,) = gather(registrar, rclone, web.invitation)
    assert isinstance(found.problem, AlreadySpent)
    assert [kind for kind in registrar.kinds() if kind.startswith("alarm.")]
    known = registrar.ledger.host(web.invitation.machine)
    assert known is not None
    assert {str(each.key) for each in known.keys} == lines(honest)


def test_P14_replayed_for_another_machine(registrar: House, rclone: Store, tmp_path: Path) -> None:
    """An upload that is put where another machine's belongs is refused."""
    web, other = expect(registrar, rclone), expect(registrar, rclone)
    boot(web.document, host_keys(tmp_path / "ssh", "ed25519"), tmp_path / "boot")
    assert rclone.root is not None
    place = rclone.root / "keys" / "new" / web.invitation.machine / web.invitation.key_id
    assert rclone.ask("PUT", other.url, place.read_bytes()) == 200
    (found,) = gather(registrar, rclone, other.invitation)
    assert isinstance(found.problem, EvidenceRejected)


def test_signed_by_another_one_time_key(registrar: House, rclone: Store, tmp_path: Path) -> None:
    """Whoever can write to the bucket, with an account and all, has not the one-time key."""
    web = expect(registrar, rclone)
    forged = document(registrar, web.invitation, Secret(secrets.token_bytes(32)), web.url)
    assert boot(forged, host_keys(tmp_path / "ssh", "ed25519"), tmp_path / "boot").code == 0
    (found,) = gather(registrar, rclone, web.invitation)
    assert isinstance(found.problem, EvidenceRejected)


def test_an_upload_without_end(registrar: House, rclone: Store) -> None:
    """It is read as far as an honest one may go, and no further."""
    web = expect(registrar, rclone)
    assert rclone.ask("PUT", web.url, bytes(3_000_000)) == 200
    (found,) = gather(registrar, rclone, web.invitation)
    assert isinstance(found.problem, TooMuch)


def test_the_store_is_asked_whether_it_overwrites(moto: Store, rclone: Store) -> None:
    """One that does is refused before any user-data is made; the question can be asked again and again."""
    for _ in range(3):
        check_write_once(moto.bucket, now=now)
        with pytest.raises(Unsafe, match="overwrites what was uploaded once"):
            check_write_once(rclone.bucket, now=now)


def test_a_bucket_that_is_not_there(registrar: House, moto: Store) -> None:
    """It is said, and is not the same as an upload that has not come yet."""
    missing = Bucket.parse("s3://missing", moto.account)
    with pytest.raises(NotFound, match="NoSuchBucket"):
        check_write_once(missing, now=now)
    (found,) = collect(missing, [expect(registrar, moto).invitation], lambda _: pytest.fail("nothing there"), now=now)
    assert isinstance(found.problem, NotFound)


def test_a_key_that_cannot_sign(registrar: House, rclone: Store, tmp_path: Path) -> None:
    """A host key whose private half is not there is left out, and said; without any other there is no upload."""
    etc_ssh = host_keys(tmp_path / "ssh", "ed25519", "ecdsa")
    (etc_ssh / "ssh_host_ecdsa_key").unlink()
    web = expect(registrar, rclone)
    booted = boot(web.document, etc_ssh, tmp_path / "boot")
    assert booted.stderr.splitlines() == [
        "handfast: /etc/ssh/ssh_host_ecdsa_key.pub is left out: it cannot sign",
        "handfast: uploaded 1 host keys",
    ]
    (found,) = gather(registrar, rclone, web.invitation)
    assert found.host is not None
    assert [each.key.algorithm for each in found.host.keys] == ["ssh-ed25519"]

    (etc_ssh / "ssh_host_ed25519_key").unlink()
    booted = boot(expect(registrar, rclone).document, etc_ssh, tmp_path / "again")
    assert (booted.code, booted.stdout) == (1, "")
    assert "no host key in /etc/ssh can sign" in booted.stderr


def test_an_image_without_curl(registrar: House, rclone: Store, tmp_path: Path) -> None:
    """The script says what is missing, and what that means; the one-time key goes all the same."""
    text = expect(registrar, rclone).document.replace("ssh-keygen curl;", "ssh-keygen no-such-program;")
    booted = boot(text, host_keys(tmp_path / "ssh", "ed25519"), tmp_path / "boot")
    assert (booted.code, booted.stdout) == (1, "")
    assert "this image has no no-such-program" in booted.stderr


def test_a_refusal_ends_the_script(registrar: House, rclone: Store, tmp_path: Path) -> None:
    """What will not do better is not tried again: waiting would only leave the one-time key there for longer."""
    text = expect(registrar, rclone).document.replace("X-Amz-Signature=", "X-Amz-Signature=0")
    booted = boot(text, host_keys(tmp_path / "ssh", "ed25519"), tmp_path / "boot")  # or else it would take minutes
    assert (booted.code, booted.stdout) == (1, "")
    assert "the upload was refused with status 403" in booted.stderr


def test_a_store_that_is_not_there_yet(registrar: House, rclone: Store, tmp_path: Path) -> None:
    """Where there is no answer the script tries again."""
    programs, real = tmp_path / "bin", program("curl")
    programs.mkdir()
    (programs / "curl").write_text(
        f'#!/bin/sh\n[ -e {programs}/tried ] || {{ : > {programs}/tried; exit 7; }}\nexec {real} "$@"'
    )
    (programs / "curl").chmod(0o755)
    web = expect(registrar, rclone)
    booted = boot(web.document, host_keys(tmp_path / "ssh", "ed25519"), tmp_path / "boot", path=str(programs))
    assert (booted.code, booted.stderr) == (0, "handfast: uploaded 1 host keys\n")
    assert (programs / "tried").exists()
