"""Plain ssh, and what is built on it, with real sshds: ours are known, a stranger in their place is refused."""

from __future__ import annotations

import os
import pwd
import shutil
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path

import pytest

from handfast.core.hosts import How, Place
from handfast.ssh import config, launcher
from handfast.wiring import open_host_keys
from tests.interop.hosts import HANDFAST, Done, Network, Registrar, local_host, program
from tests.interop.ssh_site import KINDS, PYTHON, Site, entry, removed
from tests.interop.ssh_stage import Sshd, make_key

pytestmark = [pytest.mark.peer("ssh", "sshd", "ssh-keygen"), pytest.mark.timeout(180)]
FAILED = 255  # ssh's own


@pytest.fixture
def site() -> Iterator[Site]:
    """A user, and room for machines."""
    with local_host() as host:
        yield Site(host)


@pytest.fixture
def web1(site: Site) -> Sshd:
    """A machine that is registered, and a user who is told."""
    machine = site.machine("web1")
    site.tell(machine)
    site.configure()
    return machine


def refused(done: Done, machine: str = "web1") -> None:
    """ssh ended, nothing ran, and the person was told which machine, in our words."""
    assert done.code != 0
    assert "in it" not in done.stdout
    assert f"{machine}: REFUSED" in done.stderr
    assert "IDENTIFICATION HAS CHANGED" not in done.stderr


def test_the_first_connection_asks_nothing(site: Site, web1: Sshd) -> None:
    """By name and by address, without a terminal and an empty known_hosts, and nothing is written down."""
    for name in ("web1", f"ssh://{web1.address}:{web1.port}"):
        done = site.run(name, "echo in it")
        assert (done.stdout, done.stderr) == ("in it\n", "")
    assert not site.known_hosts.exists()


@pytest.mark.parametrize("kind", ["ed25519", "ecdsa", "rsa"])
def test_a_registered_key_of_any_type_is_preferred(site: Site, kind: str) -> None:
    """With one key registered and another offered by preference, ssh asks for the registered one, at any port."""
    machine = site.machine("web1", ("ed25519", "ecdsa", "rsa"))
    site.tell(entry(machine, keys=[machine.keys[kind]]))
    site.configure()
    assert site.run("web1", "echo in it").stdout == "in it\n"


@pytest.mark.parametrize("poisoned", [False, True])
@pytest.mark.parametrize("strict", ["ask", "yes", "accept-new", "no"])
def test_P13_a_man_in_the_middle_is_refused(site: Site, web1: Sshd, strict: str, *, poisoned: bool) -> None:
    """Whatever the user's settings and known_hosts say, another key than the registered ones ends the connection."""
    mallory = site.instead(web1)
    site.configure(f"StrictHostKeyChecking {strict}")
    if poisoned:
        site.poison(web1, mallory.keys.values())
    before = site.known_hosts.read_bytes() if poisoned else None
    done = site.run("web1", "echo in it", code=FAILED)
    refused(done)
    assert mallory.key.fingerprint in done.stderr
    assert web1.key.fingerprint in done.stderr
    assert (site.known_hosts.read_bytes() if poisoned else None) == before
    assert site.known_hosts.exists() is poisoned


@pytest.mark.parametrize("strict", ["accept-new", "no"])
def test_P13_an_alias_that_is_nobodys_switches_nothing_off(site: Site, web1: Sshd, strict: str) -> None:
    """With a HostKeyAlias that is no machine of ours, the place is still its machine's: a stranger there is refused."""
    site.configure(f"StrictHostKeyChecking {strict}", "HostKeyAlias cloud-4711")
    assert site.run("web1", "echo in it").stdout == "in it\n"
    site.instead(web1)
    refused(site.run("web1", "echo in it", code=FAILED))
    site.configure(f"StrictHostKeyChecking {strict}", "HostKeyAlias cloud-4711", install=False)
    site.known_hosts.unlink(missing_ok=True)
    assert site.run("web1", "echo in it").stdout == "in it\n"


def test_P13_on_loopback_a_stranger_is_refused(site: Site, web1: Sshd) -> None:
    """The user has told ssh to check no host key on loopback, where tunnels end: those of our machines are checked."""
    site.configure("StrictHostKeyChecking no", "NoHostAuthenticationForLocalhost yes")
    site.instead(web1)
    refused(site.run("web1", "echo in it", code=FAILED))
    site.configure("StrictHostKeyChecking no", "NoHostAuthenticationForLocalhost yes", install=False)
    assert site.run("web1", "echo in it").stdout == "in it\n"


