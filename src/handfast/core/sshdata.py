"""What SSH's formats are made of: strings, each behind its length, and numbers in them (RFC 4251 §5)."""

from __future__ import annotations

import struct

from handfast.errors import Malformed


def string(data: bytes) -> bytes:
    """Return ``data`` behind its length."""
    return struct.pack(">I", len(data)) + data


def mpint(value: int) -> bytes:
    """Return a positive number as a string: big-endian, in as few bytes as leave the sign bit clear."""
    return string(value.to_bytes(value.bit_length() // 8 + 1))


def positive(data: bytes, *, what: str) -> int:
    """
    Read the content of an mpint that has to be positive.

    :raises Malformed: zero, negative, or longer than it has to be; ``what`` names the whole in the message.
    """
    value = int.from_bytes(data)
    if not value or mpint(value)[4:] != data:
        raise Malformed(f"{what} has a number that is not in its one form", hint="its writer is at fault")
    return value


def strings(data: bytes, *, what: str) -> tuple[bytes, ...]:
    """
    Split what is nothing but strings: public keys of every kind, and signatures.

    :raises Malformed: a length beyond the end, or bytes that remain; ``what`` names the whole in the message.
    """
    reader, found = Reader(data, what=what), []
    while reader.left:
        found.append(reader.string())
    return tuple(found)


class Reader:
    """Takes values from the front of what is ``left`` (bytes). :raises Malformed: there is less than was announced."""

    def __init__(self, data: bytes, *, what: str) -> None:
        self._data, self._at = data, 0  # what is left is never copied: of a stranger's many strings each costs itself
        self._what = what

    @property
    def left(self) -> int:
        """How many bytes are still to be read."""
        return len(self._data) - self._at

    def take(self, size: int) -> bytes:
        """Return so many bytes."""
        if size > self.left:
            raise Malformed(f"{self._what} is cut off: {size} bytes announced, {self.left} there", hint="copy all")
        self._at += size
        return self._data[self._at - size : self._at]

    def uint32(self) -> int:
        """Return a number of four bytes."""
        return int.from_bytes(self.take(4))

    def uint64(self) -> int:
        """Return a number of eight bytes."""
        return int.from_bytes(self.take(8))

    def string(self) -> bytes:
        """Return a string's content."""
        return self.take(self.uint32())

    def end(self) -> None:
        """Nothing may be left. :raises Malformed: there is."""
        if self.left:
            raise Malformed(f"{self._what} has {self.left} bytes behind its end", hint="its writer is at fault")
