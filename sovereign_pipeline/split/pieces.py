"""Find held-out texts that training texts contain in pieces: at least half of such a text is in all training texts
together.

Texts are compared without spaces, in runs of letters, so that a lost space or a word divided at a line end has no
effect. The memory for runs grows with the held-out side only.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass, replace
from functools import lru_cache
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sovereign_pipeline.split.contained_texts import BOILERPLATE_TEXTS, FIELDS, Texts
from sovereign_pipeline.split.shingles import are_among, mixed, runs_of_about

LENGTHS = {32: 0.5, 64: 0.1, 128: 1.1}
"""Maps the length of a run in letters, a power of two (about 6, 13 or 26 words), to a limit. `in_pieces` uses the first
length for which the share of sampled texts that consist of common sentences is below the limit. A share is never above
1, so the last length is always accepted."""
RELATED = 0.4
"""A document is related to a text, for example as a draft, if it contains at least this share of the text's letters.
Sentences that only related documents share are not common sentences."""
SHARE = 0.5
"""Minimum share of a held-out text's letters that must be in training texts for the text to count as trained on."""
_SAMPLE = 1_000
"""Maximum number of sampled texts. The sample shows how many texts consist of common sentences."""
_STRIDE = 4
"""Distance in letters between the beginnings of two runs of a held-out text. On the other side, a run begins at every
letter."""
_LETTERS_PER_BLOCK = 1 << 17
"""Number of letters in a block. The hashes of so small a block fit into the processor's cache."""
_TEXTS_PER_BLOCK = 1 << 16
_BYTES_PER_RUN = 32
"""Memory in bytes that one run of a held-out text needs during the comparison."""
_MOST_MARKS = 1 << 31
_UNITS = mixed(np.arange(256, dtype=np.uint64))
_MULTIPLIER = 0x9E3779B97F4A7C15
_INVERSE = pow(_MULTIPLIER, -1, 1 << 64)
_BITS = np.uint8(1) << np.arange(8, dtype=np.uint8)


@dataclass(frozen=True)
class Pieces:
    """The result of the search for held-out texts that the other side contains in pieces (at least SHARE of a text's
    letters)."""

    texts: int
    """Number of compared held-out texts."""
    documents: NDArray[np.int64]
    """(n, 2) array: the number of a held-out document, and the number of a document that contains a piece of one of its
    texts. Each pair occurs once; pairs are sorted."""
    largest_share: float
    """Largest share of a held-out text's letters that is in the texts of the other side."""
    letters: int
    """Number of letters in each compared run."""

    @property
    def remark(self) -> str:
        """Return a warning if only longer runs could be compared, because many texts consist of common sentences. In
        such a corpus, shorter pieces cannot be distinguished from common sentences. Otherwise return ""."""
        if self.letters == min(LENGTHS):
            return ""
        return (
            f" The texts consist of common sentences, so texts in pieces were looked for only in runs of "
            f"{self.letters} letters."
        )


