"""SSH certificates in every ledger: what is recorded, what is the answer to the same again, and what is refused."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace
from datetime import timedelta

import pytest

from handfast.core.flow import Once, SshCredential
from handfast.core.hosts import REMOVED
from handfast.core.records import Event, SshPast
from handfast.core.sshcert import Kind
from handfast.errors import AlreadySpent, Malformed, NotFound, Refused, Revoked
from handfast.ledger import audit
from handfast.ledger.store import SqlLedger
from tests.ledger.material import LATER, LOG_KEY, NOW, ORIGIN, host_grant, ssh_key
from tests.ledger.ssh_material import (
    WEEK,
    certificate,
    get,
    host_leaf,
    known,
    ssh_grant,
    user_grant,
    user_leaf,
)

ONCE = Once("test:1")


@pytest.fixture(autouse=True)
def _it_proves_itself(store: SqlLedger) -> Iterator[None]:
    """Whatever a test has done, log and tables agree afterwards."""
    yield
    audit.verify(store, LOG_KEY.public_key(), ORIGIN)


def kinds(store: SqlLedger, holder: str = "web1.lan") -> list[str]:
    """What was logged of a holder's certificates."""
    return [event.kind for event in store.events(subject=holder) if not event.kind.startswith("host")]


def test_what_is_issued_is_found(store: SqlLedger) -> None:
    """By its serial, its holder and its key, with all that it holds."""
    known(store, 1, 2)
    first, second = get(store, ssh_grant(host_leaf(1), host_leaf(2)))
    (user,) = get(store, user_grant(3), ONCE, at=LATER)
    record = store.ssh_certificate(first)
    assert record is not None
    assert (record.leaf, record.holder, record.kind) == (host_leaf(1), "web1.lan", Kind.HOST)
    assert (record.certificate, record.intended_at, record.issued_at) == (certificate(first), NOW, NOW)
    assert (record.method, record.why) == ("ssh-pop", ssh_grant(host_leaf(1)).why)
    assert [record.status(at) for at in (NOW, NOW + WEEK)] == ["valid", "expired"]
    assert store.ssh_past(ssh_key(1), at=NOW) == SshPast(last=record)
    assert {each.serial for each in store.ssh_certificates("web1.lan")} == {first, second}
    assert store.ssh_certificates()[0].serial == user
    assert {each.serial for each in store.ssh_certificates(after=LATER + timedelta(days=1))} == {first, second}
    assert store.ssh_certificates("ann@example.org", after=LATER + timedelta(days=1)) == []
    found = store.ssh_certificate(user)
    assert found is not None
    assert found.leaf == user_leaf(3)
    host = store.host_of_key(ssh_key(2))
    assert host is not None
    assert host.machine == "web1.lan"
    assert store.host_of_key(ssh_key(3)) is None
    assert kinds(store) == ["sshcert.intended"] * 2 + ["sshcert.issued"] * 2


@pytest.mark.parametrize("serial", [0, -1, 1, 2**63, 2**64 - 1, 2**70])
def test_serials_that_are_none_of_ours(store: SqlLedger, serial: int) -> None:
    """Whatever number a stranger asks about, there is nothing, and nothing breaks."""
    assert store.ssh_certificate(serial) is None
    with pytest.raises(NotFound, match=f"no SSH certificate {serial}"):
        store.revoke_ssh(serial, reason="superseded", at=NOW).result()
    with pytest.raises(NotFound):
        store.issued_ssh((SshCredential(serial, host_leaf(1), b"x"),), at=NOW).result()


