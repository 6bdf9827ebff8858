"""The Merkle tree against RFC 6962's definitions, known vectors, and every kind of wrong proof."""

from __future__ import annotations

import hashlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from handfast.core import merkle
from handfast.core.merkle import Frontier, leaf_hash, node_hash
from handfast.errors import LogTampered, Malformed

# The reference entries and roots of the certificate-transparency project (merkletree tests).
ENTRIES = [
    bytes.fromhex(text)
    for text in ("", "00", "10", "2021", "3031", "40414243", "5051525354555657", "606162636465666768696a6b6c6d6e6f")
]
ROOTS = [
    "e3b0c44298fc1c149afbf4c8996fb92427ae41e4649b934ca495991b7852b855",
    "6e340b9cffb37a989ca544e6bb780a2c78901d3fb33738768511a30617afa01d",
    "fac54203e7cc696cf0dfcb42c92a1d9dbaf70ad9e621f4bd8d98662f00e3c125",
    "aeb6bcfe274b70a14fb067a5e5578264db0fa9b51af5e0ba159158f329e06e77",
    "d37ee418976dd95753c1c73862b9398fa2a2cf9b4ff0fdfe8b30cd95209614b7",
    "4e3bbb1f7b478dcfe71fb631631519a3bca12c9aefca1612bfce4c13a86264d4",
    "76e67dadbcdf1e10e1b74ddc608abd2f98dfb16fbce75277b5232a127f2087ef",
    "ddb89be403809e325750d3d263cd78929c2942b7942a34b77e122c9594a74c8c",
    "5dc9da79a70659a9ad559cb701ded9a2ab9d823aad2f4960cfe370eff4604328",
]

leaves = st.lists(st.binary(max_size=8), max_size=70).map(lambda entries: [leaf_hash(entry) for entry in entries])


def tree_hash(part: list[bytes]) -> bytes:
    """MTH as RFC 6962 §2.1 writes it, over leaf hashes."""
    if not part:
        return hashlib.sha256().digest()
    if len(part) == 1:
        return part[0]
    k = 1
    while k * 2 < len(part):
        k *= 2
    return node_hash(tree_hash(part[:k]), tree_hash(part[k:]))


@pytest.mark.parametrize("size", range(len(ROOTS)))
def test_reference_roots(size: int) -> None:
    """The roots of the reference trees of zero to eight entries are ours."""
    assert merkle.root_of(ENTRIES[:size]).hex() == ROOTS[size]


def test_leaves_and_nodes_are_hashed_apart() -> None:
    """An entry that looks like an inner node has another hash: no second preimage."""
    left, right = leaf_hash(b"a"), leaf_hash(b"b")
    assert leaf_hash(left + right) != node_hash(left, right)


def test_proofs_of_the_rfc() -> None:
    """The audit paths and consistency proofs of the tree of seven entries are those of RFC 6962 §2.1.3."""
    a, b, c, d, e, f, j = (leaf_hash(entry) for entry in ENTRIES[:7])
    g, h, i = node_hash(a, b), node_hash(c, d), node_hash(e, f)
    k, l = node_hash(g, h), node_hash(i, j)  # noqa: E741  # the letters of the RFC
    seven = [a, b, c, d, e, f, j]
    assert merkle.inclusion_proof(seven, 0) == (b, h, l)
    assert merkle.inclusion_proof(seven, 3) == (c, g, l)
    assert merkle.inclusion_proof(seven, 4) == (f, j, k)
    assert merkle.inclusion_proof(seven, 6) == (i, k)
    assert merkle.consistency_proof(seven, 3) == (c, d, g, l)
    assert merkle.consistency_proof(seven, 4) == (l,)
    assert merkle.consistency_proof(seven, 6) == (i, j, k)


@given(leaves)
def test_the_frontier_has_the_root_of_the_definition(hashes: list[bytes]) -> None:
    """Growing leaf by leaf or all at once gives the root of the recursive definition."""
    grown = Frontier()
    for leaf in hashes:
        grown = grown.append(leaf)
    assert grown == Frontier().extend(hashes)
    assert grown.root() == tree_hash(hashes)
    assert len(grown.peaks) == grown.size.bit_count()