def in_pieces(held_out: Texts, other: Texts, memory: int, counted: Texts | None = None) -> Pieces:
    """Find the held-out texts that the other side contains in pieces, and the documents with the pieces.

    Only requests and replies of at least SHORT_WORDS words are compared. A run in more than BOILERPLATE_TEXTS different
    texts is boilerplate, and is ignored unless exactly one held-out text contains the run. If many texts of the other
    side consist of runs that unrelated documents contain, these runs are common sentences, and longer runs are compared
    instead.

    Args:
        memory: maximum memory for the runs of held-out texts, in bytes. If the runs need more, the held-out texts are
            compared in portions, each portion with all texts of the other side. This takes longer, but gives the same
            result.
        counted: texts that determine, together with the held-out texts, which runs are boilerplate or common sentences;
            None for the texts of the other side.
    """
    corpus = other if counted is None else counted
    long, sample = _long(held_out), _long(corpus)
    sample = sample.subset(np.arange(0, len(sample), 1 + len(sample) // _SAMPLE))
    runs_of_texts = long.letters.sizes // _STRIDE + 1
    portions = list(runs_of_about(runs_of_texts, max(1, memory // _BYTES_PER_RUN), max(1, len(long))))
    texts = [long.subset(numbers) for numbers in portions] or [long]
    for letters, most in LENGTHS.items():
        runs = _Runs(letters, (texts[0], sample))
        counts = _counts(runs, held_out, corpus, sample)
        if _share_of_common_texts(sample, runs, counts) < most:
            break
    documents, largest_share = [np.empty((0, 2), np.int64)], 0.0
    for portion in texts:
        if portion is not texts[0]:
            runs = _Runs(letters, (portion,))
            counts = _counts(runs, held_out, corpus)
        is_covered = counts.are_rare | (counts.held_out == 1)
        is_covered &= (counts.corpus if other is corpus else runs.count(other)) > 0
        covered = _Runs(letters, hashes=[runs.hashes[is_covered]])
        shares = _shares(portion, covered)
        is_found = shares >= SHARE
        pieces, owners = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
        for numbers, _, hashes in runs.of(portion) if is_found.any() else ():
            is_piece = is_found[numbers] & covered.contain(hashes)
            pieces.append(hashes[is_piece])
            owners.append(portion.documents[numbers[is_piece]])
        documents.append(_documents_with(letters, np.concatenate(pieces), np.concatenate(owners), other))
        largest_share = max(largest_share, float(shares.max(initial=0.0)))
    return Pieces(len(long), np.unique(np.concatenate(documents), axis=0), round(largest_share, 4), letters)


@dataclass(frozen=True)
class _Counts:
    """Counts, for each run, the different texts of the corpus and of the held-out side that contain the run. Counting
    may stop above BOILERPLATE_TEXTS."""

    corpus: NDArray[np.uint32]
    held_out: NDArray[np.uint32]
    holders: NDArray[np.int64]
    """(n, 2) sorted pairs: a run of a sampled text that is rare in the corpus, and a document of the corpus that
    contains this run."""

    @property
    def are_rare(self) -> NDArray[np.bool_]:
        are_rare: NDArray[np.bool_] = self.corpus + self.held_out <= BOILERPLATE_TEXTS
        return are_rare


def _counts(runs: "_Runs", held_out: Texts, corpus: Texts, sample: Texts | None = None) -> _Counts:
    is_of_sample = np.zeros(runs.hashes.size, np.bool_)
    for _, _, hashes in runs.of(sample) if sample is not None else ():
        is_of_sample[runs.places(hashes)] = True
    in_corpus = np.zeros(runs.hashes.size, np.uint32)
    different, found = _different(corpus), [np.empty((0, 2), np.int64)]
    documents = different.documents
    for places, numbers in runs.once_in_each(different, in_corpus):
        is_kept = is_of_sample[places] & (in_corpus[places] <= BOILERPLATE_TEXTS)
        found.append(np.column_stack((places[is_kept], documents[numbers[is_kept]])))
    in_held_out, holders = runs.count(held_out), np.unique(np.concatenate(found), axis=0)
    counts = _Counts(in_corpus, in_held_out, holders)
    may_be_common = counts.are_rare & (in_corpus > 1)
    return replace(counts, holders=holders[may_be_common[holders[:, 0]]])


def _share_of_common_texts(sample: Texts, runs: "_Runs", counts: _Counts) -> float:
    """Return the share of sampled texts that consist of common sentences: at least SHARE of their letters are in runs
    that unrelated documents contain."""
    if not len(sample):
        return 0.0
    holders = counts.holders
    sizes, documents = np.maximum(sample.letters.sizes, 1), sample.documents
    common = 0
    for numbers, starts, hashes in runs.of(sample):
        places = runs.places(hashes)
        first = np.searchsorted(holders[:, 0], places)
        times = np.searchsorted(holders[:, 0], places, side="right") - first
        run = np.repeat(np.arange(numbers.size), times)
        within = np.arange(run.size) - np.repeat(np.cumsum(times) - times, times)
        text, document = numbers[run], holders[np.repeat(first, times) + within, 1]
        _, pair = np.unique(text * (document.max(initial=0) + 1) + document, return_inverse=True)
        order = np.argsort(pair, kind="stable")
        in_document = _covered(pair[order], starts[run[order]], runs.letters)[pair]
        is_unrelated = (in_document < RELATED * sizes[text]) & (document != documents[text])
        is_common = np.bincount(run[is_unrelated], minlength=numbers.size) > 0
        in_common = _covered(numbers[is_common], starts[is_common], runs.letters, len(sample))
        common += int((in_common >= SHARE * sizes).sum())
    return common / len(sample)


def _long(texts: Texts) -> Texts:
    """Return the distinct requests and replies of at least SHORT_WORDS words."""
    is_field = (texts.fields != FIELDS.index("letter")) & ~texts.is_context
    return texts.subset(np.flatnonzero(texts.is_long & is_field)).distinct()


def _different(texts: Texts) -> Texts:
    return texts.subset(np.flatnonzero(~texts.is_repeated)).distinct()


class _Runs:
    """The hashes of all runs of one length in some texts. A table of bits quickly rules out most other hashes."""

    def __init__(self, letters: int, texts: Iterable[Texts] = (), hashes: Iterable[NDArray[np.uint64]] = ()) -> None:
        self.letters = letters
        of_texts = (found for each in texts for _, _, found in self.of(each))
        self.hashes = _distinct(np.concatenate([np.empty(0, np.uint64), *hashes, *of_texts]))
        marks = min(_MOST_MARKS, 1 << 5 + self.hashes.size.bit_length())
        self._shift = np.uint64(65 - marks.bit_length())
        self._marks = np.zeros(marks // 8, np.uint8)
        np.bitwise_or.at(self._marks, *self._mark_of(self.hashes))

    def _mark_of(self, hashes: NDArray[np.uint64]) -> tuple[NDArray[np.int64], NDArray[np.uint8]]:
        """Return the position of each hash's bit: the index of the byte, and the bit within the byte."""
        marks = (hashes >> self._shift).view(np.int64)
        return marks >> 3, _BITS[marks & 7]

    def places(self, hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the index of each hash in `self.hashes`. All hashes must be in that array."""
        return np.searchsorted(self.hashes, hashes)

    def contain(self, hashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
        """Return a mask of the hashes that are in `self.hashes`."""
        byte, bit = self._mark_of(hashes)
        result = (self._marks[byte] & bit) > 0
        result[result] = are_among(hashes[result], self.hashes)
        return result

    def found_in(
        self, texts: Texts, marks: NDArray[np.uint8] | None = None
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Find the runs in all texts. Yield pairs of arrays: numbers of texts, and the indexes of the runs in these
        texts. `marks`: bits of the runs to look for; None for all runs."""
        marks = self._marks if marks is None else marks
        for rows in _blocks(texts) if self.hashes.size else ():
            block = texts.letters.read(rows)
            hashes, ends = self._rolled(block.values), np.cumsum(block.sizes)
            byte, bit = self._mark_of(hashes)
            possible = np.flatnonzero(marks[byte] & bit)
            places = np.minimum(self.places(hashes[possible]), self.hashes.size - 1)
            possible, places = (each[self.hashes[places] == hashes[possible]] for each in (possible, places))
            numbers = np.searchsorted(ends, possible, side="right")
            is_within = possible + self.letters <= ends[numbers]  # a run may not continue in the next text
            yield rows[numbers[is_within]], places[is_within]

    def once_in_each(
        self, texts: Texts, counts: NDArray[np.uint32]
    ) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Yield pairs of a run's index and the number of a text that contains the run, each pair once. Add the number
        of texts with each run to `counts`. Counting of a run may stop when the run is boilerplate, as most runs in
        texts are."""
        marks = self._marks.copy()
        for numbers, places in self.found_in(texts, marks):
            pairs = _distinct(places * len(texts) + numbers)
            places, numbers = pairs // len(texts), pairs % len(texts)
            np.add.at(counts, places, np.uint32(1))
            yield places, numbers
            self._unmark(places[counts[places] > BOILERPLATE_TEXTS], marks)

    def _unmark(self, places: NDArray[np.int64], marks: NDArray[np.uint8]) -> None:
        """Clear the bits of some runs, unless another run has the same bit."""
        of_run = self.hashes[places] >> self._shift
        before, after = (self.hashes.take(places + step, mode="clip") >> self._shift for step in (-1, 1))
        is_alone = ((before != of_run) | (places == 0)) & ((after != of_run) | (places == self.hashes.size - 1))
        byte, bit = self._mark_of(self.hashes[places[is_alone]])
        np.bitwise_and.at(marks, byte, ~bit)

    def count(self, texts: Texts) -> NDArray[np.uint32]:
        """Return, for each run, the number of different texts that contain the run. Counting may stop as in
        `once_in_each`."""
        counts = np.zeros(self.hashes.size, np.uint32)
        for _ in self.once_in_each(_different(texts), counts):
            pass
        return counts

    def of(self, texts: Texts) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint64]]]:
        """Yield arrays with the text's number, the start and the hash of each run. Only every _STRIDE-th run of a text
        is yielded, in order."""
        for rows in _blocks(texts):
            block = texts.letters.read(rows)
            starts, sizes = np.arange(block.values.size) - np.repeat(block.starts, block.sizes), block.sizes
            kept = np.flatnonzero((starts + self.letters <= np.repeat(sizes, sizes)) & (starts % _STRIDE == 0))
            yield rows[block.rows[kept]], starts[kept], self._rolled(block.values)[kept]

    def _rolled(self, letters: NDArray[Any]) -> NDArray[np.uint64]:
        """Return the polynomial hash (modulo 2^64) of every run, computed from the difference of the hashes of two
        prefixes.

        Let u be the letters' 64-bit numbers (`_UNITS`), and m an odd multiplier. The hash of the run at i is the sum of
        u[i+k]·m^(letters-1-k). This equals m^(i+letters-1) times the sum of u[j]·m^-j over the run.
        """
        if letters.size < self.letters:
            return np.empty(0, np.uint64)
        powers, inverse = _powers(1 << (letters.size + self.letters).bit_length())
        prefixes = np.zeros(letters.size + 1, np.uint64)
        np.cumsum(_UNITS[letters] * inverse[: letters.size], out=prefixes[1:])
        hashes = prefixes[self.letters :] - prefixes[: -self.letters]
        hashes *= powers[self.letters - 1 :][: hashes.size]
        return hashes


@lru_cache(maxsize=2)
def _powers(count: int) -> tuple[NDArray[np.uint64], NDArray[np.uint64]]:
    """Return the first `count` powers of _MULTIPLIER and of its inverse, modulo 2^64."""
    bases = (np.full(count, base, np.uint64) for base in (_MULTIPLIER, _INVERSE))
    powers, inverse = (np.append(np.uint64(1), np.cumprod(base[:-1])) for base in bases)
    return powers, inverse


def _blocks(texts: Texts) -> Iterator[NDArray[np.int64]]:
    return runs_of_about(texts.letters.sizes, _LETTERS_PER_BLOCK, _TEXTS_PER_BLOCK)


def _distinct(values: NDArray[Any]) -> NDArray[Any]:
    """Return the distinct values, sorted; `values` is sorted in place. `np.unique` takes four times as long on
    hashes."""
    values.sort()
    return values[np.append(True, values[1:] != values[:-1])] if values.size else values


def _shares(texts: Texts, runs: _Runs) -> NDArray[np.float64]:
    """Return, for each text, the share of its letters that the runs cover."""
    covered = np.zeros(len(texts))
    for numbers, starts, hashes in runs.of(texts):
        if numbers.size:
            first, end = int(numbers[0]), int(numbers[-1]) + 1
            kept = runs.contain(hashes)
            covered[first:end] += _covered(numbers[kept] - first, starts[kept], runs.letters, end - first)
    return covered / np.maximum(texts.letters.sizes, 1)


def _covered(
    numbers: NDArray[np.int64], starts: NDArray[np.int64], letters: int, count: int = 0
) -> NDArray[np.float64]:
    """Return, for each number, how many letters the runs with this number cover. The runs must be sorted by number and
    start."""
    reach = np.full(numbers.size, letters)
    is_same = numbers[1:] == numbers[:-1]
    reach[:-1][is_same] = np.minimum(np.diff(starts), letters)[is_same]
    return np.bincount(numbers, reach, count).astype(np.float64)


def _documents_with(
    letters: int, pieces: NDArray[np.uint64], owners: NDArray[np.int64], other: Texts
) -> NDArray[np.int64]:
    """Return an (n, 2) array of sorted pairs: the document that owns a run, and a document of the other side that
    contains the run. Each pair occurs once."""
    order = np.argsort(pieces, kind="stable")
    pieces, owners = pieces[order], owners[order]
    runs = _Runs(letters, hashes=[pieces])
    first = np.searchsorted(pieces, runs.hashes)
    several = np.searchsorted(pieces, runs.hashes, side="right") - first
    pairs, documents = [np.empty((0, 2), np.int64)], other.documents
    for numbers, places in runs.found_in(other):
        times = several[places]
        within = np.arange(times.sum()) - np.repeat(np.cumsum(times) - times, times)
        of_runs = owners[np.repeat(first[places], times) + within]
        pairs.append(np.unique(np.column_stack((of_runs, np.repeat(documents[numbers], times))), axis=0))
    return np.unique(np.concatenate(pairs), axis=0)
