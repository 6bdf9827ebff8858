"""A service's user who leads root elsewhere: by links in place of directories, once, and while root writes."""

from __future__ import annotations

import os
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

import pytest

from handfast.agent.members import Members
from handfast.agent.policy import parse
from handfast.agent.service import Service
from handfast.errors import HandfastError, Unsafe

NOBODY = 65534
EXCHANGING = Path(__file__).with_name("exchanging.py")
EVIL = b"/tmp/evil-libraries\n"
ENOUGH, MOST = 10, 3_000  # times that each act has to be done, and refused; rounds for that
pytestmark = pytest.mark.root

POLICY = """\
[service.app]
kind = "mock"
operations = ["configure", "logs", "artifacts"]
logs = "{0}/app/logs"
artifacts = "{0}/app/bin"
[service.app.files.flat]
path = "{0}/app/conf/app.conf"
[service.app.files.deep]
path = "{0}/app/conf/deep/app.conf"
[service.app.files.bad]
path = "{0}/app/conf/bad.conf"
check = ["/bin/false"]
[service.app.files.site]
path = "{0}/app/site/site.conf"
"""


@dataclass
class Machine:
    """A service whose directories are all its user's, and those of root's that he wants."""

    place: Path

    def service(self) -> Service:
        """The service, by a policy of root's."""
        return Service(parse(POLICY.format(self.place).encode(), source="policy").services["app"])

    def as_user(self, *argv: str) -> None:
        """Do something as the service's user, in its directory."""
        subprocess.run(argv, cwd=self.place / "app", user=NOBODY, group=NOBODY, extra_groups=[], check=True)

    def roots(self) -> dict[str, tuple[object, ...]]:
        """All that can be seen of root's directories: names, contents, owners, modes, times, links."""
        return {
            str(each): (about.st_ino, about.st_uid, about.st_mode, about.st_nlink, about.st_mtime_ns, about.st_ctime_ns)
            for each in (self.place / "root", *(self.place / "root").rglob("*"))
            for about in [each.lstat()]
        }

    @contextmanager
    def exchanging(self, *names: str) -> Iterator[subprocess.Popen[str]]:
        """His program runs meanwhile."""
        with subprocess.Popen(
            [sys.executable, EXCHANGING, str(NOBODY), *names],
            cwd=self.place / "app",
            stdout=subprocess.PIPE,
            text=True,
        ) as process:
            try:
                assert process.stdout is not None
                assert process.stdout.readline() == "begun\n"
                yield process
                assert process.poll() is None, "it has ended before we had"
            finally:
                process.kill()


@pytest.fixture
def machine(tmp_path: Path) -> Machine:
    """Each directory of the user's has a link to one of root's beside it."""
    for name in ("root/etc/deep", "root/usr/bin", "root/log", "app/conf/deep", "app/bin", "app/logs", "app/site"):
        (tmp_path / name).mkdir(parents=True)
    for name in ("root/etc/app.conf", "root/etc/deep/app.conf", "root/usr/bin/tool", "root/log/auth.log"):
        (tmp_path / name).write_text("root only\n")
    # What a start after a crash would put back, or remove.
    (tmp_path / "root/etc/app.conf.handfast-before").write_text("an old one of root's\n")
    (tmp_path / "root/etc/bad.conf.handfast-none").touch()
    (tmp_path / "root/etc/.app.conf.0123456789abcdef.tmp").touch()
    (tmp_path / "root/usr/bin/.handfast-0123456789abcdef").touch()
    for name in ("conf/app.conf", "conf/deep/app.conf", "site/site.conf", "bin/tool", "logs/auth.log"):
        (tmp_path / "app" / name).write_text("his own\n")
    targets = {"conf": "etc", "conf/deep": "etc", "bin": "usr/bin", "logs": "log", "site/site.conf": "etc/app.conf",
               "bin/tool": "usr/bin/tool", "logs/auth.log": "log/auth.log"}  # fmt: skip
    for name, target in targets.items():
        (tmp_path / "app" / f"{name}.led").symlink_to(tmp_path / "root" / target)
    (tmp_path / "app/led").symlink_to(tmp_path / "root/etc/app.conf")
    for each in (tmp_path / "app", *(tmp_path / "app").rglob("*")):
        os.chown(each, NOBODY, NOBODY, follow_symlinks=False)
    return Machine(tmp_path)


def deployed(service: Service) -> None:
    """Deploy a program."""
    with service.artifacts.incoming("tool") as coming:
        coming.write(EVIL)


