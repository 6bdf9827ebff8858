"""
The process beside pvserver. It ends with whoever started it, and pvserver ends with it.

    session serve  --  Unix socket, 0600  --  keeper  --  127.0.0.1  --  pvserver, and its anchor
                                              `------ a private network namespace ------'

A network namespace hides ports and not files: the socket in a private directory is the only way in, for one user. This
is why the keeper is a process of its own: it enters the namespace, and the one who does TLS stays outside.

Run as ``python -m handfast.sessions.paraview_keeper SPEC``. Its stdin is a lifeline: at its end all of this ends, even
after kill -9. Its stdout has one JSON event a line.
"""

from __future__ import annotations

import contextlib
import ctypes
import fcntl
import os
import re
import socket
import struct
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from typing import Literal

import msgspec

from handfast.adapters.process import child_environment
from handfast.sessions import local

_CLONE_NEWUSER, _CLONE_NEWNET = 0x10000000, 0x40000000  # sched.h
_SIOCGIFFLAGS, _SIOCSIFFLAGS, _IFF_UP = 0x8913, 0x8914, 0x1  # sockios.h, if.h
_LOOPBACK = "127.0.0.1"
_CHUNK = 256 * 1024
_LINE = 4096  # bytes of one
_PATIENCE = 60.0  # seconds a caller waits for a pvserver that is being started again
_LAST = 5  # lines that are worth repeating when it fails
_ACCEPTING = re.compile(r"Accepting connection\(s\): .*:(\d{1,5})\s*$")
_ANCHORED = "anchored"

# Becomes a program which the kernel kills when the keeper is gone. Not preexec_fn: that is unsafe beside threads.
_TETHER = (
    "import ctypes, os, sys\n"
    "ctypes.CDLL(None).prctl(1, 9)\n"  # PR_SET_PDEATHSIG, SIGKILL
    "if os.getppid() == int(sys.argv[1]): os.execv(sys.argv[2], sys.argv[2:])\n"
)

# pvserver ends when its last client leaves, --multi-clients or not. This client never leaves, and does nothing but hand
# the right to change things to whoever came last: ParaView gives it to the first, and locks everybody else's GUI.
_ANCHOR = f"""\
import os, sys, time
from paraview import servermanager
from paraview.simple import Connect
connection = Connect("{_LOOPBACK}", int(sys.argv[1]), timeout=30)
if connection is None:
    sys.exit("cannot connect to pvserver")
network = servermanager.vtkProcessModule.GetProcessModule().GetNetworkAccessManager()
people = connection.Session.GetCollaborationManager()
newest = people.GetUserId()
looked = 0.0
os.write(1, b"{_ANCHORED}\\n")  # pvpython catches what is printed, and may keep it
while network.ProcessEvents(1000) != -1:
    if time.monotonic() - looked >= 1:
        looked = time.monotonic()
        people.UpdateUserInformations()
        latest = max((people.GetUserId(n) for n in range(people.GetNumberOfConnectedClients())), default=0)
        if people.IsMaster() and latest > newest:
            newest = latest
            people.PromoteToMaster(latest)
"""


class Spec(msgspec.Struct, frozen=True, kw_only=True):
    """What to run. ``command`` and ``anchor`` as in ``paraview.Plan``."""

    socket: str
    command: list[str]
    anchor: list[str]
    private: bool
    reverse: bool


class Event(msgspec.Struct, frozen=True):
    """What happened: pvserver ``said`` a line, is ``ready``, was ``lost`` and is started again, or ``failed``."""

    event: Literal["said", "ready", "lost", "failed"]
    text: str = ""


def tell(event: Event) -> None:
    """Print an event, in one write: several threads do."""
    with contextlib.suppress(BrokenPipeError):  # then stdin has ended too, which ends us
        os.write(1, msgspec.json.encode(event) + b"\n")


def enter_private_network() -> None:
    """
    Move this process into a user and a network namespace of its own, with loopback up.

    User and group stay what they are: files look and behave as before.

    :raises OSError: the kernel, a container or a policy says no.
    """
    user, group = os.geteuid(), os.getegid()
    if ctypes.CDLL(None, use_errno=True).unshare(_CLONE_NEWUSER | _CLONE_NEWNET) != 0:
        raise OSError(ctypes.get_errno(), os.strerror(ctypes.get_errno()))
    for name, text in (("setgroups", "deny"), ("uid_map", f"{user} {user} 1"), ("gid_map", f"{group} {group} 1")):
        with open(f"/proc/self/{name}", "w", encoding="ascii") as file:
            file.write(text)
    with socket.socket(socket.AF_INET, socket.SOCK_DGRAM) as any_socket:
        request = struct.pack("16sH22x", b"lo", 0)
        flags = struct.unpack_from("H", fcntl.ioctl(any_socket, _SIOCGIFFLAGS, request), 16)[0]
        fcntl.ioctl(any_socket, _SIOCSIFFLAGS, struct.pack("16sH22x", b"lo", flags | _IFF_UP))