def test_the_same_attack_works_without_us(site: Site, web1: Sshd) -> None:
    """The test above attacks in earnest: without our line the same user is in the stranger's hands."""
    mallory = site.instead(web1)
    site.configure("StrictHostKeyChecking no", install=False)
    site.poison(web1, mallory.keys.values())
    assert site.run("web1", "echo in it").stdout == "in it\n"


_CONNECT = """\
import socket
there = socket.create_connection(("{address}", {port}))
socket.send_fds(socket.socket(fileno=1), [b"0"], [there.fileno()])
"""


def test_P13_a_stranger_by_address_or_under_another_name_is_refused(site: Site, web1: Sshd) -> None:
    """The place is registered: it does not matter how the user spells it, or whether the name resolves at all."""
    connect = site.host.put("connect.py", _CONNECT.format(address=web1.address, port=web1.port))
    how = ("-o", f"ProxyCommand {PYTHON} {connect}", "-o", "ProxyUseFdpass yes", "-o", "StrictHostKeyChecking no")
    names = [f"ssh://{web1.address}:{web1.port}", f"ssh://WEB1.internal:{web1.port}"]
    for name in names:
        assert site.run(*how, name, "echo in it").stdout == "in it\n"
    site.instead(web1)
    for name in names:
        refused(site.run(*how, name, "echo in it", code=FAILED))


def test_others_are_left_alone(site: Site, web1: Sshd) -> None:
    """A host without entry is asked about, refused or recorded just as without us, and nothing of ours is said."""
    other = site.machine("other")
    for strict, code in (("yes", FAILED), ("ask", FAILED), ("accept-new", 0)):
        said = {}
        for install in (False, True):
            site.known_hosts.unlink(missing_ok=True)
            site.configure(f"StrictHostKeyChecking {strict}", install=install)
            done = site.run("other", "echo in it", code=code)
            recorded = site.known_hosts.read_text() if site.known_hosts.exists() else ""
            said[install] = (done.code, done.stdout, done.stderr, recorded)
        assert said[True] == said[False]
    assert other.key.base64 in site.known_hosts.read_text()
    site.instead(other)
    changed = site.run("other", "echo in it", code=FAILED)
    assert "REMOTE HOST IDENTIFICATION HAS CHANGED" in changed.stderr
    assert "handfast:" not in changed.stderr


def test_a_rotated_key_is_known_and_the_old_one_refused(site: Site, web1: Sshd) -> None:
    """After a rotation the new key needs no word, though known_hosts has the old one; whoever kept that is refused."""
    site.poison(web1, web1.keys.values())
    new = site.instead(web1, "new")
    site.tell(entry(web1, keys=new.keys.values(), retired=web1.keys.values()))
    assert site.run("web1", "echo in it").stderr == ""
    new.process.stop()
    web1.start(KINDS)
    done = site.run("web1", "echo in it", code=FAILED)
    refused(done)
    assert "was its own once, and was retired on" in done.stderr
    assert "superseded" in done.stderr


def test_an_address_that_another_machine_got_raises_no_banner(site: Site, web1: Sshd) -> None:
    """The old machine is gone and its key in known_hosts; the new one at its address is known, the old name is not."""
    site.poison(web1, web1.keys.values())
    web2 = site.instead(web1, "web2")
    site.machines.append(web2)
    site.tell(web2, removed(web1))
    site.configure()
    for name in ("web2", f"ssh://{web1.address}:{web1.port}"):
        done = site.run(name, "echo in it")
        assert (done.stdout, done.stderr) == ("in it\n", "")
    refused(site.run("-o", "HostKeyAlias=web1", "web2", "echo in it", code=FAILED))


@pytest.mark.parametrize("attacked", ["none", "jump", "web1"])
def test_each_hop_of_a_jump_is_looked_up(site: Site, attacked: str) -> None:
    """`ssh -J`: both host keys are known, and a stranger at either hop is refused under that machine's name."""
    jump, web1 = site.machine("jump"), site.machine("web1", address="127.0.0.2")
    site.tell(jump, web1)
    site.configure("StrictHostKeyChecking no")
    if attacked == "none":
        done = site.run("-J", "jump", "web1", "echo in it")
        assert (done.stdout, done.stderr) == ("in it\n", "")
        return
    site.instead({"jump": jump, "web1": web1}[attacked])
    refused(site.run("-J", "jump", "web1", "echo in it", code=FAILED), attacked)


