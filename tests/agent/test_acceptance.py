"""What is promised of an agent and is in no other file: a real one, as a process, in a real place."""

from __future__ import annotations

import base64
import http.client
import json
import os
import signal
import socket
import ssl
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager, suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlencode

import pytest
from cryptography.hazmat.primitives.asymmetric import ec

from handfast.agent import original, v1
from handfast.controller.userdata import cloud_config
from handfast.core import instancedata
from handfast.core.fingerprint_words import words
from handfast.core.instance_views import parse_fingerprint
from handfast.core.instancedata import InstanceData
from handfast.core.invitation import Address
from tests.agent import launched
from tests.agent.agents import PATIENCE, POLICY, Managed, Running, managed
from tests.agent.test_agent import Controlling, given
from tests.agent.test_delivery import issued, pem
from tests.controller.between import bare, first_words
from tests.interop.hosts import HANDFAST, Host, Process

GONE = (OSError, http.client.HTTPException, AssertionError)
ROOT = Path(__file__).parents[2]
MOST = 200  # changes that anything here makes at most
FORM = "application/x-www-form-urlencoded"
LARGE = 10_000_000_000  # bytes


@pytest.fixture(scope="module")
def met(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Managed]:
    """An agent that is introduced."""
    with managed(tmp_path_factory.mktemp("acceptance")) as made:
        yield made


# --- a client without a certificate gets nothing ---


@pytest.mark.parametrize("route", [*v1.ROUTES, *original.ROUTES], ids=lambda route: f"{route.method} {route.path}")
def test_without_a_certificate_no_route_answers(route: Any, met: Managed) -> None:
    """Of neither API, also not what is served before the introduction."""
    path = route.path.replace("{service}", "web").replace("{operation}", "start").replace("{log:.+}", "a.log")
    request = f"{route.method} {path} HTTP/1.1\r\nHost: agent\r\nContent-Length: 0\r\n\r\n".encode()
    assert first_words(met.agent.address, bare(), request) == b""


def test_nothing_without_tls_or_with_an_older_one(met: Managed) -> None:
    """Whoever speaks HTTP gets no HTTP; TLS 1.2 is not spoken, not even to the controller."""
    place = (met.agent.address.host, met.agent.address.port)
    with socket.create_connection(place, PATIENCE) as connected:
        connected.sendall(b"GET /v1/agent HTTP/1.1\r\nHost: agent\r\n\r\n")
        with suppress(ConnectionError):
            assert b"HTTP" not in connected.recv(65536)
    old = met.agent.context()
    old.minimum_version, old.maximum_version = ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_2
    with pytest.raises(ssl.SSLError):
        met.agent.meet(old)
    assert met.agent.talk().ask("GET", "/v1/agent").status == 200


# --- a large artifact ---


@contextmanager
def allowing(met: Managed, limit: int) -> Iterator[None]:
    """Have the policy allow artifacts of so many bytes."""
    before = met.agent.policy.read_text()
    for text in (before.replace("artifact_limit = 10_000_000", f"artifact_limit = {limit}"), before):
        met.agent.policy.write_text(text)
        met.agent.process.kill_with(signal.SIGHUP)
        met.agent.process.expect("reloaded")
        if text != before:
            yield


def most_memory(process: Process) -> int:
    """The most bytes that a process has ever had in memory."""
    (line,) = (each for each in Path(f"/proc/{process.pid}/status").read_text().splitlines() if "VmHWM" in each)
    return int(line.split()[1]) * 1024


def test_a_large_artifact_that_ends_early(met: Managed) -> None:
    """Of ten gigabytes a part comes: nothing of it is kept, and the agent never had more than a few pieces of it."""
    folder, piece = met.place / "artifacts", bytes(1024 * 1024)
    with allowing(met, 2 * LARGE):
        assert met.agent.talk().ask("PUT", "/v1/services/web/artifacts/app", b"the old one").status == 201
        before, talk = most_memory(met.agent.process), met.agent.talk()
        head = f"PUT /v1/services/web/artifacts/app HTTP/1.1\r\nHost: a\r\nContent-Length: {LARGE}\r\n\r\n"
        talk.tls.sendall(head.encode())
        for _ in range(256):
            talk.tls.sendall(piece)
        assert most_memory(met.agent.process) - before < 32 * len(piece)
        (part,) = [each for each in folder.iterdir() if each.name != "app"]
        assert part.stat().st_size > 128 * len(piece)
        talk.close()
        for _ in range(1000):  # until the agent has noticed
            assert met.agent.talk().ask("GET", "/v1/services/web/artifacts").status == 200
            if not part.exists():
                break
    assert [(each.name, each.read_bytes()) for each in folder.iterdir()] == [("app", b"the old one")]


