"""What `./test` runs, inside the development environment. See `./test --help`."""

from __future__ import annotations

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
BIN = Path(sys.prefix, "bin")
CACHE = Path(sys.prefix, "cache")  # not in the checkout: it may be read-only, or another user's and we root

sys.path.insert(0, str(ROOT))
from tests import peers  # noqa: E402 - an isolated Python has to be told where we are

LINTERS = {
    "ruff check": ["ruff", "check", "--quiet"],
    "ruff format": ["ruff", "format", "--check", "--quiet"],
    "mypy": ["mypy", "--no-error-summary"],
    "lint-imports": ["lint-imports", "--no-logo", "--cache-dir", str(CACHE / "imports")],
}
PYTEST = ["-m", "pytest", "-n", "2", "--dist", "worksteal"]


def main() -> int:
    """Run the stages that the arguments ask for; return 0 when every one of them passed."""
    arguments = [a for a in sys.argv[1:] if a not in ("--all", "--fast")]
    everything = "--all" in sys.argv
    whole = not arguments and "--fast" not in sys.argv
    os.chdir(ROOT)
    if everything and not install_peers():
        return 2
    with tempfile.TemporaryDirectory(prefix="handfast-test-") as scratch:
        skipped = Path(scratch, "skipped")
        env = environment() | {"HANDFAST_TEST_SKIPPED": str(skipped), "COVERAGE_FILE": f"{scratch}/coverage"}
        env |= {"HANDFAST_TEST_ALL": "1"} if everything else {}
        failed = []
        if whole:
            failed = [name for name, command in LINTERS.items() if not lint(name, command, env)]
            failed += [] if run("pytest", [str(BIN / "coverage"), "run", *PYTEST], env) else ["pytest"]
            report_coverage(env)
        else:
            chosen = ["-m", "pytest", *arguments] if arguments else PYTEST
            failed += [] if run("pytest", [sys.executable, *chosen], env) else ["pytest"]
        if failed:
            print("FAILED: " + ", ".join(failed))
        if skipped.exists():
            print(skipped.read_text(), end="")
    return 1 if failed else 0


def environment() -> dict[str, str]:
    """The environment of every stage: our tools first, and no cache in the checkout."""
    env = os.environ | {
        "PATH": f"{BIN}{os.pathsep}{os.environ.get('PATH', os.defpath)}",
        "HYPOTHESIS_STORAGE_DIRECTORY": str(CACHE / "hypothesis"),
        "MYPY_CACHE_DIR": str(CACHE / "mypy"),
        "RUFF_CACHE_DIR": str(CACHE / "ruff"),
        "PYTEST_ADDOPTS": f"-o cache_dir={CACHE / 'pytest'}",
    }
    return env | ({"PYTHONPYCACHEPREFIX": sys.pycache_prefix} if sys.pycache_prefix else {})


def lint(name: str, command: list[str], env: dict[str, str]) -> bool:
    """Run a linter, showing what it says only when it complains. Return whether it was content."""
    started = time.monotonic()
    result = subprocess.run([str(BIN / command[0]), *command[1:]], env=env, capture_output=True, text=True, check=False)
    good = result.returncode == 0
    if not good:
        print(result.stdout + result.stderr)
    print(f"{name}: {'ok' if good else 'FAILED'} ({time.monotonic() - started:.1f} s)", flush=True)
    return good


def run(name: str, command: list[str], env: dict[str, str]) -> bool:
    """Run a stage that shows its own progress. Return whether it passed."""
    started = time.monotonic()
    good = subprocess.run(command, env=env, check=False).returncode == 0
    print(f"{name}: {'ok' if good else 'FAILED'} ({time.monotonic() - started:.1f} s)", flush=True)
    return good


def report_coverage(env: dict[str, str]) -> None:
    """Say the total; the table by file is `coverage report`'s, for who wants it."""
    coverage = str(BIN / "coverage")
    subprocess.run([coverage, "combine", "--quiet"], env=env, check=False)
    report = [coverage, "report", "--format=total", "--ignore-errors"]
    total = subprocess.run(report, env=env, capture_output=True, text=True, check=False).stdout.strip()
    print(f"coverage: {total or '?'} % of lines and branches")


def install_peers() -> bool:
    """Install by apt the programs that are not here. Return False, having said why, where that cannot be done."""
    missing = peers.missing()
    if os.geteuid() != 0:
        complain("--all makes network namespaces and installs programs, which takes root", "sudo ./test --all")
        return False
    if missing:
        print("installing " + " ".join(missing), flush=True)
        apt = ["apt-get", "-y", "-qq", "--no-install-recommends", "install", *missing]
        env = os.environ | {"DEBIAN_FRONTEND": "noninteractive"}
        if subprocess.run(apt, env=env, stdout=subprocess.DEVNULL, check=False).returncode != 0:
            subprocess.run(["apt-get", "-qq", "update"], check=False)
            subprocess.run(apt, env=env, stdout=subprocess.DEVNULL, check=False)
    for package in peers.missing(unpacked=True):
        unpack(package)
    peers.find.cache_clear()
    if missing := peers.missing() + peers.missing(unpacked=True):
        complain(f"could not install {' '.join(missing)}", "install the programs by hand where there is no apt")
    return not missing


def unpack(package: str) -> None:
    """Unpack a package that must not be installed; what becomes of it shows when it is looked for."""
    target = peers.UNPACKED / package
    target.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory() as scratch:
        # It warns that it downloads as root, which is who asked.
        apt = ["apt-get", "-qq", "download", package]
        subprocess.run(apt, cwd=scratch, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, check=False)
        for archive in Path(scratch).glob("*.deb"):
            subprocess.run(["dpkg-deb", "--extract", str(archive), str(target)], check=False)


def complain(message: str, hint: str) -> None:
    """Say what is wrong as the program itself would."""
    print(f"test: error: {message}\ntest: hint: {hint}", file=sys.stderr)


if __name__ == "__main__":
    sys.exit(main())
