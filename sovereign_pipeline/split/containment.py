"""Containment: when one text stands in another, and the search for such pairs in one corpus.

What belongs here: the definition, what counts as boilerplate, and a search whose cost grows with the corpus alone. What
does not: the texts (`texts.py`), and the measurement across the two sides, which finds the pairs in another way
(`crossing_texts.py`).
"""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sovereign_pipeline.split.shingles import SLOTS, repeated_shingles, runs_of_about, slots_of
from sovereign_pipeline.split.texts import Texts

BOILERPLATE_TEXTS = 20
"""A shingle in more texts than this is boilerplate: a greeting, a formula, a paragraph of the law. Copies of one longer
text count once, so that a letter does not become boilerplate by being copied."""
LEAST_IN_COMMON = 6
"""Shingles: a run of 10 words. A shorter text must be contained whole."""
LEAST_SHINGLES = 4
"""Texts with fewer that are not boilerplate are not compared."""
MOSTLY = 0.75
"""Share of boilerplate from which a text, if it is long, is boilerplate as a whole."""
_LONG = 20
"""Shingles of a text of 24 words."""

_PAIRS_PER_BLOCK = 1 << 22


@dataclass(frozen=True)
class Boilerplate:
    """Which shingles stand in more than one text of a corpus, and which in so many that they show nothing."""

    marks: NDArray[np.uint8]
    """For each slot of a hash table: 0 where no shingle repeats, 2 where one is boilerplate, else 1."""
    shingles: NDArray[np.uint64]
    """Those that are boilerplate, sorted."""
    formulas: NDArray[np.uint64]
    """Keys of the short texts that more than BOILERPLATE_TEXTS documents have, sorted."""

    @staticmethod
    def of(scratch: Path, *sides: Texts) -> "Boilerplate":
        """Counted over the texts of the sides. scratch: a directory for shingles while they are sorted."""
        marks = np.zeros(SLOTS, np.uint8)
        found = [np.empty(0, np.uint64)]
        for hashes, counts in repeated_shingles(scratch, *(each.shingles for each in _counted(sides))):
            is_boilerplate = counts > BOILERPLATE_TEXTS
            marks[slots_of(hashes)] |= 1
            marks[slots_of(hashes[is_boilerplate])] |= 2
            found.append(hashes[is_boilerplate])
        return Boilerplate(marks, np.sort(np.concatenate(found)), _formulas(sides))

    def contains(self, hashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
        result = np.zeros(hashes.size, np.bool_)
        possible = np.flatnonzero(self.marks[slots_of(hashes)] & 2)
        if possible.size and self.shingles.size:
            place = np.searchsorted(self.shingles, hashes[possible])
            result[possible] = self.shingles[np.minimum(place, self.shingles.size - 1)] == hashes[possible]
        return result


@dataclass(frozen=True)
class OwnShingles:
    """What texts have beside boilerplate."""

    sizes: NDArray[np.int64]
    """Of each text, how many shingles are not boilerplate."""
    hashes: NDArray[np.uint64]
    """Those of them that may stand in another text, text by text."""
    texts: NDArray[np.int64]
    """The number of the text of each hash, ascending."""
    keys: NDArray[np.uint64]
    """Of each text its key, 0 for a formula: texts with equal keys are the same, and show it."""

    @staticmethod
    def of(texts: Texts, boilerplate: Boilerplate) -> "OwnShingles":
        sizes = texts.records.sizes.copy()
        hashes, numbers = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
        for rows in texts.shingles.blocks():
            block = texts.shingles.read(rows)
            repeats = np.flatnonzero(boilerplate.marks[slots_of(block.values)])
            values, own = block.values[repeats], rows[block.rows[repeats]]
            is_boilerplate = boilerplate.contains(values)
            np.subtract.at(sizes, own[is_boilerplate], 1)
            hashes.append(values[~is_boilerplate])
            numbers.append(own[~is_boilerplate])
        keys = texts.records.keys
        keys = np.where(np.isin(keys, boilerplate.formulas), np.uint64(0), keys)
        return OwnShingles(sizes, np.concatenate(hashes), np.concatenate(numbers), keys)

    def are_boilerplate(self, texts: Texts) -> NDArray[np.bool_]:
        """Which long texts are boilerplate but for a small part, so that what they share cannot be told."""
        return (texts.records.sizes >= _LONG) & (self.sizes < (1 - MOSTLY) * texts.records.sizes)


def needed_in_common(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """How many shingles two texts must share so that the shorter one, of so many, counts as contained in the other.

    Each changed word breaks five shingles. Half of them, less two, remain when every tenth word of a text was changed:
    of the 34 of a letter of 38 words, 15; three changed words leave at least 19. Below LEAST_IN_COMMON a text must be
    contained whole, and below LEAST_SHINGLES it never is.
    """
    needed = np.maximum(-(-sizes // 2) - 2, np.minimum(sizes, LEAST_IN_COMMON))
    return np.where(sizes < LEAST_SHINGLES, np.iinfo(np.int64).max, needed)


def contained_pairs(texts: Texts, own: OwnShingles) -> NDArray[np.int64]:
    """(n, 2) numbers of texts of different documents, the lower first, of which one is contained in the other, or
    equal to it.

    A shingle that is not boilerplate stands in few texts, so there are few pairs for each, and all are counted.
    """
    order = np.argsort(own.hashes, kind="stable")
    hashes, numbers = own.hashes[order], own.texts[order]
    ends = np.searchsorted(hashes, hashes, side="right")
    # How many texts with the same shingle come behind each: the sort is stable, so these have higher numbers.
    behind = np.empty(order.size, np.int64)
    place = np.empty(order.size, np.int64)
    behind[order], place[order] = ends - np.arange(order.size) - 1, np.arange(order.size)
    needed = needed_in_common(own.sizes)
    per_text = np.bincount(own.texts, behind, minlength=len(texts)).astype(np.int64)
    first = np.searchsorted(own.texts, np.arange(len(texts) + 1))
    found = [np.empty((0, 2), np.int64)]
    for run in runs_of_about(per_text, _PAIRS_PER_BLOCK, max(1, len(texts))):
        mine = np.arange(first[run[0]], first[run[-1] + 1])
        repeats = behind[mine]
        within = np.arange(repeats.sum()) - np.repeat(np.cumsum(repeats) - repeats, repeats)
        other = numbers[np.repeat(place[mine], repeats) + 1 + within]
        codes, common = np.unique(np.repeat(own.texts[mine], repeats) * len(texts) + other, return_counts=True)
        pairs = np.column_stack((codes // len(texts), codes % len(texts)))
        is_found = common >= needed[pairs].min(axis=1)
        found.append(pairs[is_found])
    found.append(_equal(own.keys))
    every: NDArray[np.int64] = np.unique(np.concatenate(found), axis=0)
    are_two: NDArray[np.bool_] = texts.documents[every[:, 0]] != texts.documents[every[:, 1]]
    return every[are_two]


def _equal(keys: NDArray[np.uint64]) -> NDArray[np.int64]:
    """(n, 2) places of equal keys other than 0, the lower first."""
    order = np.argsort(keys, kind="stable")
    order = order[keys[order] != 0]
    found = [np.empty((0, 2), np.int64)]
    for distance in range(1, order.size):
        one, other = order[:-distance], order[distance:]
        is_equal = keys[one] == keys[other]
        if not is_equal.any():
            break
        found.append(np.column_stack((one, other))[is_equal])
    return np.concatenate(found)


def _formulas(sides: tuple[Texts, ...]) -> NDArray[np.uint64]:
    """Keys of the short texts that stand in more than BOILERPLATE_TEXTS documents of all sides; sorted."""
    keys = [np.empty(0, np.uint64)]
    for side in sides:
        short = np.flatnonzero(~side.records.is_long)
        order = short[np.lexsort((side.documents[short], side.records.keys[short]))]
        of_key, documents = side.records.keys[order], side.documents[order]
        is_first = np.ones(order.size, np.bool_)
        is_first[1:] = (of_key[1:] != of_key[:-1]) | (documents[1:] != documents[:-1])
        keys.append(of_key[is_first])
    distinct, counts = np.unique(np.concatenate(keys), return_counts=True)
    return distinct[counts > BOILERPLATE_TEXTS]


def _counted(sides: tuple[Texts, ...]) -> Iterator[Texts]:
    """The texts that are counted: each word of a document once, and of equal longer texts of all sides the first."""
    known = np.empty(0, np.uint64)
    for side in sides:
        distinct = side.subset(np.flatnonzero(~side.records.is_repeated)).distinct()
        is_new = ~(np.isin(distinct.records.keys, known) & distinct.records.is_long)
        known = np.union1d(known, distinct.records.keys)
        yield distinct.subset(np.flatnonzero(is_new))
