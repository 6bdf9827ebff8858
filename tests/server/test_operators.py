"""The operator's API: who may use it, and that it says what the local command says."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from ipaddress import ip_address
from pathlib import Path

import msgspec
import pytest

from handfast.core import checkpoint, merkle, views, wire
from handfast.core.invitation import InvitationLine
from handfast.core.roles import Role
from handfast.registrar.operator import LocalOperator
from handfast.server import connections
from handfast.server.operators import Entries
from handfast.server.routes import ROUTES
from handfast.wiring import log_origin
from tests.server.running import Client, Running, running

OPERATED = [(route.method, re.sub(r"\{\w+\}", "x", route.path)) for route in ROUTES if route.operator]


@pytest.fixture
def operator(registrar: Running) -> Iterator[Client]:
    """A connection with a new operator credential."""
    joined = registrar.credential("alice", Role.OPERATOR)
    with registrar.connect(registrar.context_with(joined)) as client:
        yield client


def invited(client: Client, **more: object) -> views.InviteAnswer:
    """Make an invitation through the API."""
    request = {"machine": "db1.lan", "role": "server", "seconds": 3600} | more
    status, answer = client.call("POST", "/v1/invitations", msgspec.json.encode(request))
    assert status == 201, answer
    return msgspec.json.decode(answer, type=views.InviteAnswer)


@pytest.mark.parametrize(("method", "path"), OPERATED)
def test_nobody_gets_in_without_a_certificate(registrar: Running, method: str, path: str) -> None:
    """Every route of the operator refuses a stranger, before it reads a body."""
    with registrar.connect() as client:
        problem = client.problem(method, path)
        assert (problem.status, problem.code) == (403, "not-authorized")


@pytest.mark.parametrize("role", [Role.CLIENT, Role.PEER, Role.AGENT, Role.CONTROLLER])
@pytest.mark.parametrize(("method", "path"), OPERATED)
def test_no_other_role_gets_in(registrar: Running, role: Role, method: str, path: str) -> None:
    """A credential of another role is none of an operator (rule 6)."""
    joined = registrar.credential(f"{role}.lan", role)
    with registrar.connect(registrar.context_with(joined)) as client:
        assert client.problem(method, path).code == "not-authorized"


def test_revoked_operator_is_out_at_once(registrar: Running) -> None:
    """An operator who is revoked is refused on the connection that is open already."""
    joined = registrar.credential("mallory", Role.OPERATOR)
    with registrar.connect(registrar.context_with(joined)) as client:
        assert client.call("GET", "/v1/machines")[0] == 200
        registrar.service.administration.revoke("mallory", reason="keyCompromise")
        problem = client.problem("GET", "/v1/machines")
        assert (problem.code, problem.detail) == ("not-authorized", "the operator credential of 'mallory' is revoked")


def test_expired_operator_is_out_on_an_open_connection(tmp_path: Path) -> None:
    """An operator credential that ends during a connection ends there too."""
    with running(tmp_path / "data") as registrar:
        joined = registrar.credential("night-shift", Role.OPERATOR)
        with registrar.connect(registrar.context_with(joined)) as client:
            registrar.clock.offset = timedelta(hours=25)
            assert client.problem("GET", "/v1/machines").code == "not-authorized"


def test_invitation_made_remotely_is_good(registrar: Running, operator: Client) -> None:
    """A line from the API introduces the machine, with the bounds asked for; the log names the operator."""
    answer = invited(operator, names=["db1.lan", "10.1.2.3"], sources=["127.0.0.0/8"], uses=2)
    assert (answer.invitation.names, answer.invitation.uses) == (["db1.lan", "10.1.2.3"], 2)
    with registrar.connect() as newcomer:
        newcomer.join(InvitationLine.parse(answer.line))
    events = registrar.service.ledger.events(kind_prefix="operator.invite", subject="db1.lan")
    assert events[-1].fields["operator"] == "alice"


def test_invitation_is_cancelled_remotely(registrar: Running, operator: Client) -> None:
    """A cancelled invitation introduces nobody; cancelling what does not exist is 404."""
    answer = invited(operator, machine="never.lan")
    assert operator.call("DELETE", f"/v1/invitations/{answer.invitation.key_id}")[0] == 200
    assert operator.problem("DELETE", "/v1/invitations/0000000000000000").code == "not-found"
    with registrar.connect() as newcomer, pytest.raises(AssertionError, match="invitation-cancelled"):
        newcomer.join(InvitationLine.parse(answer.line))


def test_list_and_show_say_what_the_command_says(registrar: Running, operator: Client) -> None:
    """The API's JSON is that of `list --json` and `show --json`."""
    registrar.credential("web7.lan", Role.SERVER)
    local = LocalOperator(registrar.service.administration)
    assert operator.call("GET", "/v1/machines")[1] == msgspec.json.encode(local.list())
    assert operator.call("GET", "/v1/machines/web7.lan")[1] == msgspec.json.encode(local.show("web7.lan"))
    assert operator.problem("GET", "/v1/machines/nobody.lan").code == "not-found"


