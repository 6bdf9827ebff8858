"""
A stand-in for Google's metadata server, on its own address in a machine's network: user-data, id, guest attributes.

`metadata_stage.py USER-DATA ATTRIBUTES [closed]`: guest attributes are in the file ATTRIBUTES as `gcloud` prints them;
closed, they are not enabled. It says each request on a line. Like the original it answers nobody without the header.
"""

from __future__ import annotations

import json
import sys
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path

PLACE = "/computeMetadata/v1/instance"
ID = "7312093"


class Handler(BaseHTTPRequestHandler):
    """Answers one request."""

    user_data: Path
    attributes: Path
    closed = False

    def do_GET(self) -> None:
        """Answer what a machine asks of itself."""
        known = {f"{PLACE}/id": ID.encode(), f"{PLACE}/attributes/user-data": self.user_data.read_bytes()}
        self._answer(404 if self.path not in known else 200, known.get(self.path, b""))

    def do_PUT(self) -> None:
        """Take a guest attribute; a second value replaces the first."""
        value = self.rfile.read(int(self.headers["Content-Length"])).decode()
        parts = self.path.removeprefix(f"{PLACE}/guest-attributes/").split("/")
        if self.closed or len(parts) != 2:
            self._answer(403, b"")
            return
        if self.headers["Metadata-Flavor"] == "Google":
            kept = {"namespace": parts[0], "key": parts[1], "value": value}
            self.attributes.write_text(json.dumps([kept], indent=2, sort_keys=True))
        self._answer(200, b"")

    def _answer(self, status: int, body: bytes) -> None:
        if self.headers["Metadata-Flavor"] != "Google":
            status, body = 403, b""
        self.send_response(status)
        self.send_header("Metadata-Flavor", "Google")
        self.send_header("Content-Length", str(len(body)))
        self.end_headers()
        self.wfile.write(body)
        print(self.command, self.path, status, flush=True)

    def log_message(self, *_: object) -> None:
        """Nothing: what matters is said on stdout."""


if __name__ == "__main__":
    Handler.user_data, Handler.attributes = map(Path, sys.argv[1:3])
    Handler.closed = sys.argv[3:] == ["closed"]
    with ThreadingHTTPServer(("169.254.169.254", 80), Handler) as server:
        print("ready", flush=True)
        server.serve_forever()