class Keeper:
    """One pvserver after the other, all behind the same socket."""

    def __init__(self, spec: Spec) -> None:
        self._spec = spec
        self._children: list[subprocess.Popen[bytes]] = []
        self._said: list[str] = []
        self._changed = threading.Condition()
        self._ready = False  # this pvserver has been
        self._port = 0  # where it listens; 0 while it does not
        self._call: socket.socket | None = None  # the connection it made, in native reverse
        self._entrance = socket.socket(socket.AF_UNIX)
        mask = os.umask(0o177)  # 0600 from the first moment
        try:
            self._entrance.bind(spec.socket)
        finally:
            os.umask(mask)
        self._entrance.listen(128)

    def run(self) -> int:
        """
        Keep a pvserver running until the lifeline ends, or one does not start.

        For the main thread: the kernel ends our children with the thread that started them.
        """
        _in_thread(self._follow_parent)
        _in_thread(self._admit)
        while self._run_once():
            tell(Event("lost"))
        tell(Event("failed", "\n".join(self._said) or "it said nothing"))
        return 1

    def _run_once(self) -> bool:
        """Start pvserver and stay until it ends. Return whether it was ready before."""
        if self._spec.reverse:
            caller = socket.create_server((_LOOPBACK, 0))
            port = caller.getsockname()[1]
            _in_thread(self._await_call, caller)
        else:
            port = 0  # the kernel chooses
        server = self._start([*self._spec.command, f"--server-port={port}"])
        for line in self._lines(server):
            accepting = _ACCEPTING.search(line)
            if accepting is None or port:
                continue  # it says so again for each further client
            port = int(accepting[1])
            if self._spec.anchor:
                anchor = self._start([*self._spec.anchor, "-c", _ANCHOR, str(port)])
                _in_thread(self._follow_anchor, anchor, server, port)
            else:
                self._offer(port=port)
        self._kill()
        with self._changed:
            ready, self._ready, self._port, self._call = self._ready, False, 0, None
        return ready

    def _start(self, command: list[str]) -> subprocess.Popen[bytes]:
        started = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", _TETHER, str(os.getpid()), *command],
            stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, env=child_environment(),
        )  # fmt: skip
        self._children.append(started)
        return started

    def _kill(self) -> None:
        """End our children. SIGTERM would have them print a stack trace, and end no better."""
        for child in reversed(list(self._children)):
            child.kill()
            child.wait()
        self._children.clear()

    def _lines(self, child: subprocess.Popen[bytes]) -> Iterator[str]:
        """Yield what a child says, line by line, and repeat it."""
        if child.stdout is None:  # unreachable: it is a pipe
            return
        with child.stdout as stream:
            for raw in iter(lambda: stream.readline(_LINE), b""):
                line = raw.decode(errors="replace").rstrip()
                self._said = [*self._said, line][-_LAST:]
                tell(Event("said", line))
                yield line

    def _follow_anchor(self, anchor: subprocess.Popen[bytes], server: subprocess.Popen[bytes], port: int) -> None:
        for line in self._lines(anchor):
            if line == _ANCHORED:
                self._offer(port=port)
        server.kill()  # without its anchor it would end with its next client, and the pipeline without a word

    def _await_call(self, caller: socket.socket) -> None:
        """Wait for pvserver's own call: any user may dial a port of loopback, so whose end it is decides."""
        with caller:
            while True:
                call, _ = caller.accept()
                if local.is_ours(call):
                    self._offer(call=call)
                    return
                call.close()

    def _offer(self, *, port: int = 0, call: socket.socket | None = None) -> None:
        with self._changed:
            self._ready, self._port, self._call = True, port, call
            self._changed.notify_all()
        tell(Event("ready"))

    def _take(self) -> socket.socket:
        """Return a connection to pvserver. :raises OSError: there is none, and none came in time."""
        with self._changed:
            self._changed.wait_for(lambda: self._port or self._call, _PATIENCE)
            call, self._call = self._call, None
            port = self._port
        if call is not None:
            return call
        if not port:
            raise TimeoutError("pvserver is not ready")
        return socket.create_connection((_LOOPBACK, port))

    def _admit(self) -> None:
        while True:
            visitor, _ = self._entrance.accept()
            _in_thread(self._serve, visitor)

    def _serve(self, visitor: socket.socket) -> None:
        with visitor, contextlib.suppress(OSError), self._take() as inside:
            back = _in_thread(_pump, inside, visitor)
            _pump(visitor, inside)
            back.join()

    def _follow_parent(self) -> None:
        while os.read(0, 1024):
            pass
        self._kill()
        with contextlib.suppress(OSError):
            os.unlink(self._spec.socket)
            os.rmdir(os.path.dirname(self._spec.socket))  # if who made it was killed
        os._exit(0)  # and should the main thread have started another meanwhile, the kernel ends that: see _TETHER


def _in_thread(function: Callable[..., None], *arguments: object) -> threading.Thread:
    thread = threading.Thread(target=function, args=arguments, daemon=True)
    thread.start()
    return thread


def _pump(source: socket.socket, sink: socket.socket) -> None:
    """Carry one direction to its end, and pass the end on. An error ends both directions: half of it is of no use."""
    buffer = memoryview(bytearray(_CHUNK))
    try:
        while count := source.recv_into(buffer):
            sink.sendall(buffer[:count])
        sink.shutdown(socket.SHUT_WR)
    except OSError:
        for each in (source, sink):
            with contextlib.suppress(OSError):
                each.shutdown(socket.SHUT_RDWR)


def main() -> int:
    """Run what the one argument says; ``probe`` only tells by the exit code whether a private network can be had."""
    try:
        if sys.argv[1] == "probe":
            enter_private_network()
            return 0
        spec = msgspec.json.decode(sys.argv[1], type=Spec)
        if spec.private:
            enter_private_network()
        return Keeper(spec).run()
    except OSError as error:
        tell(Event("failed", str(error)))
        return 1


if __name__ == "__main__":
    sys.exit(main())
