"""`up` as the controller of managed machines: for as long as it watches them, and no longer, it can have them look."""

from __future__ import annotations

import asyncio
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import cast

import pytest

from handfast.adapters.files import FileLock, private_directory
from handfast.config.instances import InstanceSettings
from handfast.controller.credential import DIRECTORY
from handfast.errors import Fault
from handfast.server.instances import watch
from handfast.server.limits import Limits
from handfast.server.state import State
from tests.controller.control import house
from tests.controller.dialling import eventually


async def test_agents_are_asked_while_it_watches(tmp_path: Path) -> None:
    """The configuration takes that away at the next tick, and then nobody asks agents for this registrar."""
    with house(tmp_path) as made:
        service = replace(made, instances=InstanceSettings(watch=True))
        server = SimpleNamespace(service=service, calls=None, limits=Limits(tick=0.05))
        async with service.ledger.in_loop():
            task = asyncio.ensure_future(watch(cast(State, server)))
            await eventually(lambda: made.agents.ask is not None)
            server.service = replace(service, instances=InstanceSettings())
            await task
        assert made.agents.ask is None


async def test_another_process_watches(tmp_path: Path) -> None:
    """It is their controller; this one asks nobody."""
    with house(tmp_path) as made:
        service = replace(made, instances=InstanceSettings(watch=True))
        server = SimpleNamespace(service=service, calls=None, limits=Limits(tick=0.05))
        private_directory(made.data / DIRECTORY)
        async with service.ledger.in_loop():
            with FileLock(made.data / DIRECTORY / "watch.lock", hint="another"), pytest.raises(Fault):
                await watch(cast(State, server))
        assert made.agents.ask is None
