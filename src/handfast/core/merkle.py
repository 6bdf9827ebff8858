"""
The Merkle tree of RFC 6962 §2.1 (unchanged in RFC 9162 §2.1): hashes, a growing frontier, proofs.

Leaves and nodes are hashed with different prefixes, so that an inner node never passes for an entry
(a second preimage). The empty tree has the hash of the empty string as its root.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from handfast.errors import LogTampered, Malformed

HASH_SIZE = 32  # bytes of SHA-256
EMPTY_ROOT = hashlib.sha256().digest()


def leaf_hash(entry: bytes) -> bytes:
    """Return the hash of an entry, ``SHA-256(0x00 || entry)``."""
    return hashlib.sha256(b"\x00" + entry).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    """Return the hash of an inner node, ``SHA-256(0x01 || left || right)``."""
    return hashlib.sha256(b"\x01" + left + right).digest()


@dataclass(frozen=True, slots=True)
class Frontier:
    """
    All that has to be kept of a tree so that it can grow: its size and its perfect subtrees.

    ``peaks`` are the roots of the perfect subtrees from left to right, one for each set bit of
    ``size``, the largest first.
    """

    size: int = 0
    peaks: tuple[bytes, ...] = ()

    def append(self, leaf: bytes) -> Frontier:
        """Return the frontier with one more leaf hash at the right."""
        return self.extend((leaf,))

    def extend(self, leaves: Iterable[bytes]) -> Frontier:
        """Return the frontier with these leaf hashes added at the right, in order."""
        peaks, size = list(self.peaks), self.size
        for leaf in leaves:
            # Each trailing one of the size is a perfect subtree that the new leaf completes to the next level.
            carry, node = size, leaf
            while carry & 1:
                node = node_hash(peaks.pop(), node)
                carry >>= 1
            peaks.append(node)
            size += 1
        return Frontier(size, tuple(peaks))

    def root(self) -> bytes:
        """Return the Merkle tree hash of all leaves so far."""
        if not self.peaks:
            return EMPTY_ROOT
        root = self.peaks[-1]
        for peak in reversed(self.peaks[:-1]):
            root = node_hash(peak, root)
        return root

    def encode(self) -> bytes:
        """Return the peaks as one byte string; the size is kept beside it."""
        return b"".join(self.peaks)

    @classmethod
    def decode(cls, size: int, blob: bytes) -> Frontier:
        """
        Read what ``encode`` wrote.

        :raises Malformed: the number of hashes does not fit the size.
        """
        if size < 0 or len(blob) != HASH_SIZE * size.bit_count():
            raise Malformed(f"a frontier of {len(blob)} bytes does not fit a tree of size {size!r}")
        return cls(size, tuple(blob[i : i + HASH_SIZE] for i in range(0, len(blob), HASH_SIZE)))


def root_of(entries: Iterable[bytes]) -> bytes:
    """Return the Merkle tree hash of these entries."""
    return Frontier().extend(map(leaf_hash, entries)).root()


def _split(size: int) -> int:
    """Return the largest power of two smaller than ``size`` (``size`` >= 2)."""
    return 1 << (size - 1).bit_length() - 1


def inclusion_proof(leaves: Sequence[bytes], index: int) -> tuple[bytes, ...]:
    """
    Return the audit path of leaf ``index`` in the tree of these leaf hashes (RFC 6962 §2.1.1).

    :raises Malformed: there is no such leaf.
    """
    if not 0 <= index < len(leaves):
        raise Malformed(f"no leaf {index!r} in a tree of size {len(leaves)}")
    if len(leaves) == 1:
        return ()
    k = _split(len(leaves))
    if index < k:
        return (*inclusion_proof(leaves[:k], index), Frontier().extend(leaves[k:]).root())
    return (*inclusion_proof(leaves[k:], index - k), Frontier().extend(leaves[:k]).root())


def consistency_proof(leaves: Sequence[bytes], old_size: int) -> tuple[bytes, ...]:
    """
    Return the proof that the tree of the first ``old_size`` leaf hashes is a prefix of all (RFC 6962 §2.1.2).

    :raises Malformed: ``old_size`` is zero or larger than the tree; such a tree proves nothing.
    """
    if not 0 < old_size <= len(leaves):
        raise Malformed(f"no consistency proof from size {old_size!r} to {len(leaves)}")

    def subproof(part: Sequence[bytes], size: int, *, complete: bool) -> tuple[bytes, ...]:
        if size == len(part):
            return () if complete else (Frontier().extend(part).root(),)
        k = _split(len(part))
        if size <= k:
            return (*subproof(part[:k], size, complete=complete), Frontier().extend(part[k:]).root())
        return (*subproof(part[k:], size - k, complete=False), Frontier().extend(part[:k]).root())

    return subproof(leaves, old_size, complete=True)


def verify_inclusion(proof: Sequence[bytes], *, leaf: bytes, index: int, size: int, root: bytes) -> None:
    """
    Check that a leaf hash is at ``index`` of the tree with this root (RFC 9162 §2.1.3.2).

    :raises LogTampered: the proof does not lead to the root.
    """
    if not 0 <= index < size:
        raise LogTampered(f"entry {index!r} cannot be in a log of size {size!r}")
    node, last, computed = index, size - 1, leaf
    for step in proof:
        if last == 0:
            raise LogTampered(f"the inclusion proof of entry {index} is too long")
        if node & 1 or node == last:
            computed = node_hash(step, computed)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            computed = node_hash(computed, step)
        node, last = node >> 1, last >> 1
    if last or computed != root:
        raise LogTampered(f"the inclusion proof of entry {index} does not lead to the root at size {size}")


def verify_consistency(
    proof: Sequence[bytes], *, old_size: int, old_root: bytes, new_size: int, new_root: bytes
) -> None:
    """
    Check that the old tree is a prefix of the new one (RFC 9162 §2.1.4.2).

    :raises LogTampered: it is not, or the proof does not show it.
    """
    wrong = LogTampered(f"the log at size {new_size!r} does not continue the log at size {old_size!r}")
    if old_size == new_size > 0 and not proof and old_root == new_root:
        return
    path = list(proof)
    if old_size & (old_size - 1) == 0:
        path.insert(0, old_root)  # the old tree is one perfect subtree: its root starts the path
    if not 0 < old_size < new_size or not path:
        raise wrong
    node, last = old_size - 1, new_size - 1
    while node & 1:
        node, last = node >> 1, last >> 1
    old = new = path[0]
    for step in path[1:]:
        if last == 0:
            raise wrong
        if node & 1 or node == last:
            old, new = node_hash(step, old), node_hash(step, new)
            while not node & 1 and node:
                node, last = node >> 1, last >> 1
        else:
            new = node_hash(new, step)
        node, last = node >> 1, last >> 1
    if last or old != old_root or new != new_root:
        raise wrong
