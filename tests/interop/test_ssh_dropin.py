"""`handfast ssh` where ssh is expected: by scp, sftp, rsync, git and ansible, and on port 22 before a poisoned home."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.interop.hosts import Host, Network, local_host, network
from tests.interop.ssh_stage import Sshd, Stage, make_key

pytestmark = [pytest.mark.peer("ssh", "sshd", "ssh-keygen"), pytest.mark.root, pytest.mark.timeout(180)]


class AtHome(Stage):
    """A user whose home is his own, as ssh sees it: by the user's id, whatever HOME says."""

    def __init__(self, host: Host) -> None:
        super().__init__(host)
        (host.directory / "home" / ".ssh").mkdir(parents=True, mode=0o700)
        for name in ("", ".pub"):
            host.put(f"home/.ssh/id_ed25519{name}", (host.directory / f"id{name}").read_text())
        entry = f"root:x:0:0:root:{host.directory}/home:/bin/sh"
        lines = Path("/etc/passwd").read_text().splitlines()
        self.passwd = host.put("passwd", "".join(f"{entry if each.startswith('root:') else each}\n" for each in lines))
        self.passwd.chmod(0o644)

    def here(self, *command: str | Path, code: int | None = 0, env: dict[str, str] | None = None) -> str:
        """Run a command with nothing but that home, and return what it printed, both streams."""
        inside = f'mount --bind {self.passwd} /etc/passwd && exec "$@"'
        done = self.run("unshare", "--mount", "/bin/sh", "-c", inside, "sh", *command, code=code, **(env or {}))
        return done.stdout + done.stderr

    def trusted_by(self, host: Host) -> None:
        """Have the sshds of another host let this user in."""
        host.put("id.pub", (self.host.directory / "id.pub").read_text())


@pytest.fixture
def stage() -> Iterator[AtHome]:
    """A user whose registry has web1 where web1 is, and web2 where somebody else is."""
    with local_host() as host:
        yield AtHome(host)


@pytest.fixture
def web(stage: AtHome) -> Sshd:
    """The machine web1."""
    sshd = Sshd(stage.host, "web1")
    stage.register("web1", sshd.key, ports=(sshd.port,))
    return sshd


@pytest.fixture
def thief(stage: AtHome) -> Sshd:
    """Whoever is in web2's place."""
    sshd = Sshd(stage.host, "thief")
    stage.register("web2", make_key(stage.host.directory / "web2"), ports=(sshd.port,))
    stage.configure("StrictHostKeyChecking no\nUserKnownHostsFile /dev/null\n")
    return sshd


def test_scp_and_sftp(stage: AtHome, web: Sshd, thief: Sshd) -> None:
    """With -S they copy to and from the machine, in both protocols of scp, and nothing from whoever poses as one."""
    file, copy = stage.host.put("file", "content"), stage.host.directory / "copy"
    for flags in ((), ("-O",)):
        scp = ("scp", *flags, "-F", stage.config, "-S", stage.bin / "handfast-ssh")
        stage.run(*scp, f"-P{web.port}", f"127.0.0.1:{file}", copy)
        assert copy.read_text() == "content"
        copy.unlink()
        assert "this is not web2" in stage.run(*scp, f"-P{thief.port}", f"127.0.0.1:{file}", copy, code=None).stderr
        assert not copy.exists()
    sftp = ("sftp", "-F", stage.config, "-S", stage.bin / "handfast-ssh", "-b", "-")
    stage.run(*sftp, f"-P{web.port}", "127.0.0.1", stdin=f"get {file} {copy}\n")
    assert copy.read_text() == "content"
    assert "this is not web2" in stage.run(*sftp, f"-P{thief.port}", "127.0.0.1", stdin="ls\n", code=255).stderr


@pytest.mark.peer("rsync")
def test_rsync(stage: AtHome, web: Sshd, thief: Sshd) -> None:
    """`-e` with our command and more of ssh's options after it."""
    stage.host.put("file", "content")
    there, copy = stage.host.directory, stage.host.directory / "copy"
    for name in ("handfast ssh", f"handfast ssh --data {stage.data}", "handfast-ssh"):
        stage.run("rsync", "-e", f"{name} -F {stage.config} -p {web.port}", f"127.0.0.1:{there}/file", copy)
        assert copy.read_text() == "content"
        copy.unlink()
    wrong = f"handfast ssh -F {stage.config} -p {thief.port}"
    assert "this is not web2" in stage.run("rsync", "-e", wrong, f"127.0.0.1:{there}/file", copy, code=None).stderr
    assert not copy.exists()


