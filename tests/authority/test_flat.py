"""An authority with one key: made or taken over entirely or not at all, opened by its owner alone."""

from __future__ import annotations

import os
import re
import resource
import shutil
import signal
import stat
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509 as pyca
from cryptography.hazmat.primitives.asymmetric import ec, ed25519, rsa
from cryptography.hazmat.primitives.serialization import Encoding

from handfast.authority import ceremony
from handfast.authority.flat import FlatAuthority, PublicFlatAuthority, adopt, create, new_key
from handfast.authority.signers import pkcs8
from handfast.core import dn, javastore, keys, nifi_x509
from handfast.core.ports import Authority
from handfast.core.secret import Secret
from handfast.errors import Fault, HandfastError, Malformed, NotFound, Refused, Unsafe, UsageError
from handfast.nifi.stores import find_key
from tests.authority.helpers import DAY, NOW, Pki, grant
from tests.authority.test_ceremony import _found, _killed_at
from tests.core.stores import DATA, PASSWORDS

SUBJECT = dn.parse("CN=ca.lan, OU=NIFI")
KEY = rsa.generate_private_key(65537, 2048)
ROOT = nifi_x509.root(KEY, subject=SUBJECT, days=825, now=NOW)
FILES = {"root.crt": 0o644, "root.key": 0o600}


def _make(directory: Path, **options: Any) -> None:
    defaults: dict[str, Any] = {"subject": SUBJECT, "now": NOW, "days": 825, "algorithm": "EC", "key_size": 256}
    create(directory, **(defaults | options))


def _take(directory: Path, **options: Any) -> tuple[str, ...]:
    defaults: dict[str, Any] = {"certificate": ROOT, "key": KEY, "now": NOW}
    return adopt(directory, **(defaults | options))


WAYS: dict[str, Callable[..., object]] = {"create": _make, "adopt": _take}


@pytest.fixture(params=sorted(WAYS))
def way(request: pytest.FixtureRequest) -> Callable[..., object]:
    """Each way to come to an authority."""
    return WAYS[request.param]


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """An authority to change."""
    _take(tmp_path / "a")
    return tmp_path / "a"


def test_it_is_what_the_port_asks_for() -> None:
    """A flat authority satisfies ``core.ports.Authority``; mypy checks this line."""
    port: Authority = FlatAuthority(PublicFlatAuthority(ROOT), KEY)
    assert port.trust_domain == f"{port.pin.hex()[:16]}.handfast.internal"


# ------------------------------------------------------------------------------------------------ making


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_the_key_is_for_the_owner_whatever_the_umask(tmp_path: Path, way: Callable[..., object], umask: int) -> None:
    """The directory is 0700, the key 0600 and the certificate 0644, and nothing else is there."""
    previous = os.umask(umask)
    try:
        way(tmp_path / "a")
    finally:
        os.umask(previous)
    assert _found(tmp_path / "a") == FILES
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o700
    assert os.listdir(tmp_path) == ["a"]


def test_what_was_made_is_opened(tmp_path: Path) -> None:
    """The root is for the subject and the days that were asked, RSA of 2048 bits where nothing was said."""
    create(tmp_path / "a", subject=SUBJECT, now=NOW, days=30)
    opened = FlatAuthority.open(tmp_path / "a")
    assert dn.written(opened.root.subject) == "CN=ca.lan, OU=NIFI"
    assert opened.not_after == NOW + 30 * DAY
    assert keys.describe(opened.root_key.public_key()) == "RSA 2048"
    assert PublicFlatAuthority.read(tmp_path / "a") == opened.public


@pytest.mark.parametrize(
    ("algorithm", "size", "expected"),
    [("RSA", 3072, "RSA 3072"), ("rsa", 2048, "RSA 2048"), ("EC", 256, "P-256"), ("ec", 384, "P-384")],
)
def test_a_key_of_the_kind_that_was_asked(algorithm: str, size: int, expected: str) -> None:
    """As the toolkit names algorithms, in either case."""
    assert keys.describe(new_key(algorithm, size).public_key()) == expected


