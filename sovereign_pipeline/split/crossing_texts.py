"""Which texts of one side of a split are contained in texts of the other, measured exhaustively.

What belongs here: the measurement that the proof states and that gates repeat, by a product of matrices. What does not:
the search that ties such documents (`containment.py`); only the definition is common to both.
"""

from collections import Counter
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from sovereign_pipeline.split.containment import Boilerplate, OwnShingles, needed_in_common
from sovereign_pipeline.split.texts import FIELDS, Texts

if TYPE_CHECKING:
    from scipy.sparse import csr_array

_TEXTS_PER_BLOCK = 1 << 14


@dataclass(frozen=True)
class CrossingTexts:
    """The pairs of texts that cross."""

    documents: NDArray[np.int64]
    """(n, 2): held-out document, other document; each pair once, ordered."""
    by_fields: dict[str, int]
    """`field ~ field` (of the held-out document, of the other one) -> pairs of texts. All combinations are counted."""


def crossing_texts(held_out: Texts, other: Texts, boilerplate: Boilerplate) -> CrossingTexts:
    """Every text of the held-out side that is equal to a text of the other side (and no formula), contained in one, or
    contains one; none is missed.

    With a row for each text and a column for each shingle that both sides have, the product of the one side's matrix
    and the other's transposed has in each cell how many shingles two texts share.
    """
    one, two = held_out.distinct(), other.distinct()
    own_one, own_two = OwnShingles.of(one, boilerplate), OwnShingles.of(two, boilerplate)
    shared = np.intersect1d(own_one.hashes, own_two.hashes)
    left, right = _matrix(own_one, shared, len(one)), _matrix(own_two, shared, len(two)).T.tocsr()
    needed_one, needed_two = needed_in_common(own_one.sizes), needed_in_common(own_two.sizes)
    pairs = [np.empty((0, 2), np.int64)]
    for start in range(0, len(one), _TEXTS_PER_BLOCK):
        common = (left[start : start + _TEXTS_PER_BLOCK] @ right).tocoo()
        rows, columns = common.row.astype(np.int64) + start, common.col.astype(np.int64)
        is_found = common.data >= np.minimum(needed_one[rows], needed_two[columns])
        pairs.append(np.column_stack((rows[is_found], columns[is_found])))
    pairs.append(_equal(own_one.keys, own_two.keys))
    found = np.unique(np.concatenate(pairs), axis=0)
    names = Counter({f"{mine} ~ {theirs}": 0 for mine in FIELDS for theirs in FIELDS})
    for mine, theirs in zip(one.records.fields[found[:, 0]], two.records.fields[found[:, 1]], strict=True):
        names[f"{FIELDS[mine]} ~ {FIELDS[theirs]}"] += 1
    documents = np.column_stack((one.documents[found[:, 0]], two.documents[found[:, 1]]))
    return CrossingTexts(np.unique(documents, axis=0), dict(names))


def _matrix(own: OwnShingles, shared: NDArray[np.uint64], texts: int) -> "csr_array":
    from scipy.sparse import csr_array

    kept = np.isin(own.hashes, shared)
    columns = np.searchsorted(shared, own.hashes[kept])
    ones = np.ones(columns.size, np.int32)
    return csr_array((ones, (own.texts[kept], columns)), shape=(texts, max(1, shared.size)))


def _equal(keys: NDArray[np.uint64], others: NDArray[np.uint64]) -> NDArray[np.int64]:
    """(n, 2) numbers of texts with equal keys other than 0."""
    order = np.argsort(others, kind="stable")
    start = np.searchsorted(others, keys, side="left", sorter=order)
    count = np.where(keys == 0, 0, np.searchsorted(others, keys, side="right", sorter=order) - start)
    within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    return np.column_stack((np.repeat(np.arange(keys.size), count), order[np.repeat(start, count) + within]))
