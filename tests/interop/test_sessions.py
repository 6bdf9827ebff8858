"""Real programs through a session between two machines: psql, ssh, rsync and curl, which know nothing of it."""

from __future__ import annotations

import hashlib
import os
import shutil
import sys
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from tests.interop.hosts import HANDFAST, PATIENCE, Host, Network, Process, clock, program
from tests.interop.session_stage import Session, Tunnel, connect, serve, started

pytestmark = [pytest.mark.root, pytest.mark.peer("ip")]

PLACE = Network.REGISTRAR  # the cluster; the desk is at Network.SERVER
_AS_POSTGRES = ("setpriv", "--reuid=postgres", "--regid=postgres", "--clear-groups", "--")


@dataclass(frozen=True, slots=True)
class World:
    """A cluster with services that listen on its loopback alone, and a desk, with a session between them."""

    cluster: Host
    desk: Host
    session: Session
    server: Path
    client: Path


@pytest.fixture(scope="module")
def world(net: Network) -> World:
    """The owner of the session sits at the desk."""
    session = Session.new(net.server, "bob", "eve")
    return World(net.registrar, net.server, session, session.export("server", net.registrar), session.export("client"))


@pytest.fixture(scope="module")
def web(world: World) -> Iterator[str]:
    """An HTTP server with one large file, and where it is on the cluster."""
    directory = world.cluster.directory / "web"
    directory.mkdir()
    (directory / "result.bin").write_bytes(os.urandom(1 << 20) * 24)
    flags = ("--bind", "127.0.0.1", "--directory", directory, "0")
    process = world.cluster.start(sys.executable, "-u", "-m", "http.server", *flags)
    port = process.expect("Serving HTTP on").split("port ")[1].split()[0]
    yield f"127.0.0.1:{port}"
    process.stop()


def digest(path: Path) -> str:
    """The SHA-256 of a file."""
    return hashlib.sha256(path.read_bytes()).hexdigest()


def ended(*tunnels: Tunnel | Process) -> None:
    """End them in good order."""
    for each in tunnels:
        assert (each.process if isinstance(each, Tunnel) else each).stop() == 0


@pytest.mark.peer("curl")
@pytest.mark.parametrize("reverse", [False, True], ids=["forward", "reverse"])
def test_curl_gets_a_file(world: World, web: str, reverse: bool) -> None:
    """A file arrives whole, several at once, from a server that nobody reaches otherwise."""
    if reverse:
        flags = ("--dial", f"{Network.SERVER}:7500", "--every", "1s", "--to", web)
        server = world.cluster.start(*HANDFAST, "session", "serve", "--session", world.server, *flags)
        client = started(
            world.desk, "connect", world.client, "--wait", f"{Network.SERVER}:7500", "--local", "127.0.0.1:0"
        )
    else:
        listening = serve(world.cluster, world.server, web, listen=f"{PLACE}:7501")
        server, client = listening.process, connect(world.desk, world.client, f"{PLACE}:7501")
    direct = world.desk.run("curl", "-sS", f"http://{PLACE}:{web.rpartition(':')[2]}/result.bin", code=None)
    assert direct.code != 0, "the service is reached without the session"
    url = f"http://127.0.0.1:{client.port}/result.bin"
    got = [world.desk.directory / f"got{each}" for each in range(4)]
    wanted = [part for each in got for part in (url, "-o", each)]
    world.desk.run("curl", "-sS", "--fail", "--parallel", *wanted)
    assert {digest(each) for each in got} == {digest(world.cluster.directory / "web" / "result.bin")}
    ended(client, server)


@pytest.fixture(scope="module")
def ssh(world: World) -> Iterator[tuple[str, ...]]:
    """An sshd on the cluster's loopback, a session's server before it, and the options with which ssh gets there."""
    cluster, desk = world.cluster, world.desk
    for host, name in ((cluster, "host"), (desk, "user")):
        host.run("ssh-keygen", "-q", "-t", "ed25519", "-N", "", "-f", name)
    keys = cluster.put("authorized", (desk.directory / "user.pub").read_text())
    Path("/run/sshd").mkdir(mode=0o755, exist_ok=True)  # where sshd locks itself up; packages leave it to systemd
    settings = {
        "Port": 22, "ListenAddress": "127.0.0.1", "HostKey": cluster.directory / "host", "AuthorizedKeysFile": keys,
        "PermitRootLogin": "prohibit-password", "PasswordAuthentication": "no", "StrictModes": "no", "UsePAM": "no",
        "PidFile": "none",
    }  # fmt: skip
    config = cluster.put("sshd_config", "".join(f"{key} {value}\n" for key, value in settings.items()))
    sshd = cluster.start(program("sshd"), "-D", "-e", "-f", config)
    sshd.expect("Server listening on 127.0.0.1")
    tunnel = serve(cluster, world.server, "127.0.0.1:22", listen=f"{PLACE}:7502")
    known = desk.put("known", f"cluster {(cluster.directory / 'host.pub').read_text()}")
    command = " ".join((*HANDFAST, "session", "connect", "--session", str(world.client), f"{PLACE}:7502", "--stdio"))
    options = {
        "ProxyCommand": command, "UserKnownHostsFile": known, "StrictHostKeyChecking": "yes", "BatchMode": "yes",
        "IdentityFile": desk.directory / "user", "IdentitiesOnly": "yes",
    }  # fmt: skip
    config = desk.put("ssh_config", "".join(f"{key} {value}\n" for key, value in options.items()))
    yield ("ssh", "-F", str(config))
    ended(tunnel)
    sshd.stop()


