"""What an agent tells of itself while a certificate is on trial, and that it says when nobody has called over it."""

from __future__ import annotations

import asyncio
from datetime import timedelta
from pathlib import Path
from urllib.parse import urlencode

import msgspec
import pytest
from aiohttp import web
from aiohttp.test_utils import make_mocked_request
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding
from structlog.testing import capture_logs

from handfast.agent import original, state, status, v1
from handfast.agent.agent import Agent
from handfast.agent.doors import Caller
from handfast.agent.state import Call, State
from handfast.core.agentjson import About
from handfast.core.instance_views import fingerprint
from handfast.core.keys import spki_sha256
from tests.agent.test_agent import Controlling, given, start
from tests.agent.test_delivery import issued, pem


def called(shared: State, controlling: Controlling, method: str = "GET", path: str = "/") -> Call:
    """A request over a connection that began before any trial."""
    caller = Caller(shared.agent.face, controlling.leaf, controlling.leaf.public_bytes(Encoding.DER), "here")
    return Call(make_mocked_request(method, path, headers={"Content-Type": "text/plain"}), shared, caller)


def renewing(controlling: Controlling, directory: Path) -> tuple[State, Call]:
    """An agent whose second certificate is on trial, and a call from before."""
    data = given(controlling)
    agent = start(data, directory, controlling)
    controlling.introduce(agent)
    agent.called(agent.face)
    shared = State(agent, data)
    call = called(shared, controlling)
    controlling.house.clock.time += timedelta(hours=1)
    controlling.introduce(agent, "renewal")
    return shared, call


def test_one_certificate_is_told(controlling: Controlling, tmp_path: Path) -> None:
    """While the next one is on trial serial and end are both of the one that is held, for whoever asks."""
    shared, call = renewing(controlling, tmp_path / "state")
    held, shown = shared.agent.held, shared.agent.face.leaf
    assert held is not None
    assert shown is not None
    assert (shown.serial_number, shown.not_valid_after_utc) != (held.serial_number, held.not_valid_after_utc)
    serial = f"{held.serial_number:032x}"
    view = asyncio.run(status.view(shared))
    assert (view.stage, view.serial, view.until) == ("trial", serial, f"{held.not_valid_after_utc:%Y-%m-%dT%H:%M:%SZ}")
    assert view.key == fingerprint(shared.agent.face.spki)
    answer = asyncio.run(v1.about(call))
    assert isinstance(answer.body, bytes)
    about = msgspec.json.decode(answer.body, type=About)
    assert (about.stage, about.serial, about.not_after) == ("trial", serial, held.not_valid_after_utc.isoformat())
    assert about.spki == shared.agent.face.spki.hex() != spki_sha256(held.public_key()).hex()


async def warned(patch: pytest.MonkeyPatch, agent: Agent, shared: State, call: Call | None) -> list[str]:
    """Let a trial be over at once, and return what is said then; ``call`` delivers a key."""
    patch.setattr(state, "TRIAL", timedelta(seconds=-1))
    over = asyncio.Event()
    with capture_logs() as said:
        if call is None:
            shared.on_trial()
        else:
            assert isinstance(await original.configure_agent(call), web.Response)
        assert agent.stage.value == "trial"
        asyncio.get_running_loop().call_later(0.001, over.set)
        await over.wait()
    return [each["event"] for each in said if each["event"].startswith("nobody")]


def test_that_nobody_calls_is_said(controlling: Controlling, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a key that was delivered as of one that was asked for; not once somebody has called."""
    told = ["nobody has called over the new certificate; the one before is shown again"]
    shared, _ = renewing(controlling, tmp_path / "renewing")
    assert asyncio.run(warned(monkeypatch, shared.agent, shared, None)) == told

    key = ec.generate_private_key(ec.SECP256R1())
    data = given(controlling, "legacy")
    agent = start(data, tmp_path / "legacy", controlling)
    legacy = State(agent, data, legacy=True)
    sent = urlencode({"certificate": issued(controlling, key, name="legacy"), "keypair": pem(key)})
    call = called(legacy, controlling, "POST", f"/configure?{sent}")
    assert asyncio.run(warned(monkeypatch, agent, legacy, call)) == told
    agent.called(agent.face)

    async def after() -> bool:
        over = asyncio.Event()
        with capture_logs() as said:
            legacy.on_trial()
            asyncio.get_running_loop().call_later(0.001, over.set)
            await over.wait()
        return bool(said)

    assert not asyncio.run(after())
