"""The search for near-duplicate pairs in one corpus: MinHash, locality-sensitive hashing, then exact comparison.

What belongs here: the fast search, which may miss a pair and never reports a wrong one. What does not: the definition
of similarity (`similarity.py`), and the exhaustive check across the two sides (`crossing.py`), which finds what this
search missed.
"""

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sovereign_pipeline.artifacts.stage import Progress
from sovereign_pipeline.countdown import Countdown, silent
from sovereign_pipeline.split.shingles import Block, Rarity, Shingles, jaccard_of_pairs
from sovereign_pipeline.split.similarity import mixed

PERMUTATIONS = 256
MINHASH_SEED = 7
ROWS_PER_BAND = 3
BANDS = PERMUTATIONS // ROWS_PER_BAND
LEAST_JACCARD_OF_PARTS = 0.43
"""How similar the compared parts of two near-duplicates are at worst; see `compared_share`."""
RECALL = 1 - (1 - LEAST_JACCARD_OF_PARTS**ROWS_PER_BAND) ** BANDS
"""Probability that the worst pair shares a band (Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", section
3.4.2): 0.9991. Other pairs at the threshold, and all above it, are found more surely."""
NEIGHBOURS = 8
"""In a bucket with more rows, each row is compared with this many that follow it. So a corpus of near-equal documents
costs no more than others, and its documents are still tied, one to the next."""

_ESTIMATE_DEVIATIONS = 5  # a pair whose signatures agree less than this below the threshold is dropped; p < 1e-6
_PAIRS_PER_BLOCK = 1 << 18


@dataclass(frozen=True)
class NearDuplicates:
    """The near-duplicate pairs that were found."""

    pairs: NDArray[np.int64]
    """(n, 2) row numbers, the lower first, ordered. Rows with the same shingles count as one row, and each further copy
    as one pair with the first of them."""
    copies: int
    """How many pairs are of such copies."""
    candidates: int
    """How many other pairs were compared exactly."""
    rows_in_large_buckets: int
    """Rows that were not compared with all rows of some bucket."""


def near_duplicates(
    shingles: Shingles, rarity: Rarity, threshold: float, progress: Progress = silent
) -> NearDuplicates:
    """Pairs of documents whose shingles have Jaccard >= threshold.

    Signatures are taken of the rarer part of each document only (`compared_share`): what many documents have in common,
    such as a letterhead, would make every pair of them a candidate.
    """
    distinct, copies = _without_copies(shingles)
    candidates, crowded = _candidates(
        *_signatures(shingles.subset(distinct), rarity, compared_share(threshold), progress)
    )
    one, other = distinct[candidates[:, 0]], distinct[candidates[:, 1]]
    is_similar = jaccard_of_pairs(shingles, shingles, one, other) >= threshold
    similar = np.column_stack((one, other))[is_similar]
    pairs = np.unique(np.concatenate((copies, similar)), axis=0)
    return NearDuplicates(pairs, len(copies), len(candidates), crowded)


def compared_share(threshold: float) -> float:
    """The share of its shingles, rarest first, by which a document is compared.

    Two sets of n <= m shingles with Jaccard >= t have at least o = t·(n + m)/(1 + t) in common, and of their rarest
    parts, a share q of each, at least the rarest min(q·n - (n - o), q·m - (m - o)) of these. The parts are least
    similar for m = n/t, where that makes their Jaccard (q - 1 + t)/(q·t + 1 - t); q is chosen so that this is
    LEAST_JACCARD_OF_PARTS. For thresholds below that the whole document is compared.
    """
    least = LEAST_JACCARD_OF_PARTS
    return min(1.0, (1 - threshold) * (1 + least) / (1 - threshold * least))


def _without_copies(shingles: Shingles) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """The first row of each distinct shingle set, and (first, copy) for every other row; by a 64-bit sum and then
    exactly."""
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


def _signatures(
    shingles: Shingles, rarity: Rarity, share: float, progress: Progress
) -> tuple[NDArray[np.uint32], NDArray[np.uint8]]:
    """(BANDS, rows): one key for each band; (rows, PERMUTATIONS): the lowest byte of each MinHash value.

    That byte is enough for an estimate (Li and König 2010, "b-Bit Minwise Hashing").
    """
    from rensa import RMinHash

    keys = np.empty((BANDS, len(shingles)), np.uint32)
    sketches = np.empty((len(shingles), PERMUTATIONS), np.uint8)
    countdown = Countdown(progress, "MinHash signatures", len(shingles), "document")
    for rows in shingles.blocks():
        countdown.reached(int(rows[0]))
        part = _rarest_part(rarity.rarest_first(shingles.read(rows)), share)
        offsets = np.append(part.starts, part.values.size).astype(np.uint64)
        matrix = RMinHash.digest_matrix_from_flat_token_hashes(part.values, offsets, PERMUTATIONS, MINHASH_SEED)
        values = np.array(matrix.to_rows(), np.uint32)
        sketches[rows] = values
        bands = values[:, : BANDS * ROWS_PER_BAND].astype(np.uint64).reshape(-1, BANDS, ROWS_PER_BAND)
        keys[:, rows] = (_one_hash(bands) >> np.uint64(32)).T
    return keys, sketches


def _rarest_part(block: Block, share: float) -> Block:
    kept = np.ceil(share * block.sizes - 1e-9).astype(np.int64)
    position = np.arange(block.values.size) - np.repeat(block.starts, block.sizes)
    return Block(block.values[position < np.repeat(kept, block.sizes)], kept)


def _one_hash(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """One well-spread number from those along the last axis."""
    result = np.zeros(values.shape[:-1], np.uint64)
    for number in range(values.shape[-1]):
        result = mixed(result ^ values[..., number])
    return result


def _candidates(keys: NDArray[np.uint32], sketches: NDArray[np.uint8]) -> tuple[NDArray[np.int64], int]:
    """(n, 2) pairs of rows that share a band and may be near-duplicates by their sketches, the lower first, each once;
    and how many rows lie in a bucket too large to compare all of it."""
    rows = keys.shape[1]
    least = LEAST_JACCARD_OF_PARTS
    floor = least - _ESTIMATE_DEVIATIONS * math.sqrt(least * (1 - least) / PERMUTATIONS)
    kept = [np.empty(0, np.int64)]
    is_crowded = np.zeros(rows, np.bool_)
    for band in keys:
        for one, other, is_last in _pairs_with_equal_keys(band):
            if is_last:
                is_crowded[one] = is_crowded[other] = True
                continue
            for start in range(0, one.size, _PAIRS_PER_BLOCK):
                low, high = one[start : start + _PAIRS_PER_BLOCK], other[start : start + _PAIRS_PER_BLOCK]
                agreement = (sketches[low] == sketches[high]).mean(axis=1)
                kept.append((low * rows + high)[agreement >= floor])
        kept = [np.unique(np.concatenate(kept))]
    return np.column_stack((kept[0] // rows, kept[0] % rows)), int(is_crowded.sum())


def _pairs_with_equal_keys(
    keys: NDArray[np.uint32],
) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], bool]]:
    """Pairs of positions (lower, higher) with the same key, in portions of at most one pair a position.

    Each position is paired with the next one of its bucket, then with the one after that, up to NEIGHBOURS. The last
    portion, marked True, holds the first pairs that are left out.
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
