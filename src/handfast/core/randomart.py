"""
The picture of a key that ``ssh-keygen -lv`` and ``VisualHostKey`` show, to be compared at a glance.

A bishop walks diagonally over a field of 17 by 9, two bits of the fingerprint a step, and each square shows how often
it was visited (Loss, Limmer, von Gernler: "The drunken bishop", 2009). It is weaker than the fingerprint beside it:
pictures that differ are different keys, pictures that look alike need not be the same.
"""

from __future__ import annotations

from handfast.core.sshdata import strings
from handfast.core.sshkeys import SshKey
from handfast.errors import Malformed

WIDTH, HEIGHT = 17, 9
_VISITS = " .o+=*BOX@%&#/^"  # never, once, …; the last also for more
_START, _END = "S", "E"
_KINDS = {
    "ssh-ed25519": ("ED25519", 256),
    "ecdsa-sha2-nistp256": ("ECDSA", 256),
    "ecdsa-sha2-nistp384": ("ECDSA", 384),
    "ecdsa-sha2-nistp521": ("ECDSA", 521),
    "sk-ssh-ed25519@openssh.com": ("ED25519-SK", 256),
    "sk-ecdsa-sha2-nistp256@openssh.com": ("ECDSA-SK", 256),
}
_NUMBERS = {"ssh-rsa": ("RSA", 2), "ssh-dss": ("DSA", 1)}  # which of the key's strings has as many bits as it


def kind(key: SshKey) -> tuple[str, int | None]:
    """
    Return what ``ssh-keygen -l`` calls the key, and its bits: ``("RSA", 3072)``.

    A type that we do not know goes by its algorithm's name, without bits.
    """
    if key.algorithm in _NUMBERS:
        name, place = _NUMBERS[key.algorithm]
        try:
            return name, int.from_bytes(strings(key.blob, what="the key")[place]).bit_length()
        except (Malformed, IndexError):  # it is shown all the same; that it is none, its user finds
            return name, None
    return _KINDS.get(key.algorithm, (key.algorithm, None))


def picture(key: SshKey) -> str:
    """Return eleven lines, as OpenSSH prints them for SHA256, without a line feed at the end."""
    visits = [[0] * WIDTH for _ in range(HEIGHT)]
    x, y = WIDTH // 2, HEIGHT // 2
    for byte in key.digest:
        for shift in range(0, 8, 2):
            x = min(max(x + (1 if byte >> shift & 1 else -1), 0), WIDTH - 1)
            y = min(max(y + (1 if byte >> shift & 2 else -1), 0), HEIGHT - 1)
            visits[y][x] += 1
    field = [[_VISITS[min(count, len(_VISITS) - 1)] for count in row] for row in visits]
    field[HEIGHT // 2][WIDTH // 2] = _START
    field[y][x] = _END
    name, bits = kind(key)
    title = f"[{name} {bits}]" if bits else f"[{name[: WIDTH - 3]}]"
    return "\n".join([_edge(title), *(f"|{''.join(row)}|" for row in field), _edge("[SHA256]")])


def _edge(title: str) -> str:
    """A border with a title; the odd dash is on its right."""
    left = (WIDTH - len(title)) // 2
    return "+" + ("-" * left + title).ljust(WIDTH, "-") + "+"
