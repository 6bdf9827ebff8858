"""Attacks on a registrar that serves NiFi's protocol, by those who hold something."""

from __future__ import annotations

import signal
import time
from pathlib import Path

from structlog.testing import capture_logs

from handfast.introducers.nifi import MOST_TOKENS
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
