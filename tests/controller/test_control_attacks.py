"""
Who could stand in an instance's place, and what he gets: quarantine, an alarm, and nothing secret.

The acceptance tests of a controller, by name; those of an agent are the agent's own.
"""

from __future__ import annotations

import asyncio
import ssl
from contextlib import suppress
from dataclasses import replace

import msgspec
import pytest
from cryptography import x509

from handfast.core import csr
from handfast.core.flow import Channel, Evidence, Wish
from handfast.core.instancedata import InstanceData
from handfast.core.instances import Instance, State
from handfast.core.records import INSTANCE
from handfast.core.roles import Role
from handfast.core.secret import Secret
from handfast.core.wire import Hello, IntroductionAnswer
from handfast.errors import Refused, UntrustedPeer
from handfast.introducers import invitation
from tests.controller.agents import Agent, Keys
from tests.controller.control import DAY, Control
from tests.registrar.house import TlsKey


class Relay(Agent):
    """
    Sits where the instance should be, shows a key of his own, and passes on what he is sent.

    As lucky as can be: the agent behind him answers him, who has no certificate, as if he were the controller.
    """

    def __init__(self, behind: Agent) -> None:
        super().__init__(behind.data)
        self.behind = behind

    async def introduce(self, hello: Hello, controller: x509.Certificate) -> bytes:
        """Pass it on."""
        self.behind.time = self.time
        return await self.behind.introduce(hello, controller)

    async def take(self, answer: IntroductionAnswer) -> None:
        """Take what should never come."""
        raise AssertionError("a relay was answered")


def forged(data: InstanceData) -> InstanceData:
    """What somebody has who knows all that is public, and not the secret."""
    return replace(data, line=replace(data.line, seed=Secret(bytes(range(32)))))


async def quarantined(control: Control, agent: Agent, why: str, name: str = "app1.lan") -> Instance:
    """Meet this agent: it has to end in quarantine, an alarm, and silence."""
    async with agent.listening() as address:
        await control.place(address, name)
        found = await control.until(State.QUARANTINED, name, why=why)
        assert control.alarms(name).count("alarm.quarantined") == 1
        calls, connections = len(agent.calls), agent.connections
        await control.add("other.lan")
        other = Agent(await control.add("honest.lan"))
        async with other.listening() as there:
            await control.place(there, "honest.lan")
            await control.until(State.RUNNING, "honest.lan")
            await control.until_true(lambda: len(other.calls) > 15, "honest.lan")
        assert (len(agent.calls), agent.connections) == (calls, connections)  # never tried again by itself
    assert control.kept(name) == found
    return found


def nothing_secret(agent: Agent, data: InstanceData) -> None:
    """All that he was sent is a hello: what anybody may see."""
    for body in agent.heard:
        if body:
            msgspec.json.decode(body, type=Hello)
            assert set(msgspec.json.decode(body)) == {"nonce", "time", "trust", "chain"}
        assert data.line.seed.reveal() not in body


async def test_fake_agent_without_token_gets_nothing_secret(control: Control) -> None:
    """Who does not have the secret is told nothing, spends nothing, and is given nothing."""
    data = await control.add()
    fake = Agent(replace(data, line=forged(data).line))
    found = await quarantined(control, fake, "is unknown")
    assert found.seen == fake.now.spki
    nothing_secret(fake, data)
    assert (control.spent(data), control.issued()) == (0, [])


async def test_P50_a_wrong_proof(control: Control) -> None:
    """Nor is he who names the right secret, and signs with another."""
    data = await control.add()

    class Liar(Agent):
        async def introduce(self, hello: Hello, controller: x509.Certificate) -> bytes:
            sent = msgspec.json.decode(await super().introduce(hello, controller))
            return msgspec.json.encode({**sent, "key_id": data.line.key_id})

    fake = Liar(forged(data))
    await quarantined(control, fake, "does not fit this connection and request")
    nothing_secret(fake, data)
    assert (control.spent(data), control.issued()) == (0, [])


