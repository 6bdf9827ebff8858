"""Which names may be had by the host-key challenge: those for which our CA speaks, where that is said."""

from __future__ import annotations

import re
from collections.abc import Sequence

from handfast.policy.rules import Rules


def against_names(names: Sequence[str], rules: Rules) -> tuple[str, ...]:
    """
    Return why names cannot be had: they fit none of ``[ssh.certificates] patterns``, where there are any.

    Nobody would believe a certificate for such a name. And whoever has a domain of his own would otherwise fill our
    registry with machines in it: to answer in one's own domain is no feat.
    """
    patterns = rules.ssh.certificates.patterns
    if not patterns:
        return ()
    return tuple(
        f"{name!r} is not a name for which this authority speaks ([ssh.certificates] patterns)"
        for name in names
        if not _fits(name, patterns)
    )


def _fits(name: str, patterns: Sequence[str]) -> bool:
    """As ssh reads a list of patterns (ssh_config(5), PATTERNS): one has to fit, and none with a ``!``."""
    fitting = [pattern for pattern in patterns if _like(name, pattern.removeprefix("!"))]
    return bool(fitting) and not any(pattern.startswith("!") for pattern in fitting)


def _like(name: str, pattern: str) -> bool:
    escaped = re.escape(pattern.lower()).replace(r"\*", ".*").replace(r"\?", ".")
    return re.fullmatch(escaped, name) is not None
