"""An agent's identity: introduced, renewed and come back by a real registrar's flow; kept when it has worked."""

from __future__ import annotations

import asyncio
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass, field, replace
from datetime import timedelta
from pathlib import Path

import msgspec
import pytest
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from handfast.agent.agent import TRIAL, Agent, Stage
from handfast.authority import ceremony
from handfast.authority.authority import FileAuthority
from handfast.core import keys, wire
from handfast.core.flow import Channel, Evidence, Once
from handfast.core.instancedata import InstanceData
from handfast.core.invitation import Address
from handfast.core.names import Names
from handfast.core.roles import Role
from handfast.errors import (
    AlreadySpent,
    Conflict,
    Fault,
    InvitationExpired,
    PolicyRefused,
    Refused,
    UntrustedPeer,
)
from handfast.newcomer.keystore import Keystore
from handfast.policy.decide import by_operator
from handfast.registrar.instances import managing
from tests.registrar.house import NOW, House, house

LISTENS = Address("::", 7575)


@dataclass
class Controlling:
    """A controller: a registrar's flow, and a certificate in the role."""

    house: House
    leaf: x509.Certificate = field(init=False)

    def __post_init__(self) -> None:
        self.leaf = self.certificate(Role.CONTROLLER)

    def certificate(self, role: Role) -> x509.Certificate:
        """Return a certificate for our TLS key."""
        house, now = self.house, self.house.clock.now()
        public = keys.spki(house.tls.key.public_key())
        asked = by_operator(
            machine="controller", role=role, names=Names(), public_key=public, lifetime=timedelta(days=40),
            issuer=house.authority, now=now,
        )  # fmt: skip
        intent = house.ledger.intend(asked, Once(f"test:{role}"), at=now).result()
        return x509.load_der_x509_certificate(house.authority.issue(intent).certificate)

    @property
    def presented(self) -> bytes:
        """What TLS proves of us."""
        return self.leaf.public_bytes(Encoding.DER)

    def hello(self) -> wire.Hello:
        """What we say."""
        house = self.house
        chain, trust, now = house.authority.chain, house.authority.trust, house.clock.now().isoformat()
        return wire.Hello(house.context.new_nonce(), now, list(trust), list(chain))

    def answer(self, method: str, message: bytes, seen: x509.Certificate | None = None) -> wire.IntroductionAnswer:
        """Run the flow for what an agent has given; ``seen`` is its certificate, as TLS has proved it."""
        evidence = Evidence(method, message, Channel(self.house.tls.spki, seen))
        answer = asyncio.run(managing(self.house.registrar()).introduce(evidence, self.house.tls))
        return wire.IntroductionAnswer(
            answer.credential.certificate, list(answer.chain), list(answer.trust), answer.time.isoformat(), answer.proof
        )

    def introduce(self, agent: Agent, method: str = "instance") -> None:
        """Introduce an agent as far as its trial."""
        message, asked = agent.introduce(self.hello(), self.presented)
        agent.accept(asked, self.answer(method, message, agent.face.leaf))


@pytest.fixture
def controlling(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Controlling]:
    """A registrar of its own, with a fresh authority."""
    directory = tmp_path_factory.mktemp("controller")
    ceremony.create(directory / "authority", name="home", now=NOW)
    with house(directory, FileAuthority.open(directory / "authority")) as made:
        yield Controlling(made)


def given(controlling: Controlling, name: str = "web1", **more: object) -> InstanceData:
    """Add an instance."""
    line = controlling.house.secret(name, **more)
    return InstanceData(name, "i-1", controlling.house.authority.root, line, listens=LISTENS)


def start(data: InstanceData, directory: Path, controlling: Controlling) -> Agent:
    """Start the agent, as after a boot."""
    return Agent(data, Keystore(directory), now=controlling.house.clock.now)


def stage(agent: Agent) -> str:
    """Return its stage at this moment."""
    return agent.stage.value


def test_a_new_agent_is_introduced(controlling: Controlling, tmp_path: Path) -> None:
    """One key from its first moment to its last: shown self-signed, asked about, certified; kept after a call."""
    data = given(controlling, "first")
    agent = start(data, tmp_path, controlling)
    shown = agent.face
    assert (stage(agent), shown.leaf) == ("new", None)
    controlling.introduce(agent)
    assert (stage(agent), agent.face.spki, agent.identity) == ("trial", shown.spki, None)
    agent.called(agent.face)
    assert stage(agent) == "held"
    assert agent.identity is not None
    assert (agent.identity.machine, agent.identity.role) == ("first", Role.AGENT)
    again = start(data, tmp_path, controlling)
    assert (again.stage, again.face.spki) == (Stage.HELD, shown.spki)


