"""What the registrar has taken back, with real ssh and sshd: refused once the list is there, and nothing else is."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

import pytest

from handfast.authority.sshsign import SshSigner
from handfast.cli import ssh_config
from handfast.cli.main import run
from handfast.core.hosts import How, Place
from handfast.core.keys import format_pin
from handfast.core.sshcert import Kind, SshCertificate
from handfast.core.sshkeys import SshKey
from handfast.ssh import krl
from handfast.ssh.config import Source
from tests.interop.hosts import Done, Host, local_host, program
from tests.interop.ssh_site import Site
from tests.interop.ssh_stage import Sshd, make_key
from tests.server.running import Running, running
from tests.ssh.certified import certify

pytestmark = [pytest.mark.peer("ssh", "sshd", "ssh-keygen"), pytest.mark.timeout(180)]
CONFIG = '[ssh]\nreaders = "anybody"\n[ssh.certificates]\npatterns = ["*.fleet"]\n'
NAME = "web1.fleet"


@pytest.fixture
def here() -> Iterator[Host]:
    """This machine."""
    with local_host() as host:
        yield host


@dataclass
class Fleet:
    """A registrar whose CA speaks for ``*.fleet``, and a user who has our line in ssh's configuration."""

    registrar: Running
    site: Site

    @property
    def source(self) -> Source:
        """Where the user asks."""
        pin = format_pin(self.registrar.service.authority.pin)
        return Source(registrar=f"https://{self.registrar.ready.listen}#{pin}")

    def refresh(self) -> None:
        """Have the user know all that the registrar knows."""
        ssh_config._refresh(self.site.where, self.source)

    def refresh_list(self, path: Path | None = None) -> None:
        """Get the list of revoked keys, and nothing else."""
        get, pin = ssh_config.from_registrar(self.source)
        krl.refresh(path or self.site.where.revoked, get, pin=pin, now=datetime.now(UTC))

    def register(self, machine: Sshd, name: str = NAME) -> None:
        """Have an operator enter a machine."""
        side = self.registrar.service.host_keys
        side.register(name, (machine.key,), how=How.OPERATOR, detail="by kim", place=Place.parse([name]))

    def certify(self, key: SshKey, holder: str = NAME, *names: str, kind: Kind = Kind.HOST) -> SshCertificate:
        """Have a certificate made."""
        service = self.registrar.service
        return certify(service.ledger, SshSigner.of(service.authority), holder, key, *names, kind=kind)

    def ssh(self, machine: Sshd, *more: str, alias: str = NAME) -> Done:
        """Go to a machine by this name."""
        return self.site.run("-o", f"HostKeyAlias={alias}", *more, machine.name, "echo in it", code=None)


@pytest.fixture
def fleet(here: Host, tmp_path: Path) -> Iterator[Fleet]:
    """A user who has heard of the registrar before there was any machine."""
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    (data / "config.toml").write_text(CONFIG)
    with running(data) as registrar:
        made = Fleet(registrar, Site(here))
        made.refresh()
        yield made


@pytest.fixture
def web1(fleet: Fleet) -> Sshd:
    """A machine with a certificate, of which the user has not heard yet."""
    machine = fleet.site.machine("web1", ("ed25519",))
    fleet.register(machine)
    present(machine, fleet.certify(machine.key))
    fleet.site.configure("StrictHostKeyChecking yes")
    return machine


def present(machine: Sshd, certificate: SshCertificate) -> None:
    """Have sshd show a certificate."""
    path = machine.directory / "ed25519-cert.pub"
    path.write_text(f"{certificate}\n")
    machine._settings = f"HostCertificate {path}\n"
    machine.restart("ed25519")


def accepted(done: Done) -> bool:
    """Whether the command ran; if not, ssh has said why."""
    assert (done.code, done.stdout) in {(0, "in it\n"), (255, "")}, done
    return done.code == 0


def test_P32_a_new_machine_is_known_by_its_certificate(fleet: Fleet, web1: Sshd) -> None:
    """With nothing in known_hosts; but by no name that is not in it, and by none for which the CA does not speak."""
    assert accepted(fleet.ssh(web1))
    assert not accepted(fleet.ssh(web1, alias="web2.fleet"))
    assert not accepted(fleet.ssh(web1, alias="web1.elsewhere"))
    assert not fleet.site.known_hosts.exists()


REVOCATIONS: dict[str, Callable[[Running, SshCertificate], object]] = {
    "serial": lambda each, of: each.service.administration.revoke_ssh(str(of.serial), reason="keyCompromise"),
    "key": lambda each, of: each.service.host_keys.retire(NAME, of.key.fingerprint, reason="it was stolen"),
    "machine": lambda each, _: each.service.host_keys.remove(NAME, reason="destroyed"),
}