def test_revocation_takes_back_remotely(registrar: Running, operator: Client) -> None:
    """What is revoked through the API is on the ledger when the answer comes, and why in the operator's words."""
    joined = registrar.credential("gone.lan", Role.SERVER)
    request = {"what": "gone.lan", "reason": "the laptop was stolen"}
    status, answer = operator.call("POST", "/v1/revocations", msgspec.json.encode(request))
    serial = joined.certificate.serial_number
    assert (status, msgspec.json.decode(answer)) == (
        200,
        {"serials": [views.serial_text(serial)], "host_keys": [], "ssh": []},
    )
    assert serial in {revocation.serial for revocation in registrar.service.ledger.revocations()}
    (remark,) = registrar.service.ledger.events(kind_prefix="revocation.remark", subject="gone.lan")
    assert remark.fields == {"remark": "the laptop was stolen"}
    request["reason"] = ""
    assert operator.problem("POST", "/v1/revocations", msgspec.json.encode(request)).code == "usage"


def test_an_operator_forges_no_line_of_the_log(registrar: Running, operator: Client) -> None:
    """What is no name is refused before it is noted; a name is noted as it is, not as it was written."""
    size = registrar.service.ledger.head().size
    for text in ("x\n4711  2026-01-01T00:00:00Z  credential.revoked  web1.lan", "\x1b[2K", "", "a b"):
        invite = {"machine": text, "role": "server", "seconds": 60}
        assert operator.problem("POST", "/v1/invitations", msgspec.json.encode(invite)).code == "malformed"
        revoke = {"what": text, "reason": "superseded"}
        assert operator.problem("POST", "/v1/revocations", msgspec.json.encode(revoke)).code == "malformed"
    assert registrar.service.ledger.head().size == size
    invited(operator, machine="UPPER.lan")
    joined = registrar.credential("colons.lan", Role.SERVER)
    serial = views.serial_text(joined.certificate.serial_number)
    colons = ":".join(serial[i : i + 2] for i in range(0, 32, 2)).upper()
    request = {"what": colons, "reason": "superseded"}
    assert operator.call("POST", "/v1/revocations", msgspec.json.encode(request))[0] == 200
    subjects = [event.subject for event in registrar.service.ledger.events(kind_prefix="operator.")]
    assert subjects[-2:] == ["upper.lan", serial]


