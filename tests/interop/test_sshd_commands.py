"""`join --install`, `renew --ssh` and `status`, with a real registrar and a real sshd of its own."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest

from handfast.core import krl
from handfast.core.sshcert import SshCertificate
from handfast.newcomer import sshd
from tests.interop.hosts import HANDFAST, Host, Registrar, local_host
from tests.interop.sshd_stage import NOW, OTHER_CA, OwnSshd, certificate
from tests.ledger.material import ssh_key

ROOT = Path(__file__).parents[2]
pytestmark = [pytest.mark.peer("ssh", "sshd", "ssh-keygen"), pytest.mark.root, pytest.mark.timeout(180)]


@pytest.fixture
def host() -> Iterator[Host]:
    """This machine, with a directory of its own."""
    with local_host() as made:
        yield made


@pytest.fixture
def registrar(host: Host) -> Registrar:
    """A registrar on loopback."""
    return Registrar(host)


@pytest.fixture
def server(host: Host) -> OwnSshd:
    """An sshd with two keys."""
    return OwnSshd(host, kinds=("ed25519", "p256"))


def flags(server: OwnSshd, *more: str) -> tuple[str, ...]:
    """What installs in this sshd."""
    return ("--ssh-dir", str(server.etc), "--install", "--sshd-config", str(server.config), *more)


def state(out: Path) -> dict[str, Any]:
    """What is kept of SSH certificates."""
    found: dict[str, Any] = json.loads((out / "ssh.json").read_bytes())
    return found


def test_join_and_install(registrar: Registrar, server: OwnSshd) -> None:
    """One command: joined, certified, installed, and sshd shows it."""
    line = registrar.invite("web1", "--san", "web1.example")
    out = registrar.host.join(line, "web1", *flags(server))
    shown = server.shown()
    assert shown is not None
    assert "web1.example" in shown.principals
    assert str(shown) in state(out)["certificates"]


def test_said_again(registrar: Registrar, server: OwnSshd) -> None:
    """A boot script that joins each time: the same certificates, and sshd is left alone."""
    line = registrar.invite("web1")
    out = registrar.host.join(line, "web1", *flags(server))
    shown, written = server.shown(), server.pid_file.stat().st_mtime_ns
    registrar.host.join(line, "web1", *flags(server))
    assert server.shown() == shown
    assert state(out)["installed"] == {"config": str(server.config), "trust_users": False, "complete": True}
    assert server.pid_file.stat().st_mtime_ns == written  # a reload would have written it


def test_without_install(registrar: Registrar, server: OwnSshd) -> None:
    """The certificate lies beside its key, and how sshd would know of it is said; later it is installed."""
    line = registrar.invite("web1")
    done = registrar.host.handfast("join", "--out", "web1", "--ssh-dir", server.etc, stdin=line)
    assert f"wrote {server.certificate_file()}; sshd shows it once" in done.stderr
    assert server.shown() is None
    assert not server.drop_in.exists()
    done = registrar.host.handfast("renew", "--out", "web1", "--ssh", *flags(server)[2:])
    assert "sshd shows the certificate" in done.stderr
    assert "have cron run `handfast renew --ssh --if-due --out " in done.stderr
    assert server.shown() is not None


def test_renewal_when_it_is_due(registrar: Registrar, server: OwnSshd) -> None:
    """Not before; then certificates are asked for with the host keys, sshd is reloaded, and shows the new ones."""
    out = registrar.host.join(registrar.invite("web1"), "web1", *flags(server))
    renew = ("renew", "--out", out, "--ssh", "--if-due", "--exec", "echo hook")
    first = server.shown()
    done = registrar.host.handfast(*renew)
    assert "SSH certificates are not due before" in done.stderr
    assert "hook" not in done.stderr
    assert server.shown() == first
    old = _grow_old(out, server)
    assert server.shown() == old
    done = registrar.host.handfast(*renew)
    assert done.stderr.count("is certified as web1, until") == 2
    assert done.stderr.endswith("hook\n")
    shown = server.shown()
    assert shown is not None
    assert shown.serial != old.serial
    assert str(shown) in state(out)["certificates"]


def test_a_host_key_that_was_made_anew(registrar: Registrar, server: OwnSshd) -> None:
    """The next run has it certified, vouched for by the other key, and sshd shows both; later runs are quiet again."""
    out = registrar.host.join(registrar.invite("web1"), "web1", *flags(server))
    kept = server.shown()
    for path in (server.key_file("p256"), server.key_file("p256").with_suffix(".pub")):
        path.unlink()
    server.keys["p256"] = server._key("p256")
    renew = ("renew", "--out", out, "--ssh", "--if-due")
    done = registrar.host.handfast(*renew)
    assert f"{server.keys['p256'].fingerprint} (ecdsa-sha2-nistp256) is certified as web1" in done.stderr
    shown = server.shown("p256")
    assert shown is not None
    assert shown.key == server.keys["p256"]
    assert server.shown() == kept
    assert "SSH certificates are not due before" in registrar.host.handfast(*renew).stderr


def test_a_certificate_that_was_taken_back(registrar: Registrar, server: OwnSshd) -> None:
    """Its address is another machine's now: the next run sees that on the registrar's list, and sshd shows the rest."""
    line = registrar.invite("web1", "--san", "web1.example", "--san", "192.0.2.7")
    out = registrar.host.join(line, "web1", *flags(server))
    first = server.shown()
    assert first is not None
    assert "192.0.2.7" in first.principals
    other = ("--key", str(ssh_key(50)), "--san", "192.0.2.7")
    registrar.host.handfast("host", "add", "web2", *other, "--data", registrar.data)
    done = registrar.host.handfast("renew", "--out", out, "--ssh", "--if-due")
    assert f"the registrar has taken back the SSH certificate {first.serial} of {first.key.fingerprint}" in done.stderr
    shown = server.shown()
    assert shown is not None
    assert shown.principals == ("web1", "web1.example")
    assert "SSH certificates are not due before" in registrar.host.handfast("renew", "--out", out, "--if-due").stderr


def test_a_list_that_cannot_be_had(registrar: Registrar, server: OwnSshd) -> None:
    """While the registrar is away a run that is not due says so, and ends well: nothing can be done about it."""
    out = registrar.host.join(registrar.invite("web1"), "web1", *flags(server))
    registrar.process.stop()
    done = registrar.host.handfast("renew", "--out", out, "--ssh", "--if-due")
    assert "whether the registrar has taken these SSH certificates back is not known: cannot reach" in done.stderr
    assert "SSH certificates are not due before" in done.stderr


def _grow_old(out: Path, server: OwnSshd) -> SshCertificate:
    """Have the machine hold and show certificates that are over in a minute, and return the one of its ed25519 key."""
    about, end = state(out), NOW + timedelta(minutes=1)
    old = [certificate(key, ca=OTHER_CA, ends=end) for key in server.keys.values()]
    sshd.install(old, pin=bytes.fromhex(str(about["pin"])), config=server.config)
    about |= {"certificates": [str(each) for each in old], "issued_at": (NOW - timedelta(hours=1)).isoformat()}
    (out / "ssh.json").write_text(json.dumps(about))
    return old[0]


def test_a_machine_with_ssh_certificates_alone(registrar: Registrar, server: OwnSshd) -> None:
    """No credential, as after `join --ssh-hostkey`: the host keys are all that a renewal needs."""
    out = registrar.host.join(registrar.invite("web1"), "web1", *flags(server))
    alone = registrar.host.directory / "alone"
    alone.mkdir(mode=0o700)
    shutil.copy(out / "ssh.json", alone)
    done = registrar.host.handfast("renew", "--out", alone, "--ssh", "--json")
    assert {each["fingerprint"] for each in json.loads(done.stdout)["ssh_certificates"]} == {
        key.fingerprint for key in server.keys.values()
    }
    assert "is certified as web1" in done.stderr
    done = registrar.host.handfast("status", "--out", alone)
    assert done.stdout.startswith("ssh       SHA256:")
    assert f"installed in the sshd of {server.config}" in done.stdout
    assert "due_at" in registrar.host.handfast("status", "--out", alone, "--json").json()["ssh"]
    said = registrar.host.handfast("explain", "--out", alone).stdout.splitlines()
    assert said[0].startswith("Its SSH host keys are certified as web1, by the host CA SHA256:")
    assert said[-1] == f"The sshd of {server.config} shows them; whom it lets in is not for the registrar to say."
    units = registrar.host.directory / "units"
    registrar.host.handfast("renew", "--out", alone, "--install", "--unit-dir", units)
    (service,) = units.glob("*.service")
    assert '"--if-due"' in service.read_text()


def test_nothing_was_joined(host: Host, server: OwnSshd) -> None:
    """Neither a credential nor certificates: there is nothing to renew, or to install."""
    for more in ((), ("--ssh", *flags(server)[2:])):
        done = host.handfast("renew", "--out", "nothing", *more, code=3)
        assert "nothing has joined into" in done.stderr
    done = host.handfast("renew", "--out", "nothing", "--ssh", "--uninstall", code=3)
    assert "no file" in done.stderr


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("join", "--install"), "--install is for SSH certificates"),
        (("join", "--ssh", "--trust-users"), "mean nothing without --install"),
        (("renew", "--ssh", "--sshd-config", "x"), "mean nothing without --install"),
        (("renew", "--install", "--trust-users"), "mean nothing without --install"),
        (("renew", "--uninstall"), "--uninstall is said with --ssh, and alone"),
        (("renew", "--ssh", "--uninstall", "--if-due"), "--uninstall is said with --ssh, and alone"),
    ],
)
def test_flags_that_mean_nothing(host: Host, arguments: tuple[str, ...], said: str) -> None:
    """Each is refused before anything is read."""
    assert said in host.handfast(*arguments, code=2).stderr


def test_what_cannot_be_installed_costs_no_invitation(registrar: Registrar, server: OwnSshd) -> None:
    """sshd's configuration is looked at before the registrar is asked."""
    line = registrar.invite("web1")
    server.config.write_text(server.config.read_text() + "Pot 22\n")
    done = registrar.host.handfast("join", "--out", "web1", *flags(server), stdin=line, code=3)
    assert "Bad configuration option: Pot" in done.stderr
    assert not (registrar.host.directory / "web1").exists()
    server.config.write_text(server.config.read_text().removesuffix("Pot 22\n"))
    registrar.host.join(line, "web1", *flags(server))


