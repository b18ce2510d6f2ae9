"""Find held-out texts of which training texts together contain at least half, in pieces.

Texts are compared without spaces, in runs of letters, so that a lost space or a word divided at a line end has no
effect. Each text is hashed once, and memory grows with the held-out side only.
"""

from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sovereign_pipeline.split.contained_texts import BOILERPLATE_TEXTS, FIELDS, Texts
from sovereign_pipeline.split.shingles import runs_of_about
from sovereign_pipeline.split.similarity import mixed

LENGTHS = {32: 0.5, 64: 0.1, 128: 1.1}
"""Number of letters in a run (a power of two: about 6, 13, 26 words) -> share of texts made of common sentences from
which runs of this length are no longer compared. The longest runs are always compared."""
RELATED = 0.4
"""Share of a text's letters in one document from which both count as related, such as a document and its draft.
Sentences that only related documents share are not common sentences."""
SHARE = 0.5
"""Share of a held-out text's letters in training texts from which the text counts as trained on."""
_SAMPLE = 1_000
"""Maximum number of texts in the sample that determines common sentences."""
_STRIDE = 4
"""Distance between the runs of a held-out text. The other side's runs begin at every letter."""
_LETTERS_PER_BLOCK = 1 << 21
_TEXTS_PER_BLOCK = 1 << 16
_UNITS = mixed(np.arange(256, dtype=np.uint64))
_MULTIPLIER = 0x9E3779B97F4A7C15


@dataclass(frozen=True)
class Pieces:
    """Held-out texts of which the other side contains at least SHARE, in pieces."""

    texts: int
    """Number of compared held-out texts."""
    documents: NDArray[np.int64]
    """(n, 2) numbers of a held-out document and of a document with a piece of it; each pair once, sorted."""
    largest_share: float
    """Largest share of one held-out text in the texts of the other side."""
    letters: int
    """Number of letters in the compared runs."""

    @property
    def remark(self) -> str:
        """Return a sentence if texts consist of common sentences, from which shorter pieces cannot be distinguished."""
        if self.letters == min(LENGTHS):
            return ""
        return (
            f" The texts consist of common sentences, so texts in pieces were looked for only in runs of "
            f"{self.letters} letters."
        )


