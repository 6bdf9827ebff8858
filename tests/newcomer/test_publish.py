"""Host keys that are published along: with what, when again, and that they keep nobody from renewing."""

from __future__ import annotations

import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import msgspec
import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from handfast.core import csr, hostproof, keys, wire
from handfast.core.flow import Wish
from handfast.core.sshkeys import SshKey
from handfast.errors import AlreadySpent, HandfastError, NotFound, Refused, Revoked, Waiting
from handfast.introducers.invitation import Invited
from handfast.newcomer import hostkeys
from handfast.newcomer.join import Published, join
from handfast.newcomer.keystore import Keystore
from handfast.newcomer.renew import held, renew
from tests.authority.helpers import HOUR, NOW, Pki
from tests.core.sshmaterial import signer
from tests.newcomer.fake import Fake, Requests, a_line, http

PKI = Pki.make()


@pytest.fixture
def fake() -> Iterator[Fake]:
    """A registrar that is honest until it is told otherwise."""
    with Fake(PKI) as started:
        yield started


@pytest.fixture
def etc(tmp_path: Path) -> Path:
    """Where sshd's keys are."""
    directory = tmp_path / "ssh"
    directory.mkdir()
    put(directory, "ed25519")
    return directory


def put(directory: Path, kind: str) -> SshKey:
    """Make a host key."""
    path = directory / f"ssh_host_{kind}_key"
    path.write_bytes(signer(kind).private.private_bytes(Encoding.PEM, PrivateFormat.OpenSSH, NoEncryption()))
    path.chmod(0o600)
    return signer(kind).public


def published(directory: Path) -> Published:
    """What `--ssh-dir` reads."""
    return Published(hostkeys.load(directory, ports=(22, 2222))[0], directory)


def joined(fake: Fake, out: Path, publish: Published | None) -> Keystore:
    """A machine that has joined at NOW."""
    keystore = Keystore(out)
    way = Invited(a_line(PKI, fake.address), Wish())
    join(way, keystore, layouts=("pem",), owner=None, now=lambda: NOW, published=publish)
    fake.requests.clear()
    fake.time = NOW + 12 * HOUR
    return keystore


def renewed(keystore: Keystore, publish: Published | None = None) -> list[str]:
    """Renew, and return what was remarked."""
    remarks: list[str] = []
    renew(keystore, now=lambda: NOW + 12 * HOUR, publish=publish, remark=remarks.append)
    return remarks


def claims(fake: Fake) -> list[tuple[SshKey, ...]]:
    """Have the registrar note which host keys each request proves; refused are the methods' own keys only."""
    seen: list[tuple[SshKey, ...]] = []
    honest, spki = fake.answer, keys.spki_sha256(fake.key.public_key())

    def answer(request: Requests, digest: bytes) -> bytes | None:
        method = fake.requests[-1].rsplit("/", 1)[1]
        seen.append(hostproof.proved(request, method=method, pin=PKI.pin, server_spki=spki))
        return honest(request, digest)

    fake.answer = answer
    return seen


def refusing(fake: Fake, kind: type[HandfastError], when: Callable[[Requests], bool]) -> None:
    """Have the registrar refuse some requests."""
    honest = fake.answer

    def answer(request: Requests, digest: bytes) -> bytes | None:
        if not when(request):
            return honest(request, digest)
        problem = wire.Problem("refused", 403, kind.code, detail="the host key was retired")
        return http(msgspec.json.encode(problem), status="403 Forbidden")

    fake.answer = answer


def test_joining_proves_host_keys(fake: Fake, etc: Path, tmp_path: Path) -> None:
    """Each key signs for this connection and request; where they are is kept for renewals, and not what they are."""
    put(etc, "p256")
    seen = claims(fake)
    keystore = joined(fake, tmp_path / "out", published(etc))
    assert seen == [tuple(sorted((signer("ed25519").public, signer("p256").public)))]
    about = keystore.load().identity
    assert (about["ssh_dir"], about["ssh_ports"]) == (str(etc), [22, 2222])
    assert b"PRIVATE" not in bytes(fake.seen)


def test_renewing_proves_those_that_are_there_now(fake: Fake, etc: Path, tmp_path: Path) -> None:
    """A key that was made since is published with the next renewal, and with the one after that."""
    keystore, seen = joined(fake, tmp_path / "out", published(etc)), claims(fake)
    new = put(etc, "p256")
    (etc / "ssh_host_ed25519_key").unlink()
    assert renewed(keystore) == []
    assert renewed(keystore) == []
    assert seen == [(new,), (new,)]
    assert fake.requests[-1] == "POST /v1/introductions/renewal"


def test_who_did_not_ask_publishes_nothing(fake: Fake, tmp_path: Path) -> None:
    """Neither joining nor renewing looks for host keys by itself."""
    seen = claims(fake)
    keystore = joined(fake, tmp_path / "out", None)
    renewed(keystore)
    assert seen == [(), ()]
    assert "ssh_dir" not in keystore.load().identity


