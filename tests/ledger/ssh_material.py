"""What the tests of SSH certificates in the ledger are about."""

from __future__ import annotations

from datetime import datetime, timedelta

from handfast.core.flow import HostGrant, Once, SshCredential, SshGrant
from handfast.core.hosts import How
from handfast.core.names import network
from handfast.core.sshcert import Kind
from handfast.core.sshleaf import SshLeaf
from handfast.core.sshoptions import Critical, Permit
from handfast.ledger.store import SqlLedger
from tests.ledger.material import NOW, host_grant, ssh_key

WEEK = timedelta(days=7)
START = NOW.replace(microsecond=0) - timedelta(minutes=5)


def host_leaf(
    key: int = 1, *principals: str, machine: str = "web1.lan", start: timedelta = timedelta(0), life: timedelta = WEEK
) -> SshLeaf:
    """What a host's certificate is to hold."""
    return SshLeaf(
        kind=Kind.HOST,
        key=ssh_key(key),
        key_id=f"host {machine}",
        principals=principals or (machine, "10.0.0.1"),
        valid_after=START + start,
        valid_before=START + start + life,
        evidence="invitation",
    )


def user_leaf(key: int = 1, *principals: str, life: timedelta = timedelta(hours=16)) -> SshLeaf:
    """What a person's certificate is to hold."""
    return SshLeaf(
        kind=Kind.USER,
        key=ssh_key(key),
        key_id="user ann@example.org by oidc",
        principals=principals or ("ann",),
        valid_after=START,
        valid_before=START + life,
        critical=Critical("/bin/true", (network("10.0.0.0/8"), network("fd00::/8"))),
        permits=frozenset({Permit.PTY, Permit.PORT_FORWARDING}),
    )


def ssh_grant(
    *leaves: SshLeaf, holder: str = "web1.lan", method: str = "ssh-pop", host: HostGrant | None = None
) -> SshGrant:
    """What policy would allow."""
    return SshGrant(holder, leaves[0].kind, leaves, method, ("it is so", "rule \N{GREEK SMALL LETTER ALPHA}"), host)


def user_grant(key: int = 1, *principals: str) -> SshGrant:
    """What policy would allow a person."""
    return ssh_grant(user_leaf(key, *principals), holder="ann@example.org", method="oidc")


def certificate(serial: int) -> bytes:
    """Some bytes in the place of a certificate: the ledger only keeps them."""
    return b"certificate %d" % serial


def get(store: SqlLedger, grant: SshGrant, once: Once | None = None, *, at: datetime = NOW) -> tuple[int, ...]:
    """Intend and issue; return the serials."""
    intents = store.intend_ssh(grant, once, at=at).result()
    credentials = tuple(SshCredential(each.serial, each.leaf, certificate(each.serial)) for each in intents)
    assert store.issued_ssh(credentials, at=at).result() == tuple(each.certificate for each in credentials)
    return tuple(each.serial for each in intents)


def known(store: SqlLedger, *keys: int, machine: str = "web1.lan", how: How = How.INVITATION) -> None:
    """A machine that is known by these keys, at its name and, where it is the first, 10.0.0.1."""
    places = (machine, "10.0.0.1") if machine == "web1.lan" else (machine,)
    store.register(host_grant(*keys, machine=machine, how=how, places=places), None, at=NOW).result()


def some(store: SqlLedger) -> tuple[int, int, int]:
    """
    One of everything about SSH certificates, for web1.lan, which is known by its keys 1 and 2.

    Return the serials of a host's certificate that is good, of one that was revoked, and of a person's.
    """
    (good,) = get(store, ssh_grant(host_leaf(1)))
    (revoked,) = get(store, ssh_grant(host_leaf(2)), Once("test:host"))
    store.revoke_ssh(revoked, reason="superseded", at=NOW).result()
    (user,) = get(store, user_grant(3), Once("test:user"))
    asked = store.ask(changed(7), ("it has other keys", "10.0.0.1 is another's"), at=NOW).result()
    store.reject(asked.approval_id, by="ann", reason="not ours", at=NOW).result()
    store.ask(changed(8), ("it has other keys",), at=NOW).result()
    return good, revoked, user


def changed(key: int, machine: str = "web1.lan", *places: str) -> HostGrant:
    """What a host-key challenge would have recorded, and a person has to look at."""
    return host_grant(key, machine=machine, how=How.SSH_HOSTKEY, places=places or (machine, "10.0.0.1"))
