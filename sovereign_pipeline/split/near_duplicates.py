"""Find pairs of near-duplicates: within one corpus by MinHash, and between the two sides of a split exhaustively."""

import math
import os
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import IO

import numpy as np
from numpy.typing import NDArray

from sovereign_pipeline.base.text import Countdown, silent
from sovereign_pipeline.record.stage import Progress
from sovereign_pipeline.split.shingles import (
    HASH_BITS,
    Block,
    Rarity,
    Shingles,
    are_among,
    cut_into_parts,
    jaccard_of_pairs,
    mixed,
    parts_for,
    runs_of_about,
)

PERMUTATIONS = 256
MINHASH_SEED = 7
ROWS_PER_BAND = 3
BANDS = PERMUTATIONS // ROWS_PER_BAND
LEAST_JACCARD_OF_PARTS = 0.43
"""Minimum Jaccard similarity of the compared parts of two near-duplicates (`compared_share`)."""
RECALL = 1 - (1 - LEAST_JACCARD_OF_PARTS**ROWS_PER_BAND) ** BANDS
"""Probability that near-duplicates with the lowest possible similarity share a band: 0.9991 (Leskovec, Rajaraman,
Ullman, "Mining of Massive Datasets", section 3.4.2). More similar pairs have a higher probability."""
NEIGHBOURS = 8
"""Number of following rows with which each row of a bucket is compared. This limits the time for many near-equal
documents. Chains of neighbours still tie all these documents."""
_ESTIMATE_DEVIATIONS = 5  # standard deviations below the threshold at which an estimate excludes a pair; p < 1e-6
_PAIRS_PER_BLOCK = 1 << 18
_MEETINGS_PER_BLOCK = 1 << 22
# A posting is one of the rarest shingles of a row. key: lookup key; rest: number of the row's shingles from this
# posting on.
_POSTING = [("key", "<u8"), ("row", "<i4"), ("rest", "<i4")]
_SIZE_BITS = 64 - HASH_BITS
_ROUNDING = 1e-9


@dataclass(frozen=True)
class NearDuplicates:
    pairs: NDArray[np.int64]
    """(n, 2) array of row numbers, the lower number first, sorted. Of several rows with equal shingles, only the first
    is compared with other rows. Each further one forms a pair with the first."""
    copies: int
    """Number of pairs of equal rows."""
    candidates: int
    """Number of other pairs that were compared exactly."""
    rows_in_large_buckets: int
    """Number of rows that were not compared with all rows of their bucket, because the bucket is too large."""


def near_duplicates(
    shingles: Shingles, rarity: Rarity, threshold: float, scratch: Path, progress: Progress = silent
) -> NearDuplicates:
    """Find pairs of documents with a Jaccard similarity >= threshold, by MinHash, LSH and an exact comparison.

    The search may miss a pair but never returns a wrong pair. `crossing_near_duplicates` finds missed pairs whose
    documents are on different sides of a split. Signatures use only the rarer shingles of each document
    (`compared_share`). A common part, such as a letterhead, would otherwise make every pair a candidate. `scratch`:
    directory for the signatures.
    """
    distinct, copies = _without_copies(shingles)
    with _signatures(shingles.subset(distinct), rarity, compared_share(threshold), scratch, progress) as signatures:
        candidates, crowded = _candidates(signatures)
    one, other = distinct[candidates[:, 0]], distinct[candidates[:, 1]]
    is_similar = jaccard_of_pairs(shingles, shingles, one, other) >= threshold
    similar = np.column_stack((one, other))[is_similar]
    pairs = np.unique(np.concatenate((copies, similar)), axis=0)
    return NearDuplicates(pairs, len(copies), len(candidates), crowded)


def compared_share(threshold: float) -> float:
    """Return the share of a document's shingles that is compared. The rarest shingles are taken first.

    Two sets of n <= m shingles with Jaccard >= t share at least o = t·(n + m)/(1 + t). If each set is reduced to the
    share q of its rarest shingles, the reduced sets still share at least min(q·n - (n - o), q·m - (m - o)). The reduced
    sets are least similar for m = n/t, with Jaccard (q - 1 + t)/(q·t + 1 - t). q is chosen so that this Jaccard
    similarity equals LEAST_JACCARD_OF_PARTS. For low thresholds the whole document is compared.
    """
    least = LEAST_JACCARD_OF_PARTS
    return min(1.0, (1 - threshold) * (1 + least) / (1 - threshold * least))