def _copies(site: Site) -> dict[str, tuple[str, ...]]:
    """Commands that bring a file through ssh, each into a file of its own."""
    source, folder = site.host.directory / "from", site.host.directory / "to"
    source.mkdir(exist_ok=True)
    folder.mkdir(exist_ok=True)
    (source / "file").write_text("in it\n")
    commands: dict[str, tuple[str, ...]] = {
        "scp": ("scp", "-F", str(site.where.config), f"web1:{source}/file", f"{folder}/scp"),
        "scp -O": ("scp", "-O", "-F", str(site.where.config), f"web1:{source}/file", f"{folder}/scp-O"),
        "sftp": ("sftp", "-F", str(site.where.config), f"web1:{source}/file", f"{folder}/sftp"),
        "rsync": (program("rsync"), "-e", site.ssh, f"web1:{source}/file", f"{folder}/rsync"),
    }
    return commands


@pytest.mark.peer("rsync")
@pytest.mark.parametrize("name", ["scp", "scp -O", "sftp", "rsync"])
def test_files_are_copied_from_the_right_machine_only(site: Site, web1: Sshd, name: str) -> None:
    """scp in both protocols, sftp and rsync go through plain ssh: known at once, and vetoed with the same sentence."""
    command = _copies(site)[name]
    site.host.run(*command)
    assert Path(command[-1]).read_text() == "in it\n"
    Path(command[-1]).unlink()
    site.instead(web1)
    refused(site.host.run(*command, code=None))
    assert not Path(command[-1]).exists()


@pytest.mark.peer("git")
def test_git_clones_from_the_right_machine_only(site: Site, web1: Sshd) -> None:
    """git over ssh: the same."""
    git = program("git")
    repository = site.host.directory / "repository"
    site.host.run(git, "init", "-q", "--bare", repository)
    site.host.run(git, "config", "--global", "--add", "safe.directory", "*")
    settings = {"GIT_SSH_COMMAND": site.ssh}
    site.host.run(git, "clone", "-q", f"web1:{repository}", site.host.directory / "clone", env=settings)
    site.instead(web1)
    refused(
        site.host.run(git, "clone", "-q", f"web1:{repository}", site.host.directory / "other", env=settings, code=None)
    )


def test_a_certificate_of_whatever_ca_is_judged_by_its_key(site: Site, web1: Sshd) -> None:
    """A server that presents a host certificate is accepted by the registered key in it, and a stranger's is not."""
    folder = site.host.directory
    make_key(folder / "ca")

    def certified(who: str) -> str:
        command = (program("ssh-keygen"), "-q", "-s", folder / "ca", "-I", "x", "-h", "-n", "web1")
        site.host.run(*command, folder / who / "ed25519.pub")
        return f"HostCertificate {folder}/{who}/ed25519-cert.pub\n"

    only = "HostKeyAlgorithms ssh-ed25519-cert-v01@openssh.com"
    site.configure(only, "StrictHostKeyChecking no")
    web1._settings = certified("web1")
    web1.restart(*KINDS)
    assert site.run("web1", "echo in it").stdout == "in it\n"
    mallory = site.instead(web1)
    mallory._settings = certified("mallory")
    mallory.restart(*KINDS)
    refused(site.run("web1", "echo in it", code=FAILED))


def test_an_old_snapshot_serves_and_a_too_old_one_vetoes(site: Site, web1: Sshd) -> None:
    """While the registrar is down the age is said, once; after a week our machines are refused, and only ours."""
    site.tell(web1, age=timedelta(days=2))
    done = site.run("web1", "echo in it")
    assert done.stderr.count("checked by what was known 2 days ago") == 1
    site.tell(web1, age=timedelta(days=8))
    refused(site.run("web1", "echo in it", code=FAILED))
    site.machine("other")
    site.configure("StrictHostKeyChecking accept-new")
    assert site.run("other", "echo in it").stdout == "in it\n"