def test_the_same_again_is_the_same_answer(store: SqlLedger) -> None:
    """Same key and names: the certificate on record, while over half of its life is left; then a new one."""
    known(store, 1)
    (first,) = get(store, ssh_grant(host_leaf(1)))
    size = store.head().size
    half = host_leaf(1).valid_before - WEEK / 2
    for at in (NOW, LATER, half - timedelta(seconds=1)):
        later = host_leaf(1, start=at - NOW)  # policy would have it begin later
        (again,) = store.intend_ssh(ssh_grant(later), None, at=at).result()
        assert (again.serial, again.leaf, again.certificate) == (first, host_leaf(1), certificate(first))
    (other_order,) = store.intend_ssh(ssh_grant(host_leaf(1, "10.0.0.1", "web1.lan")), None, at=NOW).result()
    assert (other_order.serial, store.head().size) == (first, size)
    renewed = host_leaf(1, start=half - NOW)
    (new,) = get(store, ssh_grant(renewed), at=half)
    assert new != first
    assert get(store, ssh_grant(host_leaf(1, "web1.lan"))) not in ((first,), (new,))  # other names
    assert store.ssh_standing("web1.lan", at=half)[0].serial != first


def test_what_is_on_record_holds_no_more_than_was_decided_now(store: SqlLedger) -> None:
    """Where policy has become shorter, or less is asked for, the longer one is no answer."""
    known(store, 1)
    (long,) = get(store, ssh_grant(host_leaf(1)))
    (short,) = get(store, ssh_grant(host_leaf(1, life=timedelta(days=1))))
    assert get(store, ssh_grant(host_leaf(1, life=timedelta(days=1)))) == (short,)
    assert get(store, ssh_grant(host_leaf(1))) == (long,)
    assert short != long


def test_a_repeat_spends_nothing(store: SqlLedger) -> None:
    """A new marker for what is on record stays unspent, and one that these keys have spent answers the same."""
    known(store, 1, 2)
    (first,) = get(store, ssh_grant(host_leaf(1)), ONCE)
    assert get(store, ssh_grant(host_leaf(1)), ONCE) == (first,)
    assert get(store, ssh_grant(host_leaf(1)), Once("test:2")) == (first,)
    (other,) = get(store, ssh_grant(host_leaf(2)), Once("test:2"))
    assert other != first
    assert kinds(store).count("alarm.second-key") == 0


def test_some_are_on_record(store: SqlLedger) -> None:
    """Of several keys those that have a certificate keep it, in the order of the keys."""
    known(store, 1, 2, 3)
    (second,) = get(store, ssh_grant(host_leaf(2)))
    serials = get(store, ssh_grant(host_leaf(1), host_leaf(2), host_leaf(3)))
    assert serials[1] == second
    assert len(set(serials)) == 3


def test_a_marker_is_for_one_set_of_keys(store: SqlLedger) -> None:
    """Other keys under a spent marker are refused, and an alarm, of hosts and of people."""
    known(store, 1, 2)
    get(store, ssh_grant(host_leaf(1)), ONCE)
    get(store, user_grant(3), Once("oidc:1"))
    for grant, once in (
        (ssh_grant(host_leaf(2)), ONCE),
        (ssh_grant(host_leaf(1), host_leaf(2)), ONCE),
        (user_grant(4), Once("oidc:1")),
    ):
        for _ in range(2):
            with pytest.raises(AlreadySpent, match="was already used, for other SSH keys than these"):
                store.intend_ssh(grant, once, at=LATER).result()
    assert {each.leaf.key for each in store.ssh_certificates()} == {ssh_key(1), ssh_key(3)}
    assert kinds(store).count("alarm.second-key") == 2
    assert kinds(store, "ann@example.org").count("alarm.second-key") == 1


def test_what_a_person_spends_gives_one_certificate(store: SqlLedger) -> None:
    """The same token with the same key is the same certificate; another token is another, and none outlives its own."""
    (first,) = get(store, user_grant(1), ONCE)
    size = store.head().size
    (again,) = store.intend_ssh(user_grant(1, "root"), ONCE, at=LATER).result()
    assert (again.serial, again.leaf, again.certificate) == (first, user_leaf(1), certificate(first))
    assert store.head().size == size
    (second,) = get(store, user_grant(1), Once("test:2"))
    assert second != first
    with pytest.raises(AlreadySpent, match=f"the SSH certificate {first} of this key is over"):
        store.intend_ssh(user_grant(1), ONCE, at=NOW + timedelta(hours=16)).result()
    store.revoke_ssh(second, reason="keyCompromise", at=NOW).result()
    with pytest.raises(Revoked, match=f"the SSH certificate {second} of this key was revoked"):
        store.intend_ssh(user_grant(1), Once("test:2"), at=NOW).result()


