"""Store the shingles of a whole corpus in a file, order them by rarity, and compute the Jaccard similarity of many
pairs."""

import itertools
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

ROWS_PER_BLOCK = 4_096
_SHINGLES_PER_BLOCK = 1 << 21
_SHINGLES_PER_PART = 1 << 24
_MOST_READ_IN_VAIN = 4
"""Maximum number of unneeded hashes that are read for each needed hash. Rows that are further apart are read one by
one."""
SLOTS = 1 << 26
_LEVELS_PER_OCTAVE = 9
HASH_BITS = 44
TOKEN_BITS = 52


@dataclass(frozen=True)
class Block:
    """The shingles of some rows in memory."""

    values: NDArray[np.uint64]
    """Shingles of all rows, concatenated."""
    sizes: NDArray[np.int64]
    """Number of values of each row."""

    @property
    def rows(self) -> NDArray[np.int64]:
        """Return, for each value, the number of its row within the block."""
        return np.repeat(np.arange(self.sizes.size), self.sizes)

    @property
    def starts(self) -> NDArray[np.int64]:
        return np.cumsum(self.sizes) - self.sizes

    def by_row(self) -> list[NDArray[np.uint64]]:
        return np.split(self.values, self.starts[1:])


@dataclass(frozen=True)
class Shingles:
    """The shingles of many documents, without text, in a file. It has about 8 bytes for each word, or, in Arabic, for
    each character. Only rows that are being read are in memory."""

    path: Path
    sizes_in_file: NDArray[np.int64]
    """Number of hashes of each row of the file."""
    starts_in_file: NDArray[np.int64]
    """Start of each row of the file, in hashes."""
    kind: type[np.unsignedinteger[Any]] = np.uint64
    numbers: NDArray[np.int64] | None = None
    """Rows of the file that belong to this subset; None for all."""

    @staticmethod
    def of(path: Path, sizes: NDArray[np.int64], kind: type[np.unsignedinteger[Any]] = np.uint64) -> "Shingles":
        """Return the shingles in a file. `sizes`: number of hashes of each row in the file."""
        return Shingles(path, sizes, np.cumsum(sizes) - sizes, kind)

    def __len__(self) -> int:
        return int((self.sizes_in_file if self.numbers is None else self.numbers).size)

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Return the number of hashes of each row."""
        return self.sizes_in_file if self.numbers is None else self.sizes_in_file[self.numbers]

    def sizes_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return self.sizes_in_file[self._in_file(rows)]

    def subset(self, rows: NDArray[np.int64]) -> "Shingles":
        return replace(self, numbers=self._in_file(rows))

    def read(self, rows: NDArray[np.int64]) -> Block:
        """Return the shingles of the given rows, in the given order."""
        rows = self._in_file(rows)
        starts, sizes = self.starts_in_file[rows], self.sizes_in_file[rows]
        total = int(sizes.sum())
        if total == 0:
            return Block(np.empty(0, self.kind), sizes)
        gaps = np.diff(starts + sizes, prepend=starts[0]) - sizes
        between = int(gaps.sum())
        if gaps.min() >= 0 and between <= _MOST_READ_IN_VAIN * total:
            found = np.fromfile(self.path, self.kind, total + between, offset=int(starts[0]) * self.kind().itemsize)
            if between:
                is_wanted = np.tile([False, True], rows.size)
                found = found[np.repeat(is_wanted, np.column_stack((gaps, sizes)).ravel())]
            return Block(found, sizes)
        positions = np.repeat(starts - (np.cumsum(sizes) - sizes), sizes)
        positions += np.arange(total)
        return Block(np.array(np.memmap(self.path, self.kind, "r")[positions]), sizes)

    def blocks(self) -> Iterator[NDArray[np.int64]]:
        """Yield the numbers of all rows, in runs of at most ROWS_PER_BLOCK rows that fit into memory."""
        return runs_of_about(self.sizes, _SHINGLES_PER_BLOCK, ROWS_PER_BLOCK)

    def _in_file(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return rows if self.numbers is None else self.numbers[rows]


def runs_of_about(sizes: NDArray[np.int64], total: int, rows: int) -> Iterator[NDArray[np.int64]]:
    """Yield the positions 0, 1, … in successive groups. The sizes in each group sum to about `total`, and a group has
    at most `rows` positions."""
    before = np.cumsum(sizes) - sizes
    cuts = [*np.flatnonzero(np.diff(before // total, prepend=-1)).tolist(), sizes.size]
    for first, end in itertools.pairwise(cuts):
        for start in range(first, end, rows):
            yield np.arange(start, min(start + rows, end))


def jaccard_of_pairs(
    left: Shingles, right: Shingles, one: NDArray[np.int64], other: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the Jaccard similarity of each pair (row of `left`, row of `right`), computed from all shingles of both
    rows."""
    common = np.empty(one.size, np.int64)
    for pairs in runs_of_about(left.sizes_of(one) + right.sizes_of(other), _SHINGLES_PER_BLOCK, one.size):
        mine, theirs = left.read(one[pairs]).by_row(), right.read(other[pairs]).by_row()
        for pair, row, match in zip(pairs.tolist(), mine, theirs, strict=True):
            both = np.sort(np.concatenate((row, match)))
            common[pair] = np.count_nonzero(both[1:] == both[:-1])
    return common / (left.sizes_of(one) + right.sizes_of(other) - common)