@pytest.mark.parametrize("what", REVOCATIONS)
def test_P33_ssh_refuses_what_the_next_list_has(fleet: Fleet, web1: Sshd, what: str) -> None:
    """Retired, removed or revoked: from the next list on, ssh refuses the certificate, whatever known_hosts says."""
    certificate = fleet.certify(web1.key)
    other = fleet.site.machine("web2", ("ed25519",))
    fleet.register(other, "web2.fleet")
    present(other, fleet.certify(other.key, "web2.fleet"))
    fleet.site.configure("StrictHostKeyChecking no")
    REVOCATIONS[what](fleet.registrar, certificate)
    assert accepted(fleet.ssh(web1))  # nobody has told ssh
    fleet.refresh_list()
    done = fleet.ssh(web1)
    assert not accepted(done)
    assert "revoked" in done.stderr
    assert accepted(fleet.ssh(other, alias="web2.fleet"))
    fleet.site.poison(web1, [web1.key])  # a key is shut out with whatever is in known_hosts, a serial is not a key
    assert accepted(fleet.ssh(web1, "-oHostKeyAlgorithms=ssh-ed25519", alias="web1")) == (what == "serial")


def test_P32_a_machine_that_is_known_is_judged_by_its_key(fleet: Fleet, web1: Sshd) -> None:
    """Its key is registered, and it shows that; where it shows what was revoked, ssh itself refuses it."""
    fleet.registrar.service.administration.revoke_ssh(str(fleet.certify(web1.key).serial), reason="superseded")
    fleet.refresh()
    done = fleet.ssh(web1)
    assert (accepted(done), "revoked by file" in done.stderr) == (False, True)
    web1._settings = ""
    web1.restart("ed25519")
    assert accepted(fleet.ssh(web1))
    fleet.registrar.service.host_keys.remove(NAME, reason="destroyed")
    fleet.refresh()
    done = fleet.ssh(web1)
    assert (accepted(done), f"{NAME}: REFUSED" in done.stderr) == (False, True)


def test_where_no_ca_speaks_no_list_is_in_the_way(fleet: Fleet, web1: Sshd) -> None:
    """Without patterns ssh believes no certificate: so a serial that was revoked shuts no known machine out."""
    fleet.registrar.service.administration.revoke_ssh(str(fleet.certify(web1.key).serial), reason="superseded")
    (fleet.registrar.service.data / "config.toml").write_text('[ssh]\nreaders = "anybody"\n')
    ssh_config._refresh(fleet.site.where, Source(data=str(fleet.registrar.service.data)))
    fleet.site.configure("StrictHostKeyChecking yes")
    assert accepted(fleet.ssh(web1))


def test_a_list_that_is_gone_shuts_everybody_out(fleet: Fleet, web1: Sshd) -> None:
    """ssh refuses every host without it, and with one that is cut off; a refresh brings it back."""
    path = fleet.site.where.revoked
    whole = path.read_bytes()
    path.write_bytes(whole[:-1])
    assert not accepted(fleet.ssh(web1))
    path.unlink()
    assert not accepted(fleet.ssh(web1))
    fleet.refresh_list()
    assert accepted(fleet.ssh(web1))


def test_known_hosts_alone_does_it_too(fleet: Fleet, web1: Sshd, tmp_path: Path) -> None:
    """Without our line in the configuration: the file has the CA, and the keys that it must not be believed for."""
    path, data = tmp_path / "known_hosts", str(fleet.registrar.service.data)
    command = (program("ssh"), "-F", "none", "-oBatchMode=yes", "-oStrictHostKeyChecking=yes", "-p", str(web1.port))
    files = (f"-oUserKnownHostsFile={path}", "-oGlobalKnownHostsFile=none", f"-oHostKeyAlias={NAME}")
    key = ("-i", fleet.site.host.directory / "id", "root@127.0.0.1", "echo in it")

    def ssh() -> Done:
        return fleet.site.host.run(*command, *files, *key, code=None)

    path.write_text("")
    assert not accepted(ssh())
    assert run(["known-hosts", "--data", data, "--format", "ca", "-o", str(path)]) == 0
    assert path.read_text().startswith("@cert-authority *.fleet ssh-ed25519 ")
    assert accepted(ssh())
    fleet.registrar.service.host_keys.retire(NAME, web1.key.fingerprint, reason="it was stolen")
    assert accepted(ssh())
    assert run(["known-hosts", "--data", data, "-o", str(path)]) == 0
    assert f"@revoked * {web1.key}" in path.read_text().splitlines()
    assert not accepted(ssh())