@pytest.mark.parametrize(
    ("algorithm", "size"),
    [("RSA", 1024), ("RSA", 2047), ("RSA", 4097), ("RSA", 0), ("EC", 2048), ("EC", 521), ("DSA", 2048), ("", 256)],
)
def test_other_keys_are_not_made(tmp_path: Path, algorithm: str, size: int) -> None:
    """Too weak, too slow, or unknown: refused before anything is there."""
    with pytest.raises(UsageError, match=f"a CA has no '{algorithm}' key of {size} bits") as caught:
        _make(tmp_path / "a", algorithm=algorithm, key_size=size)
    assert "2048 to 4096" in caught.value.hint
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("options", [{"subject": dn.parse("OU=NIFI")}, {"days": 0}])
def test_mistakes_are_found_before_anything_is_made(tmp_path: Path, options: dict[str, Any]) -> None:
    """A subject without a common name, or no days, leaves nothing behind."""
    with pytest.raises((Malformed, UsageError)):
        _make(tmp_path / "a", **options)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("kind", ["directory", "empty", "file", "dangling"])
def test_whatever_exists_is_not_overwritten(tmp_path: Path, way: Callable[..., object], kind: str) -> None:
    """A directory, a file or a dangling link under the name is left as it is."""
    path = tmp_path / "a"
    make: dict[str, Callable[[], object]] = {
        "directory": lambda: way(path),
        "empty": path.mkdir,
        "file": path.touch,
        "dangling": lambda: path.symlink_to("nowhere"),
    }
    make[kind]()
    before = {found: found.read_bytes() for found in tmp_path.rglob("*") if found.is_file()}
    with pytest.raises(Refused, match=r"/a' exists") as caught:
        way(path)
    assert "overwritten" in caught.value.hint
    assert {found: found.read_bytes() for found in tmp_path.rglob("*") if found.is_file()} == before


def test_an_empty_passphrase_is_refused(tmp_path: Path, way: Callable[..., object]) -> None:
    """An empty passphrase is a mistake in somebody's script, not a wish for a plain key."""
    with pytest.raises(Refused, match="passphrase is empty"):
        way(tmp_path / "a", passphrase=Secret(b""))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("size", [0, 100, 700])
def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, way: Callable[..., object], size: int) -> None:
    """When the kernel refuses a write, what is half-made is removed and the fault says so."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        with pytest.raises(Fault, match="cannot make the authority") as caught:
            way(tmp_path / "a", **({"algorithm": "RSA", "key_size": 2048} if way is _make else {}))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, previous)
    assert "nothing was made" in caught.value.hint
    assert os.listdir(tmp_path) == []


def test_a_path_through_a_file_is_a_fault(tmp_path: Path, way: Callable[..., object]) -> None:
    """A place that cannot be is reported with the system's words."""
    (tmp_path / "file").touch()
    with pytest.raises(Fault, match=r"cannot make the authority in .*: not a directory"):
        way(tmp_path / "file" / "b" / "a")


def _run(way: Callable[..., object], directory: Path) -> None:
    way(directory)


def test_kill_9_at_any_step_leaves_all_or_nothing(tmp_path: Path, way: Callable[..., object]) -> None:
    """Killed at each sync and at the rename, there is a whole authority or none."""
    died, step = True, 0
    while died:
        step += 1
        place = tmp_path / str(step)
        place.mkdir()
        died = _killed_at(step, partial(_run, way, place / "a"))
        if not (place / "a").exists():
            way(place / "a")  # what a dead process left behind does not stand in the way
        FlatAuthority.open(place / "a")
    assert step > 5  # two files, the directory, the rename, its parent, and once to the end


# --------------------------------------------------------------------------------------------- taking over


def test_what_was_adopted_is_opened(directory: Path) -> None:
    """The certificate stays as it was, to the byte: nodes have it in their trust stores."""
    opened = FlatAuthority.open(directory)
    assert opened.trust == (ROOT.public_bytes(Encoding.DER),)
    assert opened.root_key.private_numbers() == KEY.private_numbers()


