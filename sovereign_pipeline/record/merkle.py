"""Compute hashes, roots and proofs of RFC 6962 Merkle trees, as pure functions."""

import hashlib
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence

HASH_BYTES = 32
EMPTY_ROOT = hashlib.sha256().digest()
"""Root hash of a tree without leaves."""

Node = tuple[int, int]
"""Level and position of a complete subtree."""
Hashes = Callable[[Collection[Node]], Mapping[Node, bytes]]
"""Function that takes complete subtrees, and returns a mapping of subtree to hash."""
Range = tuple[int, int]
"""Half-open range of leaves: the first index, and the index after the last."""


def leaf_hash(data: bytes) -> bytes:
    return hashlib.sha256(b"\0" + data).digest()


def node_hash(left: bytes, right: bytes) -> bytes:
    return hashlib.sha256(b"\1" + left + right).digest()


class Growth:
    """A Merkle tree that grows leaf by leaf. It stores at most one hash for each bit of the number of leaves."""

    def __init__(self, size: int = 0, peaks: Sequence[bytes] = ()) -> None:
        """Args:
        size: number of leaves to start with.
        peaks: the hashes of `peaks_of(size)`.
        """
        self.size = size
        self.peaks = list(peaks)

    def copy(self) -> "Growth":
        return Growth(self.size, self.peaks)

    def add(self, leaf: bytes) -> Iterator[tuple[Node, bytes]]:
        """Append a leaf, given its hash. Yields each subtree that the leaf completes, with the subtree's hash, lowest
        level first."""
        level, position, found = 0, self.size, leaf
        yield (0, position), found
        while position & 1:
            found = node_hash(self.peaks.pop(), found)
            level, position = level + 1, position >> 1
            yield (level, position), found
        self.peaks.append(found)
        self.size += 1

    def root(self) -> bytes:
        return _folded(self.peaks) if self.peaks else EMPTY_ROOT


def peaks_of(size: int) -> list[Node]:
    """Return the complete subtrees that together form a tree of this size, from left to right."""
    return _complete((0, size))


def root(size: int, hashes: Hashes) -> bytes:
    return _hashes_of([(0, size)], hashes)[0] if size else EMPTY_ROOT


def inclusion_proof(index: int, size: int, hashes: Hashes) -> list[bytes]:
    """Return the proof that the tree of this size contains the leaf at this index (from 0)."""
    if not 0 <= index < size:
        raise ValueError(f"a tree of {size} leaves has no leaf {index}")
    return _hashes_of(list(_path(index, (0, size))), hashes)


def consistency_proof(old: int, new: int, hashes: Hashes) -> list[bytes]:
    """Return the proof that the tree of the new size begins with the old tree's leaves. The proof is empty if the old
    size is 0."""
    if not 0 <= old <= new:
        raise ValueError(f"a tree of {new} leaves has no earlier size of {old}")
    return _hashes_of(list(_consistent(old, (0, new), known=True)), hashes) if old else []


def is_included(index: int, size: int, leaf: bytes, proof: Sequence[bytes], root: bytes) -> bool:
    """Return True if the proof shows that the tree with this size and root has this leaf hash at this index (RFC 9162,
    2.1.3.2)."""
    if not 0 <= index < size or not _are_hashes(leaf, root, *proof):
        return False
    left, last, found = index, size - 1, leaf
    for each in proof:
        if last == 0:
            return False
        if left & 1 or left == last:
            found = node_hash(each, found)
            while not left & 1 and left:
                left, last = left >> 1, last >> 1
        else:
            found = node_hash(found, each)
        left, last = left >> 1, last >> 1
    return last == 0 and found == root


def is_consistent(old: int, new: int, old_root: bytes, new_root: bytes, proof: Sequence[bytes]) -> bool:
    """Return True if the proof shows that the new tree begins with the old tree (RFC 9162, 2.1.4.2). Returns False for
    an old size of 0, because nothing is proven: every tree begins with the empty tree."""
    if not 0 < old <= new or not _are_hashes(old_root, new_root, *proof):
        return False
    if old == new:
        return not proof and old_root == new_root
    path = [old_root, *proof] if old & (old - 1) == 0 else list(proof)
    if not path:
        return False
    left, last = old - 1, new - 1
    while left & 1:
        left, last = left >> 1, last >> 1
    of_old = of_new = path[0]
    for each in path[1:]:
        if last == 0:
            return False
        if left & 1 or left == last:
            of_old, of_new = node_hash(each, of_old), node_hash(each, of_new)
            while not left & 1 and left:
                left, last = left >> 1, last >> 1
        else:
            of_new = node_hash(of_new, each)
        left, last = left >> 1, last >> 1
    return last == 0 and (of_old, of_new) == (old_root, new_root)


def _are_hashes(*given: bytes) -> bool:
    return all(len(each) == HASH_BYTES for each in given)


def _split(leaves: Range) -> int:
    """Return the end of a range's left subtree, whose size is the largest power of two below the range's size."""
    start, end = leaves
    return start + (1 << ((end - start - 1).bit_length() - 1))


def _path(index: int, leaves: Range) -> Iterator[Range]:
    """Yield the ranges of leaves whose hashes prove that the tree contains one leaf, lowest level first."""
    start, end = leaves
    if end - start == 1:
        return
    middle = _split(leaves)
    if index < middle:
        yield from _path(index, (start, middle))
        yield (middle, end)
    else:
        yield from _path(index, (middle, end))
        yield (start, middle)


def _consistent(old_end: int, leaves: Range, *, known: bool) -> Iterator[Range]:
    """Yield the ranges of leaves whose hashes prove that a tree begins with the leaves before `old_end`. `known` is
    True if the verifier knows the hash of the range from the start of `leaves` to `old_end`."""
    start, end = leaves
    if old_end == end:
        if not known:
            yield leaves
        return
    middle = _split(leaves)
    if old_end <= middle:
        yield from _consistent(old_end, (start, middle), known=known)
        yield (middle, end)
    else:
        yield from _consistent(old_end, (middle, end), known=False)
        yield (start, middle)


def _complete(leaves: Range) -> list[Node]:
    """Return the complete subtrees that together cover these leaves, from left to right."""
    start, end = leaves
    found = []
    while start < end:
        level = (end - start).bit_length() - 1
        found.append((level, start >> level))
        start += 1 << level
    return found


def _hashes_of(ranges: Sequence[Range], hashes: Hashes) -> list[bytes]:
    nodes = [_complete(each) for each in ranges]
    known = hashes([node for each in nodes for node in each])
    return [_folded([known[node] for node in each]) for each in nodes]


def _folded(hashes: Sequence[bytes]) -> bytes:
    """Combine the hashes of adjacent subtrees into one hash. The largest subtree comes first."""
    *left, found = hashes
    for each in reversed(left):
        found = node_hash(each, found)
    return found
