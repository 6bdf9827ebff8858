"""Attacks on a registrar that serves NiFi's protocol, by those who hold something."""

from __future__ import annotations

import os
import re
import signal
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest
from cryptography.hazmat.primitives.asymmetric import rsa
from structlog.testing import capture_logs

from handfast.cli.main import run
from handfast.core import dn, nifi_x509
from handfast.errors import Unsafe
from handfast.introducers.nifi import MOST_TOKENS
from handfast.nifi.ca_files import write_ca_files
from handfast.nifi.config import ServerConfig, encode, with_defaults
from handfast.nifi.options import ServerOptions
from handfast.server import toolkit
from tests.server.nifi_peer import TOKEN, csr, message, new_key, serving
from tests.server.test_life import wait

NEW_TOKEN = "another horse, another battery"


def test_attack_a_token_that_leaked_after_it_was_changed(tmp_path: Path) -> None:
    """A reload reads the token's file again: the old token is none from then on, and no file is no token."""
    file, config = tmp_path / "token", tmp_path / "data" / "config.toml"
    file.touch(mode=0o600)
    file.write_text(TOKEN)
    with serving(tmp_path / "data", token=None) as served:
        for text, token, good in (
            (f"[nifi]\ntoken_file = '{file}'\n", TOKEN, {TOKEN}),
            (f"[nifi]\ntoken_file = '{file}'\n", NEW_TOKEN, {NEW_TOKEN}),
            ("", NEW_TOKEN, set()),
        ):
            file.write_text(token)
            config.write_text(text)
            with capture_logs() as logged:
                served.registrar.ask(signal.SIGHUP)
                wait(lambda logged=logged: "reloaded" in [entry["event"] for entry in logged])  # type: ignore[misc]
            assert {each for each in (TOKEN, NEW_TOKEN) if served.enrol(each).status == 200} == good


def test_attack_a_stranger_while_all_tokens_are_open(tmp_path: Path) -> None:
    """His request is tried with each of them; what else stands in the ledger about them is not read for him."""
    with serving(tmp_path / "data", token=None) as served:
        for number in range(MOST_TOKENS):
            served.invite(f"node{number}.lan", sans=tuple(f"name{each}.node{number}.lan" for each in range(60)))
        key = new_key()
        body = message("a token that nobody made", key, csr(key))
        with served.connect() as node:
            begin = time.process_time()
            assert {node.post(body).status for _ in range(20)} == {403}
            assert (time.process_time() - begin) / 20 < 0.01  # for both sides; about 2 ms here


def _typed(directory: Path, **more: Any) -> ServerOptions:
    """What ``tls-toolkit server`` makes of a command line without options but these."""
    fields: dict[str, Any] = {
        "config": with_defaults(ServerConfig(key_store="nifi-ca-keystore.jks")),
        "token": None,
        "config_in": None,
        "config_out": directory / "written.json",
        "different_key_password": False,
        "listen": None,
        "allow_subjects": (),
        "allow_names": (),
        "any_name": False,
        "data": directory / "data",
        "from_nifi": None,
    }
    return ServerOptions(**fields | more)


@pytest.mark.root
@pytest.mark.parametrize("store", ["{}/nologin", "../etc/nologin", "../theirs/nologin"])
def test_attack_the_toolkits_user_says_where_root_writes(tmp_path: Path, store: str) -> None:
    """Root that takes over another user's CA writes into its own directory, whatever path that user's file names."""
    theirs = tmp_path / "theirs"
    theirs.mkdir()
    etc = tmp_path / "etc"
    etc.mkdir()
    named = store.format(etc)
    key, now = rsa.generate_private_key(65537, 2048), datetime.now(UTC)
    root = nifi_x509.root(key, subject=dn.parse("CN=ca.lan"), days=9, now=now)
    write_ca_files(theirs, ServerConfig(dn="CN=ca.lan", key_store=named), root=root, key=key, now=now)
    for path in (theirs, theirs / "config.json", theirs / named):
        os.chown(path, 65534, 65534)
    settings, taken = toolkit._given(_typed(tmp_path, from_nifi=theirs), lambda _remark: None, new=True)
    assert settings.key_store == "nologin"
    assert taken is not None
    assert taken.certificate == root


@pytest.mark.root
@pytest.mark.parametrize(
    ("owner", "mode", "reason"),
    [(65534, 0o600, "belongs to user id 65534"), (0, 0o606, r"can be read or written by others \(mode 0606\)")],
)
@pytest.mark.parametrize("service", ["server", "client"])
def test_attack_a_user_writes_the_configuration_that_root_reads(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
    service: str,
    owner: int,
    mode: int,
    reason: str,
) -> None:
    """With -F the file is root's own, in server and client: any other user would tell root where to write."""
    file = tmp_path / "config.json"
    file.touch(mode=0o600)
    file.write_bytes(encode(ServerConfig(dn="CN=ca.lan", key_store="/etc/nologin")))
    for path in (tmp_path, file):
        os.chown(path, owner, owner)
    file.chmod(mode)
    monkeypatch.chdir(tmp_path)
    if service == "server":
        with pytest.raises(Unsafe, match=reason):
            toolkit._given(_typed(tmp_path, config_in=file), lambda _remark: None, new=True)
    else:
        assert run(["tls-toolkit", "client", "--configJsonIn", str(file)]) == 3
        assert re.search(reason, capsys.readouterr().err)
    assert {path.name for path in tmp_path.iterdir()} == {"config.json"}