def test_adopting_says_what_the_operator_should_know(tmp_path: Path) -> None:
    """Nothing of a good root; of one that ends soon, when."""
    assert _take(tmp_path / "a") == ()
    (remark,) = _take(tmp_path / "b", now=NOW + 800 * DAY)
    assert "expires at 2029-02-24" in remark
    assert FlatAuthority.open(tmp_path / "b").not_after == NOW + 825 * DAY


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"now": NOW + 825 * DAY}, "expired at 2029-02-24 12:00 UTC"),
        ({"now": NOW - DAY}, "is valid from 2026-11-22"),
        ({"certificate": Pki.make().issuing}, "is not self-signed"),
        ({"key": rsa.generate_private_key(65537, 2048)}, "the key does not belong to the CA's certificate"),
        ({"key": ec.generate_private_key(ec.SECP256R1())}, "the key does not belong to the CA's certificate"),
    ],
)
def test_what_cannot_be_adopted_leaves_nothing_behind(tmp_path: Path, options: dict[str, Any], message: str) -> None:
    """A root that cannot be used, or somebody else's key, is refused before anything is written."""
    with pytest.raises(Refused, match=message) as caught:
        _take(tmp_path / "a", **options)
    assert caught.value.hint
    assert os.listdir(tmp_path) == []


def test_the_roots_of_our_ceremony_are_no_servers(tmp_path: Path) -> None:
    """The offline root of a native authority may sign no handshake, and is not brought online by mistake."""
    pki = Pki.make()
    with pytest.raises(Refused, match="may not sign both"):
        _take(tmp_path / "a", certificate=pki.root, key=pki.root_key)


# ------------------------------------------------------------------------------------------------ opening


def test_a_passphrase_opens_what_it_encrypted(tmp_path: Path, way: Callable[..., object]) -> None:
    """Signing needs the passphrase; the public half does not; a wrong or missing one is refused."""
    way(tmp_path / "a", passphrase=Secret(b"correct horse"))
    assert b"ENCRYPTED PRIVATE KEY" in (tmp_path / "a/root.key").read_bytes()
    opened = FlatAuthority.open(tmp_path / "a", passphrase=Secret(b"correct horse"))
    assert PublicFlatAuthority.read(tmp_path / "a") == opened.public
    with pytest.raises(Refused, match=r"root.key' is encrypted"):
        FlatAuthority.open(tmp_path / "a")
    with pytest.raises(Refused, match="does not open"):
        FlatAuthority.open(tmp_path / "a", passphrase=Secret(b"Correct horse"))


def test_a_passphrase_for_a_plain_key_is_refused(directory: Path) -> None:
    """Whoever gives a passphrase believes the key encrypted, and should learn that it is not."""
    with pytest.raises(Refused, match="is not encrypted"):
        FlatAuthority.open(directory, passphrase=Secret(b"pw"))


def test_where_no_authority_is_there_is_none(tmp_path: Path) -> None:
    """A missing directory is named."""
    for attempt in (FlatAuthority.open, PublicFlatAuthority.read):
        with pytest.raises(NotFound, match=r"no NiFi authority in '.*/a'"):
            attempt(tmp_path / "a")


@pytest.mark.parametrize("mode", [0o701, 0o750, 0o777])
def test_a_directory_that_others_can_enter_is_refused(directory: Path, mode: int) -> None:
    """Whoever can write there could exchange the root, so every bit for others is too much."""
    directory.chmod(mode)
    for attempt in (FlatAuthority.open, PublicFlatAuthority.read):
        with pytest.raises(Unsafe, match=f"mode {mode:04o}"):
            attempt(directory)


def test_a_key_that_others_can_read_is_refused(directory: Path) -> None:
    """A root key that others have read is no root key."""
    (directory / "root.key").chmod(0o640)
    with pytest.raises(Unsafe, match=re.escape("root.key' can be read or written by others (mode 0640)")):
        FlatAuthority.open(directory)


