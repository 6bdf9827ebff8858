"""
``tls-toolkit client``: a node gets its key store, trust store and configuration from a NiFi CA.

    (1) read what is there, and find everything that would fail before anything is sent
    (2) done already? An existing store that opens, fits and is not due is kept
    (3) make a key, and keep it beside its passwords: a one-time token burns against it, so a retry must come with it
    (4) ask the CA and check its answer (``exchange.py``)
    (5) write: key store, trust store, configuration, PEM; each in one step, in the order of the original

A crash within (5) leaves stores whose passwords are in the pending file only; the next run finds them there.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from datetime import datetime, timedelta
from pathlib import Path

import msgspec
from cryptography import x509

from handfast.adapters import files
from handfast.core import dn, javastore, keys
from handfast.core.chain import load_certificate
from handfast.core.javastore import StoreType
from handfast.core.ports import Clock
from handfast.errors import ConfigError, Fault, NotFound, Refused, Unreachable, Unsafe, UsageError
from handfast.introducers.nifi import check_token
from handfast.nifi import config as configuration
from handfast.nifi import stores
from handfast.nifi.config import ClientConfig
from handfast.nifi.exchange import Enrolled, Wanted, compare_names, enrol
from handfast.nifi.https import Place
from handfast.nifi.options import ClientOptions
from handfast.nifi.pending import Pending, kind_of, new_key

MAX_STORE = 1 << 22  # bytes of a key store that we read: a trust store may hold every public CA
_RENEW_AFTER = 2 / 3  # of a certificate's life
_LOCK = ".tls-toolkit.lock"
_REMEDY = (
    "run it with the configuration that has the password (--useConfigJson), or move the store away to make a new one"
)
Tell = Callable[[str], None]


@dataclass(frozen=True, slots=True)
class Outcome:
    """What the node holds now; ``enrolled`` is False where it held that before."""

    enrolled: bool
    leaf: x509.Certificate
    ca: x509.Certificate

    @property
    def subject(self) -> str:
        """The subject as Java shows it, and as NiFi's authorizers compare it."""
        return dn.written(self.leaf.subject)


def run(options: ClientOptions, *, clock: Clock, tell: Tell) -> Outcome:
    """
    Make sure that the node holds a certificate which is good and not due, and write all its files.

    ``tell`` gets what a person should know, line by line.

    :raises ConfigError: a configuration that cannot be read.
    :raises Refused: the CA said no; or stores that do not open, or hold something else: they are left as they were.
    :raises UntrustedPeer: not the CA, or an answer that is not what was asked for.
    :raises Unreachable: no CA, or no answer, in time.
    """
    run = _Run(options, _configured(options, tell), clock, tell)
    run.check_places()
    with files.FileLock(run.keystore.parent / _LOCK):
        return run.go()


def _configured(options: ClientOptions, tell: Tell) -> ClientConfig:
    if options.config_in is None:
        return options.config
    try:
        decoded = configuration.read(options.config_in, ClientConfig)
    except NotFound as error:
        raise ConfigError(error.message, hint="run it without --useConfigJson to make one") from None
    for remark in decoded.remarks:
        tell(remark)
    return decoded.config