def test_what_nobody_called_over_is_not_kept(controlling: Controlling, tmp_path: Path) -> None:
    """After a minute without a call it shows what it had; asked again with the same key it gets the same answer."""
    data = given(controlling, "silent")
    agent = start(data, tmp_path, controlling)
    before = agent.face
    controlling.introduce(agent)
    trial = agent.face
    agent.called(before)  # over a connection from before: that is no proof of the new one
    assert stage(agent) == "trial"
    controlling.house.clock.time += TRIAL
    assert (agent.stage, agent.face) == (Stage.NEW, before)
    agent.called(trial)  # too late
    assert stage(agent) == "new"
    controlling.introduce(agent)
    assert agent.face.leaf == trial.leaf


def test_a_crash_at_any_moment_costs_nothing(controlling: Controlling, tmp_path: Path) -> None:
    """An agent that dies before it asked, after, or on trial has the same key, and gets the same certificate."""
    data = given(controlling, "crash")
    spki = start(data, tmp_path, controlling).face.spki
    second = start(data, tmp_path, controlling)
    message, _ = second.introduce(controlling.hello(), controlling.presented)
    first_answer = controlling.answer("instance", message)
    third = start(data, tmp_path, controlling)
    assert third.face.spki == spki
    controlling.introduce(third)
    fourth = start(data, tmp_path, controlling)
    assert fourth.stage is Stage.NEW
    controlling.introduce(fourth)
    fourth.called(fourth.face)
    assert fourth.face.leaf is not None
    assert fourth.face.leaf.public_bytes(Encoding.DER) == first_answer.certificate


def held(controlling: Controlling, directory: Path, name: str) -> tuple[InstanceData, Agent]:
    """Return an agent that is introduced."""
    data = given(controlling, name)
    agent = start(data, directory, controlling)
    controlling.introduce(agent)
    agent.called(agent.face)
    return data, agent


def test_it_renews_with_a_new_key(controlling: Controlling, tmp_path: Path) -> None:
    """The old key signs for the new one, and is shown until a call over the new one has come."""
    data, agent = held(controlling, tmp_path, "renews")
    old = agent.face
    controlling.introduce(agent, "renewal")
    new = agent.face
    assert new.spki != old.spki
    controlling.house.clock.time += TRIAL
    assert agent.face is old
    controlling.introduce(agent, "renewal")
    assert agent.face.leaf == new.leaf
    agent.called(agent.face)
    assert start(data, tmp_path, controlling).face.leaf == new.leaf


def test_it_comes_back_after_its_time(controlling: Controlling, tmp_path: Path) -> None:
    """A machine that was off for a week comes back with the key it kept for that."""
    data, agent = held(controlling, tmp_path, "sleeper")
    controlling.house.clock.time += timedelta(days=7)
    agent = start(data, tmp_path, controlling)
    controlling.introduce(agent, "reintroduction")
    agent.called(agent.face)
    assert agent.identity is not None
    assert agent.identity.not_after > controlling.house.clock.now()


def test_added_anew_it_begins_anew(controlling: Controlling, tmp_path: Path) -> None:
    """Another secret, or another machine's id: what is on the disk is somebody else's past."""
    data, agent = held(controlling, tmp_path, "clone")
    for other in (given(controlling, "clone"), replace(data, instance_id="i-2")):
        clone = start(other, tmp_path, controlling)
        assert (clone.stage, clone.identity) == (Stage.NEW, None)
        assert clone.face.spki != agent.face.spki


def test_the_second_with_one_secret_is_an_alarm(controlling: Controlling, tmp_path: Path) -> None:
    """Whoever has read the user-data and is first leaves the second with nothing, and the operator with an alarm."""
    data = given(controlling, "stolen")
    thief, honest = start(data, tmp_path / "thief", controlling), start(data, tmp_path / "honest", controlling)
    controlling.introduce(thief)
    with pytest.raises(AlreadySpent):
        controlling.introduce(honest)
    assert honest.stage is Stage.NEW
    assert [each.kind for each in controlling.house.ledger.events(kind_prefix="alarm.")] == ["alarm.second-key"]


@pytest.mark.parametrize("role", [Role.AGENT, Role.OPERATOR, Role.CLIENT])
def test_only_a_controller_commands(role: Role, controlling: Controlling, tmp_path: Path) -> None:
    """Another agent's genuine certificate opens nothing, neither before the introduction nor after it."""
    _, agent = held(controlling, tmp_path, f"obeys-{role}")
    assert agent.authorize(controlling.leaf).machine == "controller"
    other = controlling.certificate(role)
    with pytest.raises(UntrustedPeer, match=f"'controller' is a {role}, and no controller"):
        agent.authorize(other)
    with pytest.raises(UntrustedPeer, match=f"'controller' is a {role}, not a controller"):
        agent.introduce(controlling.hello(), other.public_bytes(Encoding.DER))


