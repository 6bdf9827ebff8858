"""From an invitation to a certificate that Debian's ssh believes, with nothing but the CA's line in known_hosts."""

from __future__ import annotations

import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from handfast.core import sshcert, sshkeys
from handfast.core.knownhosts import authority_line
from handfast.core.sshcert import SshCertificate
from tests.interop.hosts import Done, Host, Registrar, program
from tests.interop.ssh_stage import Sshd, make_key
from tests.interop.test_host_keys import etc
from tests.newcomer.agents import ssh_add, ssh_agent

pytestmark = [pytest.mark.peer("ssh", "sshd", "ssh-keygen"), pytest.mark.root, pytest.mark.timeout(180)]
KINDS = ("ed25519", "ecdsa", "rsa")


@dataclass
class Site:
    """A registrar, an sshd whose keys it certifies, and a user who knows the CA."""

    host: Host
    registrar: Registrar
    sshd: Sshd
    keys: Path

    @classmethod
    def make(cls, host: Host, registrar: Registrar, name: str, *kinds: str) -> Site:
        """An sshd that nobody has certified."""
        sshd = Sshd(host, name, kinds=kinds)
        if not (host.directory / "id").exists():
            make_key(host.directory / "id")
        return cls(host, registrar, sshd, etc(sshd, *kinds))

    @property
    def out(self) -> str:
        """Where its X.509 identity is."""
        return f"{self.sshd.name}.id"

    def join(self, *more: str) -> Done:
        """Join, with an invitation for names that lead here."""
        line = self.registrar.invite(self.sshd.name, "--san", "localhost", "--san", self.sshd.address)
        port = str(self.sshd.port)
        flags: tuple[str | Path, ...] = ("--ssh-dir", self.keys, "--ssh-port", port, *more)
        return self.host.handfast("join", "--out", self.out, *flags, stdin=line)

    def renew(self) -> Done:
        """Ask for certificates by hand."""
        return self.host.handfast("renew", "--out", self.out, "--ssh-dir", self.keys)

    def path(self, kind: str = "ed25519") -> Path:
        """Where the certificate of a key is."""
        return self.keys / f"ssh_host_{kind}_key-cert.pub"

    def certificate(self, kind: str = "ed25519") -> SshCertificate:
        """It, as we read it."""
        return sshcert.parse(self.path(kind).read_text())

    def serve(self, kind: str) -> None:
        """Have sshd show one key with its certificate."""
        self.sshd.process.stop()
        self.sshd._settings = f"HostCertificate {self.path(kind)}\n"
        self.sshd.start((kind,))

    def known_hosts(self) -> Path:
        """What the user knows: the CA, for the names that the registrar speaks for."""
        ca = sshkeys.parse((self.registrar.data / "authority" / "ssh_host_ca.pub").read_text())
        patterns = [f"[{name}]:{self.sshd.port}" for name in ("localhost", "127.0.0.1", "127.0.0.2")]
        return self.host.put("known_hosts", authority_line(patterns, ca) + "\n")

    def ssh(self, name: str) -> Done:
        """Say something over there; ssh asks nobody, and learns nothing."""
        settings = {
            "BatchMode": "yes",
            "StrictHostKeyChecking": "yes",
            "UserKnownHostsFile": self.known_hosts(),
            "GlobalKnownHostsFile": "none",
            "IdentitiesOnly": "yes",
            "IdentityFile": self.host.directory / "id",
        }
        flags = [flag for key, value in settings.items() for flag in ("-o", f"{key}={value}")]
        where = ("-p", str(self.sshd.port), f"root@{name}")
        return self.host.run(program("ssh"), "-F", "none", *flags, *where, "echo in it", code=None)


@pytest.fixture
def site(here: Host, local: Registrar, request: pytest.FixtureRequest) -> Iterator[Site]:
    """An sshd for each test."""
    name = str(request.node.name).partition("[")[0].removeprefix("test_").replace("_", "-")[:40]
    made = Site.make(here, local, f"{name}.lan", *KINDS)
    yield made
    made.sshd.process.stop()


