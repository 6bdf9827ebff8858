"""What every introducer to SSH certificates must do, played over all: a new one is tested by being there."""

from __future__ import annotations

import dataclasses
import importlib
import re
from datetime import timedelta
from types import ModuleType

import msgspec
import pytest

from handfast import introducers
from handfast.core.flow import Channel, SshFinding
from handfast.core.ports import SshIntroducer
from handfast.core.secret import Secret
from handfast.core.transcript import request_label
from handfast.errors import EvidenceRejected, Malformed, NotMine, Refused
from tests.architecture.sources import PACKAGE, ROOT
from tests.introducers.stage import NONCE_KEY, Honest
from tests.introducers.stage_login import PERSONS, VERIFIERS
from tests.introducers.stage_ssh import HONEST as HOSTS
from tests.introducers.stage_ssh import SshStage

KNOWN = introducers.known_for_certificates()
HONEST = HOSTS | PERSONS
HEADINGS = ("Proof", "Answer", "Trusts", "Replay", "Spec")

pytestmark = pytest.mark.parametrize("name", sorted(KNOWN))


@pytest.fixture
def introducer(name: str) -> SshIntroducer:
    """The one under test, as a registrar would configure it."""
    return VERIFIERS.get(name, KNOWN[name])


@pytest.fixture
def honest(name: str) -> Honest:
    """Its honest holder."""
    return HONEST[name]()


def module(name: str) -> ModuleType:
    """The module of an introducer."""
    found = [
        importlib.import_module(f"handfast.introducers.{path.stem}")
        for path in (PACKAGE / "introducers").glob("*.py")
        if path.stem != "__init__"
    ]
    (made,) = [each for each in found if getattr(each, "SSH_HALF", None) is KNOWN[name]]
    return made


def test_it_has_an_honest_holder(name: str) -> None:
    """Without one in ``HONEST`` the rest of this file would prove nothing."""
    assert name in HONEST


def test_it_tells_who_proves_what_to_whom(name: str) -> None:
    """The docstring opens with one line of title and the five lines; the page that it names exists."""
    lines = (module(name).__doc__ or "").strip().splitlines()
    table = [line.split(maxsplit=1) for line in lines[2:7]]
    assert tuple(entry[0] for entry in table) == HEADINGS
    assert re.fullmatch(r"docs/protocols/[a-z0-9-]+\.md", table[4][1])
    assert (ROOT / table[4][1]).is_file(), f"{table[4][1]} is missing"


def test_no_other_method_is_called_so(name: str) -> None:
    """What is signed for one is signed under its name: two with one name could stand in for each other."""
    others = [*introducers.known(), *introducers.known_for_hosts(), *(set(KNOWN) - {name})]
    assert not any(request_label(other).startswith(request_label(name)) for other in others)


def test_both_halves_agree(introducer: SshIntroducer, honest: Honest) -> None:
    """What one half signed is what the other found; what is added to the registry is of the same machine."""
    assert isinstance(honest.stage, SshStage)
    finding = introducer.verify(honest.evidence, honest.stage)
    assert isinstance(finding, SshFinding)
    assert (finding.method, finding.transcript) == (introducer.name, honest.signed)
    assert finding.keys
    assert finding.proof
    assert finding.host is None or (finding.host.machine, finding.host.once) == (finding.holder, None)
    assert introducer.verify(honest.evidence, honest.stage) == finding


def test_it_refuses_foreign_evidence(name: str, introducer: SshIntroducer, honest: Honest) -> None:
    """Evidence of every other method, and of none, is not its own, whatever the bytes are."""
    assert isinstance(honest.stage, SshStage)
    for method in (*sorted(set(KNOWN) - {name}), *introducers.known(), "", name.upper(), f"{name} "):
        with pytest.raises(NotMine, match="evidence of method"):
            introducer.verify(dataclasses.replace(honest.evidence, method=method), honest.stage)


