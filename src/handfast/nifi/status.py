"""``tls-toolkit status``: whether an HTTPS server answers somebody with these key and trust stores."""

from __future__ import annotations

import contextlib
import dataclasses
from pathlib import Path
from urllib.parse import urlsplit

from cryptography import x509

from handfast.adapters import files
from handfast.adapters.tls import verifying_client_context
from handfast.core import javastore
from handfast.core.keys import UNREADABLE, LeafPrivateKey
from handfast.errors import Malformed, Refused, Unreachable, UsageError
from handfast.nifi import stores
from handfast.nifi.https import NotYetError, Place, ask, connected
from handfast.nifi.options import StatusOptions, StoreOptions

_MAX_STORE = 1 << 22  # bytes: a trust store may hold every public CA


class Status:
    """One question, prepared: what can be wrong with the options is found before anybody is asked."""

    def __init__(self, options: StatusOptions) -> None:
        """:raises UsageError: no HTTPS address, or stores that cannot be used."""
        self._place, self._target = _parse(options.url)
        roots = _roots(options.truststore)
        if not roots:
            raise UsageError(f"{str(options.truststore.path)!r} trusts nobody", hint="is this the trust store?")
        identity = None if options.keystore is None else _identity(options.keystore)
        self._context = verifying_client_context(roots, identity, newest=options.newest)

    def ask(self) -> int:
        """
        Return the status of one GET; redirects are answers.

        :raises UntrustedPeer: its certificate is not from the trust store, not valid, or not for this host.
        :raises Unreachable: no answer within 10 s, or no TLS.
        """
        try:
            with connected(self._place, self._context) as connection:
                return ask(connection, self._place, "GET", self._target).status
        except NotYetError as error:
            raise Unreachable(
                f"cannot reach {self._place}: {error}", hint="is it running, and the port open?"
            ) from None


def _parse(url: str) -> tuple[Place, str]:
    try:
        parts = urlsplit(url.strip())
        host, port = parts.hostname, parts.port or 443
    except ValueError:
        host, port, parts = None, 0, urlsplit("")
    if parts.scheme != "https" or host is None or not url.isascii() or not url.strip().isprintable():
        raise UsageError(f"not an HTTPS address: {url[:80]!r}", hint="write it as https://host:port/path")
    return Place(host, port), (parts.path or "/") + (f"?{parts.query}" if parts.query else "")


def _entries(store: StoreOptions) -> tuple[javastore.Entry, ...]:
    # Not ``read_private``: that a key store can be read by others is no reason not to ask for its server's status.
    with files.faults("read", store.path), Path(store.path).open("rb") as file:
        data = file.read(_MAX_STORE)
    try:
        return javastore.read(data, password=store.password, key_password=store.key_password)
    except Refused as error:
        raise UsageError(f"cannot open {str(store.path)!r}: {error.message}", hint=error.hint) from None


def _roots(store: StoreOptions) -> list[x509.Certificate]:
    """Return what the store trusts, but what cannot be read: a store of public CAs has oddities in it."""
    found = []
    for entry in _entries(store):
        if isinstance(entry, javastore.TrustedEntry):
            with contextlib.suppress(*UNREADABLE):
                found.append(x509.load_der_x509_certificate(entry.certificate))
    return found


def _identity(store: StoreOptions) -> tuple[list[x509.Certificate], LeafPrivateKey]:
    held = [entry for entry in _entries(store) if isinstance(entry, javastore.KeyEntry)]
    # Under any alias: the store may be another program's.
    renamed = [dataclasses.replace(entry, alias=stores.KEY_ALIAS) for entry in held[:1]]
    try:
        found = stores.find_key(renamed)
    except Malformed as error:
        raise UsageError(f"cannot use {str(store.path)!r}: {error.message}", hint=error.hint) from None
    if found is None:
        raise UsageError(f"{str(store.path)!r} holds no key", hint="is this the key store?")
    return list(found[1]), found[0]