def test_the_registrar_tells_of_its_ca(fleet: Fleet, web1: Sshd, tmp_path: Path) -> None:
    """Its line is had from elsewhere as on the machine itself, for the patterns or for a machine's names."""
    sources = (("--registrar", str(fleet.source.registrar)), ("--data", str(fleet.registrar.service.data)))
    for more, names in (((), "*.fleet"), ((NAME,), NAME)):
        told = set()
        for source in sources:
            path = tmp_path / source[0]
            assert run(["known-hosts", *more, *source, "--format", "ca", "-o", str(path)]) == 0
            told.add(path.read_text())
        (line,) = told
        assert line.startswith(f"@cert-authority {names} ssh-ed25519 ")


def test_a_registrar_whose_ca_speaks_for_nobody_says_so(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """It is said what to set."""
    data = tmp_path / "data"
    data.mkdir(mode=0o700)
    (data / "config.toml").write_text('[ssh]\nreaders = "anybody"\n')
    with running(data) as registrar:
        url = f"https://{registrar.ready.listen}#{format_pin(registrar.service.authority.pin)}"
        assert run(["known-hosts", "--registrar", url, "--format", "ca"]) == 2
    assert "this registrar's CA speaks for no name" in capsys.readouterr().err


# --- sshd ---


def query(host: Host, listed: Path, *certificates: Path) -> list[str]:
    """What ssh-keygen says of each: ``ok`` or ``REVOKED``."""
    done = host.run(program("ssh-keygen"), "-Q", "-f", listed, *certificates, code=None)
    return [line.rpartition(": ")[2] for line in done.stdout.splitlines()]


def test_P33_sshd_refuses_a_login_that_was_taken_back(
    fleet: Fleet, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """From the next list on; another login, and one by a key that was never certified, stay as they were."""
    host, data = fleet.site.host, str(fleet.registrar.service.data)
    assert run(["ca", "ssh", "--data", data, "--json"]) == 0
    trusted, listed = tmp_path / "user_ca.pub", tmp_path / "revoked.krl"
    trusted.write_text("\n".join(json.loads(capsys.readouterr().out)["trusted_user_ca_keys"]) + "\n")
    assert run(["ca", "krl", "--data", data, "--out", str(listed)]) == 0
    sshd = Sshd(host, "machine", settings=f"TrustedUserCAKeys {trusted}\nRevokedKeys {listed}\n")
    serials = {}
    for who in ("kim", "lee"):
        certificate = fleet.certify(make_key(tmp_path / who), who, "root", kind=Kind.USER)
        serials[who] = certificate.serial
        (tmp_path / f"{who}-cert.pub").write_text(f"{certificate}\n")

    def logs_in(identity: Path) -> bool:
        strict = ("-oBatchMode=yes", "-oStrictHostKeyChecking=no", "-oUserKnownHostsFile=/dev/null")
        only = ("-oIdentitiesOnly=yes", "-oIdentityAgent=none", "-i", identity, "-p", str(sshd.port), "root@127.0.0.1")
        return accepted(host.run(program("ssh"), "-F", "none", *strict, *only, "echo in it", code=None))

    both = (tmp_path / "kim-cert.pub", tmp_path / "lee-cert.pub")
    assert (logs_in(tmp_path / "kim"), logs_in(tmp_path / "lee")) == (True, True)
    assert run(["revoke", "--ssh", str(serials["kim"]), "--reason", "privilegeWithdrawn", "--data", data]) == 0
    assert (logs_in(tmp_path / "kim"), query(host, listed, *both)) == (True, ["ok", "ok"])
    fleet.refresh_list(listed)
    assert query(host, listed, *both) == ["REVOKED", "ok"]
    assert (logs_in(tmp_path / "kim"), logs_in(tmp_path / "lee")) == (False, True)
    assert logs_in(host.directory / "id")


def test_ssh_keygen_shows_the_list(fleet: Fleet, web1: Sshd, tmp_path: Path) -> None:
    """Version, authority, serials and digests, as an operator would look at it."""
    revoked = fleet.certify(web1.key)
    fleet.registrar.service.host_keys.retire(NAME, web1.key.fingerprint, reason="it was stolen")
    path = tmp_path / "krl"
    fleet.refresh_list(path)
    shown = fleet.site.host.run(program("ssh-keygen"), "-Q", "-l", "-f", path).stdout
    assert f"# Comment: handfast {format_pin(fleet.registrar.service.authority.pin)}" in shown
    assert f"serial: {revoked.serial}\n" in shown
    assert f"hash: SHA256:{web1.key.digest.hex()}" in shown
