"""Approvals over HTTPS: an operator sees both sides and decides; whoever waits gets a 202 and the id."""

from __future__ import annotations

from collections.abc import Iterator
from datetime import UTC, datetime

import msgspec
import pytest

from handfast import errors
from handfast.adapters.problems import refused
from handfast.core import wire
from handfast.core.approvals import ApprovalRow, ApprovalView
from handfast.core.hosts import How
from handfast.core.records import Approval
from handfast.core.roles import Role
from handfast.errors import Waiting
from handfast.newcomer.connection import problem as as_error
from tests.ledger.material import host_grant, ssh_key
from tests.server.running import Client, Running


@pytest.fixture
def operator(registrar: Running) -> Iterator[Client]:
    """A connection with a new operator credential."""
    joined = registrar.credential("alice", Role.OPERATOR)
    with registrar.connect(registrar.context_with(joined)) as client:
        yield client


def asked(registrar: Running, *keys: int, machine: str = "web1.lan") -> Approval:
    """A question, as a flow asks it."""
    grant = host_grant(*keys, machine=machine, how=How.SSH_HOSTKEY, places=(machine,))
    return registrar.service.ledger.ask(grant, ("new keys",), at=datetime.now(UTC)).result()


def decide(client: Client, approval: Approval, decision: str, reason: str = "looked at") -> tuple[int, bytes]:
    """Say yes or no."""
    body = msgspec.json.encode({"decision": decision, "reason": reason})
    return client.call("POST", f"/v1/approvals/{approval.approval_id}", body)


def listed(client: Client, query: str = "") -> dict[str, str]:
    """Return the status of each approval in the list."""
    status, answer = client.call("GET", f"/v1/approvals{query}")
    assert status == 200
    return {row.approval_id: row.status for row in msgspec.json.decode(answer, type=list[ApprovalRow])}


def test_what_waits_is_listed_and_shown(registrar: Running, operator: Client) -> None:
    """A list has the questions, and one of them both sides."""
    known = host_grant(1, machine="a.lan", places=("a.lan",))
    registrar.service.ledger.register(known, None, at=datetime.now(UTC)).result()
    question = asked(registrar, 2, machine="a.lan")
    assert listed(operator)[question.approval_id] == "open"
    status, answer = operator.call("GET", f"/v1/approvals/{question.approval_id}")
    view = msgspec.json.decode(answer, type=ApprovalView)
    assert (status, view.machine, view.reasons, view.status) == (200, "a.lan", ["new keys"], "open")
    assert [key.fingerprint for key in view.keys] == [ssh_key(2).fingerprint]
    assert view.now is not None
    assert [key.fingerprint for key in view.now.keys] == [ssh_key(1).fingerprint]


def test_a_yes_and_a_no(registrar: Running, operator: Client) -> None:
    """A yes records the keys, a no does not, and the log has who said so; what is decided is listed on request only."""
    yes, no = asked(registrar, 3, machine="yes.lan"), asked(registrar, 4, machine="no.lan")
    status, answer = decide(operator, yes, "accepted")
    view = msgspec.json.decode(answer, type=ApprovalView)
    assert (status, view.status, view.decided_by) == (200, "accepted", "alice (operator)")
    assert decide(operator, no, "rejected")[0] == 200
    ledger = registrar.service.ledger
    host = ledger.host("yes.lan")
    assert host is not None
    assert host.current == {ssh_key(3)}
    assert ledger.host("no.lan") is None
    (event,) = ledger.events(kind_prefix="approval.rejected", subject="no.lan")
    assert event.fields["by"] == "alice (operator)"
    assert not {yes.approval_id, no.approval_id} & listed(operator, "").keys()
    assert listed(operator, "?all=1")[no.approval_id] == "rejected"


def test_what_cannot_be_decided(registrar: Running, operator: Client) -> None:
    """Twice, nothing, and words that mean nothing: each with its code, and nothing changes."""
    question = asked(registrar, 5, machine="twice.lan")
    path = f"/v1/approvals/{question.approval_id}"
    assert operator.problem("POST", path, b'{"decision":"maybe","reason":"x"}').code == "malformed"
    assert operator.problem("POST", path, b'{"decision":"accepted"}').code == "malformed"
    assert operator.problem("POST", path, b'{"decision":"accepted","reason":"x","keys":[]}').code == "malformed"
    assert operator.problem("POST", path, b'{"decision":"accepted","reason":"two\\nlines"}').code == "usage"
    assert decide(operator, question, "rejected")[0] == 200
    problem = operator.problem("POST", path, b'{"decision":"accepted","reason":"x"}')
    assert (problem.code, problem.status) == ("refused", 403)
    assert problem.detail == f"the approval {question.approval_id} is rejected by alice (operator)"
    assert operator.problem("GET", "/v1/approvals/0000000000000000").code == "not-found"
    assert registrar.service.ledger.host("twice.lan") is None


def test_P26_an_operator_who_was_revoked_decides_nothing(registrar: Running) -> None:
    """The credential is looked up at every request, also on a connection that is open already."""
    joined = registrar.credential("mallory", Role.OPERATOR)
    question = asked(registrar, 6, machine="kept.lan")
    with registrar.connect(registrar.context_with(joined)) as client:
        assert client.call("GET", "/v1/approvals")[0] == 200
        registrar.service.administration.revoke("mallory", reason="keyCompromise")
        body = b'{"decision":"accepted","reason":"x"}'
        problem = client.problem("POST", f"/v1/approvals/{question.approval_id}", body)
        assert problem.code == "not-authorized"
    assert registrar.service.ledger.host("kept.lan") is None


def test_who_waits_is_told_so() -> None:
    """It is no failure for HTTP (202) and an error for the newcomer, with the same message and hint on both sides."""
    said = Waiting("a person has to approve", hint="handfast approve show 0011223344556677")
    response = refused(said)
    assert (response.status, response.content_type) == (202, "application/problem+json")
    assert isinstance(response.body, bytes)
    assert msgspec.json.decode(response.body, type=wire.Problem).code == "waiting"
    heard = as_error(response.body, response.status, "registrar.lan:7443")
    assert isinstance(heard, errors.Waiting)
    assert (heard.message, heard.hint) == (said.message, said.hint)


@pytest.mark.parametrize("approval_id", ["x", "..%2f..%2fetc", "%1b%5b2J", "0" * 500])
def test_ids_that_are_none(operator: Client, approval_id: str) -> None:
    """An id that is none is not found, and comes back harmless."""
    problem = operator.problem("GET", f"/v1/approvals/{approval_id}")
    assert problem.code == "not-found"
    assert problem.detail.isprintable()
