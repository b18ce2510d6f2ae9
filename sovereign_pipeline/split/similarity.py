"""Which documents are near-duplicates: the definition (shingles, Jaccard) and the fast search for pairs.

What belongs here: how a document becomes a set of shingles, and finding pairs in one corpus by MinHash and LSH. What
does not: what is done about a pair (`grouping.py`), and the exhaustive check across the two sides (`crossing.py`).
"""

import hashlib
import math
import re
import unicodedata
from array import array
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING

from sovereign_pipeline.corpus.document import Document

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Word 5-shingles as in Lee et al. 2022, "Deduplicating Training Data Makes Language Models Better", section 4.2. Arabic
# carries articles, prepositions and pronouns on the word, so one changed affix would break five word shingles; there
# characters are taken, 9 of them (Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", section 3.2.2).
WORDS_PER_SHINGLE = 5
CHARACTERS_PER_SHINGLE = 9

PERMUTATIONS = 128
MINHASH_SEED = 7
MIN_RECALL = 0.999
"""Probability that a pair exactly at the threshold shares a band; pairs above it are found more surely."""
ESTIMATE_DEVIATIONS = 5
"""A candidate whose signature lies this many standard deviations below the threshold is not verified (p < 1e-6)."""

_ROWS_PER_BLOCK = 4_096
_PAIRS_PER_BLOCK = 1 << 18

PLACEHOLDER = re.compile(r"(?<![A-Za-z0-9_])([A-Z][A-Z_]*)_\d+(?![A-Za-z0-9_])")
_WORD = re.compile(r"\w+")
_TATWEEL_VOWELS_AND_MARKS = [0x0640, 0x0670, *range(0x064B, 0x0660), 0x061C, 0x200E, 0x200F, *range(0x202A, 0x202F)]
_ARABIC_DIGITS = {start + digit: str(digit) for start in (0x0660, 0x06F0) for digit in range(10)}
_FOLDED: dict[int, str | None] = {**dict.fromkeys(_TATWEEL_VOWELS_AND_MARKS), **_ARABIC_DIGITS}
_FOLDABLE = re.compile("[" + "".join(map(chr, _FOLDED)) + "]")

_MULTIPLIER = 0x9E3779B97F4A7C15  # odd, the 64-bit golden ratio of splitmix64 (Steele et al. 2014)


def normal_form(document: Document) -> str:
    """Request and response as they are compared (see `normal_text`)."""
    return normal_text(f"{document.request}\n{document.response}")


def normal_text(text: str) -> str:
    """Words alone, one space between, and placeholders without numbers.

    NFKC, lower case; Arabic without tatweel, vowel signs and direction marks, digits as 0-9. `NAME_3` becomes `name`,
    because the same letter in two case files has its placeholders numbered differently.
    """
    text = unicodedata.normalize("NFKC", text)
    text = PLACEHOLDER.sub(r" \1 ", text).lower()
    if _FOLDABLE.search(text):
        text = text.translate(_FOLDED)
    return " ".join(_WORD.findall(text))


def shingles_of(document: Document) -> "NDArray[np.uint64]":
    """Sorted distinct 64-bit hashes of the document's shingles; never empty.

    Words are taken unless the text has more Arabic than Latin letters. A text shorter than one shingle is one shingle.
    """
    text = normal_form(document)
    if _is_arabic(text):
        return _rolled(_code_points(text), CHARACTERS_PER_SHINGLE)
    return _rolled(_word_hashes(text), WORDS_PER_SHINGLE)


def jaccard(one: "NDArray[np.uint64]", other: "NDArray[np.uint64]") -> float:
    """Size of the intersection over size of the union, of two sorted arrays of distinct hashes."""
    import numpy as np

    common = np.intersect1d(one, other, assume_unique=True).size
    return float(common) / float(one.size + other.size - common)