def test_not_shown(registrar: Registrar, server: OwnSshd) -> None:
    """The machine has joined and its certificates are kept; sshd is as before, and `renew --ssh` tries again."""
    server.stop()
    server.start("-o", "HostKeyAlgorithms=ssh-ed25519")
    line = registrar.invite("web1")
    done = registrar.host.handfast("join", "--out", "web1", *flags(server), stdin=line, code=3)
    assert "joined as web1" in done.stderr
    assert "is not shown, nor another one for such a key" in done.stderr
    assert not server.drop_in.exists()
    shown = registrar.host.handfast("status", "--out", "web1").stdout
    assert "unfinished: `handfast renew --ssh` tries again" in shown
    registrar.host.handfast("renew", "--out", "web1", "--ssh", "--if-due", code=3)
    server.stop()
    server.start()
    registrar.host.handfast("renew", "--out", "web1", "--ssh", "--if-due")
    assert server.shown() is not None
    assert "unfinished" not in registrar.host.handfast("status", "--out", "web1").stdout


def test_what_was_taken_away_comes_back(registrar: Registrar, server: OwnSshd) -> None:
    """A timer's run finds that the drop-in or a certificate is not there any more, and asks nobody to mend it."""
    out = registrar.host.join(registrar.invite("web1"), "web1", *flags(server))
    shown = server.shown()
    registrar.process.stop()
    for path in (server.drop_in, server.certificate_file()):
        path.unlink()
        registrar.host.handfast("renew", "--out", out, "--ssh", "--if-due")
        assert path.exists()
        assert server.shown() == shown


