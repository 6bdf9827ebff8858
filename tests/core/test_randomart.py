"""The picture of a key is the one that ssh shows, to the byte."""

from __future__ import annotations

from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handfast.core import randomart, sshkeys
from handfast.core.sshkeys import SshKey
from tests.core.sshmaterial import DATA, KINDS, ed25519_key, key, keygen, new_key, pub_file, public, rsa_key

LINES = randomart.HEIGHT + 2


def as_shown(keys: list[SshKey]) -> str:
    """What ``ssh-keygen -lv`` prints for keys without comments."""
    shown = []
    for each in keys:
        name, bits = randomart.kind(each)
        shown.append(f"{bits} {each.fingerprint} root@host ({name})\n{randomart.picture(each)}\n")
    return "".join(shown)


def test_pictures_of_openssh_92() -> None:
    """Keys of every type that OpenSSH 9.2 has look as it showed them."""
    folder = DATA / "randomart"
    keys = [sshkeys.parse(line) for line in (folder / "keys.pub").read_text().splitlines()]
    assert as_shown(keys).replace("root@host", "no comment") == (folder / "shown").read_text()


@pytest.mark.peer("ssh-keygen")
@pytest.mark.parametrize("kind", KINDS)
def test_real_keys(kind: str, tmp_path: Path) -> None:
    """A key that ssh-keygen has just made looks as ssh-keygen shows it, in type, size and fingerprint too."""
    path = new_key(tmp_path, kind)
    assert as_shown([public(path)]).encode() == keygen("-lvf", path).stdout


@pytest.mark.peer("ssh-keygen")
def test_many_keys(tmp_path: Path) -> None:
    """So do hundreds of fingerprints, RSA keys of every size, and keys in hardware tokens."""
    keys = [ed25519_key(number) for number in range(300)]
    keys += [rsa_key(bits) for bits in (1024, 1025, 2047, 2048, 3072, 4095, 4096, 8192, 10000, 16384)]
    keys.append(key("sk-ssh-ed25519@openssh.com", bytes(32), b"ssh:"))
    shown = keygen("-lvf", pub_file(tmp_path / "keys.pub", keys))
    assert as_shown(keys).encode() == shown.stdout, shown.stderr


def test_size() -> None:
    """A picture has eleven lines of nineteen characters; a border's odd dash is on its right."""
    lines = randomart.picture(ed25519_key(1)).split("\n")
    assert [len(line) for line in lines] == [randomart.WIDTH + 2] * LINES
    assert (lines[0], lines[-1]) == ("+--[ED25519 256]--+", "+----[SHA256]-----+")
    assert randomart.picture(rsa_key(2048)).startswith("+---[RSA 2048]----+\n")


@pytest.mark.parametrize(
    ("algorithm", "title"),
    [
        ("ssh-mldsa-44", "+-[ssh-mldsa-44]--+"),
        ("ssh-mldsa44-ed25519@openssh.com", "+[ssh-mldsa44-ed]-+"),
        ("abc", "[abc]"),
    ],
)
def test_a_type_of_tomorrow(algorithm: str, title: str) -> None:
    """A type that we do not know has its picture, under as much of its name as there is room for."""
    unknown = key(algorithm, b"x")
    assert randomart.kind(unknown) == (algorithm, None)
    assert title in randomart.picture(unknown).split("\n")[0]
    assert randomart.picture(unknown).split("\n")[1:-1] != randomart.picture(key(algorithm, b"y")).split("\n")[1:-1]


@given(st.sampled_from(["ssh-rsa", "ssh-dss", "ssh-ed25519", "x-y@z"]), st.binary(min_size=1))
def test_anything(algorithm: str, content: bytes) -> None:
    """A key of any content can be shown, also one that is none."""
    shown = SshKey(algorithm, len(algorithm).to_bytes(4) + algorithm.encode() + content)
    assert [len(line) for line in randomart.picture(shown).split("\n")] == [randomart.WIDTH + 2] * LINES
