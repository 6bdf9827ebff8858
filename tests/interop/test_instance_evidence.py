"""
An agent's key through guest attributes: the real agent and controller, and a stand-in for Google's metadata server.

The stand-in is at the real link-local address, in the machine's own network. No cloud was asked: that Google's answers
as the stand-in does is by its documentation alone.
"""

from __future__ import annotations

import json
import shutil
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.interop import metadata_stage
from tests.interop.hosts import HANDFAST, Done, Network, Process, Registrar

pytestmark = [pytest.mark.root, pytest.mark.peer("ip"), pytest.mark.timeout(300)]
TRIES = 100  # of a command that takes half a second
WHERE = f"{Network.SERVER}:7575"


class Cloud:
    """A machine in a cloud with a metadata server, and the controller of what runs there."""

    def __init__(self, net: Network, directory: Path) -> None:
        self.net, self.directory = net, directory
        self.host = net.server
        self.host.run("ip", "address", "replace", "169.254.169.254/32", "dev", "lo")
        self.data = net.registrar.directory / f"data-{directory.name}"
        self.data.mkdir(mode=0o700)
        (self.data / "config.toml").write_text("[instances]\nwatch = true\n")
        self.registrar = Registrar(net.registrar, f"{Network.REGISTRAR}:0", data=self.data.name)
        self.user_data, self.attributes = directory / "user-data", directory / "attributes.json"
        self.state = directory / "agent"
        self.processes: list[Process] = []

    def type(self, command: str, *arguments: str | Path, stdin: str = "", code: int = 0) -> Done:
        """Type a command of `instance` at the controller."""
        flags = ("--data", self.data)
        return self.net.registrar.handfast("instance", command, "app1.lan", *arguments, *flags, stdin=stdin, code=code)

    def add(self, *flags: str) -> None:
        """Add the instance, and have the metadata server give its user-data."""
        self.user_data.write_text(self.type("add", "--address", WHERE, "--format", "json", *flags).stdout)

    def serve(self, *flags: str) -> Process:
        """Start the metadata server."""
        script = Path(metadata_stage.__file__)
        served = self._start(sys.executable, script, self.user_data, self.attributes, *flags)
        served.expect("ready")
        return served

    def boot(self) -> tuple[Process, str]:
        """Start the agent as a new machine does, and return the fingerprint that it says of itself."""
        agent = self._start(*HANDFAST, "agent", "run", "--user-data", "gce", "--state", self.state, "--json")
        return agent, json.loads(agent.expect('{"instance"'))["key"]

    def _start(self, *command: str | Path) -> Process:
        self.processes.append(self.host.start(*command))
        return self.processes[-1]

    def until(self, so: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Wait until `instance show` says so."""
        shown: dict[str, Any] = {}
        for _ in range(TRIES):
            shown = self.type("show", "--json").json()
            if so(shown):
                return shown
        raise AssertionError(f"{shown}\n{self.registrar.process}\n" + "\n".join(map(str, self.processes)))

    def close(self) -> None:
        """End what runs."""
        for process in reversed(self.processes):
            process.kill()
        self.registrar.process.stop()


@pytest.fixture
def cloud(net: Network, tmp_path: Path) -> Iterator[Cloud]:
    """A cloud in which nothing runs yet."""
    made = Cloud(net, tmp_path)
    try:
        yield made
    finally:
        made.close()


def printed(*changed: dict[str, str], base: Path) -> str:
    """Return what gcloud prints, with an entry for each of these changes."""
    (ours,) = json.loads(base.read_text())
    return json.dumps([ours | each for each in changed])


def unconfirmed(shown: dict[str, Any]) -> bool:
    """Whether the controller has met a key, and waits for somebody to say that it is the one."""
    return "its key has to be confirmed" in shown["reason"]


def test_a_key_by_guest_attributes(cloud: Cloud) -> None:
    """Written at the first start, and read back: the instance is introduced then; nothing that is like it does that."""
    cloud.add("--require", "secret+fingerprint", "--instance-id", metadata_stage.ID)
    served = cloud.serve()
    agent, key = cloud.boot()
    assert served.expect("agent-key").endswith(" 200")
    met = cloud.until(unconfirmed)
    assert (met["seen"], met["key"]) == (key, None)
    assert "\n  requires    secret+fingerprint\n" in cloud.type("show").stdout
    another = {"value": f"handfast-agent app2.lan {key}"}
    for bad, why in (
        (printed(another, base=cloud.attributes), "these guest attributes are of 'app2.lan', not of 'app1.lan'"),
        (printed({}, {}, base=cloud.attributes), "have 'handfast/agent-key' 2 times"),
        (printed({"namespace": "x"}, base=cloud.attributes), "no 'handfast/agent-key' in these guest attributes"),
        ("junk", "not guest attributes"),
        (f"[{' ' * 2**20}]", "'-' has over 1048576 bytes"),
    ):
        refused = cloud.type("confirm", "--guest-attributes", "-", stdin=bad, code=3)
        assert why in refused.stderr
        assert cloud.type("show", "--json").json()["key"] is None
    cloud.type("confirm", "--guest-attributes", cloud.attributes)
    assert cloud.until(lambda shown: shown["state"] == "running")["key"] == key
    entries = cloud.net.registrar.handfast("log", "show", "--data", cloud.data).stdout
    assert "its guest attributes" in entries
    assert agent.stop() == 0
    again, _ = cloud.boot()
    assert not any(line.startswith("handfast-agent ") for line in again.lines)
    assert sum("PUT" in line for line in served.lines) == 1


def test_a_person_compares_words(cloud: Cloud) -> None:
    """Read on the machine and typed at the controller: its own words alone, all of them, and once it has answered."""
    cloud.add("--require", "secret+fingerprint")
    cloud.serve()
    agent, key = cloud.boot()
    begin = "handfast-agent-words app1.lan "
    said = next(line for line in agent.lines if line.startswith(begin)).removeprefix(begin)
    met = cloud.until(unconfirmed)
    assert (met["seen"], met["seen_words"], met["words"]) == (key, said, None)
    first, rest = said.split(" ", 1)
    other = "zoo" if first != "zoo" else "abandon"
    for bad, code, why in (
        (f"{other} {rest}", 3, "the key that 'app1.lan' shows has other words"),
        (rest, 2, "7 words of 8"),
        (f"{first} {said}", 2, "9 words of 8"),
        (f"winn {rest}", 2, "not one of the words: 'winn'"),
    ):
        refused = cloud.type("confirm", "--words", bad, code=code)
        assert why in refused.stderr
        assert cloud.type("show", "--json").json()["key"] is None
    cloud.type("confirm", "--words", said.upper().replace(" ", "  "))
    running = cloud.until(lambda shown: shown["state"] == "running")
    assert (running["key"], running["words"]) == (key, said)
    entries = cloud.net.registrar.handfast("log", "show", "--data", cloud.data).stdout
    assert "its words" in entries


def test_words_before_it_has_answered(cloud: Cloud) -> None:
    """They are a part of its key: without the whole of it nothing is confirmed, and whoever comes first is not it."""
    cloud.add("--require", "secret+fingerprint")
    refused = cloud.type("confirm", "--words", " ".join(["abandon"] * 8), code=3)
    assert "no key of 'app1.lan' was seen yet" in refused.stderr
    assert cloud.type("show", "--json").json()["key"] is None


def test_another_key_than_the_attributes_have(cloud: Cloud) -> None:
    """The agent begins anew with a key of its own after its attributes were read: who answers is not who was meant."""
    cloud.add("--require", "secret+fingerprint")
    served = cloud.serve()
    agent, first = cloud.boot()
    served.expect("agent-key")
    before = cloud.attributes.read_text()
    assert agent.stop() == 0
    shutil.rmtree(cloud.state)
    _, second = cloud.boot()
    served.expect("agent-key")
    assert second != first
    assert second in cloud.attributes.read_text()
    cloud.type("confirm", "--guest-attributes", "-", stdin=before)
    shown = cloud.until(lambda shown: shown["state"] == "quarantined")
    assert (shown["key"], shown["seen"], shown["serial"]) == (first, second, None)
    refused = cloud.type("confirm", "--guest-attributes", cloud.attributes, code=3)
    assert "is quarantined" in refused.stderr


def test_guest_attributes_that_are_not_enabled(cloud: Cloud) -> None:
    """The agent says so and goes on; its console has the key, and two sources have to say the same one."""
    cloud.add("--require", "secret+fingerprint")
    served = cloud.serve("closed")
    agent, key = cloud.boot()
    assert served.expect("agent-key").endswith(" 403")
    told = "the guest attributes do not have our key"  # before it is ready, or after: nobody waits for the cloud
    if not any(told in line for line in agent.lines):
        agent.expect(told)
    assert not cloud.attributes.exists()
    cloud.until(unconfirmed)
    console = cloud.directory / "console.log"
    console.write_text(next(line for line in agent.lines if line.startswith("handfast-agent ")) + "\r\n")
    other = f"SHA256:{'A' * 43}"
    cloud.attributes.write_text(
        json.dumps([{"namespace": "handfast", "key": "agent-key", "value": f"handfast-agent app1.lan {other}"}])
    )
    both = ("--console", console, "--guest-attributes", cloud.attributes)
    refused = cloud.type("confirm", *both, code=3)
    assert f"has different keys: {key} by its console, {other} by its guest attributes" in refused.stderr
    assert cloud.type("show", "--json").json()["key"] is None
    cloud.type("confirm", "--console", console, "--fingerprint", key)
    cloud.until(lambda shown: shown["state"] == "running")
