"""Why a host would or would not be accepted: the launcher's own decision, in sentences."""

from __future__ import annotations

import sys
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from handfast.core.hosts import How
from handfast.core.knownhosts import Speaker
from handfast.errors import NotFound, Unreachable, UsageError
from handfast.ssh import config, krl, launcher
from handfast.ssh.config import Source, Where
from handfast.ssh.doctor import Diagnosis, diagnose
from handfast.ssh.snapshot import Kept
from tests.interop.hosts import program
from tests.ssh.fleet import built, host, key, known, listed, put

pytestmark = pytest.mark.peer("ssh")
PYTHON = Path(sys.executable).resolve()
WEB1 = host(
    "web1",
    known(key("a"), How.BUCKET, "bucket of 2026"),
    known(key("b", "ssh-rsa"), How.OPERATOR, ""),
    places=("web1.lan", "10.0.0.1"),
    aliases=("www",),
    ports=(22, 2222),
    retired=(key("old"),),
)
GONE = host("gone", retired=(key("gone"),))
USERS = """\
Host www
 HostName 10.0.0.1
 Port 2222
Host nick
 HostName tunnel.invalid
 HostKeyAlias web1
Host wrong
 HostName web1.lan
 HostKeyAlias gone
Host clash
 HostName 10.0.0.1
"""


@pytest.fixture
def where(tmp_path: Path) -> Where:
    """A user with a snapshot, our line and a configuration."""
    found = Where(tmp_path / ".ssh", tmp_path / "state")
    found.ssh.mkdir(mode=0o700)
    found.config.write_text(USERS)
    put(found.state, WEB1, GONE, host("clash", key("c")), at=datetime.now(UTC))
    config.install(found, Source(), refresh=(), python=PYTHON)
    return found


def asked(where: Where, name: str, *, refresh: Callable[[], Kept] | None = None) -> Diagnosis:
    """The doctor's answer, with the real ssh reading this user's configuration."""
    ssh = where.state / "ssh"
    ssh.write_text(f'#!/bin/sh\nexec {program("ssh")} -F "{where.config}" "$@"\n')
    ssh.chmod(0o700)
    return diagnose(where, name, python=PYTHON, now=datetime.now(UTC), refresh=refresh, ssh=str(ssh))


@pytest.mark.parametrize("name", ["web1", "root@web1.lan", "www", "10.0.0.1", "nick"])
def test_a_machine_is_accepted_with_reasons(where: Where, name: str) -> None:
    """It says where ssh goes, which machine that is, and of each key how it became known."""
    found = asked(where, name)
    text = "\n".join(found.sentences)
    assert found.accepted
    for part in (
        f"ssh {name} goes to",
        "ssh asks us for the host keys",
        "it is the machine web1",
        f"accepted: ssh-ed25519 {key('a').fingerprint}, proved on 2026-11-22 12:00Z: the key signed what the machine",
        "(bucket of 2026)",
        f"accepted: ssh-rsa {key('b', 'ssh-rsa').fingerprint}, reported on 2026-11-22 12:00Z: an operator entered it",
        f"refused: ssh-ed25519 {key('old').fingerprint}, retired on 2026-11-22 12:00Z: superseded",
        "refused: every other key",
        "the snapshot of 3 machines was read on this machine from registrar",
    ):
        assert part in text


@pytest.mark.parametrize(
    ("name", "words"),
    [
        ("other.example", "it is no machine of ours: ssh's own rules apply, StrictHostKeyChecking=ask"),
        ("gone", "refused: it has no key that is believed any more"),
        ("wrong", "refused: it has no key that is believed any more"),
        ("clash", "refused: clash is the machine clash, but ssh is configured to go to 10.0.0.1, which is web1"),
    ],
)
def test_a_refusal_has_its_reason(where: Where, name: str, words: str) -> None:
    """Not ours, removed, or meant and reached are two machines: the last sentence that counts says which."""
    found = asked(where, name)
    assert not found.accepted
    assert words in found.sentences