@dataclass(frozen=True)
class Shingles:
    """The shingles of many documents. hashes: all rows one after another; offsets: where each row starts, and the end.

    About 8 bytes a word (Arabic: a character) of the corpus; no text is kept.
    """

    hashes: "NDArray[np.uint64]"
    offsets: "NDArray[np.int64]"

    def __len__(self) -> int:
        return int(self.offsets.size) - 1

    def row(self, number: int) -> "NDArray[np.uint64]":
        return self.hashes[self.offsets[number] : self.offsets[number + 1]]

    def rows(self, numbers: "NDArray[np.int64]") -> "Shingles":
        """The shingles of the given rows, in the given order."""
        import numpy as np

        sizes = np.diff(self.offsets)[numbers]
        offsets = np.concatenate(([0], np.cumsum(sizes))).astype(np.int64)
        positions = np.arange(offsets[-1]) + np.repeat(self.offsets[numbers] - offsets[:-1], sizes)
        return Shingles(self.hashes[positions], offsets)


class ShingleCollector:
    """Takes documents one at a time, so that a corpus is never in memory as text."""

    def __init__(self) -> None:
        self._hashes = array("Q")
        self._offsets = array("q", [0])

    def add(self, document: Document) -> None:
        self._hashes.frombytes(shingles_of(document).tobytes())
        self._offsets.append(len(self._hashes))

    def collected(self) -> Shingles:
        import numpy as np

        return Shingles(np.frombuffer(self._hashes, np.uint64), np.frombuffer(self._offsets, np.int64))


def collect_shingles(documents: Iterable[Document]) -> Shingles:
    collector = ShingleCollector()
    for document in documents:
        collector.add(document)
    return collector.collected()


@dataclass(frozen=True)
class Bands:
    """LSH layout: `count` bands of `rows` signature values each. recall: at the threshold it was chosen for."""

    count: int
    rows: int
    recall: float


