"""A provider that says whatever a test wants, on loopback: real HTTP, and nothing else that is honest."""

from __future__ import annotations

import json
import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any
from urllib.parse import parse_qs

from handfast.core.openid import ProviderView

METADATA, KEYS, DEVICE, TOKEN = "/.well-known/openid-configuration", "/keys", "/device", "/token"


@dataclass(frozen=True)
class Said:
    """One answer: JSON of any value, or bytes as they are."""

    body: Any
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)


@dataclass
class Scripted:
    """Answers by path, each list from the front; the last one stays. ``asked`` is what came."""

    issuer: str
    answers: dict[str, list[Said | Callable[[], Said]]]
    asked: list[tuple[str, dict[str, str]]] = field(default_factory=list)

    @property
    def view(self) -> ProviderView:
        """As a registrar would tell of it."""
        return ProviderView("corp", self.issuer, "handfast", ["openid", "email"])

    def paths(self) -> list[str]:
        """Which paths were asked for."""
        return [path for path, _ in self.asked]

    def answer(self, path: str, form: dict[str, str]) -> Said:
        """Take the next one."""
        self.asked.append((path, form))
        if path not in self.answers:
            return Said({"error": "not_found"}, 404)
        scripted = self.answers[path]
        said = scripted.pop(0) if len(scripted) > 1 else scripted[0]
        return said if isinstance(said, Said) else said()


def metadata(issuer: str, **changes: Any) -> Said:
    """An honest description of itself, with what is changed."""
    said = {
        "issuer": issuer,
        "jwks_uri": f"{issuer}{KEYS}",
        "token_endpoint": f"{issuer}{TOKEN}",
        "device_authorization_endpoint": f"{issuer}{DEVICE}",
    }
    return Said({name: value for name, value in (said | changes).items() if value is not None})


def device(**changes: Any) -> Said:
    """An honest answer to a device, with what is changed."""
    said = {
        "device_code": "a secret of the device",
        "user_code": "WDJB-MJHT",
        "verification_uri": "https://id.example.org/device",
        "verification_uri_complete": "https://id.example.org/device?code=WDJB-MJHT",
        "expires_in": 600,
        "interval": 1,
    }
    return Said({name: value for name, value in (said | changes).items() if value is not None})


def error(code: str, description: str = "") -> Said:
    """An error of OAuth (RFC 6749 §5.2)."""
    return Said({"error": code, "error_description": description}, 400)


@contextmanager
def provider(**answers: list[Said | Callable[[], Said]]) -> Iterator[Scripted]:
    """
    A provider that listens. Answers are by the names of the paths: ``metadata``, ``keys``, ``device``, ``token``.

    What is not said is honest, and the person allows it at once.
    """

    class Handler(BaseHTTPRequestHandler):
        protocol_version = "HTTP/1.1"

        def do_GET(self) -> None:
            self.reply()

        def do_POST(self) -> None:
            self.reply()

        def reply(self) -> None:
            sent = self.rfile.read(int(self.headers.get("Content-Length") or 0)).decode()
            form = {name: values[0] for name, values in parse_qs(sent).items()}
            said = scripted.answer(self.path, form)
            body = said.body if isinstance(said.body, bytes) else json.dumps(said.body).encode()
            self.send_response(said.status)
            for name, value in ({"Content-Length": str(len(body))} | said.headers).items():
                self.send_header(name, value)
            self.end_headers()
            try:
                self.wfile.write(body)
            except OSError:  # the other side had enough
                self.close_connection = True

        def log_message(self, *_: object) -> None:
            return

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as server:
        issuer = f"http://127.0.0.1:{server.server_port}"
        honest: dict[str, list[Said | Callable[[], Said]]] = {
            METADATA: [metadata(issuer)],
            DEVICE: [device()],
            TOKEN: [Said({"id_token": "a.b.c", "access_token": "x", "token_type": "Bearer"})],
        }
        names = {"metadata": METADATA, "keys": KEYS, "device": DEVICE, "token": TOKEN}
        scripted = Scripted(issuer, honest | {names[name]: list(said) for name, said in answers.items()})
        threading.Thread(target=server.serve_forever, args=(0.01,), daemon=True).start()
        try:
            yield scripted
        finally:
            server.shutdown()
