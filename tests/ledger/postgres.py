"""A real PostgreSQL for tests: its own cluster in a temporary directory, on a unix socket, without TCP."""

from __future__ import annotations

import os
import shutil
import subprocess
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from itertools import count
from pathlib import Path

from tests.peers import find

_USER = "postgres"


@dataclass(frozen=True, slots=True)
class Server:
    """A running server; ``database`` makes an empty database, gone afterwards: hundreds take a minute to remove."""

    directory: Path
    _numbers: Iterator[int] = field(default_factory=count)

    def url(self, database: str) -> str:
        """The URL of a database."""
        return f"postgresql://{_USER}@/{database}?host={self.directory}"

    @contextmanager
    def database(self) -> Iterator[str]:
        """Give the URL of an empty database."""
        import psycopg

        name = f"ledger{next(self._numbers)}"
        with psycopg.connect(self.url("postgres"), autocommit=True) as connection:
            connection.execute(f"CREATE DATABASE {name}".encode())
            try:
                yield self.url(name)
            finally:
                connection.execute(f"DROP DATABASE {name} WITH (FORCE)".encode())


@contextmanager
def running() -> Iterator[Server]:
    """Start a server and stop it. PostgreSQL refuses to run as root: then it runs as Debian's own user."""
    program = find("postgresql")
    assert program is not None, "tests with this fixture are marked peer('postgresql')"
    programs = Path(program).parent
    directory = Path(tempfile.mkdtemp(prefix="handfast-pg-"))
    user = _USER if os.geteuid() == 0 else None
    if user is not None:
        shutil.chown(directory, user)

    def run(name: str, *args: str) -> None:
        log = directory / "commands.log"
        with log.open("a") as output:
            done = subprocess.run(
                [programs / name, "-D", directory / "data", *args],
                user=user,
                cwd=directory,
                env={"PATH": os.defpath, "LC_ALL": "C.UTF-8"},
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                check=False,
            )
        assert done.returncode == 0, f"{name} failed:\n{log.read_text()}"

    try:
        run("initdb", "--auth=trust", f"--username={_USER}", "--encoding=UTF8", "--no-sync")
        options = f"-c listen_addresses='' -c unix_socket_directories='{directory}' -c fsync=off"
        run("pg_ctl", "--wait", f"--log={directory}/server.log", f"--options={options}", "start")
        try:
            yield Server(directory)
        finally:
            run("pg_ctl", "--wait", "--mode=immediate", "stop")
    finally:
        shutil.rmtree(directory, ignore_errors=True)