def test_users_and_what_was_revoked(registrar: Registrar, server: OwnSshd) -> None:
    """With --trust-users the list of revoked keys is there from the first moment, and every run renews it."""
    line = registrar.invite("web1")
    out = registrar.host.join(line, "web1", *flags(server, "--trust-users"))
    revoked = server.etc / "handfast" / "revoked.krl"
    before = krl.read(revoked.read_bytes())
    user_ca = str(state(out)["user_ca"])
    assert (server.etc / "handfast" / "user_ca.pub").read_text() == f"{user_ca}\n"
    registrar.invite("web2")  # the log grows, and so does the list's version
    registrar.revoke("web1")
    done = registrar.host.handfast("renew", "--out", out, "--ssh", "--if-due", code=3)
    assert "sshd has a newer list of revoked SSH keys" in done.stderr
    assert "the registrar has taken back the SSH certificate" in done.stderr
    after = krl.read(revoked.read_bytes())
    assert after.version > before.version
    assert after.certificates
    registrar.process.stop()
    registrar.host.handfast("renew", "--out", out, "--ssh", "--if-due", code=4)  # it says that nobody answers
    assert krl.read(revoked.read_bytes()) == after


def test_users_are_trusted_no_more(registrar: Registrar, server: OwnSshd) -> None:
    """--install without --trust-users takes the trust back, and says so."""
    out = registrar.host.join(registrar.invite("web1"), "web1", *flags(server, "--trust-users"))
    done = registrar.host.handfast("renew", "--out", out, "--ssh", *flags(server)[2:])
    assert "sshd does not trust the registrar's CA for users any more" in done.stderr
    assert not (server.etc / "handfast").exists()
    assert "TrustedUserCAKeys" not in server.drop_in.read_text()