async def test_relay_in_the_middle(control: Control) -> None:
    """He shows a key of his own, and has the instance's request: it is for another key than he has proved."""
    data = await control.add()
    relay = Relay(Agent(data))
    found = await quarantined(control, relay, "somebody sits between")
    assert found.seen == relay.now.spki != relay.behind.now.spki
    nothing_secret(relay, data)
    assert (control.spent(data), control.issued()) == (0, [])  # the instance itself may still come
    await control.do(lambda them: them.release("app1.lan", reason="the router was replaced"))
    async with relay.behind.listening() as address:
        await control.place(address)
        await control.until(State.RUNNING)


async def test_relay_that_forwards_to_a_running_agent(control: Control) -> None:
    """Once it is introduced its certificate is known: whoever shows another key is no more asked."""
    agent = Agent(await control.add())
    async with agent.listening() as address:
        await control.place(address)
        await control.until(State.RUNNING)
    await control.until(State.UNREACHABLE)
    relay = Relay(agent)
    relay.port = agent.port
    async with relay.listening():
        found = await control.until(State.QUARANTINED, why="without our certificate")
        assert relay.calls == []
    assert (found.expected, found.seen) == (agent.now.spki, relay.now.spki)


async def test_token_replay(control: Control) -> None:
    """The secret was used by a thief, who came first: the instance itself is seen, and that is an alarm."""
    data = await control.add()
    thief = Agent(data)
    async with thief.listening() as address:
        await control.place(address)
        await control.until(State.RUNNING)
    await control.until(State.UNREACHABLE)
    honest = Agent(data)
    honest.port = thief.port
    async with honest.listening():
        await control.until(State.QUARANTINED)
        assert honest.calls == []
    assert len(control.issued()) == 1


async def test_a_second_key_with_the_same_secret(control: Control) -> None:
    """Used by whoever read the user-data, at no door of the registrar's: the instance finds it spent, and says so."""
    data = await control.add()
    thief, tls, registrar = Keys(), TlsKey(), control.service.managing
    body, _ = invitation.present(
        data.line,
        csr_der=csr.build(thief.key),
        reintroduction_key=thief.way_back.public_key().public_bytes_raw(),
        wish=Wish(Role.AGENT),
        nonce=registrar.context.new_nonce(),
        server_spki=tls.spki,
        method=INSTANCE,
    )
    with pytest.raises(Refused):
        await control.service.registrar.introduce(Evidence("invitation", body, Channel(tls.spki)), tls)
    assert control.spent(data) == 0
    await registrar.introduce(Evidence(INSTANCE, body, Channel(tls.spki)), tls)
    honest = Agent(data)
    await quarantined(control, honest, "already used with another key")
    assert control.alarms() == ["alarm.second-key", "alarm.quarantined"]
    assert [each.method for each in control.issued()] == ["instance"]


async def test_wrong_instance_id(control: Control) -> None:
    """Another instance's secret, at this one's address, is refused before it is spent."""
    data = await control.add()
    other = await control.add("app2.lan")
    await quarantined(control, Agent(other), r"the secret of 'app2.lan' answers for 'app1.lan'")
    assert (control.spent(data), control.spent(other), control.issued()) == (0, 0, [])
    async with Agent(other).listening() as address:
        await control.place(address, "app2.lan")
        await control.until(State.RUNNING, "app2.lan")


@pytest.mark.parametrize("introduced", [False, True], ids=["waiting", "running"])
async def test_another_agents_certificate(control: Control, *, introduced: bool) -> None:
    """A genuine agent, in another's place: its certificate says who it is, and so it is nobody here."""
    other = Agent(await control.add("app2.lan"))
    async with other.listening() as address:
        await control.place(address, "app2.lan")
        await control.until(State.RUNNING, "app2.lan")
        agent = Agent(await control.add())
        if introduced:
            async with agent.listening() as there:
                await control.place(there)
                await control.until(State.RUNNING)
        await control.place(address)
        await control.until(State.QUARANTINED, why="'app2.lan' answers, with its own genuine certificate")
        assert control.last("app2.lan").state is State.RUNNING
    assert control.alarms() == ["alarm.quarantined"]


