"""An sshd with a configuration, a directory for drop-ins and a pid file of its own, whose certificates come and go."""

from __future__ import annotations

import time
from datetime import UTC, datetime, timedelta
from pathlib import Path

from handfast.core import krl, sshcert, sshkeys
from handfast.core.krl import Krl
from handfast.core.sshcert import Kind, SshCertificate
from handfast.core.sshkeys import SshKey
from handfast.core.sshleaf import SshLeaf, issue
from handfast.core.sshsig import Signer
from handfast.newcomer import running_sshd
from handfast.newcomer.sshd_files import Users
from tests.core.sshmaterial import KINDS, keygen, signer
from tests.interop.hosts import PATIENCE, Host, Process, program
from tests.ports import free_port

CA, OTHER_CA, USER_CA = signer("ed25519"), signer("p256"), signer("p384")
PIN, OTHER_PIN = b"\1" * 32, b"\2" * 32
NOW = datetime.now(UTC).replace(microsecond=0)
USERS = Users(USER_CA.public, krl.build(Krl(1, NOW)))


class OwnSshd:
    """``etc`` is to it what /etc/ssh is to the machine's."""

    def __init__(
        self, host: Host, *, kinds: tuple[str, ...] = ("ed25519",), include: bool = True, port: int = 0, more: str = ""
    ) -> None:
        self.host, self.port, self.etc = host, port or free_port(), host.directory / "etc"
        self.drop_ins = self.etc / "sshd_config.d"
        for directory in (self.etc, self.drop_ins):
            directory.mkdir(mode=0o755)
        self.keys = {kind: self._key(kind) for kind in kinds}
        self.config, self.pid_file = self.etc / "sshd_config", self.etc / "sshd.pid"
        lines = [f"Include {self.drop_ins}/*.conf"] if include else []
        lines += [f"HostKey {self.key_file(kind)}" for kind in kinds]
        lines += [
            f"Port {self.port}",
            "ListenAddress 127.0.0.1",
            f"PidFile {self.pid_file}",
            f"AuthorizedKeysFile {self.etc}/authorized_keys",
            "PermitRootLogin prohibit-password",
            "UsePAM no",
            "StrictModes no",
            more,
        ]
        self.config.write_text("".join(f"{line}\n" for line in lines))
        self.process: Process | None = None
        self.start()

    def _key(self, kind: str) -> SshKey:
        path = self.key_file(kind)
        done = keygen("-q", *KINDS[kind], "-N", "", "-C", "root@host", "-f", path)
        assert done.returncode == 0, done.stderr
        return sshkeys.parse(path.with_name(f"{path.name}.pub").read_text())

    def key_file(self, kind: str = "ed25519") -> Path:
        """The private key."""
        return self.etc / f"ssh_host_{kind}_key"

    def certificate_file(self, kind: str = "ed25519") -> Path:
        """Where its certificate belongs."""
        return self.etc / f"ssh_host_{kind}_key-cert.pub"

    @property
    def drop_in(self) -> Path:
        """Our part of its configuration."""
        return self.drop_ins / "10-handfast.conf"

    def start(self, *flags: str) -> None:
        """Begin to listen."""
        Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where sshd of root locks itself up
        self.process = self.host.start(program("sshd"), "-D", "-e", "-f", self.config, *flags)
        self.process.expect("Server listening")
        end = time.monotonic() + PATIENCE
        while not (self.pid_file.exists() and self.pid_file.read_text()):  # which it writes after it has said so
            assert time.monotonic() < end, str(self.process)
            time.sleep(0.01)

    def stop(self) -> None:
        """End it."""
        if self.process is not None:
            self.process.stop()
            self.process = None

    def certificate(self, kind: str = "ed25519", *, ca: Signer = CA, serial: int = 7) -> SshCertificate:
        """A certificate for one of its keys, good for a day."""
        return certificate(self.keys[kind], ca=ca, serial=serial)

    def shown(self, kind: str = "ed25519") -> SshCertificate | None:
        """What it shows for a key of this kind, by a connection of its own."""
        names = running_sshd.algorithms(self.certificate(kind))
        found = running_sshd._converse("127.0.0.1", self.port, names, time.monotonic() + PATIENCE)
        return sshcert.read(found.certificate) if found.certificate else None

    def files(self) -> dict[str, bytes]:
        """Every file of its configuration."""
        paths = [path for path in self.etc.rglob("*") if path.is_file() and path != self.pid_file]
        return {str(path.relative_to(self.etc)): path.read_bytes() for path in paths}

    def login(self, user: SshCertificate, key: Path, *, code: int | None = 0) -> str:
        """Log in as root with a user's certificate, believing whom the host CA has certified as 127.0.0.1."""
        known, file = self.host.directory / "known_hosts", key.with_name(f"{key.name}-cert.pub")
        known.write_text(f"@cert-authority * {CA.public}\n")
        file.write_text(f"{user}\n")
        settings = {
            "BatchMode": "yes",
            "StrictHostKeyChecking": "yes",
            "UserKnownHostsFile": known,
            "GlobalKnownHostsFile": "none",
            "IdentitiesOnly": "yes",
            "IdentityFile": key,
            "CertificateFile": file,
            "PreferredAuthentications": "publickey",
        }
        flags = [flag for name, value in settings.items() for flag in ("-o", f"{name}={value}")]
        line = (program("ssh"), "-F", "none", *flags, "-p", str(self.port), "root@127.0.0.1", "echo in it")
        done = self.host.run(*line, code=code)
        return done.stdout + done.stderr


def certificate(
    key: SshKey,
    *,
    ca: Signer = CA,
    serial: int = 7,
    kind: Kind = Kind.HOST,
    principals: tuple[str, ...] = ("127.0.0.1", "web1"),
    ends: datetime = NOW + timedelta(days=1),
) -> SshCertificate:
    """A certificate that is good for a day: ``NOW`` is when the suite began."""
    leaf = SshLeaf(
        kind=kind,
        key=key,
        key_id=f"{kind} web1",
        principals=principals,
        valid_after=NOW - timedelta(hours=1),
        valid_before=ends,
    )
    return issue(leaf, ca, serial=serial)
