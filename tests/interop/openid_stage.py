"""A real OpenID provider (glewlwyd, with its device flow) on loopback, and a person's browser as requests to it."""

from __future__ import annotations

import gzip
import json
import socket
import sqlite3
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.error import HTTPError
from urllib.parse import parse_qs, urlsplit
from urllib.request import HTTPCookieProcessor, HTTPRedirectHandler, Request, build_opener

from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, PublicFormat

from tests.interop.hosts import program

CLIENT = "handfast"
ADMIN = ("admin", "password")  # as its package has it
PASSWORD = "correct horse battery"
INTERVAL = 1  # seconds
_ALWAYS: dict[str, Any] = {"mandatory": True, "scope": []}
_VERIFIED = {
    "name": "email_verified",
    "user-property": "email_verified",
    "type": "boolean",
    "boolean-value-true": "yes",
    "boolean-value-false": "no",
} | _ALWAYS
# It is not installed: its package brings a service with a known password. What it is linked with is.
NEEDED = ("glewlwyd", "libcbor", "libconfig", "libhoel", "libiddawc", "liboath")
_SQL = "usr/share/doc/glewlwyd/database/init.sqlite3.sql.gz"
_CONFIG = """
port={port}
bind_address="127.0.0.1"
external_url="http://localhost:{port}"
login_url="login.html"
api_prefix="api"
cookie_secure=0
cookie_same_site="empty"
log_mode="file"
log_level="DEBUG"
log_file="{directory}/log"
session_expiration=3600
session_key="GLEWLWYD2_SESSION_ID"
admin_scope="g_admin"
profile_scope="g_profile"
user_module_path="{home}/usr/lib/glewlwyd/user"
client_module_path="{home}/usr/lib/glewlwyd/client"
user_auth_scheme_module_path="{home}/usr/lib/glewlwyd/scheme"
plugin_module_path="{home}/usr/lib/glewlwyd/plugin"
hash_algorithm="SHA512"
database =
{{
  type = "sqlite3"
  path = "{directory}/db"
}};
"""


class _NoRedirect(HTTPRedirectHandler):
    """Where it leads is looked at, and not followed."""

    def redirect_request(self, *_: Any) -> None:
        """Give the redirect itself to whoever asked."""
        return


class Browser:
    """Somebody with cookies."""

    def __init__(self) -> None:
        self._opener = build_opener(HTTPCookieProcessor(), _NoRedirect())

    def ask(self, method: str, url: str, body: dict[str, Any]) -> bytes:
        """Send JSON; it has to be taken."""
        request = Request(url, json.dumps(body).encode(), {"Content-Type": "application/json"}, method=method)
        try:
            with self._opener.open(request, timeout=30) as answer:
                return bytes(answer.read())
        except HTTPError as error:
            raise AssertionError(f"{url}: {error.code} {error.read().decode()}") from None

    def led(self, url: str) -> str:
        """Open a page that leads to another; return where."""
        try:
            self._opener.open(url, timeout=30).close()
        except HTTPError as error:
            with error:
                return str(error.headers["Location"])
        raise AssertionError(f"{url} leads nowhere")


@dataclass
class OpenId:
    """The provider as its operator and its users meet it."""

    port: int
    admin: Browser = field(default_factory=Browser)

    @property
    def issuer(self) -> str:
        """As it says of itself."""
        return f"http://localhost:{self.port}/api/oidc"

    def api(self, method: str, path: str, **body: Any) -> None:
        """Ask its API as its operator."""
        self.admin.ask(method, f"http://localhost:{self.port}/api/{path}", body)

    def add_user(self, username: str, **properties: Any) -> None:
        """Add somebody who may use the client."""
        scopes = ["g_profile", "openid", "email"]
        self.api("POST", "user/", username=username, password=PASSWORD, enabled=True, scope=scopes, **properties)

    def allow(self, url: str, user: str, *, scopes: str = "openid email") -> None:
        """Do what ``user`` does in a browser: open what the device shows, log in, and allow the client."""
        browser = Browser()
        browser.ask("POST", f"http://localhost:{self.port}/api/auth/", {"username": user, "password": PASSWORD})
        browser.ask("PUT", f"http://localhost:{self.port}/api/auth/grant/{CLIENT}", {"scope": scopes})
        callback = parse_qs(urlsplit(browser.led(url)).query)["callback_url"][0]
        done = browser.led(f"{callback}&g_continue")  # its page's button "continue"
        assert "prompt=deviceComplete" in done, done


