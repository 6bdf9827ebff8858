"""``handfast session join``: the newcomer's flow of `join`, with a session file at its end instead of a directory."""

from __future__ import annotations

import contextlib
import http.client
import shutil
from collections.abc import Callable
from datetime import datetime
from pathlib import Path

from handfast.adapters.tls import newcomer_context
from handfast.core import chain, keys
from handfast.core.ports import FirstWay
from handfast.errors import HandfastError, UntrustedPeer
from handfast.newcomer.check import Checked
from handfast.newcomer.connection import Verified, verified
from handfast.newcomer.exchange import exchange
from handfast.newcomer.keystore import Keystore
from handfast.newcomer.pending import Pending
from handfast.sessions import party
from handfast.sessions.party import Party
from handfast.sessions.trust import Trust


def join(way: FirstWay, out: Path, *, now: Callable[[], datetime]) -> Party:
    """
    Be introduced this way and write the session file; the key is made here and goes nowhere else.

    It is kept in ``.FILE.join`` before anything is sent: the same line, said again after a lost answer, is the same
    key, and gets the same answer. A file that came of this very line is returned as it is.

    :raises Unreachable: no registrar answered in time.
    :raises UntrustedPeer: it is not the registrar of the pin, or its answer is not what was asked for.
    :raises Refused: the registrar said no; a file of something else is at ``out``; the clocks are days apart.
    """
    out = out.absolute()
    if (held := _joined_before(way, out, now())) is not None:
        return held
    workshop = Keystore(out.with_name(f".{out.name}.join"))
    with workshop.exclusive():
        pending = workshop.pending(way.purpose)
        judge = lambda claimed: claimed  # noqa: E731  the invitation's own times bound it, see check_time
        with verified(way.addresses, newcomer_context(), pin=way.pin, judge=judge) as registrar:
            way.check_time(registrar.time)
            Trust.check_clock(int(registrar.time.timestamp()), now())
            made = _checked(exchange(way, registrar, pending), pending, way, out, now())
            party.write(out, made)
            crl = _revocation_list(registrar, made)
        shutil.rmtree(workshop.directory, ignore_errors=True)
    if crl is not None:
        with contextlib.suppress(HandfastError):  # peers will hand it on
            trust = Trust(made, now=now, path=out)
            trust.adopt(crl)
            trust.keep()
    return made


def _joined_before(way: FirstWay, out: Path, now: datetime) -> Party | None:
    """:raises Refused: something else is there."""
    with contextlib.suppress(HandfastError):
        held = party.read(out, now=now)
        if held.origin == way.purpose:
            return held
    party.require_new(out)
    return None


def _checked(checked: Checked, pending: Pending, way: FirstWay, out: Path, now: datetime) -> Party:
    """Return the party, read back as the next program will: what it would refuse is not written."""
    if len(checked.chain) != 1:
        hint = "is the invitation a session's? `handfast join` takes any other"
        raise UntrustedPeer(f"{len(checked.chain)} certificates between ours and the session's, not one", hint=hint)
    leaf, issuing, root = map(chain.load_certificate, (checked.leaf, checked.chain[0], checked.trust[0]))
    made = Party(
        session=party.session_name(root),
        name=checked.identity.machine,
        role=checked.identity.role,
        key=pending.private_key,
        leaf=leaf,
        issuing=issuing,
        root=root,
        origin=way.purpose,
    )
    return party.parse(made.encode(), str(out), now=now)


def _revocation_list(registrar: Verified, made: Party) -> bytes | None:
    """Fetch the list: a party begins with what is known, and the registrar learns that the answer has arrived."""
    name = keys.spki_sha256(made.issuing.public_key()).hex()
    with contextlib.suppress(HandfastError):
        status, der = registrar.connection.request("GET", f"/crl/{name}.crl")
        return der if status == http.client.OK else None
    return None
