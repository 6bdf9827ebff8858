"""Certificates in a real sshd: seen there, or everything is as it was. The machine's own sshd is never touched."""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from handfast.adapters import files
from handfast.core.sshcert import Kind
from handfast.errors import Fault, NotAuthorized, Refused, Unsafe
from handfast.newcomer import running_sshd, sshd
from tests.core.sshmaterial import new_key, public
from tests.interop.hosts import Host, local_host, program
from tests.interop.sshd_stage import OTHER_CA, OTHER_PIN, PIN, USER_CA, USERS, OwnSshd, certificate

pytestmark = [pytest.mark.peer("ssh", "sshd", "ssh-keygen"), pytest.mark.root, pytest.mark.timeout(120)]


@pytest.fixture
def host() -> Iterator[Host]:
    """This machine, with a directory of its own."""
    with local_host() as made:
        yield made


@pytest.fixture
def server(host: Host) -> OwnSshd:
    """An sshd with one key and no certificate."""
    return OwnSshd(host)


def install(server: OwnSshd, *certificates: object, **more: object) -> sshd.Placed:
    """Install in this sshd, for the registrar of the tests."""
    return sshd.install(certificates, **{"pin": PIN, "config": server.config, **more})  # type: ignore[arg-type]


@pytest.mark.parametrize("kind", ["ed25519", "p256", "p384", "p521", "rsa"])
def test_every_kind_of_key(host: Host, kind: str) -> None:
    """The certificate lies beside its key, sshd is reloaded, and shows exactly it."""
    server = OwnSshd(host, kinds=(kind,))
    assert server.shown(kind) is None
    wanted = server.certificate(kind)
    placed = install(server, wanted)
    assert placed == sshd.Placed(((server.certificate_file(kind), wanted),), (), reloaded=True)
    assert server.shown(kind) == wanted
    assert server.certificate_file(kind).read_text() == f"{wanted}\n"
    assert server.certificate_file(kind).stat().st_mode & 0o777 == 0o644
    assert server.drop_in.read_text() == (
        f"# Written by handfast, which replaces and removes it, for the registrar {PIN.hex()}\n"
        f"HostCertificate {server.certificate_file(kind)}\n"
    )
    assert server.process is not None
    assert not (server.etc / "handfast").exists()  # nobody's certificates are trusted unless that is asked for


def test_several_keys_and_their_renewal(host: Host) -> None:
    """All at once; the next certificates take the place of these, after a reload; said again, nothing is done."""
    server = OwnSshd(host, kinds=("ed25519", "p256", "rsa"))
    for serial in (7, 8):
        wanted = [server.certificate(kind, serial=serial) for kind in server.keys]
        assert install(server, *wanted).reloaded
        assert [server.shown(kind) for kind in server.keys] == wanted
        assert not install(server, *wanted).reloaded


def test_a_key_that_has_no_certificate_any_more(host: Host) -> None:
    """It was retired, say: its certificate goes, and sshd shows none for it."""
    server = OwnSshd(host, kinds=("ed25519", "p256"))
    install(server, server.certificate(), server.certificate("p256"))
    install(server, wanted := server.certificate())
    assert server.shown("p256") is None
    assert server.shown() == wanted
    assert not server.certificate_file("p256").exists()


def test_plain_ssh_believes_it(server: OwnSshd) -> None:
    """With nothing in known_hosts but the CA's line, ssh logs in where the certificate is installed."""
    key = new_key(server.host.directory, "ed25519")
    (server.etc / "authorized_keys").write_text(f"{public(key)}\n")
    user = certificate(public(key), ca=USER_CA, kind=Kind.USER, principals=("root",))
    assert "host key verification failed" in server.login(user, key, code=255).lower()
    install(server, server.certificate())
    assert server.login(user, key) == "in it\n"


# --- not shown: everything is as it was ---


def test_what_sshd_does_not_show_is_taken_back(server: OwnSshd) -> None:
    """A user's certificate for the host's key: `sshd -t` is content, a client is not; the files are as before."""
    before = server.files()
    wrong = certificate(server.keys["ed25519"], kind=Kind.USER)
    with pytest.raises(Refused, match="cannot be seen: shows a user certificate") as caught:
        install(server, wrong)
    assert "everything is as it was" in caught.value.hint
    assert server.files() == before
    assert server.shown() is None  # it still serves


def test_a_renewal_that_is_not_shown_leaves_the_old_one(server: OwnSshd) -> None:
    """The certificate before this one may be good for days; sshd shows it again."""
    old = server.certificate()
    install(server, old)
    before = server.files()
    with pytest.raises(Refused, match="cannot be seen"):
        install(server, certificate(server.keys["ed25519"], kind=Kind.USER))
    assert server.files() == before
    assert server.shown() == old


