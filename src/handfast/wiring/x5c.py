"""How ``x5c`` gets what it judges by: roots from files, names and roles from the configuration, revocation lists."""

from __future__ import annotations

from cryptography import x509

from handfast.adapters.files import read_trusted
from handfast.adapters.revocation_lists import RevocationLists
from handfast.config.settings import Config
from handfast.config.x5c import X5cSettings
from handfast.core.foreign import MAX_BUNDLE, read_roots
from handfast.errors import ConfigError, HandfastError
from handfast.introducers.x5c import NAME, X5cIntroducer, X5cRules


def lists(settings: Config, fetched: RevocationLists) -> RevocationLists:
    """Return the revocation lists of a configuration; none where x5c is not enabled. What was ``fetched`` is kept."""
    return fetched.having(settings.x5c.crls if NAME in settings.rules.methods else ())


def introducer(settings: Config, crls: RevocationLists) -> X5cIntroducer:
    """
    Return the registrar's half; where the method is not enabled it accepts nobody.

    :raises ConfigError: it is enabled and would accept nobody, or a file of roots cannot be read.
    """
    chosen, roles = settings.x5c, settings.rules.methods.get(NAME, frozenset())
    if not roles:
        return X5cIntroducer()
    for key, value in (("roots", chosen.roots), ("names", chosen.names), ("eku", chosen.usages)):
        if not value:
            raise ConfigError(
                f"[methods] enables x5c, and [x5c] {key} is empty: it would accept nobody",
                hint="see docs/protocols/x5c.md for an example",
            )
    rules = X5cRules(
        roots=_roots(chosen),
        usages=chosen.usages,
        roles=roles,
        names=chosen.names,
        coverage=chosen.coverage,
        cut=chosen.cut,
    )
    return X5cIntroducer(rules, crls.current if crls.sources else None)


def _roots(settings: X5cSettings) -> tuple[x509.Certificate, ...]:
    found: list[x509.Certificate] = []
    for path in settings.roots:
        try:
            found += read_roots(read_trusted(path, limit=MAX_BUNDLE))
        except HandfastError as error:
            raise ConfigError(f"[x5c] roots: {str(path)!r}: {error.message}", hint=error.hint) from None
    return tuple(found)
