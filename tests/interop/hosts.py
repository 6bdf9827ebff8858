"""
Machines for tests: a directory of its own each, a clean environment, and a network namespace where there are several.

Programs are real, and started by the tests. Waiting is for events: a line that a program prints, or its end.
"""

from __future__ import annotations

import contextlib
import glob
import itertools
import json
import os
import queue
import shutil
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import handfast
from tests.peers import PEERS, find
from tests.ports import free_port

HANDFAST = (sys.executable, "-m", "handfast")
PATIENCE = 30.0  # seconds for anything; a hang is a failure, and none of this takes a tenth of it
_SOURCES = Path(handfast.__file__).parents[1]
_SYSTEM_PATH = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin"
_numbers = itertools.count()


def program(peer: str) -> str:
    """Return the path of a peer that the test's marker has asked for."""
    path = find(peer)
    assert path is not None, f"{PEERS[peer].package} is not installed: does the test have its marker?"
    return path


def clock(offset: str) -> dict[str, str]:
    """Return the environment of a program whose clock is wrong: ``+10y``, ``-2d``. Its timers run as always."""
    (library,) = glob.glob("/usr/lib/*/faketime/libfaketime.so.1")
    return {"LD_PRELOAD": library, "FAKETIME": offset, "FAKETIME_DONT_FAKE_MONOTONIC": "1"}


@dataclass(frozen=True, slots=True)
class Done:
    """How a command ended."""

    code: int
    stdout: str
    stderr: str

    def json(self) -> Any:
        """All of stdout, as the one JSON value that it has to be."""
        return json.loads(self.stdout)


class Process:
    """A program that runs until it is stopped. Its two streams are read together, line by line."""

    def __init__(self, command: tuple[str, ...], *, cwd: Path, env: Mapping[str, str]) -> None:
        self.command, self.lines = command, list[str]()
        self._queue: queue.Queue[str | None] = queue.Queue()
        self._popen = subprocess.Popen(
            command, cwd=cwd, env=env, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
            text=True,
        )  # fmt: skip
        self._reader = threading.Thread(target=self._read, daemon=True)
        self._reader.start()

    @property
    def pid(self) -> int:
        """Its process id: that of the program itself, for `ip netns exec` becomes what it starts."""
        return self._popen.pid

    def expect(self, text: str) -> str:
        """Return the next line that contains ``text``, when it comes."""
        while True:
            try:
                line = self._queue.get(timeout=PATIENCE)
            except queue.Empty:
                raise AssertionError(f"no {text!r} in time from {self}") from None
            if line is None:
                raise AssertionError(f"it ended before it said {text!r}: {self}")
            if text in line:
                return line

    def told(self, text: str, count: int = 1) -> list[str]:
        """Return all lines so far that contain ``text``, once there are ``count``, or in the end however many."""
        end = time.monotonic() + PATIENCE  # what it has said by now comes through a pipe and a thread of ours
        while len(found := [line for line in tuple(self.lines) if text in line]) < count and time.monotonic() < end:
            time.sleep(0.01)
        return found

    def wait(self) -> int:
        """Return its exit code, when it has ended and all that it said was read."""
        code = self._popen.wait(PATIENCE)
        self._reader.join(PATIENCE)
        return code

    def stop(self) -> int:
        """End it in good order, and return its exit code."""
        self._popen.terminate()
        try:
            return self.wait()
        except subprocess.TimeoutExpired:
            self.kill()
            raise AssertionError(f"SIGTERM did not end {self}") from None

    def kill_with(self, number: signal.Signals) -> None:
        """Send it a signal."""
        self._popen.send_signal(number)

    def kill(self) -> None:
        """End it as a power failure would."""
        self._popen.kill()
        self._popen.wait()

    def _read(self) -> None:
        if self._popen.stdout is None:  # unreachable: it is a pipe
            return
        with self._popen.stdout as stream:
            for line in stream:
                self.lines.append(line.rstrip("\n"))
                self._queue.put(self.lines[-1])
        self._queue.put(None)

    def __str__(self) -> str:
        return "\n".join([" ".join(self.command), *self.lines])


