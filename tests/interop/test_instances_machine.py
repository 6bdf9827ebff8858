"""
A machine that is managed from its first minute: a Debian 12 that boots with what `instance add` printed, and no more.

systemd, cloud-init, nginx, PostgreSQL and logrotate are Debian's own. The machine has a network of its own, and beyond
its cable there is a registrar that watches it, and waits for its console's word. A copy of its disk is elsewhere.
"""

from __future__ import annotations

import json
import re
import shutil
import time
from collections.abc import Callable, Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import pytest

from tests.interop.hosts import HANDFAST, Network, Process, Registrar
from tests.interop.managed_machine import Launched, copy_disk, prepared

pytestmark = [
    pytest.mark.root,
    pytest.mark.slow,
    pytest.mark.peer("debootstrap", "systemd-nspawn", "ip", "curl"),
    pytest.mark.timeout(1500),
]
NAME = "web1.lan"
OWN = "web2.lan"
CLOUD = f"i-{NAME}"  # what the cloud calls it
PATIENCE = 600.0  # seconds: a boot on a busy machine, or the half of a credential's life
SEED = "var/lib/cloud/seed/nocloud/user-data"
STATE = "var/lib/handfast-agent"
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

    def show(self, name: str = NAME) -> dict[str, Any]:
        """What is known of the machine."""
        shown: dict[str, Any] = json.loads(self.type("show", name, "--json"))
        return shown

    def until(self, so: Callable[[dict[str, Any]], bool], name: str = NAME) -> dict[str, Any]:
        """Wait until it is so."""
        end = time.monotonic() + PATIENCE
        while not so(shown := self.show(name)):
            assert time.monotonic() < end, shown
            time.sleep(0.5)  # a command is a process: without a pause these would be all that the machine does
        return shown

    def place(self, address: str) -> None:
        """Say where the machine is."""
        self.type("place", NAME, f"{address}:7575")

    def alarms(self, name: str = NAME) -> list[str]:
        """The alarms about the machine."""
        return [each["kind"] for each in self.registrar.show(name)["alarms"]]

    def follow(self, service: str, log: str) -> Process:
        """Follow a log, as somebody in front of a terminal does."""
        line = ("instance", "logs", NAME, service, log, "--follow", "--data", self.registrar.data)
        return self.registrar.host.start(*HANDFAST, *line)

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
    """The machine, launched with its user-data; its key has to be on its console."""
    made = prepared(tmp_path)
    where = ("--address", f"{net.SERVER}:7575", "--require", "secret+fingerprint")
    launched = Launched(made.root, net.server)
    launched.seed(house.type("add", NAME, *where, "--format", "cloud-init"), instance_id=CLOUD, name=NAME)
    launched.boot()
    try:
        launched.booted()
        yield launched
    finally:
        launched.halt()


def test_a_machine_from_its_first_minute(house: House, machine: Launched, net: Network, tmp_path: Path) -> None:
    """Introduced at its first boot and the same after the next; its services managed; its credential renewed."""
    first = its_console(house, machine)
    assert first["serial"]
    machine.stop()
    house.until(lambda shown: shown["state"] == "unreachable")
    copy, twin = (machine.copied(tmp_path / name, net.office) for name in ("copy", "twin"))
    with ExitStack() as machines:
        copy.seed((machine.root / SEED).read_text(), instance_id="i-copy", name="copy")
        copy.boot()
        machines.callback(copy.halt)
        machine.start()
        again = house.until(runs)
        assert (again["key"], again["serial"]) == (first["key"], first["serial"])
        assert "handfast-agent web1" not in machine.console  # it has been introduced, and shows its key no more
        credentials = house.registrar.show(NAME)["credentials"]
        assert [each["method"] for each in credentials] == ["instance"]

        another_machine(house, copy)
        copy.seed(house.type("add", OWN, "--address", f"{net.OFFICE}:7575"), instance_id="i-own", name=OWN)
        copy.boot()
        a_web_server(house, machine)
        an_instance_of_its_own(house, copy, first["key"])
        twin.boot()
        machines.callback(twin.halt)
        a_database(house, machine)

        renewed = house.until(lambda shown: runs(shown) and shown["serial"] != first["serial"])
        assert renewed["key"] != first["key"]
        methods = {each["method"] for each in house.registrar.show(NAME)["credentials"]}
        assert methods == {"instance", "renewal"}
        assert "started" in house.type("services", NAME)  # over the new one, and nothing was restarted
        assert machine.run("systemctl", "show", "--value", "--property=NRestarts", "handfast-agent") == "0"
        assert house.alarms() == []

        twin.booted()
        the_same_machine(house, machine, twin)


