"""What is printed of an approval: both sides, and nothing that a terminal would act on, whoever said it."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

import pytest

from handfast.cli import approve, main
from handfast.core import randomart
from handfast.core.approvals import ApprovalRow, ApprovalView, DecideRequest, approval_row, approval_view
from handfast.core.flow import HostGrant
from handfast.core.hosts import Grade, Host, HostKey, How, Place
from handfast.core.records import Approval
from handfast.errors import Waiting
from tests.ledger.material import ssh_key

NOW = datetime(2026, 11, 22, 12, tzinfo=UTC)
EVIL = "\x1b]52;c;aGk=\x07\x1b[2J\r\n\u202eaccepted\u2066"
ID = "0123456789abcdef"


def asked(*keys: int, words: str = "a test", status: str | None = None) -> Approval:
    """A question, as a registrar that is not honest could send it."""
    place = Place.parse(("web1.lan", "10.0.0.1"), aliases=["w1"], ports=(2222,))
    grant = HostGrant("web1.lan", tuple(map(ssh_key, keys)), How.SSH_HOSTKEY, words, place)
    decided = {"decision": status, "decided_at": NOW, "decided_by": words, "decided_reason": words} if status else {}
    return Approval(ID, grant, (words, "another reason"), NOW, NOW + timedelta(days=7), **decided)  # type: ignore[arg-type]


class Fake:
    """An approver with one question."""

    def __init__(self, question: Approval, known: Host | None) -> None:
        self.question, self.known = question, known
        self.said: DecideRequest | None = None

    def approvals(self, *, every: bool = False) -> list[ApprovalRow]:
        """As ``Approver``."""
        return [approval_row(self.question, NOW)]

    def approval(self, approval_id: str) -> ApprovalView:
        """As ``Approver``."""
        return approval_view(self.question, known=self.known, accept=Grade.SEEN, now=NOW)

    def decide(self, approval_id: str, request: DecideRequest) -> ApprovalView:
        """As ``Approver``."""
        self.said = request
        return self.approval(approval_id)


def known(*keys: int, words: str = "invitation 00") -> Host:
    """What is known of the machine."""
    place = Place.parse(("web1.lan",))
    return Host("web1.lan", place, tuple(HostKey(ssh_key(number), How.INVITATION, words, NOW) for number in keys))


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> type[Fake]:
    """The command line before a fake approver."""

    class Ready(Fake):
        def run(self, *arguments: str) -> int:
            monkeypatch.setattr(approve, "_approver", lambda *_: self)
            return main.run(["approve", *arguments])

    return Ready


def test_both_sides(run: type[Fake], capsys: pytest.CaptureFixture[str]) -> None:
    """Fingerprint, picture and story of each key, of those that were asked about and those that are known."""
    assert run(asked(2, 3), known(1, 2)).run("show", ID) == 0  # type: ignore[attr-defined]
    out = capsys.readouterr().out
    before, after = out.split("known now: ")
    for number in (2, 3):
        assert ssh_key(number).fingerprint in before
    for number in (1, 2):
        assert ssh_key(number).fingerprint in after
    assert f"{ssh_key(2).fingerprint}  ssh-ed25519, which it has" in before
    pictures = [randomart.picture(ssh_key(number)).split("\n") for number in (2, 3)]
    assert all(f"  {left}   {right}\n" in before for left, right in zip(*pictures, strict=True))
    assert "to be reached as w1, web1.lan, 10.0.0.1 at port 2222" in before
    assert "because of a test" in before
    assert "known by ssh-hostkey (challenged): the key answered twice" in before
    assert "the key signed when the machine joined with an invitation (invitation 00)" in after


@pytest.mark.parametrize("host", [None, Host("web1.lan", Place(), ())])
def test_nothing_is_known(run: type[Fake], capsys: pytest.CaptureFixture[str], host: Host | None) -> None:
    """Of a machine that nobody knows, or that was removed, there is one side."""
    assert run(asked(2), host).run("show", ID) == 0  # type: ignore[attr-defined]
    assert capsys.readouterr().out.endswith("known now: nothing\n")


@pytest.mark.parametrize("arguments", [("list",), ("show", ID), ("show", ID, "--json"), ("list", "--json")])
@pytest.mark.parametrize("status", [None, "rejected"])
def test_P26_no_text_moves_the_cursor(
    run: type[Fake], capsys: pytest.CaptureFixture[str], arguments: tuple[str, ...], status: str | None
) -> None:
    """Escapes, line ends and marks that turn text around are printed as what they are, in words and in JSON."""
    fake = run(asked(2, words=EVIL, status=status), known(1, words=EVIL))
    assert fake.run(*arguments) == 0  # type: ignore[attr-defined]
    out = capsys.readouterr().out
    assert all(line.replace("\t", "").isprintable() for line in out.split("\n"))
    assert "accepted" in out
    assert not any(line.lstrip().startswith("accepted") for line in out.split("\n"))


@pytest.mark.parametrize(("command", "decision"), [("accept", "accepted"), ("reject", "rejected")])
def test_the_word_that_is_said(
    run: type[Fake], capsys: pytest.CaptureFixture[str], command: str, decision: str
) -> None:
    """Accept says yes and reject says no, with the reason as it was typed."""
    fake = run(asked(2), None)
    assert fake.run(command, ID, "--reason", "seen on its console") == 0  # type: ignore[attr-defined]
    assert fake.said is not None
    assert (fake.said.decision, fake.said.reason) == (decision, "seen on its console")
    assert capsys.readouterr().out == ""


def test_waiting_is_an_exit_code_of_its_own() -> None:
    """Scripts can tell that a person is needed from a refusal."""
    from handfast.cli.exit_codes import exit_code

    assert exit_code(Waiting("a person has to approve")) == 6
