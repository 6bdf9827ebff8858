"""A party's file: read whole and only by its owner, or refused with what is wrong and what to do."""

from __future__ import annotations

import os
import stat
import subprocess
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.asymmetric import ec, rsa
from cryptography.hazmat.primitives.serialization import (
    BestAvailableEncryption,
    Encoding,
    NoEncryption,
    PrivateFormat,
    load_pem_private_key,
)
from cryptography.x509.oid import ExtendedKeyUsageOID

from handfast.core.roles import Role
from handfast.errors import Malformed, NotFound, Refused, TooMuch, Unsafe
from handfast.server import session
from handfast.sessions import party
from tests.sessions.conftest import Made, now

KEY, LEAF, ISSUING, ROOT, CRL = range(5)


def blocks(content: bytes) -> list[bytes]:
    """The PEM blocks of a file."""
    return [b"-----BEGIN " + part for part in content.split(b"-----BEGIN ")[1:]]


def refused(content: bytes) -> str:
    """Why a file of this content is refused as malformed."""
    with pytest.raises(Malformed, match="'F' is not a session file: ") as caught:
        party.parse(content, "F", now=now())
    assert caught.value.hint
    return caught.value.message


@pytest.fixture
def parts(ours: Made) -> list[bytes]:
    """Key, three certificates and revocation list of the client."""
    return blocks(ours.file("client").read_bytes())


def test_a_party_knows_who_it_is(ours: Made) -> None:
    """Session, name and role come from the certificates; the peer's role is the other one."""
    read = ours.party("client")
    assert (read.session, read.name, read.role, read.peer_role) == ("paper", "client", Role.CLIENT, Role.SERVER)
    server = ours.party("server")
    assert (server.name, server.role, server.peer_role) == ("server", Role.SERVER, Role.CLIENT)
    assert ours.party("bob").role is Role.CLIENT
    assert read.home == ours.directory
    assert read.pin.hex() == session.show(ours.directory).pin
    assert read.crl is not None


def test_a_file_is_written_as_it_was_read(ours: Made) -> None:
    """Nothing is lost on the way through a Party."""
    assert ours.party("client").encode() == ours.file("client").read_bytes()


def test_openssl_reads_it(ours: Made) -> None:
    """Other tools find key, certificate and list in the file as it is."""
    for command in (["pkey"], ["x509"], ["crl"]):
        subprocess.run(["openssl", *command, "-in", ours.file("client"), "-noout"], check=True, capture_output=True)


def test_the_comments_are_believed_in_nothing(ours: Made) -> None:
    """Whoever edits the words on top changes no name, no role and no session."""
    content = ours.file("client").read_bytes()
    lied = content.replace(b"'client' (client)", b"'server' (server)").replace(b"'paper'", b"'other'")
    assert lied != content
    read = party.parse(lied, "F", now=now())
    assert (read.session, read.name, read.role) == ("paper", "client", Role.CLIENT)


def test_a_home_is_an_absolute_path_on_one_line(ours: Made) -> None:
    """A path that is relative is dropped, and one with a line feed is never written: it would be another line."""
    content = ours.file("client").read_bytes()
    assert party.parse(content.replace(b"# home: /", b"# home: "), "F", now=now()).home is None
    read = ours.party("client")
    hostile = party.Party(read.session, read.name, read.role, read.key, read.leaf, read.issuing, read.root,
                          home=Path("/tmp/x\n# origin: evil"))  # fmt: skip
    assert b"evil" not in hostile.encode()


@pytest.mark.parametrize("umask", [0o000, 0o077])
def test_it_is_for_its_owner(ours: Made, tmp_path: Path, umask: int) -> None:
    """The file has mode 0600 under any umask, and nothing else is left beside it."""
    previous = os.umask(umask)
    try:
        party.write(tmp_path / "f", ours.party("client"))
    finally:
        os.umask(previous)
    assert stat.S_IMODE((tmp_path / "f").stat().st_mode) == 0o600
    assert os.listdir(tmp_path) == ["f"]


