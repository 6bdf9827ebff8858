"""`./handfast`: the first run makes the environment, whatever stands in its way; later runs only start."""

from __future__ import annotations

import ast
import fcntl
import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from tests.bootstrap.checkout import ROOT, Checkout

SCRIPTS = ("handfast", "test", "tools/bootstrap.py")
NOBODY = 65534


@pytest.fixture
def checkout(tmp_path: Path) -> Checkout:
    """A fresh clone with a small lock."""
    return Checkout(tmp_path)


def wait_for(path: Path) -> None:
    """Wait until a child has made a file: there is no other word from a process that is about to be killed."""
    while not path.exists():
        time.sleep(0.02)


def packages(venv: Path) -> set[str]:
    """The distributions in an environment."""
    return {path.name.split("-")[0] for path in venv.glob("lib/python3*/site-packages/*.dist-info")}


@pytest.mark.parametrize("with_uv", [True, False], ids=["uv", "pip"])
def test_first_run_installs_exactly_the_lock_and_starts(checkout: Checkout, with_uv: bool) -> None:
    """The environment holds what the lock names, not even pip; stdout has the program's output alone."""
    if not with_uv:
        checkout.uv.unlink()
    result = checkout.run("a b", "--c", "")
    told = json.loads(result.stdout)
    assert told["argv"] == ["a b", "--c", ""]
    assert told["python"] == str(checkout.venv / "bin/python")
    assert told["path"][-2:] == [str(next(checkout.venv.glob("lib/*/site-packages"))), str(checkout.root / "src")]
    assert packages(checkout.venv) == {"segno"}
    assert [line.split(":")[0] for line in result.stderr.splitlines()] == ["handfast", "handfast"]
    assert "first run" in result.stderr


def test_later_runs_go_straight_in(checkout: Checkout) -> None:
    """The second run says nothing, makes nothing, and imports none of the slow modules; links to it work too."""
    checkout.told()
    made = checkout.stamp.stat().st_ino, checkout.stamp.stat().st_mtime_ns  # not atime: reading it may move that
    second = checkout.run(prefix=("python3", "-X", "importtime", "-IS"))
    imported = {
        line.rsplit("|", 1)[-1].strip() for line in second.stderr.splitlines() if line.startswith("import time")
    }
    assert second.stderr.count("\n") == sum(line.startswith("import time") for line in second.stderr.splitlines())
    assert "bootstrap" in imported
    assert not imported & {"subprocess", "hashlib", "shutil", "typing", "site", "pathlib", "fcntl"}
    (checkout.home / "link").symlink_to(checkout.root / "handfast")
    linked = subprocess.run([checkout.home / "link"], env=checkout.environment(), capture_output=True, check=True)
    assert linked.stderr == b""
    assert (checkout.stamp.stat().st_ino, checkout.stamp.stat().st_mtime_ns) == made


def test_exit_code_is_the_programs(checkout: Checkout) -> None:
    """What the program exits with is what the caller sees."""
    checkout.told()
    assert checkout.run(STUB_EXIT="5").returncode == 5


def test_modules_of_the_current_directory_are_not_imported(checkout: Checkout) -> None:
    """Neither a json.py where one stands nor PYTHONPATH gets code into the set-up or the program."""
    for name in ("json.py", "subprocess.py", "handfast.py", "bootstrap.py"):
        (checkout.home / name).write_text("raise SystemExit('imported from the current directory')")
    checkout.told(PYTHONPATH=str(checkout.home))
    checkout.told(PYTHONPATH=str(checkout.home))


def test_a_configuration_in_the_current_directory_is_not_read(checkout: Checkout) -> None:
    """A uv.toml where the first run happens to be called could name a cache of wheels that are not hashed again."""
    (checkout.home / "uv.toml").write_text('required-version = "==0.0.1"\n')  # uv would refuse, and pip take over
    result = checkout.run()
    assert [line.split(":")[0] for line in result.stderr.splitlines()] == ["handfast", "handfast"]


