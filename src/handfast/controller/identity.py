"""Who is at the other end of a connection to an agent: whom a certificate of ours names, whose key TLS has proved."""

from __future__ import annotations

from collections.abc import Sequence
from datetime import datetime
from typing import Protocol

from cryptography import x509

from handfast.core.chain import Identity, load_certificate, verify_chain
from handfast.core.instances import Instance
from handfast.core.keys import UNREADABLE
from handfast.core.roles import Role
from handfast.errors import Malformed, UntrustedPeer


class Trusted(Protocol):
    """An authority's root: as candidates (DER), and the pin that decides."""

    @property
    def trust(self) -> tuple[bytes, ...]: ...
    @property
    def pin(self) -> bytes: ...


def agent_identity(
    leaf: x509.Certificate, sent: Sequence[bytes], authority: Trusted, *, at: datetime, ended: bool = False
) -> Identity:
    """
    Return which machine's agent a certificate of ours names. *Not* checked: revocation, and the key.

    ``sent`` (DER) is what came along with it: the issuing CA may have been another one. ``ended`` takes it also outside
    of its time: it is still whose it was, and what it may ask for then is another matter (reintroduction).

    :raises UntrustedPeer: it is not ours, or no agent's.
    """
    try:
        chain, roots = ([load_certificate(der) for der in each] for each in (sent, authority.trust))
        # Before its begin, too: there our clock may be behind.
        moment = max(leaf.not_valid_before_utc, min(at, leaf.not_valid_after_utc)) if ended else at
    except (Malformed, *UNREADABLE) as error:
        raise UntrustedPeer(f"it shows a certificate that cannot be read: {error!s:.80}") from None
    return verify_chain(leaf, chain, roots, pin=authority.pin, role=Role.AGENT, at=moment)


def check_agent(
    leaf: x509.Certificate, sent: Sequence[bytes], instance: Instance, authority: Trusted, *, at: datetime
) -> None:
    """Check that a certificate is for the agent of this instance. :raises UntrustedPeer: as ``agent_identity``."""
    identity = agent_identity(leaf, sent, authority, at=at)
    if identity.machine != instance.name:
        raise UntrustedPeer(f"{identity.machine!r} answers for {instance.name!r}", hint="nothing was sent")
