"""
Machines on which documents are played: one directory each, with a real registrar on loopback.

What differs from the real thing: `/etc` and `/var/lib` are below the machine's directory, ports are free
ones, and `systemctl`, `curl` and PostgreSQL's clients are told so by small scripts in front of the real
programs. Every command is otherwise run as it is printed.
"""

from __future__ import annotations

import getpass
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Self

from cryptography.hazmat.primitives.asymmetric import rsa

from handfast.core import dn, nifi_x509
from handfast.core.secret import Secret
from handfast.nifi.ca_files import write_ca_files
from handfast.nifi.config import ServerConfig, with_defaults
from tests.docs.markdown import ROOT, Block, Command, commands, normalized
from tests.peers import find

_Process = subprocess.Popen[bytes]
_ABSOLUTE = re.compile(r"(?<![\w./$}-])/(etc|var/lib)/")
_READY = re.compile(
    r"invite a machine|^Server Started$|^Serving HTTP|"  # registrars, and the service of a session
    r"^waiting (at|for) |^session \S+: (\S+ (at|is behind)|ParaView \S+ at|connect to) |^\S+ is at |^Ctrl-C ends it|"
    r"^agent of ",
    re.MULTILINE,
)
_STARTS = re.compile(
    r"(\./)?handfast (up|tls-toolkit server|agent run|session (?:serve|connect|invite|paraview))\b"
    r"(?!.*--(help|stdio|pvsc)).*|"
    r"handfast web\b.*|python3 -m http\.server .*"
)
# The machines of sessions: each has all its ports, and all of them are on one loopback here.
_MACHINES = ("cluster", "desk", "home", "bob", "carol", "stranger")
_PLACE = re.compile(rf"\b({'|'.join(_MACHINES)}|127\.0\.0\.1|0\.0\.0\.0):(\d{{2,5}})\b")
# Ports of the machine itself that stand alone: for http.server, psql, Python.
_BARE = re.compile(r"""(http\.server |port=|"127\.0\.0\.1", )(\d{2,5})\b""")
_INVITATION = re.compile(r"handfast1_\S+")
# Free ports; the documents' 7443 may be somebody's.
_PORTS = '[registrar]\nlisten = "127.0.0.1:0"\ncrl_listen = "127.0.0.1:0"\n'
_NGINX = """\
pid {base}/nginx.pid;
error_log {base}/nginx.log;
events {{ }}
http {{
    access_log off;
    client_body_temp_path {base}/nginx-body;
    proxy_temp_path {base}/nginx-proxy;
    fastcgi_temp_path {base}/nginx-fastcgi;
    uwsgi_temp_path {base}/nginx-uwsgi;
    scgi_temp_path {base}/nginx-scgi;
    include {host}/etc/nginx/conf.d/*.conf;
}}
"""
_SYSTEMCTL = """\
#!/bin/sh
# What the documents ask of it, without an init system.
case "$1 $2" in
"reload nginx")
    cp "$HOME/nginx.conf" {base}/nginx.conf
    if [ -f {base}/nginx.pid ]; then exec {nginx} -c {base}/nginx.conf -s reload; fi
    exec {nginx} -c {base}/nginx.conf ;;
"restart postgresql")
    if [ -f {base}/postgresql/postmaster.pid ]; then verb=restart; else verb=start; fi
    {as_postgres} {pg_ctl} -D {base}/postgresql -l {base}/postgresql.log -w -s $verb && exit
    cat {base}/postgresql.log ;;
esac
echo "no such thing here: systemctl $*" >&2
exit 1
"""


