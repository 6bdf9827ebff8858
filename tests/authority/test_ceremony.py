"""Making an authority: all of it or nothing, for the owner's eyes only, and never over another one."""

from __future__ import annotations

import os
import resource
import signal
import stat
from collections.abc import Callable
from datetime import timedelta
from functools import partial
from ipaddress import ip_network
from pathlib import Path
from typing import Any

import pytest
from cryptography import x509 as pyca
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from handfast.adapters import files
from handfast.authority.authority import FileAuthority
from handfast.authority.ceremony import create
from handfast.core import keys, x509
from handfast.core.secret import Secret
from handfast.errors import Fault, Malformed, Refused
from tests.authority.helpers import NOW

FILES = {
    "authority.json": 0o644,
    "issuing/1.crt": 0o644,
    "issuing/1.key": 0o600,
    "log.key": 0o600,
    "log.pub": 0o644,
    "root.crl": 0o644,
    "root.crt": 0o644,
    "root.key": 0o600,
    "ssh_host_ca": 0o600,
    "ssh_host_ca.pub": 0o644,
    "ssh_user_ca": 0o600,
    "ssh_user_ca.pub": 0o644,
}


def _make(directory: Path, **options: Any) -> None:
    defaults: dict[str, Any] = {"name": "home", "now": NOW}
    create(directory, **(defaults | options))


def _found(directory: Path) -> dict[str, int]:
    files = (path for path in directory.rglob("*") if path.is_file())
    return {str(path.relative_to(directory)): stat.S_IMODE(path.stat().st_mode) for path in files}


@pytest.mark.parametrize("umask", [0o000, 0o022, 0o077])
def test_keys_are_for_the_owner_whatever_the_umask(tmp_path: Path, umask: int) -> None:
    """Directories are 0700, keys 0600 and public files 0644, under any umask."""
    previous = os.umask(umask)
    try:
        _make(tmp_path / "a")
    finally:
        os.umask(previous)
    assert _found(tmp_path / "a") == FILES
    assert stat.S_IMODE((tmp_path / "a").stat().st_mode) == 0o700
    assert stat.S_IMODE((tmp_path / "a/issuing").stat().st_mode) == 0o700
    assert os.listdir(tmp_path) == ["a"]


def test_no_two_keys_are_the_same(tmp_path: Path) -> None:
    """Root, issuing CA, both SSH CAs and the log have keys of their own."""
    _make(tmp_path / "a")
    names = [name for name, mode in FILES.items() if mode == 0o600]
    loaded = [load_pem_private_key((tmp_path / "a" / name).read_bytes(), None) for name in names]
    assert len({keys.spki(key.public_key()) for key in loaded}) == len(names) == 5


@pytest.mark.parametrize("kind", ["directory", "empty", "file", "dangling"])
def test_whatever_exists_is_not_overwritten(tmp_path: Path, kind: str) -> None:
    """A directory, a file or a dangling link under the name is left as it is."""
    path = tmp_path / "a"
    make: dict[str, Callable[[], object]] = {
        "directory": lambda: _make(path),
        "empty": path.mkdir,
        "file": path.touch,
        "dangling": lambda: path.symlink_to("nowhere"),
    }
    make[kind]()
    before = _found(tmp_path)
    with pytest.raises(Refused, match=r"/a' exists") as caught:
        _make(path)
    assert "overwritten" in caught.value.hint
    assert _found(tmp_path) == before


def test_an_existing_root_key_is_not_overwritten(tmp_path: Path) -> None:
    """A file in the place of the offline key is left alone, and nothing else is made."""
    (tmp_path / "root.key").write_text("precious")
    with pytest.raises(Refused, match=r"root.key' exists"):
        _make(tmp_path / "a", root_key=tmp_path / "root.key")
    assert (tmp_path / "root.key").read_text() == "precious"
    assert os.listdir(tmp_path) == ["root.key"]


def test_the_root_key_may_live_elsewhere(tmp_path: Path) -> None:
    """With ``root_key`` the root's key is there and nowhere else, and belongs to the root."""
    _make(tmp_path / "a", root_key=tmp_path / "stick.key")
    assert "root.key" not in _found(tmp_path / "a")
    assert stat.S_IMODE((tmp_path / "stick.key").stat().st_mode) == 0o600
    key = load_pem_private_key((tmp_path / "stick.key").read_bytes(), None)
    root = pyca.load_pem_x509_certificate((tmp_path / "a/root.crt").read_bytes())
    assert key.public_key() == root.public_key()


def test_a_passphrase_encrypts_every_key(tmp_path: Path) -> None:
    """With a passphrase no key lies there in plain, the root's among them."""
    _make(tmp_path / "a", passphrase=Secret(b"correct horse"))
    for name, mode in FILES.items():
        text = (tmp_path / "a" / name).read_bytes()
        assert (b"ENCRYPTED PRIVATE KEY" in text) == (mode == 0o600)
        assert b"correct horse" not in text