def test_one_command_and_ssh_believes_it(site: Site) -> None:
    """`join --ssh` certifies each host key for exactly the machine's names; ssh connects by each, and by no other."""
    said = site.join().stderr
    for kind in KINDS:
        assert str(site.path(kind)) in said
        assert site.path(kind).stat().st_mode & 0o777 == 0o644
        shown = site.host.run(program("ssh-keygen"), "-L", "-f", site.path(kind)).stdout
        assert f'Key ID: "host {site.sshd.name}"' in shown
        assert "host certificate" in shown
        assert b"invitation proved".hex() in shown
        assert set(site.certificate(kind).principals) == {site.sshd.name, "localhost", "127.0.0.1"}
        site.serve(kind)
        for name in ("localhost", "127.0.0.1"):
            assert site.ssh(name).stdout == "in it\n", kind
        other = site.ssh("127.0.0.2")
        assert (other.code, other.stdout) == (255, "")


def test_without_its_certificate_it_is_a_stranger(site: Site) -> None:
    """The key alone is not in known_hosts: what was believed above was the certificate."""
    site.join()
    site.sshd.process.stop()
    site.sshd._settings = ""
    site.sshd.start(("ed25519",))
    refused = site.ssh("localhost")
    assert (refused.code, "Host key verification failed" in refused.stderr) == (255, True)


def test_asked_again_it_is_the_same_and_a_new_key_has_its_own(site: Site) -> None:
    """Nothing is issued for what is certified for long; a key that is new in the directory gets a certificate."""
    site.join()
    before = {kind: site.certificate(kind).blob for kind in KINDS}
    site.renew()
    assert {kind: site.certificate(kind).blob for kind in KINDS} == before
    old = site.keys / "ssh_host_ed25519_key"
    for path in (old, old.with_name(f"{old.name}.pub"), site.path()):
        path.unlink()
    new = make_key(old)
    said = site.renew().stderr
    assert f"published the SSH host key {new.fingerprint}" in said
    assert site.certificate().key == new
    assert site.certificate("rsa").blob == before["rsa"]


def test_a_key_that_was_retired_costs_the_others_nothing(site: Site) -> None:
    """The operator takes one back: it is told by name, and the others have theirs."""
    site.join()
    gone = site.certificate("rsa").key
    for kind in KINDS:
        site.path(kind).unlink()
    where = ("--data", site.registrar.data)
    site.host.handfast("host", "retire", site.sshd.name, gone.fingerprint, *where, "--reason", "it leaked")
    (site.keys / "ssh_host_rsa_key").rename(site.keys / "away")
    (site.keys / "ssh_host_rsa_key.pub").unlink()
    site.renew()
    assert site.path().exists()
    (site.keys / "away").rename(site.keys / "ssh_host_rsa_key")
    refused = site.host.handfast("renew", "--out", site.out, "--ssh-dir", site.keys, code=3)
    assert f"the host key {gone.fingerprint} of '{site.sshd.name}' was retired" in refused.stderr


def test_a_registrar_that_wants_more_says_what(here: Host, local: Registrar, site: Site) -> None:
    """The machine has joined all the same; the warning has every reason, and the command that asks again."""
    wanting = Registrar(here, data="wanting")
    try:
        wanting.process.stop()
        (wanting.data / "config.toml").write_text(
            '[ssh]\nevidence = ["invitation", "ssh-hostkey"]\n'
            '[ssh.certificates]\nrequire = [["invitation", "ssh-hostkey"]]\n'
        )
        wanting.up()
        strict = Site(here, wanting, site.sshd, site.keys)
        said = strict.join("--json")
        assert json.loads(said.stdout)["name"] == site.sshd.name
        fingerprint = site.sshd.keys["rsa"].fingerprint
        assert f"{fingerprint} is known by invitation only; needed: invitation and ssh-hostkey" in said.stderr
        assert f"on that machine: handfast join --ssh-hostkey URL#PIN --name {site.sshd.name}" in said.stderr
        assert not list(site.keys.glob("*-cert.pub"))
        log = here.handfast("log", "show", "--data", wanting.data).stdout
        assert "introduction.refused" in log
    finally:
        wanting.process.stop()


