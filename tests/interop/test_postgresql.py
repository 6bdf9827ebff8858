"""PostgreSQL and psql with the postgresql layout: both verify a certificate, its authority, its name."""

from __future__ import annotations

import glob
import os
import pwd
import shutil
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.interop.hosts import Done, Host, Network, Process, Registrar, program

pytestmark = [pytest.mark.root, pytest.mark.peer("ip"), pytest.mark.peer("postgresql")]

CONFIGURATION = """
listen_addresses = '{address}'
unix_socket_directories = ''
ssl = on
ssl_min_protocol_version = 'TLSv1.3'
ssl_cert_file = '{out}/server.crt'
ssl_key_file = '{out}/server.key'
ssl_ca_file = '{out}/root.crt'
fsync = off
"""
# Only over TLS, only with a certificate, and only as the user that the certificate names.
ACCESS = """
hostssl all all 0.0.0.0/0 cert clientcert=verify-full
"""


@dataclass(frozen=True, slots=True)
class Database:
    """A database server on one machine; its users are on the registrar's."""

    net: Network
    registrar: Registrar
    process: Process
    out: Path
    alice: Path

    def psql(
        self, *, user: str = "alice", name: str = "db.lan", out: Path | None = None, code: int = 0, **options: object
    ) -> Done:
        """Ask the server who we are, as libpq does with ``sslmode=verify-full`` and the files of ``out``."""
        files = out or self.alice
        asked = {
            "host": name, "hostaddr": self.net.SERVER, "dbname": "postgres", "user": user, "sslmode": "verify-full",
            "sslrootcert": files / "root.crt", "sslcert": files / "postgresql.crt", "sslkey": files / "postgresql.key",
            "connect_timeout": 10,
        } | options  # fmt: skip
        connection = " ".join(f"{key}='{value}'" for key, value in asked.items())
        query = "select current_user, ssl, version, client_dn, issuer_dn from pg_stat_ssl where pid = pg_backend_pid()"
        return self.net.registrar.run("psql", "--no-psqlrc", "-At", "-w", "-c", query, connection, code=code)


def _initialize(host: Host) -> Path:
    """Make a cluster that the user postgres owns, with one more user in it."""
    cluster = host.directory / "cluster"
    cluster.mkdir(0o700)
    shutil.chown(cluster, "postgres", "postgres")
    tools = Path(program("postgresql")).parent
    host.run(*_AS_POSTGRES, tools / "initdb", "-D", cluster, "--no-sync", "--auth=reject", "-E", "UTF8", "--locale=C")
    single = (tools / "postgres", "--single", "-j", "-D", cluster, "postgres")
    host.run(*_AS_POSTGRES, *single, stdin="create user alice;\n")
    return cluster


_AS_POSTGRES = ("setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--")


@pytest.fixture(scope="module")
def database(net: Network, registrar: Registrar) -> Iterator[Database]:
    """Its key belongs to the user postgres, and to nobody else; the server runs as that user."""
    line = registrar.invite("db.lan")
    out = net.server.join(line, "db", "--layout", "postgresql", "--owner", "postgres")
    cluster = _initialize(net.server)
    (cluster / "postgresql.auto.conf").write_text(CONFIGURATION.format(address=net.SERVER, out=out))
    (cluster / "pg_hba.conf").write_text(ACCESS)
    process = net.server.start(*_AS_POSTGRES, program("postgresql"), "-D", cluster)
    process.expect("database system is ready to accept connections")
    alice = net.registrar.join(registrar.invite("alice", "--role", "client"), "alice", "--layout", "postgresql")
    yield Database(net, registrar, process, out, alice)
    process.stop()


def test_both_verify(database: Database) -> None:
    """The user is who the certificate says, over TLS 1.3, and the server's name was verified."""
    who, tls, version, subject, issuer = database.psql().stdout.strip().split("|")
    assert (who, tls, version, subject) == ("alice", "t", "TLSv1.3", "/CN=alice")
    assert issuer.endswith("CN=registrar issuing CA 1")


def test_the_key_belongs_to_the_server(database: Database) -> None:
    """The key is the database user's and nobody else's; the machine's other secrets stay root's."""
    postgres = pwd.getpwnam("postgres").pw_uid
    status = (database.out / "server.key").stat()
    assert (status.st_uid, status.st_mode & 0o777) == (postgres, 0o600)
    (kept,) = glob.glob(f"{database.out}/.generations/*/reintroduction-key.pem")
    assert os.stat(kept).st_uid == 0


def test_another_user(database: Database) -> None:
    """A certificate for alice opens nobody else's door."""
    refused = database.psql(user="postgres", code=2)
    assert 'certificate authentication failed for user "postgres"' in refused.stderr


def test_no_certificate(database: Database) -> None:
    """Without a certificate there is no connection."""
    refused = database.psql(code=2, sslcert="/nonexistent", sslkey="/nonexistent")
    assert "connection requires a valid client certificate" in refused.stderr


def test_no_tls(database: Database) -> None:
    """Without TLS there is no rule that would let anybody in."""
    refused = database.psql(code=2, sslmode="disable")
    assert "no encryption" in refused.stderr


def test_another_name(database: Database) -> None:
    """Under a name that it was not invited for the server is refused."""
    refused = database.psql(name="db2.lan", code=2)
    assert 'server certificate for "db.lan" does not match host name "db2.lan"' in refused.stderr.replace(
        " (and 1 other name)", ""
    )


def test_a_server_is_no_client(database: Database) -> None:
    """A certificate of the role server does not open the door, even with the right name in it."""
    net, registrar = database.net, database.registrar
    out = net.registrar.join(registrar.invite("alice", "--role", "server"), "alice-server", "--layout", "postgresql")
    refused = database.psql(out=out, code=2)
    assert "certificate" in refused.stderr


def test_another_authority(database: Database) -> None:
    """Another authority's alice is refused, and a client that trusts another authority refuses the server."""
    net = database.net
    other = Registrar(net.registrar, f"{net.REGISTRAR}:8443", "--crl-listen", "127.0.0.1:0", data="other")
    line = other.invite("alice", "--role", "client")
    stranger = net.registrar.join(line, "stranger", "--layout", "postgresql")
    other.process.stop()
    assert "unknown ca" in database.psql(out=stranger, code=2, sslrootcert=database.alice / "root.crt").stderr
    assert "certificate verify failed" in database.psql(code=2, sslrootcert=stranger / "root.crt").stderr


@pytest.mark.peer("openssl")
def test_renewal_reloads(database: Database) -> None:
    """After `renew --exec` with a reload the database serves with the new key, which is the database user's again."""
    reload = f"kill -HUP {database.process.pid}"
    before = _presented(database)
    database.net.server.handfast("renew", "--out", database.out, "--exec", reload)
    database.process.expect("received SIGHUP, reloading configuration files")
    assert _presented(database) != before
    assert _presented(database) == (database.out / "cert.pem").read_text()
    assert (database.out / "server.key").stat().st_uid == pwd.getpwnam("postgres").pw_uid
    database.psql()


def _presented(database: Database) -> str:
    """The server's certificate in PEM, as OpenSSL's client sees it."""
    place = f"{database.net.SERVER}:5432"
    shown = database.net.registrar.run("openssl", "s_client", "-starttls", "postgres", "-connect", place).stdout
    begin, end = "-----BEGIN CERTIFICATE-----\n", "-----END CERTIFICATE-----\n"
    return begin + shown.partition(begin)[2].partition(end)[0] + end