class Host:
    """One machine. ``namespace`` None is this one itself: then only the directory is its own."""

    def __init__(self, directory: Path, namespace: str | None = None) -> None:
        self.directory, self.namespace = directory, namespace
        self._processes: list[Process] = []
        directory.mkdir()

    def run(
        self,
        *command: str | Path,
        stdin: str = "",
        env: Mapping[str, str] | None = None,
        code: int | None = 0,
    ) -> Done:
        """Run a command to its end; ``code`` is what it has to end with, None where any will do."""
        line = self.command(*command)
        ended = subprocess.run(
            line, cwd=self.directory, env=self.environment(env), input=stdin, capture_output=True, text=True,
            timeout=PATIENCE, check=False,
        )  # fmt: skip
        done = Done(ended.returncode, ended.stdout, ended.stderr)
        assert code is None or done.code == code, f"{line}\nended with {done.code}\n{done.stdout}{done.stderr}"
        return done

    def start(self, *command: str | Path, env: Mapping[str, str] | None = None) -> Process:
        """Start a command which ``close`` ends, if nobody did before."""
        process = Process(self.command(*command), cwd=self.directory, env=self.environment(env))
        self._processes.append(process)
        return process

    def handfast(
        self, *arguments: str | Path, stdin: str = "", env: Mapping[str, str] | None = None, code: int | None = 0
    ) -> Done:
        """Run our own command, as ``./handfast`` of this checkout would."""
        return self.run(*HANDFAST, *arguments, stdin=stdin, env=env, code=code)

    def join(self, invitation: str, name: str, *arguments: str, code: int | None = 0) -> Path:
        """Join with an invitation on stdin, and return the directory, which has ``name``."""
        self.handfast("join", "--out", name, *arguments, stdin=invitation, code=code)
        return self.directory / name

    def put(self, name: str, text: str) -> Path:
        """Write a private file and return its path."""
        path = self.directory / name
        path.write_text(text)
        path.chmod(0o600)
        return path

    def command(self, *command: str | Path) -> tuple[str, ...]:
        """Return the command line that runs ``command`` here."""
        line = tuple(str(part) for part in command)
        return line if self.namespace is None else (program("ip"), "netns", "exec", self.namespace, *line)

    def environment(self, added: Mapping[str, str] | None = None) -> dict[str, str]:
        """Nothing of the developer's, but what measures coverage."""
        measuring = {key: value for key, value in os.environ.items() if key.startswith("COVERAGE_")}
        ours = {"PATH": _SYSTEM_PATH, "HOME": str(self.directory), "LANG": "C.UTF-8", "PYTHONPATH": str(_SOURCES)}
        return measuring | ours | dict(added or {})

    def close(self) -> None:
        """End what still runs here: the processes we started, by their ids."""
        for process in reversed(self._processes):
            with contextlib.suppress(AssertionError):
                process.stop()


class Registrar:
    """``handfast up`` on a host, and what its operator types there."""

    def __init__(self, host: Host, listen: str = "", *flags: str, data: str = "registrar") -> None:
        self.host, self.data = host, host.directory / data
        if not listen:  # of this machine: other tests want ports at the same time, also while it is down
            listen, flags = _loopback(), (*flags, "--crl-listen", _loopback())
        self._flags = flags
        self.up(listen)

    def up(
        self,
        listen: str | None = None,
        *,
        command: tuple[str, ...] = HANDFAST,
        env: Mapping[str, str] | None = None,
    ) -> None:
        """Start it, and wait until it is ready. Without ``listen`` it listens where it did before."""
        place = listen or self.ready["listen"]
        flags = ("--data", str(self.data), "--listen", place, "--json", *self._flags)
        self.process = self.host.start(*command, "up", *flags, env=env)
        self.ready: dict[str, Any] = json.loads(self.process.expect('"url"'))

    @property
    def port(self) -> int:
        """Where it listens."""
        return int(str(self.ready["listen"]).rpartition(":")[2])

    @property
    def crl_path(self) -> str:
        """The path of the revocation list, as the registrar announces it."""
        place = json.loads((self.data / "registrar.json").read_bytes())
        return "/" + str(place["crl_url"]).split("/", 3)[3]

    def invite(self, name: str, *flags: str) -> str:
        """Return an invitation: all that `invite` prints on stdout, one line."""
        printed = self.host.handfast("invite", name, "--data", self.data, *flags).stdout
        line = printed.removesuffix("\n")
        assert line.startswith("handfast1_"), printed
        assert "\n" not in line
        return line

    def show(self, name: str) -> dict[str, Any]:
        """Return `show --json`."""
        shown: dict[str, Any] = self.host.handfast("show", name, "--data", self.data, "--json").json()
        return shown

    def list(self) -> dict[str, dict[str, Any]]:
        """Return `list --json`, by name."""
        return {row["name"]: row for row in self.host.handfast("list", "--data", self.data, "--json").json()}

    def revoke(self, what: str, reason: str = "keyCompromise") -> None:
        """Take back a machine's credentials, or one serial."""
        self.host.handfast("revoke", what, "--data", self.data, "--reason", reason)


