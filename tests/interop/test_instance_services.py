"""A managed machine from its user-data to its services: the real agent, the real `up`, and what people type at both."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import pty
import signal
import subprocess
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest

from tests.interop.hosts import HANDFAST, Done, Host, Process, Registrar, clock, local_host

pytestmark = pytest.mark.timeout(300)
TRIES = 100  # of a command that takes half a second
POLICY = """\
[service.web]
kind = "mock"
full_name = "A web server"
operations = ["status", "start", "stop", "restart", "configure", "artifacts", "logs"]
logs = "{0}/logs"
artifacts = "{0}/artifacts"
artifact_limit = 10_000_000
pull = ["https://repo.invalid/www/"]
[service.web.files.site]
path = "{0}/site.conf"
check = ["grep", "-q", "good", "{0}/site.conf"]
[service.seen]
kind = "mock"
operations = ["status"]
"""


@dataclass
class Machine:
    """A machine with an agent, and its controller; all of it on loopback."""

    host: Host
    registrar: Registrar
    policy: Path
    env: Mapping[str, str] = field(default_factory=dict)
    name: str = "app1.lan"
    listen: str = "127.0.0.1:0"
    agent: Process = field(init=False)
    ready: dict[str, Any] = field(init=False)

    def type(self, command: str, *arguments: str | Path, code: int = 0) -> Done:
        """Type a command of `instance`."""
        flags = ("--data", self.registrar.data)
        return self.host.handfast("instance", command, *arguments, *flags, env=self.env, code=code)

    def ask(self, command: str, *arguments: str | Path) -> Any:
        """Type it with --json."""
        return self.type(command, self.name, *arguments, "--json").json()

    def add(self, *flags: str) -> None:
        """Add the instance, and give its user-data to the machine."""
        self.host.put("user-data", self.type("add", self.name, "--format", "json", *flags).stdout)

    def start(self) -> None:
        """Start the agent, where it was before, if it was."""
        self.agent = self.host.start(*HANDFAST, "agent", "run", *self.flags(), "--json", env=self.env)
        self.ready = json.loads(self.agent.expect('{"instance"'))
        self.listen = self.ready["listen"]

    def flags(self) -> tuple[str | Path, ...]:
        """What `agent run` is told."""
        directory = self.host.directory
        place = ("--user-data", directory / "user-data", "--state", directory / "agent")
        return (*place, "--policy", self.policy, "--listen", self.listen)

    def status(self, code: int = 0) -> Any:
        """Ask the agent on its own machine."""
        state = self.host.directory / "agent"
        return self.host.handfast("agent", "status", "--state", state, "--json", env=self.env, code=code).json()

    def until(self, so: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Wait until `instance show` says so."""
        shown: dict[str, Any] = {}
        for _ in range(TRIES):
            shown = self.ask("show")
            if so(shown):
                return shown
        raise AssertionError(f"{shown}\n{self.agent}\n{self.registrar.process}")

    def running(self) -> dict[str, Any]:
        """Wait until it runs, and somebody watches it."""
        return self.until(lambda shown: bool(shown["watched"]) and shown["state"] == "running")

    def put(self, name: str, text: str) -> Path:
        """Write a file at the operator's place."""
        return self.host.put(name, text)


@contextmanager
def made(*flags: str) -> Iterator[Machine]:
    """A machine whose agent listens, and which its controller is about to meet."""
    with local_host() as host:
        data = host.directory / "registrar"
        data.mkdir(mode=0o700)
        (data / "config.toml").write_text("[instances]\nwatch = true\n")
        for name in ("logs", "artifacts"):
            (host.directory / name).mkdir()
        policy = host.put("policy.toml", POLICY.format(host.directory))
        machine = Machine(host, Registrar(host), policy)
        machine.add(*flags)
        machine.start()
        machine.type("place", machine.name, machine.listen)
        yield machine


@pytest.fixture(scope="module")
def machine() -> Iterator[Machine]:
    """One that is introduced."""
    with made() as introduced:
        introduced.running()
        yield introduced


