"""What the listener for NiFi's protocol is made of: its settings, its authority, its introducer and its rules."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace
from datetime import datetime, timedelta
from pathlib import Path

from cryptography import x509

from handfast.authority import flat
from handfast.authority.flat import FlatAuthority, PublicFlatAuthority
from handfast.core import dn, keys
from handfast.core.invitation import Address
from handfast.core.names import NamePattern
from handfast.core.nifi_x509 import ENDS_SOON
from handfast.core.roles import Role
from handfast.core.secret import Secret
from handfast.errors import Refused
from handfast.introducers.nifi import NAME, NifiIntroducer, SharedToken, check_token
from handfast.nifi.config import DEFAULT_DAYS, DEFAULT_KEY_ALGORITHM, DEFAULT_KEY_SIZE
from handfast.policy.rules import Rules


@dataclass(frozen=True, slots=True, kw_only=True)
class NifiSettings:
    """
    The listener: ``[nifi]`` of the configuration. Without ``listen`` there is none.

    ``hostname`` is what clients call it (``-c``), the common name of its authority; None takes the announced address.
    ``subject`` is the whole subject of the authority, when it is made; None is ``CN=<hostname>, OU=NIFI``.
    ``allow_dn``, ``allow_san`` and ``any_name`` bound what the shared token is good for.
    """

    listen: Address | None = None
    hostname: str | None = None
    subject: str | None = None
    key_algorithm: str = DEFAULT_KEY_ALGORITHM
    key_size: int = DEFAULT_KEY_SIZE
    days: int = DEFAULT_DAYS
    token_file: Path | None = None
    allow_dn: tuple[dn.SubjectPattern, ...] = ()
    allow_san: tuple[NamePattern, ...] = ()
    any_name: bool = False


@dataclass(frozen=True, slots=True)
class Adopted:
    """A running toolkit's CA, to begin with instead of a new one."""

    certificate: x509.Certificate
    key: keys.LeafPrivateKey


def open_authority(
    directory: Path,
    settings: NifiSettings,
    *,
    hostname: str,
    adopted: Adopted | None,
    now: datetime,
    passphrase: Secret | None,
    warn: Callable[[str], None],
) -> FlatAuthority:
    """
    Return the authority in ``directory``; the first time, take over a toolkit's, or make one for ``hostname``.

    :raises Refused: there is another one already, or the toolkit's cannot be used; see ``flat.adopt``.
    :raises UsageError: a key, a lifetime or a subject that cannot be.
    """
    if adopted is not None and not _is_there(directory, adopted):
        remarks = flat.adopt(
            directory, certificate=adopted.certificate, key=adopted.key, passphrase=passphrase, now=now
        )
        for remark in remarks:
            warn(remark)
    elif not directory.exists():
        flat.create(
            directory,
            subject=dn.parse(settings.subject or f"CN={hostname}, OU={dn.DEFAULT_UNIT}"),
            now=now,
            days=settings.days,
            algorithm=settings.key_algorithm,
            key_size=settings.key_size,
            passphrase=passphrase,
        )
    authority = FlatAuthority.open(directory, passphrase=passphrase)
    if settings.hostname is not None and settings.hostname != dn.common_name(authority.root.subject):
        name = dn.common_name(authority.root.subject)
        warn(f"the NiFi authority is called {name!r}: clients must give that as -c, and not {settings.hostname!r}")
    if adopted is None and authority.not_after - now < ENDS_SOON:
        warn(f"the NiFi authority ends at {authority.not_after:%Y-%m-%d %H:%M} UTC, and all that it signed with it")
    return authority


def _is_there(directory: Path, adopted: Adopted) -> bool:
    """Whether the authority was taken over before. :raises Refused: there is another one."""
    if not directory.exists():
        return False
    if PublicFlatAuthority.read(directory).root != adopted.certificate:
        raise Refused(
            f"{str(directory)!r} has another authority for NiFi",
            hint="a cluster trusts one of them: give another data directory, or leave out --from-nifi",
        )
    return True


def shared_token(settings: NifiSettings, token: Secret | None) -> SharedToken | None:
    """Return the shared token with its bounds, if there is one. :raises UsageError: it can be guessed."""
    if token is None:
        return None
    check_token(token)
    return SharedToken(token, settings.allow_dn, settings.allow_san, settings.any_name)


def introducer(shared: SharedToken | None, authority: FlatAuthority) -> NifiIntroducer:
    """Return the registrar's half with its tokens."""
    return NifiIntroducer(authority.root.public_key(), shared, authority.token_master())


def rules(settings: NifiSettings, general: Rules) -> Rules:
    """Return the rules of this listener: its one method, its lifetime, and the names that nobody gets."""
    lifetime = timedelta(days=settings.days)
    return replace(general, methods={NAME: frozenset({Role.PEER})}, lifetime=lifetime, lifetimes={})