@pytest.mark.parametrize("change", ["lock", "move", "python"])
def test_environment_is_remade_when_what_it_came_from_changes(checkout: Checkout, change: str) -> None:
    """Another lock, another place or another Python behind it: the environment is made anew, from scratch."""
    checkout.told()
    (checkout.venv / "left-over").touch()
    if change == "lock":
        with checkout.lock.open("a") as lock:
            lock.write("# changed\n")
    elif change == "move":
        checkout.root = checkout.root.rename(checkout.root.with_name("moved"))
    else:
        (checkout.venv / "bin/python").unlink()
    assert checkout.told()["python"] == str(checkout.venv / "bin/python")
    assert not (checkout.venv / "left-over").exists()


def test_two_first_runs_at_once(checkout: Checkout) -> None:
    """The second waits and says so, then starts; the environment is made once."""
    checkout.hold_uv()
    first = checkout.start(str(checkout.root / "handfast"), "first")
    wait_for(checkout.home / "begun")
    second = checkout.start(str(checkout.root / "handfast"), "second")
    assert second.stderr is not None
    assert "waiting" in second.stderr.readline()
    (checkout.home / "go").touch()
    for process, name in ((first, "first"), (second, "second")):
        assert json.loads(process.communicate()[0])["argv"] == [name]
    assert (checkout.home / "begun").read_text() == "\n"


@pytest.mark.parametrize("victim", ["all of it", "the parent"])
def test_a_killed_first_run_is_begun_again(checkout: Checkout, victim: str) -> None:
    """A half environment is never entered; installers that outlive their killed parent are waited for."""
    checkout.hold_uv()
    first = checkout.start(str(checkout.root / "handfast"))
    wait_for(checkout.home / "begun")
    assert checkout.stamp.read_bytes() == b""
    if victim == "all of it":
        os.killpg(first.pid, signal.SIGKILL)
        with open(f"{checkout.venv}.lock", "a") as gate:
            fcntl.flock(gate, fcntl.LOCK_EX)  # until the last of them has died
        (checkout.home / "go").touch()
        assert "waiting" not in checkout.run().stderr
    else:
        first.kill()
        second = checkout.start(str(checkout.root / "handfast"))
        assert second.stderr is not None
        assert "waiting" in second.stderr.readline()
        (checkout.home / "go").touch()
        assert "setting up" in second.communicate()[1]
    first.communicate()
    assert checkout.run().stderr == ""


def test_a_wrong_hash_stops_both_installers(checkout: Checkout) -> None:
    """A package that is not the locked one is never installed, by uv or by pip after it; nothing is entered."""
    lock = re.sub("sha256:.{8}", "sha256:00000000", checkout.lock.read_text())
    checkout.lock.write_text(lock)
    result = checkout.run()
    assert (result.returncode, result.stdout) == (1, "")
    assert result.stderr.count("00000000") >= 2  # each said which hash it wanted
    assert "handfast: error: cannot install requirements.lock" in result.stderr
    assert "handfast: hint: " in result.stderr
    assert checkout.stamp.read_bytes() == b""
    assert packages(checkout.venv) <= {"pip", "setuptools"}


def test_a_read_only_checkout_uses_the_cache(checkout: Checkout) -> None:
    """Nothing is written beside the scripts; the environment and the bytecode are in XDG_CACHE_HOME."""
    cache = str(checkout.home / "my cache")
    prefix: tuple[str, ...] = ()
    if os.geteuid() == 0:  # root is not bound by permissions, but is by a read-only mount
        if subprocess.run(["unshare", "--mount", "true"], check=False, capture_output=True).returncode:
            pytest.skip("needs the right to mount")
        mount = f'PATH={os.defpath}:/sbin; mount --bind "$0" "$0" && mount -o remount,bind,ro "$0"'
        script = f'{mount} && PATH={checkout.bin} && exec "$@"'
        prefix = ("/usr/bin/unshare", "--mount", "/bin/sh", "-c", script, str(checkout.root))
    else:
        for directory in [checkout.root, *checkout.root.rglob("*/")]:
            directory.chmod(0o555)
    before = [checkout.root, *sorted(checkout.root.rglob("*"))]
    first = checkout.run(prefix=prefix, XDG_CACHE_HOME=cache)
    assert json.loads(first.stdout)["python"].startswith(cache + "/handfast/venv-")
    assert f"{checkout.root} is read-only; using {cache}" in first.stderr
    assert checkout.run(prefix=prefix, XDG_CACHE_HOME=cache).stderr == ""
    assert [checkout.root, *sorted(checkout.root.rglob("*"))] == before
    for directory in before:
        directory.chmod(0o755)  # or pytest cannot remove it


