"""
The host-key challenge's steps 2 and 4: look at a host, have it sign what we saw, look again.

    (2) look    Looker       what was asked is what is there        -> payload, signed by the SSH host CA
    (3)         the host     signs it with every host key
    (4) look    Looker       it still is there                      -> token, signed likewise
    (5)         ``Certifier.certify``, as every way to SSH certificates

Nothing is remembered: what we signed comes back, and says itself whose it is and until when. A stranger has us look,
and is told no more than that what he said was not so. The ledger's log has what was refused to somebody who had proved
his keys, and little of that: keys cost nothing, so whoever makes new ones must not fill it.
"""

from __future__ import annotations

import asyncio
import secrets
from collections.abc import Callable, Sequence
from contextlib import AbstractContextManager
from dataclasses import dataclass

from handfast.core import wire
from handfast.core.challenge import Challenge, Parameters, Proof, TokenAnswer, to_look
from handfast.core.flow import Channel
from handfast.core.hosts import How
from handfast.core.knownhosts import speaks_for
from handfast.core.look import Look
from handfast.core.ports import Ledger, SshContext
from handfast.core.ssh_ports import Looker, SshAuthority
from handfast.core.sshkeys import SshKey
from handfast.errors import NotFound, PolicyRefused, Refused
from handfast.introducers.ssh_hostkey import (
    NAME,
    PAYLOAD_NAMESPACE,
    TOKEN_NAMESPACE,
    make_payload,
    make_token,
    proved,
)
from handfast.policy.look import against_look, notes
from handfast.policy.rules import Rules
from handfast.registrar.introduce import LedgerContext, refusal

_HINT = "every name has to lead to the addresses given and nowhere else, and every key to answer at each of them"
_STRANGERS = "strangers"

Admit = Callable[[], AbstractContextManager[None]]
Tell = Callable[[tuple[str, ...]], None]


@dataclass(frozen=True, slots=True)
class Challenger:
    """Acts for one authority, whose SSH host CA ``authority`` has."""

    rules: Rules
    ledger: Ledger
    context: LedgerContext
    authority: SshAuthority
    looker: Looker

    async def challenge(self, body: bytes, *, admit: Admit, tell: Tell) -> Challenge:
        """
        Step 2: return what a host that is where it says is to sign.

        We judge and look within ``admit``, which may refuse that before any packet is sent for it. ``tell`` is given
        what was seen that speaks against the host; it is for our log alone, as it shows what is open in our networks.

        :raises NotFound: the method is not enabled here. :raises Malformed: not such parameters.
        :raises PolicyRefused: we may not look there, or it is not as was said; with every reason.
        :raises TooMuch: by ``admit``, or by the ``Looker``.
        """
        self._check_enabled()
        asked = wire.decode(body, Parameters)
        looked = to_look(asked)
        with admit():
            self._check_names(looked)
            await self._look(looked, tell)
        nonce, now = secrets.token_bytes(32), self.context.now()
        payload = make_payload(
            asked, trust_domain=self.context.trust_domain, pin=self.context.pin, nonce=nonce, now=now
        )
        return Challenge(payload, self.authority.sign(payload, namespace=PAYLOAD_NAMESPACE))

    async def token(self, body: bytes, channel: Channel, *, admit: Admit, tell: Tell) -> TokenAnswer:
        """
        Step 4: return a token for keys that signed our payload in this connection, and answer still.

        :raises NotFound: the method is not enabled here. :raises Malformed, EvidenceRejected: it proves nothing.
        :raises Refused: the payload is over.
        :raises PolicyRefused: somebody else answers by now, or nobody; logged. :raises TooMuch: as ``challenge``.
        """
        self._check_enabled()
        proof = wire.decode(body, Proof)
        looked = proved(
            proof,
            ca=self.authority.host_ca,
            trust_domain=self.context.trust_domain,
            pin=self.context.pin,
            server_spki=channel.server_spki,
            now=self.context.now(),
        )
        try:
            with admit():
                self._check_names(looked)
                await self._look(looked, tell)
        except PolicyRefused as error:
            await self._log_refusal(looked, error)
            raise
        token = make_token(proof, looked, now=self.context.now())
        return TokenAnswer(token, self.authority.sign(token, namespace=TOKEN_NAMESPACE))

    def _check_enabled(self) -> None:
        if How.SSH_HOSTKEY not in self.rules.ssh.evidence:
            raise NotFound(
                "there is no host-key challenge here", hint='its operator enables it: "ssh-hostkey" in [ssh] evidence'
            )

    def _check_names(self, looked: Look) -> None:
        """
        Refuse names for which our CA does not speak, where that is limited.

        Nobody would believe a certificate for such a name. And whoever has a domain of his own would otherwise fill our
        registry with machines in it: to answer in one's own domain is no feat.
        """
        patterns = self.rules.ssh.certificates.patterns
        beyond = [name for name in looked.names if not speaks_for(patterns, name)] if patterns else []
        if beyond:
            raise PolicyRefused(
                tuple(
                    f"{name!r} is not a name for which this authority speaks ([ssh.certificates] patterns)"
                    for name in beyond
                ),
                hint="its operator says for which names it speaks",
            )

    async def _look(self, looked: Look, tell: Tell) -> None:
        seen = await self.looker.look(looked)
        if reasons := against_look(looked, seen):
            tell(notes(looked, seen))
            raise PolicyRefused(reasons, hint=_HINT)

    async def _log_refusal(self, looked: Look, error: Refused) -> None:
        now = self.context.now()
        machine = machine_of(looked.keys, self.context) or looked.names[0]
        event = refusal(machine, method=NAME, marker=marker(looked.keys, self.context), error=error, at=now)
        await asyncio.wrap_future(self.ledger.note(event))


def machine_of(keys: Sequence[SshKey], context: SshContext) -> str | None:
    """Return whose keys these are; None where they are nobody's."""
    return next((host.machine for key in keys if (host := context.host_of_key(key)) is not None), None)


def marker(keys: Sequence[SshKey], context: SshContext) -> str:
    """
    Return under what a refusal of these keys is logged, of which the ledger keeps a few: each day a machine's own.

    And one for all strangers, with whatever keys and names: neither costs anything.
    """
    return f"{NAME}:{machine_of(keys, context) or _STRANGERS}:{context.now():%Y-%m-%d}"
