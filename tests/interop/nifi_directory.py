"""A directory in which `tls-toolkit server` runs as a process, on loopback, and what it left there."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from cryptography import x509

from handfast.core import javastore
from handfast.core.secret import Secret
from handfast.nifi.stores import find_key
from tests.interop.hosts import HANDFAST, Done, Host, Process
from tests.server.nifi_peer import Node, context

TOKEN = "correct horse battery staple"
LOCAL = "CN=localhost, OU=NIFI"
STORE = "nifi-ca-keystore.jks"
_IN = ("sh", "-c", 'umask 077 && mkdir -p "$0" && cd "$0" && exec "$@"')


@dataclass(frozen=True)
class Directory:
    """Where a server runs; its registrar's data is beside it."""

    host: Host
    path: Path
    port: int

    def command(self, *flags: str | Path, data: Path | None = None) -> tuple[str | Path, ...]:
        """The command line that serves here, on loopback."""
        listen = ("--listen", f"127.0.0.1:{self.port}", "--data", data or self.data)
        return (*_IN, self.path, *HANDFAST, "tls-toolkit", "server", *listen, *flags)

    def start(self, *flags: str | Path, data: Path | None = None) -> Process:
        """Start it, and wait until it says so."""
        process = self.host.start(*self.command(*flags, data=data))
        process.expect("Server Started")
        return process

    def fails(self, *flags: str | Path, code: int = 3, data: Path | None = None) -> Done:
        """Run what has to fail."""
        return self.host.run(*self.command(*flags, data=data), code=code)

    @property
    def data(self) -> Path:
        """The registrar's directory."""
        return self.path.with_name(f"{self.path.name}-data")

    @property
    def config(self) -> dict[str, Any]:
        """What config.json says."""
        content: dict[str, Any] = json.loads((self.path / "config.json").read_bytes())
        return content

    def change(self, **fields: Any) -> None:
        """Write other values into config.json."""
        (self.path / "config.json").write_text(json.dumps(self.config | fields))

    def root(self, store: str = STORE) -> x509.Certificate:
        """The CA in the key store."""
        password, key_password = (Secret(self.config[name].encode()) for name in ("keyStorePassword", "keyPassword"))
        entries = javastore.read((self.path / store).read_bytes(), password=password, key_password=key_password)
        found = find_key(entries)
        assert found is not None
        key, (certificate,) = found
        assert key.public_key() == certificate.public_key()
        return certificate

    def enrol(self, token: str = TOKEN, subject: str = LOCAL) -> tuple[int, x509.Certificate]:
        """Ask as a node does; return the status, and the CA that was shown."""
        with Node(("127.0.0.1", self.port), context()) as node:
            answer = node.enrol(token, subject)
            root = x509.load_der_x509_certificate(node.leaf)
        if answer.status == 200:
            answer.certificate.verify_directly_issued_by(root)
        return answer.status, root

    def content(self) -> dict[str, bytes]:
        """All files here."""
        return {path.name: path.read_bytes() for path in self.path.iterdir()}