def _without_copies(shingles: Shingles) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Return two arrays: the first row with each distinct set of shingles, and a pair (first, copy) for every further
    row with the same set. Rows are compared by a 64-bit sum, and then exactly."""
    sums = np.zeros(len(shingles), np.uint64)
    for rows in shingles.blocks():
        block = shingles.read(rows)
        sums[rows] = np.add.reduceat(mixed(block.values), block.starts)
    _, first, number = np.unique(sums, return_index=True, return_inverse=True)
    original = first[number]
    later = np.flatnonzero(original != np.arange(len(shingles)))
    is_copy = jaccard_of_pairs(shingles, shingles, original[later], later) == 1
    copies = np.column_stack((original[later], later))[is_copy]
    return np.setdiff1d(np.arange(len(shingles)), copies[:, 1], assume_unique=True), copies


@dataclass(frozen=True)
class _Signatures:
    """The MinHash signatures of all rows, in two files. Together, the files have 596 bytes for each row."""

    keys: IO[bytes]
    """Array of shape (BANDS, rows): one 32-bit key for each band of each row."""
    sketches: IO[bytes]
    """Array of shape (rows, PERMUTATIONS): the lowest byte of each MinHash value. One byte is enough to estimate the
    Jaccard similarity (Li and König 2010, "b-Bit Minwise Hashing")."""
    rows: int

    def keys_of(self, band: int) -> NDArray[np.uint32]:
        return np.frombuffer(os.pread(self.keys.fileno(), 4 * self.rows, 4 * self.rows * band), np.uint32)

    def agreement(self, one: NDArray[np.int64], other: NDArray[np.int64]) -> NDArray[np.float64]:
        """Return the share of equal bytes in the sketches of each pair of rows."""
        sketches = np.memmap(self.sketches, np.uint8, "r", shape=(self.rows, PERMUTATIONS))
        agreement: NDArray[np.float64] = (sketches[one] == sketches[other]).mean(axis=1)
        return agreement


@contextmanager
def _signatures(
    shingles: Shingles, rarity: Rarity, share: float, scratch: Path, progress: Progress
) -> Iterator[_Signatures]:
    from rensa import RMinHash

    countdown = Countdown(progress, "MinHash signatures", len(shingles), "document")
    with tempfile.TemporaryFile(dir=scratch) as keys, tempfile.TemporaryFile(dir=scratch) as sketches:
        for rows in shingles.blocks():
            countdown.reached(int(rows[0]))
            part = _rarest_part(rarity.rarest_first(shingles.read(rows)), share)
            offsets = np.append(part.starts, part.values.size).astype(np.uint64)
            matrix = RMinHash.digest_matrix_from_flat_token_hashes(part.values, offsets, PERMUTATIONS, MINHASH_SEED)
            values = np.array(matrix.to_rows(), np.uint32)
            sketches.write(values.astype(np.uint8).tobytes())
            bands = values[:, : BANDS * ROWS_PER_BAND].astype(np.uint64).reshape(-1, BANDS, ROWS_PER_BAND)
            for band, of_rows in enumerate((_one_hash(bands) >> np.uint64(32)).astype(np.uint32).T):
                keys.seek(4 * (len(shingles) * band + int(rows[0])))
                keys.write(of_rows.tobytes())
        keys.flush()
        sketches.flush()
        yield _Signatures(keys, sketches, len(shingles))


def _rarest_part(block: Block, share: float) -> Block:
    kept = np.ceil(share * block.sizes - 1e-9).astype(np.int64)
    position = np.arange(block.values.size) - np.repeat(block.starts, block.sizes)
    return Block(block.values[position < np.repeat(kept, block.sizes)], kept)


def _one_hash(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Hash the numbers along the last axis to one uniformly distributed number."""
    result = np.zeros(values.shape[:-1], np.uint64)
    for number in range(values.shape[-1]):
        result = mixed(result ^ values[..., number])
    return result