def its_console(house: House, machine: Launched) -> dict[str, Any]:
    """Nothing is asked of any key, until the machine's own console has said which one is its."""
    waiting = house.until(lambda shown: bool(shown["watched"]) and shown["seen"] is not None)
    assert (waiting["state"], waiting["serial"], waiting["key"]) == ("waiting", None, None)
    assert "its key has to be confirmed" in waiting["reason"]
    shown = house.type("show", NAME)
    assert "its key has to be confirmed" in shown
    assert "\n  requires    secret+fingerprint\n" in shown
    house.type("services", NAME, code=3)

    host = house.registrar.host
    said = re.findall(rf"^handfast-agent {NAME} (SHA256:\S+)$", machine.console, re.MULTILINE)
    assert said == [waiting["seen"]]
    early = host.put("early", machine.console.partition(f"handfast-agent {NAME} ")[0])
    house.type("confirm", NAME, "--console", early, code=3)
    forged = host.put("forged", f"{machine.console}handfast-agent {NAME} SHA256:{'A' * 43}\n")
    house.type("confirm", NAME, "--console", forged, code=3)
    assert house.show()["key"] is None
    house.type("confirm", NAME, "--console", host.put("console", machine.console))
    running = house.until(runs)
    assert running["key"] == waiting["seen"]
    return running


def another_machine(house: House, copy: Launched) -> None:
    """A copy of the disk, which the cloud says is another machine, does not speak at all; and that is no alarm."""
    copy.booted()

    def journal() -> str:
        return copy.run("journalctl", "--boot", "--unit", "handfast-agent", "--output", "cat")

    end = time.monotonic() + PATIENCE
    while "code=exited, status=3/" not in (said := journal()):
        assert time.monotonic() < end, said
        time.sleep(0.5)
    assert f"this machine is 'i-copy', and '{NAME}' is '{CLOUD}': a copy of it" in said
    assert "handfast-agent web1" not in copy.console
    before = house.show()
    house.place(Network.OFFICE)
    away = house.until(lambda shown: bool(shown["watched"]) and shown["state"] == "unreachable")
    assert (away["key"], away["serial"], away["seen"]) == (before["key"], before["serial"], None)
    house.place(Network.SERVER)
    house.until(runs)
    assert house.alarms() == []
    copy.stop()


def an_instance_of_its_own(house: House, copy: Launched, key: str) -> None:
    """The copy, launched with user-data of its own, begins anew, with another key; and nothing becomes of the first."""
    copy.booted()
    own = house.until(runs, OWN)
    assert own["key"] != key
    assert (house.alarms(), house.alarms(OWN), house.show()["key"]) == ([], [], key)
    copy.stop()
    house.type("remove", OWN, "--reason", "it was for a test")


