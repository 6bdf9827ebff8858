"""An agent that looks at SSH hosts for its controller: only if its own policy says so, and no further."""

from __future__ import annotations

import ipaddress
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from handfast.adapters.buckets import Buckets
from handfast.agent import looks, policy
from handfast.agent.policy import Looking
from handfast.errors import ConfigError, TooMuch
from handfast.server.limits import Limits
from tests.agent.agents import Running, controller, running
from tests.agent.test_agent import Controlling
from tests.agent.test_plain import ask as ask_plainly
from tests.agent.test_plain import developed
from tests.interop.hosts import Host
from tests.interop.ssh_stage import Sshd
from tests.ledger.material import ssh_key
from tests.ports import free_port

KEY = ssh_key(0x5D2C19513E38EFC1AB6B2B42C3F7A4E4D2FD3B1C7E5A98F16A4E7B3C2D1F0908)
PATH = "/v1/look"


def asking(**change: Any) -> dict[str, Any]:
    """A request; loopback, unless said otherwise."""
    return {"names": [], "addresses": ["127.0.0.1"], "ports": [22], "keys": [KEY.blob]} | change


def look(agent: Running, **change: Any) -> tuple[int, Any]:
    """Ask over a connection of its own; the status, and what was said."""
    talk = agent.talk()
    answer = talk.ask("POST", PATH, asking(**change))
    talk.close()
    return answer.status, answer.json()


@pytest.mark.parametrize("text", ["", "looks = false\n", 'looks_allow = ["127.0.0.0/8"]\nlooks_ports = [2222]\n'])
def test_without_a_word_it_looks_at_nothing(controlling: Controlling, tmp_path: Path, text: str) -> None:
    """Whoever is its controller; which hosts it could look at otherwise makes no difference."""
    with running(controlling, tmp_path / "agent", text) as agent:
        agent.introduce()
        status, told = look(agent)
        assert (status, told["code"]) == (403, "not-authorized")
        assert told["detail"] == "the policy of this machine does not let it look at hosts"


@pytest.mark.peer("sshd", "ssh-keygen")
def test_what_it_sees(controlling: Controlling, tmp_path: Path) -> None:
    """The keys of those asked for that answer there, by its policy's guard and no further; a policy also takes back."""
    host, port = Host(tmp_path / "host"), free_port()
    sshd = Sshd(host, "db1", port=port)
    given = f'looks = true\nlooks_allow = ["127.0.0.1/32"]\nlooks_ports = [{port}]\n'
    try:
        with running(controlling, tmp_path / "agent", given) as agent:
            agent.introduce()
            keys = [KEY.blob, sshd.key.blob]
            status, told = look(agent, ports=[port], keys=keys)
            shown = {"address": "127.0.0.1", "port": port, "keys": [sshd.key.fingerprint]}
            assert (status, told) == (200, {"names": [], "hosts": [shown]})
            agent.process.expect("127.0.0.1 at port")  # what else it saw is in its own log
            status, told = look(agent, addresses=["127.0.0.1", "127.0.0.2"], ports=[port, 22], keys=keys)
            assert (status, told["code"]) == (403, "policy-refused")
            assert told["detail"] == "'127.0.0.2' is not one to scan: loopback"
            assert told["hint"] == "looks_allow and looks_ports, in this machine's policy"
            agent.policy.write_text("looks = false\n")
            agent.process.kill_with(signal.SIGHUP)
            agent.process.expect("reloaded")
            assert look(agent, ports=[port], keys=keys)[0] == 403
    finally:
        host.close()


@pytest.mark.parametrize(
    "change",
    [
        {"addresses": []},
        {"addresses": ["127.0.0.1", "127.0.0.1"]},
        {"addresses": ["127.0.0.1%lo"]},
        {"names": ["localhost"]},
        {"names": ["*.example"]},
        {"ports": [0]},
        {"keys": []},
        {"keys": [b"no key"]},
        {"command": "id"},
    ],
)
def test_what_is_no_request(looking: Running, change: dict[str, Any]) -> None:
    """It is refused before any packet, as a registrar would."""
    status, told = look(looking, **change)
    assert (status, told["code"]) == (400, "malformed")


@pytest.fixture(scope="module")
def looking(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Running]:
    """An agent that may look at public addresses."""
    directory = tmp_path_factory.mktemp("looking")
    (directory / "controller").mkdir()
    with (
        controller(directory / "controller") as controlling,
        running(controlling, directory / "agent", "looks = true\n") as agent,
    ):
        agent.introduce()
        yield agent


