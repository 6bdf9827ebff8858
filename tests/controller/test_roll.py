"""
An authority that issues by another CA than before: its agents go on, and nobody comes in that way.

Its root's key has signed another issuing CA, the registrar was started anew, and the old one's leaves are still out
there, each for its time. What is ours is what chains to the root; what is not is what it always was.
"""

from __future__ import annotations

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import replace
from pathlib import Path

import msgspec
import pytest
from cryptography import x509 as pyca
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat, load_pem_private_key

from handfast.adapters import files
from handfast.authority import layout
from handfast.authority.authority import FileAuthority
from handfast.controller import watch
from handfast.controller.http import Connection
from handfast.core import keys, x509
from handfast.core.flow import Intent
from handfast.core.instancedata import InstanceData
from handfast.core.instances import State
from handfast.core.names import Names
from handfast.core.roles import Role
from handfast.core.wire import IntroductionAnswer
from handfast.newcomer.keystore import Keystore
from handfast.policy.decide import by_operator
from tests.authority.helpers import DAY, Pki, grant
from tests.controller.agents import Agent, Keys
from tests.controller.control import Control, controlling, operator
from tests.controller.control import house as opened
from tests.controller.real import agent, where
from tests.controller.test_real_agents import DUE, LIFETIMES, another, serial


@pytest.fixture(autouse=True)
def _short(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """No long pauses, and agents' credentials that are short."""
    monkeypatch.setattr(watch, "_FIRST", 0.05)
    monkeypatch.setattr(watch, "_LONGEST", 0.1)
    (tmp_path / "data").mkdir(mode=0o700)
    (tmp_path / "data" / "config.toml").write_text(LIFETIMES)


@asynccontextmanager
async def controller(directory: Path) -> AsyncIterator[Control]:
    """A registrar that was started on its directory, with its controller, until the end of the block."""
    with opened(directory) as service:
        async with controlling(service) as control:
            yield control


def roll(authority: Path) -> None:
    """Make another issuing CA with the root's key, as its directory has them; it signs from the next start on."""
    state = layout.read_state(authority)
    generation, key = state.issuing + 1, ec.generate_private_key(ec.SECP256R1())
    root = pyca.load_pem_x509_certificate((authority / layout.ROOT).read_bytes())
    root_key = load_pem_private_key((authority / layout.ROOT_KEY).read_bytes(), None)
    assert isinstance(root_key, ec.EllipticCurvePrivateKey)
    made = x509.issuing(
        root, root_key, key.public_key(), name=state.name, generation=generation, now=root.not_valid_before_utc
    )
    (authority / layout.issuing(generation, "crt")).write_bytes(made.public_bytes(Encoding.PEM))
    pem = key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption())
    files.write_atomic(authority / layout.issuing(generation, "key"), pem)
    (authority / layout.STATE).write_bytes(msgspec.json.encode(msgspec.structs.replace(state, issuing=generation)))


def issuer(state: Path) -> str:
    """Who issued what an agent has on its disk."""
    return Keystore(state).load().certificate.issuer.rfc4514_string()


async def test_an_agent_of_the_issuing_ca_before(tmp_path: Path) -> None:
    """It runs, also over a new connection; it is renewed when that is due and not before; then by the new one."""
    state = tmp_path / "agent"
    async with controller(tmp_path) as control:
        data = await control.add()
        first = await introduced(control, data, state)
    roll(tmp_path / "data" / "authority")
    async with controller(tmp_path) as control:
        async with agent(data, state) as told:
            await control.place(where(told))
            again = await control.until(State.RUNNING)
            assert again.serial == first == serial(state)
            assert "issuing CA 1" in issuer(state)
            assert len(control.issued()) == 1  # none before it is due
            control.clock.time += DUE
            await another(control, "app1.lan")
            assert "issuing CA 2" in issuer(state)
        await control.until(State.UNREACHABLE)
        async with agent(data, state, listen=where(told)):
            await control.until(State.RUNNING)
        assert [each.method for each in control.issued()] == ["instance", "renewal"]
        assert control.alarms() == []


async def introduced(control: Control, data: InstanceData, state: Path) -> int | None:
    """Have a real agent introduced, and stop it; return its serial."""
    async with agent(data, state) as told:
        await control.place(where(told), data.instance)
        return (await control.until(State.RUNNING, data.instance)).serial