@pytest.mark.peer("faketime")
def test_from_the_first_packet_to_the_next_credential() -> None:
    """Its key is on its console and confirmed; it is introduced, managed, restarted, and renewed by itself."""
    with made("--require", "secret+fingerprint") as machine:
        said = next(line for line in machine.agent.lines if line.startswith("handfast-agent "))
        assert said == f"handfast-agent app1.lan {machine.ready['key']}"
        assert machine.type("services", machine.name, code=3).stderr.startswith(
            "handfast: error: 'app1.lan' is waiting, and not introduced"
        )
        machine.type("confirm", machine.name, "--fingerprint", machine.ready["key"])
        first = machine.running()
        assert first["key"] == machine.ready["key"]
        assert machine.ask("start", "web") == {"service": "web", "state": "started"}
        file = machine.put("app.war", "an artifact\n" * 1000)
        came = machine.ask("deploy", "web", file)
        assert came == {"name": "app.war", "size": 12000, "sha256": hashlib.sha256(file.read_bytes()).hexdigest()}
        assert (machine.host.directory / "artifacts/app.war").read_bytes() == file.read_bytes()
        (machine.host.directory / "logs/web.log").write_text("one\ntwo\n")
        assert machine.ask("logs", "web") == ["web.log"]
        assert machine.type("logs", machine.name, "web", "web.log", "--lines", "1").stdout == "two\n"

        machine.agent.kill()
        assert machine.status(code=4)["serial"] == first["serial"]
        machine.start()
        assert (machine.ready["stage"], machine.ready["key"]) == ("held", first["key"])
        assert not any(line.startswith("handfast-agent ") for line in machine.agent.lines)
        assert machine.running()["serial"] == first["serial"]
        assert machine.agent.stop() == 0

        machine.env = clock("+17h")
        assert machine.registrar.process.stop() == 0
        machine.registrar.up(env=machine.env)
        machine.start()
        second = machine.until(lambda shown: shown["state"] == "running" and shown["serial"] != first["serial"])
        assert second["key"] != first["key"]
        assert machine.status()["serial"] == second["serial"]
        assert [each["name"] for each in machine.ask("services")] == ["seen", "web"]
        assert machine.agent.stop() == 0


def test_services_are_seen_and_changed(machine: Machine) -> None:
    """A table of what there is and how it is; a change returns when it is done."""
    rows = [row.split("\t") for row in machine.type("services", machine.name).stdout.splitlines()]
    assert [row[0] for row in rows] == ["seen", "web"]
    assert rows[0][2:] == ["seen", "status"]
    assert rows[1][2:] == ["A web server", "status, start, stop, restart, configure, artifacts, logs"]
    assert machine.type("start", machine.name, "web").stderr == "web: started\n"
    assert machine.type("restart", machine.name, "web").stderr == "web: started\n"
    assert {each["name"]: each["state"] for each in machine.ask("services")} == {"seen": "stopped", "web": "started"}
    assert machine.ask("stop", "web") == {"service": "web", "state": "stopped"}


def test_what_the_policy_does_not_give_is_refused_with_its_reason(machine: Machine) -> None:
    """The machine's own words, and the exit codes of all refusals."""
    refused = machine.type("start", machine.name, "seen", code=3).stderr
    assert "the policy of this machine does not allow 'start' for 'seen'" in refused
    assert "no service 'none'" in machine.type("start", machine.name, "none", code=3).stderr
    assert "no service '../web/stop?'" in machine.type("start", machine.name, "../web/stop?", code=3).stderr
    url = ("https://elsewhere.invalid/app.war", "--sha256", "0" * 64)
    refused = machine.type("deploy", machine.name, "web", *url, code=3).stderr
    assert "does not allow to fetch 'https://elsewhere.invalid/app.war'" in refused
    refused = machine.type("logs", machine.name, "web", "../policy.toml", code=3).stderr
    assert "no log '../policy.toml'" in refused


def test_a_configuration_is_whole_or_the_one_before(machine: Machine) -> None:
    """What the service does not accept is not there afterwards."""
    good, bad = machine.put("good.conf", "good\n"), machine.put("bad.conf", "bad\n")
    place = machine.host.directory / "site.conf"
    machine.type("configure", machine.name, "web", f"site={good}")
    assert place.read_text() == "good\n"
    refused = machine.type("configure", machine.name, "web", f"site={bad}", code=3).stderr
    assert "'grep' does not accept it" in refused
    assert place.read_text() == "good\n"
    refused = machine.type("configure", machine.name, "web", f"other={good}", code=3).stderr
    assert "'web' has no file 'other' to configure" in refused
    refused = machine.type("configure", machine.name, "web", f"site={good}", f"site={bad}", code=2).stderr
    assert "the same file is given twice" in refused


def test_an_artifact_is_what_it_should_be(machine: Machine) -> None:
    """A wrong digest is noticed here, before a byte is sent; one that is too large is refused with its reason."""
    file = machine.put("small.war", "small")
    digest = hashlib.sha256(b"small").hexdigest()
    artifacts = machine.host.directory / "artifacts"
    refused = machine.type("deploy", machine.name, "web", file, "--sha256", "0" * 64, code=3).stderr
    assert f"has the SHA-256 {digest}, not {'0' * 64}" in refused
    assert not (artifacts / "small.war").exists()
    said = machine.type("deploy", machine.name, "web", file, "--sha256", digest.upper(), "--as", "it.war").stderr
    assert said == f"it.war: 5 bytes, sha256 {digest}\n"
    assert (artifacts / "it.war").read_text() == "small"
    large = machine.host.directory / "large.war"
    with large.open("wb") as sparse:
        os.truncate(sparse.fileno(), 300_000_000)
    refused = machine.type("deploy", machine.name, "web", large, code=3).stderr
    assert "'large.war' has 300000000 bytes, at most 10000000 are allowed" in refused
    refused = machine.type("deploy", machine.name, "web", file, "--as", "../../x", code=3).stderr
    assert "not a name of an artifact" in refused
    assert sorted(path.name for path in artifacts.iterdir() if path.name not in {"app.war", "bar.war"}) == ["it.war"]


