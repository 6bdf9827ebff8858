"""An SSH certificate, a host's or a user's, is taken back by whoever holds its key."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from datetime import datetime

from handfast.adapters.tls import newcomer_context
from handfast.core.hostproof import HostSigner
from handfast.core.invitation import Address
from handfast.core.sshcert import SshCertificate
from handfast.core.wire import SshRevokedAnswer
from handfast.errors import Refused, UntrustedPeer
from handfast.introducers import ssh_pop
from handfast.newcomer.connection import verified

PATH = "/v1/ssh/revocations"


def revoke(
    certificate: SshCertificate,
    signer: HostSigner,
    addresses: Sequence[Address],
    *,
    pin: bytes,
    reason: str,
    now: Callable[[], datetime],
) -> SshRevokedAnswer:
    """
    Have the registrar of ``pin`` take the certificate back; whether it was before is the same.

    *Not* checked: that the registrar made it, which it says itself.

    :raises Refused: ``signer`` is not its key, or the registrar does not know it.
    :raises Unreachable: no whole answer. :raises UntrustedPeer: it is not that registrar.
    """
    if signer.public != certificate.key:
        raise Refused(
            f"the certificate is for {certificate.key.fingerprint}, and the key is {signer.public.fingerprint}",
            hint="give its key with --key",
        )
    with verified(addresses, newcomer_context(), pin=pin, judge=lambda _claimed: now()) as registrar:
        body = ssh_pop.present_revocation(
            signer,
            serial=certificate.serial,
            reason=reason,
            pin=pin,
            nonce=registrar.nonce,
            server_spki=registrar.server_spki,
        )
        answer = registrar.connection.call("POST", PATH, SshRevokedAnswer, body)
    if answer.serial != str(certificate.serial):
        raise UntrustedPeer(f"asked to revoke {certificate.serial}, and {answer.serial[:20]!r} was revoked")
    return answer