def the_same_machine(house: House, machine: Launched, twin: Launched) -> None:
    """
    Where the cloud says that it is the same machine, it is: moved, or restored, with the key and serial that it had.

    What was restored from before a renewal has another key, and nobody knows who that is.
    """
    place, old = twin.root / STATE, twin.root / "old"
    stop_agent(twin)
    shutil.move(place, old)
    copy_disk(machine.root / STATE, place)
    start_agent(twin)
    before = house.show()
    stop_agent(machine)
    house.place(Network.OFFICE)
    restored = house.until(runs)
    assert (restored["key"], restored["serial"]) == (before["key"], before["serial"])
    assert house.alarms() == []

    stop_agent(twin)
    shutil.rmtree(place)
    shutil.move(old, place)
    start_agent(twin)
    stale = house.until(lambda shown: shown["state"] == "quarantined")
    assert stale["key"] == before["key"] != stale["seen"]
    assert house.alarms() == ["alarm.quarantined"]
    stop_agent(twin)
    start_agent(machine)
    house.type("release", NAME, "--reason", "an old copy of it was started")
    house.place(Network.SERVER)
    assert house.until(runs)["serial"] == before["serial"]


def stop_agent(machine: Launched) -> None:
    """Stop it, and its socket: whoever connects to that would start it."""
    machine.run("systemctl", "stop", "handfast-agent.socket", "handfast-agent")


def start_agent(machine: Launched) -> None:
    """Start both again."""
    machine.run("systemctl", "start", "handfast-agent.socket", "handfast-agent")


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
    following = house.follow("nginx", "access.log")
    following.expect("hello.html")  # the lines from before come first
    house.fetch("there-is-no-such-page")
    following.expect("there-is-no-such-page")
    machine.run("mv", "/var/log/nginx/access.log", "/var/log/nginx/access.log.1")
    machine.run("systemctl", "kill", "--signal=USR1", "--kill-whom=main", "nginx")
    house.fetch("after-the-rotation")
    following.expect("after-the-rotation")

    written = house.registrar.host.start("curl", "-s", "--rate", "25/s", f"http://{Network.SERVER}:8080/row-[1-100]")
    following.expect("/row-20 ")
    machine.run("logrotate", "--force", "/etc/logrotate.d/nginx")  # a new file, and a signal
    assert written.wait() == 0
    house.fetch("after-both-rotations")
    following.expect("after-both-rotations")
    following.stop()
    rows = numbers(following, r"GET /row-(\d+) ")
    assert rows == sorted(set(rows))  # and all of them: see test_late_lines.py
    assert machine.run("ls", "/var/log/nginx").split()[:3] == ["access.log", "access.log.1", "access.log.2.gz"]


def numbers(following: Process, row: str) -> list[int]:
    """The numbers of the rows that were followed, as they came."""
    return [int(found[1]) for line in following.lines if (found := re.search(row, line))]


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
    a_log_that_is_cut_off(house, machine)
    house.type("stop", NAME, "postgresql")
    services = json.loads(house.type("services", NAME, "--json"))
    assert "stopped" in json.dumps(services)


def a_log_that_is_cut_off(house: House, machine: Launched) -> None:
    """Each line that PostgreSQL writes comes once; after Debian's rotation, which is by a copy, from its beginning."""

    def write(begin: int, end: int) -> Process:
        row = f"for n in {begin}..{end} loop raise log 'row % of many', n; perform pg_sleep(0.1); end loop"
        return machine.begin("runuser", "-u", "postgres", "--", "psql", "-qc", f"do $$ begin {row}; end $$")

    following = house.follow("postgresql", "postgresql-15-main.log")
    following.expect("database system is ready to accept connections")
    written = write(1, 60)
    following.expect("row 1 of many")
    following.expect("row 60 of many")
    assert written.wait() == 0
    assert numbers(following, r"LOG:  row (\d+) of") == [*range(1, 61)]
    machine.run("logrotate", "--force", "/etc/logrotate.d/postgresql-common")
    written = write(61, 80)
    following.expect("some lines are gone: the log was cut off, or rotated twice")
    following.expect("row 80 of many")
    assert written.wait() == 0
    following.stop()
    assert numbers(following, r"LOG:  row (\d+) of") == [*range(1, 81)]
