"""``handfast up``: one registrar for one data directory."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from handfast.adapters.files import FileLock, private_directory
from handfast.core.secret import Secret
from handfast.server.run import Ready, serve
from handfast.wiring import LOCK, Overrides, Place, Service, open_service, remember_place


def up(
    data: Path,
    overrides: Overrides,
    *,
    passphrase: Secret | None,
    ready: Callable[[dict[str, object]], None],
    prepare: Callable[[Service], None] = lambda _service: None,
) -> int:
    """
    Serve the registrar in ``data`` until a signal ends it; ``ready`` gets url, pin, listen and pid.

    ``prepare`` may do something with the service before it listens.

    :raises HandfastError: whatever keeps it from serving, see ``open_service`` and ``serve``; ``Fault`` where another
        process serves this directory.
    """
    private_directory(data)
    both = "; or let it serve NiFi as well: handfast up --nifi-listen HOST:PORT" if overrides.alone else ""
    with FileLock(data / LOCK, hint=f"wait until it has finished, or stop it{both}"):
        service = open_service(data, overrides, passphrase=passphrase)

        def announce(place: Ready) -> None:
            if place.url is not None and place.crl_url is not None:
                remember_place(data, Place([str(address) for address in place.addresses], place.url, place.crl_url))
            told = {"url": place.url, "pin": place.pin, "listen": place.listen, "nifi": place.nifi, "pid": place.pid}
            ready({key: value for key, value in told.items() if value is not None})

        try:
            prepare(service)
            return serve(service, ready=announce)
        finally:
            service.ledger.close()