def in_pieces(held_out: Texts, other: Texts, counted: Texts | None = None) -> Pieces:
    """Return the held-out texts that the other side contains in pieces, and the documents with the pieces.

    Only requests and replies of at least SHORT_WORDS words are compared. A run in more than BOILERPLATE_TEXTS
    different texts is boilerplate and is ignored, unless only one held-out text has it. If many unrelated texts of
    the other side consist of each other's runs, these are common sentences, and longer runs are compared.

    Args:
        counted: texts, besides the held-out ones, that determine boilerplate and common sentences; None for the other
            side.
    """
    corpus = other if counted is None else counted
    long, sample = _long(held_out), _long(corpus)
    sample = sample.subset(np.arange(0, len(sample), 1 + len(sample) // _SAMPLE))
    for letters, most in LENGTHS.items():
        runs = _Runs(letters, (long, sample))
        in_corpus, in_held_out = runs.count(corpus), runs.count(held_out)
        is_rare = in_corpus + in_held_out <= BOILERPLATE_TEXTS
        if _share_of_common_texts(sample, runs, is_rare & (in_corpus > 1), corpus) < most:
            break
    is_rare |= in_held_out == 1
    is_covered = is_rare & ((in_corpus if other is corpus else runs.count(other)) > 0)
    shares = _shares(long, runs, is_covered)
    is_found = shares >= SHARE
    pieces, owners = [np.empty(0, np.uint64)], [np.empty(0, np.int64)]
    for texts, _, hashes in runs.of(long) if is_found.any() else ():
        is_piece = is_found[texts] & is_covered[runs.places(hashes)]
        pieces.append(hashes[is_piece])
        owners.append(long.documents[texts[is_piece]])
    documents = _documents_with(letters, np.concatenate(pieces), np.concatenate(owners), other)
    return Pieces(len(long), documents, round(float(shares.max(initial=0.0)), 4), letters)


def _share_of_common_texts(sample: Texts, runs: "_Runs", may_be_common: NDArray[np.bool_], corpus: Texts) -> float:
    """Return the share of sampled texts of which at least SHARE consists of runs in unrelated documents."""
    if not len(sample):
        return 0.0
    different, found = _different(corpus), [np.empty((0, 2), np.int64)]
    for numbers, places in runs.found_in(different):
        kept = may_be_common[places]
        found.append(np.column_stack((places[kept], different.documents[numbers[kept]])))
    holders = np.unique(np.concatenate(found), axis=0)
    first = np.searchsorted(holders[:, 0], np.arange(may_be_common.size + 1))
    sizes = np.maximum(sample.records.letters, 1)
    common = 0
    for numbers, starts, hashes in runs.of(sample):
        places = runs.places(hashes)
        times = np.diff(first)[places]
        run = np.repeat(np.arange(numbers.size), times)
        within = np.arange(run.size) - np.repeat(np.cumsum(times) - times, times)
        text, document = numbers[run], holders[np.repeat(first[places], times) + within, 1]
        _, pair = np.unique(text * (document.max(initial=0) + 1) + document, return_inverse=True)
        order = np.argsort(pair, kind="stable")
        in_document = _covered(pair[order], starts[run[order]], runs.letters)[pair]
        is_unrelated = (in_document < RELATED * sizes[text]) & (document != sample.documents[text])
        is_common = np.bincount(run[is_unrelated], minlength=numbers.size) > 0
        in_common = _covered(numbers[is_common], starts[is_common], runs.letters, len(sample))
        common += int((in_common >= SHARE * sizes).sum())
    return common / len(sample)


def _long(texts: Texts) -> Texts:
    """Return the distinct requests and replies of at least SHORT_WORDS words."""
    is_field = (texts.records.fields != FIELDS.index("letter")) & ~texts.records.is_context
    return texts.subset(np.flatnonzero(texts.records.is_long & is_field)).distinct()


def _different(texts: Texts) -> Texts:
    return texts.subset(np.flatnonzero(~texts.records.is_repeated)).distinct()


class _Runs:
    """The hashes of all runs of one length in some texts, with a hash table that excludes most others."""

    def __init__(self, letters: int, texts: Iterable[Texts] = (), hashes: Iterable[NDArray[np.uint64]] = ()) -> None:
        self.letters = letters
        of_texts = (found for each in texts for _, _, found in self.of(each))
        self.hashes = _distinct(np.concatenate([np.empty(0, np.uint64), *hashes, *of_texts]))
        self._mask = np.uint64((1 << min(26, 4 + self.hashes.size.bit_length())) - 1)
        self._marks = np.zeros(int(self._mask) + 1, np.bool_)
        self._marks[self.hashes & self._mask] = True

    def places(self, hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
        """Return the number of each hash in the set. All hashes must be in it."""
        return np.searchsorted(self.hashes, hashes)

    def found_in(self, texts: Texts) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64]]]:
        """Yield text numbers and the numbers of the runs in them, for all texts."""
        for rows in _blocks(texts) if self.hashes.size else ():
            block = texts.letters.read(rows)
            hashes, ends = self._rolled(block.values), np.cumsum(block.sizes)
            possible = np.flatnonzero(self._marks[hashes & self._mask])
            places = np.minimum(self.places(hashes[possible]), self.hashes.size - 1)
            possible, places = (each[self.hashes[places] == hashes[possible]] for each in (possible, places))
            numbers = np.searchsorted(ends, possible, side="right")
            is_within = possible + self.letters <= ends[numbers]  # not from one text into the next
            yield rows[numbers[is_within]], places[is_within]

    def count(self, texts: Texts) -> NDArray[np.int64]:
        """Return the number of different texts that contain each run."""
        counts = np.zeros(self.hashes.size, np.int64)
        different = _different(texts)
        for numbers, places in self.found_in(different):
            in_texts = _distinct(places * len(different) + numbers) // len(different)
            counts += np.bincount(in_texts, minlength=counts.size)
        return counts

    def of(self, texts: Texts) -> Iterator[tuple[NDArray[np.int64], NDArray[np.int64], NDArray[np.uint64]]]:
        """Yield text number, start and hash of every _STRIDE-th run, in each text's order."""
        for rows in _blocks(texts):
            block = texts.letters.read(rows)
            starts, sizes = np.arange(block.values.size) - np.repeat(block.starts, block.sizes), block.sizes
            kept = np.flatnonzero((starts + self.letters <= np.repeat(sizes, sizes)) & (starts % _STRIDE == 0))
            yield rows[block.rows[kept]], starts[kept], self._rolled(block.values)[kept]

    def _rolled(self, letters: NDArray[Any]) -> NDArray[np.uint64]:
        """Return the polynomial hash (modulo 2^64) of every run, by doubling the length of the runs."""
        hashes: NDArray[np.uint64] = _UNITS[letters]
        length, factor = 1, _MULTIPLIER
        while length < self.letters:
            hashes = hashes[:-length] * np.uint64(factor) + hashes[length:]
            length, factor = 2 * length, factor * factor % (1 << 64)
        return hashes


