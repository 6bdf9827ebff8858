"""The five values of the flow are values: nobody changes one after it was decided."""

from __future__ import annotations

import dataclasses
from datetime import UTC, datetime, timedelta

import pytest

from handfast.core import flow
from handfast.core.names import Names
from handfast.core.records import CredentialRecord, Invitation
from handfast.core.roles import Role

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
VALUES = (
    flow.Channel,
    flow.Evidence,
    flow.Wish,
    flow.Entitlement,
    flow.Once,
    flow.Finding,
    flow.Grant,
    flow.Intent,
    flow.Credential,
    flow.Answer,
)


@pytest.mark.parametrize("kind", VALUES)
def test_values_are_frozen_and_slotted(kind: type) -> None:
    """Neither a field nor a new attribute can be set between two layers."""
    assert dataclasses.is_dataclass(kind)
    assert kind.__dataclass_params__.frozen  # type: ignore[attr-defined]
    assert "__slots__" in vars(kind)


def test_one_use_is_the_default() -> None:
    """A marker that says nothing else is for one key."""
    assert flow.Once("m").uses == 1


def test_a_wish_for_nothing_is_no_wish_for_everything() -> None:
    """The default wish names no role and no names."""
    assert flow.Wish() == flow.Wish(None, Names(), None)


def test_a_proof_does_not_reach_the_grant() -> None:
    """A grant has no field into which evidence could be copied."""
    assert {field.name for field in dataclasses.fields(flow.Grant)} == {
        "machine",
        "role",
        "spiffe_id",
        "names",
        "public_key",
        "not_before",
        "not_after",
        "method",
        "why",
        "reintroduction_key",
        "subject",
        "host",
    }
    assert {field.name for field in dataclasses.fields(flow.HostGrant)} == {
        "machine",
        "keys",
        "how",
        "detail",
        "place",
        "complete",
        "basis",
        "quiet",
    }


def invitation(**changes: object) -> Invitation:
    """An open invitation for one use within an hour."""
    base = Invitation("00" * 8, b"", "web1", Role.SERVER, Names(), 1, NOW, NOW + timedelta(hours=1))
    return dataclasses.replace(base, **changes)  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("changes", "at", "status"),
    [
        ({}, NOW, "open"),
        ({}, NOW + timedelta(minutes=59, seconds=59), "open"),
        ({}, NOW + timedelta(hours=1), "expired"),
        ({"spent": 1}, NOW, "used"),
        ({"spent": 1, "uses": 2}, NOW, "open"),
        ({"spent": 1, "cancelled": "lost"}, NOW, "cancelled"),
        ({"uses": 0}, NOW, "used"),
    ],
)
def test_the_status_of_an_invitation_is_derived(changes: dict[str, object], at: datetime, status: str) -> None:
    """Cancelled before used before expired; the end is outside; no uses is none."""
    assert invitation(**changes).status(at) == status


def test_the_status_of_a_credential_is_derived() -> None:
    """Revoked before everything, valid only once issued, and not at its end."""
    end = NOW + timedelta(days=1)
    record = CredentialRecord(
        1, "web1", Role.SERVER, "invitation", "test.lan", "m", NOW, end, Names(), NOW, (), b"leaf"
    )
    assert record.status(NOW) == "valid"
    assert record.status(record.not_after) == "expired"
    assert dataclasses.replace(record, certificate=None).status(NOW) == "intended"
    assert dataclasses.replace(record, revoked_at=NOW).status(record.not_after) == "revoked"


def test_markers_of_different_kinds_do_not_meet() -> None:
    """An invitation's marker never equals that of a credential's succession."""
    record = CredentialRecord(0xAB, "a", Role.SERVER, "x", "test.lan", "m", NOW, NOW, Names(), NOW, ())
    assert invitation().marker == "invitation:" + "00" * 8
    assert record.successor_marker == f"successor:{0xAB:032x}"