@given(leaves, st.integers(0, 70))
def test_a_frontier_survives_being_stored(hashes: list[bytes], cut: int) -> None:
    """Stored and read in the middle, it grows to the same root."""
    first = Frontier().extend(hashes[:cut])
    again = Frontier.decode(first.size, first.encode())
    assert again == first
    assert again.extend(hashes[cut:]).root() == tree_hash(hashes)


@pytest.mark.parametrize(("size", "blob"), [(0, b"x"), (1, b""), (3, bytes(32)), (2, bytes(31)), (-1, b"")])
def test_a_frontier_that_does_not_fit_its_size(size: int, blob: bytes) -> None:
    """A number of hashes that the size cannot have is refused."""
    with pytest.raises(Malformed, match="does not fit a tree of size"):
        Frontier.decode(size, blob)


@given(leaves.filter(bool), st.data())
def test_every_leaf_is_proved_and_no_other(hashes: list[bytes], data: st.DataObject) -> None:
    """Each leaf's proof leads to the root; with another leaf, place, size, root or step it does not."""
    index, size = data.draw(st.integers(0, len(hashes) - 1)), len(hashes)
    proof, root = merkle.inclusion_proof(hashes, index), tree_hash(hashes)
    merkle.verify_inclusion(proof, leaf=hashes[index], index=index, size=size, root=root)
    with pytest.raises(LogTampered):
        merkle.verify_inclusion(proof, leaf=bytes(32), index=index, size=size, root=root)
    with pytest.raises(LogTampered):
        merkle.verify_inclusion(proof, leaf=hashes[index], index=index, size=size, root=bytes(32))
    with pytest.raises(LogTampered):
        merkle.verify_inclusion((*proof, bytes(32)), leaf=hashes[index], index=index, size=size, root=root)
    if proof:
        with pytest.raises(LogTampered):
            merkle.verify_inclusion(proof[:-1], leaf=hashes[index], index=index, size=size, root=root)
        with pytest.raises(LogTampered):
            merkle.verify_inclusion((bytes(32), *proof[1:]), leaf=hashes[index], index=index, size=size, root=root)


@given(leaves.filter(bool), st.data())
def test_every_prefix_is_proved_and_no_other(hashes: list[bytes], data: st.DataObject) -> None:
    """Each earlier tree is shown to be a prefix; a tree with another history is not."""
    old, new = data.draw(st.integers(1, len(hashes))), len(hashes)
    proof, old_root, new_root = merkle.consistency_proof(hashes, old), tree_hash(hashes[:old]), tree_hash(hashes)
    merkle.verify_consistency(proof, old_size=old, old_root=old_root, new_size=new, new_root=new_root)
    for wrong in (
        {"old_root": bytes(32)},
        {"new_root": bytes(32)},
        {"old_size": 0},
        {"old_size": new + 1},
    ):
        claim = {"old_size": old, "old_root": old_root, "new_size": new, "new_root": new_root} | wrong
        with pytest.raises(LogTampered, match="does not continue"):
            merkle.verify_consistency(proof, **claim)  # type: ignore[arg-type]  # one dict, two types
    with pytest.raises(LogTampered):
        merkle.verify_consistency((*proof, bytes(32)), old_size=old, old_root=old_root, new_size=new, new_root=new_root)
    if proof:
        with pytest.raises(LogTampered):
            merkle.verify_consistency(proof[:-1], old_size=old, old_root=old_root, new_size=new, new_root=new_root)


def test_proofs_of_what_is_not_there() -> None:
    """No proof is made for a leaf or a tree that does not exist, and none is believed."""
    with pytest.raises(Malformed, match="no leaf 1"):
        merkle.inclusion_proof([bytes(32)], 1)
    with pytest.raises(Malformed, match="no consistency proof from size 0"):
        merkle.consistency_proof([bytes(32)], 0)
    with pytest.raises(LogTampered, match="entry 3 cannot be in a log of size 3"):
        merkle.verify_inclusion((), leaf=bytes(32), index=3, size=3, root=bytes(32))