def test_without_our_line_nothing_is_accepted(where: Where) -> None:
    """The keys are known, and ssh would not ask for them."""
    where.config.write_text(USERS)
    found = asked(where, "web1")
    assert not found.accepted
    assert "ssh does NOT ask us for this host" in found.sentences
    assert any("does not include" in each for each in found.sentences)


def test_a_registrar_that_is_down_is_said(where: Where) -> None:
    """The snapshot serves, with its age; it is the doctor who tried, and who says that it failed."""

    def refresh() -> Kept:
        raise Unreachable("cannot reach registrar.lan:7443: connection refused")

    put(where.state, WEB1, at=datetime.now(UTC), age=timedelta(days=2))
    found = asked(where, "web1", refresh=refresh)
    text = "\n".join(found.sentences)
    assert found.accepted
    assert "the registrar cannot be reached (cannot reach registrar.lan:7443" in text
    assert "2 days ago" in text
    put(where.state, WEB1, at=datetime.now(UTC), age=timedelta(days=8))
    assert not asked(where, "web1", refresh=refresh).accepted


def test_down_and_no_snapshot_is_unreachable(where: Where) -> None:
    """Nothing can be said then, and the exit code says why: 4."""

    def refresh() -> Kept:
        raise Unreachable("cannot reach it")

    (where.state / launcher.HOSTS).unlink()
    with pytest.raises(Unreachable):
        asked(where, "web1", refresh=refresh)
    with pytest.raises(NotFound, match=r"no file|no snapshot"):
        asked(where, "web1")


def test_what_the_registrar_says_now_counts(where: Where) -> None:
    """Where it can be reached, its answer of this moment decides."""
    fresh = Kept(built(host("web1", key("new"))), datetime.now(UTC), None)
    found = asked(where, "web1", refresh=lambda: fresh)
    assert any(key("new").fingerprint in each for each in found.sentences)
    assert not any(key("a").fingerprint in each for each in found.sentences)


def test_json_has_all_of_it(where: Where) -> None:
    """The value for programs: decision, machine, keys with evidence, ssh's options, and the same sentences."""
    view = asked(where, "web1").view()
    assert (view["accepted"], view["machine"], view["asked"], view["findings"]) == (True, "web1", True, [])
    (first, second) = view["keys"]
    assert {first["how"], second["how"]} == {"bucket", "operator"}
    assert view["retired"][0]["reason"] == "superseded"
    assert view["ssh"]["hostname"] == "web1"
    assert asked(where, "other.example").view()["machine"] is None


@pytest.mark.parametrize("name", ["-oProxyCommand=touch pwned", "ssh://x:99999"])
def test_what_ssh_does_not_take_is_a_mistake(where: Where, name: str) -> None:
    """A name that ssh refuses is refused with ssh's words."""
    with pytest.raises(UsageError, match="ssh does not take"):
        asked(where, name)


def test_the_doctor_decides_as_the_launcher(where: Where) -> None:
    """For each of many names the doctor accepts exactly what the launcher would: they share the decision."""
    for name, ours in (("web1", True), ("www", True), ("nick", True), ("other", False), ("10.0.0.2", False)):
        assert asked(where, name).accepted is ours


def test_it_says_for_whom_the_ca_speaks(where: Where) -> None:
    """For a machine that came since, where ssh reads what the CA has taken back; not for one that is known."""
    put(where.state, WEB1, GONE, at=datetime.now(UTC), speaker=Speaker(("*.lan",), key("ca")))
    words = f"a certificate by our CA {key('ca').fingerprint} is believed"
    assert words not in "\n".join(asked(where, "new.lan").sentences)
    krl.keep(where.revoked, listed(1))
    config.install(where, Source(), refresh=(), python=PYTHON)
    found = asked(where, "new.lan")
    assert words in found.sentences[-1]
    assert not found.accepted
    assert words not in "\n".join(asked(where, "web1").sentences)