@pytest.mark.peer("ssh", "sshd", "ssh-keygen")
def test_ssh_with_a_session_as_its_proxy_command(world: World, ssh: tuple[str, ...]) -> None:
    """A command runs on the cluster, its input and output pass, and its exit code comes back."""
    where = "echo $SSH_CONNECTION; wc -c; exit 7"
    done = world.desk.run(*ssh, "root@cluster", where, stdin="x" * 1_000_000, code=7)
    assert done.stdout.split() == [*done.stdout.split()[:4], "1000000"]
    assert done.stdout.startswith("127.0.0.1 "), "sshd sees the session's server, on its loopback"


@pytest.mark.peer("ssh", "sshd", "ssh-keygen", "rsync")
def test_rsync_over_it(world: World, ssh: tuple[str, ...]) -> None:
    """A tree goes there and comes back the same."""
    tree = world.desk.directory / "tree"
    tree.mkdir()
    for each in range(30):
        (tree / str(each)).write_bytes(os.urandom(200_000))
    there, back = world.cluster.directory / "there", world.desk.directory / "back"
    world.desk.run("rsync", "-a", "-e", " ".join(ssh), f"{tree}/", f"root@cluster:{there}/")
    world.desk.run("rsync", "-a", "-e", " ".join(ssh), f"root@cluster:{there}/", f"{back}/")
    assert [digest(back / str(each)) for each in range(30)] == [digest(tree / str(each)) for each in range(30)]


@pytest.mark.peer("postgresql")
def test_psql_through_a_unix_socket(world: World) -> None:
    """The database listens on a Unix socket only; psql at the desk asks through one port, ten at once."""
    cluster, data = world.cluster, world.cluster.directory / "data"
    data.mkdir(0o700)
    shutil.chown(data, "postgres", "postgres")
    tools = Path(program("postgresql")).parent
    cluster.run(*_AS_POSTGRES, tools / "initdb", "-D", data, "--no-sync", "--auth=trust", "-E", "UTF8", "--locale=C")
    (data / "postgresql.auto.conf").write_text(
        f"listen_addresses = ''\nunix_socket_directories = '{data}'\nfsync = off\n"
    )
    database = cluster.start(*_AS_POSTGRES, tools / "postgres", "-D", data)
    database.expect("database system is ready to accept connections")
    server = serve(cluster, world.server, f"unix:{data}/.s.PGSQL.5432", listen=f"{PLACE}:7503")
    client = connect(world.desk, world.client, f"{PLACE}:7503")
    where = f"host=127.0.0.1 port={client.port} user=postgres dbname=postgres"
    psql = (
        "psql",
        "--no-psqlrc",
        "-At",
        "-w",
        "-d",
        where,
    )
    query = "select sum(x) from generate_series(1, 100000) x"
    assert world.desk.run(*psql, "-c", query).stdout == "5000050000\n"
    rows = world.desk.run(*psql, "-c", "select repeat('x', 100) from generate_series(1, 100000)").stdout
    assert len(rows) == 101 * 100_000
    ended(client, server)
    database.stop()


# --- who is kept out ---


@pytest.mark.peer("faketime")
def test_an_expired_certificate(world: World, web: str) -> None:
    """After the session's end both sides refuse their own files; with a clock two days ahead both clocks are named."""
    server = serve(world.cluster, world.server, web, listen=f"{PLACE}:7504")
    flags = ("session", "connect", "--session", world.client, f"{PLACE}:7504", "--stdio")
    late = world.desk.handfast(*flags, env=clock("+31d"), code=3)
    assert "is valid from" in late.stderr
    again = ("session", "serve", "--session", world.server, "--listen", f"{PLACE}:7507", "--to", web)
    assert "is valid from" in world.cluster.handfast(*again, env=clock("+31d"), code=3).stderr
    wrong = world.desk.handfast(*flags, env=clock("+2d"), code=3)
    assert "the two clocks are" in wrong.stderr
    ended(server)


def test_the_wrong_role_and_another_session(world: World, web: str) -> None:
    """A server's file makes no client, and another session's client is not let in, however it is named."""
    server = serve(world.cluster, world.server, web, listen=f"{PLACE}:7505")
    other = Session.new(world.desk, name="paper2")
    for file, code in ((world.server, 3), (other.export("server"), 3), (other.export("client"), 5)):
        world.desk.handfast("session", "connect", "--session", file, f"{PLACE}:7505", "--stdio", code=code)
    ended(server)


@pytest.mark.peer("curl")
def test_a_revoked_friend_in_mid_transfer(world: World, web: str) -> None:
    """The owner, at the desk, revokes; the cluster learns it from the owner's client, and the friend's curl fails."""
    server = serve(world.cluster, world.server, web, listen=f"{PLACE}:7506")
    client = connect(world.desk, world.client, f"{PLACE}:7506")
    friend = connect(world.desk, world.session.export("bob"), f"{PLACE}:7506")
    url = f"http://127.0.0.1:{friend.port}/result.bin"
    curl = world.desk.start("curl", "-sS", "--limit-rate", "500K", "-w", "%{errormsg}", "-o", "partial", url)
    deadline = time.monotonic() + PATIENCE
    while not (world.desk.directory / "partial").exists():
        assert time.monotonic() < deadline, curl
        time.sleep(0.01)
    world.session.revoke("bob")
    assert curl.wait() in {18, 56}, curl  # a partial file, or a reset
    assert friend.process.wait() == 3
    server.process.expect("a stream of bob ended after")
    ended(client, server)
