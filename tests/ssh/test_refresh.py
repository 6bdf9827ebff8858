"""Getting the snapshot: from a registrar over real TLS, pinned, or from a data directory of this machine."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest

from handfast.adapters.clock import SystemClock
from handfast.cli import ssh_config
from handfast.cli.main import run
from handfast.core.invitation import Address, parse_registrar
from handfast.core.keys import format_pin
from handfast.core.knownhosts import Speaker
from handfast.errors import Malformed, NotFound, Unreachable, UntrustedPeer
from handfast.ssh import krl, launcher, snapshot
from handfast.ssh.config import Source, Where
from handfast.ssh.snapshot import CONTENT_PATH, SIGNATURE_PATH
from tests.authority.helpers import NOW, Pki
from tests.newcomer.fake import Fake, http
from tests.ssh.fleet import KEY, PKI, built, host, key, listed, signed

WEB1 = host("web1", key("a"), places=("web1.lan",))
SPEAKER = Speaker(("*.lan",), key("ca"))


class Registrar(Fake):
    """A registrar that tells whoever asks what it knows."""

    content = built(WEB1, speaker=SPEAKER)
    word = signed(content)
    revoked = listed(1)

    def _respond(self, line: str, body: bytes) -> bytes | None:
        path = line.split(" ")[1]
        answers = {
            CONTENT_PATH: self.content,
            SIGNATURE_PATH: msgspec.json.encode(self.word),
            krl.CONTENT_PATH: self.revoked,
            krl.SIGNATURE_PATH: msgspec.json.encode(signed(self.revoked, label=krl.LABEL)),
        }
        if path in answers:
            self.requests.append(line.removesuffix(" HTTP/1.1"))
            return http(answers[path])
        return super()._respond(line, body)


@pytest.fixture
def registrar() -> Iterator[Registrar]:
    """One that listens."""
    with Registrar(PKI, key=KEY) as made:
        yield made


@pytest.fixture(autouse=True)
def _clock(monkeypatch: pytest.MonkeyPatch) -> None:
    """It is the time of the certificates."""
    monkeypatch.setattr(SystemClock, "now", lambda _self: NOW)


@pytest.fixture
def where(tmp_path: Path) -> Where:
    """A user without anything."""
    return Where(tmp_path / ".ssh", tmp_path / "state")


def source(registrar: Registrar, pin: bytes = PKI.pin) -> Source:
    """Where the user was told to ask."""
    return Source(registrar=f"https://{registrar.address}#{format_pin(pin)}")


def test_a_pin_is_enough(registrar: Registrar, where: Where) -> None:
    """Without a credential, over TLS to the key under the pin, the snapshot arrives and is kept."""
    ssh_config._refresh(where, source(registrar))
    paths = (SIGNATURE_PATH, CONTENT_PATH, krl.SIGNATURE_PATH, krl.CONTENT_PATH)
    assert registrar.requests == [each for path in paths for each in ("GET /v1/hello", f"GET {path}")]
    assert krl.read(where.revoked) == registrar.revoked
    kept = snapshot.load(where.state)
    assert snapshot.lookup(kept.content, "web1", 22) == WEB1
    assert registrar.client is None


def test_again_only_the_signature_is_fetched(registrar: Registrar, where: Where) -> None:
    """What is here already is vouched for anew, and not sent again."""
    ssh_config._refresh(where, source(registrar))
    registrar.requests.clear()
    ssh_config._refresh(where, source(registrar))
    paths = (SIGNATURE_PATH, krl.SIGNATURE_PATH)
    assert registrar.requests == [each for path in paths for each in ("GET /v1/hello", f"GET {path}")]


def test_where_no_ca_speaks_its_list_is_not_asked_for(registrar: Registrar, where: Where) -> None:
    """Certificates are believed by nobody; but one that ssh was told of before is kept new."""
    registrar.content = built(WEB1)
    registrar.word = signed(registrar.content)
    ssh_config._refresh(where, source(registrar))
    assert f"GET {krl.SIGNATURE_PATH}" not in registrar.requests
    assert not where.revoked.exists()
    krl.keep(where.revoked, listed(0))
    ssh_config._refresh(where, source(registrar))
    assert where.revoked.read_bytes() == registrar.revoked


def test_P31_a_list_that_went_back_leaves_everything_as_it_was(registrar: Registrar, where: Where) -> None:
    """The snapshot is not renewed either: its age is the age of both, and in the end nothing of ours is believed."""
    registrar.revoked = listed(2, hosts=(5,))
    ssh_config._refresh(where, source(registrar))
    before = {path.name: path.read_bytes() for path in where.state.iterdir()}
    registrar.revoked = listed(1)
    registrar.word = signed(registrar.content, at=NOW + timedelta(minutes=1))
    with pytest.raises(UntrustedPeer, match="which lacks what version 2 has"):
        ssh_config._refresh(where, source(registrar))
    assert {path.name: path.read_bytes() for path in where.state.iterdir()} == before


def test_a_damaged_snapshot_is_mended(registrar: Registrar, where: Where) -> None:
    """What cannot be read here is no obstacle to what the registrar sends."""
    ssh_config._refresh(where, source(registrar))
    (where.state / launcher.HOSTS).write_bytes(b"damaged")
    ssh_config._refresh(where, source(registrar))
    assert snapshot.load(where.state).content == registrar.content


def test_P16_another_pin_is_refused_before_anything_is_asked(registrar: Registrar, where: Where) -> None:
    """Somebody in the middle is asked for nothing but the hello."""
    with pytest.raises(UntrustedPeer):
        ssh_config._refresh(where, source(registrar, Pki.make().pin))
    assert registrar.requests == ["GET /v1/hello"]
    assert not where.state.exists()


def test_P16_a_lie_leaves_what_was_there(registrar: Registrar, where: Where) -> None:
    """A signature that does not fit changes no file."""
    ssh_config._refresh(where, source(registrar))
    before = {path.name: path.read_bytes() for path in where.state.iterdir()}
    registrar.content = built()
    registrar.word = msgspec.structs.replace(signed(built()), signature=registrar.word.signature)
    with pytest.raises(UntrustedPeer):
        ssh_config._refresh(where, source(registrar))
    assert {path.name: path.read_bytes() for path in where.state.iterdir()} == before


def test_a_registrar_that_is_down_is_unreachable(registrar: Registrar, where: Where) -> None:
    """The class of the error is the one that doctor knows as: the snapshot serves."""
    ssh_config._refresh(where, source(registrar))
    registrar.__exit__()
    with pytest.raises(Unreachable):
        ssh_config._refresh(where, source(registrar))
    assert snapshot.load(where.state).at == NOW


def test_a_data_directory_without_registrar_is_not_found(where: Where, tmp_path: Path) -> None:
    """Nothing is made there."""
    with pytest.raises(NotFound):
        ssh_config._refresh(where, Source(data=str(tmp_path / "nothing")))
    assert not (tmp_path / "nothing").exists()


@pytest.mark.parametrize("text", ["https://r.lan:7443#{}", "r.lan:7443#{}", "https://r.lan:7443/#{}"])
def test_a_registrar_is_named_by_address_and_pin(text: str) -> None:
    """As `handfast ca show` and the documents write it."""
    pin = format_pin(PKI.pin)
    assert parse_registrar(text.format(pin)) == (Address("r.lan", 7443), PKI.pin)


@pytest.mark.parametrize(
    "text", ["", "https://r.lan:7443", "https://r.lan:7443#", "https://r.lan:7443#00", "#" + "0" * 64]
)
def test_a_registrar_without_a_whole_pin_is_refused(text: str) -> None:
    """A short pin could be found again by trying."""
    with pytest.raises(Malformed):
        parse_registrar(text)


def test_a_held_snapshot_of_the_future_does_not_count(registrar: Registrar, where: Where) -> None:
    """Nothing older than what is held replaces it; the person is told."""
    late = signed(registrar.content, at=NOW + timedelta(minutes=4))
    snapshot.keep(where.state, snapshot.Kept(registrar.content, NOW + timedelta(minutes=4), late))
    with pytest.raises(UntrustedPeer, match="there is one of"):
        ssh_config._refresh(where, source(registrar))


# --- the commands ---


@pytest.fixture
def user(where: Where, monkeypatch: pytest.MonkeyPatch) -> Where:
    """Whoever types the commands."""
    monkeypatch.setattr(ssh_config, "_where", lambda: where)
    return where


@pytest.mark.peer("ssh")
def test_the_commands_from_install_to_remove(
    registrar: Registrar, user: Where, capsys: pytest.CaptureFixture[str]
) -> None:
    """Install says what is known; refresh, which ssh starts, needs no arguments; remove leaves nothing."""
    assert run(["ssh-config", "install", "--registrar", str(source(registrar).registrar), "--known-hosts-file"]) == 0
    assert "1 machine of registrar" in capsys.readouterr().err
    registrar.content = built(WEB1, host("web2", key("b")))
    registrar.word = signed(registrar.content)
    assert run(["ssh-config", "refresh"]) == 0
    assert "2 machines, as of 2026-11-22 12:00Z" in capsys.readouterr().err
    assert "web2 ssh-ed25519" in user.known_hosts.read_text()
    assert run(["ssh-config", "remove"]) == 0
    assert list(user.state.iterdir()) == []
    assert not user.ssh.exists()


@pytest.mark.peer("ssh")
def test_an_installation_needs_a_source(user: Where, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Without one, or with two, it is a mistake; nothing is written."""
    monkeypatch.setenv("HANDFAST_OUT", str(tmp_path / "none"))
    assert run(["ssh-config", "install"]) == 2
    assert run(["ssh-config", "install", "--data", "x", "--registrar", f"r.lan:1#{'0' * 64}"]) == 2
    assert run(["ssh-config", "install", "--registrar", "r.lan:1#00"]) == 2
    assert not user.ssh.exists()


@pytest.mark.peer("ssh")
def test_a_registrar_that_is_down_installs_nothing(registrar: Registrar, user: Where) -> None:
    """Without a snapshot no connection would go on, so there is no line for ssh either."""
    registrar.__exit__()
    assert run(["ssh-config", "install", "--registrar", str(source(registrar).registrar)]) == 4
    assert not user.ssh.exists()


@pytest.mark.peer("ssh")
def test_the_doctor_without_registrar_and_snapshot_ends_with_4(
    registrar: Registrar, user: Where, capsys: pytest.CaptureFixture[str]
) -> None:
    """0 would be accepted and 3 refused; where nothing can be known it is 4. A snapshot is enough to know."""
    assert run(["ssh-config", "install", "--registrar", str(source(registrar).registrar)]) == 0
    registrar.__exit__()
    capsys.readouterr()
    assert run(["doctor", "nobody.example"]) == 3
    assert "the registrar cannot be reached" in capsys.readouterr().out
    (user.state / launcher.HOSTS).unlink()
    assert run(["doctor", "nobody.example"]) == 4
