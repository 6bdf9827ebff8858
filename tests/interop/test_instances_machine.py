"""
A machine that is managed from its first minute: a Debian 12 that boots with what `instance add` printed, and no more.

systemd, cloud-init, nginx and PostgreSQL are Debian's own. The machine has a network of its own, and beyond its cable
there is a registrar that watches it.
"""

from __future__ import annotations

import json
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.interop.hosts import HANDFAST, Network, Registrar
from tests.interop.managed_machine import Launched, prepared

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.peer("debootstrap", "systemd-nspawn", "ip", "curl"),
    pytest.mark.timeout(1500),
]
NAME = "web1.lan"
PATIENCE = 600.0  # seconds: a boot on a busy machine, or the half of a credential's life
SETTINGS = '[instances]\nwatch = true\n[lifetime]\nagent = "6m"\n'
SITE = "server {{ listen 8080; root /srv/www; add_header X-Version {}; }}\n"


class House:
    """What an operator types on the registrar's machine."""

    def __init__(self, registrar: Registrar) -> None:
        self.registrar = registrar

    def type(self, *arguments: str | Path, code: int = 0) -> str:
        """Run a command of `instance`."""
        line = ("instance", *arguments, "--data", self.registrar.data)
        return self.registrar.host.handfast(*line, code=code).stdout

    def show(self) -> dict[str, Any]:
        """What is known of the machine."""
        shown: dict[str, Any] = json.loads(self.type("show", NAME, "--json"))
        return shown

    def until(self, so: Callable[[dict[str, Any]], bool]) -> dict[str, Any]:
        """Wait until it is so."""
        end = time.monotonic() + PATIENCE
        while not so(shown := self.show()):
            assert time.monotonic() < end, shown
            time.sleep(0.5)  # a command is a process: without a pause these would be all that the machine does
        return shown

    def fetch(self, path: str) -> str:
        """What the machine's web server answers, with its headers."""
        url = f"http://{Network.SERVER}:8080/{path}"
        return self.registrar.host.run("curl", "-si", "--retry", "5", "--retry-all-errors", url).stdout


def runs(shown: dict[str, Any]) -> bool:
    """Whether it is watched, and answers."""
    return bool(shown["watched"]) and shown["state"] == "running"


@pytest.fixture
def house(net: Network) -> House:
    """A registrar that watches, with short credentials."""
    data = net.registrar.directory / "registrar"
    data.mkdir(mode=0o700)
    (data / "config.toml").write_text(SETTINGS)
    return House(Registrar(net.registrar, f"{net.REGISTRAR}:7443"))


@pytest.fixture
def machine(house: House, net: Network, tmp_path: Path) -> Iterator[Launched]:
    """The machine, launched with its user-data."""
    made = prepared(tmp_path)
    user_data = house.type("add", NAME, "--address", f"{net.SERVER}:7575", "--format", "cloud-init")
    launched = Launched(made, net.server, NAME, user_data)
    try:
        yield launched
    finally:
        launched.halt()


def test_a_machine_from_its_first_minute(house: House, machine: Launched) -> None:
    """Introduced at its first boot and the same after the next; its services managed; its credential renewed."""
    first = house.until(runs)
    assert first["serial"]
    machine.stop()
    house.until(lambda shown: shown["state"] == "unreachable")
    machine.start()
    again = house.until(runs)
    assert (again["key"], again["serial"]) == (first["key"], first["serial"])
    credentials = house.registrar.show(NAME)["credentials"]
    assert [each["method"] for each in credentials] == ["invitation"]

    a_web_server(house, machine)
    a_database(house, machine)

    renewed = house.until(lambda shown: runs(shown) and shown["serial"] != first["serial"])
    assert renewed["key"] != first["key"]
    methods = {each["method"] for each in house.registrar.show(NAME)["credentials"]}
    assert methods == {"invitation", "renewal"}
    assert "started" in house.type("services", NAME)  # over the new one, and nothing was restarted
    assert machine.run("systemctl", "show", "--value", "--property=NRestarts", "handfast-agent") == "0"
    assert house.registrar.show(NAME)["alarms"] == []


def a_web_server(house: House, machine: Launched) -> None:
    """Started, configured, deployed to, restarted, its log followed; and what it refuses is not kept."""
    page = house.registrar.host.put("hello.html", "from the controller\n")
    one, bad = (house.registrar.host.put(name, text) for name, text in (("1", SITE.format(1)), ("b", "nonsense;\n")))
    house.type("start", NAME, "nginx")
    house.type("configure", NAME, "nginx", f"site={one}")
    house.type("deploy", NAME, "nginx", page)
    answer = house.fetch("hello.html")
    assert "X-Version: 1" in answer
    assert answer.endswith("from the controller\n")
    process = machine.run("systemctl", "show", "--value", "--property=MainPID", "nginx")
    house.type("restart", NAME, "nginx")
    assert machine.run("systemctl", "show", "--value", "--property=MainPID", "nginx") != process

    house.type("configure", NAME, "nginx", f"site={bad}", code=3)
    assert "X-Version: 1" in house.fetch("hello.html")
    follow = (*HANDFAST, "instance", "logs", NAME, "nginx", "access.log", "--follow", "--data", house.registrar.data)
    following = house.registrar.host.start(*follow)
    following.expect("hello.html")  # the lines from before come first
    house.fetch("there-is-no-such-page")
    following.expect("there-is-no-such-page")
    machine.run("mv", "/var/log/nginx/access.log", "/var/log/nginx/access.log.1")
    machine.run("systemctl", "kill", "--signal=USR1", "--kill-whom=main", "nginx")  # logrotate's way
    house.fetch("after-the-rotation")
    following.expect("after-the-rotation")
    following.stop()


def a_database(house: House, machine: Launched) -> None:
    """PostgreSQL likewise: a setting is in force after the restart, a mistake is refused, its log tells of both."""

    def memory() -> str:
        return machine.run("runuser", "-u", "postgres", "--", "psql", "-Atc", "show work_mem")

    host = house.registrar.host
    good, bad = (host.put(name, text) for name, text in (("g", "work_mem = '7MB'\n"), ("w", "work_mem = 'much'\n")))
    house.type("start", NAME, "postgresql")
    before = memory()
    house.type("configure", NAME, "postgresql", f"memory={good}")
    house.type("restart", NAME, "postgresql")
    assert memory() == "7MB" != before
    house.type("configure", NAME, "postgresql", f"memory={bad}", code=3)
    assert memory() == "7MB"
    assert "database system is ready to accept connections" in house.type(
        "logs", NAME, "postgresql", "postgresql-15-main.log", "--lines", "1000"
    )
    house.type("stop", NAME, "postgresql")
    services = json.loads(house.type("services", NAME, "--json"))
    assert "stopped" in json.dumps(services)
