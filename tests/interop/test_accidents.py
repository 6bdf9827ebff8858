"""Cut cables, power failures, full disks, wrong clocks, races: nothing half-written, nothing lost, the same answer."""

from __future__ import annotations

import contextlib
import json
import os
import queue
import secrets
import signal
import sys
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from handfast.core.invitation import Address, InvitationLine
from handfast.core.secret import Secret
from tests.interop.cable import cable
from tests.interop.hosts import HANDFAST, Host, Registrar, clock, serial

pytestmark = pytest.mark.timeout(180)  # a dozen starts of Python each, on a machine that may be busy

ROOT = Path(__file__).parents[2]


def killed(step: str) -> tuple[str, ...]:
    """Return our command, as it ends itself at a step."""
    return (sys.executable, str(Path(__file__).with_name("killed.py")), step)


def sources(host: Host) -> dict[str, str]:
    """Return the environment in which `killed` is found."""
    return {"PYTHONPATH": f"{host.environment()['PYTHONPATH']}:{ROOT}"}


def nothing_adopted(out: Path) -> bool:
    """Whether there is nothing that a program could open; names may be there that lead nowhere yet."""
    return not out.exists() or not any((out / name).exists() for name in os.listdir(out) if not name.startswith("."))


def the_one_credential(registrar: Registrar, name: str) -> str:
    """Return the serial of the only credential that was ever intended for a machine about which nothing is alarming."""
    shown = registrar.show(name)
    assert shown["alarms"] == []
    (held,) = shown["credentials"]
    assert held["status"] == "valid"
    return str(held["serial"])


class TestCutCable:
    """The connection ends after so many bytes, in either direction."""

    FRACTIONS = (0.0, 0.1, 0.3, 0.5, 0.7, 0.9)

    def test_P4_a_connection_cut_anywhere(self, here: Host, local: Registrar) -> None:
        """Wherever it is cut the newcomer ends with 4 and has nothing; the same command then gets one certificate."""
        with cable(local.port) as between:
            place = ("--address", f"127.0.0.1:{between.port}")
            here.join(local.invite("measured.lan", *place), "measured")
            up, down = between.up, between.down
            line = local.invite("cut.lan", *place)
            keys = set()
            for fraction in self.FRACTIONS:
                for up_limit, down_limit in ((int(up * fraction), None), (None, int(down * fraction))):
                    between.cut(up=up_limit, down=down_limit)
                    refused = here.handfast("join", "--out", "cut", stdin=line, code=4)
                    assert "hint:" in refused.stderr, (up_limit, down_limit)
                    assert nothing_adopted(here.directory / "cut")
                    keys.add((here.directory / "cut" / ".pending").read_bytes())
            assert len(keys) == 1, "every attempt came with the same key"
            between.cut()
            assert serial(here.join(line, "cut")) == the_one_credential(local, "cut.lan")

    def test_P4_a_newcomer_killed_anywhere(self, here: Host, local: Registrar) -> None:
        """kill -9 while it waits for any byte: the next attempt goes on with the same key."""
        with cable(local.port) as between:
            place = ("--address", f"127.0.0.1:{between.port}")
            here.join(local.invite("timed.lan", *place), "timed")
            up, down = between.up, between.down
            file = here.put("killed.line", local.invite("killed.lan", *place))
            started: queue.Queue[int] = queue.Queue()
            places = ((1, None), (int(up * 0.9), None), (None, int(down * 0.5)), (None, int(down * 0.9)))
            for up_limit, down_limit in places:
                between.cut(up=up_limit, down=down_limit, at_the_cut=lambda: os.kill(started.get(), signal.SIGKILL))
                newcomer = here.start(*HANDFAST, "join", "--out", "killed", "--invitation-file", file)
                started.put(newcomer.pid)
                assert newcomer.wait() == -signal.SIGKILL
                assert nothing_adopted(here.directory / "killed")
            between.cut()
            here.handfast("join", "--out", "killed", "--invitation-file", file)
            assert serial(here.directory / "killed") == the_one_credential(local, "killed.lan")


