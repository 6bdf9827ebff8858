"""Two files of ours and one line of the user's: written whole, taken away whole, and in nobody else's way."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import sys
from datetime import UTC, datetime
from pathlib import Path

import pytest

from handfast.core.knownhosts import Speaker
from handfast.errors import NotFound, Refused, Unsafe, UsageError
from handfast.ssh import config, krl, launcher
from handfast.ssh.config import Source, Where
from tests.interop.hosts import program
from tests.ssh.fleet import host, key, listed, put

PYTHON = Path(sys.executable).resolve()
WEB1 = host("web1", key("a"), key("b", "ssh-rsa"), places=("web1.lan", "10.0.0.1"), ports=(22, 2222))
pytestmark = pytest.mark.peer("ssh")


@pytest.fixture
def where(tmp_path: Path) -> Where:
    """A user who has a snapshot, and no configuration of ssh yet."""
    found = Where(tmp_path / "home" / ".ssh", tmp_path / "state")
    found.ssh.mkdir(parents=True, mode=0o700)
    put(found.state, WEB1, host("gone", retired=(key("old"),)), at=datetime.now(UTC))
    return found


def install(where: Where, known_hosts: Path | None = None) -> list[str]:
    """As the command does."""
    source = Source(data="/srv/data", known_hosts=None if known_hosts is None else str(known_hosts))
    return config.install(where, source, refresh=("/bin/true",), python=PYTHON)


def ssh(where: Where) -> str:
    """The real ssh, with this user's configuration for its default one."""
    path = where.state / "ssh"
    path.write_text(f'#!/bin/sh\nexec {program("ssh")} -F "{where.config}" "$@"\n')
    path.chmod(0o700)
    return str(path)


USERS = b"# mine\r\nHost *.example\n\tUser root\n\n  Port 2222\nHost *\n StrictHostKeyChecking accept-new"


@pytest.mark.parametrize("content", [None, b"", b"\n", USERS, USERS + b"\n", b"\xff\xfe\n"])
def test_remove_restores_byte_for_byte(where: Where, content: bytes | None) -> None:
    """Whatever the user had, or had not, is there again after install and remove."""
    if content is not None:
        where.config.write_bytes(content)
    before = sorted(where.ssh.rglob("*"))
    install(where)
    assert where.config.read_bytes() == where.include + (content or b"")
    config.remove(where)
    assert (where.config.read_bytes() if where.config.exists() else None) == content
    assert sorted(where.ssh.rglob("*")) == before
    assert sorted(path.name for path in where.state.iterdir()) == []
    assert config.remove(where) == ["nothing was installed"]


def test_install_again_changes_nothing(where: Where) -> None:
    """It is idempotent, and what it made the first time is still known to be taken away."""
    install(where)
    before = where.config.stat()
    assert install(where)[-1].endswith("already")
    assert where.config.stat().st_ino == before.st_ino
    config.remove(where)
    assert not where.config.exists()
    assert where.ssh.is_dir()


def test_an_include_that_slipped_down_is_put_first_again(where: Where) -> None:
    """A line above it would win: install moves it to the front, once."""
    install(where)
    where.config.write_bytes(b"Host a\n" + where.include + b"User b\n")
    install(where)
    assert where.config.read_bytes() == where.include + b"Host a\nUser b\n"


@pytest.mark.parametrize("mode", [0o600, 0o644, 0o400])
def test_the_users_file_keeps_its_mode(where: Where, mode: int) -> None:
    """Mode, owner and group are what they were."""
    where.config.write_bytes(USERS)
    where.config.chmod(mode)
    before = where.config.stat()
    install(where)
    after = where.config.stat()
    assert (after.st_mode, after.st_uid, after.st_gid) == (before.st_mode, before.st_uid, before.st_gid)


@pytest.mark.root
def test_the_users_file_keeps_its_group(where: Where) -> None:
    """A file that a group may read is still that group's."""
    where.config.write_bytes(USERS)
    os.chown(where.config, -1, 12345)
    install(where)
    assert where.config.stat().st_gid == 12345


def test_a_link_of_ones_own_is_followed(where: Where, tmp_path: Path) -> None:
    """Who keeps the configuration among other dotfiles finds it there, changed and restored, and still linked."""
    dotfiles = tmp_path / "dotfiles"
    dotfiles.mkdir()
    (dotfiles / "ssh").write_bytes(USERS)
    where.config.symlink_to(dotfiles / "ssh")
    install(where)
    assert where.config.is_symlink()
    assert (dotfiles / "ssh").read_bytes() == where.include + USERS
    config.remove(where)
    assert (dotfiles / "ssh").read_bytes() == USERS