@pytest.mark.parametrize("mode", [0o640, 0o604, 0o620, 0o666])
def test_a_file_that_others_can_get_at_is_refused(ours: Made, tmp_path: Path, mode: int) -> None:
    """Whoever could read it could be that party; whoever could write it chooses whom we trust."""
    copy = tmp_path / "f"
    copy.write_bytes(ours.file("client").read_bytes())
    copy.chmod(mode)
    with pytest.raises(Unsafe, match=f"mode {mode:04o}") as caught:
        party.read(copy, now=now())
    assert "chmod 600" in caught.value.hint


def test_no_file_and_too_large_a_file(tmp_path: Path) -> None:
    """A path with a typo and a file of something else are told apart."""
    with pytest.raises(NotFound, match="no file"):
        party.read(tmp_path / "nothing", now=now())
    large = tmp_path / "large"
    large.write_bytes(b"# \n" * party.MAX_FILE)
    large.chmod(0o600)
    with pytest.raises(TooMuch, match="longer than"):
        party.read(large, now=now())


@pytest.mark.parametrize("kind", ["file", "directory", "dangling"])
def test_nothing_is_overwritten(ours: Made, tmp_path: Path, kind: str) -> None:
    """A key under the name stays, and so does whatever else is there."""
    path = tmp_path / "f"
    make: dict[str, Callable[[], object]] = {
        "file": path.touch,
        "directory": path.mkdir,
        "dangling": lambda: path.symlink_to("nowhere"),
    }
    make[kind]()
    with pytest.raises(Refused, match="exists") as caught:
        party.write(path, ours.party("client"))
    assert "overwritten" in caught.value.hint
    assert os.listdir(tmp_path) == ["f"]


@pytest.mark.parametrize(
    "order",
    [
        [],
        [KEY],
        [KEY, LEAF, ISSUING],
        [LEAF, ISSUING, ROOT, KEY],
        [LEAF, KEY, ISSUING, ROOT],
        [KEY, KEY, LEAF, ISSUING, ROOT],
        [KEY, LEAF, ISSUING, ROOT, ROOT],
        [KEY, LEAF, ISSUING, ROOT, CRL, CRL],
        [KEY, LEAF, ISSUING, CRL, ROOT],
        [LEAF, ISSUING, ROOT, CRL],
    ],
)
def test_other_blocks_in_another_order_are_refused(parts: list[bytes], order: list[int]) -> None:
    """A block that is missing, doubled or elsewhere: the sentence says what was found."""
    message = refused(b"".join(parts[each] for each in order))
    assert "expected a key, three certificates and perhaps a revocation list, found " in message
    assert message.endswith("nothing") == (not order)


@pytest.mark.parametrize("order", [[KEY, ISSUING, LEAF, ROOT], [KEY, LEAF, ROOT, ISSUING], [KEY, LEAF, ROOT, ROOT]])
def test_certificates_in_another_order_are_refused(parts: list[bytes], order: list[int]) -> None:
    """Each certificate has its place; in another one it is something else."""
    assert refused(b"".join(parts[each] for each in order))


def test_without_a_list_it_is_whole(parts: list[bytes]) -> None:
    """The revocation list is optional: who joined by an invitation has it elsewhere."""
    assert party.parse(b"".join(parts[:CRL]), "F", now=now()).crl is None


@pytest.mark.parametrize(
    "change",
    [
        (lambda content: content + b"trailing words\n"),
        (lambda content: b"\xff\xfe" + content),
        (lambda content: content.rstrip().removesuffix(b"-----END X509 CRL-----")),
        (lambda content: content.replace(b"-----BEGIN PRIVATE KEY-----\nM", b"-----BEGIN PRIVATE KEY-----\n?")),
        (lambda content: content.replace(b"MIIB", b"MIIC")),
    ],
    ids=["trailing", "binary", "endless", "no base64", "no DER"],
)
def test_damage_is_found(ours: Made, change: Callable[[bytes], bytes]) -> None:
    """Anything that is no PEM of ours, or half of it, is refused as a whole."""
    content = ours.file("client").read_bytes()
    assert change(content) != content
    refused(change(content))


def test_no_secret_is_in_a_message(parts: list[bytes]) -> None:
    """A damaged key is not repeated to whoever reads the error."""
    damaged = parts[KEY].replace(b"-----END PRIVATE KEY-----", b"-----END PRIVATE KEY-----x")
    secret = parts[KEY].splitlines()[1].decode()
    assert secret not in refused(damaged + b"".join(parts[1:]))