DAMAGE: dict[str, Callable[[Path], object]] = {
    "missing": lambda path: path.unlink(),
    "empty": lambda path: path.write_bytes(b""),
    "garbage": lambda path: path.write_bytes(b"\xff" * 300),
    "truncated": lambda path: path.write_bytes(path.read_bytes()[: path.stat().st_size // 2]),
}


@pytest.mark.parametrize("damage", DAMAGE)
@pytest.mark.parametrize("name", FILES)
def test_damage_ends_in_our_own_error(directory: Path, name: str, damage: str) -> None:
    """Whatever happened to a file, opening says which directory or file it is, and does not break in another way."""
    DAMAGE[damage](directory / name)
    with pytest.raises(HandfastError, match=re.escape(str(directory))):
        FlatAuthority.open(directory)


@pytest.mark.parametrize("name", FILES)
def test_a_file_of_another_authority_is_noticed(directory: Path, tmp_path: Path, name: str) -> None:
    """A key or a certificate exchanged for a genuine one of another authority is refused."""
    _make(tmp_path / "b", algorithm="RSA", key_size=2048)
    shutil.copy2(tmp_path / "b" / name, directory / name)
    with pytest.raises(Fault, match=r"is damaged: 'root\.key' does not belong to its certificate"):
        FlatAuthority.open(directory)


def test_a_key_of_another_kind_is_noticed(directory: Path) -> None:
    """An Ed25519 key does not pass for the root's."""
    (directory / "root.key").write_bytes(pkcs8.dump(ed25519.Ed25519PrivateKey.generate(), None))
    with pytest.raises(Fault, match="does not belong to its certificate"):
        FlatAuthority.open(directory)


@pytest.mark.parametrize(
    ("certificate", "message"),
    [
        (Pki.make().issuing, "is not self-signed"),
        (Pki.make().root, "may not sign both"),
        (nifi_x509.LeafProfile(ROOT).builder(grant("x"), 1).sign(KEY, keys.signature_hash(KEY)), "not self-signed"),
    ],
)
def test_a_root_that_is_none_is_noticed(directory: Path, certificate: pyca.Certificate, message: str) -> None:
    """A certificate that somebody else issued is no root, and an offline root none that signs here."""
    (directory / "root.crt").write_bytes(certificate.public_bytes(Encoding.PEM))
    with pytest.raises(Fault, match=f"is damaged: .*{message}"):
        PublicFlatAuthority.read(directory)


# ------------------------------------------------------------------------------------------------- secrets


def test_the_token_master_comes_from_the_key_alone(directory: Path, tmp_path: Path) -> None:
    """It is 32 bytes, the same in every process and under every passphrase, and another one for another key."""
    master = FlatAuthority.open(directory).token_master()
    _take(tmp_path / "b", passphrase=Secret(b"pw"))
    again = FlatAuthority.open(tmp_path / "b", passphrase=Secret(b"pw")).token_master()
    _make(tmp_path / "c")
    other = FlatAuthority.open(tmp_path / "c").token_master()
    assert len(master.reveal()) == 32
    assert again.reveal() == master.reveal() != other.reveal()


def test_the_token_master_is_what_it_always_was() -> None:
    """HKDF-SHA256 (RFC 5869) over the key's PKCS #8: a release that computed another would void all open tokens."""
    name = "nifi-ca-keystore.jks"
    store = javastore.read((DATA / name).read_bytes(), password=Secret(PASSWORDS[name][0].encode()))
    found = find_key(store)
    assert found is not None
    rsa_key, (root,) = found
    ec_key = ec.derive_private_key(1, ec.SECP256R1())
    masters = [FlatAuthority(PublicFlatAuthority(root), key).token_master() for key in (rsa_key, ec_key)]
    assert [master.reveal().hex() for master in masters] == [
        "da8e7e28184067eb49fb93f1f4c12c841c8c29415f3d488a7c26005ab96bd428",
        "258c734f2be4b958de83434d4a6552cc5681b5027d8e2c6f007c43399b445d26",
    ]


def test_p12_no_secret_shows_in_any_representation(directory: Path) -> None:
    """P12: neither the key nor the master appears when an authority is printed."""
    authority = FlatAuthority.open(directory)
    shown = repr(vars(authority)) + repr(authority) + repr(authority.token_master())
    assert "PRIVATE" not in shown
    assert f"{KEY.private_numbers().d}" not in shown


def test_a_ceremonys_directory_is_no_flat_authority(tmp_path: Path) -> None:
    """The two kinds of directory share names of files, and are not taken for each other."""
    ceremony.create(tmp_path / "a", name="home", now=NOW)
    with pytest.raises(Fault, match="may not sign both"):
        FlatAuthority.open(tmp_path / "a")
