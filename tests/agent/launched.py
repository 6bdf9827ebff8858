"""
A machine as a cloud has launched it: `unshare --net --mount python launched.py '{"metadata": …}' COMMAND…`.

In namespaces of its own there is a metadata service at its link-local address, a command line of the kernel, and seeds
of cloud-init; then the command runs, and its exit code is ours. SIGTERM is passed on to it.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import tempfile
import threading
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

LINK_LOCAL = "169.254.169.254"
TOKEN = "a-token-of-version-2"


def serve(answers: dict[str, str], *, with_token: bool) -> None:
    """Be the metadata service; with a token, for nobody who has not asked for one by PUT."""

    class Handler(BaseHTTPRequestHandler):
        def _say(self, status: int, text: str) -> None:
            self.send_response(status)
            self.send_header("Content-Length", str(len(text.encode())))
            self.end_headers()
            self.wfile.write(text.encode())

        def do_PUT(self) -> None:
            asks = (
                with_token
                and self.path == "/latest/api/token"
                and "X-aws-ec2-metadata-token-ttl-seconds" in self.headers
            )
            self._say(*(200, TOKEN) if asks else (403, ""))

        def do_GET(self) -> None:
            if with_token and self.headers["X-aws-ec2-metadata-token"] != TOKEN:
                self._say(401, "")
            elif self.path in answers:
                self._say(200, answers[self.path])
            else:
                self._say(404, "")

        def log_message(self, *_: object) -> None:
            """Say nothing."""

    server = ThreadingHTTPServer((LINK_LOCAL, 80), Handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()


def main() -> int:
    """Make the machine, and run the command there."""
    asked, command = json.loads(sys.argv[1]), sys.argv[2:]
    for line in (["link", "set", "lo", "up"], ["address", "add", f"{LINK_LOCAL}/32", "dev", "lo"]):
        subprocess.run(["ip", *line], check=True)
    if "metadata" in asked:
        serve(asked["metadata"], with_token=asked["token"])
    with tempfile.TemporaryDirectory() as scratch:
        said = Path(scratch, "cmdline")
        said.write_text(asked.get("cmdline", "quiet") + "\n")
        subprocess.run(["mount", "--bind", said, "/proc/cmdline"], check=True)
        subprocess.run(["mount", "-t", "tmpfs", "tmpfs", "/var/lib"], check=True)
        if "seed" in asked:
            seed = Path("/var/lib/cloud/seed/nocloud")
            seed.mkdir(parents=True)
            for name, text in asked["seed"].items():
                (seed / name).write_text(text)
                (seed / name).chmod(0o600)
        process = subprocess.Popen(command)
        signal.signal(signal.SIGTERM, lambda *_: os.kill(process.pid, signal.SIGTERM))
        return process.wait()


if __name__ == "__main__":
    sys.exit(main())
