"""Whatever happens to machines, in whatever order: the certificates that are good say what is known of them."""

from __future__ import annotations

import contextlib
import tempfile
from collections.abc import Callable
from datetime import datetime, timedelta
from pathlib import Path

from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from handfast import ledger
from handfast.core.flow import HostGrant, Once, SshCredential, SshIntent
from handfast.core.hosts import How
from handfast.core.sshcert import Kind
from handfast.errors import Refused
from handfast.ledger import audit
from handfast.ledger.store import SqlLedger
from tests.ledger.material import LOG_KEY, NOW, ORIGIN, host_grant, ssh_key
from tests.ledger.ssh_material import certificate, host_leaf, ssh_grant

MACHINES = ("a.lan", "b.lan")
PLACES = (*MACHINES, "10.0.0.1", "10.0.0.2", "www.lan")

machines = st.sampled_from(MACHINES)
keys = st.integers(1, 3)
places = st.lists(st.sampled_from(PLACES), max_size=3, unique=True)
hows = st.sampled_from([How.INVITATION, How.OPERATOR, How.CONSOLE, How.SSH_HOSTKEY, How.RENEWAL, How.SCAN])
host_grants = st.builds(
    lambda machine, keys, how, places, complete: host_grant(
        *keys, machine=machine, how=how, places=tuple(places), complete=complete
    ),
    machines,
    st.lists(keys, min_size=1, max_size=2, unique=True),
    hows,
    places,
    st.booleans(),
)
Step = Callable[[SqlLedger, datetime, list[SshIntent]], object]


def registering(grant: HostGrant) -> Step:
    """Evidence makes keys and places known."""
    return lambda store, at, _open: store.register(grant, None, at=at).result()


def retiring(machine: str, key: int) -> Step:
    """An operator takes a key back."""
    return lambda store, at, _open: store.retire(machine, ssh_key(key), reason="x", at=at).result()


def removing(machine: str) -> Step:
    """A machine is gone."""
    return lambda store, at, _open: store.remove_host(machine, reason="x", at=at).result()


def certifying(machine: str, key: int, names: list[str], days: int, host: HostGrant | None) -> Step:
    """Somebody asks for a certificate, and may not come back for it."""

    def step(store: SqlLedger, at: datetime, opened: list[SshIntent]) -> None:
        leaf = host_leaf(key, *(names or [machine]), machine=machine, start=at - NOW, life=timedelta(days=days))
        mine = host if host is not None and host.machine == machine else None
        grant = ssh_grant(leaf, holder=machine, host=mine)
        opened.extend(store.intend_ssh(grant, Once(f"t:{key}") if days == 1 else None, at=at).result())

    return step


def issuing(_which: int) -> Step:
    """What was intended is signed and kept."""

    def step(store: SqlLedger, at: datetime, opened: list[SshIntent]) -> None:
        if opened:
            intent = opened.pop()
            store.issued_ssh((SshCredential(intent.serial, intent.leaf, certificate(intent.serial)),), at=at).result()

    return step


def approving(grant: HostGrant) -> Step:
    """A person accepts what was asked."""

    def step(store: SqlLedger, at: datetime, _open: list[SshIntent]) -> None:
        asked = store.ask(grant, ("because",), at=at).result()
        store.approve(asked.approval_id, by="ann", reason="yes", at=at).result()

    return step


def revoking(number: int) -> Step:
    """Somebody takes a certificate back."""

    def step(store: SqlLedger, at: datetime, _open: list[SshIntent]) -> None:
        found = sorted(store.ssh_certificates(), key=lambda each: each.serial)
        if found:
            store.revoke_ssh(found[number % len(found)].serial, reason="keyCompromise", at=at).result()

    return step


STEPS = st.one_of(
    st.builds(registering, host_grants),
    st.builds(retiring, machines, keys),
    st.builds(removing, machines),
    st.builds(certifying, machines, keys, places, st.sampled_from([1, 7]), st.none() | host_grants),
    st.builds(certifying, machines, keys, st.just([]), st.just(7), st.none()),
    st.builds(issuing, st.integers(0, 3)),
    st.builds(approving, host_grants),
    st.builds(revoking, st.integers(0, 3)),
)


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.too_slow])
@given(st.lists(STEPS, min_size=3, max_size=15))
def test_P17_after_every_step(steps: list[Step]) -> None:
    """
    Each one that is good has a current key of its machine and only names of its machine, and so says the audit.

    And each one that is not, and not over, is in the list of revoked keys.
    """
    with tempfile.TemporaryDirectory() as directory, ledger.open_sqlite(Path(directory) / "l.sqlite3") as store:
        opened: list[SshIntent] = []
        at = NOW
        for number, machine in enumerate(MACHINES, 1):
            places = (machine, f"10.0.0.{number}")
            registering(host_grant(number, machine=machine, how=How.CONSOLE, places=places))(store, at, opened)
            certifying(machine, number, list(places), 7, None)(store, at, opened)
        for step in steps:
            at += timedelta(hours=7)
            with contextlib.suppress(Refused):  # which leaves nothing, or an alarm
                step(store, at, opened)
            listed = set(store.publish_krl("test", at=at).result().hosts)
            for each in store.ssh_certificates(after=at):
                assert each.kind is Kind.HOST
                host = store.host(each.holder)
                assert host is not None
                true = each.leaf.key in host.current and set(each.leaf.principals) <= {
                    each.holder,
                    *host.place.hosts(),
                }
                assert true or each.revoked_at is not None
                assert (each.revoked_at is not None) == (each.serial in listed)
        audit.verify(store, LOG_KEY.public_key(), ORIGIN)