class TestPowerFailure:
    """kill -9 between two steps, then between the next two, and so on: the same command, again and again."""

    def test_P4_the_newcomers_steps(self, here: Host, local: Registrar) -> None:
        """A newcomer that dies at each of its steps has nothing or all of it, and ends with the one certificate."""
        file, out = here.put("dying.line", local.invite("dying.lan")), here.directory / "dying"
        command = ("join", "--out", out, "--invitation-file", file)
        for step in ("after pending", "before adopt", "before swap", "after swap", "after adopt"):
            ended = here.run(*killed(step), *command, env=sources(here), code=-signal.SIGKILL)
            assert ended.stdout == ""
            if step in {"after pending", "before adopt", "before swap"}:
                assert nothing_adopted(out)
            else:
                assert here.handfast("status", "--out", out, "--json").json()["status"] == "valid"
        here.handfast(*command)
        assert serial(out) == the_one_credential(local, "dying.lan")

    def test_P4_the_registrars_steps(self, here: Host) -> None:
        """A registrar that dies at each step of the flow has issued one certificate in the end, in a whole log."""
        registrar = Registrar(here, data="falling")
        line = registrar.invite("patient.lan")
        registrar.process.stop()
        for step in ("before intend", "after intend", "before issue", "after issue", "after issued", "before answer"):
            registrar.up(command=killed(step), env=sources(here))
            here.handfast("join", "--out", "patient", stdin=line, code=4)
            assert registrar.process.wait() == -signal.SIGKILL
            assert nothing_adopted(here.directory / "patient")
        registrar.up()
        out = here.join(line, "patient")
        assert serial(out) == the_one_credential(registrar, "patient.lan")
        assert [event["kind"] for event in registrar.show("patient.lan")["history"]] == [
            "invitation.created", "credential.intended", "credential.issued",
        ]  # fmt: skip
        here.handfast("log", "verify", "--data", registrar.data)
        assert registrar.process.stop() == 0


class TestRace:
    """Several at the same moment."""

    def test_P3_two_newcomers_with_one_invitation(self, here: Host, local: Registrar) -> None:
        """One of them wins and the others are refused, and the operator sees an alarm."""
        file = here.put("raced.line", local.invite("raced.lan"))
        racers = [
            here.start(*HANDFAST, "join", "--out", f"racer{number}", "--invitation-file", file) for number in range(3)
        ]
        codes = [racer.wait() for racer in racers]
        assert sorted(codes) == [0, 3, 3], [str(racer) for racer in racers]
        winner = here.directory / f"racer{codes.index(0)}"
        assert [nothing_adopted(here.directory / f"racer{n}") for n in range(3)] == [code == 3 for code in codes]
        row = local.list()["raced.lan"]
        assert [c["serial"] for c in row["credentials"]] == [serial(winner)]
        assert len(row["alarms"]) == 2

    def test_one_machine_in_a_hurry(self, here: Host, local: Registrar) -> None:
        """Twice at the same time into one directory: one joins, the other waits for nothing and says who is there."""
        file = here.put("hurried.line", local.invite("hurried.lan"))
        both = [here.start(*HANDFAST, "join", "--out", "hurried", "--invitation-file", file) for _ in range(2)]
        codes = sorted(process.wait() for process in both)
        assert codes in ([0, 1], [0, 0]), [str(process) for process in both]  # 0 twice if one was quick
        assert serial(here.directory / "hurried") == the_one_credential(local, "hurried.lan")


class TestUnknown:
    """Evidence of one's own making."""

    def test_an_invitation_that_nobody_made(self, here: Host, local: Registrar) -> None:
        """A well-formed invitation with a seed of one's own opens nothing, and the stranger is not told why."""
        now = datetime.now(UTC).replace(microsecond=0)
        pin = bytes.fromhex(local.ready["pin"])
        line = InvitationLine(
            Secret(secrets.token_bytes(32)), pin, now, now + timedelta(hours=1), (Address("127.0.0.1", local.port),)
        )
        refused = here.handfast("join", "--out", "unknown", stdin=line.reveal(), code=3)
        assert "the evidence was not accepted" in refused.stderr
        assert nothing_adopted(here.directory / "unknown")