def test_publishing_later(fake: Fake, etc: Path, tmp_path: Path) -> None:
    """A machine that joined without begins with a renewal, and goes on with each."""
    keystore, seen = joined(fake, tmp_path / "out", None), claims(fake)
    renewed(keystore, published(etc))
    renewed(keystore)
    assert seen == [(signer("ed25519").public,)] * 2


def test_what_cannot_be_read_keeps_nobody_from_renewing(fake: Fake, etc: Path, tmp_path: Path) -> None:
    """A directory that is gone, or a key that others can read, is a remark; what was known stays known."""
    keystore, seen = joined(fake, tmp_path / "out", published(etc)), claims(fake)
    (etc / "ssh_host_ed25519_key").chmod(0o644)
    (remark,) = renewed(keystore)
    assert "the SSH host keys are not published: " in remark
    assert "can be read or written by others" in remark
    shutil.rmtree(etc)
    assert "no SSH host keys in" in renewed(keystore)[0]
    assert seen == [(), ()]
    assert keystore.load().identity["ssh_dir"] == str(etc)


def test_one_that_does_not_sign_is_a_remark(fake: Fake, etc: Path, tmp_path: Path) -> None:
    """The others are published."""
    keystore, seen = joined(fake, tmp_path / "out", published(etc)), claims(fake)
    (etc / "ssh_host_tomorrow_key").write_text("?")
    (etc / "ssh_host_tomorrow_key").chmod(0o600)
    (remark,) = renewed(keystore)
    assert "ssh_host_tomorrow_key' is not published" in remark
    assert seen == [(signer("ed25519").public,)]


@pytest.mark.parametrize("ports", [[], ["22"], [0], [65536], [None], 22, None, {}])
def test_a_damaged_identity_keeps_nobody_from_renewing(fake: Fake, etc: Path, tmp_path: Path, ports: object) -> None:
    """Whatever stands for the ports in identity.json, the credential is renewed."""
    keystore = joined(fake, tmp_path / "out", published(etc))
    path = tmp_path / "out" / "identity.json"
    about = msgspec.json.decode(path.read_bytes()) | {"ssh_ports": ports}
    path.write_bytes(msgspec.json.encode(about))
    path.chmod(0o600)
    renewed(keystore)
    assert held(keystore).material.identity["method"] == "renewal"


@pytest.mark.parametrize("kind", [Refused, Waiting])
def test_host_keys_that_are_refused_keep_nobody_from_renewing(
    fake: Fake, etc: Path, tmp_path: Path, kind: type[HandfastError]
) -> None:
    """The same new key asks once more without them, also where a person has to look first; the reason is remarked."""
    keystore = joined(fake, tmp_path / "out", published(etc))
    asked: list[tuple[bytes, bool]] = []
    refusing(fake, kind, lambda request: request.host is not None)
    second = fake.answer

    def answer(request: Requests, digest: bytes) -> bytes | None:
        asked.append((keys.spki(csr.read(request.csr)), request.host is not None))
        return second(request, digest)

    fake.answer = answer
    assert renewed(keystore) == ["the SSH host keys are not published: the host key was retired"]
    assert [host for _, host in asked] == [True, False]
    assert asked[0][0] == asked[1][0]
    assert held(keystore).material.identity["method"] == "renewal"


@pytest.mark.parametrize("kind", [Revoked, AlreadySpent])
def test_what_has_nothing_to_do_with_host_keys_is_said(
    fake: Fake, etc: Path, tmp_path: Path, kind: type[Refused]
) -> None:
    """Who is refused without them as well hears the real reason, and keeps the old credential."""
    keystore = joined(fake, tmp_path / "out", published(etc))
    refusing(fake, kind, lambda _request: True)
    with pytest.raises(kind):
        renewed(keystore)
    assert held(keystore).material.identity["method"] == "invitation"


def test_who_asks_for_it_is_refused(fake: Fake, etc: Path, tmp_path: Path) -> None:
    """`renew --ssh` that publishes nothing is a failure, and asks only once."""
    keystore = joined(fake, tmp_path / "out", None)
    refusing(fake, Refused, lambda request: request.host is not None)
    with pytest.raises(Refused, match="the host key was retired"):
        renewed(keystore, published(etc))
    assert fake.requests.count("POST /v1/introductions/renewal") == 1
    with pytest.raises(NotFound):
        published(tmp_path)


def test_a_registrar_that_certifies_none_costs_no_credential(fake: Fake, etc: Path, tmp_path: Path) -> None:
    """One of before, or one that refuses: the machine has joined, and whoever asked for more hears why."""
    keystore, remarks = Keystore(tmp_path / "out"), list[str]()
    way = Invited(a_line(PKI, fake.address), Wish())
    told = {"published": published(etc), "remark": remarks.append}
    made = join(way, keystore, layouts=("pem",), owner=None, now=lambda: NOW, **told)  # type: ignore[arg-type]
    assert made is not None
    assert isinstance(made.certified, NotFound)
    assert made.certified.message == "no such route"
    assert remarks == []
