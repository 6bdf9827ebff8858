"""The table ``[x5c]`` of ``config.toml``: which certificates of other authorities introduce whom."""

from __future__ import annotations

from collections.abc import Container
from dataclasses import dataclass
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from handfast.config.reader import Reader, each, one_of, yes_or_no
from handfast.core.foreign import Usage
from handfast.core.names import NamePattern
from handfast.core.revocation import Coverage
from handfast.core.x509 import distribution_points
from handfast.errors import Malformed

MOST_LISTS = 64


@dataclass(frozen=True, slots=True, kw_only=True)
class X5cSettings:
    """
    ``roots`` are PEM files; ``crls`` files, or ``http://`` URLs, of revocation lists in DER or PEM.

    The others are as ``introducers.x5c.X5cRules`` has them.
    """

    roots: tuple[Path, ...] = ()
    crls: tuple[str, ...] = ()
    usages: frozenset[Usage] = frozenset({Usage.SERVER})
    names: tuple[NamePattern, ...] = ()
    coverage: Coverage = Coverage.LEAF
    cut: bool = False


def x5c_settings(reader: Reader, methods: Container[str]) -> X5cSettings:
    """Read the table; what it leaves out allows nothing. ``methods`` are all in [methods], also those disabled."""
    default = X5cSettings()
    if reader.names("x5c") and "x5c" not in methods:
        reader.mistake("x5c", "introduces nobody, as it is not in [methods]: say there which roles it leads to")
    crls = reader.take("x5c.crls", each(_source), default.crls)
    if len(crls) > MOST_LISTS:
        reader.mistake("x5c.crls", f"{len(crls)} lists, at most {MOST_LISTS}")
    if reader.has("x5c.require_crl") and not crls:
        reader.mistake("x5c.require_crl", "no list is in crls")
    return X5cSettings(
        roots=reader.take("x5c.roots", each(_path), default.roots),
        crls=crls,
        usages=reader.take("x5c.eku", _usages, default.usages),
        names=reader.take("x5c.names", each(NamePattern.parse), default.names),
        coverage=reader.take("x5c.require_crl", one_of(Coverage), default.coverage),
        cut=reader.take("x5c.cut", yes_or_no, default.cut),
    )


def _usages(values: Any) -> frozenset[Usage]:
    return frozenset(each(one_of(Usage))(values))


def _path(text: str) -> Path:
    if not Path(text).is_absolute():
        raise Malformed(f"not an absolute path: {text[:200]!r}")
    return Path(text)


def _source(text: str) -> str:
    """Read a file or a URL; never https, whose certificates may need the very list (RFC 5280 §8)."""
    if not urlsplit(text).scheme:
        return str(_path(text))
    if not text.startswith("http://"):
        raise Malformed(f"not a file or an http URL: {text[:200]!r}; a list is signed, and needs no TLS")
    distribution_points(text)
    return text