def _candidates(signatures: _Signatures) -> tuple[NDArray[np.int64], int]:
    """Return an (n, 2) array of pairs of rows that share a band and may be near-duplicates according to their sketches.
    Each pair occurs once, the lower row first. Also return the number of rows in buckets that were too large to compare
    completely."""
    rows = signatures.rows
    least = LEAST_JACCARD_OF_PARTS
    floor = least - _ESTIMATE_DEVIATIONS * math.sqrt(least * (1 - least) / PERMUTATIONS)
    kept = np.empty(0, np.int64)
    is_crowded = np.zeros(rows, np.bool_)
    for band in range(BANDS if rows else 0):
        found = [kept]
        for one, other, is_last in _pairs_with_equal_keys(signatures.keys_of(band)):
            if is_last:
                is_crowded[one] = is_crowded[other] = True
                continue
            pairs = one * rows + other
            pairs = pairs[~are_among(pairs, kept)]
            for start in range(0, pairs.size, _PAIRS_PER_BLOCK):
                some = pairs[start : start + _PAIRS_PER_BLOCK]
                found.append(some[signatures.agreement(some // rows, some % rows) >= floor])
        kept = np.unique(np.concatenate(found))
    return np.column_stack((kept // rows, kept % rows)) if rows else np.empty((0, 2), np.int64), int(is_crowded.sum())


def _pairs_with_equal_keys(
    keys: NDArray[np.uint32],
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], bool]]:
    """Yield pairs of positions (lower, higher) with the same key, in portions with at most one pair per position.

    Each position is paired with up to NEIGHBOURS of the next positions in its bucket. If there are more, an additional
    portion, marked True, contains the first pair of each position beyond this limit. The caller omits these pairs.
    """
    ordered = np.sort((keys.astype(np.uint64) << np.uint64(32)) | np.arange(keys.size, dtype=np.uint64))
    bucket, position = ordered >> np.uint64(32), (ordered & np.uint64(0xFFFFFFFF)).astype(np.int64)
    first = np.arange(keys.size)
    for step in range(1, NEIGHBOURS + 2):
        first = first[first + step < keys.size]
        first = first[bucket[first + step] == bucket[first]]
        if first.size == 0:
            return
        yield position[first], position[first + step], step > NEIGHBOURS


@dataclass(frozen=True)
class Crossing:
    """The pairs of near-duplicates with one document held out and one in training."""

    pairs: NDArray[np.int64]
    """(n, 2) array of sorted pairs of a held-out row and a training row."""
    compared: int
    """Number of pairs that were compared in full."""


def crossing_near_duplicates(
    held_out: Shingles, train: Shingles, rarity: Rarity, threshold: float, scratch: Path
) -> Crossing:
    """Return every pair (held-out row, training row) with Jaccard >= threshold, without missing any. This is a
    prefix-filter join (Bayardo, Ma, Srikant 2007, "Scaling Up All Pairs Similarity Search") with the size and position
    filters of Xiao, Wang, Lin, Yu 2008, "Efficient Similarity Joins for Near Duplicate Detection". Let a = t/(1+t). Two
    rows of n <= m shingles with Jaccard >= t share at least a·(n+m) shingles. In a common order of all shingles, at
    least a·(n+m) shingles of either row come at or after the first shared shingle. So every shingle of the shorter row
    is looked up among the prefixes of rows with n <= m <= rest/a - n. `rest` is the number of the shorter row's
    shingles from this shingle to the end. Each pair that shares such a shingle, and whose longer row also has a·(n+m)
    shingles left, is compared in full.

    The rarest shingles come first, so few dissimilar rows meet. Very common shingles are looked up only for documents
    that consist of little else. `scratch`: directory for the postings, which are divided by shingle into parts of
    bounded size, so that memory does not grow with the corpus.
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
    """One part of the postings of a side, sorted by key."""

    keys: NDArray[np.uint64]
    rows: NDArray[np.int32]
    rest: NDArray[np.int32]
    sizes: NDArray[np.int64]
    """Number of shingles of every row of the side."""


def _postings(
    side: Shingles, rarity: Rarity, threshold: float
) -> Iterator[tuple[NDArray[np.void], NDArray[np.uint64]]]:
    """Yield blocks of postings, with the hash of each posting's shingle. In a row with n shingles, the n - ceil(t·n) +
    1 rarest shingles become postings."""
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
    """Return a key with the shingle's hash in the high bits and the row's size, capped, in the low bits."""
    return shingle | np.minimum(sizes, (1 << _SIZE_BITS) - 1).astype(np.uint64)


def _meetings(
    shorter: _Postings, longer: _Postings, threshold: float, longer_by: int
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
    """Yield blocks of pairs (row of `shorter`, row of `longer`) that share a shingle and may share enough shingles. The
    second row has at least `longer_by` more shingles. No pair occurs twice in a block."""
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