def _loopback() -> str:
    return f"127.0.0.1:{free_port()}"


def serial(out: Path) -> str:
    """Return the serial of the credential in a newcomer's directory, as 32 hex digits."""
    return str(json.loads((out / "identity.json").read_bytes())["serial"])


@contextlib.contextmanager
def scratch() -> Iterator[Path]:
    """
    A directory which other users may pass through, and not list: a database server runs as one.

    pytest's own are 0700 for the user.
    """
    path = Path(tempfile.mkdtemp(prefix="handfast-test-"))
    path.chmod(0o711)
    try:
        yield path
    finally:
        shutil.rmtree(path)


@contextlib.contextmanager
def local_host() -> Iterator[Host]:
    """This machine, with a directory that goes away."""
    with scratch() as directory:
        host = Host(directory / "here")
        host.directory.chmod(0o755)
        try:
            yield host
        finally:
            host.close()


@dataclass(frozen=True, slots=True)
class Network:
    """
    A registrar's machine with one cable to each of two others, which do not see each other.

        server1 10.77.1.2 ---- 10.77.1.1  registrar  10.77.2.1 ---- 10.77.2.2 office
    """

    registrar: Host
    server: Host
    office: Host

    REGISTRAR = "10.77.1.1"
    SERVER = "10.77.1.2"
    OFFICE = "10.77.2.2"

    def link(self, state: str) -> None:
        """Pull the server's cable (``down``), or put it in again (``up``)."""
        self.server.run("ip", "link", "set", "eth0", state)


@contextlib.contextmanager
def network() -> Iterator[Network]:
    """Make the three machines, and leave nothing of them."""
    with contextlib.ExitStack() as stack:
        directory = stack.enter_context(scratch())
        hosts = [stack.enter_context(in_namespace(directory / name)) for name in ("registrar", "server", "office")]
        made = Network(*hosts)
        for number, host in enumerate(hosts[1:], 1):
            near, far = f"eth{number}", "eth0"
            _ip("link", "add", near, "netns", str(hosts[0].namespace), "type", "veth", "peer", "name", far,
                "netns", str(host.namespace))  # fmt: skip
            for end, name, last in ((hosts[0], near, 1), (host, far, 2)):
                end.run("ip", "address", "add", f"10.77.{number}.{last}/24", "dev", name)
                end.run("ip", "link", "set", name, "up")
        # the registrar is known by one address; from the office it is behind the cable's other end
        made.office.run("ip", "route", "add", "10.77.1.1/32", "via", "10.77.2.1")
        yield made


@contextlib.contextmanager
def in_namespace(directory: Path) -> Iterator[Host]:
    """A machine with a network of its own, which has nothing but loopback so far."""
    namespace = f"handfast-{os.getpid()}-{next(_numbers)}"  # workers run at the same time
    _ip("netns", "add", namespace)
    try:
        host = Host(directory, namespace)
        directory.chmod(0o755)
        host.run("ip", "link", "set", "lo", "up")
        try:
            yield host
        finally:
            host.close()
    finally:
        _ip("netns", "delete", namespace)  # its ends of the cables go with it


def _ip(*arguments: str) -> None:
    subprocess.run([program("ip"), *arguments], check=True, capture_output=True, text=True)