def test_the_messages_of_others_under_its_name_are_refused(name: str, introducer: SshIntroducer) -> None:
    """A message that was signed for another method is worth nothing here."""
    for method in sorted(set(HONEST) - {name}):
        honest = HONEST[method]()
        assert isinstance(honest.stage, SshStage)
        with pytest.raises(Refused):
            introducer.verify(dataclasses.replace(honest.evidence, method=name), honest.stage)


@pytest.mark.parametrize("payload", [b"", b"{}", b"null", b"[]", b"\x00", b"[" * 65536, b"\xff" * 64])
def test_it_refuses_garbage(introducer: SshIntroducer, honest: Honest, payload: bytes) -> None:
    """Empty, foreign and deep input is Malformed."""
    assert isinstance(honest.stage, SshStage)
    with pytest.raises(Malformed):
        introducer.verify(dataclasses.replace(honest.evidence, payload=payload), honest.stage)


def test_it_refuses_every_changed_character(introducer: SshIntroducer, honest: Honest) -> None:
    """One bit anywhere in the message: refused, or the same finding (a padding bit that no decoder reads)."""
    assert isinstance(honest.stage, SshStage)
    finding = introducer.verify(honest.evidence, honest.stage)
    for position in range(len(honest.evidence.payload)):
        mutated = bytearray(honest.evidence.payload)
        mutated[position] ^= 1
        try:
            changed = dataclasses.replace(honest.evidence, payload=bytes(mutated))
            assert introducer.verify(changed, honest.stage) == finding
        except Refused:
            continue


def test_it_refuses_unknown_fields(introducer: SshIntroducer, honest: Honest) -> None:
    """Every input is accounted for."""
    assert isinstance(honest.stage, SshStage)
    payload = msgspec.json.encode(msgspec.json.decode(honest.evidence.payload) | {"surprise": 1})
    with pytest.raises(Malformed, match="surprise"):
        introducer.verify(dataclasses.replace(honest.evidence, payload=payload), honest.stage)


@pytest.mark.parametrize("late", [timedelta(seconds=301), timedelta(minutes=50), timedelta(seconds=-1)])
def test_P4_it_refuses_a_stale_nonce(introducer: SshIntroducer, honest: Honest, late: timedelta) -> None:
    """A recorded message is worth nothing after five minutes, nor on a clock that was set back."""
    assert isinstance(honest.stage, SshStage)
    honest.stage.time += late
    with pytest.raises(EvidenceRejected, match="nonce"):
        introducer.verify(honest.evidence, honest.stage)


@pytest.mark.parametrize("nonce", [bytes(56), SshStage(nonce_key=Secret(b"x" * 32)).nonce()])
def test_P4_it_refuses_a_foreign_nonce(name: str, introducer: SshIntroducer, nonce: bytes) -> None:
    """One that the holder made up, or that another registrar gave it, proves no freshness here."""
    honest = HONEST[name](nonce_=nonce)
    assert isinstance(honest.stage, SshStage)
    assert NONCE_KEY.reveal() != b"x" * 32
    with pytest.raises(EvidenceRejected, match="nonce"):
        introducer.verify(honest.evidence, SshStage() if name == "ssh-hostkey" else honest.stage)


def test_P2_it_refuses_another_root_and_what_was_relayed(name: str, introducer: SshIntroducer, honest: Honest) -> None:
    """What is signed for another authority, or in a connection to somebody else's TLS key, is not for ours."""
    for attempt in (HONEST[name](pin=bytes(32)), HONEST[name](spki=bytes(32))):
        assert isinstance(attempt.stage, SshStage)
        with pytest.raises(EvidenceRejected):
            introducer.verify(attempt.evidence, attempt.stage)
    assert isinstance(honest.stage, SshStage)
    elsewhere = dataclasses.replace(honest.evidence, channel=Channel(bytes(32), honest.evidence.channel.client))
    with pytest.raises(EvidenceRejected):
        introducer.verify(elsewhere, honest.stage)
