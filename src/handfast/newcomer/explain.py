"""Why this machine trusts its registrar and its peers, and why they trust it: in sentences, from what is on disk."""

from __future__ import annotations

from datetime import datetime

from handfast import introducers
from handfast.core.keys import format_pin, spki_sha256
from handfast.newcomer.renew import Held

_BROUGHT = {"x5c": "command"}  # where what introduced it says nothing of a registrar


def explain(held: Held, *, now: datetime) -> list[str]:
    """Return the reasons, one sentence each. ``held`` was read and checked from the key store."""
    who = held.identity
    about = held.material.identity
    pin = format_pin(held.pin)
    certificate = held.material.certificate
    origin = str(about.get("origin")).partition(":")[0]
    state = "is valid" if now < who.not_after else "has expired"
    sentences = [
        f"This machine is {who.machine!r}, a {who.role} of the trust domain {who.trust_domain}.",
        f"It trusts one root, and no public authority: the key with SHA-256 {pin}.",
        (
            f"That pin came with the {_BROUGHT.get(origin, origin)} it joined with, before the first packet;"
            " no network taught it."
        ),
        (
            f"It accepted the registrar {about.get('registrar')!r} because that peer proved in the TLS handshake a key"
            " whose certificate chains to this root in the role of registrar; one for any other role is refused."
        ),
        f"It was accepted because {_because(str(about.get('method')))}.",
        (
            f"Others accept it as {', '.join(who.names.texts()) or 'a machine without network names'}"
            f" and as {about.get('spiffe_id')}, {_direction(held)}."
        ),
        (
            "Its private key was made here and never left; the certificate is for the key with SHA-256"
            f" {spki_sha256(certificate.public_key()).hex()}."
        ),
        (
            f"The certificate {state}: serial {held.serial:032x}, issued {held.issued_at:%Y-%m-%d %H:%M}Z, ends"
            f" {who.not_after:%Y-%m-%d %H:%M}Z; its successor is due at {held.due_at:%Y-%m-%d %H:%M}Z."
        ),
    ]
    offset = about.get("clock_offset_seconds")
    if isinstance(offset, int) and abs(offset) > 60:
        direction = "behind" if offset > 0 else "ahead"
        sentences.append(f"This machine's clock was {abs(offset)} s {direction} at that time.")
    return sentences


def _because(method: str) -> str:
    introducer = (introducers.known() | introducers.known_for_instances()).get(method)
    return introducer.because if introducer is not None else f"of the method {method!r}, which is not known here"


def _direction(held: Held) -> str:
    role = held.identity.role
    if role.serves and role.dials:
        return "both when it serves and when it dials"
    return "when it serves, never as a client" if role.serves else "when it dials, never as a server"
