"""Whom a real sshd lets in, with the CA for users installed and without; and how all of it is taken out again."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from handfast.core import krl
from handfast.core.krl import Krl, revoked
from handfast.core.sshcert import Kind, SshCertificate
from handfast.errors import Refused
from handfast.newcomer import running_sshd, sshd
from handfast.newcomer.sshd_files import Users, write_krl
from tests.core.sshmaterial import new_key, public
from tests.interop.hosts import local_host
from tests.interop.sshd_stage import NOW, OTHER_CA, OTHER_PIN, PIN, USER_CA, USERS, OwnSshd, certificate

pytestmark = [pytest.mark.peer("ssh", "sshd", "ssh-keygen"), pytest.mark.root, pytest.mark.timeout(120)]


@pytest.fixture
def server() -> Iterator[OwnSshd]:
    """An sshd with one key and no certificate."""
    with local_host() as host:
        yield OwnSshd(host)


def install(server: OwnSshd, *certificates: object, **more: object) -> sshd.Placed:
    """Install in this sshd, for the registrar of the tests."""
    return sshd.install(certificates, **{"pin": PIN, "config": server.config, **more})  # type: ignore[arg-type]


def test_users_are_trusted_only_where_that_was_asked_for(server: OwnSshd) -> None:
    """With the user CA its certificates log in, until the list of revoked keys has them."""
    key = new_key(server.host.directory, "ed25519")
    user = certificate(public(key), ca=USER_CA, serial=11, kind=Kind.USER, principals=("root",))
    install(server, server.certificate())
    assert "Permission denied" in server.login(user, key, code=255)
    install(server, server.certificate(), users=USERS)
    assert server.login(user, key) == "in it\n"
    gone = krl.build(Krl(2, NOW, (revoked(USER_CA.public, serials=[11]),)))
    assert write_krl(server.config, gone)  # no reload: sshd reads it at each login
    assert not write_krl(server.config, gone)
    assert "Permission denied" in server.login(user, key, code=255)


def test_users_are_not_trusted_any_more(server: OwnSshd) -> None:
    """Installed without, after it was with: the CA and the list go when sshd has read that, and plain keys log in."""
    key = new_key(server.host.directory, "ed25519")
    user = certificate(public(key), ca=USER_CA, kind=Kind.USER, principals=("root",))
    install(server, wanted := server.certificate(), users=USERS)
    assert server.login(user, key) == "in it\n"
    assert install(server, wanted).reloaded
    assert not (server.etc / "handfast").exists()
    assert "Permission denied" in server.login(user, key, code=255)
    (server.etc / "authorized_keys").write_text(f"{public(key)}\n")
    assert server.login(user, key) == "in it\n"


def test_without_a_sure_reload_the_list_stays(server: OwnSshd, monkeypatch: pytest.MonkeyPatch) -> None:
    """An sshd that still reads the list would let nobody in without it: not reloaded, everything stays."""
    install(server, wanted := server.certificate(), users=USERS)
    monkeypatch.setattr(running_sshd, "PATIENCE", 1.0)
    server.pid_file.unlink()
    before = server.files()
    with pytest.raises(Refused, match="sshd was not reloaded"):
        install(server, wanted)
    assert server.files() == before


@pytest.mark.parametrize("setting", ["TrustedUserCAKeys", "RevokedKeys"])
def test_a_trust_of_its_own(server: OwnSshd, setting: str) -> None:
    """sshd reads the first of each only: ours would take back what somebody else has revoked, or whom they trust."""
    theirs = server.etc / "theirs"
    theirs.write_text(f"{OTHER_CA.public}\n")
    server.config.write_text(f"{server.config.read_text()}{setting} {theirs}\n")
    before = server.files()
    with pytest.raises(Refused, match=f"has a {setting} of its own") as caught:
        install(server, server.certificate(), users=USERS)
    assert "--trust-users" in caught.value.hint
    assert server.files() == before
    install(server, server.certificate())  # the host's certificate has nothing to do with it
    assert server.shown() is not None


@pytest.mark.parametrize(
    "content",
    [b"", b"SSHKRL\n\0", USERS.krl[:-1], b"ssh-ed25519 AAAA\n"],
    ids=["empty", "begun", "cut off", "keys as text"],
)
def test_a_damaged_list_is_never_written(server: OwnSshd, content: bytes) -> None:
    """sshd refuses every key with it; one that lies there already is replaced."""
    before = server.files()
    with pytest.raises(Refused, match="list of revoked SSH keys"):
        install(server, server.certificate(), users=Users(USER_CA.public, content))
    assert {name: data for name, data in server.files().items() if not name.startswith("handfast")} == before
    (server.etc / "handfast").mkdir(exist_ok=True)
    (server.etc / "handfast" / "revoked.krl").write_bytes(content)
    install(server, server.certificate(), users=USERS)
    assert (server.etc / "handfast" / "revoked.krl").read_bytes() == USERS.krl


# --- out again ---


def plain(key: Path) -> SshCertificate:
    """One by a CA that this sshd trusts for nothing: who logs in beside it has only the key."""
    return certificate(public(key), ca=OTHER_CA, kind=Kind.USER, principals=("root",))


@pytest.mark.parametrize("users", [None, USERS])
def test_remove(server: OwnSshd, users: Users | None) -> None:
    """Nothing of ours is left, sshd serves without, and said again it is nothing."""
    before = server.files()
    install(server, server.certificate(), users=users)
    assert sshd.remove(pin=PIN, config=server.config)
    assert server.files() == before
    assert server.shown() is None
    assert not sshd.remove(pin=PIN, config=server.config)


def test_remove_without_a_reload(server: OwnSshd, monkeypatch: pytest.MonkeyPatch) -> None:
    """The drop-in goes, and the files that a running sshd still reads stay until it has been reloaded."""
    install(server, server.certificate(), users=USERS)
    monkeypatch.setattr(running_sshd, "PATIENCE", 1.0)
    server.pid_file.unlink()
    with pytest.raises(Refused, match="is removed, but sshd was not reloaded"):
        sshd.remove(pin=PIN, config=server.config)
    assert not server.drop_in.exists()
    assert (server.etc / "handfast" / "revoked.krl").exists()


def test_remove_where_nothing_shows_what_sshd_has_read(server: OwnSshd, monkeypatch: pytest.MonkeyPatch) -> None:
    """No certificate is left to be seen, and no reload is certain: without the list sshd would let nobody in."""
    key = new_key(server.host.directory, "ed25519")
    (server.etc / "authorized_keys").write_text(f"{public(key)}\n")
    install(server, wanted := server.certificate(), users=USERS)
    monkeypatch.setattr(running_sshd, "PATIENCE", 1.0)
    server.certificate_file().unlink()
    server.pid_file.unlink()
    with pytest.raises(Refused, match="is removed, but sshd was not reloaded"):
        sshd.remove(pin=PIN, config=server.config)
    server.certificate_file().write_text(f"{wanted}\n")  # which is how ssh knows the host
    assert server.login(plain(key), key) == "in it\n"


def test_remove_where_no_sshd_runs(server: OwnSshd, monkeypatch: pytest.MonkeyPatch) -> None:
    """Then nobody reads the list, and nothing of ours stays."""
    before = server.files()
    install(server, server.certificate(), users=USERS)
    monkeypatch.setattr(running_sshd, "PATIENCE", 1.0)
    assert server.process is not None
    server.process.stop()
    assert sshd.remove(pin=PIN, config=server.config)
    assert server.files() == before


def test_a_list_that_sshd_may_still_read_outlives_a_failure(server: OwnSshd) -> None:
    """Our part was taken out by hand and sshd not reloaded; an installation that fails takes nobody's way in."""
    key = new_key(server.host.directory, "ed25519")
    (server.etc / "authorized_keys").write_text(f"{public(key)}\n")
    install(server, wanted := server.certificate(), users=USERS)
    server.drop_in.unlink()
    server.config.write_text(server.config.read_text().replace("Include", "#Include"))
    for users in (USERS, None):
        with pytest.raises(Refused, match="does not read"):
            install(server, wanted, users=users)
        assert server.login(plain(key), key) == "in it\n"


def test_a_list_goes_only_after_a_reload(server: OwnSshd) -> None:
    """Our part was changed by hand to what is asked for now, and sshd has not read that: it is reloaded first."""
    key = new_key(server.host.directory, "ed25519")
    (server.etc / "authorized_keys").write_text(f"{public(key)}\n")
    install(server, wanted := server.certificate(), users=USERS)
    lines = server.drop_in.read_text().splitlines(keepends=True)
    server.drop_in.write_text("".join(lines[:2]))
    assert install(server, wanted).reloaded
    assert not (server.etc / "handfast").exists()
    assert server.login(plain(key), key) == "in it\n"


def test_only_who_installed_removes(server: OwnSshd) -> None:
    """Another registrar's certificates stay."""
    install(server, wanted := server.certificate())
    with pytest.raises(Refused, match="is for the registrar"):
        sshd.remove(pin=OTHER_PIN, config=server.config)
    assert server.shown() == wanted