def test_a_crash_before_it_is_issued(store: SqlLedger) -> None:
    """Whoever asks again gets the serial that was reserved, and the first certificate that is kept."""
    known(store, 1)
    for grant, once in ((ssh_grant(host_leaf(1)), ONCE), (user_grant(2), Once("u"))):
        (intent,) = store.intend_ssh(grant, once, at=NOW).result()
        (again,) = store.intend_ssh(grant, once, at=LATER).result()
        assert (again, again.certificate) == (intent, None)
        one, two = (SshCredential(intent.serial, intent.leaf, text) for text in (b"one", b"two"))
        assert store.issued_ssh((one,), at=NOW).result() == (b"one",)
        assert store.issued_ssh((two,), at=NOW).result() == (b"one",)
        record = store.ssh_certificate(intent.serial)
        assert record is not None
        assert record.certificate == b"one"


def test_what_was_never_issued_is_abandoned(store: SqlLedger) -> None:
    """It may have been signed: it is listed as revoked, is never delivered, and the same keys get another serial."""
    known(store, 1)
    host, user = ssh_grant(host_leaf(1)), user_grant(2)
    stale = [store.intend_ssh(host, ONCE, at=NOW).result()[0], store.intend_ssh(user, Once("u"), at=NOW).result()[0]]
    get(store, user_grant(3), Once("issued"))
    assert store.abandon_intents(LATER, at=LATER).result() == 2
    assert store.abandon_intents(LATER, at=LATER).result() == 0
    for intent in stale:
        with pytest.raises(Revoked, match="cessationOfOperation"):
            store.issued_ssh((SshCredential(intent.serial, intent.leaf, b"late"),), at=LATER).result()
    state = store.publish_krl("registrar", at=LATER).result()
    assert (state.hosts, state.users) == ((stale[0].serial,), (stale[1].serial,))
    assert get(store, host, ONCE, at=LATER) != (stale[0].serial,)
    assert get(store, user, Once("u"), at=LATER) != (stale[1].serial,)
    assert kinds(store).count("sshcert.abandoned") == 1


def test_revocation(store: SqlLedger) -> None:
    """It is listed at once, until the certificate is over; twice is refused, and so is a reason that is none."""
    known(store, 1)
    (serial,), (user,) = get(store, ssh_grant(host_leaf(1))), get(store, user_grant(2), ONCE)
    with pytest.raises(Malformed, match="not a reason to revoke"):
        store.revoke_ssh(serial, reason="x\ny", at=NOW).result()
    store.revoke_ssh(serial, reason="superseded", at=NOW).result()
    store.revoke_ssh(user, reason="keyCompromise", at=LATER).result()
    record = store.ssh_certificate(serial)
    assert record is not None
    assert (record.status(NOW), record.revoked_at, record.revoked_reason) == ("revoked", NOW, "superseded")
    with pytest.raises(Revoked, match="revoked before, on 2026-11-22 12:00 UTC"):
        store.revoke_ssh(serial, reason="superseded", at=NOW).result()
    with pytest.raises(Revoked, match="superseded"):
        store.issued_ssh((SshCredential(serial, host_leaf(1), b"x"),), at=NOW).result()
    first = store.publish_krl("registrar", at=LATER).result()
    assert (first.hosts, first.users, first.digests) == ((serial,), (user,), frozenset())
    assert first.version == store.head().size
    second = store.publish_krl("registrar", at=NOW + timedelta(days=2)).result()
    assert (second.hosts, second.users) == ((serial,), ())
    assert second.version > first.version
    assert store.ssh_revocation_count() == 2


def test_retired_keys_are_listed(store: SqlLedger) -> None:
    """Until they are some machine's again: a disk may have moved, or an operator changed his mind."""
    known(store, 1, 2)
    store.retire("web1.lan", ssh_key(1), reason="stolen", at=NOW).result()
    assert store.publish_krl("x", at=NOW).result().digests == {ssh_key(1).digest}
    store.remove_host("web1.lan", reason=REMOVED, at=NOW).result()
    assert store.publish_krl("x", at=NOW).result().digests == {ssh_key(1).digest, ssh_key(2).digest}
    known(store, 2, machine="web2.lan")
    assert store.publish_krl("x", at=NOW).result().digests == {ssh_key(1).digest}


