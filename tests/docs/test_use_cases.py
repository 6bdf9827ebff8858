"""What sessions began with, a list of use cases: each by its name is a section whose commands are run, and a test."""

from __future__ import annotations

import re

import pytest

from tests.docs.markdown import ROOT, blocks

TUTORIAL = (ROOT / "docs" / "tutorials" / "sessions.md").read_text()
USE_CASES = (
    "Forward Connection",
    "Client Reconnects to Server",
    "Friend Connects to Running Server",
    "Reverse Connection",
    "Server Phones Home",
    "Server Phones a Friend",
)
ALTERNATE = {"Friend Connects to Running Server", "Server Phones a Friend"}  # a friend with a key of his own
MODES = "tests/sessions/test_modes*.py"  # any service
PARAVIEW = "tests/interop/test_paraview*.py"  # the real one


def section(name: str) -> str:
    """The text below a heading of the second level."""
    found = re.search(rf"^## {re.escape(name)}\n(.*?)(?=^## |\Z)", TUTORIAL, re.MULTILINE | re.DOTALL)
    assert found, f"no section {name!r}"
    return found[1]


@pytest.mark.parametrize("name", USE_CASES)
def test_each_use_case_is_a_section_with_commands(name: str) -> None:
    """Whoever looks for it finds what to type, on both machines, in a block that is run."""
    typed = "\n".join(block.text for block in blocks(section(name)) if block.language == "console")
    assert "$ handfast session " in typed
    assert ("**Alternate.**" in section(name)) is (name in ALTERNATE)


def test_every_block_of_the_tutorial_is_run() -> None:
    """Nothing in it is only to be read: a block is typed, or is a file that a command reads."""
    shown = [block.line for block in blocks(TUTORIAL) if block.language != "console" and block.place is None]
    assert shown == []


@pytest.mark.parametrize("where", [MODES, PARAVIEW])
@pytest.mark.parametrize("name", USE_CASES)
def test_each_use_case_is_a_test_by_its_name(name: str, where: str) -> None:
    """With any service, and with the real ParaView; the alternate too."""
    sources = "\n".join(path.read_text() for path in ROOT.glob(where))
    test = f"test_{name.lower().replace(' ', '_')}"
    for each in [test, f"{test}_alternate"] if name in ALTERNATE else [test]:
        assert re.search(rf"^(async )?def {each}\(", sources, re.MULTILINE), each