def _blocks(texts: Texts) -> Iterator[NDArray[np.int64]]:
    return runs_of_about(texts.letters.sizes, _LETTERS_PER_BLOCK, _TEXTS_PER_BLOCK)


def _distinct(values: NDArray[Any]) -> NDArray[Any]:
    """Return the distinct values, sorted. `np.unique` takes four times as long on hashes."""
    values = np.sort(values)
    return values[np.append(True, values[1:] != values[:-1])] if values.size else values


def _shares(texts: Texts, runs: _Runs, is_covered: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Return the share of each text's letters that are in covered runs."""
    covered = np.zeros(len(texts))
    for numbers, starts, hashes in runs.of(texts):
        kept = is_covered[runs.places(hashes)]
        covered += _covered(numbers[kept], starts[kept], runs.letters, len(texts))
    return covered / np.maximum(texts.records.letters, 1)


def _covered(
    numbers: NDArray[np.int64], starts: NDArray[np.int64], letters: int, count: int = 0
) -> NDArray[np.float64]:
    """Return how many letters the runs of each number cover. Runs are sorted by number and start."""
    reach = np.full(numbers.size, letters)
    is_same = numbers[1:] == numbers[:-1]
    reach[:-1][is_same] = np.minimum(np.diff(starts), letters)[is_same]
    return np.bincount(numbers, reach, count).astype(np.float64)


def _documents_with(
    letters: int, pieces: NDArray[np.uint64], owners: NDArray[np.int64], other: Texts
) -> NDArray[np.int64]:
    """Return (n, 2) owner of a run and document of the other side that contains it, each pair once, sorted."""
    order = np.argsort(pieces, kind="stable")
    pieces, owners = pieces[order], owners[order]
    runs = _Runs(letters, hashes=[pieces])
    first = np.searchsorted(pieces, runs.hashes)
    several = np.searchsorted(pieces, runs.hashes, side="right") - first
    pairs = [np.empty((0, 2), np.int64)]
    for numbers, places in runs.found_in(other):
        times = several[places]
        within = np.arange(times.sum()) - np.repeat(np.cumsum(times) - times, times)
        of_runs = owners[np.repeat(first[places], times) + within]
        pairs.append(np.unique(np.column_stack((of_runs, np.repeat(other.documents[numbers], times))), axis=0))
    return np.unique(np.concatenate(pairs), axis=0)
