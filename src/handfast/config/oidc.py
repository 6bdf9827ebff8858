"""The tables ``[[oidc]]`` of ``config.toml``: which OpenID providers may say who people are."""

from __future__ import annotations

import re
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from handfast.adapters.files import read_private
from handfast.config.reader import Reader, each
from handfast.core import openid
from handfast.core.openid import Provider
from handfast.core.secret import Secret
from handfast.errors import Malformed
from handfast.policy.rules import UserRule

MOST_PROVIDERS = 16
_MAX_SECRET = 4096  # bytes
_ORIGIN = "oidc:"
_SCOPE = re.compile(r"[\x21\x23-\x5b\x5d-\x7e]{1,64}", re.ASCII)  # RFC 6749 §3.3
_CLIENT = re.compile(r"[\x20-\x7e]{1,255}", re.ASCII)  # RFC 6749 appendix A.1


def providers(reader: Reader) -> tuple[Provider, ...]:
    """Read every ``[[oidc]]``: their names are unique, and ``name``, ``issuer`` and ``client_id`` are there."""
    tables = reader.tables("oidc")
    if len(tables) > MOST_PROVIDERS:
        reader.mistake("oidc", f"{len(tables)} providers, at most {MOST_PROVIDERS}")
    found = [provider for table in tables if (provider := _provider(table)) is not None]
    names = [provider.name for provider in found]
    for name in {name for name in names if names.count(name) > 1}:
        reader.mistake("oidc", f"two providers are called {name!r}")
    return tuple(found)


def check_origins(reader: Reader, users: Sequence[UserRule], known: Sequence[Provider]) -> None:
    """Remember each rule for people of a provider that is not there: it would be for nobody, and nobody would know."""
    names = {f"{_ORIGIN}{provider.name}" for provider in known}
    for number, rule in enumerate(users, 1):
        for origin in sorted(rule.origins - names):
            if origin.startswith(_ORIGIN):
                reader.mistake(f"ssh.users[{number}].origins", f"{origin!r}, and no such provider in [[oidc]]")


def _provider(table: Reader) -> Provider | None:
    for key in ("name", "issuer", "client_id"):
        if not table.has(key):
            table.mistake(key, "is missing")
    name = table.take("name", openid.check_name, None)
    issuer = table.take("issuer", openid.check_url, None)
    client_id = table.take("client_id", _client, None)
    scopes = table.take("scopes", _scopes, openid.SCOPES)
    secret = table.take("client_secret_file", _secret, None)
    if name is None or issuer is None or client_id is None:
        return None
    return Provider(name, issuer, client_id, scopes, secret)


def _client(text: str) -> str:
    if not _CLIENT.fullmatch(text):
        raise Malformed(f"not a client id: {text[:80]!r}")
    return text


def _secret(file: str) -> Secret:
    # Not from the environment, as others are: there may be several providers.
    text = read_private(Path(file), limit=_MAX_SECRET).strip()
    if not re.fullmatch(rb"[\x20-\x7e]{1,255}", text):  # RFC 6749 appendix A.2
        raise Malformed(f"no client secret in {file!r}")
    return Secret(text)


def _scopes(values: Any) -> tuple[str, ...]:
    found: tuple[str, ...] = each(str)(values)
    for scope in found:
        if not _SCOPE.fullmatch(scope):
            raise Malformed(f"not a scope: {scope[:80]!r}")
    if "openid" not in found:
        raise Malformed("'openid' is not among the scopes: without it there is no ID token")
    return found
