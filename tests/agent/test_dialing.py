"""An agent that dials its controller: the same API over a stream that is dialled the other way."""

from __future__ import annotations

import socket
from collections.abc import Iterator
from contextlib import closing, contextmanager
from pathlib import Path

import pytest

from handfast.core.invitation import Address
from tests.agent.agents import POLICY, Running, Talk, controller, introduce, running


@pytest.fixture
def listening() -> Iterator[socket.socket]:
    """Where the controller waits."""
    with socket.create_server(("127.0.0.1", 0)) as made:
        made.settimeout(30)
        yield made


@contextmanager
def called(agent: Running, listening: socket.socket) -> Iterator[Talk]:
    """Wait for the agent's call, and be its client."""
    accepted, _ = listening.accept()
    with accepted:
        line = b""
        while not line.endswith(b"\n"):
            line += accepted.recv(1) or pytest.fail("it said no more")
        assert line == b"HANDFAST-AGENT/1 web1\n"
        with closing(Talk(agent.context().wrap_socket(accepted))) as talk:
            yield talk


def test_it_is_introduced_over_its_own_call(tmp_path: Path, listening: socket.socket) -> None:
    """Met at the first call, verified at the next, and managed from then on; it calls again after each end."""
    for name in ("controller", "logs", "artifacts"):
        (tmp_path / name).mkdir()
    where = Address(*listening.getsockname())
    with (
        controller(tmp_path / "controller") as controlling,
        running(controlling, tmp_path / "agent", POLICY.format(tmp_path, ""), dial=where) as agent,
    ):
        with called(agent, listening) as talk:
            introduce(controlling, talk)
        with called(agent, listening) as talk:
            assert talk.ask("GET", "/v1/agent").json()["stage"] == "held"
            assert talk.ask("POST", "/v1/services/web/start").json() == {"state": "started"}
            assert agent.process.stop() == 0


def test_it_waits_for_a_controller_that_is_away(tmp_path: Path) -> None:
    """Nobody listens at first: it says so once, and tries on."""
    for name in ("controller", "logs", "artifacts"):
        (tmp_path / name).mkdir()
    with socket.socket() as place:
        place.bind(("127.0.0.1", 0))  # without listen: nobody else gets the port meanwhile
        where = Address(*place.getsockname())
        with (
            controller(tmp_path / "controller") as controlling,
            running(controlling, tmp_path / "agent", POLICY.format(tmp_path, ""), dial=where) as agent,
        ):
            assert "no controller" in agent.process.expect("no controller")
            place.listen()
            place.settimeout(30)
            with called(agent, place) as talk:
                assert talk.ask("GET", "/v1/agent").json()["stage"] == "new"
            assert sum("no controller" in line for line in agent.process.lines) == 1


def test_a_stranger_that_it_was_led_to_gets_nothing(tmp_path: Path, listening: socket.socket) -> None:
    """Whoever takes the controller's address has no certificate of its authority: no request is answered."""
    for name in ("controller", "logs", "artifacts", "elsewhere"):
        (tmp_path / name).mkdir()
    where = Address(*listening.getsockname())
    with (
        controller(tmp_path / "controller") as controlling,
        controller(tmp_path / "elsewhere") as foreign,
        running(controlling, tmp_path / "agent", POLICY.format(tmp_path, ""), dial=where) as agent,
    ):
        stranger = Running(foreign, agent.data, agent.host, agent.policy)
        with pytest.raises(OSError), called(stranger, listening) as talk:  # noqa: PT011  an alert, or a reset
            talk.ask("GET", "/v1/agent")
        with called(agent, listening) as talk:
            assert talk.ask("GET", "/v1/agent").status == 200