def test_a_long_list_comes_in_pages(tmp_path: Path) -> None:
    """More machines than fit into one answer are listed whole by the command that asks from elsewhere."""
    with running(tmp_path / "data") as registrar:
        joined = registrar.credential("alice", Role.OPERATOR)
        names = [f"{number:03}.{'x' * 60}.lan" for number in range(300)]
        for name in names:
            registrar.invite(name, sans=(name, *(f"{n}.{name}" for n in range(15))))
        expected = LocalOperator(registrar.service.administration).list()
        with registrar.connect(registrar.context_with(joined)) as client:
            found: list[views.MachineView] = []
            sizes = []
            while True:
                after = f"?after={found[-1].name}" if found else ""
                status, answer = client.call("GET", f"/v1/machines{after}")
                sizes.append(len(answer))
                page = msgspec.json.decode(answer, type=list[views.MachineView])
                assert status == 200
                if not page:
                    break
                found += page
    assert len(sizes) > 2
    assert max(sizes) < wire.MAX_ANSWER / 2
    assert found == expected
    assert [machine.name for machine in found] == [*names, "alice"]


def test_metrics_are_for_this_machine_and_holders_of_credentials(
    registrar: Running, operator: Client, monkeypatch: pytest.MonkeyPatch
) -> None:
    """From elsewhere a stranger learns nothing of the alarms; any credential of ours, while it is valid, reads them."""
    monkeypatch.setattr(connections, "peer_address", lambda _peername: ip_address("192.0.2.7"))
    scraper = registrar.credential("prometheus.lan", Role.CLIENT)
    with registrar.connect() as stranger:
        problem = stranger.problem("GET", "/metrics")
        assert (problem.status, problem.code) == (403, "not-authorized")
    with registrar.connect(registrar.context_with(scraper)) as client:
        assert b"handfast_alarms_total" in client.call("GET", "/metrics")[1]
        registrar.service.administration.revoke("prometheus.lan", reason="keyCompromise")
        assert client.problem("GET", "/metrics").code == "not-authorized"
    assert operator.call("GET", "/metrics")[0] == 200


def test_unknown_fields_are_refused(operator: Client) -> None:
    """A request with a field that we do not know is not guessed at."""
    request = {"machine": "a.lan", "role": "server", "seconds": 60, "forever": True}
    assert operator.problem("POST", "/v1/invitations", msgspec.json.encode(request)).code == "malformed"


@pytest.mark.parametrize("wrong", [{"role": "registrar"}, {"seconds": 10**9}, {"uses": 10**6}, {"sources": ["here"]}])
def test_invitation_beyond_the_bounds_is_refused(operator: Client, wrong: dict[str, object]) -> None:
    """No operator can ask for the registrar's role, or for more than an invitation may have."""
    request = {"machine": "a.lan", "role": "server", "seconds": 60} | wrong
    assert operator.problem("POST", "/v1/invitations", msgspec.json.encode(request)).status == 400


def test_log_proves_itself_remotely(tmp_path: Path) -> None:
    """The entries from the API hash to the root of the checkpoint from the API, signed by the log's key."""
    with running(tmp_path / "data") as registrar:
        joined = registrar.credential("auditor", Role.OPERATOR)
    with running(tmp_path / "data", clients="again") as registrar:
        with registrar.connect(registrar.context_with(joined)) as client:
            note = client.call("GET", "/v1/log/checkpoint")[1].decode()
            entries = msgspec.json.decode(client.call("GET", "/v1/log/entries?start=0")[1], type=Entries).entries
        authority = registrar.service.authority
        signed = checkpoint.verify(note, log_origin(authority.public), authority.public.log_key)
        tree = merkle.Frontier()
        for entry in entries[: signed.size]:
            tree = tree.append(merkle.leaf_hash(entry))
        assert (tree.size, tree.root()) == (signed.size, signed.root)


def test_entries_start_where_asked(operator: Client) -> None:
    """Paging through the log gives every entry once; nonsense starts at the beginning."""
    whole = msgspec.json.decode(operator.call("GET", "/v1/log/entries")[1], type=Entries)
    rest = msgspec.json.decode(operator.call("GET", "/v1/log/entries?start=3")[1], type=Entries)
    assert rest.entries[: len(whole.entries) - 3] == whole.entries[3:]
    assert msgspec.json.decode(operator.call("GET", "/v1/log/entries?start=x")[1], type=Entries).start == 0
