"""The authority of ``standalone``: policy, ledger and log as everywhere, for keys that an operator made himself."""

from __future__ import annotations

import secrets
from collections.abc import Callable
from dataclasses import dataclass
from datetime import timedelta

from handfast.authority.flat import FlatAuthority, PublicFlatAuthority
from handfast.core import keys
from handfast.core.flow import Once
from handfast.core.ports import Clock, Ledger
from handfast.introducers.nifi import machine_of
from handfast.nifi.localca import LocalCa, LocalRequest
from handfast.policy.decide import by_operator


@dataclass(frozen=True, slots=True)
class Recorded:
    """Implements ``localca.LocalAuthority``: what it issues is written down before it is signed."""

    ledger: Ledger
    clock: Clock

    def issuer(self, ca: LocalCa) -> Callable[[LocalRequest], bytes]:
        """
        Return the function that issues leaves (DER) under this CA.

        :raises PolicyRefused: names that it may not certify, or a CA whose time is over.
        :raises Fault: the ledger could not make it durable; nothing was signed.
        """
        authority = FlatAuthority(PublicFlatAuthority(root=ca.certificate), ca.key)

        def issue(request: LocalRequest) -> bytes:
            now = self.clock.now()
            grant = by_operator(
                machine=machine_of(request.subject),
                role=request.role,
                subject=request.subject.public_bytes(),
                names=request.names,
                public_key=keys.spki(request.public_key),
                lifetime=timedelta(days=request.days),
                issuer=authority,
                now=now,
            )
            once = Once(f"operator:{secrets.token_hex(16)}")
            intent = self.ledger.intend(grant, once, at=now).result()
            return self.ledger.issued(authority.issue(intent), at=now).result()

        return issue
