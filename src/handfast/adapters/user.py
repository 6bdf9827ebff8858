"""
What a command reads of its user's environment where ``config`` would take too long to import.

``handfast ssh`` stands in for ssh many times a day: it may not load what a registrar needs.
"""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path


def setting(name: str, environ: Mapping[str, str] = os.environ) -> str | None:
    """Return the variable ``HANDFAST_<NAME>``; one that is empty counts as not there."""
    return environ.get(f"HANDFAST_{name.upper()}") or None


def state_directory(environ: Mapping[str, str] = os.environ) -> Path:
    """Return where this user's state lies (XDG base directory specification)."""
    return Path(environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state") / "handfast"


def agent_socket(environ: Mapping[str, str] = os.environ) -> Path | None:
    """Return where this user's ssh-agent listens (ssh-agent(1)); None without one."""
    return Path(environ["SSH_AUTH_SOCK"]) if environ.get("SSH_AUTH_SOCK") else None


def find_program(name: str, *, but: Path, environ: Mapping[str, str] = os.environ) -> Path | None:
    """
    Return the first program of this name on PATH that is not ``but`` itself, under whatever name; None without one.

    So a program that stands in for another may even be called like it.
    """
    for folder in environ.get("PATH", os.defpath).split(os.pathsep):
        path = Path(folder) / name
        if folder.startswith("/") and path.is_file() and os.access(path, os.X_OK) and not _same(path, but):
            return path
    return None


def _same(one: Path, other: Path) -> bool:
    try:
        return one.samefile(other)
    except OSError:
        return False
