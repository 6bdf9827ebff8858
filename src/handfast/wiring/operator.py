"""What an operator on this machine works with: the ledger and public certificates; no key is read."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from handfast import introducers
from handfast.adapters.clock import SystemClock
from handfast.authority.authority import PublicAuthority
from handfast.config.settings import load
from handfast.core.invitation import Address
from handfast.core.secret import Secret
from handfast.registrar.administer import Administration
from handfast.registrar.approvals import Approvals
from handfast.registrar.host_keys import HostKeys
from handfast.registrar.instances import Instances
from handfast.wiring.directory import AUTHORITY, CONFIG, announced, context_of, open_ledger, read_place, require_data
from handfast.wiring.nifi import nifi_tokens


def open_administration(
    data: Path, *, addresses: tuple[Address, ...] = (), passphrase: Callable[[], Secret | None] = lambda: None
) -> Administration:
    """
    Open the ledger of an existing registrar for an operator on this machine; no key is read.

    ``passphrase`` is asked for what only a key can do: a one-time token for NiFi.

    :raises NotFound: no registrar was ever started on this directory.
    :raises Unsafe: others can read it.
    """
    require_data(data)
    public = PublicAuthority.read(data / AUTHORITY)
    return Administration(
        ledger=open_ledger(data),
        clock=SystemClock(),
        pin=public.pin,
        addresses=addresses or read_place(data),
        excluded=public.excluded,
        nifi=nifi_tokens(data, passphrase),
    )


def open_host_keys(data: Path) -> HostKeys:
    """
    Open the ledger of an existing registrar for what an operator does with SSH host keys; no key is read.

    :raises NotFound: no registrar was ever started on this directory. :raises ConfigError: its settings are wrong.
    """
    require_data(data)
    public, store = PublicAuthority.read(data / AUTHORITY), open_ledger(data)
    context = context_of(store, SystemClock(), public)
    return HostKeys(introducers.known_for_hosts(), load(data / CONFIG).rules, store, context)


def open_instances(data: Path, *, addresses: tuple[Address, ...] = ()) -> Instances:
    """
    Open the ledger of an existing registrar for what an operator does with managed machines; no key is read.

    A machine's user-data has the registrar's addresses as well; where it never ran, those that are configured.

    :raises NotFound: there is no authority in this directory. :raises ConfigError: its settings are wrong.
    """
    require_data(data)
    settings = load(data / CONFIG)
    known = addresses or read_place(data) or announced(settings.addresses, settings.listen)
    return Instances(open_administration(data, addresses=known), PublicAuthority.read(data / AUTHORITY).root)


def open_approvals(data: Path, *, by: str) -> Approvals:
    """
    Open the ledger of an existing registrar for whoever says yes or no, who is ``by``; no key is read.

    :raises NotFound: no registrar was ever started on this directory. :raises ConfigError: its settings are wrong.
    """
    require_data(data)
    return Approvals(open_ledger(data), SystemClock(), load(data / CONFIG).rules.ssh.accept, by)
