"""Real processes: a registrar as `handfast up` runs it, and commands as people type them."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import msgspec

from handfast.core.invitation import Address, InvitationLine
from tests.architecture.sources import ROOT


def environment(**added: str) -> dict[str, str]:
    """Our environment without anything of Handfast's, with the sources on the path."""
    clean = {key: value for key, value in os.environ.items() if not key.startswith("HANDFAST_")}
    return clean | {"PYTHONPATH": os.pathsep.join([str(ROOT / "src"), str(ROOT)])} | added


def run(*arguments: str, stdin: str = "", **added: str) -> subprocess.CompletedProcess[str]:
    """Run a command to its end; an invitation and the like come by ``stdin`` or ``added`` variables."""
    return subprocess.run(
        [sys.executable, "-m", "handfast", *arguments],
        input=stdin,
        env=environment(**added),
        capture_output=True,
        text=True,
        timeout=50,
        check=False,
    )


@dataclass
class Registrar:
    """A registrar's process over ``data``; ``log`` is its stderr."""

    data: Path
    log: Path
    process: subprocess.Popen[bytes] | None = None

    @classmethod
    def new(cls, directory: Path) -> Registrar:
        """Not started yet."""
        return cls(directory / "data", directory / "registrar.log")

    def start(self, *more: str, **added: str) -> Self:
        """Run until ``stop``; returns when it is ready."""
        command = [sys.executable, "-m", "handfast", "up", "--data", str(self.data), "--json"]
        command += ["--listen", "127.0.0.1:0", *more]
        with self.log.open("ab") as log:
            self.process = subprocess.Popen(command, stdout=subprocess.PIPE, stderr=log, env=environment(**added))
        assert self.process.stdout is not None
        line = self.process.stdout.readline()
        assert line, self.log.read_text()
        self.ready: dict[str, Any] = msgspec.json.decode(line)
        return self

    def stop(self) -> None:
        """End it, if it still runs."""
        if self.process is not None:
            self.process.terminate()
            self.process.wait(30)
            assert self.process.stdout is not None
            self.process.stdout.close()
            self.process = None

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.stop()

    @property
    def address(self) -> Address:
        """Where it listens."""
        return Address.parse(self.ready["listen"])

    def invite(self, name: str = "web1.lan", *more: str) -> InvitationLine:
        """What the operator hands over."""
        done = run("invite", name, "--data", str(self.data), *more)
        assert done.returncode == 0, done.stderr
        return InvitationLine.parse(done.stdout)

    def show(self, name: str = "web1.lan") -> dict[str, Any]:
        """What the operator sees."""
        done = run("show", name, "--data", str(self.data), "--json")
        assert done.returncode == 0, done.stderr
        return dict(msgspec.json.decode(done.stdout))
