"""Every command in the documents is run, and prints what the document says."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.docs.lan import Lan
from tests.docs.markdown import DOCUMENTS, ROOT, Block, blocks, commands, stories
from tests.docs.stage import Stage

LANGUAGES = {"console", "text", "toml", "nginx", "ini", "python"}  # only console is run; the others are read or written


def _cases(*, with_peers: bool) -> list[object]:
    """The stories as pytest parameters: those that need real programs with the marks for them."""
    cases: list[object] = []
    for path in DOCUMENTS:
        for number, story in enumerate(stories(path), 1):
            peers = sorted(frozenset[str]().union(*(block.peers for block in story)))
            lan = "lan" in story[0].marks
            if (with_peers and not peers) or (lan and not with_peers):
                continue
            marks = [pytest.mark.peer(*peers)] if with_peers else []
            marks += [pytest.mark.root] if lan or "pvserver" in peers else []  # for its network, which is private
            kept = story if with_peers else [block for block in story if not block.peers]
            if not kept:
                continue
            cases.append(pytest.param(kept, id=f"{path.relative_to(ROOT)}:{number}", marks=marks))
    return cases


@pytest.mark.timeout(300)
@pytest.mark.parametrize("story", _cases(with_peers=False))
def test_commands_do_what_the_document_says(story: list[Block]) -> None:
    """A reader who types them sees what is printed there."""
    with Stage() as stage:
        for block in story:
            stage.play(block)


@pytest.mark.timeout(600)
@pytest.mark.parametrize("story", _cases(with_peers=True))
def test_commands_with_real_programs_do_what_the_document_says(story: list[Block]) -> None:
    """The same, with nginx, curl, PostgreSQL, ssh and ParaView."""
    with Lan() if "lan" in story[0].marks else Stage() as stage:
        for block in story:
            stage.play(block)


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_no_command_escapes(path: Path) -> None:
    """A block is run, or it says by its language that it is not; a console block has at least one command."""
    for block in blocks(path.read_text()):
        assert block.language in LANGUAGES, f"line {block.line}: a block of language {block.language!r}"
        assert block.language != "console" or commands(block)


def test_a_wrong_document_is_found() -> None:
    """The harness can fail: another output, an unexpected success, and an unexpected failure."""
    for text in ("a$ echo one\ntwo\n", "a$ true\nhandfast: error: it failed\n", "a$ false\n"):
        with Stage() as stage, pytest.raises(AssertionError):
            stage.play(Block("console", text, 1))
