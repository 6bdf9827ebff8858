"""
Delivering keys, as SteamCannon did (the seed's steps 4, 6 and 7), for instances that were added so.

The controller makes the key, and sends it to whoever answers at the instance's address. Nothing says that he is the
instance, unless its fingerprint was confirmed: whoever is there instead has a genuine credential in its name, and the
instance is alone. So each delivery is warned about. It spends the instance's secret, so that afterwards nobody else is
introduced by it, and if somebody was before, nothing is delivered.
"""

from __future__ import annotations

import asyncio
import hashlib
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlencode

import structlog
from cryptography import x509
from cryptography.hazmat.primitives.serialization import Encoding

from handfast.controller.credential import DIRECTORY
from handfast.controller.http import Connection
from handfast.controller.passwords import DELIVERED, forget_key
from handfast.core.flow import Intent, Once
from handfast.core.instances import Instance, Issued
from handfast.core.keys import spki
from handfast.core.names import Names
from handfast.core.records import marker_of
from handfast.core.roles import Role
from handfast.errors import Unreachable
from handfast.newcomer.keystore import Keystore
from handfast.newcomer.pending import Pending, key_pem
from handfast.policy.decide import by_operator
from handfast.registrar.introduce import Registrar

_log: structlog.typing.FilteringBoundLogger = structlog.get_logger()


@dataclass(frozen=True, slots=True)
class Deliveries:
    """Makes keys for instances of one data directory, and keeps each until the instance has answered with it."""

    registrar: Registrar
    data: Path

    async def deliver(self, instance: Instance, connection: Connection) -> Issued:
        """
        Make the instance's key and certificate, the same ones each time, and send both.

        :raises AlreadySpent: somebody was introduced by its secret. :raises Unreachable: it does not take them.
        """
        keys = await asyncio.to_thread(self._keys(instance).pending, f"legacy:{instance.invitation}")
        intent, leaf = await self._issued(instance, keys)
        chain = (leaf, *self.registrar.authority.chain)
        pem = b"".join(x509.load_der_x509_certificate(der).public_bytes(Encoding.PEM) for der in chain)
        _log.warning("a key is delivered to whoever answers", instance=instance.name, at=connection.name)
        form = urlencode({"certificate": pem.decode(), "keypair": key_pem(keys.private_key).decode()})
        kind = "application/x-www-form-urlencoded"
        answer = await connection.request("POST", "/configure", form.encode(), kind=kind)
        if not answer.success:
            raise Unreachable(f"it takes no key: {connection.problem(answer).message}", hint="is it run with --legacy?")
        public = spki(keys.private_key.public_key())
        return Issued(hashlib.sha256(public).digest(), intent.serial, to=connection.spki)

    def forget(self, instance: Instance) -> None:
        """Remove the key here: the instance has it, and nobody else is to."""
        forget_key(self.data, instance.name)

    def _keys(self, instance: Instance) -> Keystore:
        return Keystore(self.data / DIRECTORY / DELIVERED / instance.name)

    async def _issued(self, instance: Instance, keys: Pending) -> tuple[Intent, bytes]:
        registrar, now = self.registrar, self.registrar.context.now()
        grant = by_operator(
            machine=instance.name,
            role=Role.AGENT,
            names=Names(),
            public_key=spki(keys.private_key.public_key()),
            lifetime=registrar.rules.lifetime_of(Role.AGENT),
            issuer=registrar.authority,
            now=now,
        )
        once = Once(marker_of(instance.invitation))
        intent = await asyncio.wrap_future(registrar.ledger.intend(grant, once, at=now))
        if intent.certificate is not None:
            return intent, intent.certificate
        credential = registrar.authority.issue(intent)
        return intent, await asyncio.wrap_future(registrar.ledger.issued(credential, at=now))