def test_the_key_of_another_party_is_refused(ours: Made, parts: list[bytes]) -> None:
    """A key with somebody else's certificate: files were mixed up."""
    other = blocks(ours.file("server").read_bytes())
    assert "of two pairs" in refused(b"".join([other[KEY], *parts[1:]]))


def test_parts_of_another_session_are_refused(ours: Made, theirs: Made, parts: list[bytes]) -> None:
    """A root, an issuing CA or a list of another session, of the same name: it all has to belong together."""
    other = blocks(theirs.file("client").read_bytes())
    for place in (ISSUING, ROOT):
        assert "does not chain" in refused(b"".join([*parts[:place], other[place], *parts[place + 1 :]]))
    assert "not signed by this session's authority" in refused(b"".join([*parts[:CRL], other[CRL]]))


def test_keys_of_other_kinds_are_refused(parts: list[bytes]) -> None:
    """An RSA key, or an EC key in the older form, was not made here."""
    foreign = rsa.generate_private_key(65537, 2048).private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    assert "not an elliptic-curve key" in refused(b"".join([foreign, *parts[1:]]))
    key = load_pem_private_key(parts[KEY], None)
    older = key.private_bytes(Encoding.PEM, PrivateFormat.TraditionalOpenSSL, NoEncryption())
    assert "found EC PRIVATE KEY" in refused(b"".join([older, *parts[1:]]))


def test_an_encrypted_key_is_refused_with_the_way_out(parts: list[bytes]) -> None:
    """There is nobody to ask for a passphrase; openssl decrypts it."""
    key = load_pem_private_key(parts[KEY], None)
    sealed = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, BestAvailableEncryption(b"correct horse"))
    with pytest.raises(Refused, match="the key in 'F' is encrypted") as caught:
        party.parse(b"".join([sealed, *parts[1:]]), "F", now=now())
    assert "openssl pkey" in caught.value.hint


@pytest.mark.parametrize("offset", [timedelta(days=31), -timedelta(days=2)])
def test_out_of_its_time_it_is_refused(ours: Made, offset: timedelta) -> None:
    """After its end, or by a clock two days behind: the sentence has both times, and asks about the clock."""
    content = ours.file("client").read_bytes()
    at = now() + offset
    with pytest.raises(Refused, match="'F' is valid from ") as caught:
        party.parse(content, "F", now=at)
    assert f"it is {at:%Y-%m-%d %H:%M}Z here" in caught.value.message
    assert f"{party.parse(content, 'F', now=now()).not_after:%Y-%m-%d %H:%M}" in caught.value.message
    assert "clock" in caught.value.hint


def test_a_certificate_of_another_role_is_refused(own: Made) -> None:
    """A session has servers and clients: an operator's or a peer's credential, with both usages, is none of them."""
    key = ec.generate_private_key(ec.SECP256R1())
    with session.opened(own.directory) as opened:
        leaf = session._issue(opened, "both", Role.PEER, key)
    parts = [
        key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()),
        leaf.public_bytes(Encoding.PEM),
        *blocks(own.file("client").read_bytes())[ISSUING:CRL],
    ]
    assert "it is for the role peer" in refused(b"".join(parts))


def test_a_leaf_signed_by_a_party_is_refused(ours: Made, parts: list[bytes]) -> None:
    """A client is no CA: what its key signs makes nobody a server."""
    client = ours.party("client")
    forged = (
        x509.CertificateBuilder(client.leaf.subject, x509.Name([]), client.key.public_key(), 7)
        .not_valid_before(now() - timedelta(hours=1))
        .not_valid_after(now() + timedelta(hours=1))
        .add_extension(
            x509.SubjectAlternativeName(
                [x509.UniformResourceIdentifier(f"spiffe://{client.pin.hex()[:16]}.handfast.internal/server/server")]
            ),
            critical=True,
        )
        .add_extension(x509.ExtendedKeyUsage([ExtendedKeyUsageOID.SERVER_AUTH]), critical=False)
        .sign(client.key, hashes.SHA256())
    )
    pem = forged.public_bytes(Encoding.PEM)
    assert "does not chain" in refused(b"".join([parts[KEY], pem, *parts[ISSUING:]]))
