"""join --x5c: be introduced by a certificate of another authority."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

import click

from handfast import config
from handfast.cli.arguments import FILE, REGISTRAR

if TYPE_CHECKING:
    from handfast.core.invitation import Address
    from handfast.introducers.x5c import Certified


Given = tuple[Path, Path, tuple["Address", bytes]]


X5C = click.option(
    "--x5c",
    type=(FILE, FILE, REGISTRAR),
    metavar="CERT KEY URL#PIN",
    help="Join with a certificate of another authority (PEM, CAs above it included) and its key, instead of an "
    "invitation; the registrar trusts that authority for it.",
)


def way(given: Given, role: str | None) -> Certified:
    """Return the way that was asked for. :raises HandfastError: as ``newcomer.x5c.certified``."""
    from handfast.newcomer.x5c import certified

    certificate, key, (address, pin) = given
    chosen = config.parse_role(role) if role else None
    return certified(certificate, key, addresses=[address], pin=pin, role=chosen)