@dataclass(frozen=True)
class Rarity:
    """An order of all shingles, the rarest first. The search for near-duplicates and the exhaustive check are correct
    with any order, but are fast only if common shingles come last."""

    levels: NDArray[np.uint8]
    """For each slot of a hash table, the scaled logarithm of the count of the slot's most common shingle; 0 if no
    shingle of the slot repeats."""

    @staticmethod
    def of(scratch: Path, *sides: Shingles) -> "Rarity":
        """Return the order that results from counting the shingles in all rows of the sides. `scratch`: directory for
        the shingles while they are sorted."""
        levels = np.zeros(SLOTS, np.uint8)
        for hashes, counts in repeated_shingles(scratch, *sides):
            # The commonest shingle of a slot is written last, so its count stays.
            order = np.argsort(counts)
            slots = slots_of(hashes[order])
            level = (np.log2(counts[order]) * _LEVELS_PER_OCTAVE).astype(np.uint8)
            levels[slots] = np.maximum(levels[slots], level)
        return Rarity(levels)

    def rarest_first(self, block: Block) -> Block:
        """Return the same rows with a token of TOKEN_BITS bits in place of each shingle. The tokens of a row are in
        ascending order, so that the rarest shingle is first.

        A token consists of the shingle's level and 44 bits of its hash. Different shingles with the same token make the
        search slower. No pair is missed, because equal shingles have equal tokens.
        """
        assert block.sizes.size <= ROWS_PER_BLOCK
        tokens = block.values >> np.uint64(64 - HASH_BITS)
        tokens |= self.levels[slots_of(block.values)].astype(np.uint64) << np.uint64(HASH_BITS)
        row = block.rows.astype(np.uint64) << np.uint64(TOKEN_BITS)
        return Block(np.sort(row | tokens) & np.uint64((1 << TOKEN_BITS) - 1), block.sizes)


def repeated_shingles(scratch: Path, *sides: Shingles) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.int64]]]:
    """Yield, in portions, every shingle that is in more than one row of the sides, with the number of these rows.
    `scratch`: directory for the shingles while they are sorted."""
    with cut_into_parts(_hashes_of(sides), parts_for(*sides), scratch) as paths:
        for path in paths:
            hashes = np.sort(np.fromfile(path, np.uint64))
            first = np.flatnonzero(np.diff(hashes, prepend=~hashes[:1]))
            counts = np.diff(first, append=hashes.size)
            repeated = np.flatnonzero(counts > 1)
            yield hashes[first[repeated]], counts[repeated]


def parts_for(*sides: Shingles) -> int:
    """Return into how many parts the records of all shingles must be divided so that each part fits into memory."""
    return 1 + sum(int(side.sizes.sum()) for side in sides) // _SHINGLES_PER_PART


@contextmanager
def cut_into_parts(
    blocks: Iterable[tuple[NDArray[Any], NDArray[np.uint64]]], parts: int, scratch: Path
) -> Iterator[list[Path]]:
    """Divide the records of all blocks into parts, write each part to a file in `scratch`, and yield the files.
    `blocks`: pairs of records and numbers, with one number of HASH_BITS bits for each record. Records with equal
    numbers get into the same part."""
    with tempfile.TemporaryDirectory(dir=scratch) as directory, ExitStack() as opened:
        paths = [Path(directory) / f"{part}" for part in range(parts)]
        files = [opened.enter_context(path.open("wb")) for path in paths]
        for records, numbers in blocks:
            part_of = ((numbers * np.uint64(parts)) >> np.uint64(HASH_BITS)).astype(np.uint16)
            order = np.argsort(part_of, kind="stable")  # by radix
            ends = np.cumsum(np.bincount(part_of, minlength=parts))
            for file, of_part in zip(files, np.split(records[order], ends[:-1]), strict=True):
                of_part.tofile(file)
        opened.close()
        yield paths


def _hashes_of(sides: Sequence[Shingles]) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.uint64]]]:
    for side in sides:
        for rows in side.blocks():
            hashes = side.read(rows).values
            yield hashes, hashes >> np.uint64(64 - HASH_BITS)


def slots_of(hashes: NDArray[np.uint64], slots: int = SLOTS) -> NDArray[np.int64]:
    """Return the slot of each hash in a hash table. `slots`: size of the table, a power of two."""
    return (hashes & np.uint64(slots - 1)).view(np.int64)


def are_among(values: NDArray[Any], known: NDArray[Any]) -> NDArray[np.bool_]:
    """Return a mask of the values that are in the sorted array `known`."""
    if not known.size:
        return np.zeros(values.size, np.bool_)
    found: NDArray[np.bool_] = known[np.minimum(np.searchsorted(known, values), known.size - 1)] == values
    return found