def test_git(stage: AtHome, web: Sshd, thief: Sshd) -> None:
    """By GIT_SSH_COMMAND and by GIT_SSH; git asks whether it is ssh at all, and takes it for ssh."""
    there = stage.host.directory / "there"
    stage.run("git", "init", "-q", "--bare", there)
    for way in (
        {"GIT_SSH_COMMAND": f"handfast ssh --data {stage.data} -F {stage.config}"},
        {"GIT_SSH": str(stage.bin / "handfast-ssh")},
    ):
        stage.here("git", "ls-remote", f"ssh://root@127.0.0.1:{web.port}{there}", env=way)
        said = stage.here("git", "ls-remote", f"ssh://127.0.0.1:{thief.port}{there}", code=128, env=way)
        assert "this is not web2" in said


@pytest.mark.peer("ansible")
def test_ansible(stage: AtHome, web: Sshd, thief: Sshd) -> None:
    """ansible_ssh_executable is one word; ansible shares connections and switches checking off, and it stays on."""
    inventory = stage.host.put(
        "inventory",
        f"web1 ansible_host=127.0.0.1 ansible_port={web.port}\nweb2 ansible_host=127.0.0.1 ansible_port={thief.port}\n",
    )
    environment = {
        "ANSIBLE_SSH_EXECUTABLE": str(stage.bin / "handfast-ssh"),
        "ANSIBLE_SSH_ARGS": f"-F {stage.config} -C -o ControlMaster=auto -o ControlPersist=5s",
        "ANSIBLE_HOST_KEY_CHECKING": "False",
        "ANSIBLE_LOCAL_TEMP": str(stage.host.directory / "ansible"),
        "ANSIBLE_HOME": str(stage.host.directory / "ansible"),
    }
    raw = ("-o", "-i", inventory, "-m", "ansible.builtin.raw", "-a", "echo $SSHD")
    done = stage.run("ansible", "all", *raw, code=None, **environment)
    results = {line.split(" ")[0]: line for line in done.stdout.splitlines()}
    assert "rc=0" in results["web1"]
    assert "web1" in results["web1"].partition("rc=0")[2]
    assert "UNREACHABLE" in results["web2"]
    assert "this is not web2" in results["web2"]


# --- port 22, and what a user has in his home ---


@pytest.fixture
def lan() -> Iterator[Network]:
    """Machines with addresses of their own."""
    with network() as machines:
        yield machines


def test_P13_port_22_and_a_poisoned_home(lan: Network) -> None:
    """The thief has taken the machine's address, and the user's own files say that the thief is the machine."""
    user = AtHome(lan.registrar)
    ours = user.bin / "handfast-ssh"
    web = Sshd(lan.server, "web1", address=lan.SERVER, port=22)
    user.trusted_by(lan.server)
    user.register("web1", web.key, at=(lan.SERVER,))
    user.host.put("home/.ssh/config", f"Host web\nHostName {lan.SERVER}\n\nHost *\nStrictHostKeyChecking no\n")
    assert user.here(ours, lan.SERVER, "echo $SSHD") == "web1\n"
    assert user.here(ours, "root@web", "echo $SSHD") == "web1\n"
    web.process.stop()
    thief = Sshd(lan.server, "thief", address=lan.SERVER, port=22)
    user.host.put("home/.ssh/known_hosts", f"web1,{lan.SERVER},* {thief.key}\n")
    assert "thief" in user.here("ssh", lan.SERVER, "echo $SSHD")  # it is there, and plain ssh falls for it
    for name in (lan.SERVER, "web"):
        said = user.here(ours, name, "echo $SSHD", code=255)
        assert f"this is not web1: it shows ssh-ed25519 {thief.key.fingerprint}" in said
        assert "thief" not in said


def test_the_next_machine_on_an_address_raises_no_alarm(lan: Network) -> None:
    """A machine is gone, another has its address: it is believed as what it is, and the old keys are not."""
    user = AtHome(lan.registrar)
    ours = user.bin / "handfast-ssh"
    old = Sshd(lan.server, "old1", address=lan.SERVER, port=22)
    user.trusted_by(lan.server)
    user.register("old1", old.key, at=(lan.SERVER,))
    assert user.here(ours, lan.SERVER, "echo $SSHD") == "old1\n"
    old.process.stop()
    new = Sshd(lan.server, "new1", address=lan.SERVER, port=22)
    user.register("new1", new.key, at=(lan.SERVER,))
    assert user.here(ours, lan.SERVER, "echo $SSHD") == "new1\n"
    new.process.stop()
    old.start(("ed25519",))
    assert "this is not new1" in user.here(ours, lan.SERVER, "echo $SSHD", code=255)
