"""What crosses between the two sides of a split, measured exhaustively, without MinHash or components.

What belongs here: the measurement that the proof states and that the gate repeats on the files. What does not: how the
sides were chosen.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from itertools import chain
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sovereign_pipeline.split.shingles import (
    HASH_BITS,
    Rarity,
    Shingles,
    cut_into_parts,
    jaccard_of_pairs,
    parts_for,
    runs_of_about,
)

_MEETINGS_PER_BLOCK = 1 << 22

# A posting is one of the rarest shingles of a row. key: for looking it up; rest: how many shingles of its row do not
# come before it.
_POSTING = [("key", "<u8"), ("row", "<i4"), ("rest", "<i4")]
_SIZE_BITS = 64 - HASH_BITS
_ROUNDING = 1e-9


@dataclass(frozen=True)
class Crossing:
    """The near-duplicate pairs that cross."""

    pairs: NDArray[np.int64]
    """(n, 2): held-out row, training row; ordered."""
    compared: int
    """How many pairs were compared in full."""


def crossing_keys(held_out: NDArray[np.uint64], train: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """The keys of case files, authors or linked ids (`grouping.Ties`) that both sides have; each once."""
    return np.intersect1d(held_out, train)


def crossing_near_duplicates(
    held_out: Shingles, train: Shingles, rarity: Rarity, threshold: float, scratch: Path
) -> Crossing:
    """Every pair (held-out row, training row) with Jaccard >= threshold; none is missed.

    A prefix-filter join (Bayardo, Ma, Srikant 2007, "Scaling Up All Pairs Similarity Search") with the filters by size
    and position of Xiao, Wang, Lin, Yu 2008, "Efficient Similarity Joins for Near Duplicate Detection". Let
    a = t/(1+t). Two rows of n <= m shingles with Jaccard >= t have at least a·(n+m) of them in common. With all
    shingles in one order, the first that is common to both has, in either row, at least as many that do not come before
    it. So every shingle of the shorter row that has `rest` others from it on is looked up among the prefixes of the
    rows with n <= m <= rest/a - n; each pair that meets so, and whose longer row has a·(n+m) left as well, is compared
    in full.

    With the rarest shingles first, few rows meet that are not similar, and what all documents have in common is looked
    up only in documents that consist of little else. scratch: a directory for the postings, which are cut by shingle
    into parts of a bounded size, so that memory does not grow with the corpus.
    """
    parts = parts_for(held_out, train)
    found = [np.empty((0, 2), np.int64)]
    compared = 0
    with (
        cut_into_parts(_postings(held_out, rarity, threshold), parts, scratch) as held_files,
        cut_into_parts(_postings(train, rarity, threshold), parts, scratch) as train_files,
    ):
        for held_file, train_file in zip(held_files, train_files, strict=True):
            held, other = _by_key(held_file, held_out), _by_key(train_file, train)
            train_is_longer = _meetings(held, other, threshold, longer_by=0)
            held_is_longer = _meetings(other, held, threshold, longer_by=1)
            for rows, matches in chain(train_is_longer, ((rows, matches) for matches, rows in held_is_longer)):
                is_similar = jaccard_of_pairs(held_out, train, rows, matches) >= threshold
                found.append(np.column_stack((rows, matches))[is_similar])
                compared += rows.size
    return Crossing(np.unique(np.concatenate(found), axis=0), compared)


@dataclass(frozen=True)
class _Postings:
    """One part of a side's postings, ordered by key."""

    keys: NDArray[np.uint64]
    rows: NDArray[np.int32]
    rest: NDArray[np.int32]
    sizes: NDArray[np.int64]
    """Shingles of every row of the side."""


def _postings(
    side: Shingles, rarity: Rarity, threshold: float
) -> Iterator[tuple[NDArray[np.void], NDArray[np.uint64]]]:
    """Blocks of the prefixes of all rows (of n shingles the n - ceil(t·n) + 1 rarest), and the hash of each shingle."""
    for rows in side.blocks():
        block = rarity.rarest_first(side.read(rows))
        position = np.arange(block.values.size) - np.repeat(block.starts, block.sizes)
        prefix = block.sizes - np.ceil(threshold * block.sizes - _ROUNDING).astype(np.int64) + 1
        inside = position < np.repeat(prefix, block.sizes)
        own, sizes = block.rows[inside], block.sizes
        hashes = block.values[inside] & np.uint64((1 << HASH_BITS) - 1)
        postings = np.empty(own.size, _POSTING)
        postings["key"] = _key(hashes << np.uint64(_SIZE_BITS), sizes[own])
        postings["row"] = rows[own]
        postings["rest"] = sizes[own] - position[inside]
        yield postings, hashes


def _by_key(file: Path, side: Shingles) -> _Postings:
    postings = np.fromfile(file, _POSTING)
    order = np.argsort(postings["key"])
    return _Postings(postings["key"][order], postings["row"][order], postings["rest"][order], side.sizes)


def _key(shingle: NDArray[np.uint64], sizes: NDArray[np.int64]) -> NDArray[np.uint64]:
    """A shingle's hash in the high bits and the size of a row in the low ones, as far as it fits."""
    return shingle | np.minimum(sizes, (1 << _SIZE_BITS) - 1).astype(np.uint64)


def _meetings(
    shorter: _Postings, longer: _Postings, threshold: float, longer_by: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Pairs (row of `shorter`, row of `longer`, larger by at least `longer_by`) that meet in a shingle and may have
    enough in common; each once in a block."""
    share = threshold / (1 + threshold)
    sizes = shorter.sizes[shorter.rows]
    most = np.floor(shorter.rest / share - sizes + _ROUNDING).astype(np.int64)
    probes = np.flatnonzero(most >= sizes + longer_by)
    shingle = shorter.keys[probes] & ~np.uint64((1 << _SIZE_BITS) - 1)
    start = np.searchsorted(longer.keys, _key(shingle, sizes[probes] + longer_by), side="left")
    count = np.searchsorted(longer.keys, _key(shingle, most[probes]), side="right") - start
    meets = np.flatnonzero(count > 0)
    rows, start, count = shorter.rows[probes[meets]].astype(np.int64), start[meets], count[meets]
    for run in runs_of_about(count, _MEETINGS_PER_BLOCK, count.size):
        repeats = count[run]
        within = np.arange(repeats.sum()) - np.repeat(np.cumsum(repeats) - repeats, repeats)
        postings = np.repeat(start[run], repeats) + within
        own, other = np.repeat(rows[run], repeats), longer.rows[postings].astype(np.int64)
        enough = share * (shorter.sizes[own] + longer.sizes[other]) - _ROUNDING
        possible = longer.rest[postings] >= enough
        pairs = np.unique(own[possible] * longer.sizes.size + other[possible])
        yield pairs // longer.sizes.size, pairs % longer.sizes.size