async def test_an_operators_or_servers_certificate(control: Control) -> None:
    """What is certified in another role is no agent, whatever it is called."""
    data = await control.add()
    keys, tls, registrar = Keys(), TlsKey(), control.service.registrar
    invite = control.service.administration.invite
    line, _ = await asyncio.to_thread(invite, "app1.lan", role=Role.SERVER, lasting=DAY)
    body, _ = invitation.present(
        line,
        csr_der=csr.build(keys.key),
        reintroduction_key=keys.way_back.public_key().public_bytes_raw(),
        wish=Wish(Role.SERVER),
        nonce=registrar.context.new_nonce(),
        server_spki=tls.spki,
    )
    answer = await registrar.introduce(Evidence("invitation", body, Channel(tls.spki)), tls)
    ders = (answer.credential.certificate, *answer.chain)
    keys.chain = [x509.load_der_x509_certificate(der) for der in ders]
    await quarantined(control, Agent(data, keys=keys), "is a server, not a")
    assert control.spent(data) == 0


async def test_a_key_that_nobody_has_confirmed(control: Control) -> None:
    """Where a fingerprint is required, the secret alone is worth nothing: another key than that is an alarm."""
    data = await control.add(needs_key=True)
    await control.do(lambda them: them.confirm("app1.lan", Keys().spki))
    thief = Agent(data)
    found = await quarantined(control, thief, "another key than the one that was said")
    assert (thief.calls, control.spent(data)) == ([], 0)
    assert found.seen == thief.now.spki
    with pytest.raises(Refused, match="is quarantined"):
        await control.do(lambda them: them.confirm("app1.lan", thief.now.spki))


async def test_an_old_request_with_a_fresh_key_is_refused(control: Control) -> None:
    """What was recorded of an honest introduction, shown again over another key, or to another controller's hello."""
    data = await control.add()
    agent = Agent(data)
    recorded: list[bytes] = []
    ordinary = agent.introduce

    async def record(hello: Hello, controller: x509.Certificate) -> bytes:
        recorded.append(await ordinary(hello, controller))
        return recorded[-1]

    agent.introduce = record  # type: ignore[method-assign]
    async with agent.listening() as address:
        await control.place(address)
        await control.until(State.RUNNING)
    await control.do(lambda them: them.remove("app1.lan", reason="it is gone"))
    again = await control.add()

    class Replay(Agent):
        async def introduce(self, hello: Hello, controller: x509.Certificate) -> bytes:
            return recorded[0]

    await quarantined(control, Replay(again, keys=Keys(agent.now.key)), "")
    assert control.spent(again) == 0


async def test_an_agent_that_refuses_us_is_no_alarm(control: Control, monkeypatch: pytest.MonkeyPatch) -> None:
    """Whatever it says of us: an honest one does, where a clock is wrong; nobody can cause quarantine by a word."""
    agent = Agent(await control.add())
    ordinary = agent.recognize

    def refuse(_controller: x509.Certificate, hello: Hello) -> object:
        ordinary(_controller, hello)
        raise UntrustedPeer("your clock is wrong")

    monkeypatch.setattr(agent, "recognize", refuse)
    async with agent.listening() as address:
        await control.place(address)
        await control.until(State.WAITING, why="it refuses: your clock is wrong")
        monkeypatch.setattr(agent, "recognize", ordinary)
        await control.until(State.RUNNING)
    assert control.alarms() == []


async def test_cert_less_client(control: Control) -> None:
    """Who has no certificate gets no answer from an agent: so it matters that the controller always has one."""
    agent = Agent(await control.add())
    async with agent.listening() as address:
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)
        context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
        reader, writer = await asyncio.open_connection(address.host, address.port, ssl=context)
        writer.write(b"GET /v1/agent HTTP/1.1\r\nHost: agent\r\n\r\n")
        with suppress(OSError):
            assert await reader.read() == b""
        writer.transport.abort()
        assert agent.calls == []
