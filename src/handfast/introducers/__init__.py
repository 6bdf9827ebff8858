"""
One file for each way of being introduced; the registrar's half and the newcomer's half side by side.

Every module opens with five lines (Proof, Answer, Trusts, Replay, Spec), does no I/O, imports no other introducer, and
offers ``REGISTRAR_HALF``, ``CONTROLLER_HALF`` for managed machines, ``HOST_HALF`` where nothing but SSH host keys
become known, or ``SSH_HALF`` for SSH certificates. Being known here is not being enabled: only configuration enables a
method (``wiring``).
"""

from __future__ import annotations

import importlib
import pkgutil
from collections.abc import Iterator
from typing import Any

from handfast.core.ports import HostIntroducer, Introducer, SshIntroducer


def known() -> dict[str, Introducer]:
    """Return every introducer in this folder by name; two with one name are an error that names both."""
    found: dict[str, Introducer] = {}
    for half in _halves("REGISTRAR_HALF"):
        if half.name in found:
            raise ValueError(f"two introducers are called {half.name!r}: {found[half.name]!r} and {half!r}")
        found[half.name] = half
    return found


def known_for_hosts() -> dict[str, HostIntroducer]:
    """Return those by which nothing but SSH host keys become known, by name."""
    return {half.name: half for half in _halves("HOST_HALF")}


def known_for_instances() -> dict[str, Introducer]:
    """Return those that judge managed machines over connections which their controller has made, by name."""
    return {half.name: half for half in _halves("CONTROLLER_HALF")}


def known_for_certificates() -> dict[str, SshIntroducer]:
    """Return those that lead to SSH certificates, by name."""
    return {half.name: half for half in _halves("SSH_HALF")}


def _halves(which: str) -> Iterator[Any]:
    for info in sorted(pkgutil.iter_modules(__path__), key=lambda info: info.name):
        half = getattr(importlib.import_module(f"{__name__}.{info.name}"), which, None)
        if half is not None:
            yield half
