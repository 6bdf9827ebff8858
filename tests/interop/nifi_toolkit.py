"""
Apache NiFi's TLS toolkit as a peer, in the releases which differ on the wire or in what they issue.

Its server listens on every address: give it a host with a network namespace of its own, never this machine.
What it logs depends on the libraries it came with, and is no part of its interface.
"""

from __future__ import annotations

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from tests.interop.hosts import Done, Host, Process, program

# The last release; the last with the old builder of certificates; and one of TLS 1.2 alone.
VERSIONS = ("1.28.1", "1.23.2", "1.11.4")
TOKEN = "a token of more than 16 bytes"
# One processor's worth of start-up, not a server's.
JAVA = ("java", "-Xshare:auto", "-XX:TieredStopAtLevel=1", "-XX:+UseSerialGC", "-Xmx256m")
_MAIN = "org.apache.nifi.toolkit.tls.TlsToolkitMain"
# The original's script sets the umask; everything is written to the current directory.
_IN = ("sh", "-c", 'umask 077 && mkdir -p "$0" && cd "$0" && exec "$@"')


@dataclass(frozen=True, slots=True)
class Toolkit:
    """One release of the toolkit on a host. The test has the marker ``peer("nifi-toolkit-<version>")``."""

    version: str
    host: Host
    names: Mapping[str, str]
    """What the name service would say there, name to address, beside its own. Empty is the system's."""

    def run(
        self, where: str, *arguments: str | Path, code: int | None = 0, env: Mapping[str, str] | None = None
    ) -> Done:
        """Run ``client``, ``standalone`` or ``status`` (or what is none of them) in the directory ``where``."""
        return self.host.run(*self._command(where, arguments), code=code, env=env)

    def serve(self, where: str, *arguments: str | Path) -> Process:
        """Start ``server`` in the directory ``where``, and return it when it listens."""
        process = self.host.start(*self._command(where, ("server", *arguments)))
        process.expect("Server Started")
        return process

    def path(self, where: str) -> Path:
        """Return the directory ``where``."""
        return self.host.directory / where

    def files(self, where: str) -> set[str]:
        """Return the files there, as paths relative to it."""
        top = self.path(where)
        return {str(path.relative_to(top)) for path in top.rglob("*") if path.is_file()}

    def _command(self, where: str, arguments: tuple[str | Path, ...]) -> tuple[str | Path, ...]:
        home = Path(program(f"nifi-toolkit-{self.version}")).parents[1]
        names: tuple[str, ...] = ()
        if self.names:
            # The toolkit asks for its own address first of all, and falls over its logger when there is none.
            names_here = {socket.gethostname(): "127.0.0.1", "localhost": "127.0.0.1", **self.names}
            lines = "".join(f"{address} {name}\n" for name, address in names_here.items())
            names = (f"-Djdk.net.hosts.file={self.host.put('names', lines)}",)
        classes = f"{home}/classpath:{home}/lib/*"
        return (*_IN, self.path(where), *JAVA, *names, "-cp", classes, _MAIN, *arguments)