def revoke(site: Site, *more: str | Path, code: int = 0, env: dict[str, str] | None = None) -> str:
    """Take a certificate back, knowing nothing but the registrar's URL and pin."""
    pin = site.host.handfast("ca", "show", "--data", site.registrar.data, "--json").json()["pin"]
    where = f"https://127.0.0.1:{site.registrar.port}#{pin}"
    first, *rest = more
    return site.host.handfast("ssh-revoke", first, where, *rest, code=code, env=env).stderr


def test_whoever_has_the_key_takes_the_certificate_back(site: Site) -> None:
    """With the key beside it; then it is not certified again, and who asks is told so, beside the others' success."""
    site.join()
    serial = site.certificate().serial
    said = revoke(site, site.path())
    assert said.strip() == f"revoked the host certificate {serial} of {site.sshd.name}"
    assert revoke(site, site.path()) == said  # asked again, after a lost answer
    site.path().unlink()
    again = site.renew().stderr
    fingerprint = site.sshd.key.fingerprint
    assert (
        f"no certificate for the SSH host key {fingerprint}: certificate {serial} of {fingerprint} was revoked" in again
    )
    assert not site.path().exists()
    assert site.path("rsa").exists()


@pytest.mark.peer("ssh-agent")
def test_nobody_else_takes_it_back(site: Site) -> None:
    """Not with another key, and not a certificate of another authority; without any key nothing is sent."""
    site.join()
    other = site.keys / "ssh_host_rsa_key"
    assert "and the key is" in revoke(site, site.path(), "--key", other, code=3)
    alone = site.host.directory / "alone-cert.pub"
    alone.write_text(site.path().read_text())
    for what in (alone, "4711"):
        assert "there is no ssh-agent (SSH_AUTH_SOCK is not set)" in revoke(site, what, code=2)
    assert "cannot read '/nowhere-cert.pub'" in revoke(site, "/nowhere-cert.pub", code=2)
    with ssh_agent() as agent:
        env = {"SSH_AUTH_SOCK": str(agent)}
        assert "no certificate 4711 in the ssh-agent" in revoke(site, "4711", code=3, env=env)
    foreign = site.host.directory / "foreign"
    make_key(foreign)
    keygen = (program("ssh-keygen"), "-q", "-s", foreign, "-I", "x", "-h", "-n", "x", "-z", "9")
    site.host.run(*keygen, site.keys / "ssh_host_ed25519_key.pub")
    assert "evidence was not accepted" in revoke(site, site.path(), code=3)


@pytest.mark.peer("ssh-agent")
def test_a_key_in_the_agent_takes_its_certificate_back(site: Site) -> None:
    """By its serial: nobody has to have the certificate in a file."""
    site.join()
    key, serial = site.keys / "ssh_host_ed25519_key", site.certificate().serial
    beside = key.with_name(f"{key.name}-cert.pub")
    with ssh_agent() as agent:
        ssh_add(agent, key)  # takes the certificate beside it as well
        for path in (key, beside):
            path.unlink()
        said = revoke(site, str(serial), env={"SSH_AUTH_SOCK": str(agent)})
    assert said.strip() == f"revoked the host certificate {serial} of {site.sshd.name}"


def test_a_person_takes_back_what_he_logged_in_with(here: Host) -> None:
    """A user's certificate as well, by the key beside it, and nothing else."""
    registrar = Registrar(here, data="people")
    try:
        registrar.process.stop()
        (registrar.data / "config.toml").write_text('[[ssh.users]]\norigins = ["operator"]\nprincipals = ["deploy"]\n')
        registrar.up()
        here.handfast("join", "--out", "kim.id", stdin=registrar.invite("kim", "--role", "operator"))
        here.handfast("ssh-login", "--identity", "kim.id", "--out", "login")
        certificate = sshcert.parse((here.directory / "login-cert.pub").read_text())
        assert certificate.principals == ("deploy",)
        pin = here.handfast("ca", "show", "--data", registrar.data, "--json").json()["pin"]
        where = f"https://127.0.0.1:{registrar.port}#{pin}"
        done = here.handfast("ssh-revoke", "login-cert.pub", where, "--reason", "superseded")
        assert done.stderr.startswith(f"revoked the user certificate {certificate.serial} of kim")
        assert "sshcert.revoked" in here.handfast("log", "show", "--data", registrar.data).stdout
    finally:
        registrar.process.stop()
