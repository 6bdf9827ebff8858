"""An agent that is killed before each write: after the next start all is as before, or as it was to be."""

from __future__ import annotations

import http.client
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path

import pytest

from tests.agent.agents import POLICY, Managed, Running, controller, managed
from tests.agent.test_agent import Controlling, given
from tests.interop.hosts import Host

pytestmark = [pytest.mark.slow, pytest.mark.timeout(600)]
GONE = (OSError, http.client.HTTPException)
MOST = 200  # changes that anything here makes at most


@pytest.fixture(scope="module")
def met(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Managed]:
    """An agent that starts again and again."""
    with managed(tmp_path_factory.mktemp("killed")) as made:
        yield made


def again(agent: Running, die: tuple[int, str] | None) -> None:
    """Start it anew."""
    agent.talks.close()
    agent.process.kill()
    agent.die = die
    agent.start()


def killed(agent: Running, method: str, path: str, body: object) -> bool:
    """Ask for something, and say whether it died of it."""
    try:
        answer = agent.talk().ask(method, path, body)
    except GONE:
        return True
    assert answer.status < 300
    return False


def test_while_it_configures(met: Managed) -> None:
    """The file is the old one or the new one, never none, and nothing of ours lies beside it."""
    site, path = met.place / "site.conf", "/v1/services/web/configuration"
    assert met.talk.ask("PUT", path, {"files": {"site": "good 0"}}).status == 200
    before, died = "good 0", 0
    for number in range(1, MOST):
        again(met.agent, (number, "site.conf"))
        dead = killed(met.agent, "PUT", path, {"files": {"site": f"good {number}"}})
        again(met.agent, None)
        assert site.read_text() in {before, f"good {number}"}
        assert [each.name for each in met.place.iterdir() if "site.conf" in each.name] == ["site.conf"]
        before, died = site.read_text(), died + dead
        if not dead:
            break
    assert (before, died > 4) == (f"good {number}", True)


def test_while_an_artifact_comes(met: Managed) -> None:
    """It is whole or not there, and what was on its way is removed."""
    folder, path = met.place / "artifacts", "/v1/services/web/artifacts/app"
    died = 0
    for number in range(1, MOST):
        again(met.agent, (number, ".handfast-"))
        dead = killed(met.agent, "PUT", path, b"x" * 3_000_000)
        again(met.agent, None)
        assert [(each.name, each.stat().st_size) for each in folder.iterdir()] in ([], [("app", 3_000_000)])
        died += dead
        if not dead:
            break
    assert ([each.name for each in folder.iterdir()], died > 1) == (["app"], True)


def test_while_the_hosts_file_is_written(met: Managed) -> None:
    """All of the machine's own lines are there, whatever happens."""
    hosts, own = met.place / "hosts", (met.place / "hosts").read_text()
    for number in range(1, MOST):
        again(met.agent, (number, "hosts"))
        body = f"hostname=n{number}.lan&address=192.0.2.{number}".encode()
        dead = True
        with suppress(*GONE):
            form = "application/x-www-form-urlencoded"
            answer = met.agent.talk().ask("POST", "/cluster_member_addresses", body, Content_Type=form)
            dead = answer.status != 200
        assert hosts.read_text().startswith(own)
        again(met.agent, None)
        assert [each.name for each in met.place.iterdir() if "hosts" in each.name] == ["hosts"]
        if not dead:
            break
    assert number > 2


def test_while_it_is_introduced(tmp_path: Path) -> None:
    """Whenever it dies, its controller finds it again with the same secret: new with the same key, or introduced."""
    with ExitStack() as stack:
        (tmp_path / "controller").mkdir()
        controlling: Controlling = stack.enter_context(controller(tmp_path / "controller"))
        for number in range(1, MOST):
            directory = tmp_path / f"agent{number}"
            host = Host(directory)
            stack.callback(host.close)
            policy = host.put("policy.toml", POLICY.format(tmp_path, ""))
            agent = Running(controlling, given(controlling, f"web{number}"), host, policy)
            agent.die, died = (number, f"{directory}/state"), True
            with suppress(AssertionError, *GONE):  # at its start, or when it is met
                agent.start()
                agent.introduce()
                died = False
            again(agent, None)
            if agent.ready["stage"] == "new":
                agent.introduce()
            assert agent.talk().ask("GET", "/v1/agent").json()["stage"] == "held"
            agent.talks.close()
            agent.process.stop()
            if not died:
                break
        assert 20 < number < MOST - 1