@contextmanager
def openid_provider(directory: Path) -> Iterator[OpenId]:
    """A running provider with one client, which may use the device flow, and no user but its administrator."""
    directory.mkdir()
    binary = Path(program("glewlwyd"))
    home = binary.parents[2]
    with sqlite3.connect(directory / "db") as database:
        database.executescript(gzip.decompress((home / _SQL).read_bytes()).decode())
        _more_properties(database)
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    config = directory / "config"
    config.write_text(_CONFIG.format(port=port, directory=directory, home=home))
    process = subprocess.Popen([binary, "--config-file", str(config)], cwd=directory)
    try:
        provider = OpenId(port)
        _wait(process, port, directory)
        _configure(provider)
        yield provider
    finally:
        process.terminate()
        process.wait()


def _more_properties(database: sqlite3.Connection) -> None:
    """Let users have whether their e-mail address was verified, and groups."""
    name = "database"
    (text,) = database.execute(
        "SELECT gumi_parameters FROM g_user_module_instance WHERE gumi_name = ?", (name,)
    ).fetchone()
    parameters = json.loads(text)
    for each, multiple in (("email_verified", False), ("groups", True)):
        parameters["data-format"][each] = {"multiple": multiple, "read": True, "write": True}
    database.execute(
        "UPDATE g_user_module_instance SET gumi_parameters = ? WHERE gumi_name = ?", (json.dumps(parameters), name)
    )


def _wait(process: subprocess.Popen[bytes], port: int, directory: Path) -> None:
    deadline = time.monotonic() + 60
    while time.monotonic() < deadline and process.poll() is None:
        try:
            socket.create_connection(("127.0.0.1", port), 1).close()
            return
        except OSError:
            time.sleep(0.05)
    raise AssertionError((directory / "log").read_text())


def _configure(provider: OpenId) -> None:
    login = {"username": ADMIN[0], "password": ADMIN[1]}
    provider.api("POST", "auth/", **login)
    provider.api("POST", "scope/", name="email", display_name="E-mail", password_required=False, scheme={})
    provider.api(
        "POST",
        "mod/plugin/",
        module="oidc",
        name="oidc",
        display_name="oidc",
        enabled=True,
        parameters=_parameters(provider.issuer, ec.generate_private_key(ec.SECP256R1())),
    )
    provider.api(
        "POST",
        "client/",
        client_id=CLIENT,
        name="Handfast",
        confidential=False,
        enabled=True,
        authorization_type=["device_authorization"],
        redirect_uri=[],
    )


def _parameters(issuer: str, key: ec.EllipticCurvePrivateKey) -> dict[str, Any]:
    """The device flow and no other, and what its tokens say."""
    flows = ("code", "token", "id-token", "none", "password", "client", "refresh")
    return {f"auth-type-{flow}-enabled": False for flow in flows} | {
        "iss": issuer,
        "jwt-type": "ecdsa",
        "jwt-key-size": "256",
        "key": key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode(),
        "cert": key.public_key().public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo).decode(),
        "access-token-duration": 3600,
        "refresh-token-duration": 3600,
        "code-duration": 600,
        "refresh-token-rolling": False,
        "allow-non-oidc": False,
        "auth-type-device-enabled": True,
        "device-authorization-expiration": 600,
        "device-authorization-interval": INTERVAL,
        "jwks-show": True,
        "email-claim": "mandatory",
        "email-claim-scope": [],
        "name-claim": "no",
        "scope-claim": "no",
        "subject-type": "public",
        "claims": [_VERIFIED, {"name": "groups", "user-property": "groups", "type": "string"} | _ALWAYS],
    }
