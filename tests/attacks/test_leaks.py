"""P12: canaries in every secret, and a search for them wherever secrets have been found before."""

from __future__ import annotations

import base64
import os
import urllib.parse
from collections.abc import Iterator
from pathlib import Path

import pytest
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from handfast.core.invitation import InvitationLine
from handfast.newcomer.keystore import Keystore
from tests.attacks.world import Registrar, run

PASSPHRASE = "canary passphrase 5b1e"

# The hook writes down what any user could see of its parents, and what it inherited itself.
HOOK = """
for p in /proc/[0-9]*; do cat "$p/cmdline"; done > "$HANDFAST_OUT/../argv" 2>/dev/null
env > "$HANDFAST_OUT/../environ"
"""


def forms(secret: bytes) -> Iterator[bytes]:
    """The ways in which bytes get into texts. Shorter pieces of the base64 forms, for any alignment."""
    yield secret
    yield secret.hex().encode()
    yield secret.hex().upper().encode()
    yield repr(secret)[2:-1].encode()
    yield urllib.parse.quote_from_bytes(secret).encode()
    for skip in range(3):
        for encode in (base64.b64encode, base64.urlsafe_b64encode):
            yield encode(secret[skip : skip + (len(secret) - skip) // 3 * 3])


def files(directory: Path) -> bytes:
    """Everything below a directory, names included."""
    paths = [path for path in sorted(directory.rglob("*")) if path.is_file() and not path.is_symlink()]
    return b"".join(str(path).encode() + b"\n" + path.read_bytes() for path in paths)


class Story:
    """A registrar with a passphrase, a join, a renewal with a hook, and a theft; and all that it left behind."""

    def __init__(self, directory: Path) -> None:
        self.directory = directory
        (directory / "passphrase").write_text(PASSPHRASE)
        (directory / "passphrase").chmod(0o600)
        self.out = directory / "out"
        with Registrar.new(directory).start("--passphrase-file", str(directory / "passphrase")) as registrar:
            self.line = registrar.invite()
            text = self.line.reveal()
            said = [run("join", "--out", str(self.out), HANDFAST_INVITATION=text)]
            assert said[0].returncode == 0, said[0].stderr
            self.first = Keystore(self.out).load()
            # Secrets that somebody left in the environment of a timer's unit do not reach the hook either.
            left = {"HANDFAST_INVITATION": text, "HANDFAST_PASSPHRASE": PASSPHRASE}
            said.append(run("renew", "--out", str(self.out), "--exec", HOOK, **left))
            assert said[1].returncode == 0, said[1].stderr
            self.second = Keystore(self.out).load()
            said.append(run("join", "--out", str(directory / "thief"), stdin=text))
            assert said[2].returncode == 3
            for wrong in (text[:-1], text[:40] + "A" + text[41:], f"x{text}"):
                said.append(run("join", "--out", str(directory / "typo"), stdin=wrong))
                assert said[-1].returncode == 3
            said.append(run("join", "--out", str(directory / "typo"), text))
            assert said[-1].returncode == 2
            mine, theirs = ("--out", str(self.out)), ("--data", str(registrar.data))
            said += [run("explain", *mine), run("status", "--json", *mine)]
            said += [run("show", "web1.lan", "--json", *theirs), run("list", "--json", *theirs)]
        self.said = "".join(done.stdout + done.stderr for done in said).encode()
        self.log = registrar.log.read_bytes()
        self.data = registrar.data

    def secrets(self) -> dict[str, bytes]:
        """What must not be found."""
        found = {
            "seed": self.line.seed.reveal(),
            "line": self.line.reveal()[20:90].encode(),
            "passphrase": PASSPHRASE.encode(),
        }
        for name, material in (("first", self.first), ("second", self.second)):
            found[f"{name} key"] = material.private_key.private_numbers().private_value.to_bytes(32, "big")
            found[f"{name} way back"] = material.reintroduction_key.private_bytes(
                Encoding.Raw, PrivateFormat.Raw, NoEncryption()
            )
        return found


@pytest.fixture(scope="module")
def story(tmp_path_factory: pytest.TempPathFactory) -> Story:
    """Played once."""
    return Story(tmp_path_factory.mktemp("story"))


def search(content: bytes, secrets: dict[str, bytes]) -> list[str]:
    """The names of the secrets that are in there."""
    return [name for name, secret in secrets.items() if any(form in content for form in forms(secret))]


def test_the_search_finds_what_is_there(story: Story) -> None:
    """The invitation's own line holds the seed at an odd offset: the search would see it anywhere."""
    assert search(story.line.reveal().encode(), story.secrets()) == ["seed", "line"]
    assert search(repr(story.secrets()["first key"]).encode(), story.secrets()) == ["first key"]
    assert InvitationLine.parse(story.line.reveal()).key_id.encode() in story.said


def test_P12_no_secret_in_any_argument_list(story: Story) -> None:
    """Seen from the hook while the command was running: what `ps` shows to every user."""
    argv = (story.directory / "argv").read_bytes()
    assert b"renew" in argv
    assert search(argv, story.secrets()) == []


def test_P12_no_secret_in_the_environment_of_children(story: Story) -> None:
    """The hook got its two variables and none of ours, not even those that lay in our own environment."""
    environ = (story.directory / "environ").read_bytes()
    assert b"HANDFAST_OUT=" in environ
    assert b"HANDFAST_NAME=web1.lan" in environ
    assert search(environ, story.secrets()) == []


def test_P12_no_secret_in_what_the_commands_say(story: Story) -> None:
    """stdout and stderr of joins good and bad, renewal, explain, status, show and list."""
    assert b"Traceback" not in story.said
    assert search(story.said, story.secrets()) == []


def test_P12_no_secret_in_the_registrars_log(story: Story) -> None:
    """JSON lines of every request, also of those that were refused."""
    assert b"introductions" in story.log
    assert b"Traceback" not in story.log
    assert search(story.log, story.secrets()) == []


def test_P12_no_secret_in_the_registrars_files(story: Story) -> None:
    """A stolen data directory has neither seeds nor newcomers' keys, nor the passphrase for its own."""
    content = files(story.data)
    assert story.line.public_key().hex().encode() in content or story.line.public_key() in content
    assert search(content, story.secrets()) == []
    assert b"BEGIN ENCRYPTED PRIVATE KEY" in content
    assert b"BEGIN PRIVATE KEY" not in content
    assert b"BEGIN EC PRIVATE KEY" not in content


def test_P12_the_newcomer_keeps_its_keys_to_itself(story: Story) -> None:
    """Private keys are in 0600 files only; the seed is in none."""
    secrets = story.secrets()
    assert search(files(story.out), {"seed": secrets["seed"], "line": secrets["line"]}) == []
    for path in story.out.rglob("*"):
        if path.is_file() and not path.is_symlink() and b"PRIVATE KEY" in path.read_bytes():
            assert path.stat().st_mode & 0o077 == 0, path
            assert path.stat().st_uid == os.geteuid()