class _Run:
    """One run; its methods stand in the order in which they are called."""

    def __init__(self, options: ClientOptions, config: ClientConfig, clock: Clock, tell: Tell) -> None:
        if not config.key_store or not config.trust_store:
            raise ConfigError("the configuration does not say where the stores are", hint="add keyStore and trustStore")
        self.options, self.config, self.clock, self.tell = options, config, clock, tell
        self.keystore, self.truststore = Path(config.key_store), Path(config.trust_store)
        self.pending = self.keystore.with_name(f".{self.keystore.name}.pending")
        self.kinds = StoreType.parse(config.key_store_type), StoreType.parse(config.trust_store_type)
        self.place = _place(config)
        names = tuple(name for name in map(str.strip, config.domain_alternative_names or ()) if name)
        self.wanted = Wanted(dn.parse(config.dn or ""), names)
        self.wanted.general_names()

    def check_places(self) -> None:
        """:raises Refused: a directory that we shall write to is missing or not ours to write."""
        places = (self.keystore, self.truststore, self.options.config_out)
        for directory in dict.fromkeys((*(place.parent for place in places), self.options.certificate_directory)):
            if not directory.is_dir():
                raise NotFound(f"no directory {str(directory)!r}", hint="create it first; nothing was sent or written")
            if not os.access(directory, os.W_OK | os.X_OK):
                raise Refused(f"no right to write in {str(directory)!r}", hint="nothing was sent or written")

    def go(self) -> Outcome:
        pending = self._stored_pending()
        held, passwords = self._open(pending)
        trusted = self._open_truststore(passwords)
        if held is None or self._is_due(held):
            return self._enrol(held, pending, passwords, trusted)
        outcome = self._keep(held, passwords, trusted)
        self._forget_pending()
        return outcome

    # ------------------------------------------------------------------------ (1) and (2): what is there

    def _open(self, pending: Pending | None) -> tuple[_Held | None, stores.Passwords]:
        """Return what the key store holds, and the passwords to go on with. :raises Refused: it does not open."""
        previous = self._previous()
        known = [self.config, previous, pending]
        first = next((each for each in known if each is not None and each.key_store_password is not None), self.config)
        data = self._content(self.keystore)
        if data is None:
            return None, self._complete(first, previous)
        error: Refused | None = None
        for source in known:
            if source is None or source.key_store_password is None:
                continue
            passwords = self._complete(source, previous)
            try:
                return _held(data, passwords), passwords
            except Refused as refused:
                error = error or refused
        reason = error.message if error else "its password is not known"
        raise Refused(f"cannot open the existing {str(self.keystore)!r}: {reason}", hint=_REMEDY)

    def _previous(self) -> ClientConfig | None:
        """Without -F: what the last run wrote. Only its passwords count, of the stores that are the same."""
        if self.options.config_in is not None:
            return None
        try:
            config = configuration.decode(_read(self.options.config_out, self.tell), ClientConfig).config
        except (ConfigError, NotFound):
            return None
        if Path(config.key_store or "") != self.keystore:
            config = msgspec.structs.replace(config, key_store_password=None, key_password=None)
        if Path(config.trust_store or "") != self.truststore:
            config = msgspec.structs.replace(config, trust_store_password=None)
        return config

    def _complete(self, known: ClientConfig | Pending, previous: ClientConfig | None) -> stores.Passwords:
        remembered = None if previous is None else previous.trust_store_password
        return stores.Passwords.complete(
            known.key_store_password,
            known.key_password,
            known.trust_store_password or remembered,
            different_key=self.options.different_key_password,
        )

    def _open_truststore(self, passwords: stores.Passwords) -> tuple[javastore.Entry, ...]:
        """Return the entries of an existing trust store. :raises Refused: it does not open."""
        data = self._content(self.truststore)
        if data is None:
            return ()
        try:
            return javastore.read(data, password=passwords.truststore)
        except Refused as error:
            message = f"cannot open the existing {str(self.truststore)!r}: {error.message}"
            raise Refused(message, hint=_REMEDY) from None

    def _content(self, path: Path) -> bytes | None:
        try:
            return _read(path, self.tell)
        except NotFound:
            return None

    def _is_due(self, held: _Held) -> bool:
        """:raises Refused: it is not what the flags ask for. With a configuration to read, it is kept all the same."""
        why = self._misfit(held.credential.leaf)
        if not why:
            return self.clock.now() >= _due(held.credential.leaf)
        message = f"{str(self.keystore)!r} holds a certificate {why}"
        if self.options.config_in is None:
            raise Refused(message, hint="nothing was overwritten: use another directory, or move the store away")
        self.tell(f"{message}; it is kept, as the toolkit does: move the store away to get another")
        return False

    def _misfit(self, leaf: x509.Certificate) -> str:
        """Return why the certificate is not the one that is asked for, or nothing. Dates are not looked at."""
        if set(leaf.subject.rdns) != set(self.wanted.subject.rdns):  # old toolkits sorted them
            return f"for {dn.written(leaf.subject)!r}, not for {dn.written(self.wanted.subject)!r}"
        missing, _ = compare_names(self.wanted, leaf)
        return f"without {', '.join(missing)}" if missing else ""

    def _keep(self, held: _Held, passwords: stores.Passwords, trusted: tuple[javastore.Entry, ...]) -> Outcome:
        self._write(held.credential, passwords, trusted, keystore=None)
        return Outcome(enrolled=False, leaf=held.credential.leaf, ca=held.credential.ca)

    # ------------------------------------------------------------------------ (3) and (4): the CA

    def _enrol(
        self,
        held: _Held | None,
        pending: Pending | None,
        passwords: stores.Passwords,
        trusted: tuple[javastore.Entry, ...],
    ) -> Outcome:
        try:
            key, enrolled = self._ask(pending, passwords, _known(held, trusted))
        except (Unreachable, Refused, UsageError) as error:
            end = None if held is None else held.credential.leaf.not_valid_after_utc
            if held is None or end is None or self.clock.now() >= end:
                raise
            # A node whose CA is away for a day must not stay down for it.
            self.tell(f"the certificate is due, and good until {end:%Y-%m-%d %H:%M}Z: {error.message}")
            return self._keep(held, passwords, trusted)
        for remark in enrolled.remarks:
            self.tell(remark)
        credential = stores.NodeCredential(key, enrolled.leaf, enrolled.ca)
        kind = self.kinds[0]
        others = held.others if held is not None else ()
        store = stores.keystore(credential, kind, passwords, created_at=self.clock.now(), others=others)
        self._write(credential, passwords, trusted, keystore=store)
        self._forget_pending()
        return Outcome(enrolled=True, leaf=enrolled.leaf, ca=enrolled.ca)

    def _ask(
        self, pending: Pending | None, passwords: stores.Passwords, known: x509.Certificate | None
    ) -> tuple[keys.LeafPrivateKey, Enrolled]:
        token = self.config.token or self.options.token
        if token is None:
            raise UsageError("no token to ask the CA with", hint="put it in the configuration, or give --token-file")
        check_token(token)
        wanted_kind = self.config.key_pair_algorithm, self.config.key_size
        if pending is not None and kind_of(pending.key) == (wanted_kind[0].upper(), wanted_kind[1]):
            key = pending.key
        else:
            key = new_key(*wanted_kind)
        fresh = Pending(key, passwords.keystore, passwords.key, passwords.truststore)
        files.write_atomic(self.pending, fresh.encode())
        enrolled = enrol(
            self.place,
            self.wanted,
            key=key,
            known=known,
            token=token,
            wait=self.options.wait,
            now=self.clock.now,
            tell=self.tell,
        )
        return key, enrolled

    def _forget_pending(self) -> None:
        with files.faults("remove", self.pending), suppress(FileNotFoundError):
            os.unlink(self.pending)

    def _stored_pending(self) -> Pending | None:
        try:
            return Pending.decode(files.read_private(self.pending))
        except NotFound:
            return None
        except (ValueError, TypeError, KeyError, AttributeError):
            # Not replaced by a new key: this one may be the only key that a one-time token still admits.
            raise Fault(
                f"{str(self.pending)!r} is damaged", hint="delete it; a one-time token that was used needs a new one"
            ) from None

    # ------------------------------------------------------------------------ (5): files

    def _write(
        self,
        credential: stores.NodeCredential,
        passwords: stores.Passwords,
        trusted: tuple[javastore.Entry, ...],
        *,
        keystore: bytes | None,
    ) -> None:
        """Write everything; the key store only if it is new, so that running again changes no key."""
        others = tuple(entry for entry in trusted if entry.alias != stores.CERT_ALIAS)
        config = msgspec.structs.replace(
            self.config,
            key_store_password=passwords.keystore,
            key_password=passwords.key,
            trust_store_password=passwords.truststore,
        )
        if keystore is not None:
            files.write_atomic(self.keystore, keystore)
        now, kind = self.clock.now(), self.kinds[1]
        store = stores.truststore(credential.ca, kind, passwords.truststore, created_at=now, others=others)
        files.write_atomic(self.truststore, store)
        files.write_atomic(self.options.config_out, configuration.encode(config))
        pems = stores.pem_files(credential)
        for name, pem in {**_trusted_pems(others), stores.CERT_PEM: pems.pop(stores.CERT_PEM)}.items():
            files.write_atomic(self.options.certificate_directory / name, pem)
        for name, pem in pems.items():
            files.write_atomic(self.keystore.with_name(name), pem)