@pytest.mark.parametrize("address", ["127.0.0.1", "169.254.169.254", "10.0.0.1", "::1", "64:ff9b::7f00:1"])
def test_it_looks_at_no_network_of_its_own(looking: Running, address: str) -> None:
    """Without a list in its policy a controller's stolen key does not make it a scanner of what only it can reach."""
    status, told = look(looking, addresses=[address])
    assert (status, told["code"]) == (403, "policy-refused")
    assert "is not one to scan" in told["detail"]


def test_over_the_limits(looking: Running) -> None:
    """More than a look may have is refused, and so is a body without an end."""
    status, told = look(looking, addresses=[f"127.0.0.{last}" for last in range(1, 18)])
    assert (status, told["code"]) == (400, "malformed")
    talk = looking.talk()
    assert talk.ask("POST", PATH, b" " * 70_000).status == 413


def test_before_the_introduction(controlling: Controlling, tmp_path: Path) -> None:
    """A controller cannot know yet whom it asks."""
    with running(controlling, tmp_path / "agent", "looks = true\n") as agent:
        status, told = look(agent)
        assert (status, told["code"]) == (409, "conflict")


async def test_without_tls_it_looks_for_nobody(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Nobody has proved to be the controller there."""
    monkeypatch.setattr("tests.agent.test_plain.POLICY", "looks = true\n")
    async with developed(tmp_path) as there:
        status, body = await ask_plainly(there, "POST", PATH)
        assert (status, b"over plain HTTP this agent looks for nobody" in body) == (403, True)


def test_as_rarely_as_a_registrar() -> None:
    """The limits are those that a registrar has for another one; one controller leaves room to others."""
    limits = Limits()
    assert (limits.looks_of_holder, limits.looks_of_holder_burst) == (looks.RATE, looks.BURST)
    assert (limits.looking, limits.looking_per_holder) == (looks.AT_ONCE, looks.OF_ONE)
    made = looks.Looks(often=Buckets(looks.RATE, looks.BURST, now=lambda: 0.0))
    with ExitStack() as held:
        for _ in range(looks.OF_ONE):
            held.enter_context(made.admit("one"))
        with pytest.raises(TooMuch, match="too many at a time"), made.admit("one"):
            pass
        for _ in range(looks.AT_ONCE - looks.OF_ONE):
            held.enter_context(made.admit("two"))
        with pytest.raises(TooMuch, match="too many at a time"), made.admit("three"):
            pass
    for _ in range(looks.BURST):
        with made.admit("four"):
            pass
    with pytest.raises(TooMuch, match="asked to look at hosts too often"), made.admit("four"):
        pass


def test_nothing_of_it_is_in_an_agents_memory() -> None:
    """What looks at hosts is imported when somebody asks who may: most agents never look."""
    code = "import sys, handfast.agent.run, handfast.cli.agent; print('\\n'.join(sys.modules))"
    loaded = subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout.split()
    assert "handfast.agent.v1" in loaded
    assert not {each for each in loaded if re.match(r"handfast\.(ssh|agent\.looks|core\.sshwire)\b", each)}


def test_what_its_policy_says() -> None:
    """Networks and ports count only beside the permission; what is neither is a mistake."""
    text = 'looks = true\nlooks_allow = ["10.0.0.0/8", "fd00::/8"]\nlooks_ports = [2222]\n'
    allow = (ipaddress.ip_network("10.0.0.0/8"), ipaddress.ip_network("fd00::/8"))
    assert policy.parse(text.encode(), source="p").looking == Looking(allow, (2222,))
    assert policy.parse(text.replace("true", "false").encode(), source="p").looking is None
    for wrong, message in (
        ('looks = "yes"', "looks"),
        ("looks = 1", "looks"),
        ('looks_allow = ["10.0.0.1/8"]', r"'p': looks_allow: not a network: '10\.0\.0\.1/8'"),
        ("looks_ports = [0]", "looks_ports"),
        ("looks_ports = [65536]", "looks_ports"),
        (f"looks_ports = {list(range(1, 18))}", "looks_ports"),
        ("look = true", "look"),
    ):
        with pytest.raises(ConfigError, match=message):
            policy.parse(wrong.encode(), source="p")