@pytest.mark.root
@pytest.mark.parametrize("whose", ["link", "file", "directory"])
def test_what_belongs_to_another_user_is_refused(where: Where, tmp_path: Path, whose: str) -> None:
    """Another user's link, file or directory could lead us to write elsewhere, or change after we have."""
    target = tmp_path / "target" / "config"
    target.parent.mkdir()
    target.write_bytes(USERS)
    where.config.symlink_to(target)
    paths = {"link": where.config, "file": target, "directory": target.parent}
    os.chown(paths[whose], 12345, -1, follow_symlinks=False)
    with pytest.raises(Unsafe, match="belongs to user id 12345"):
        install(where)
    assert target.read_bytes() == USERS


@pytest.mark.parametrize("which", ["config", "ssh"])
def test_what_others_can_write_is_refused(where: Where, which: str) -> None:
    """ssh itself refuses such a file, and would then refuse every connection."""
    where.config.write_bytes(USERS)
    path = {"config": where.config, "ssh": where.ssh}[which]
    path.chmod(0o770)
    with pytest.raises(Unsafe, match="others can write"):
        install(where)
    assert where.config.read_bytes() == USERS


def test_without_a_snapshot_nothing_is_installed(tmp_path: Path) -> None:
    """No connection would go on."""
    where = Where(tmp_path / ".ssh", tmp_path / "state")
    with pytest.raises(NotFound):
        install(where)
    assert not where.ssh.exists()


@pytest.mark.parametrize("name", ["it's", 'a"b', "a\\b", "$HOME", "100%", "a*", "a\nb", "${x}"])
def test_a_path_that_ssh_would_read_otherwise_is_refused(where: Where, tmp_path: Path, name: str) -> None:
    """Quotes, tokens, variables and patterns in our own paths mean something in ssh's configuration."""
    odd = Where(where.ssh, tmp_path / name)
    put(odd.state, WEB1, at=datetime.now(UTC))
    with pytest.raises(Refused, match="cannot name"):
        install(odd)
    assert not where.config.exists()


@pytest.mark.parametrize("says", ["OpenSSH_8.4p1 Debian-5", "OpenSSH_7.9", "Dropbear v2022.83", "", "OpenSSH_x"])
def test_an_ssh_that_cannot_ask_is_refused(tmp_path: Path, says: str) -> None:
    """Before 8.5 the option is unknown, and ssh would refuse the whole configuration."""
    old = tmp_path / "ssh"
    old.write_text(f"#!/bin/sh\necho '{says}' >&2\n")
    old.chmod(0o700)
    with pytest.raises(Refused, match="cannot ask for host keys"):
        config.check_version(str(old))


def test_this_ssh_can_ask() -> None:
    """The real one tells its version."""
    config.check_version(program("ssh"))


def test_the_option_is_in_effect(where: Where) -> None:
    """ssh itself says that it would ask us, also for a user who has set much else."""
    where.config.write_bytes(USERS)
    install(where)
    for name in ("web1", "other.example", "10.0.0.1"):
        effect = config.check(where, name, python=PYTHON, ssh=ssh(where))
        assert effect.asked
        assert effect.findings == ()
        assert effect.options["stricthostkeychecking"] == "accept-new"


@pytest.mark.parametrize(
    ("first", "asked", "finding"),
    [
        (b"KnownHostsCommand /bin/false %H\n", False, "line 1 of .*KnownHostsCommand /bin/false"),
        (b"# x\nHost *.lan\n", False, "line 2 of .*comes before our Include.*Host"),
        (b"Match host *.lan\n", False, "line 1 of .*Match host"),
        (b"Include /nonexistent\n", True, ""),
        (b"Host=*.lan\nUser x\n", False, "line 1 of"),
    ],
)
def test_what_stands_above_is_found(where: Where, first: bytes, asked: bool, finding: str) -> None:
    """An earlier line that takes the option away is named, with its number."""
    install(where)
    where.config.write_bytes(first + where.include)
    effect = config.check(where, "web1", python=PYTHON, ssh=ssh(where))
    assert effect.asked is asked
    if not asked:
        assert re.search(finding, effect.findings[0])