def test_a_setting_that_only_the_process_has(server: OwnSshd) -> None:
    """A flag on sshd's command line, of which `sshd -T` knows nothing, keeps it from showing certificates."""
    server.stop()
    server.start("-o", "HostKeyAlgorithms=ssh-ed25519")
    before = server.files()
    with pytest.raises(Refused, match="is not shown, nor another one for such a key"):
        install(server, server.certificate())
    assert server.files() == before


def test_a_mistake_of_others_changes_nothing(server: OwnSshd) -> None:
    """Where `sshd -t` fails already, nothing is written, and above all nothing reloaded: sshd would end."""
    server.config.write_text(server.config.read_text() + "Pot 22\n")
    before = server.files()
    with pytest.raises(Refused, match=r"`sshd -t` finds a mistake: .*Bad configuration option: Pot") as caught:
        install(server, server.certificate())
    assert str(server.config) in caught.value.hint
    assert server.files() == before
    assert server.shown() is None


def test_no_include(host: Host) -> None:
    """Where sshd does not read drop-ins (Red Hat 8, a configuration of one's own), that is said, with the line."""
    server = OwnSshd(host, include=False)
    before = server.files()
    with pytest.raises(Refused, match="sshd does not read") as caught:
        install(server, server.certificate())
    assert f"put `Include {server.drop_ins}/*.conf` at the top of {server.config}" in caught.value.hint
    assert server.files() == before


def test_an_include_behind_a_match(host: Host) -> None:
    """There HostCertificate is not allowed: sshd says so, and is left alone."""
    server = OwnSshd(host, include=False, more=f"Match User bob\nInclude {host.directory}/etc/sshd_config.d/*.conf")
    before = server.files()
    with pytest.raises(Refused, match="not allowed within a Match block"):
        install(server, server.certificate())
    assert server.files() == before


def test_no_directory_for_drop_ins(server: OwnSshd) -> None:
    """It is not made: sshd would not read it."""
    server.drop_ins.rmdir()
    with pytest.raises(Refused, match="no directory") as caught:
        install(server, server.certificate())
    assert "Include" in caught.value.hint