def test_a_host_is_certified_for_what_is_known(store: SqlLedger) -> None:
    """Not for another machine's key or a retired one, nor by a name that is not its own; a refusal spends nothing."""
    known(store, 1, 2)
    known(store, 3, machine="web2.lan")
    store.retire("web1.lan", ssh_key(2), reason="stolen", at=NOW).result()
    for leaf, why in (
        (host_leaf(2), r"is no host key of 'web1\.lan': stolen"),
        (host_leaf(3), r"is no host key of 'web1\.lan'$"),
        (host_leaf(9), r"is no host key of 'web1\.lan'$"),
        (host_leaf(1, "web1.lan", "web2.lan"), r"'web1\.lan' is not reached as 'web2\.lan'"),
        (host_leaf(1, "10.0.0.10"), r"'web1\.lan' is not reached as '10\.0\.0\.10'"),
    ):
        with pytest.raises(Refused, match=why):
            store.intend_ssh(ssh_grant(leaf), ONCE, at=NOW).result()
    with pytest.raises(Refused, match=r"is no host key of 'nobody\.lan'"):
        store.intend_ssh(ssh_grant(host_leaf(1), holder="nobody.lan"), ONCE, at=NOW).result()
    assert store.ssh_certificates() == []
    get(store, ssh_grant(host_leaf(1)), ONCE)


def test_host_keys_come_with_their_certificate(store: SqlLedger) -> None:
    """What the evidence adds is recorded in the same transaction, or nothing is."""
    added = host_grant(2, how=host_grant().how, places=None, complete=False)
    with pytest.raises(Refused, match="is not reached as 'mail'"):
        store.intend_ssh(ssh_grant(host_leaf(1, "mail"), host=host_grant(1)), ONCE, at=NOW).result()
    assert store.host("web1.lan") is None
    (first,) = get(store, ssh_grant(host_leaf(1), host=host_grant(1)), ONCE)
    both = ssh_grant(host_leaf(1), host_leaf(2), host=added)
    serials = get(store, both, Once("test:2"))
    assert serials[0] == first
    host = store.host("web1.lan")
    assert host is not None
    assert host.current == {ssh_key(1), ssh_key(2)}
    store.retire("web1.lan", ssh_key(2), reason="stolen", at=LATER).result()
    with pytest.raises(Refused, match="is no host key"):  # what happened to the keys since the marker was spent stays
        store.intend_ssh(both, Once("test:2"), at=LATER).result()
    after = store.host("web1.lan")
    assert after is not None
    assert after.current == {ssh_key(1)}


@pytest.mark.parametrize(
    "wrong",
    [
        replace(ssh_grant(host_leaf(1)), leaves=()),
        ssh_grant(host_leaf(1), host_leaf(1, "web1.lan")),
        ssh_grant(host_leaf(1), user_leaf(2)),
        ssh_grant(host_leaf(1), host=host_grant(1, machine="web2.lan")),
        replace(user_grant(1), host=host_grant(1)),
        replace(user_grant(1), holder="ann\nbob"),
        replace(user_grant(1), holder=""),
        replace(user_grant(1), holder="a" * 500),
    ],
)
def test_grants_that_cannot_be(store: SqlLedger, wrong: object) -> None:
    """A contradiction, or a holder who could forge a line of the log, is refused before anything else."""
    with pytest.raises(Malformed):
        store.intend_ssh(wrong, ONCE, at=NOW).result()  # type: ignore[arg-type]
    assert store.head().size == 0


@pytest.mark.parametrize(
    "kind", ["sshcert.issued", "sshcert.x", "approval.accepted", "host.described", "hostkey.added"]
)
def test_nobody_notes_what_the_ledger_says(store: SqlLedger, kind: str) -> None:
    """Events that speak of a row are written with it alone."""
    with pytest.raises(Malformed, match="are written with their row"):
        store.note(Event(kind, NOW, "web1.lan")).result()
