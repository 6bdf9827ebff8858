"""A registrar that challenges host keys, names from Knot, and machines with OpenSSH's sshd, behind a cable each."""

from __future__ import annotations

import tomllib
from collections.abc import Mapping
from pathlib import Path

from handfast.core import sshcert
from handfast.core.sshcert import SshCertificate
from tests.interop.hosts import HANDFAST, Done, Host, Network, Registrar, program
from tests.interop.look_stage import WITH_DNS, ZONE, LookStage
from tests.interop.ssh_stage import make_key
from tests.interop.sshd_stage import OwnSshd

SERVER, OFFICE = Network.SERVER, Network.OFFICE
CONFIG = f"""\
[ssh]
evidence = ["invitation", "renewal", "operator", "ssh-hostkey"]
[ssh.certificates]
patterns = ["*.{ZONE}"]
[ssh.scan]
allow = ["10.77.0.0/16"]
ports = [2222]
"""
RESOLV = "nameserver 10.77.1.1\noptions timeout:1 attempts:1\n"


class Challenging(Registrar):
    """``handfast up`` with names from Knot, wherever else its machine would ask."""

    def __init__(self, host: Host, resolv: Path, *, config: str = CONFIG) -> None:
        tomllib.loads(config)
        self.resolv = resolv
        (host.directory / "registrar").mkdir(mode=0o700)
        host.put("registrar/config.toml", config)
        super().__init__(host, f"{Network.REGISTRAR}:7443")

    def up(
        self,
        listen: str | None = None,
        *,
        command: tuple[str, ...] = HANDFAST,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """Start it, with this name server."""
        super().up(listen, command=(*WITH_DNS, str(self.resolv), *command), env=env)

    @property
    def line(self) -> str:
        """What an operator writes into his playbook."""
        return f"{self.ready['url']}#{self.ready['pin']}"


class Fleet:
    """The registrar, and whoever joins; who logs in is on the registrar's machine, and knows nothing but its CA."""

    def __init__(self, network: Network) -> None:
        self.network, self.names = network, LookStage(network)
        self.registrar = Challenging(network.registrar, self.names.resolv)
        self.client = network.registrar
        make_key(self.client.directory / "id")
        self.id = self.client.directory / "id"

    def sshd(self, host: Host, *kinds: str, address: str = SERVER, port: int = 22, more: str = "") -> OwnSshd:
        """An sshd at an address of its machine."""
        sshd = OwnSshd(host, kinds=kinds or ("ed25519",), port=port, more=f"ListenAddress {address}\n{more}")
        (sshd.etc / "authorized_keys").write_text(self.id.with_name("id.pub").read_text())
        return sshd

    def join(
        self,
        sshd: OwnSshd,
        *names: str,
        flags: tuple[str | Path, ...] = (),
        install: bool = True,
        code: int = 0,
        env: Mapping[str, str] | None = None,
    ) -> Done:
        """Run the one command on the machine of an sshd."""
        given = [flag for name in names for flag in ("--name", f"{name}.{ZONE}")]
        installing = ("--install", "--sshd-config", sshd.config) if install else ()
        line = ("join", "--ssh-hostkey", self.registrar.line, "--ssh-dir", sshd.etc, "--out", "identity")
        return sshd.host.handfast(*line, *given, *installing, *flags, code=code, env=env)

    def authority(self) -> str:
        """The line that a client has in its known_hosts."""
        return f"@cert-authority *.{ZONE} {self.host_ca}\n"

    @property
    def host_ca(self) -> str:
        """The SSH host CA's key, as its operator gets it."""
        return (self.registrar.data / "authority" / "ssh_host_ca.pub").read_text().strip()

    def login(self, name: str, *options: str, code: int = 0) -> Done:
        """Log in with plain ssh, which knows the CA's line and nothing else."""
        known = self.client.put("known_hosts", self.authority())
        settled = {
            "BatchMode": "yes",
            "StrictHostKeyChecking": "yes",
            "UserKnownHostsFile": known,
            "GlobalKnownHostsFile": "none",
            "IdentitiesOnly": "yes",
            "IdentityAgent": "none",
            "IdentityFile": self.id,
        }
        flags = [flag for option, value in settled.items() for flag in ("-o", f"{option}={value}")]
        ssh = (program("ssh"), "-F", "none", *flags, *options, f"root@{name}.{ZONE}", "echo in it")
        return self.client.run(*WITH_DNS, self.names.resolv, *ssh, code=code)


def certificate(sshd: OwnSshd, kind: str = "ed25519") -> SshCertificate:
    """The certificate that lies beside a key."""
    return sshcert.parse(sshd.certificate_file(kind).read_text())
