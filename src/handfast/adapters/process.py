"""This process and its children: what they may leave behind, inherit, and be started as."""

from __future__ import annotations

import os
import resource
import sys

# How to run this program again. -P: a directory where somebody calls it must not give it modules.
OURSELVES = (sys.executable, "-P", "-m", "handfast")
_SECRET = ("HANDFAST_INVITATION", "HANDFAST_PASSPHRASE")


def leave_no_core() -> None:
    """Keep private keys out of core files, should this process crash."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))


def many_files() -> None:
    """Allow as many open files as we may: the usual 1,024 are for programs which call select(2), and we do not."""
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))


def child_environment(**added: str) -> dict[str, str]:
    """Return the environment of a child: ours without any secret that was handed to us in it, and ``added``."""
    return {key: value for key, value in os.environ.items() if key not in _SECRET} | added
