"""What is printed was often said by a peer: a terminal must not act on it."""

from __future__ import annotations

import json

import pytest

from handfast.cli import ui
from handfast.errors import Unreachable

HOSTILE = "\x1b[2J\x1b]0;pwned\x07\x1b]52;c;cm0gLXJm\x07\rjoined as root\x9b31m\u202e\x00"


def test_nothing_that_a_terminal_acts_on_is_said(capsys: pytest.CaptureFixture[str]) -> None:
    """Cursor, title, clipboard, carriage return, direction, C1: all of it is shown, and none of it works."""
    ui.complain(Unreachable(f"it said {HOSTILE}", hint=HOSTILE + "\nhandfast: joined"))
    said = capsys.readouterr().err
    assert said.count("\n") == 2
    assert all(line.isprintable() for line in said.splitlines())
    assert "\\x1b[2J" in said


def test_data_keeps_its_own_lines_and_nothing_else(capsys: pytest.CaptureFixture[str]) -> None:
    """A PEM file has lines; a machine's name has no escape sequence."""
    ui.emit("one\ntwo" + HOSTILE)
    assert [line.isprintable() for line in capsys.readouterr().out.splitlines()] == [True, True]
    ui.table(["name", "role"], [["a\x1b[31m\tb", "c"]])
    assert capsys.readouterr().out == "a\\x1b[31m\\tb\tc\n"


def test_ordinary_words_stay_as_they_are(capsys: pytest.CaptureFixture[str]) -> None:
    """Letters of every language, and punctuation."""
    ui.say("Größe … „日本“ — 100 %")
    assert capsys.readouterr().err == "Größe … „日本“ — 100 %\n"


def test_json_stays_json(capsys: pytest.CaptureFixture[str]) -> None:
    """Whatever is in it, a program reads the same value, and a terminal nothing to act on."""
    value = {"x": HOSTILE + "\x7f\xa0\U000e0041 Größe"}
    ui.emit_json(value)
    said = capsys.readouterr().out
    assert json.loads(said) == value
    assert said.removesuffix("\n").isprintable()


def test_progress_is_for_terminals(capsys: pytest.CaptureFixture[str]) -> None:
    """A log file, or a program that reads stderr, gets nothing of it."""
    with ui.progress("deploying", of_bytes=True) as told:
        told(1, 2)
    assert capsys.readouterr() == ("", "")
