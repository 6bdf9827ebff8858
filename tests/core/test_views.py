"""What an operator is shown: derived from records and a time, the same JSON everywhere."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, datetime, timedelta, timezone
from ipaddress import ip_network

import msgspec
import pytest

from handfast.core import views
from handfast.core.names import Names
from handfast.core.records import CredentialRecord, Event, Invitation, Machine
from handfast.core.roles import Role

NOW = datetime(2026, 11, 22, 5, 0, tzinfo=UTC)
HOUR = timedelta(hours=1)
INVITATION = Invitation(
    key_id="0123456789abcdef",
    public_half=bytes(32),
    machine="web1.lan",
    role=Role.SERVER,
    names=Names.parse(["web1.lan", "10.0.0.1"]),
    uses=1,
    created_at=NOW - HOUR,
    expires_at=NOW + HOUR,
    sources=(ip_network("10.0.0.0/8"),),
)
CREDENTIAL = CredentialRecord(
    serial=0x1F,
    machine="web1.lan",
    role=Role.SERVER,
    method="invitation",
    trust_domain="test.lan",
    marker=INVITATION.marker,
    not_before=NOW - HOUR,
    not_after=NOW + HOUR,
    names=INVITATION.names,
    intended_at=NOW,
    why=("it signed",),
    certificate=b"DER",
    issued_at=NOW,
)


def seen(*credentials: CredentialRecord, invitations: tuple[Invitation, ...] = ()) -> views.MachineView:
    """Return the view of a machine that was never introduced otherwise."""
    return views.machine_view(
        "web1.lan", machine=None, credentials=credentials, invitations=invitations, alarms=(), now=NOW
    )


def test_credential_is_shown_whole() -> None:
    """Serials have 32 digits, times are UTC, names come DNS first."""
    assert msgspec.to_builtins(views.credential_view(CREDENTIAL, NOW)) == {
        "serial": "0000000000000000000000000000001f",
        "role": "server",
        "method": "invitation",
        "status": "valid",
        "names": ["web1.lan", "10.0.0.1"],
        "not_before": "2026-11-22T04:00:00Z",
        "not_after": "2026-11-22T06:00:00Z",
        "issued_at": "2026-11-22T05:00:00Z",
        "revoked_at": None,
        "revoked_reason": None,
        "why": ["it signed"],
    }


def test_invitation_shows_no_key() -> None:
    """An invitation is shown with its bounds, without even the public key."""
    shown = msgspec.to_builtins(views.invitation_view(INVITATION, NOW))
    assert (shown["status"], shown["sources"], shown["key_id"]) == ("open", ["10.0.0.0/8"], INVITATION.key_id)
    assert "public_key" not in shown


@pytest.mark.parametrize(
    ("view", "status"),
    [
        (seen(), "unknown"),
        (seen(invitations=(INVITATION,)), "invited"),
        (seen(invitations=(replace(INVITATION, spent=1),)), "invitation used"),
        (seen(CREDENTIAL, invitations=(INVITATION,)), "valid"),
        (seen(replace(CREDENTIAL, not_after=NOW)), "expired"),
        (seen(replace(CREDENTIAL, revoked_at=NOW, revoked_reason="superseded")), "revoked"),
        (seen(replace(CREDENTIAL, certificate=None)), "intended"),
        (seen(replace(CREDENTIAL, not_after=NOW - HOUR), CREDENTIAL), "valid"),
    ],
)
def test_status_is_that_of_the_newest(view: views.MachineView, status: str) -> None:
    """The newest credential says how a machine is; before the first one, its newest invitation."""
    assert view.status == status


def test_machine_with_alarm() -> None:
    """Alarms and history are shown with their fields; the introduction's time too."""
    event = Event("alarm.second-key", NOW, "web1.lan", {"method": "invitation"})
    view = views.machine_view(
        "web1.lan",
        machine=Machine("web1.lan", Role.SERVER, NOW),
        credentials=(),
        invitations=(),
        alarms=(event,),
        history=(event,),
        now=NOW,
    )
    assert (view.role, view.introduced_at) == (Role.SERVER, "2026-11-22T05:00:00Z")
    assert view.alarms == view.history == [views.event_view(event)]


def test_times_of_other_zones_are_told_in_utc() -> None:
    """One instant has one text."""
    assert views.time_text(NOW.astimezone(timezone(HOUR))) == views.time_text(NOW) == "2026-11-22T05:00:00Z"
