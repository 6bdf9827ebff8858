"""
The files of a registrar's data directory, and what of them needs no key.

    D/config.toml      what the operator set (optional)
    D/authority/       keys and certificates (authority.ceremony)
    D/nifi/            the authority for NiFi's protocol, where that is served (authority.flat)
    D/controller/      the credential with which managed machines are called (controller.credential)
    D/ledger.sqlite3   the store and its log (ledger)
    D/registrar.json   where the registrar last listened, so that `invite` knows the address
    D/checkpoint       the log as it was last signed, out of the store's reach
    D/registrar.lock   held by the one `up` that runs
"""

from __future__ import annotations

import secrets
import socket
from pathlib import Path
from typing import TYPE_CHECKING

import msgspec

from handfast import ledger
from handfast.adapters import files
from handfast.adapters.files import private_directory, write_atomic
from handfast.authority.authority import PublicAuthority
from handfast.core import sshkeys
from handfast.core.invitation import Address
from handfast.core.ports import Clock
from handfast.core.secret import Secret
from handfast.errors import NotFound
from handfast.registrar.introduce import LedgerContext

if TYPE_CHECKING:
    from handfast.ledger.store import SqlLedger

AUTHORITY = "authority"
LEDGER = "ledger.sqlite3"
CONFIG = "config.toml"
PLACE = "registrar.json"
LOCK = "registrar.lock"
CHECKPOINT = "checkpoint"


class Place(msgspec.Struct, frozen=True):
    """Where the registrar last listened; not a secret, and trusted by nobody without the pin."""

    addresses: list[str]
    url: str
    crl_url: str


def open_ledger(data: Path) -> SqlLedger:
    """
    Open the ledger of this data directory; the one place that says which kind it is.

    :raises Unsafe: others may read or write it. :raises Fault: it cannot be opened.
    """
    return ledger.open_sqlite(data / LEDGER)


def has_authority(data: Path) -> bool:
    """Return whether a registrar was ever started on this directory. :raises Fault: we may not look, or no name."""
    with files.faults("read", data):
        return (data / AUTHORITY).is_dir()


def require_data(data: Path) -> None:
    """
    Check that ``data`` is a registrar's directory and private.

    :raises NotFound: it is none.
    :raises Unsafe: others can read or write it.
    """
    if not has_authority(data):
        raise NotFound(f"no registrar in {str(data)!r}", hint=f"start one: handfast up --data {data}")
    private_directory(data)


def log_origin(authority: PublicAuthority) -> str:
    """Return the name of the log in its checkpoints: one per authority, as C2SP tlog-checkpoint asks."""
    return f"{authority.trust_domain}/log"


def read_place(data: Path) -> tuple[Address, ...]:
    """Return the addresses the registrar last announced; empty if it never ran."""
    try:
        place = msgspec.json.decode((data / PLACE).read_bytes(), type=Place)
    except (FileNotFoundError, msgspec.DecodeError):
        return ()
    return tuple(Address.parse(text) for text in place.addresses)


def remember_place(data: Path, place: Place) -> None:
    """Write where the registrar listens, atomically."""
    write_atomic(data / PLACE, msgspec.json.encode(place))


def announced(configured: tuple[Address, ...], listening: Address) -> tuple[Address, ...]:
    """Return the addresses to put into invitations: the configured ones, else where we listen."""
    if configured:
        return configured
    if listening.host not in {"0.0.0.0", "::"}:  # noqa: S104  compared, not bound
        return (listening,)
    return (Address(_outward_address(), listening.port),)


def _outward_address() -> str:
    """Return the address of the interface that leads out; connecting a datagram socket sends nothing."""
    for family, target in ((socket.AF_INET, "192.0.2.1"), (socket.AF_INET6, "2001:db8::1")):
        with socket.socket(family, socket.SOCK_DGRAM) as probe:
            try:
                probe.connect((target, 9))
            except OSError:
                continue
            return str(probe.getsockname()[0])
    return "127.0.0.1"


def context_of(store: SqlLedger, clock: Clock, public: PublicAuthority) -> LedgerContext:
    """Return what introducers may ask of this ledger; its nonces are good for as long as the process lives."""
    host_ca = sshkeys.parse(public.ssh_host_ca)
    return LedgerContext(store, clock, public.pin, public.trust_domain, Secret(secrets.token_bytes(32)), host_ca)