def test_an_empty_passphrase_is_refused(tmp_path: Path) -> None:
    """An empty passphrase is a mistake in somebody's script, not a wish for plain keys."""
    with pytest.raises(Refused, match="passphrase is empty"):
        _make(tmp_path / "a", passphrase=Secret(b""))
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize(("days", "issuing"), [(30, 30), (2000, 1096)])
def test_a_lifetime_bounds_all_of_it(tmp_path: Path, days: int, issuing: int) -> None:
    """Root, issuing CA and the root's list end with the authority; the issuing CA no later than ever."""
    _make(tmp_path / "a", lifetime=timedelta(days=days))
    root, ca = (
        pyca.load_pem_x509_certificate((tmp_path / "a" / name).read_bytes()) for name in ("root.crt", "issuing/1.crt")
    )
    crl = pyca.load_pem_x509_crl((tmp_path / "a/root.crl").read_bytes())
    assert root.not_valid_after_utc == NOW + timedelta(days=days)
    assert ca.not_valid_after_utc == crl.next_update_utc == NOW + timedelta(days=issuing)


def test_constraints_and_the_list_url_are_kept(tmp_path: Path) -> None:
    """Name constraints are in the issuing CA's certificate, and the URL is in every leaf to come."""
    networks = [ip_network("10.0.0.0/8")]
    _make(tmp_path / "a", permitted_dns=["Home.LAN"], permitted_ips=networks)
    authority = FileAuthority.open(tmp_path / "a")
    extension = authority.issuing.extensions.get_extension_for_class(pyca.NameConstraints)
    assert extension.value == x509.name_constraints(["home.lan"], networks)


@pytest.mark.parametrize("options", [{"permitted_dns": ["*.lan"]}, {"permitted_dns": [""]}, {"name": ""}])
def test_mistakes_are_found_before_anything_is_made(tmp_path: Path, options: dict[str, Any]) -> None:
    """A wrong suffix, URL or name leaves nothing behind."""
    with pytest.raises(Malformed):
        _make(tmp_path / "a", **options)
    assert os.listdir(tmp_path) == []


@pytest.mark.parametrize("size", [0, 100, 200, 700])
def test_a_full_disk_leaves_nothing_behind(tmp_path: Path, size: int) -> None:
    """When the kernel refuses a write, the half-made authority is removed and the fault says so."""
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, limits[1]))
    try:
        with pytest.raises(Fault, match="cannot make the authority") as caught:
            _make(tmp_path / "a", root_key=tmp_path / "root.key")
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
        signal.signal(signal.SIGXFSZ, previous)
    assert "nothing was made" in caught.value.hint
    assert os.listdir(tmp_path) == []


def test_a_missing_place_for_the_root_key_leaves_nothing_behind(tmp_path: Path) -> None:
    """If the removable disk is not there, no authority is made without its root key."""
    with pytest.raises(Fault, match="no such file"):
        _make(tmp_path / "a", root_key=tmp_path / "not-mounted" / "root.key")
    assert os.listdir(tmp_path) == []


def _killed_at(step: int, action: Callable[[], None]) -> bool:
    """Run ``action`` in a child that dies, unprepared, at its ``step``-th sync or rename; return whether it died."""
    child = os.fork()
    if child == 0:
        left = step

        def dying(real: Callable[..., Any]) -> Callable[..., Any]:
            def call(*arguments: Any, **options: Any) -> Any:
                nonlocal left
                left -= 1
                if left == 0:
                    os.kill(os.getpid(), signal.SIGKILL)
                return real(*arguments, **options)

            return call

        os.fsync, os.rename = dying(os.fsync), dying(os.rename)
        try:
            action()
        finally:
            os._exit(0)
    _, status = os.waitpid(child, 0)
    return os.WIFSIGNALED(status)


def test_kill_9_at_any_step_leaves_all_or_nothing(tmp_path: Path) -> None:
    """Killed at each sync and at the rename, there is a whole authority or none, never one without its root key."""
    died, step = True, 0
    while died:
        step += 1
        place = tmp_path / str(step)
        place.mkdir()
        died = _killed_at(step, partial(_make, place / "a", root_key=place / "root.key"))
        if (place / "a").exists():
            assert FileAuthority.open(place / "a").root.public_key() == _public(place / "root.key")
        else:
            _make(place / "a")  # what a dead process left behind does not stand in the way
        FileAuthority.open(place / "a")
    assert step > 13  # twelve files, the directories, and once to the end


def _public(path: Path) -> Any:
    return load_pem_private_key(path.read_bytes(), None).public_key()


def test_two_ceremonies_at_once_make_one_authority(tmp_path: Path) -> None:
    """The slower of two is refused, and what the quicker one made stays."""
    original = files.sync_directory

    def overtaken(path: Path) -> None:
        files.sync_directory = original
        _make(tmp_path / "a")

    files.sync_directory = overtaken
    with pytest.raises(Refused, match=r"/a' exists"):
        _make(tmp_path / "a", root_key=tmp_path / "root.key")
    FileAuthority.open(tmp_path / "a")
    assert os.listdir(tmp_path) == ["a"]