class Stage:
    """The machines of one story; closing it stops what was started."""

    def __init__(self) -> None:
        # Not below pytest's directory, which is closed to PostgreSQL's user.
        self.base = Path(tempfile.mkdtemp(prefix="handfast-docs-"))
        self.base.chmod(0o755)
        self.https, self.postgres, self.nifi = (_free_port() for _ in range(3))
        self.agents = {name: _free_port() for name in ("app1.lan", "app2.lan")}
        self.registrar = ""
        self.invitation = ""
        self.connect_id = ""
        self._up: dict[tuple[str, str], _Process] = {}
        self._ports: dict[tuple[str, str], int] = {}
        self._typed: dict[str, dict[str, str]] = {}  # machine -> real address -> the document's
        self._display = ""
        self._as_postgres = f"{shutil.which('runuser')} -u postgres --" if os.geteuid() == 0 else ""
        self._bin = self.base / "bin"
        self._bin.mkdir()
        self._script("python3", f'exec env PYTHONPATH={ROOT / "src"} {sys.executable} "$@"')
        self._script("handfast", f'exec {self._bin}/python3 -m handfast "$@"')
        self._script("sudo", 'shift 2\nexec "$@"')  # sudo -u USER COMMAND
        self._script("scp", f'exec cp "{self.base}/$(echo "$1" | tr : /)" "$2"')
        if find("pvpython"):
            self._script("pvpython", f'unset PYTHONPATH\nexec {find("pvpython")} --no-mpi "$@"')
        if toolkit := find("nifi-toolkit-1.28.1"):
            self._script("tls-toolkit.sh", f'exec bash {Path(toolkit).parents[1]}/bin/tls-toolkit.sh "$@"')
        if find("curl"):
            self._script("curl", f'exec {find("curl")} --connect-to web1.lan:443:127.0.0.1:{self.https} "$@"')

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        for process in self._up.values():
            _end(process)
        pid = self.base / "nginx.pid"
        if pid.exists():
            subprocess.run([str(find("nginx")), "-c", self.base / "nginx.conf", "-s", "stop"], check=False)
        if (self.base / "postgresql").exists():
            stop = [_pg("pg_ctl"), "-D", f"{self.base}/postgresql", "-m", "fast", "-s", "stop"]
            subprocess.run([*self._as_postgres.split(), *stop], check=False, capture_output=True)
        shutil.rmtree(self.base, ignore_errors=True)

    def play(self, block: Block) -> None:
        """Run a block's commands, or write the file it is."""
        if block.database is not None:
            self._make_database(block.database)
        elif "postgresql" in block.peers and not (self.base / "postgresql").exists():
            self._make_postgresql()
        if "xvfb" in block.peers and not self._display:
            self._make_display()
        if "sshd" in block.peers and ("cluster", "sshd") not in self._up:
            self._make_sshd()
        if block.place is not None:
            self._write(*block.place, block.text)
            return
        if block.toolkit is not None:
            self._make_toolkit(*block.toolkit)
        for command in commands(block):
            starts = _STARTS.fullmatch(command.text) and not command.fails
            status, output = self._up_command(command) if starts else self._run(command)
            shown = normalized(self._as_printed(command.host, output))
            where = f"line {command.line}: {command.text}\n--- exit code {status}, output:\n{shown}"
            assert (status != 0) is command.fails, where
            if command.expected:
                assert re.fullmatch(command.pattern, shown), f"{where}--- expected:\n" + "\n".join(command.expected)

    # ------------------------------------------------------------------------------------- within

    def _host(self, name: str) -> Path:
        host = self.base / name
        if not host.exists():
            host.mkdir()
            data = host / "var" / "lib" / "handfast"
            data.mkdir(parents=True)
            data.chmod(0o700)
            (data / "config.toml").write_text(_PORTS)
            (host / "handfast").symlink_to(self._bin / "handfast")
            (host / "nginx.conf").write_text(_NGINX.format(base=self.base, host=host))
            self._script(
                "systemctl",
                _SYSTEMCTL.removeprefix("#!/bin/sh\n").format(
                    base=self.base, nginx=find("nginx"), as_postgres=self._as_postgres, pg_ctl=_pg("pg_ctl")
                ),
            )
        return host

    def _enter(self, host: Path) -> list[str]:
        """Return what a command line begins with, to run on a machine."""
        return []

    def _environment(self, host: Path) -> dict[str, str]:
        # PYTHONWARNINGS, PYTHONDEVMODE: what Python programs such as ansible then print is about themselves.
        theirs = ("HANDFAST_", "XDG_", "PG", "PYTHONWARNINGS", "PYTHONDEVMODE")
        own = {name: value for name, value in os.environ.items() if not name.startswith(theirs)}
        return own | {
            "PATH": f"{self._bin}{os.pathsep}{os.environ['PATH']}",
            "HOME": str(host),
            "HANDFAST_DATA": f"{host}/var/lib/handfast",
            "HANDFAST_OUT": f"{host}/etc/handfast/identity",
            "LC_ALL": "C.UTF-8",
            "NO_COLOR": "1",
            "PYTHONUNBUFFERED": "1",
            "DISPLAY": self._display,
            **({} if host.name in _MACHINES else {"PGHOSTADDR": "127.0.0.1", "PGPORT": str(self.postgres)}),
        }

    def _run(self, command: Command) -> tuple[int, str]:
        host = self._host(command.host)
        for kind, met in ("connect", "is behind"), ("client", "connect to"):
            self._wait(self.base / f"{command.host}.{kind}.log", re.compile("^waiting for"), re.compile(met))
        text = self._on_stage(host, command.text)
        done = subprocess.run(
            [*self._enter(host), "bash", "-c", text],
            cwd=host,
            env=self._environment(host),
            input=f"{self.invitation}\n" if re.search("handfast (session )?join", command.text) else "",
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            check=False,
        )
        for invitation in _INVITATION.findall(done.stdout):
            self.invitation = invitation
        return done.returncode, done.stdout

    def _up_command(self, command: Command) -> tuple[int, str]:
        """Start what stays, a registrar or a part of a session, and wait until it says that it is ready."""
        host = self._host(command.host)
        kind = command.text.split(" -")[0].split()[-1]
        if running := self._up.pop((command.host, kind), None):
            _end(running)
        log = self.base / f"{command.host}.{kind}.log"
        with log.open("wb") as file:
            process = subprocess.Popen(
                [*self._enter(host), "bash", "-c", f"exec {self._on_stage(host, command.text)}"],
                cwd=host,
                env=self._environment(host),
                stdin=subprocess.DEVNULL,
                stdout=file,
                stderr=subprocess.STDOUT,
            )
        self._up[command.host, kind] = process
        self._wait(log, re.compile(""), _READY, process)
        output = log.read_text()
        assert _READY.search(output), f"line {command.line}: it did not start:\n{output}"
        if ready := re.search(r"ready at https://([^,\s]+)", output):
            self.registrar = ready[1]
        for invitation in _INVITATION.findall(output):
            self.invitation = invitation
        if number := re.search(r"connect-id (\d+)", output):
            self.connect_id = number[1]
        said = "\n".join(line for line in output.splitlines() if not line.startswith("{"))
        return process.poll() or 0, said

    def _wait(self, log: Path, if_: re.Pattern[str], until: re.Pattern[str], by: _Process | None = None) -> None:
        """Wait until a log that begins with ``if_`` has ``until``; no longer than ``by`` runs, or 2 minutes."""
        end = time.monotonic() + 120
        while log.exists() and if_.search(log.read_text()) and not until.search(log.read_text()):
            if time.monotonic() >= end or (by is not None and by.poll() is not None):
                return
            time.sleep(0.05)  # another process's file: there is no event for it

    def _on_stage(self, host: Path, text: str) -> str:
        """Return a command or file with this machine's paths and ports."""
        text = _ABSOLUTE.sub(rf"{host}/\1/", text).replace("/var/run/postgresql/", f"{self.base}/postgresql/")
        text = text.replace("--connect-id=NUMBER", f"--connect-id={self.connect_id}")
        if host.name in _MACHINES:
            if "paraview client" in text and "--local" not in text:
                text += " --local 127.0.0.1:11111"  # its default
            text = _BARE.sub(lambda found: f"{found[1]}{self._port(host.name, found[2])}", text)
            text = _PLACE.sub(lambda found: self._place(host.name, found[1], found[2]), text)
        if self.registrar:
            text = text.replace("registrar.lan:7443", self.registrar)
        # NiFi's clients compare the CA's name with the one they call, so it has to be one that leads here.
        text = re.sub(r'((?:-c|-hostname|hostname =) "?)registrar\.lan', r"\1localhost", text)
        for name, port in self.agents.items():
            text = text.replace(f"{name}:7575", f"127.0.0.1:{port}")
        text = text.replace("0.0.0.0:9443", f"127.0.0.1:{self.nifi}").replace("-p 9443", f"-p {self.nifi}")
        return text.replace("--owner postgres", "--owner postgres" if os.geteuid() == 0 else "")

    def _as_printed(self, name: str, output: str) -> str:
        """Return output with the paths and ports of the document."""
        for real, typed in self._typed.get(name, {}).items():
            output = output.replace(real, typed)
        output = output.replace(str(self._host(name)), "").replace(f"127.0.0.1:{self.nifi}", "0.0.0.0:9443")
        for machine, port in self.agents.items():
            output = output.replace(f"127.0.0.1:{port}", f"{machine}:7575").replace(f"[::]:{port}", "[::]:7575")
        output = output.replace(f"localhost:{self.nifi}", "registrar.lan:9443")
        output = output.replace(f"{self.base}/postgresql/", "/var/run/postgresql/")
        return output.replace(self.registrar, "registrar.lan:7443") if self.registrar else output

    def _port(self, machine: str, port: str) -> int:
        return self._ports.setdefault((machine, port), _free_port())

    def _place(self, here: str, name: str, port: str) -> str:
        real = f"127.0.0.1:{self._port(name if name in _MACHINES else here, port)}"
        self._typed.setdefault(here, {})[real] = f"{name}:{port}"
        return real

    def _write(self, name: str, path: str, text: str) -> None:
        host = self._host(name)
        file = Path(f"{host}{path}")
        file.parent.mkdir(parents=True, exist_ok=True)
        text = text.replace("listen 443 ssl", f"listen 127.0.0.1:{self.https} ssl")
        text = _PORTS * (file.name == "config.toml") + text
        file.write_text(self._on_stage(host, text))

    def _script(self, name: str, body: str) -> None:
        path = self._bin / name
        path.write_text(f"#!/bin/sh\n{body}\n")
        path.chmod(0o755)

    def _make_toolkit(self, name: str, path: str) -> None:
        """Make what NiFi's own CA server leaves in its directory."""
        directory, now = Path(f"{self._host(name)}{path}"), datetime.now(UTC)
        directory.mkdir(parents=True)
        key = rsa.generate_private_key(65537, 2048)
        ca = nifi_x509.root(key, subject=dn.parse("CN=localhost, OU=NIFI"), days=825, now=now)
        token = Secret(secrets.token_hex(16).encode())
        config = with_defaults(ServerConfig(token=token))
        write_ca_files(directory, config, root=ca, key=key, now=now)

    def _make_sshd(self) -> None:
        """Start an sshd for a new key of this user, as port 22 of `cluster`."""
        for name in ("host_key", "user_key"):
            make = [str(find("ssh-keygen")), "-q", "-t", "ed25519", "-N", "", "-f", str(self.base / name)]
            subprocess.run(make, check=True)
        if os.geteuid() == 0:
            Path("/run/sshd").mkdir(exist_ok=True)  # where sshd separates its privileges
        options = {
            "ListenAddress": f"127.0.0.1:{self._port('cluster', '22')}",
            "AuthorizedKeysFile": self.base / "user_key.pub",
            "StrictModes": "no",
            "PidFile": "none",
        }
        command = [str(find("sshd")), "-D", "-e", "-f", "/dev/null", "-h", str(self.base / "host_key")]
        command += [f"-o{name}={value}" for name, value in options.items()]
        log = self.base / "sshd.log"
        with log.open("wb") as file:
            self._up["cluster", "sshd"] = process = subprocess.Popen(command, stderr=file)
        self._wait(log, re.compile(""), re.compile("^Server listening"), process)
        known = f"-o StrictHostKeyChecking=accept-new -o UserKnownHostsFile={self.base}/known_hosts"
        ssh = f'{shutil.which("ssh")} -F "$HOME/.ssh/config" -i {self.base}/user_key {known}'
        self._script("ssh", f'exec {ssh} -o LogLevel=ERROR "$@"')

    def _make_display(self) -> None:
        """Start a screen that nobody sees."""
        log = self.base / "display"
        with log.open("wb") as file:
            command = [str(find("xvfb")), "-displayfd", "1", "-nolisten", "tcp", "-screen", "0", "1280x1024x24"]
            self._up["", "display"] = process = subprocess.Popen(command, stdout=file, stderr=subprocess.DEVNULL)
        self._wait(log, re.compile(""), re.compile(r"^\d+$", re.MULTILINE), process)
        self._display = f":{log.read_text().split()[-1]}"

    def _make_postgresql(self) -> None:
        """Make a cluster that reads the documents' configuration, as Debian's does."""
        main = f"{self._host('db1')}/etc/postgresql/15/main"
        data = self._initdb(
            f"include_dir = '{main}/conf.d'\nhba_file = '{main}/pg_hba.conf'\n"
            f"listen_addresses = '127.0.0.1'\nport = {self.postgres}\n"
        )
        createuser = f"{self._as_postgres} {_pg('createuser')} -U postgres -h {data}"
        self._script("createuser", f'unset PGHOSTADDR\nexec {createuser} "$@"')

    def _make_database(self, name: str) -> None:
        """Start PostgreSQL on its Unix socket alone, with a database that this user may use, for he is who he is."""
        data = self._initdb("listen_addresses = ''\nport = 5432\n")
        (data / "pg_hba.conf").write_text("local all postgres trust\nlocal all all peer\n")
        sql = f"create role {getpass.getuser()} login; create database {name}"
        for command in (
            ["pg_ctl", "-D", str(data), "-l", f"{data}.log", "-w", "-s", "start"],
            ["psql", "-qX", "-h", str(data), "-U", "postgres", *(f"-c{each}" for each in sql.split("; "))],
        ):
            subprocess.run([*self._as_postgres.split(), _pg(command[0]), *command[1:]], check=True, cwd="/")

    def _initdb(self, settings: str) -> Path:
        data = self.base / "postgresql"
        data.mkdir()
        if os.geteuid() == 0:
            shutil.chown(data, "postgres")
            self.base.joinpath("postgresql.log").touch()
            shutil.chown(self.base / "postgresql.log", "postgres")
        make = [_pg("initdb"), "-D", str(data), "-U", "postgres", "-A", "trust"]
        subprocess.run([*self._as_postgres.split(), *make], check=True, capture_output=True)
        with (data / "postgresql.conf").open("a") as conf:
            conf.write(f"{settings}unix_socket_directories = '{data}'\nfsync = off\n")
        return data


def _end(process: _Process) -> None:
    process.terminate()
    process.wait(30)


def _pg(program: str) -> str:
    return str(Path(find("postgresql") or "/usr/lib/postgresql/0/bin/postgres").with_name(program))


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])