def read(service: Service) -> None:
    """Read a log, whichever there is."""
    for name in service.logs.listed():
        assert "root only" not in service.logs.tail(name, count=5).lines


ACTS: dict[str, Callable[[Service], object]] = {
    "deploy": deployed,
    "undeploy": lambda service: service.artifacts.remove("tool"),
    "list": lambda service: service.artifacts.listed(),
    "clean": lambda service: service.artifacts.clean(),
    "log": read,
    "recover": lambda service: service.recover(),
}


async def test_directories_that_have_become_links(machine: Machine) -> None:
    """Nothing is written, restored, removed, deployed, listed or read behind one, and it is said why."""
    service, before = machine.service(), machine.roots()
    for name in ("conf", "bin", "logs"):
        machine.as_user("mv", name, f"{name}.was")
        machine.as_user("mv", f"{name}.led", name)
    for name in ("flat", "deep", "bad"):
        with pytest.raises(Unsafe, match=r"/app/conf' is a link"):
            await service.configure({name: EVIL})
    members = Members(machine.place / "app/conf/app.conf")
    with pytest.raises(Unsafe, match=r"/app/conf' is a link"):
        members.put("node.lan", "192.0.2.1")
    with pytest.raises(Unsafe, match=r"/app/conf' is a link"):
        members.recover()
    for name, act in ACTS.items():
        with pytest.raises(Unsafe, match=r"/app/(conf|bin|logs)' is a link"):
            act(service)
        assert machine.roots() == before, name


def test_a_directory_of_roots_in_its_place(machine: Machine) -> None:
    """His directory may hold one of root's, as a package leaves it, and he gives it the name that root writes to."""
    mine = machine.place / "app/mine"
    mine.mkdir()
    (mine / "auth.log").write_text("root only\n")
    service = machine.service()
    for name, act in {"conf": "recover", "bin": "deploy", "logs": "log"}.items():
        machine.as_user("mv", name, f"{name}.was")
        machine.as_user("mv", "mine", name)
        with pytest.raises(Unsafe, match=rf"/app/{name}' belongs to user id 0, below a directory of user id {NOBODY}"):
            ACTS[act](service)
        machine.as_user("mv", name, "mine")
    assert os.listdir(mine) == ["auth.log"]


async def test_a_directory_exchanged_while_a_check_runs(machine: Machine) -> None:
    """What was kept is put back where it was kept, in the directory that was opened."""
    before = machine.roots()
    service = machine.service()
    bad = service.policy.files["bad"]
    swap = "mv conf conf.was && mv conf.led conf; exit 1"
    user = ("setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups")
    check = ("/bin/sh", "-c", f"cd {machine.place}/app && exec {' '.join(user)} sh -c '{swap}'")
    object.__setattr__(bad, "check", check)
    (machine.place / "app/conf/bad.conf").write_text("his own\n")
    with pytest.raises(HandfastError, match="does not accept it"):
        await service.configure({"bad": EVIL})
    assert (machine.place / "app/conf").is_symlink()
    assert (machine.place / "app/conf.was/bad.conf").read_text() == "his own\n"
    assert sorted(os.listdir(machine.place / "app/conf.was")) == ["app.conf", "bad.conf", "deep", "deep.led"]
    assert machine.roots() == before


@pytest.mark.slow
@pytest.mark.timeout(300)
async def test_while_they_are_exchanged(machine: Machine) -> None:
    """Two programs of his exchange directories and files for links all the time: not one write lands elsewhere."""
    service, before = machine.service(), machine.roots()
    done: Counter[str] = Counter()
    refused: Counter[str] = Counter()
    planted = [f"{name}.handfast-{end}+" for name in ("site/site.conf", "conf/app.conf") for end in ("before", "none")]
    planted.append("site/site.conf+")
    names = ("flat", "deep", "bad", "site")
    with (
        machine.exchanging("conf", "bin", "logs"),
        machine.exchanging("conf/deep", "site/site.conf", "bin/tool", "logs/auth.log", *planted),
    ):
        for _ in range(MOST):
            for name in names:
                try:
                    await service.configure({name: EVIL})
                    done[name] += 1
                except HandfastError as error:
                    (done if name == "bad" and "accept" in error.message else refused)[name] += 1
            for name, act in ACTS.items():
                try:
                    act(service)
                    done[name] += 1
                except HandfastError:
                    refused[name] += 1
            if all(min(done[name], refused[name]) >= ENOUGH for name in (*names, "deploy", "list", "log")):
                break
    assert machine.roots() == before
    assert all(done[name] and refused[name] for name in (*names, "deploy", "list", "log")), (done, refused)
