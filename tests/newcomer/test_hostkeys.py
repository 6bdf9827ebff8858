"""The host keys of this machine: which are published, and why others are not."""

from __future__ import annotations

import os
import shutil
from pathlib import Path

import pytest

from handfast.core import sshsig
from handfast.core.hostproof import HostKeys
from handfast.core.sshkeys import MAX_KEYS
from handfast.errors import NotFound, TooMuch, Unsafe
from handfast.newcomer import hostkeys
from tests.core.sshmaterial import KINDS, keygen, new_key, public

pytestmark = pytest.mark.peer("ssh-keygen")


def made(directory: Path, kind: str, name: str = "") -> Path:
    """A key as sshd's default has it."""
    path = new_key(directory, kind)
    for suffix in ("", ".pub"):
        path.with_name(path.name + suffix).rename(directory / f"ssh_host_{name or kind}_key{suffix}")
    return directory / f"ssh_host_{name or kind}_key"


def load(directory: Path) -> tuple[HostKeys, tuple[str, ...]]:
    """Read what is there."""
    return hostkeys.load(directory, ports=(22,))


def test_every_kind_is_read(tmp_path: Path) -> None:
    """Keys of each kind that sshd makes can sign, in a steady order, and nothing is left out."""
    paths = [made(tmp_path, kind) for kind in KINDS]
    keys, remarks = hostkeys.load(tmp_path, ports=(22, 2222))
    assert {signer.public for signer in keys.signers} == {public(path) for path in paths}
    assert (keys.ports, remarks) == ((22, 2222), ())
    for signer in keys.signers:
        assert sshsig.verify(signer.sign(b"x", "n"), b"x", namespace="n") == signer.public


def test_what_debian_makes(tmp_path: Path) -> None:
    """`ssh-keygen -A` makes what is found by default."""
    (tmp_path / "etc/ssh").mkdir(parents=True)
    assert keygen("-A", "-f", tmp_path).returncode == 0
    keys, remarks = load(tmp_path / "etc/ssh")
    assert {"ssh-ed25519", "ecdsa-sha2-nistp256", "ssh-rsa"} <= {signer.public.algorithm for signer in keys.signers}
    assert [each for each in remarks if "dsa" not in each] == []


@pytest.mark.parametrize("empty", [True, False])
def test_nothing_there(tmp_path: Path, empty: bool) -> None:
    """No directory, and one without keys, say how to have some."""
    directory = tmp_path / "ssh"
    if empty:
        directory.mkdir()
        (directory / "sshd_config").touch()
    with pytest.raises(NotFound, match="no SSH host keys in") as caught:
        load(directory)
    assert "ssh-keygen -A" in caught.value.hint
    assert "--ssh-dir" in caught.value.hint


@pytest.mark.parametrize("mode", [0o644, 0o640, 0o660, 0o602])
def test_a_key_that_others_can_read_is_refused(tmp_path: Path, mode: int) -> None:
    """Nobody is told to believe a key that others may have."""
    made(tmp_path, "ed25519").chmod(mode)
    with pytest.raises(Unsafe, match="can be read or written by others"):
        load(tmp_path)


def test_a_key_of_red_hat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """There a group of sshd's own may read it, and no other; nobody may write it."""
    path = made(tmp_path, "ed25519")
    path.chmod(0o640)
    monkeypatch.setattr(hostkeys, "_group", lambda: path.stat().st_gid)
    assert len(load(tmp_path)[0].signers) == 1
    path.chmod(0o660)
    with pytest.raises(Unsafe):
        load(tmp_path)
    path.chmod(0o640)
    monkeypatch.setattr(hostkeys, "_group", lambda: path.stat().st_gid + 1)
    with pytest.raises(Unsafe):
        load(tmp_path)


@pytest.mark.root
def test_another_users_key_is_refused(tmp_path: Path) -> None:
    """Root publishes no key that a user could have put there."""
    os.chown(made(tmp_path, "ed25519"), 65534, 65534)
    with pytest.raises(Unsafe, match="belongs to user id 65534"):
        load(tmp_path)


def test_a_public_file_of_another_key(tmp_path: Path) -> None:
    """What was mixed up is left out with a remark, and the others are published."""
    path, other = made(tmp_path, "ed25519"), made(tmp_path, "p256")
    shutil.copy(f"{other}.pub", f"{path}.pub")
    keys, (remark,) = load(tmp_path)
    assert [signer.public for signer in keys.signers] == [public(other)]
    assert "ssh_host_ed25519_key' is not published: ssh_host_ed25519_key.pub is another key" in remark


@pytest.mark.parametrize("content", [None, "", "no key\n", "ssh-ed25519 AAAA\n"])
def test_a_public_file_is_not_needed(tmp_path: Path, content: str | None) -> None:
    """sshd needs none either: without one, or with one that is no key, the private one says which it is."""
    path = made(tmp_path, "ed25519")
    beside = Path(f"{path}.pub")
    if content is None:
        beside.unlink()
    else:
        beside.write_text(content)
    assert len(load(tmp_path)[0].signers) == 1


def test_a_passphrase(tmp_path: Path) -> None:
    """A key with a passphrase is none that sshd could read."""
    path = made(tmp_path, "ed25519")
    made(tmp_path, "p256")
    assert keygen("-p", "-q", "-N", "secret words", "-f", path).returncode == 0
    keys, (remark,) = load(tmp_path)
    assert [signer.public.algorithm for signer in keys.signers] == ["ecdsa-sha2-nistp256"]
    assert "has a passphrase" in remark


def test_what_does_not_sign_is_left_out(tmp_path: Path) -> None:
    """What is no key, and a key that is too short, are not published; alone they are nothing, and all is said."""
    (tmp_path / "ssh_host_mldsa44_key").write_text("a key of tomorrow\n")
    assert keygen("-q", "-t", "rsa", "-b", "1024", "-N", "", "-f", tmp_path / "ssh_host_rsa_key").returncode == 0
    for path in tmp_path.glob("*_key"):
        path.chmod(0o600)
    with pytest.raises(NotFound) as caught:
        load(tmp_path)
    assert "ssh_host_mldsa44_key' is not published: not an SSH private key" in caught.value.message
    assert "ssh_host_rsa_key' is not published: an RSA key of 1024 bits" in caught.value.message
    made(tmp_path, "ed25519")
    keys, remarks = load(tmp_path)
    assert (len(keys.signers), len(remarks)) == (1, 2)


def test_other_files_are_not_looked_at(tmp_path: Path) -> None:
    """Certificates, public halves, backups and users' keys are no host keys of ours."""
    path = made(tmp_path, "ed25519")
    for name in ("ssh_host_ed25519_key-cert.pub", "ssh_host_ed25519_key.bak", "id_ed25519", "moduli"):
        shutil.copy(path, tmp_path / name)
    keys, remarks = load(tmp_path)
    assert (len(keys.signers), remarks) == (1, ())


def test_more_than_a_machine_may_have(tmp_path: Path) -> None:
    """Too many are refused here, and not at the registrar."""
    path = made(tmp_path, "ed25519")
    for number in range(MAX_KEYS):
        shutil.copy(path, tmp_path / f"ssh_host_{number}_key")
    with pytest.raises(TooMuch, match="33 SSH host keys"):
        load(tmp_path)