async def test_an_agent_that_meets_both(tmp_path: Path) -> None:
    """Running all the time, it is asked by the controller from before, the one from after, and an operator."""
    state = tmp_path / "agent"
    async with controller(tmp_path) as control:
        data = await control.add()
        running = agent(data, state)
        told = await running.__aenter__()
        await control.place(where(told))
        first = await control.until(State.RUNNING)
    roll(tmp_path / "data" / "authority")
    try:
        async with controller(tmp_path) as control:
            assert (await control.until(State.RUNNING)).serial == first.serial
            async with (await operator(control)).agent("app1.lan") as reached:
                assert isinstance(reached.connection, Connection)
                assert reached.connection.spki == first.expected
            control.clock.time += DUE
            await another(control, "app1.lan")
            assert (control.alarms(), "issuing CA 2" in issuer(state)) == ([], True)
    finally:
        await running.__aexit__(None, None, None)


async def test_a_newcomer_afterwards(tmp_path: Path) -> None:
    """The controller's own credential is still of the CA before, and the new agent's of the new one."""
    async with controller(tmp_path) as control:
        await introduced(control, await control.add("app0.lan"), tmp_path / "first")
        before = control.controller.credential.certificate
    roll(tmp_path / "data" / "authority")
    async with controller(tmp_path) as control:
        await introduced(control, await control.add(), tmp_path / "agent")
        assert control.controller.credential.certificate == before
        assert "issuing CA 2" in issuer(tmp_path / "agent")


@pytest.mark.parametrize("rolled", [False, True], ids=["as it was", "rolled"])
@pytest.mark.parametrize("claims", ["its own chain", "our chain", "our root above its own"])
async def test_a_foreign_authoritys_leaf(tmp_path: Path, claims: str, *, rolled: bool) -> None:
    """Of the very names, for the very key, with whatever sent along: quarantined, and an alarm."""
    async with controller(tmp_path) as control:
        honest = Agent(await control.add())
        async with honest.listening() as address:
            await control.place(address)
            await control.until(State.RUNNING)
    if rolled:
        roll(tmp_path / "data" / "authority")
    async with controller(tmp_path) as control:
        ours, now = control.service.authority, control.clock.now()
        stranger = Pki.make(now=now, name=ours.public.name)
        made = grant(
            ours.trust_domain,
            Role.AGENT,
            machine="app1.lan",
            names=(),
            public_key=honest.now.key.public_key(),
            not_before=now,
            not_after=now + DAY,
        )
        sent = {
            "its own chain": [stranger.issuing, stranger.root],
            "our chain": [ours.issuing, ours.root],
            "our root above its own": [stranger.issuing, ours.root],
        }
        thief = Agent(honest.data, keys=Keys(honest.now.key, chain=[stranger.leaf(made), *sent[claims]]))
        async with thief.listening(address.port):
            found = await control.until(State.QUARANTINED, why="does not chain to the pinned root")
        assert (found.seen, thief.calls) == (honest.now.spki, [])
        assert control.alarms() == ["alarm.quarantined"]
        assert len(control.issued()) == 1


async def test_a_borrowed_serial(tmp_path: Path) -> None:
    """Whoever has a former CA's key can sign for any key under a serial of ours: it is not what the ledger has."""
    async with controller(tmp_path) as control:
        before = control.service.authority
        data = await control.add()

        class Thief(Agent):
            async def take(self, answer: IntroductionAnswer) -> None:
                await super().take(answer)
                self.show(borrowed(self.now.chain[0], before))

        thief = Thief(data)
        async with thief.listening() as address:
            await control.place(address)
            found = await control.until(State.QUARANTINED, why="another key than the certified one")
        assert (found.seen, found.serial) == (thief.now.spki, None)


def borrowed(leaf: pyca.Certificate, by: FileAuthority) -> Keys:
    """Return another key, certified under the serial of ``leaf``."""
    stolen = Keys()
    made = by_operator(
        machine="app1.lan",
        role=Role.AGENT,
        names=Names(),
        public_key=keys.spki(stolen.key.public_key()),
        lifetime=leaf.not_valid_after_utc - leaf.not_valid_before_utc,
        issuer=by,
        now=leaf.not_valid_before_utc,
    )
    signed = by.issue(Intent(leaf.serial_number, made))
    return replace(stolen, chain=[pyca.load_der_x509_certificate(signed.certificate), by.issuing])
