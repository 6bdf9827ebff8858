"""Which machine an instance is: the cloud's word, kept from the first start, and a copy that is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from handfast.adapters import console
from handfast.agent.machine import NAME, check_machine
from handfast.core.instancedata import OURS, InstanceData
from handfast.errors import Fault, Refused
from tests.agent.agents import controller
from tests.agent.test_agent import given


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Iterator[InstanceData]:
    """User-data of an instance whose cloud's id was not known before the launch."""
    with controller(tmp_path_factory.mktemp("controller")) as made:
        yield replace(given(made, "app1"), instance_id=f"{OURS}1")


def test_an_id_that_was_known_has_to_be_this_machines(data: InstanceData, tmp_path: Path) -> None:
    """At the first start already: user-data that was given to another machine makes no second one."""
    known = replace(data, instance_id="i-1")
    check_machine(tmp_path, known, "i-1")
    with pytest.raises(Refused, match="this machine is 'i-2', and 'app1' is 'i-1': a copy of it"):
        check_machine(tmp_path, known, "i-2")
    assert list(tmp_path.iterdir()) == []


def test_an_id_that_was_not_known_is_kept_from_the_first_start(data: InstanceData, tmp_path: Path) -> None:
    """The same machine is itself at each start; a copied disk elsewhere is not."""
    check_machine(tmp_path, data, "i-1")
    check_machine(tmp_path, data, "i-1")
    with pytest.raises(Refused, match="this machine is 'i-2', and 'app1' is 'i-1': a copy of it"):
        check_machine(tmp_path, data, "i-2")
    assert (tmp_path / NAME).stat().st_mode & 0o077 == 0


def test_another_instance_begins_anew(data: InstanceData, tmp_path: Path) -> None:
    """User-data of its own makes the copy an instance of its own."""
    check_machine(tmp_path, data, "i-1")
    other = replace(data, instance_id=f"{OURS}2")
    check_machine(tmp_path, other, "i-2")
    with pytest.raises(Refused):
        check_machine(tmp_path, other, "i-1")


def test_where_nobody_says_nothing_is_compared(data: InstanceData, tmp_path: Path) -> None:
    """Outside of a cloud, or where its user-data is a file by hand."""
    check_machine(tmp_path, data, None)
    check_machine(tmp_path, replace(data, instance_id="i-1"), None)
    assert list(tmp_path.iterdir()) == []


def test_a_damaged_file_is_no_permission(data: InstanceData, tmp_path: Path) -> None:
    """It could have said anything: a person looks."""
    (tmp_path / NAME).write_text("{")
    (tmp_path / NAME).chmod(0o600)
    with pytest.raises(Fault, match="is damaged"):
        check_machine(tmp_path, data, "i-1")


def test_a_console_gets_a_line_of_its_own(tmp_path: Path) -> None:
    """Whatever was written there before; and where there is none nothing happens."""
    path = tmp_path / "console"
    path.write_bytes(b"login: ")
    console.say("handfast-agent app1 SHA256:abc", path)
    assert b"\r\nhandfast-agent app1 SHA256:abc\r\n" in path.read_bytes()
    console.say("handfast-agent app1 SHA256:abc", tmp_path / "none")
    assert not (tmp_path / "none").exists()