def test_another_installation_of_ours_is_found(where: Where, tmp_path: Path) -> None:
    """After a move of Python or of our directory check says which command mends it."""
    install(where)
    other = tmp_path / "python"
    other.symlink_to(PYTHON)
    effect = config.check(where, "web1", python=other, ssh=ssh(where))
    assert not effect.asked
    assert "of another version or installation of ours" in effect.findings[0]


def test_the_launcher_follows_the_version(where: Where) -> None:
    """A refresh by a newer version brings the launcher that understands its snapshot."""
    install(where)
    (where.state / "launcher.py").write_text("old\n")
    config.copy_launcher(where)
    assert (where.state / "launcher.py").read_bytes() == Path(launcher.__file__).read_bytes()


def test_what_is_missing_is_found(where: Where) -> None:
    """Without the line, or without the file, check says which command mends it."""
    where.config.write_bytes(USERS)
    program_ = ssh(where)
    (finding,) = config.check(where, "web1", python=PYTHON, ssh=program_).findings
    assert "is not there: run `handfast ssh-config install`" in finding
    install(where)
    where.config.write_bytes(USERS)
    (finding,) = config.check(where, "web1", python=PYTHON, ssh=program_).findings
    assert "does not include" in finding


@pytest.mark.parametrize(
    ("line", "words"),
    [
        ("VerifyHostKeyDNS yes", "VerifyHostKeyDNS is on"),
        ("GSSAPIKeyExchange yes", "GSSAPIKeyExchange is on"),
        ("StrictHostKeyChecking no", "StrictHostKeyChecking is off"),
    ],
)
def test_what_is_worth_knowing_is_said(where: Where, line: str, words: str) -> None:
    """Options that go past us, or leave others unchecked, are pointed out."""
    install(where)
    where.config.write_bytes(where.include + f"{line}\n".encode())
    (finding,) = config.check(where, "web1", python=PYTHON, ssh=ssh(where)).findings
    assert words in finding


def test_on_loopback_keys_are_checked_as_well(where: Where) -> None:
    """ssh would not ask us: so the user's word for it does not count, unless it stands before ours, which is said."""
    install(where)
    line = b"NoHostAuthenticationForLocalhost yes\n"
    where.config.write_bytes(where.include + line)
    effect = config.check(where, "localhost", python=PYTHON, ssh=ssh(where))
    assert (effect.options["nohostauthenticationforlocalhost"], effect.findings) == ("no", ())
    where.config.write_bytes(line + where.include)
    (finding,) = config.check(where, "localhost", python=PYTHON, ssh=ssh(where)).findings
    assert "NoHostAuthenticationForLocalhost is on" in finding


# --- the list of revoked keys ---


SPEAKER = Speaker(("*.lan",), key("ca"))


@pytest.fixture
def speaking(where: Where) -> Where:
    """A user who has heard of a CA that speaks, and of what it has taken back."""
    put(where.state, WEB1, at=datetime.now(UTC), speaker=SPEAKER)
    krl.keep(where.revoked, listed(1))
    return where


def options(where: Where) -> dict[str, str]:
    """What ssh makes of it all."""
    return config.check(where, "web1", python=PYTHON, ssh=ssh(where)).options


def test_ssh_reads_the_list_of_revoked_keys(speaking: Where) -> None:
    """Where a CA speaks, ssh is told of its list, and the launcher may tell of the CA; all of it goes with `remove`."""
    where = speaking
    install(where)
    assert options(where)["revokedhostkeys"] == str(where.revoked)
    assert b"revoked here\n" in (where.state / launcher.SETTINGS).read_bytes()
    assert install(where)[-1].endswith("already")
    (where.state / "ssh").unlink()
    config.remove(where)
    assert list(where.state.iterdir()) == []


@pytest.mark.parametrize("speaks", [True, False])
def test_without_a_list_or_a_ca_ssh_is_told_of_none(where: Where, *, speaks: bool) -> None:
    """ssh would refuse every host for a file that is not there; and for a serial machines whose keys are known."""
    if speaks:
        put(where.state, WEB1, at=datetime.now(UTC), speaker=SPEAKER)
    else:
        krl.keep(where.revoked, listed(1))
    install(where)
    findings = " ".join(config.check(where, "web1", python=PYTHON, ssh=ssh(where)).findings)
    assert ("is told of no machine that came since" in findings) == speaks
    assert options(where).get("revokedhostkeys", "none") == "none"
    assert b"revoked" not in (where.state / launcher.SETTINGS).read_bytes()


