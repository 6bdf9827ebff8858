"""Which addresses are this machine's own, and nobody else's: what is not protected on its way goes nowhere else."""

from __future__ import annotations

import ipaddress

from handfast.core.invitation import Address
from handfast.errors import UsageError


def is_loopback(host: str) -> bool:
    """Whether it is in 127.0.0.0/8, or ::1. A name never is: what it leads to is somebody else's word."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def on_loopback(address: Address, *, what: str) -> Address:
    """Return the address. :raises UsageError: it is not a loopback address; ``what`` would have been there."""
    if not is_loopback(address.host):
        raise UsageError(
            f"{what} at {str(address)!r}, which is not a loopback address",
            hint="127.0.0.1 or [::1]: off this machine everybody on the way could read and change it",
        )
    return address
