"""A copy of this checkout as a clone has it, for tests that set it up, break it and start it."""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[2]

# Tells how it was started, instead of being Handfast: what is tested here ends where the program begins.
_STUB = '''"""A program that tells how it was started."""
import json, os, sys

def main():
    print(json.dumps({"argv": sys.argv[1:], "python": sys.executable, "path": sys.path}))
    sys.exit(int(os.environ.get("STUB_EXIT", "0")))
'''


def tracked_files() -> list[Path]:
    """What a clone holds, relative to the root: the files that git tracks, or would if they were added."""
    command = ["git", "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listing = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    return [Path(name) for name in listing.split("\0") if name and (ROOT / name).is_file()]


def copy_to(place: Path) -> None:
    """Copy the tracked files to ``place``."""
    for name in tracked_files():
        (place / name).parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / name, place / name)


class Checkout:
    """
    The set-up scripts in a directory of their own, with one small requirement and a program that tells.

    Commands see a PATH of exactly ``bin``: python3, and uv unless it is taken away.
    """

    def __init__(self, place: Path) -> None:
        self.root = place / "checkout"
        self.bin = place / "bin"
        self.home = place / "home"
        for name in ("handfast", "tools/bootstrap.py", "src/handfast/__init__.py", "src/handfast/__main__.py"):
            (self.root / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copy2(ROOT / name, self.root / name)
        (self.root / "src/handfast/cli").mkdir()
        (self.root / "src/handfast/cli/main.py").write_text(_STUB)
        self.lock.write_text(self._one_requirement("segno"))
        self.bin.mkdir()
        self.home.mkdir()
        (self.bin / "python3").symlink_to(Path(sys.executable).resolve())
        self.uv.symlink_to(Path(sys.prefix, "bin", "uv"))

    @staticmethod
    def _one_requirement(name: str) -> str:
        text = (ROOT / "requirements.lock").read_text()
        start = text.index(f"\n{name}==") + 1
        return text[start : text.index("    # via", start)]

    @property
    def lock(self) -> Path:
        """The locked requirements."""
        return self.root / "requirements.lock"

    @property
    def uv(self) -> Path:
        """The only uv that commands see."""
        return self.bin / "uv"

    @property
    def venv(self) -> Path:
        """Where the environment belongs."""
        return self.root / ".venv"

    @property
    def stamp(self) -> Path:
        """What says that the environment is complete."""
        return self.venv / "handfast.stamp"

    def hold_uv(self) -> None:
        """Make uv say that it has begun (a file ``begun``), and wait for a file ``go``."""
        script = f"""#!/bin/sh
            echo >> {self.home}/begun
            while [ ! -e {self.home}/go ]; do /bin/sleep 0.05; done
            exec {self.uv.readlink()} "$@"
            """
        self.uv.unlink()
        self.uv.write_text(script.replace("\n            ", "\n"))
        self.uv.chmod(0o755)

    def environment(self, **more: str) -> dict[str, str]:
        """The commands' environment: this machine's proxies and certificates, our PATH and HOME, no Python settings."""
        kept = {k: v for k, v in os.environ.items() if not k.startswith(("PYTHON", "HANDFAST", "COVERAGE", "XDG"))}
        # uv's store of wheels is shared between tests, as it is between a user's checkouts.
        store = {"UV_CACHE_DIR": str(Path(sys.prefix, "cache", "uv"))}
        return kept | store | {"PATH": str(self.bin), "HOME": str(self.home)} | more

    def start(self, *command: str, **more: str) -> subprocess.Popen[str]:
        """Start ``command`` in a session of its own, with pipes."""
        pipe = subprocess.PIPE
        return subprocess.Popen(
            command, cwd=self.home, env=self.environment(**more), stdout=pipe, stderr=pipe, text=True, process_group=0
        )

    def run(self, *arguments: str, prefix: tuple[str, ...] = (), **more: str) -> subprocess.CompletedProcess[str]:
        """Run ``./handfast ARGUMENTS`` from another directory, after the words of ``prefix`` if any."""
        command = [*prefix, str(self.root / "handfast"), *arguments]
        with self.start(*command, **more) as process:
            out, err = process.communicate()
        return subprocess.CompletedProcess(command, process.returncode, out, err)

    def told(self, *arguments: str, **more: str) -> dict[str, Any]:
        """Run, expect success and nothing but the program's line on stdout; return how it was started."""
        result = self.run(*arguments, prefix=(), **more)
        assert result.returncode == 0, result.stderr
        told = json.loads(result.stdout)
        assert isinstance(told, dict)
        return told
