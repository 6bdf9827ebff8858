"""[[oidc]]: which providers, and every mistake that one can make about them."""

from __future__ import annotations

import os
from pathlib import Path

import pytest

from handfast.config import settings
from handfast.config.oidc import MOST_PROVIDERS
from handfast.core.openid import Provider, check_name, check_url, is_local, metadata_url
from handfast.errors import ConfigError, Malformed

GOOD = '[[oidc]]\nname = "corp"\nissuer = "https://id.example.org/realm"\nclient_id = "handfast"\n'


def read(tmp_path: Path, text: str) -> tuple[Provider, ...]:
    """What a file says of providers."""
    path = tmp_path / "config.toml"
    path.write_text(text)
    return settings.load(path).oidc


def mistakes(tmp_path: Path, text: str) -> str:
    """What is wrong with it."""
    with pytest.raises(ConfigError) as caught:
        read(tmp_path, text)
    return caught.value.message


def test_a_provider(tmp_path: Path) -> None:
    """Three words are enough; scopes and a secret may be added."""
    assert read(tmp_path, "") == ()
    assert read(tmp_path, GOOD) == (Provider("corp", "https://id.example.org/realm", "handfast", ("openid", "email")),)
    secret = tmp_path / "secret"
    secret.write_text("not so secret\n")
    secret.chmod(0o600)
    text = GOOD + f'scopes = ["openid", "profile", "groups"]\nclient_secret_file = "{secret}"\n'
    (found,) = read(tmp_path, text)
    assert found.scopes == ("openid", "profile", "groups")
    assert found.client_secret is not None
    assert found.client_secret.reveal() == b"not so secret"


def test_several(tmp_path: Path) -> None:
    """Each has a name of its own, and there are not too many."""
    other = GOOD.replace('"corp"', '"other"')
    assert [each.name for each in read(tmp_path, GOOD + other)] == ["corp", "other"]
    assert "two providers are called 'corp'" in mistakes(tmp_path, GOOD + GOOD)
    many = "".join(GOOD.replace('"corp"', f'"corp{number}"') for number in range(MOST_PROVIDERS + 1))
    assert "17 providers, at most 16" in mistakes(tmp_path, many)


@pytest.mark.parametrize(
    ("text", "words"),
    [
        (GOOD.replace('name = "corp"\n', ""), "oidc[1].name: is missing"),
        (GOOD.replace('"corp"', '"Corp"'), "not a name of a provider: 'Corp'"),
        (GOOD.replace('"corp"', '"a b"'), "not a name of a provider"),
        (GOOD.replace('"corp"', "7"), "not of the right kind"),
        (GOOD.replace("https://id.example.org/realm", "http://id.example.org"), "not a URL of an OpenID provider"),
        (GOOD.replace("https://id.example.org/realm", "id.example.org"), "not a URL of an OpenID provider"),
        (GOOD.replace('client_id = "handfast"\n', ""), "oidc[1].client_id: is missing"),
        (GOOD.replace('"handfast"', '""'), "not a client id"),
        (GOOD + "scopes = []\n", "'openid' is not among the scopes"),
        (GOOD + 'scopes = ["email"]\n', "'openid' is not among the scopes"),
        (GOOD + 'scopes = ["openid", "a b"]\n', "not a scope: 'a b'"),
        (GOOD + 'scopes = "openid"\n', "not of the right kind"),
        (GOOD + 'client_secret_file = "/nonexistent"\n', "no file '/nonexistent'"),
        (GOOD + 'client_secret = "x"\n', "oidc[1].client_secret: unknown"),
        (GOOD + "verify = false\n", "oidc[1].verify: unknown"),
        ('[oidc]\nname = "corp"\n', "oidc"),
        ("oidc = 1\n", "oidc"),
    ],
)
def test_mistakes(tmp_path: Path, text: str, words: str) -> None:
    """Each is named with its place."""
    assert words in mistakes(tmp_path, text)


def test_a_rule_for_people_of_nobody(tmp_path: Path) -> None:
    """A rule about a provider that is not there is a mistake: it would be for nobody."""
    rule = '[[ssh.users]]\norigins = ["operator", "oidc:crop"]\nprincipals = ["fleet"]\n'
    assert "ssh.users[1].origins: 'oidc:crop', and no such provider in [[oidc]]" in mistakes(tmp_path, GOOD + rule)
    assert read(tmp_path, GOOD + rule.replace("crop", "corp"))


@pytest.mark.parametrize(("content", "mode", "words"), [("x", 0o644, "others"), ("", 0o600, "no client secret")])
def test_secrets_that_are_none(tmp_path: Path, content: str, mode: int, words: str) -> None:
    """One that others can read, and an empty one."""
    secret = tmp_path / "secret"
    secret.write_text(content)
    os.chmod(secret, mode)
    assert words in mistakes(tmp_path, GOOD + f'client_secret_file = "{secret}"\n')


@pytest.mark.parametrize(
    "url",
    [
        "https://id.example.org",
        "https://id.example.org:8443/a/b?",
        "http://localhost:4593/api",
        "http://127.0.0.1:80",
        "http://[::1]:80/x",
        "https://[2001:db8::1]/",
    ],
)
def test_urls_of_providers(url: str) -> None:
    """https, or this very machine."""
    if url.endswith("?"):
        with pytest.raises(Malformed):
            check_url(url)
    else:
        assert check_url(url) == url


@pytest.mark.parametrize(
    "url",
    [
        "",
        "https://",
        "https:///x",
        "http://localhost.example.org",
        "http://127.0.0.1.example.org/",
        "http://user@127.0.0.1/",
        "https://a b/",
        "https://id.example.org/#x",
        "https://id.example.org/\n",
        "HTTPS://id.example.org",
        "http://10.0.0.1/",
        "http://0.0.0.0/",
        "http://[::ffff:10.0.0.1]/",
        "file:///etc/passwd",
        "https://id.example.org:99999999/",
    ],
)
def test_urls_that_are_none(url: str) -> None:
    """In the clear to somewhere else, with credentials, or no URL at all."""
    with pytest.raises(Malformed, match="not a URL of an OpenID provider"):
        check_url(url)


def test_where_a_provider_describes_itself() -> None:
    """Below its issuer, with one slash (OpenID Connect Discovery 1.0 §4.1)."""
    for issuer in ("https://id.example.org/a", "https://id.example.org/a/"):
        assert metadata_url(issuer) == "https://id.example.org/a/.well-known/openid-configuration"
    assert is_local("http://127.0.0.2/")
    assert not is_local("https://id.example.org/")
    assert not is_local("nonsense")
    assert check_name("corp-2") == "corp-2"