def test_not_root(server: OwnSshd, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody else can reload sshd."""
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    with pytest.raises(NotAuthorized, match="only root") as caught:
        install(server, server.certificate())
    assert "--install" in caught.value.hint


def test_sshd_that_does_not_run(server: OwnSshd, monkeypatch: pytest.MonkeyPatch) -> None:
    """What nobody can see is not left behind."""
    monkeypatch.setattr(running_sshd, "PATIENCE", 1.0)
    server.stop()
    before = server.files()
    with pytest.raises(Refused, match=f"sshd at 127.0.0.1 port {server.port}: connection refused") as caught:
        install(server, server.certificate())
    assert "could not be reloaded" in caught.value.hint
    assert server.files() == before


def test_a_pid_file_that_is_somebody_elses(server: OwnSshd, monkeypatch: pytest.MonkeyPatch) -> None:
    """The number of a process that is no sshd: it gets no signal, which would end it."""
    monkeypatch.setattr(running_sshd, "PATIENCE", 1.0)
    bystander = server.host.start("/bin/sleep", "1000")
    server.pid_file.write_text(f"{bystander.pid}\n")
    with pytest.raises(Refused, match="is not shown") as caught:
        install(server, server.certificate())
    assert "no pid file of a running process" in caught.value.hint
    assert bystander.stop() == -15  # by us, and by nobody before


def test_no_certificate_fits(host: Host) -> None:
    """Keys that sshd does not have, and algorithms that it does not offer, are said; if none is left, it is refused."""
    server = OwnSshd(host, kinds=("ed25519", "rsa"), more="HostKeyAlgorithms ssh-ed25519-cert-v01@openssh.com,ssh-rsa")
    stranger = certificate(OTHER_CA.public)
    placed = install(server, stranger, server.certificate("rsa"), server.certificate())
    assert len(placed.certificates) == 1
    assert f"{OTHER_CA.public.fingerprint} (ecdsa-sha2-nistp256) is not installed: the key is none" in placed.remarks[0]
    assert "HostKeyAlgorithms do not have rsa-sha2-512-cert-v01@openssh.com" in placed.remarks[1]
    with pytest.raises(Refused, match="the key is none of sshd's"):
        install(server, stranger)
    assert server.shown() is not None


@pytest.mark.parametrize("full", ["ssh_host_p256_key-cert.pub", "revoked.krl", "user_ca.pub", "10-handfast.conf"])
def test_a_full_disk(host: Host, monkeypatch: pytest.MonkeyPatch, full: str) -> None:
    """Whichever file finds no room: those before it are taken back, and sshd was told nothing."""
    server = OwnSshd(host, kinds=("ed25519", "p256"))
    install(server, server.certificate())
    before, shown, written = server.files(), server.shown(), server.pid_file.stat().st_mtime_ns
    write = files.write_atomic

    def no_room(path: Path, data: bytes, mode: int = 0o600) -> None:
        if path.name == full:
            raise Fault(f"cannot write {str(path)!r}: no space left on device")
        write(path, data, mode)

    monkeypatch.setattr(files, "write_atomic", no_room)
    with pytest.raises(Fault, match="no space left"):
        install(server, server.certificate("p256"), server.certificate(), users=USERS)
    left = {name: data for name, data in server.files().items() if name != "handfast/revoked.krl"}
    assert left == before  # a list that nothing names may stay
    assert server.shown() == shown
    assert server.pid_file.stat().st_mtime_ns == written


@pytest.mark.peer("ssh-agent")
def test_keys_in_an_agent(host: Host) -> None:
    """sshd has the public half only, and ssh-agent signs (HostKeyAgent): the certificate lies beside that."""
    path = new_key(host.directory, "ed25519")
    place = host.directory / "agent"
    agent = host.start(program("ssh-agent"), "-D", "-a", place)
    agent.expect("SSH_AUTH_SOCK")
    host.run("ssh-add", path, env={"SSH_AUTH_SOCK": str(place)})
    path.unlink()
    server = OwnSshd(host, kinds=(), more=f"HostKeyAgent {place}\nHostKey {path}.pub")
    wanted = certificate(public(path))
    assert install(server, wanted).certificates == ((host.directory / "ed25519-cert.pub", wanted),)
    server.keys["ed25519"] = public(path)
    assert server.shown() == wanted


# --- what others have put there ---


def test_somebody_elses_certificate_is_in_the_way(server: OwnSshd) -> None:
    """A certificate by another CA is not overwritten, nor is what is no certificate."""
    for content in (f"{server.certificate(ca=OTHER_CA)}\n", "what?\n"):
        server.certificate_file().write_text(content)
        with pytest.raises(Refused, match="in the way, and not ours"):
            install(server, server.certificate())
        assert server.certificate_file().read_text() == content
    server.certificate_file().write_text(f"{server.certificate(serial=6)}\n")  # ours, by hand
    assert install(server, server.certificate()).reloaded


def test_another_certificate_for_the_same_key(server: OwnSshd) -> None:
    """Of two, sshd would show one, and which is not written anywhere."""
    other = server.etc / "by-hand-cert.pub"
    other.write_text(f"{server.certificate(ca=OTHER_CA)}\n")
    server.config.write_text(f"{server.config.read_text()}HostCertificate {other}\n")
    before = server.files()
    with pytest.raises(Refused, match="sshd has another certificate for one of these keys") as caught:
        install(server, server.certificate())
    assert "grep -r by-hand-cert.pub" in caught.value.hint
    assert server.files() == before


def test_another_registrars_drop_in(server: OwnSshd) -> None:
    """A machine that joined twice: the second does not take over the first's sshd; nor is a stranger's file ours."""
    install(server, server.certificate())
    with pytest.raises(Refused, match="is for the registrar 0101010101010101…, not 0202020202020202…") as caught:
        install(server, server.certificate(), pin=OTHER_PIN)
    assert "--uninstall" in caught.value.hint
    server.drop_in.write_text("Banner none\n")
    with pytest.raises(Refused, match="is not ours"):
        install(server, server.certificate())


@pytest.mark.parametrize("what", ["certificate", "drop-in"])
@pytest.mark.parametrize("how", ["link", "directory", "owner"])
def test_what_is_no_file_of_roots(server: OwnSshd, what: str, how: str) -> None:
    """Links are not followed and not replaced, and what a user has put there is not taken for ours."""
    path = server.certificate_file() if what == "certificate" else server.drop_in
    elsewhere = server.host.put("elsewhere", "# secret\n")
    if how == "link":
        path.symlink_to(elsewhere)
    elif how == "directory":
        path.mkdir()
    else:
        path.write_text("# x\n")
        os.chown(path, 65534, 65534)
    before = server.files()
    with pytest.raises(Unsafe, match="belongs to user id 65534" if how == "owner" else "not a regular file"):
        install(server, server.certificate())
    assert server.files() == before
    assert elsewhere.read_text() == "# secret\n"


@pytest.mark.parametrize("mode", [0o775, 0o777, None])
@pytest.mark.parametrize("which", ["etc", "drop_ins"])
def test_a_directory_that_others_write(server: OwnSshd, which: str, mode: int | None) -> None:
    """Whoever can write it decides what root's sshd reads."""
    directory: Path = getattr(server, which)
    if mode is None:
        os.chown(directory, 65534, 65534)
    else:
        directory.chmod(mode)
    with pytest.raises(Unsafe, match="can be written by others") as caught:
        install(server, server.certificate())
    assert "chown root" in caught.value.hint
