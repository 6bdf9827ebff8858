"""A node: a directory in which the toolkit's commands are run as they are typed, in this process."""

from __future__ import annotations

import json
import stat
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest

from handfast.cli.main import run
from handfast.core import javastore
from handfast.core.secret import Secret
from tests.nifi.fake_ca import TOKEN, FakeCa

FILES = {"keystore.jks", "truststore.jks", "config.json", "nifi-cert.pem", "nifi-chain.pem", "nifi-key.pem"}


@dataclass(frozen=True)
class Done:
    """How a command ended, and what it said."""

    code: int
    stdout: str
    stderr: str


class Node:
    """Runs commands in a directory, and looks at what they left."""

    def __init__(self, directory: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
        self.directory, self._patch, self._capsys = directory, monkeypatch, capsys
        monkeypatch.chdir(directory)

    def run(self, *arguments: str | Path) -> Done:
        """Run ``handfast tls-toolkit``."""
        self._capsys.readouterr()
        code = run(["tls-toolkit", *map(str, arguments)])
        out, err = self._capsys.readouterr()
        return Done(code, out, err)

    def client(self, ca: FakeCa | int, *arguments: str, token: str | None = TOKEN) -> Done:
        """Run ``client`` against a CA; the token comes from a file."""
        port = ca if isinstance(ca, int) else ca.port
        common = ["-p", str(port), "--wait", "0"]
        if token is not None:
            common += ["--token-file", str(self.secret(token))]
        return self.run("client", *arguments, *common)  # of two values the first counts

    def secret(self, text: str, name: str = "../token") -> Path:
        """Write a private file."""
        path = self.directory / name
        path.write_text(text)
        path.chmod(0o600)
        return path

    def files(self) -> set[str]:
        """The files here, but the lock."""
        return {path.name for path in self.directory.iterdir()} - {".tls-toolkit.lock"}

    def modes(self) -> set[int]:
        """The modes of all files here."""
        return {stat.S_IMODE(path.stat().st_mode) for path in self.directory.iterdir()}

    def config(self, name: str = "config.json") -> dict[str, Any]:
        """What the configuration says."""
        content: dict[str, Any] = json.loads((self.directory / name).read_bytes())
        return content

    def entries(self, store: str = "keystore.jks", which: str = "keyStore") -> tuple[javastore.Entry, ...]:
        """Open a store with the passwords of the configuration."""
        config = self.config()
        return javastore.read(
            (self.directory / store).read_bytes(),
            password=Secret(config[f"{which}Password"].encode()),
            key_password=Secret(config["keyPassword"].encode()) if which == "keyStore" else None,
        )
