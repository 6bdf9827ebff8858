"""An agent as a process, met over real TLS: introduced, and then its services managed; and those whom it meets not."""

from __future__ import annotations

import hashlib
import signal
import ssl
from base64 import b64encode
from collections.abc import Iterator
from pathlib import Path

import pytest

from handfast.adapters.tls import newcomer_context
from handfast.core.roles import Role
from tests.agent.agents import POLICY, Running, controller, introduce, running
from tests.agent.test_agent import Controlling


@pytest.fixture(scope="module")
def controlling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controlling]:
    """The controller."""
    with controller(tmp_path_factory.mktemp("controller")) as made:
        yield made


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """Where the services' files are."""
    for name in ("logs", "artifacts"):
        (tmp_path / name).mkdir()
    return tmp_path


@pytest.fixture
def agent(controlling: Controlling, place: Path, request: pytest.FixtureRequest) -> Iterator[Running]:
    """An agent that nobody has met."""
    with running(
        controlling, place / "agent", POLICY.format(place, ""), request.node.name.replace("_", "-")
    ) as started:
        yield started


def nothing(context: ssl.SSLContext, agent: Running) -> None:
    """Connect, ask, and get not one byte."""
    with pytest.raises((ssl.SSLError, ConnectionError)):  # in TLS 1.3 the refusal comes after the handshake
        agent.meet(context).ask("GET", "/v1/agent")


def test_from_the_first_packet_to_a_managed_service(agent: Running, place: Path, controlling: Controlling) -> None:
    """Introduced, called over the new certificate, and then started, configured, deployed to, tailed and stopped."""
    agent.introduce()
    talk = agent.talk()
    about = talk.ask("GET", "/v1/agent").json()
    assert (about["stage"], about["instance_id"], about["services"]) == ("held", "i-1", ["seen", "web"])
    assert about["serial"] == f"{talk.shown.serial_number:032x}"
    [seen, web] = talk.ask("GET", "/v1/services").json()["services"]
    assert (seen["operations"], web["full_name"]) == (["status"], "A web server")
    assert talk.ask("GET", "/v1/services/web").json() == {"state": "stopped"}
    assert talk.ask("POST", "/v1/services/web/start").json() == {"state": "started"}

    configured = talk.ask("PUT", "/v1/services/web/configuration", {"files": {"site": "good\n"}})
    assert (configured.status, (place / "site.conf").read_text()) == (200, "good\n")
    refused = talk.ask("PUT", "/v1/services/web/configuration", {"files": {"site": "bad\n"}})
    assert (refused.status, refused.json()["code"], (place / "site.conf").read_text()) == (403, "refused", "good\n")

    content = bytes(range(256)) * 20_000
    digest = hashlib.sha256(content)
    field = f"sha-256=:{b64encode(digest.digest()).decode()}:"
    put = talk.ask("PUT", "/v1/services/web/artifacts/app.war", content, Repr_Digest=field)
    assert (put.status, put.json()) == (201, {"name": "app.war", "size": len(content), "sha256": digest.hexdigest()})
    assert (place / "artifacts/app.war").read_bytes() == content
    assert talk.ask("GET", "/v1/services/web/artifacts").json()["artifacts"] == [
        {"name": "app.war", "size": len(content)}
    ]
    assert talk.ask("DELETE", "/v1/services/web/artifacts/app.war").status == 204
    assert talk.ask("GET", "/v1/services/web/artifacts/app.war").json()["code"] == "not-found"

    (place / "logs/sub").mkdir()
    log = place / "logs/sub/a b.log"
    log.write_text("one\ntwo\n")
    assert talk.ask("GET", "/v1/services/web/logs").json() == {"logs": ["sub/a b.log"]}
    path = "/v1/services/web/logs/sub/a%20b.log"
    assert talk.ask("GET", f"{path}?lines=1").json() == {"lines": ["one"], "offset": 4}
    mark = talk.ask("GET", f"{path}?end").json()["mark"]
    with log.open("a") as file:
        file.write("three\n")
    added = talk.ask("GET", f"{path}?since={mark}").json()
    assert (added["lines"], added["lost"]) == (["three"], False)
    assert talk.ask("GET", f"{path}?since={added['mark']}").json()["lines"] == []
    assert talk.ask("POST", "/v1/services/web/stop").json() == {"state": "stopped"}
    assert agent.process.stop() == 0


