"""What a person types and what comes back: words, exit codes, and nothing but data on stdout."""

from __future__ import annotations

import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from handfast.cli import main
from handfast.core import invitation
from tests.interop import transcripts
from tests.interop.hosts import Host, Registrar

pytestmark = pytest.mark.timeout(180)  # a dozen starts of Python each, on a machine that may be busy

SCRIPTS = Path(__file__).parents[1] / "scripts"


@pytest.fixture
def person(here: Host, local: Registrar, request: pytest.FixtureRequest) -> Iterator[tuple[Host, dict[str, str]]]:
    """Somebody at a shell, in an empty directory; the registrar of this machine is the default."""
    host = Host(here.directory / f"at-{request.node.callspec.id}")
    tools = host.directory / ".bin"
    tools.mkdir()
    command = tools / "handfast"
    command.write_text(f'#!/bin/sh\nexec {sys.executable} -m handfast "$@"\n')
    command.chmod(0o755)
    env = {
        "PATH": f"{tools}:{host.environment()['PATH']}",
        "HANDFAST_DATA": str(local.data),
        "ADDRESS": local.ready["listen"],
        "PORT": str(local.port),
        "PIN": local.ready["pin"],
    }
    yield host, env
    host.close()


@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("*.txt")), ids=lambda path: path.stem)
def test_transcript(script: Path, person: tuple[Host, dict[str, str]]) -> None:
    """The conversation goes as it is written down: every line of both streams, and every exit code."""
    host, env = person
    transcripts.play(script, host, env)


@pytest.mark.peer("ssh-keygen")
@pytest.mark.parametrize("script", sorted(SCRIPTS.glob("ssh/*.txt")), ids=lambda path: path.stem)
def test_transcript_with_ssh_keys(script: Path, person: tuple[Host, dict[str, str]]) -> None:
    """As the others; they need ssh-keygen."""
    test_transcript(script, person)


def test_the_prefix_that_is_looked_for() -> None:
    """The command line, which does not load it, looks for the prefix that invitations have."""
    assert main.INVITATION == invitation.PREFIX