@pytest.mark.root
def test_a_disk_that_fills_up(met: Managed) -> None:
    """While an artifact comes: its reason is told, the one before stays, no part is left, the agent goes on."""
    folder = met.place / "artifacts"
    subprocess.run(["mount", "-t", "tmpfs", "-o", "size=4m", "tmpfs", folder], check=True)
    try:
        assert met.agent.talk().ask("PUT", "/v1/services/web/artifacts/app", b"the old one").status == 201
        refused = met.agent.talk().ask("PUT", "/v1/services/web/artifacts/app", bytes(8_000_000))
        assert (refused.status, refused.json()["code"]) == (500, "fault")
        assert "under 5% of the disk would be free" in refused.json()["detail"]
        assert [(each.name, each.read_bytes()) for each in folder.iterdir()] == [("app", b"the old one")]
        assert met.agent.talk().ask("PUT", "/v1/services/web/artifacts/app", b"a new one").status == 201
    finally:
        subprocess.run(["umount", folder], check=True)


# --- killed at each write ---


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_while_it_renews(controlling: Controlling, tmp_path: Path) -> None:
    """Whenever it dies it is itself afterwards, by the old certificate or the new one, and its next renewal goes on."""
    host = Host(tmp_path / "agent")
    policy = host.put("policy.toml", POLICY.format(tmp_path, ""))
    with ExitStack() as stack:
        stack.callback(host.close)
        agent = Running(controlling, given(controlling), host, policy)
        stack.enter_context(agent.talks)
        agent.start()
        agent.introduce()
        for number in range(1, MOST):
            before = agent.talk().shown.serial_number
            restart(agent, (number, f"{host.directory}/state"))
            died = True
            with suppress(*GONE):  # at its start, or when it is met
                agent.start()
                agent.introduce("renewal")
                died = False
            assert not died or agent.process.wait() == -signal.SIGKILL
            restart(agent, None)
            agent.start()
            shown = agent.talk().shown
            assert agent.ready["stage"] == "held"
            credentials = controlling.house.ledger.credentials("web1")
            assert shown.serial_number in {before, *(each.serial for each in credentials if each.predecessor == before)}
            if not died:
                assert shown.serial_number != before
                break
        assert 10 < number < MOST - 1
        credentials = controlling.house.ledger.credentials("web1")
        assert len([each for each in credentials if each.predecessor is None]) == 1


class Delivered(Running):
    """An agent that takes a key which its controller has made."""

    def start(self) -> None:
        """Start it, and wait until it is ready."""
        data = self.host.put("user-data", instancedata.written(self.data))
        command, env = [*HANDFAST], None
        if self.die is not None:
            command = [sys.executable, "-m", "tests.agent.dying", *map(str, self.die)]
            env = {"PYTHONPATH": os.pathsep.join(map(str, (ROOT / "src", ROOT)))}
        place = ("--user-data", data, "--state", self.host.directory / "state", "--listen", "127.0.0.1:0")
        self.process = self.host.start(*command, "agent", "run", *place, "--legacy", "--json", env=env)
        self.ready = json.loads(self.process.expect('{"instance"'))
        self.address = Address.parse(self.ready["listen"])


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_killed_while_a_key_is_delivered(controlling: Controlling, tmp_path: Path) -> None:
    """Whenever it dies it is new and takes the key again, or it has it; never anything between."""
    with ExitStack() as stack:
        for number in range(1, MOST):
            host = Host(tmp_path / f"agent{number}")
            stack.callback(host.close)
            agent = Delivered(controlling, given(controlling, f"web{number}"), host, host.directory)
            agent.die, died = (number, f"{host.directory}/state"), True
            key = ec.generate_private_key(ec.SECP256R1())
            form = {"certificate": issued(controlling, key, name=f"web{number}"), "keypair": pem(key)}
            with suppress(*GONE):
                agent.start()
                deliver(agent, form)
                died = False
            assert not died or agent.process.wait() == -signal.SIGKILL
            restart(agent, None)
            agent.start()
            if agent.ready["stage"] == "new":
                deliver(agent, form)
            assert agent.talk().shown.public_key() == key.public_key()
            assert agent.talk().ask("GET", "/v1/agent").json()["stage"] == "held"
            agent.talks.close()
            agent.process.stop()
            if not died:
                break
        assert 10 < number < MOST - 1


def deliver(agent: Running, form: dict[str, str]) -> None:
    """Send a key, and call over it."""
    sent = agent.talk().ask("POST", "/configure", urlencode(form).encode(), Content_Type=FORM)
    assert (sent.status, sent.body) == (200, b"")
    assert agent.talk().ask("GET", "/v1/agent").json()["stage"] == "held"


def restart(agent: Running, die: tuple[int, str] | None) -> None:
    """Have it end as a power failure would, and say when it does so the next time."""
    agent.talks.close()
    agent.process.kill()
    agent.die = die


# --- where user-data is found ---


