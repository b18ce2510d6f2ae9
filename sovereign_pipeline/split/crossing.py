"""What crosses from one side of a split to the other, measured exhaustively and without MinHash or components.

What belongs here: the measurement that the proof states and that the gate repeats on the files. What does not: how the
sides were made.
"""

from collections.abc import Iterable, Iterator
from typing import TYPE_CHECKING

from sovereign_pipeline.split.grouping import Member
from sovereign_pipeline.split.similarity import Shingles, jaccard

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

_COLLISIONS_PER_BLOCK = 1 << 22


def crossing_cases(train: Iterable[Member], held_out: Iterable[Member]) -> set[str]:
    """Case files with documents on both sides."""
    return {member.case for member in train if member.case} & {member.case for member in held_out if member.case}


def crossing_authors(train: Iterable[Member], held_out: Iterable[Member]) -> set[str]:
    return {member.author for member in train if member.author} & {
        member.author for member in held_out if member.author
    }


def crossing_links(train: Iterable[Member], held_out: Iterable[Member]) -> set[str]:
    """Ids that are a document of, or linked to from, both sides."""
    return {matter for member in train for matter in (member.id, *member.links)} & {
        matter for member in held_out for matter in (member.id, *member.links)
    }


def crossing_near_duplicates(held_out: Shingles, train: Shingles, threshold: float) -> list[tuple[int, int]]:
    """Every pair (held-out row, training row) with Jaccard >= threshold; none is missed.

    An inverted index over prefixes (Bayardo, Ma, Srikant 2007, "Scaling Up All Pairs Similarity Search", section 3):
    Jaccard >= t means that at least ceil(t·|x|) shingles of x are common, so with all shingles in one order, rarest
    first, the two prefixes of length |x| - ceil(t·|x|) + 1 must meet. Each pair that meets is compared in full.
    """
    import numpy as np

    # Every shingle's rank, rarest first, over both sides.
    _, kind, counts = np.unique(
        np.concatenate((held_out.hashes, train.hashes)), return_inverse=True, return_counts=True
    )
    rank = np.empty(counts.size, np.int64)
    rank[np.argsort(counts, kind="stable")] = np.arange(counts.size)
    ranks = rank[kind]
    held_prefixes = _prefixes(held_out, ranks[: held_out.hashes.size], counts.size, threshold)
    train_prefixes = _prefixes(train, ranks[held_out.hashes.size :], counts.size, threshold)

    found: list[tuple[int, int]] = []
    for one, other in _meeting_rows(held_prefixes, train_prefixes, len(train)):
        sizes = held_out.offsets[one + 1] - held_out.offsets[one], train.offsets[other + 1] - train.offsets[other]
        possible = np.minimum(*sizes) >= threshold * np.maximum(*sizes) - 1e-9
        found += [
            (int(row), int(match))
            for row, match in zip(one[possible], other[possible], strict=True)
            if jaccard(held_out.row(int(row)), train.row(int(match))) >= threshold
        ]
    return sorted(found)


def _prefixes(
    side: Shingles, ranks: "NDArray[np.int64]", kinds: int, threshold: float
) -> tuple["NDArray[np.int64]", "NDArray[np.int64]"]:
    """(rank, row) of every shingle that stands in the prefix of its row. kinds: ranks lie below it."""
    import numpy as np

    sizes = np.diff(side.offsets)
    rows = np.repeat(np.arange(len(side)), sizes)
    ordered = np.sort(rows * kinds + ranks) - rows * kinds
    length = sizes - np.ceil(threshold * sizes - 1e-9).astype(np.int64) + 1
    position = np.arange(ordered.size) - np.repeat(side.offsets[:-1], sizes)
    inside = position < np.repeat(length, sizes)
    return ordered[inside], rows[inside]


def _meeting_rows(
    held_out: tuple["NDArray[np.int64]", "NDArray[np.int64]"],
    train: tuple["NDArray[np.int64]", "NDArray[np.int64]"],
    train_rows: int,
) -> Iterator[tuple["NDArray[np.int64]", "NDArray[np.int64]"]]:
    """Pairs of rows whose prefixes share a shingle, each pair once; whole held-out rows at a time, to bound memory."""
    import numpy as np

    ranks, rows = held_out
    order = np.argsort(train[0], kind="stable")
    index, indexed_rows = train[0][order], train[1][order]
    start = np.searchsorted(index, ranks, side="left")
    count = np.searchsorted(index, ranks, side="right") - start
    before_row = np.flatnonzero(np.diff(rows, prepend=-1))
    total_before = np.concatenate(([0], np.cumsum(count)))[before_row]
    block_of_row = total_before // _COLLISIONS_PER_BLOCK
    first_of_block = before_row[np.flatnonzero(np.diff(block_of_row, prepend=-1))]
    for low, high in zip(first_of_block, [*first_of_block[1:], ranks.size], strict=True):
        repeats = count[low:high]
        within = np.arange(repeats.sum()) - np.repeat(np.cumsum(repeats) - repeats, repeats)
        matches = indexed_rows[np.repeat(start[low:high], repeats) + within]
        pairs = np.unique(np.repeat(rows[low:high], repeats) * train_rows + matches)
        yield pairs // train_rows, pairs % train_rows