def test_another_list_stays_in_effect(speaking: Where, monkeypatch: pytest.MonkeyPatch) -> None:
    """ssh reads one list only: what the system has forbidden stays forbidden, and our CA is not told."""
    where = speaking
    true = config.effective
    monkeypatch.setattr(config, "effective", lambda host, *, ssh: true(host, ssh=ssh) | {"revokedhostkeys": "/etc/x"})
    assert "RevokedHostKeys /etc/x stays" in " ".join(install(where))
    assert b"RevokedHostKeys" not in where.dropin.read_bytes()
    assert b"revoked" not in (where.state / launcher.SETTINGS).read_bytes()
    assert "RevokedHostKeys is /etc/x" in " ".join(config.check(where, "web1", python=PYTHON, ssh=ssh(where)).findings)


def test_a_list_that_is_gone_is_found(speaking: Where) -> None:
    """ssh says only that it refuses the host; which command mends it, check says."""
    where = speaking
    install(where)
    where.revoked.unlink()
    (finding,) = config.check(where, "web1", python=PYTHON, ssh=ssh(where)).findings
    assert "ssh refuses every host: run `handfast ssh-config refresh`" in finding


def test_the_file_for_other_programs_has_the_ca_and_what_is_revoked(where: Where) -> None:
    """They have neither the launcher nor the list."""
    speaker = Speaker(("*.lan",), key("ca"))
    put(where.state, WEB1, host("web2", retired=(key("old"),)), at=datetime.now(UTC), speaker=speaker)
    install(where, known_hosts=where.known_hosts)
    config.write_known_hosts(where)
    lines = where.known_hosts.read_text().splitlines()
    assert (lines[0], lines[-1]) == (f"@cert-authority *.lan {key('ca')}", f"@revoked * {key('old')}")


def test_a_host_that_ssh_does_not_take_is_refused(where: Where) -> None:
    """A host name that looks like an option is ssh's to refuse, and starts nothing."""
    with pytest.raises(UsageError, match="ssh does not take"):
        config.effective("-oProxyCommand=touch /tmp/x", ssh=program("ssh"))


def test_what_ssh_is_told_is_what_the_launcher_takes() -> None:
    """The tokens in the configuration are the ones that the launcher counts on."""
    assert len(config._TOKENS.split()) == 9
    call = launcher.Call([b"ORDER", b"h", b"22", b"n", b"n", b"h", b"NONE", b"NONE", b"NONE"])
    assert (call.host, call.port, call.typed) == (b"h", b"22", b"n")


@pytest.mark.parametrize("gone", ["launcher.py", "state", "python"])
def test_what_is_gone_is_a_veto(where: Where, gone: str, tmp_path: Path) -> None:
    """ssh takes a missing program for silence; so the shell, which is always there, says no for us."""
    python = tmp_path / "python"
    python.symlink_to(PYTHON)
    config.install(where, Source(), refresh=(), python=python)
    command = where.command(python)
    if gone == "state":
        shutil.rmtree(where.state)
    else:
        {"launcher.py": where.state / "launcher.py", "python": python}[gone].unlink()
    # As ssh starts it: /bin/sh itself, with the script between the quotes and the tokens filled in.
    script = command.split("'")[1]
    words = ["/bin/sh", "-c", script, str(python), str(where.state), *["x"] * 9]
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    assert done.returncode == 1
    assert done.stdout == ""
    assert "no connection: what checks host keys is gone" in done.stderr
    assert "ssh-config install" in done.stderr


def test_a_file_for_other_programs(where: Where) -> None:
    """Who asks for it has the same keys as known_hosts lines, which ssh-keygen finds."""
    install(where, known_hosts=where.known_hosts)
    for name in ("web1", "web1.lan", "[10.0.0.1]:2222"):
        found = subprocess.run(
            [program("ssh-keygen"), "-F", name, "-f", where.known_hosts], capture_output=True, text=True, check=True
        ).stdout
        assert str(key("a")).split()[1] in found
    assert "gone" not in where.known_hosts.read_text()
    assert where.known_hosts.stat().st_mode & 0o777 == 0o600
    config.remove(where)
    assert not where.known_hosts.parent.exists()