def test_nothing_but_the_introduction_before_it(agent: Running, controlling: Controlling) -> None:
    """A new agent tells its controller who it is, and serves nothing; nor over a connection from before."""
    talk = agent.talk()
    about = talk.ask("GET", "/v1/agent").json()
    assert (about["stage"], "services" in about, "serial" in about) == ("new", False, False)
    refused = talk.ask("GET", "/v1/services")
    assert (refused.status, refused.json()["code"]) == (409, "conflict")
    assert talk.ask("GET", "/services").status == 404
    introduce(controlling, talk)
    assert talk.ask("POST", "/v1/services/web/start").json()["detail"] == "this agent is not introduced"
    assert agent.talk().ask("GET", "/v1/agent").json()["stage"] == "held"
    old = talk.ask("POST", "/v1/services/web/start")
    assert (old.status, old.json()["detail"]) == (409, "this connection is older than the introduction")
    assert talk.ask("GET", "/services").status == 404


def test_without_a_certificate_nothing(agent: Running) -> None:
    """Not even before the introduction: the original let such a client have everything."""
    nothing(newcomer_context(), agent)
    agent.introduce()
    nothing(newcomer_context(), agent)


def test_another_agent_gets_nothing(controlling: Controlling, place: Path) -> None:
    """An agent's own genuine certificate, as a client of another agent of the same controller."""
    with (
        running(controlling, place / "a", POLICY.format(place, ""), "agent-a") as first,
        running(controlling, place / "b", POLICY.format(place, ""), "agent-b") as second,
    ):
        first.introduce()
        theirs = first.controlling.certificate(Role.AGENT)
        nothing(second.context(theirs), second)
        second.introduce()
        nothing(second.context(theirs), second)
        for role in (Role.SERVER, Role.CLIENT, Role.OPERATOR):
            nothing(second.context(controlling.certificate(role)), second)
        assert second.talk().ask("GET", "/v1/agent").status == 200


def test_another_authority_gets_nothing(agent: Running, tmp_path: Path) -> None:
    """Somebody else's controller, however genuine."""
    (tmp_path / "elsewhere").mkdir()
    with controller(tmp_path / "elsewhere") as foreign:
        stranger = Running(foreign, agent.data, agent.host, agent.policy)
        nothing(stranger.context(), agent)


def test_it_survives_a_reboot_and_renews(agent: Running, controlling: Controlling) -> None:
    """What was held is held after SIGKILL; a renewal changes the key without a restart."""
    agent.introduce()
    before = agent.talk().shown
    agent.process.kill()
    agent.start()
    assert agent.ready["stage"] == "held"
    assert agent.talk().shown == before
    agent.introduce("renewal")
    after = agent.talk().shown
    assert after.public_key() != before.public_key()
    agent.process.kill()
    agent.start()
    assert agent.talk().shown == after


def test_a_trial_that_nobody_calls_over_ends_with_the_process(agent: Running, controlling: Controlling) -> None:
    """Killed between the answer and the first call: it is new again, and the same secret and key lead on."""
    talk = agent.talk()
    introduce(controlling, talk)
    agent.process.kill()
    agent.start()
    assert agent.talk().ask("GET", "/v1/agent").json()["stage"] == "new"
    agent.introduce()


def test_a_policy_is_read_anew(agent: Running) -> None:
    """SIGHUP takes a good one from then on, and keeps the old where the new one is not."""
    agent.introduce()
    talk = agent.talk()
    good = agent.policy.read_text()
    agent.policy.write_text(good.replace("service.seen", "service.other"))
    agent.process.kill_with(signal.SIGHUP)
    agent.process.expect("reloaded")
    assert talk.ask("GET", "/v1/agent").json()["services"] == ["other", "web"]
    for bad in ("= nonsense", good.replace("mock", "shell", 1)):
        agent.policy.write_text(bad)
        agent.process.kill_with(signal.SIGHUP)
        agent.process.expect("the policy before this one stays")
    agent.policy.chmod(0o666)
    agent.process.kill_with(signal.SIGHUP)
    assert "can be written by others" in agent.process.expect("the policy before this one stays")
    assert talk.ask("GET", "/v1/agent").json()["services"] == ["other", "web"]


def test_two_agents_never_share_a_directory(agent: Running) -> None:
    """The second one ends at once, and the first goes on."""
    other = agent.host.run(*agent.process.command, code=1)
    assert "is in use by process" in other.stderr
    assert agent.talk().ask("GET", "/v1/agent").status == 200