def test_a_late_introduction_is_refused(controlling: Controlling, tmp_path: Path) -> None:
    """By the controller's own time the secret is over."""
    agent = start(given(controlling, "late"), tmp_path, controlling)
    hello = controlling.hello()
    late = msgspec.structs.replace(hello, time=(controlling.house.clock.now() + timedelta(hours=2)).isoformat())
    with pytest.raises(InvitationExpired):
        agent.introduce(late, controlling.presented)


@pytest.mark.parametrize("changed", ["signature", "of another instance"])
def test_a_wrong_answer_changes_nothing(changed: str, controlling: Controlling, tmp_path: Path) -> None:
    """Changed on its way, or honest and another's: what is shown stays, and the honest answer is taken afterwards."""
    agent = start(given(controlling, "web1"), tmp_path / "web1", controlling)
    other = start(given(controlling, "web2"), tmp_path / "web2", controlling)
    before = agent.face
    theirs = controlling.answer("instance", other.introduce(controlling.hello(), controlling.presented)[0])
    message, asked = agent.introduce(controlling.hello(), controlling.presented)
    honest = controlling.answer("instance", message)
    flipped = honest.signature[:-1] + bytes([honest.signature[-1] ^ 1])
    with pytest.raises(UntrustedPeer, match="signature does not fit"):
        agent.accept(asked, theirs if changed != "signature" else msgspec.structs.replace(honest, signature=flipped))
    assert (agent.stage, agent.face) == (Stage.NEW, before)
    agent.accept(asked, honest)
    agent.called(agent.face)
    with pytest.raises(Conflict, match="another credential was kept"):
        agent.accept(asked, honest)
    assert agent.stage is Stage.HELD


def test_a_late_answer_does_not_lead_back(controlling: Controlling, tmp_path: Path) -> None:
    """Two controllers ask at once: each is answered; what the slower one brings later is of the past."""
    agent = held(controlling, tmp_path, "two")[1]
    message, slow = agent.introduce(controlling.hello(), controlling.presented)
    late = controlling.answer("renewal", message, agent.face.leaf)
    controlling.introduce(agent, "renewal")
    agent.called(agent.face)
    shown = agent.face
    with pytest.raises(Conflict, match="another credential was kept since"):
        agent.accept(slow, late)
    assert (agent.stage, agent.face) == (Stage.HELD, shown)


def test_another_authoritys_user_data_is_refused(controlling: Controlling, tmp_path: Path) -> None:
    """Whoever gives an introduced machine other user-data at its next start does not become its controller."""
    data, agent = held(controlling, tmp_path / "state", "obeys")
    serial = agent.identity
    (tmp_path / "elsewhere").mkdir()
    ceremony.create(tmp_path / "elsewhere/authority", name="other", now=NOW)
    with house(tmp_path / "elsewhere", FileAuthority.open(tmp_path / "elsewhere/authority")) as made:
        theirs = given(Controlling(made), "obeys")
    for other in (theirs, replace(theirs, instance_id="i-2")):
        with pytest.raises(Refused, match=r"is of the authority .*, and this machine was introduced to") as refused:
            start(other, tmp_path / "state", controlling)
        assert "empty" in str(refused.value.hint)
    assert start(data, tmp_path / "state", controlling).identity == serial
    assert start(theirs, tmp_path / "empty", controlling).stage is Stage.NEW


def test_a_full_disk_leaves_the_trial(
    controlling: Controlling, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """What cannot be kept is not believed to be: the next call tries again."""
    agent = start(given(controlling, "full"), tmp_path, controlling)
    controlling.introduce(agent)

    def full(*_: object, **__: object) -> None:
        raise Fault("no space left")

    with monkeypatch.context() as broken:
        broken.setattr(Keystore, "adopt", full)
        with suppress(Fault):
            agent.called(agent.face)
    assert stage(agent) == "trial"
    agent.called(agent.face)
    assert stage(agent) == "held"


def test_an_invitation_for_something_else_is_refused(controlling: Controlling, tmp_path: Path) -> None:
    """User-data with an invitation for another role does not make an agent."""
    line = controlling.house.secret("server", role=Role.SERVER)
    agent = start(InstanceData("server", "i-1", controlling.house.authority.root, line, LISTENS), tmp_path, controlling)
    with pytest.raises(PolicyRefused, match="role agent is not what 'server' was introduced for"):
        controlling.introduce(agent)