@dataclass(frozen=True, slots=True)
class _Held:
    """What an existing key store holds: ours, and what somebody else put there."""

    credential: stores.NodeCredential
    others: tuple[javastore.Entry, ...]


def _held(data: bytes, passwords: stores.Passwords) -> _Held:
    """:raises Refused: it does not open, or does not hold a node's key and certificates."""
    entries = javastore.read(data, password=passwords.keystore, key_password=passwords.key)
    found = stores.find_key(entries)
    if found is None or len(found[1]) < 2:
        raise Refused(f"it does not hold {stores.KEY_ALIAS!r} with a certificate and its CA's")
    key, chain = found
    credential = stores.NodeCredential(key, chain[0], chain[-1])
    return _Held(credential, tuple(entry for entry in entries if entry.alias != stores.KEY_ALIAS))


def _known(held: _Held | None, trusted: tuple[javastore.Entry, ...]) -> x509.Certificate | None:
    """
    Return the CA that the node trusts already: the trust store's, or else the key store's.

    On this wire a node shows its MAC before the CA shows anything. Once there is a key to know the CA by, nobody else
    needs to see one.
    """
    for entry in trusted:
        if entry.alias == stores.CERT_ALIAS and isinstance(entry, javastore.TrustedEntry):
            return load_certificate(entry.certificate)
    return None if held is None else held.credential.ca


def _place(config: ClientConfig) -> Place:
    host, port = config.ca_hostname, config.port
    if not host.isascii() or not host.isprintable() or " " in host or not 0 < port < 1 << 16:
        raise UsageError(f"no CA can be at host {host[:80]!r}, port {port}", hint="see -c and -p, or the configuration")
    return Place(host, port)


def _due(leaf: x509.Certificate) -> datetime:
    start, end = leaf.not_valid_before_utc, leaf.not_valid_after_utc
    return start + timedelta(seconds=(end - start).total_seconds() * _RENEW_AFTER)


def _trusted_pems(entries: tuple[javastore.Entry, ...]) -> dict[str, bytes]:
    return {
        f"{stores.escape_filename(entry.alias)}.pem": stores.certificate_pem(load_certificate(entry.certificate))
        for entry in entries
        if isinstance(entry, javastore.TrustedEntry)
    }


def _read(path: Path, tell: Tell) -> bytes:
    """
    Return a store, or the configuration of the last run; whose it is, and who else can read it, is only told.

    Unlike the configuration of -F, neither says what to do: after a run as root their owner is often NiFi's user.
    """
    try:
        return files.read_private(path, limit=MAX_STORE)
    except Unsafe as error:
        tell(f"{error.message}; it has secrets in it")
    with files.faults("read", path), path.open("rb") as file:
        return file.read(MAX_STORE)