def test_a_terminal_shows_how_far_it_is(machine: Machine) -> None:
    """On stderr; stdout is data."""
    file = machine.put("bar.war", "x" * 9_000_000)
    line = (*HANDFAST, "instance", "deploy", machine.name, "web", file, "--json", "--data", machine.registrar.data)
    ours, terminal = pty.openpty()
    shown = bytearray()
    try:
        with subprocess.Popen(
            machine.host.command(*line), env=machine.host.environment({"TERM": "xterm", "COLUMNS": "120"}),
            stdout=subprocess.PIPE, stderr=terminal,
        ) as process:  # fmt: skip
            os.close(terminal)
            with contextlib.suppress(OSError):  # a terminal that nobody writes to any more
                while piece := os.read(ours, 65536):
                    shown += piece
            assert process.stdout is not None
            assert json.loads(process.stdout.read())["size"] == 9_000_000
    finally:
        os.close(ours)
    assert process.returncode == 0
    assert b"bar.war" in shown
    assert b"9.0/9.0 MB" in shown


def test_a_log_is_followed_over_rotation_and_a_restart(machine: Machine) -> None:
    """Each line once and in order, whatever happens to the file or the agent meanwhile."""
    folder = machine.host.directory / "logs"
    log = folder / "access.log"
    log.write_text("".join(f"line {number}\n" for number in range(100)) + "half of")
    following = machine.host.start(
        *HANDFAST, "instance", "logs", machine.name, "web", "access.log", "--lines", "2", "--follow",
        "--data", machine.registrar.data,
    )  # fmt: skip
    following.expect("line 99")
    with log.open("a") as file:
        file.write(" a line\n\x1b[2Jhostile\n")
    following.expect("hostile")
    log.rename(folder / "access.log.1")
    with (folder / "access.log.1").open("a") as file:
        file.write("late\n")
    log.write_text("new\n")
    following.expect("new")
    assert machine.agent.stop() == 0
    machine.start()
    with log.open("a") as file:
        file.write("newer\n")
    following.expect("newer")
    following.kill_with(signal.SIGINT)
    assert following.wait() == 130
    lines = [line for line in following.lines if line]  # click ends the line of ^C
    assert lines == [
        "line 98",
        "line 99",
        "half of a line",
        "\\x1b[2Jhostile",
        "late",
        "new",
        "newer",
        "interrupted",
    ]
    machine.running()


def test_an_agent_says_how_it_is_on_its_own_machine(machine: Machine) -> None:
    """Who it is, until when, who has called, and its services; to its own user alone."""
    view, shown = machine.status(), machine.running()
    assert (view["running"], view["stage"], view["instance"]) == (True, "held", "app1.lan")
    assert (view["serial"], view["key"], view["listen"]) == (shown["serial"], shown["key"], machine.listen)
    assert view["controller"]
    assert [each["name"] for each in view["services"]] == ["seen", "web"]
    state = machine.host.directory / "agent"
    text = machine.host.handfast("agent", "status", "--state", state).stdout
    assert text.startswith(f"app1.lan: held, listens at {machine.listen}\n  id ")
    assert state.stat().st_mode & 0o077 == 0
    refused = machine.host.handfast("agent", "status", "--state", "nowhere", code=3).stderr
    assert "no agent runs in 'nowhere'" in refused


def test_a_copy_of_the_machine_is_refused(machine: Machine) -> None:
    """The same directory and user-data where the cloud says another id: no key is shown."""
    machine.host.run("cp", "-a", "agent", "copy")
    about = json.loads((machine.host.directory / "user-data").read_text())["handfast"]
    (machine.host.directory / "copy/machine.json").write_text(
        json.dumps({"instance_id": about["id"], "machine": "i-another"})
    )
    (machine.host.directory / "copy/machine.json").chmod(0o600)
    script = (
        "import sys, pathlib; from handfast.agent import sources;"
        "sources._by_cloud_init = lambda: 'i-this';"
        "from handfast.cli.main import main; main(sys.argv[1:])"
    )
    flags = ("--user-data", "user-data", "--state", "copy", "--listen", "127.0.0.1:0")
    refused = machine.host.run(HANDFAST[0], "-c", script, "agent", "run", *flags, code=3).stderr
    assert "this machine is 'i-this', and 'app1.lan' is 'i-another': a copy of it" in refused
