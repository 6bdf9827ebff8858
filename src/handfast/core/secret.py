"""Secrets have a type, so that no log line, exception or comparison can hold one by accident."""

from __future__ import annotations

from typing import NoReturn


class Secret:
    """
    Bytes that must not be shown.

    There is no ``repr`` of the content, no equality (compare with ``hmac.compare_digest``), no hash
    and no pickling. ``reveal`` is the only way out and is easy to search for.
    """

    __slots__ = ("_value",)

    def __init__(self, value: bytes) -> None:
        self._value = value

    def reveal(self) -> bytes:
        """Return the bytes; the caller keeps them out of logs, messages and argument lists."""
        return self._value

    def __repr__(self) -> str:
        return "Secret(…)"

    __str__ = __repr__

    def __eq__(self, other: object) -> NoReturn:
        raise TypeError("secrets are not compared with ==: use hmac.compare_digest on reveal()")

    __hash__ = None  # type: ignore[assignment]  # a hash would allow lookup by secret

    def __reduce__(self) -> NoReturn:
        raise TypeError("secrets are not pickled")
