"""An agent's end and what it tells systemd: what is under way is finished, in order."""

from __future__ import annotations

import signal
import socket
from collections.abc import Iterator
from pathlib import Path
from typing import cast

import pytest

from handfast.agent import policy, run
from handfast.agent.agent import Agent
from handfast.agent.service import Service
from handfast.agent.state import State
from handfast.core.instancedata import InstanceData
from tests.agent.agents import POLICY, Managed, managed


@pytest.fixture
def notified(tmp_path: Path) -> Iterator[socket.socket]:
    """Where systemd listens."""
    with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as made:
        made.bind(str(tmp_path / "notify"))
        made.settimeout(30)
        yield made


@pytest.fixture
def met(tmp_path: Path, notified: socket.socket) -> Iterator[Managed]:
    """An agent."""
    (tmp_path / "services").mkdir()
    with managed(tmp_path / "services", env={"NOTIFY_SOCKET": notified.getsockname()}) as made:
        yield made


def test_systemd_is_told(met: Managed, notified: socket.socket) -> None:
    """Ready when it can be reached, reloading, ready again, stopping."""
    assert notified.recv(4096).startswith(b"READY=1\nSTATUS=new, at 127.0.0.1:")
    met.agent.process.kill_with(signal.SIGHUP)
    assert notified.recv(4096).startswith(b"RELOADING=1\nMONOTONIC_USEC=")
    assert notified.recv(4096) == b"READY=1"
    assert met.agent.process.stop() == 0
    assert notified.recv(4096) == b"STOPPING=1"


def test_what_is_under_way_is_finished(met: Managed, notified: socket.socket) -> None:
    """An artifact that is coming when it is told to end is taken to its end; idle connections and new ones are not."""
    idle, body = met.talk, b"x" * 1_500_000
    coming = met.agent.talk()
    head = f"PUT /v1/services/web/artifacts/app HTTP/1.1\r\nHost: a\r\nContent-Length: {len(body)}\r\n\r\n"
    coming.tls.sendall(head.encode() + body[:1_200_000])
    while not list((met.place / "artifacts").iterdir()):  # until it has begun
        pass
    met.agent.process.kill_with(signal.SIGTERM)
    while notified.recv(4096) != b"STOPPING=1":
        pass
    assert idle.tls.recv(1) == b""
    with pytest.raises(OSError):  # noqa: PT011  refused, or reset
        met.agent.talk().ask("GET", "/v1/agent")
    coming.tls.sendall(body[1_200_000:])
    assert b" 201 " in coming.tls.recv(4096)
    assert met.agent.process.wait() == 0
    assert (met.place / "artifacts/app").read_bytes() == body


def test_a_disk_that_is_not_ours(met: Managed) -> None:
    """The directory for artifacts is gone: the reason is told, and the agent starts without it too."""
    (met.place / "artifacts").rmdir()
    answer = met.agent.talk().ask("PUT", "/v1/services/web/artifacts/app", b"x")
    assert (answer.status, answer.json()["code"]) == (500, "fault")
    assert "cannot open the directory for artifacts" in answer.json()["detail"]
    met.agent.talks.close()
    met.agent.process.stop()
    met.agent.start()
    assert any("cannot put in order what was left" in line for line in met.agent.process.lines)
    assert met.agent.talk().ask("GET", "/v1/services/web").status == 200


def test_what_a_services_user_leaves_there(met: Managed) -> None:
    """Whoever owns a service's directory does not end the agent for good by what he puts into it."""
    (met.place / "artifacts/.handfast-0123456789abcdef").mkdir()
    (met.place / "artifacts/.handfast-x").mkdir()
    met.agent.talks.close()
    met.agent.process.stop()
    met.agent.start()
    assert met.agent.talk().ask("GET", "/v1/services/web/artifacts").json() == {"artifacts": []}


def test_one_step_that_fails_is_not_the_last(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of what a crash has left all is put in order that can be, whatever the kernel says of the rest."""
    done: list[str] = []

    def fails(self: Service) -> None:
        done.append(self.policy.name)
        raise IsADirectoryError(21, "Is a directory", ".handfast-x")

    monkeypatch.setattr(Service, "recover", fails)
    state = State(cast(Agent, None), cast(InstanceData, None))
    state.adopt(policy.parse(POLICY.format(tmp_path, "").encode(), source="policy"))
    run._recover(state)
    assert done == ["web", "seen"]
