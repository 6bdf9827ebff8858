"""
Make a virtual environment from a hash-locked requirements file once, and find it again fast.

`./handfast` and `./test` stand on this. Standard library only, and the fast path imports nothing but os
and sys: hashlib alone, with OpenSSL behind it, would add a quarter to a start. The syntax is
Python 3.6's, so that an old Python can say what is wrong.
"""

import os
import sys

TYPE_CHECKING = False  # importing typing would cost as much as starting Python
if TYPE_CHECKING:
    from collections.abc import Callable

ROOT = os.path.dirname(os.path.dirname(os.path.realpath(__file__)))
STAMP = "handfast.stamp"  # empty: made by us, not finished; else: what the environment was made from


class Failure(Exception):
    """The environment cannot be made; ``hint`` says what to do."""

    def __init__(self, message: str, hint: str) -> None:
        super().__init__(message)
        self.hint = hint


def command(lock: str, folder: str, override: str) -> "list[str]":
    """
    Return the start of a command line: an interpreter with the packages of ``lock`` and our ``src``.

    The environment is where the variable ``override`` says, else ``folder`` in this checkout, else (when the
    checkout is not ours to write to) in the user's cache. It is made first if need be.

    :raises Failure: it cannot be made, or is not safe to enter.
    """
    lock = os.path.join(ROOT, lock)
    named = os.environ.get(override)
    venv = os.path.abspath(named) if named else os.path.join(ROOT, folder)
    if not _is_current(venv, lock):
        obstacle = _obstacle(venv)
        if obstacle and not named:
            venv, instead_of = _in_cache(folder), obstacle
            if not _is_current(venv, lock):
                obstacle = _obstacle(venv)
                say(f"{instead_of}; using {venv}")
        if not _is_current(venv, lock):
            if obstacle:
                raise Failure(obstacle, f"set {override} to a directory that does not exist yet")
            _make(venv, lock)
    # Isolated: neither the current directory nor PYTHONPATH may slip a module into a program that signs.
    # argv[0] must be this very path; by any other, Python does not find the environment.
    start = [_python(venv), "-I"]
    if not venv.startswith(ROOT + os.sep):
        start += ["-X", "pycache_prefix=" + os.path.join(venv, "pycache")]  # the checkout is read-only, or another's
    return start


def say(text: str) -> None:
    """Talk goes to stderr; stdout is data."""
    sys.stderr.write(f"handfast: {text}\n")
    sys.stderr.flush()


def run(main: "Callable[[], None]") -> None:
    """Run ``main``; a failure of the set-up is said as the program says its own, and is exit code 1."""
    try:
        main()
        return
    except Failure as failure:
        say(f"error: {failure}")
        say(f"hint: {failure.hint}")
    except OSError as failure:
        say(f"error: {failure}")
    except KeyboardInterrupt:
        say("interrupted")
    sys.exit(1)


def _python(venv: str) -> str:
    return os.path.join(venv, "bin", "python")


def _inputs(venv: str, lock: str) -> bytes:
    """
    All that decides what an environment holds; the stamp is these very bytes, which compare faster than they hash.

    The Python that runs us is not among them: cron's and a shell's may differ, and would take turns at rebuilding.
    The environment's own is, followed to its file: that changes when the system moves to a new Python.
    """
    with open(lock, "rb") as file:
        return os.fsencode(f"{ROOT}\n{venv}\n{os.path.realpath(_python(venv))}\n") + file.read()


def _is_current(venv: str, lock: str) -> bool:
    """Whether the environment is complete, and nobody but us and root can have put code into it."""
    try:
        if os.stat(venv).st_uid not in (0, os.geteuid()):
            return False
        with open(os.path.join(venv, STAMP), "rb") as file:
            return file.read() == _inputs(venv, lock) and os.path.exists(_python(venv))
    except OSError:
        return False


def _obstacle(venv: str) -> str:
    """Return why we may not make (or remove and remake) ``venv``; empty when we may."""
    parent = os.path.dirname(venv)
    if parent == ROOT and os.stat(ROOT).st_uid != os.geteuid():
        return f"{ROOT} belongs to another user"  # as root we could write there, and leave what its owner cannot remove
    if os.path.isdir(parent) and not os.access(parent, os.W_OK):
        return f"{parent} is read-only"
    if not os.path.lexists(venv):
        return ""
    if os.lstat(venv).st_uid != os.geteuid():
        return f"{venv} belongs to another user"
    if os.path.islink(venv) or not os.path.isdir(venv):
        return f"{venv} is not a directory"
    if not os.path.exists(os.path.join(venv, STAMP)) and os.listdir(venv):
        return f"{venv} was made by something else"
    return ""


