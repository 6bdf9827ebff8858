"""
P17: of several machines that are reached at one host, by port, at most one is certified as that, in every ledger.

A certificate's principals have no ports: ssh takes it at each of them.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import pytest

from handfast.core.flow import HostGrant
from handfast.core.hosts import How
from handfast.errors import LogTampered, Refused
from handfast.ledger import audit
from handfast.ledger.store import SqlLedger
from tests.ledger.material import LATER, LOG_KEY, NOW, ORIGIN, host_grant, ssh_key, tamper
from tests.ledger.ssh_material import get, host_leaf, ssh_grant


@pytest.fixture(autouse=True)
def _it_proves_itself(store: SqlLedger, request: pytest.FixtureRequest) -> Iterator[None]:
    """Whatever a test has done, log and tables agree afterwards."""
    yield
    if "audit" not in request.node.name:
        audit.verify(store, LOG_KEY.public_key(), ORIGIN)


def at(key: int, machine: str, port: int, how: How = How.INVITATION, *, quiet: bool = False) -> HostGrant:
    """A machine that is reached as gw.lan, at this port."""
    made = host_grant(key, machine=machine, how=how, places=("gw.lan", "10.0.0.1"), ports=(port,), complete=False)
    return replace(made, quiet=quiet)


def asks(store: SqlLedger, key: int, machine: str) -> int:
    """Have it certified as gw.lan."""
    return get(store, ssh_grant(host_leaf(key, "gw.lan"), holder=machine), at=LATER)[0]


def status(store: SqlLedger, serial: int) -> str:
    """What has become of a certificate."""
    record = store.ssh_certificate(serial)
    assert record is not None
    return record.status(LATER)


def test_P17_a_host_is_the_machine_s_that_is_there_at_port_22(store: SqlLedger) -> None:
    """A container at another port keeps that place, and gets no certificate for its host's name."""
    store.register(at(1, "gw", 22, How.OPERATOR), None, at=NOW).result()
    store.register(at(2, "ci", 2222), None, at=NOW).result()
    assert store.shared_hosts("gw") == frozenset()
    assert store.shared_hosts("ci") == {"gw.lan", "10.0.0.1"}
    serial = asks(store, 1, "gw")
    for name in ("gw.lan", "10.0.0.1"):
        with pytest.raises(Refused, match=f"'{name}' leads to other machines than 'ci', too"):
            store.intend_ssh(ssh_grant(host_leaf(2, "ci", name), holder="ci"), None, at=NOW).result()
    get(store, ssh_grant(host_leaf(2, "ci"), holder="ci"))
    assert status(store, serial) == "valid"
    store.remove_host("gw", reason="gone", at=LATER).result()
    assert store.shared_hosts("ci") == frozenset()
    asks(store, 2, "ci")


def test_P17_without_port_22_the_only_one_has_it(store: SqlLedger) -> None:
    """A second one at another port, and it is nobody's: what was certified is revoked as that one comes."""
    store.register(at(1, "one", 2201), None, at=NOW).result()
    serial = asks(store, 1, "one")
    store.register(at(2, "two", 2202), None, at=LATER).result()
    assert status(store, serial) == "revoked"
    assert store.publish_krl("x", at=LATER).result().hosts == (serial,)
    for key, machine in ((1, "one"), (2, "two")):
        with pytest.raises(Refused, match="leads to other machines"):
            asks(store, key, machine)


def test_P17_who_comes_at_port_22_has_it(store: SqlLedger) -> None:
    """By an operator's word; the other is not certified as that any more, in the same transaction."""
    store.register(at(1, "one", 2201), None, at=NOW).result()
    serial = asks(store, 1, "one")
    store.register(at(2, "two", 22), None, at=LATER).result()
    assert status(store, serial) == "revoked"
    assert store.host_at("[gw.lan]:2201") == store.host("one")
    asks(store, 2, "two")


@pytest.mark.parametrize(("known", "claimed"), [(22, 2222), (2222, 22), (2222, 2022)])
@pytest.mark.parametrize(("how", "quiet"), [(How.SSH_HOSTKEY, True), (How.SSH_HOSTKEY, False), (How.X5C, True)])
def test_P17_nobody_s_port_is_claimed_by_the_network(
    store: SqlLedger, known: int, claimed: int, how: How, quiet: bool
) -> None:
    """Who answers at any port of a host that is a machine's is refused, unless a person has said yes."""
    store.register(at(1, "gw", known, How.OPERATOR), None, at=NOW).result()
    mine = at(2, "alias.lan", claimed, how, quiet=quiet)
    with pytest.raises(Refused, match="is where 'gw' is reached"):
        store.register(mine, None, at=NOW).result()
    with pytest.raises(Refused, match="is where 'gw' is reached"):
        store.intend_ssh(ssh_grant(host_leaf(2, "gw.lan"), holder="alias.lan", host=mine), None, at=NOW).result()
    assert store.host("alias.lan") is None


def test_what_a_machine_shares_by_an_operator_s_word_it_repeats(store: SqlLedger) -> None:
    """To answer again where it is known to be takes nothing from anybody."""
    store.register(at(1, "gw", 22, How.OPERATOR), None, at=NOW).result()
    store.register(at(2, "ci", 2222, How.OPERATOR), None, at=NOW).result()
    store.register(at(2, "ci", 2222, How.X5C, quiet=True), None, at=LATER).result()
    with pytest.raises(Refused, match="is where 'gw' is reached"):
        store.register(at(2, "ci", 2223, How.X5C, quiet=True), None, at=LATER).result()


def test_P17_another_port_leaves_port_22(store: SqlLedger) -> None:
    """A machine known better that answers at another port is still reached at 22, where nobody else comes in."""
    store.register(at(1, "gw", 22), None, at=NOW).result()
    host = store.register(at(1, "gw", 2222, How.SSH_HOSTKEY), None, at=LATER).result()
    assert host.place.ports == (22, 2222)
    with pytest.raises(Refused, match="is where 'gw' is reached"):
        store.register(at(2, "thief", 22, How.SSH_HOSTKEY, quiet=True), None, at=LATER).result()


def test_the_audit_finds_a_certificate_for_a_shared_host(store: SqlLedger) -> None:
    """Whoever can write the store, and take its revocation out, is found out."""
    store.register(at(1, "one", 2201), None, at=NOW).result()
    asks(store, 1, "one")
    store.register(at(2, "two", 2202), None, at=LATER).result()
    tamper(store, "DELETE FROM ssh_revocations")
    with pytest.raises(LogTampered, match=r"is good, and yet 'gw\.lan' leads to other machines than 'one', too"):
        audit.verify(store, LOG_KEY.public_key(), ORIGIN)


def test_a_network_s_word_does_not_pass_for_a_better_one(store: SqlLedger) -> None:
    """Names that only the challenge gave are gone once better evidence says where the machine is."""
    store.register(at(1, "gw", 22, How.SSH_HOSTKEY), None, at=NOW).result()
    joins = host_grant(1, machine="gw", places=("small.lan",))
    assert store.register(joins, None, at=LATER).result().place.hosts() == ("small.lan",)
    assert ssh_key(1) in store.register(joins, None, at=LATER).result().current
