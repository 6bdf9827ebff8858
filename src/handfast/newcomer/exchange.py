"""One request, one answer, every check: what joining and renewing have in common once the registrar is trusted."""

from __future__ import annotations

from cryptography.hazmat.primitives import serialization

from handfast.core import wire
from handfast.core.flow import Wish
from handfast.newcomer.check import Checked, check_answer
from handfast.newcomer.connection import Verified, parse_time
from handfast.newcomer.pending import Pending


def exchange(
    registrar: Verified, keys: Pending, *, method: str, message: tuple[bytes, bytes], pin: bytes, wish: Wish
) -> Checked:
    """
    Send evidence and return the answer, checked.

    ``message`` is what an introducer's ``present`` returned: the body, and the digest the answer must sign.

    :raises Refused: the registrar said no.
    :raises Unreachable: no whole answer; the pending key makes a retry safe.
    :raises UntrustedPeer: the answer is not what was asked for.
    """
    body, signed = message
    answer = registrar.connection.call("POST", f"/v1/introductions/{method}", wire.IntroductionAnswer, body)
    return check_answer(
        answer,
        signed_time=parse_time(answer.time),
        request=signed,
        registrar_leaf=registrar.leaf,
        hello_time=registrar.time,
        public_key=keys.private_key.public_key(),
        pin=pin,
        trust_domain=registrar.identity.trust_domain,
        wish=wish,
    )


def reintroduction_key(keys: Pending) -> bytes:
    """Return the raw public half of the key with which the machine may come back."""
    return keys.reintroduction_key.public_key().public_bytes(serialization.Encoding.Raw, serialization.PublicFormat.Raw)