class Cloud:
    """Launches machines in namespaces of their own; each has its directory in ``host``."""

    def __init__(self, host: Host) -> None:
        self.host = host

    def line(self, place: str, state: str, **machine: Any) -> tuple[str, ...]:
        """The command that launches a machine whose agent looks for user-data at a place."""
        unshared = ("unshare", "--net", "--mount", sys.executable, launched.__file__, json.dumps(machine))
        flags = ("--user-data", place, "--state", str(self.host.directory / state), "--json")
        return (*unshared, *HANDFAST, "agent", "run", *flags)

    def ready(self, place: str, state: str, **machine: Any) -> dict[str, Any]:
        """Launch one, and return what its agent says when it is ready; then it is turned off."""
        process = self.host.start(*self.line(place, state, **machine))
        told: dict[str, Any] = json.loads(process.expect('{"instance"'))
        assert process.stop() == 0
        return told

    def refused(self, place: str, state: str, code: int, **machine: Any) -> str:
        """Launch one whose agent does not start, and return why."""
        return self.host.run(*self.line(place, state, **machine), code=code).stderr


@pytest.fixture
def cloud(tmp_path: Path) -> Iterator[Cloud]:
    """A cloud."""
    host = Host(tmp_path / "cloud")
    try:
        yield Cloud(host)
    finally:
        host.close()


def by_ec2(text: str, instance_id: str) -> dict[str, Any]:
    """A machine of AWS."""
    return {
        "metadata": {"/latest/user-data": text, "/latest/meta-data/instance-id": instance_id},
        "token": True,
    }


def by_openstack(text: str, instance_id: str) -> dict[str, Any]:
    """A machine of OpenStack."""
    about = json.dumps({"uuid": instance_id})
    answers = {"/openstack/latest/user_data": text, "/openstack/latest/meta_data.json": about}
    return {"metadata": answers, "token": False}


def by_nocloud(text: str, instance_id: str) -> dict[str, Any]:
    """A machine with a seed of NoCloud."""
    return {"seed": {"user-data": text, "meta-data": f"instance-id: {instance_id}\n"}}


def by_command_line(text: str, _instance_id: str) -> dict[str, Any]:
    """A machine whose kernel was told."""
    encoded = base64.b64encode(text.encode()).decode()
    return {"cmdline": f"root=/dev/vda1 handfast.userdata={encoded} quiet"}


PLACES = {"ec2": by_ec2, "openstack": by_openstack, "nocloud": by_nocloud, "cmdline": by_command_line}


@pytest.mark.root
@pytest.mark.peer("ip")
@pytest.mark.parametrize("place", PLACES)
def test_user_data_where_clouds_have_it(place: str, cloud: Cloud, controlling: Controlling) -> None:
    """On a machine that was launched with it, by the place's name or without one: it is the instance, each time."""
    data = given(controlling)
    machine = PLACES[place](instancedata.written(data), "i-1")
    told = cloud.ready(place, "state", **machine)
    assert (told["instance"], told["stage"], told["listen"]) == ("web1", "new", "[::]:7575")
    again = cloud.ready("auto", "state", **machine)
    assert again["key"] == told["key"]


@pytest.mark.root
@pytest.mark.peer("ip")
@pytest.mark.parametrize("place", PLACES)
def test_the_document_for_cloud_init_where_clouds_have_it(place: str, cloud: Cloud, controlling: Controlling) -> None:
    """What `instance add` prints by default is what the cloud's own field has, and is read there as the JSON is."""
    data = given(controlling)
    machine = PLACES[place](cloud_config(data), "i-1")
    told = cloud.ready(place, "state", **machine)
    assert (told["instance"], told["stage"], told["words"]) == ("web1", "new", words(parse_fingerprint(told["key"])))
    assert cloud.ready("auto", "state", **machine)["key"] == told["key"]
    others = PLACES[place]("#cloud-config\npackages: [nginx]\n", "i-1")
    refused = cloud.refused("auto", "other", 3, **others)
    assert "a document for cloud-init that has our '/etc/handfast/agent/user-data' 0 times" in refused
    assert not (cloud.host.directory / "other").exists()


@pytest.mark.root
@pytest.mark.peer("ip")
@pytest.mark.parametrize(
    ("place", "known"),
    [("ec2", True), ("ec2", False), ("openstack", True), ("nocloud", False)],
)  # fmt: skip
def test_a_clone_is_refused(place: str, cloud: Cloud, controlling: Controlling, *, known: bool) -> None:
    """A copied disk, and the same user-data, where the cloud says another id: no key is shown, nothing listens."""
    data = given(controlling)
    if not known:
        data = InstanceData(data.instance, f"{instancedata.OURS}1", data.root, data.line, listens=data.listens)
    text = instancedata.written(data)
    cloud.ready(place, "state", **PLACES[place](text, "i-1"))
    cloud.host.run("cp", "-a", "state", "copy")
    refused = cloud.refused(place, "copy", 3, **PLACES[place](text, "i-2"))
    assert "this machine is 'i-2', and 'web1' is 'i-1': a copy of it" in refused
