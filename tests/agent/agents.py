"""Agents as processes on loopback, and a controller that talks to them over real TLS."""

from __future__ import annotations

import http.client
import json
import socket
import ssl
import sys
from collections.abc import Iterator, Mapping
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import msgspec
from cryptography import x509

from handfast.adapters.tls import controller_context
from handfast.authority import ceremony
from handfast.authority.authority import FileAuthority
from handfast.core import instancedata, wire
from handfast.core.instancedata import InstanceData
from handfast.core.invitation import Address
from tests.agent.test_agent import Controlling, given
from tests.interop.hosts import Host, Process
from tests.registrar.house import house

PROGRAM = Path(__file__).with_name("program.py")
ANY = Address("127.0.0.1", 0)
PATIENCE = 30.0  # seconds


@contextmanager
def controller(directory: Path) -> Iterator[Controlling]:
    """A controller by the real time, for TLS compares dates with it."""
    now = datetime.now(UTC)
    ceremony.create(directory / "authority", name="home", now=now)
    with house(directory, FileAuthority.open(directory / "authority")) as made:
        made.clock.time = now
        yield Controlling(made)


@dataclass(frozen=True)
class Answer:
    """What came back."""

    status: int
    body: bytes
    headers: Mapping[str, str] = field(default_factory=dict)

    def json(self) -> Any:
        """The body."""
        return json.loads(self.body)


class Talk:
    """One connection to an agent, with a certificate; requests go one after the other."""

    def __init__(self, connected: ssl.SSLSocket) -> None:
        self._http = http.client.HTTPConnection("agent", timeout=PATIENCE)
        self._http.sock = connected
        der = self.tls.getpeercert(binary_form=True)
        assert der is not None
        self.shown = x509.load_der_x509_certificate(der)

    @property
    def tls(self) -> ssl.SSLSocket:
        """The connection."""
        assert isinstance(self._http.sock, ssl.SSLSocket)
        return self._http.sock

    def ask(self, method: str, path: str, body: Any = None, **headers: str) -> Answer:
        """Send a request as it is; ``body`` is bytes, or a value to be sent as JSON."""
        sent = body if isinstance(body, bytes | None) else msgspec.json.encode(body)
        self._http.putrequest(method, path, skip_host=True, skip_accept_encoding=True)
        self._http.putheader("Host", "agent")
        for name, value in headers.items():
            self._http.putheader(name.replace("_", "-"), value)
        if "Content_Length" not in headers and "Transfer_Encoding" not in headers:
            self._http.putheader("Content-Length", str(len(sent or b"")))
        self._http.endheaders(sent)
        answer = self._http.getresponse()
        return Answer(answer.status, answer.read(), dict(answer.getheaders()))

    def close(self) -> None:
        """Be done."""
        self._http.close()


@dataclass
class Running:
    """An agent that runs, and who may talk to it."""

    controlling: Controlling
    data: InstanceData
    host: Host
    policy: Path
    env: Mapping[str, str] = field(default_factory=dict)
    dial: Address | None = None
    die: tuple[int, str] | None = None
    """Before which change of which files it ends as SIGKILL does, the next time that it is started."""
    default: bool = False
    """Whether the policy is at the place where there may be none."""
    talks: ExitStack = field(default_factory=ExitStack)
    process: Process = field(init=False)
    address: Address = field(init=False)
    ready: dict[str, Any] = field(init=False)

    def start(self) -> None:
        """Start it, and wait until it is ready."""
        where: dict[str, Any] = {"dial": str(self.dial)} if self.dial else {"listen": [ANY.host, ANY.port]}
        asked = {
            "user_data": str(self.host.put("user-data", instancedata.written(self.data))),
            "state": str(self.host.directory / "state"),
            "policy": str(self.policy),
        }
        if self.default:
            where["default"] = str(self.policy)
        if self.die is not None:
            where |= {"die_at": self.die[0], "die_in": self.die[1]}
        self.process = self.host.start(sys.executable, PROGRAM, json.dumps(asked | where), env=self.env)
        self.ready = json.loads(self.process.expect('{"listens"'))
        if not self.dial:
            self.address = Address.parse(self.ready["listens"])

    def talk(self, leaf: x509.Certificate | None = None) -> Talk:
        """Connect as the controller, or with another certificate for its key."""
        return self.meet(self.context(leaf))

    def meet(self, context: ssl.SSLContext) -> Talk:
        """Connect with a context; closed at the end."""
        connected = socket.create_connection((self.address.host, self.address.port), PATIENCE)
        self.talks.callback(connected.close)
        talk = Talk(context.wrap_socket(connected))
        self.talks.callback(talk.close)
        return talk

    def context(self, leaf: x509.Certificate | None = None) -> ssl.SSLContext:
        """What presents the controller's certificate."""
        chain = [x509.load_der_x509_certificate(der) for der in self.controlling.house.authority.chain]
        return controller_context([leaf or self.controlling.leaf, *chain], self.controlling.house.tls.key)

    def introduce(self, method: str = "instance") -> None:
        """Introduce it as a controller does, and call over the new certificate."""
        talk = self.talk()
        introduce(self.controlling, talk, method)
        talk.close()
        talk = self.talk()
        assert talk.ask("GET", "/v1/agent").json()["stage"] == "held"
        talk.close()


def introduce(controlling: Controlling, talk: Talk, method: str = "instance") -> None:
    """Say hello, and bring the answer: the agent is on trial afterwards."""
    asked = talk.ask("POST", "/v1/introduction", controlling.hello())
    assert asked.status == 200, asked.body
    answer = controlling.answer(method, asked.body, talk.shown)
    assert isinstance(answer, wire.IntroductionAnswer)
    taken = talk.ask("POST", "/v1/introduction/answer", answer)
    assert taken.status == 204, taken.body


@contextmanager
def running(
    controlling: Controlling, directory: Path, policy: str, name: str = "web1", **more: Any
) -> Iterator[Running]:
    """An agent of a new instance, with a policy."""
    host = Host(directory)
    agent = Running(controlling, given(controlling, name), host, host.put("policy.toml", policy), **more)
    try:
        agent.start()
        yield agent
    finally:
        agent.talks.close()
        host.close()


POLICY = """\
hosts_file = "{0}/hosts"
[service.web]
kind = "mock"
full_name = "A web server"
operations = ["status", "start", "stop", "restart", "configure", "artifacts", "logs"]
logs = "{0}/logs"
artifacts = "{0}/artifacts"
artifact_limit = 10_000_000
{1}
[service.web.files.site]
path = "{0}/site.conf"
check = ["grep", "-q", "good", "{0}/site.conf"]
[service.seen]
kind = "mock"
operations = ["status"]
"""


@dataclass
class Managed:
    """An agent that is introduced, and the directory in which its services have their files."""

    agent: Running
    place: Path
    talk: Talk


@contextmanager
def managed(directory: Path, pull: str = "", **more: Any) -> Iterator[Managed]:
    """An agent with a service that may have everything done to it, and one that may be looked at."""
    for name in ("logs", "artifacts", "controller"):
        (directory / name).mkdir()
    (directory / "hosts").write_text("127.0.0.1 localhost\n192.0.2.1 Gateway.lan\n")
    (directory / "secret").write_text("nobody's business\n")
    with (
        controller(directory / "controller") as controlling,
        running(controlling, directory / "agent", POLICY.format(directory, pull), **more) as agent,
    ):
        agent.introduce()
        yield Managed(agent, directory, agent.talk())