@pytest.mark.parametrize(
    "broken", ["launcher.py", launcher.HOSTS, launcher.SIGNATURE, launcher.SETTINGS, "all", "killed"]
)
def test_P13_what_is_broken_never_opens(site: Site, web1: Sshd, broken: str) -> None:
    """With a stranger at the machine's place and the checks switched off, nothing that is missing lets ssh go on."""
    site.instead(web1)
    site.configure("StrictHostKeyChecking no")
    if broken == "all":
        shutil.rmtree(site.where.state)
    elif broken == "killed":
        (site.where.state / "launcher.py").write_text("import os\nos.kill(os.getpid(), 9)\n")
    else:
        (site.where.state / broken).unlink()
    done = site.run("web1", "echo in it", code=FAILED)
    assert "in it" not in done.stdout


@pytest.mark.parametrize(
    "name", ["-oProxyCommand=touch pwned", "a b", "x;touch pwned", "$(touch pwned)", "ü.example", "x" * 2000]
)
def test_a_hostile_host_name_runs_nothing(site: Site, web1: Sshd, name: str) -> None:
    """ssh is given it as a user's script might: it fails by itself, and no shell of ours reads it."""
    done = site.host.run(*site.ssh.split(" "), "-o", "ProxyCommand=false", "--", name, "true", code=None)
    assert done.code == FAILED
    assert "handfast:" not in done.stderr
    assert not (site.host.directory / "pwned").exists()


def test_remove_gives_the_user_back_what_was(site: Site, web1: Sshd) -> None:
    """After remove ssh behaves as if we had never been there."""
    site.configure("StrictHostKeyChecking accept-new", install=False)
    before = site.where.config.read_bytes()
    site.configure("StrictHostKeyChecking accept-new")
    config.remove(site.where)
    assert site.where.config.read_bytes() == before
    site.instead(web1)
    assert site.run("web1", "echo in it").stdout == "in it\n"


@pytest.mark.peer("ip")
@pytest.mark.root
def test_plain_ssh_on_port_22_after_one_command(net: Network, registrar: Registrar) -> None:
    """`ssh-config install` and then nothing but `ssh ADDRESS`, with the files where ssh looks for them."""
    make_key(net.server.directory / "id")
    web1 = Sshd(net.server, "web1", port=22, address=net.SERVER)
    place = Place.parse((net.SERVER,))
    known = open_host_keys(registrar.data)
    known.register("web1", tuple(web1.keys.values()), how=How.OPERATOR, detail="a test", place=place)
    folder = net.registrar.directory / "dot-ssh"
    folder.mkdir(mode=0o700)
    mine = f"Host *\n IdentityFile {net.server.directory}/id\n StrictHostKeyChecking no\n BatchMode yes\n"
    net.registrar.put("dot-ssh/config", mine)
    # ssh looks where the user's id says, whatever HOME is: that place is another one for these commands.
    home = Path(pwd.getpwuid(os.getuid()).pw_dir) / ".ssh"
    home.mkdir(mode=0o700, exist_ok=True)

    def user(*command: str | Path, code: int | None = 0) -> Done:
        bound = f'mount --bind {folder} {home} && exec "$@"'
        return net.registrar.run("unshare", "--mount", "/bin/sh", "-c", bound, "sh", *command, code=code)

    user(*HANDFAST, "ssh-config", "install", "--data", registrar.data)
    done = user("ssh", net.SERVER, "echo in it")
    assert (done.stdout, done.stderr) == ("in it\n", "")
    by_name = ("ssh", "-o", f"HostName={net.SERVER}", "-o", "CheckHostIP=yes", "web1", "echo in it")  # a third call
    assert (user(*by_name).stdout, user(*by_name).stderr) == ("in it\n", "")
    assert sorted(path.name for path in folder.iterdir()) == ["config", "config.d"]
    user(*HANDFAST, "ssh-config", "check", net.SERVER)
    assert user(*HANDFAST, "doctor", net.SERVER, "--json").json()["accepted"] is True
    web1.process.stop()
    Sshd(net.server, "mallory", port=22, address=net.SERVER)
    for command in (("ssh", net.SERVER, "echo in it"), by_name):
        refused(user(*command, code=FAILED))
    known.remove("web1", reason="destroyed")
    user(*HANDFAST, "ssh-config", "refresh")
    assert user(*HANDFAST, "doctor", net.SERVER, code=3).stdout.splitlines()[-1].startswith("it is no machine of ours")
    assert user("ssh", net.SERVER, "echo in it").stdout == "in it\n"
    (folder / "known_hosts").unlink()
    user(*HANDFAST, "ssh-config", "remove")
    assert {path.name: path.read_text() for path in folder.iterdir()} == {"config": mine}