def test_another_registrar(host: Host, registrar: Registrar, server: OwnSshd) -> None:
    """Who goes over to another takes the first one's certificates out of sshd before; till then they stay."""
    out = host.join(registrar.invite("web1"), "web1", *flags(server))
    shown = server.shown()
    other = Registrar(host, data="other")
    line = other.invite("web1")
    done = host.handfast("join", "--out", out, *flags(server), stdin=line, code=3)
    assert "the certificates of another registrar are installed in the sshd of" in done.stderr
    assert server.shown() == shown
    host.handfast("renew", "--out", out, "--ssh", "--uninstall")
    host.handfast("join", "--out", out, *flags(server), stdin=line)
    assert server.shown() not in {None, shown}


def test_another_sshd(registrar: Registrar, server: OwnSshd) -> None:
    """One machine's certificates are in one sshd, so that none is forgotten."""
    out = registrar.host.join(registrar.invite("web1"), "web1", *flags(server))
    other = server.etc / "other_config"
    other.write_text(server.config.read_text())
    line = ("renew", "--out", out, "--ssh", "--install", "--sshd-config", other)
    done = registrar.host.handfast(*line, code=3)
    assert f"these certificates are installed in the sshd of {server.config}" in done.stderr
    assert server.shown() is not None


def test_uninstall(registrar: Registrar, server: OwnSshd) -> None:
    """sshd is as it was before, and the certificates are kept; said again, there is nothing to take out."""
    before = server.files()
    out = registrar.host.join(registrar.invite("web1"), "web1", *flags(server, "--trust-users"))
    registrar.host.handfast("renew", "--out", out, "--ssh", "--uninstall")
    assert server.files() == before
    assert server.shown() is None
    assert state(out)["installed"] is None
    assert (
        "installed in no sshd" in registrar.host.handfast("renew", "--out", out, "--ssh", "--uninstall", code=3).stderr
    )


def test_not_root(registrar: Registrar, server: OwnSshd) -> None:
    """Another user is told so, before anything is asked."""
    done = registrar.host.run(
        "setpriv", "--reuid=65534", "--clear-groups", *HANDFAST, "join", "--out", "/nonexistent", *flags(server), code=3
    )
    assert "only root can install certificates in sshd" in done.stderr


@pytest.mark.parametrize("content", ["", "{}", "[]", '{"version": 2}', "{", '{"version": 1, "certificates": []}'])
def test_a_damaged_state(host: Host, content: str) -> None:
    """It is said which file, and what to do; nothing is guessed."""
    (host.directory / "web1").mkdir(mode=0o700)
    host.put("web1/ssh.json", content)
    done = host.handfast("renew", "--out", "web1", "--ssh", code=1)
    assert "ssh.json' is damaged" in done.stderr


@pytest.mark.peer("ip")
def test_the_machines_own_sshd(tmp_path: Path) -> None:
    """A machine as it comes, in namespaces: `join --ssh --install`, no other flag, and ssh believes all its keys."""
    namespaces = ("unshare", "--net", "--mount", "--pid", "--fork", "--kill-child", "--mount-proc")
    done = subprocess.run(
        [*namespaces, sys.executable, "-m", "tests.interop.sshd_default", tmp_path],
        check=False,
        capture_output=True,
        text=True,
        cwd=ROOT,
        env={**os.environ, "PYTHONPATH": f"{ROOT / 'src'}:{ROOT}"},
    )
    assert done.returncode == 0, done.stderr
    found = json.loads(done.stdout)
    assert found["joined"].count("sshd shows the certificate") == 3
    assert "have cron run" in found["joined"]  # no systemd in there
    assert [said for said in found["believed"].values() if "Permission denied" not in said] == []
    assert "SSH certificates are not due before" in found["tended"]
    assert {"user_ca.pub", "revoked.krl", "10-handfast.conf"} < set(found["files"])
    assert "took the SSH certificates out of the sshd of /etc/ssh/sshd_config" in found["gone"]
    assert found["left"] == []