def test_an_environment_made_by_something_else_is_left_alone(checkout: Checkout) -> None:
    """A .venv that some editor made is neither entered nor removed."""
    checkout.venv.mkdir()
    (checkout.venv / "theirs").touch()
    result = checkout.run()
    assert "was made by something else; using" in result.stderr
    assert json.loads(result.stdout)["python"].startswith(str(checkout.home / ".cache/handfast/venv-"))
    assert [path.name for path in checkout.venv.iterdir()] == ["theirs"]


@pytest.mark.root
@pytest.mark.parametrize("owned", ["venv", "all"])
def test_root_enters_no_environment_of_another_user(checkout: Checkout, owned: str) -> None:
    """Complete and current, but its owner could have put anything there: root makes one of its own, and no litter."""
    checkout.told()
    shutil.rmtree(checkout.root / "tools/__pycache__")
    shutil.chown(checkout.venv, NOBODY)
    if owned == "all":
        for path in (checkout.root, *checkout.root.rglob("*")):
            os.chown(path, NOBODY, NOBODY, follow_symlinks=False)
    result = checkout.run()
    assert "belongs to another user; using" in result.stderr
    assert json.loads(result.stdout)["python"].startswith(str(checkout.home / ".cache/handfast/venv-"))
    if owned == "all":
        assert [path for path in checkout.root.rglob("*") if path.lstat().st_uid != NOBODY] == []
    refused = checkout.run(HANDFAST_VENV=str(checkout.venv))
    assert (refused.returncode, refused.stdout) == (1, "")
    assert "belongs to another user" in refused.stderr


def test_handfast_venv_says_where(checkout: Checkout) -> None:
    """HANDFAST_VENV is used when it is new or ours, and refused, untouched, when it holds anything else."""
    place = checkout.home / "elsewhere"
    assert checkout.told(HANDFAST_VENV=str(place))["python"] == str(place / "bin/python")
    assert checkout.run(HANDFAST_VENV=str(place)).stderr == ""
    result = checkout.run(HANDFAST_VENV=str(checkout.bin))
    assert (result.returncode, result.stdout) == (1, "")
    assert f"handfast: error: {checkout.bin} was made by something else" in result.stderr
    assert "set HANDFAST_VENV" in result.stderr
    assert checkout.uv.exists()


def pretend(checkout: Checkout, statement: str) -> subprocess.CompletedProcess[str]:
    """Run the script in a Python about which ``statement`` tells a lie."""
    code = f"import runpy, sys; {statement}; runpy.run_path({str(checkout.root / 'handfast')!r})"
    with checkout.start("python3", "-ISc", code) as process:
        out, err = process.communicate()
    return subprocess.CompletedProcess([], process.returncode, out, err)


def test_without_ensurepip_and_apt_there_is_a_hint(checkout: Checkout) -> None:
    """Debian's python3 alone cannot install anything: say which package brings what is lacking."""
    checkout.uv.unlink()
    result = pretend(checkout, "sys.modules['ensurepip'] = None")
    assert (result.returncode, result.stdout) == (1, "")
    assert "handfast: error: this Python has no ensurepip" in result.stderr
    assert "handfast: hint: apt-get install python3-venv" in result.stderr


def test_an_old_python_is_told_so(checkout: Checkout) -> None:
    """Python 3.6 can parse the scripts, and gets a sentence instead of a syntax error."""
    for name in SCRIPTS:
        ast.parse((ROOT / name).read_text(), feature_version=(3, 6))
    result = pretend(checkout, "sys.version_info = (3, 6, 9)")
    assert (result.returncode, result.stdout) == (1, "")
    assert "needs Python 3.11 or newer" in result.stderr
    assert not checkout.venv.exists()


@pytest.mark.slow
def test_the_real_lock_installs_by_pip(tmp_path: Path, checkout: Checkout) -> None:
    """Every locked package has a wheel for this machine, and Handfast imports with nothing else installed."""
    shutil.copy2(ROOT / "requirements.lock", checkout.lock)
    checkout.uv.unlink()
    shutil.rmtree(checkout.root / "src")
    shutil.copytree(ROOT / "src", checkout.root / "src", ignore=shutil.ignore_patterns("__pycache__"))
    result = checkout.run("--version")
    assert result.returncode == 0, result.stderr
    assert "handfast" in result.stdout