def bands_for(threshold: float) -> Bands:
    """The layout with the longest bands (fewest false candidates) still finding MIN_RECALL of pairs at the threshold.

    A pair of Jaccard s shares a band with probability 1 - (1 - s^rows)^count (Leskovec, Rajaraman, Ullman, "Mining of
    Massive Datasets", section 3.4.2).
    """
    layouts = [
        Bands(PERMUTATIONS // rows, rows, 1 - (1 - threshold**rows) ** (PERMUTATIONS // rows)) for rows in range(1, 33)
    ]
    return next((each for each in reversed(layouts) if each.recall >= MIN_RECALL), layouts[0])


@dataclass(frozen=True)
class NearDuplicates:
    """pairs: row numbers, the lower first, ordered. A set of rows with the very same shingles counts as one row, and
    each further copy as one pair with the first of them. copies: how many pairs are such. candidates: how many others
    were compared exactly."""

    pairs: list[tuple[int, int]]
    copies: int
    candidates: int


def near_duplicates(shingles: Shingles, threshold: float) -> NearDuplicates:
    """Pairs of documents whose shingles have Jaccard >= threshold: MinHash, LSH, then every candidate exactly.

    No pair is reported that is not one. A pair at the threshold is missed with probability 1 - bands_for().recall.
    """
    distinct, copies = _without_copies(shingles)
    candidates = _candidates(_signatures(shingles, distinct), threshold)
    similar = [
        (int(distinct[one]), int(distinct[other]))
        for one, other in candidates
        if jaccard(shingles.row(int(distinct[one])), shingles.row(int(distinct[other]))) >= threshold
    ]
    return NearDuplicates(sorted(similar + copies), len(copies), len(candidates))


def _without_copies(shingles: Shingles) -> tuple["NDArray[np.int64]", list[tuple[int, int]]]:
    """The first row of each distinct shingle set, and (first, copy) for every other row."""
    import numpy as np

    first: dict[bytes, int] = {}
    copies = []
    for number in range(len(shingles)):
        digest = hashlib.blake2b(shingles.row(number).tobytes(), digest_size=16).digest()
        original = first.setdefault(digest, number)
        if original != number:
            copies.append((original, number))
    return np.fromiter(first.values(), np.int64, len(first)), copies


def _signatures(shingles: Shingles, numbers: "NDArray[np.int64]") -> "NDArray[np.uint32]":
    """(rows, PERMUTATIONS) MinHash values of the given rows."""
    import numpy as np
    from rensa import RMinHash

    signatures = np.empty((numbers.size, PERMUTATIONS), np.uint32)
    for start in range(0, numbers.size, _ROWS_PER_BLOCK):
        block = shingles.rows(numbers[start : start + _ROWS_PER_BLOCK])
        matrix = RMinHash.digest_matrix_from_flat_token_hashes(
            block.hashes, block.offsets.astype(np.uint64), PERMUTATIONS, MINHASH_SEED
        )
        signatures[start : start + len(block)] = matrix.to_rows()
    return signatures


def _candidates(signatures: "NDArray[np.uint32]", threshold: float) -> list[tuple[int, int]]:
    """Pairs of signature rows that share a band and whose signatures do not rule the threshold out; each once."""
    import numpy as np

    count = len(signatures)
    bands = bands_for(threshold)
    floor = threshold - ESTIMATE_DEVIATIONS * math.sqrt(threshold * (1 - threshold) / PERMUTATIONS)
    kept = [np.empty(0, np.int64)]
    for band in range(bands.count):
        keys = _combined(list(signatures[:, band * bands.rows : (band + 1) * bands.rows].T))
        for one, other in _pairs_with_equal_keys(keys):
            for start in range(0, one.size, _PAIRS_PER_BLOCK):
                low = np.minimum(one, other)[start : start + _PAIRS_PER_BLOCK]
                high = np.maximum(one, other)[start : start + _PAIRS_PER_BLOCK]
                estimate = (signatures[low] == signatures[high]).mean(axis=1)
                kept.append((low * count + high)[estimate >= floor])
        kept = [np.unique(np.concatenate(kept))]
    return [(int(pair) // count, int(pair) % count) for pair in kept[0]]


def _pairs_with_equal_keys(keys: "NDArray[np.uint64]") -> Iterator[tuple["NDArray[np.int64]", "NDArray[np.int64]"]]:
    """All pairs of positions with the same key, in portions of at most one pair a position."""
    import numpy as np

    order = np.argsort(keys, kind="stable")
    ordered = keys[order]
    for step in range(1, len(keys)):
        same = np.flatnonzero(ordered[step:] == ordered[:-step])
        if same.size == 0:
            return
        yield order[same], order[same + step]


def _is_arabic(text: str) -> bool:
    import numpy as np

    if text.isascii():
        return False
    points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    arabic = np.count_nonzero((points >= 0x0620) & (points <= 0x06D3))
    return bool(arabic > np.count_nonzero((points >= ord("a")) & (points <= ord("z"))))


def _code_points(text: str) -> "NDArray[np.uint64]":
    """One well-spread 64-bit number a character (the finaliser of splitmix64)."""
    import numpy as np

    mixed = (np.frombuffer(text.encode("utf-32-le"), np.uint32).astype(np.uint64) + np.uint64(1)) * np.uint64(
        _MULTIPLIER
    )
    mixed = (mixed ^ (mixed >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    mixed = (mixed ^ (mixed >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return mixed ^ (mixed >> np.uint64(31))


def _word_hashes(text: str) -> "NDArray[np.uint64]":
    import numpy as np

    words = text.split(" ")
    return np.fromiter(map(_word_hash, words), np.uint64, len(words))


@lru_cache(maxsize=1 << 18)
def _word_hash(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")


def _rolled(units: "NDArray[np.uint64]", size: int) -> "NDArray[np.uint64]":
    """Polynomial hash (modulo 2^64) of every run of `size` units, or of all units when there are fewer; distinct."""
    import numpy as np

    width = min(size, units.size)
    count = units.size - width + 1
    rolled = _combined([units[start : start + count] for start in range(width)])
    rolled.sort()
    is_first = np.ones(rolled.size, np.bool_)
    is_first[1:] = rolled[1:] != rolled[:-1]
    return rolled[is_first]


def _combined(columns: Sequence["NDArray[np.unsignedinteger]"]) -> "NDArray[np.uint64]":
    """One hash for each position from the values that the columns have there, their order included."""
    import numpy as np

    combined = np.full(columns[0].size, len(columns) + 1, np.uint64)
    for column in columns:
        combined *= np.uint64(_MULTIPLIER)
        combined += column
    return combined