def _in_cache(folder: str) -> str:
    """Return where the user's cache keeps this checkout's environment."""
    import hashlib

    cache = os.environ.get("XDG_CACHE_HOME") or os.path.expanduser("~/.cache")
    name = hashlib.sha256(os.fsencode(os.path.join(ROOT, folder))).hexdigest()[:16]
    return os.path.join(cache, "handfast", f"venv-{name}")


def _make(venv: str, lock: str) -> None:
    """Make the environment from scratch, one process at a time. The stamp is filled last: a half is never entered."""
    import fcntl
    import shutil
    import time

    if sys.version_info < (3, 11):
        raise Failure(
            f"needs Python 3.11 or newer; {sys.executable} is {sys.version.split()[0]}",
            "install one, and start this script with it: python3.11 ./handfast",
        )
    os.makedirs(os.path.dirname(venv), mode=0o700, exist_ok=True)
    with open(venv + ".lock", "a") as gate:
        try:
            fcntl.flock(gate, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            say("another first run is setting up; waiting for it")
            fcntl.flock(gate, fcntl.LOCK_EX)
        if _is_current(venv, lock):
            return
        say(f"setting up in {venv} (first run, about 20 s) ...")
        started = time.monotonic()
        umask = os.umask(0o022)  # whatever the user's habit: others never write where our code lies
        if os.path.lexists(venv):
            shutil.rmtree(venv)
        os.mkdir(venv)
        stamp = os.path.join(venv, STAMP)
        open(stamp, "w").close()
        _install(venv, lock, gate.fileno())
        with open(stamp + ".new", "wb") as file:
            file.write(_inputs(venv, lock))
        os.replace(stamp + ".new", stamp)
        os.umask(umask)
        say(f"ready after {time.monotonic() - started:.0f} s")


def _install(venv: str, lock: str, gate: int) -> None:
    """
    Install exactly ``lock``, with uv where it is present, else with pip.

    Both check every hash, and neither may build: a source distribution fetches its build tools without hashes.
    """
    import glob
    import shutil
    import subprocess

    def call(*arguments: str) -> bool:
        # The lock is inherited: if we alone are killed, the next run waits until these have ended too.
        # Their errors come on stderr; ensurepip's chatter on stdout has no other switch.
        null = subprocess.DEVNULL
        return subprocess.call(arguments, stdin=null, stdout=null, pass_fds=(gate,)) == 0

    exact = ("--require-hashes", "--no-deps", "-r", lock)
    if not call(sys.executable, "-I", "-m", "venv", "--without-pip", venv):
        raise Failure(f"cannot make a virtual environment in {venv}", "see the message above")
    uv = shutil.which("uv")
    # --no-config: a uv.toml in the directory where we were started could name a cache of its owner's making.
    fast = ("--no-config", "pip", "install", "-q", "--python", _python(venv), "--no-build", "--compile-bytecode")
    if not uv or not call(uv, *fast, *exact):
        _need_ensurepip(call)
        pip = (_python(venv), "-I", "-m", "pip", "-qq", "--no-input", "--disable-pip-version-check")
        if not (
            call(_python(venv), "-I", "-m", "ensurepip")
            and call(*pip, "install", "--only-binary=:all:", *exact)
            and call(*pip, "uninstall", "--yes", "pip", "setuptools")
        ):
            raise Failure(f"cannot install {os.path.basename(lock)}", "see the message above; is there a network?")
    site_packages = glob.glob(os.path.join(glob.escape(venv), "lib", "python3*", "site-packages"))[0]
    with open(os.path.join(site_packages, "handfast.pth"), "w") as path:
        path.write(os.path.join(ROOT, "src") + "\n")


def _need_ensurepip(call: "Callable[..., bool]") -> None:
    """Debian leaves ensurepip out of python3: as root install it, saying so first; else say how."""
    import shutil
    from importlib import invalidate_caches
    from importlib.util import find_spec

    if find_spec("ensurepip"):
        return
    if os.geteuid() == 0 and shutil.which("apt-get"):
        say("this Python has no ensurepip: apt-get install -y python3-venv")
        install = "env DEBIAN_FRONTEND=noninteractive apt-get install -qq -y --no-install-recommends python3-venv"
        if not call(*install.split()):  # a fresh image has no package lists
            call("apt-get", "update", "-qq")
            call(*install.split())
        invalidate_caches()
        if find_spec("ensurepip"):
            return
    raise Failure("this Python has no ensurepip", "apt-get install python3-venv (as root), or install uv")