@pytest.mark.peer("faketime")
class TestClock:
    """New machines do not know what time it is."""

    @pytest.mark.parametrize("offset", ["+10y", "-10y"])
    def test_P9_years_off(self, here: Host, local: Registrar, offset: str) -> None:
        """A newcomer whose clock is wrong by ten years joins all the same, and is told."""
        name = "ahead" if offset == "+10y" else "behind"
        done = here.handfast("join", "--out", name, stdin=local.invite(f"{name}.lan"), env=clock(offset))
        assert f"d {name}: until it is set, it will misjudge its peers" in done.stderr
        out = here.directory / name
        assert abs(json.loads((out / "identity.json").read_bytes())["clock_offset_seconds"]) > 3600 * 24 * 3649
        assert serial(out) == the_one_credential(local, f"{name}.lan")
        assert f"s {name} at that time" in here.handfast("explain", "--out", out).stdout
        assert here.handfast("status", "--out", out, "--json").json()["status"] == "valid"
        judged = here.handfast("status", "--out", out, "--json", env=clock(offset), code=3).json()
        assert judged["status"] == {"ahead": "expired", "behind": "not yet valid"}[name]

    def test_P9_a_clock_that_is_wrong_does_not_revive_an_invitation(self, here: Host, local: Registrar) -> None:
        """To the newcomer's clock it is still good; the registrar's counts."""
        line = local.invite("late.lan", "--for", "1s")
        while local.show("late.lan")["invitations"][0]["status"] != "expired":
            pass
        refused = here.handfast("join", "--out", "late", stdin=line, env=clock("-10y"), code=3)
        assert "the invitation expired at" in refused.stderr


@contextlib.contextmanager
def small_disk(host: Host, name: str, *, kilobytes: int) -> Iterator[Path]:
    """A file system that is soon full."""
    path = host.directory / name
    path.mkdir()
    host.run("mount", "-t", "tmpfs", "-o", f"size={kilobytes}k,mode=0755", "none", path)
    try:
        yield path
    finally:
        host.run("umount", path)


def fill(path: Path, *, spare: int = 0) -> Path:
    """Use up a file system, but for so many bytes."""
    filler = path / "filler"
    with filler.open("wb", buffering=0) as file:
        with contextlib.suppress(OSError):
            while True:
                file.write(bytes(4096))
        assert os.statvfs(path).f_bavail == 0
        file.truncate(max(0, file.tell() - spare))
    return filler


@pytest.mark.root
class TestFullDisk:
    """A file system of a few pages, really full."""

    def test_P4_the_newcomers(self, here: Host, local: Registrar) -> None:
        """However much room there is, too little is a fault that names the file; with room the same command goes on."""
        line = local.invite("full.lan")
        with small_disk(here, "small", kilobytes=256) as disk:
            out = disk / "full"
            refusals = 0
            for pages in range(0, 40, 4):
                filler = fill(disk, spare=pages * 4096)
                done = here.handfast("join", "--out", out, stdin=line, code=None)
                filler.unlink()
                if done.code == 0:
                    break
                refusals += 1
                assert done.code == 1, done
                assert f"'{disk}/" in done.stderr
                assert "no space left on device" in done.stderr
                assert "hint: free some space and run the same command again" in done.stderr
                assert nothing_adopted(out)
            assert refusals >= 2
            assert serial(out) == the_one_credential(local, "full.lan")
            held = serial(out)
            filler = fill(disk)
            assert "no space left on device" in here.handfast("renew", "--out", out, code=1).stderr
            here.handfast("status", "--out", out)
            filler.unlink()
            here.handfast("renew", "--out", out)
            assert serial(out) != held

    def test_P4_the_registrars(self, here: Host) -> None:
        """A registrar without room refuses and keeps running; with room it goes on, and nothing issued is unknown."""
        with small_disk(here, "data", kilobytes=2048) as disk:
            filler = fill(disk)
            refused = here.handfast("up", "--data", disk / "d", "--listen", "127.0.0.1:0", code=1)
            assert f"'{disk}/d" in refused.stderr
            assert "no space left on device" in refused.stderr
            filler.unlink()
            registrar = Registrar(here, data="data/d")
            line = registrar.invite("room.lan")
            filler = fill(disk)
            assert here.handfast("invite", "more.lan", "--data", registrar.data, code=1).stdout == ""
            here.handfast("join", "--out", "room", stdin=line, code=4)
            assert nothing_adopted(here.directory / "room")
            assert registrar.list()["room.lan"]["status"] in {"invited", "intended"}
            filler.unlink()
            out = here.join(line, "room")
            assert serial(out) == the_one_credential(registrar, "room.lan")
            here.handfast("log", "verify", "--data", registrar.data)
            assert registrar.process.stop() == 0
