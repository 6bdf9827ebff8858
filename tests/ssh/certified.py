"""SSH certificates of a registrar, made as its flow makes them, without anybody who asks for one."""

from __future__ import annotations

from datetime import UTC, datetime, timedelta

from handfast.authority.sshsign import SshSigner
from handfast.core import sshcert
from handfast.core.flow import SshGrant
from handfast.core.ports import Ledger
from handfast.core.sshcert import Kind, SshCertificate
from handfast.core.sshkeys import SshKey
from handfast.core.sshleaf import SshLeaf


def certify(
    ledger: Ledger,
    signer: SshSigner,
    holder: str,
    key: SshKey,
    *principals: str,
    kind: Kind = Kind.HOST,
    at: datetime | None = None,
    life: timedelta = timedelta(hours=1),
) -> SshCertificate:
    """Intend, sign and keep one: for a machine that is registered so, or for an operator called ``holder``."""
    now = at or datetime.now(UTC)
    start = now.replace(microsecond=0)
    who = holder if kind is Kind.HOST else f"{holder} by operator"
    leaf = SshLeaf(
        kind=kind,
        key=key,
        key_id=f"{kind} {who}",
        principals=principals or (holder,),
        valid_after=start - timedelta(minutes=5),
        valid_before=start + life,
        evidence="of the tests",
    )
    method = "ssh-pop" if kind is Kind.HOST else "operator"
    (intent,) = ledger.intend_ssh(SshGrant(who, kind, (leaf,), method, ("it is so",)), None, at=now).result()
    (blob,) = ledger.issued_ssh((signer.certify(intent),), at=now).result()
    return sshcert.read(blob)
