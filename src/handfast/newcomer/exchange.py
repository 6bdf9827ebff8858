"""One request, one answer, every check: what joining and renewing have in common once the registrar is trusted."""

from __future__ import annotations

from handfast.core import csr, wire
from handfast.core.flow import Opening
from handfast.core.hostproof import HostKeys
from handfast.core.ports import Way
from handfast.newcomer.check import Checked, check_answer
from handfast.newcomer.connection import Verified, parse_time
from handfast.newcomer.pending import Pending


def exchange(way: Way, registrar: Verified, keys: Pending, host: HostKeys | None = None) -> Checked:
    """
    Present evidence to a registrar that has proved itself, and return its answer, checked.

    ``host`` are SSH host keys to publish with it.

    :raises Refused: the registrar said no.
    :raises Unreachable: no whole answer; the pending key makes a retry safe.
    :raises UntrustedPeer: the answer is not what was asked for.
    """
    next_key = keys.reintroduction_key.public_key().public_bytes_raw()
    opening = Opening(csr.build(keys.private_key), next_key, registrar.nonce, registrar.server_spki, host)
    body, signed = way.present(opening)
    answer = registrar.connection.call("POST", f"/v1/introductions/{way.method}", wire.IntroductionAnswer, body)
    return check_answer(
        answer,
        signed_time=parse_time(answer.time),
        request=signed,
        registrar_leaf=registrar.leaf,
        hello_time=registrar.time,
        public_key=keys.private_key.public_key(),
        pin=way.pin,
        trust_domain=registrar.identity.trust_domain,
        wish=way.wish,
    )
