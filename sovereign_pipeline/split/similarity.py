"""The definition of similarity: how a document becomes a set of shingles, which are compared by Jaccard similarity.

What belongs here: the definition. What does not: the shingles of a whole corpus (`shingles.py`), finding pairs in it
(`near_duplicates.py`) and the exhaustive check across the two sides (`crossing.py`).
"""

import hashlib
import re
import unicodedata
from collections.abc import Sequence
from functools import lru_cache
from typing import TYPE_CHECKING

from sovereign_pipeline.corpus.document import Document

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

# Word 5-shingles as in Lee et al. 2022, "Deduplicating Training Data Makes Language Models Better", section 4.2. Arabic
# carries articles, prepositions and pronouns on the word, so one changed affix would break five word shingles; it is
# cut into runs of 9 characters (Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", section 3.2.2).
WORDS_PER_SHINGLE = 5
CHARACTERS_PER_SHINGLE = 9

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
    text = without_placeholder_numbers(unicodedata.normalize("NFKC", text)).lower()
    if _FOLDABLE.search(text):
        text = text.translate(_FOLDED)
    return " ".join(_WORD.findall(text))


def without_placeholder_numbers(text: str) -> str:
    """The text with `NAME_3` as ` NAME `."""
    return PLACEHOLDER.sub(r" \1 ", text)


def shingles_of(document: Document) -> "NDArray[np.uint64]":
    """Sorted distinct 64-bit hashes of the document's shingles; never empty.

    Words are taken unless the text has more Arabic than Latin letters. A text shorter than one shingle is one shingle.
    """
    text = normal_form(document)
    if _is_arabic(text):
        return _rolled(_code_points(text), CHARACTERS_PER_SHINGLE)
    return _rolled(_word_hashes(text), WORDS_PER_SHINGLE)


def mixed(values: "NDArray[np.uint64]") -> "NDArray[np.uint64]":
    """Well-spread 64-bit numbers from any (splitmix64: Steele et al. 2014); different ones stay different."""
    import numpy as np

    result = (values + np.uint64(1)) * np.uint64(_MULTIPLIER)
    result = (result ^ (result >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    result = (result ^ (result >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return result ^ (result >> np.uint64(31))


def _is_arabic(text: str) -> bool:
    import numpy as np

    if text.isascii():
        return False
    points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    arabic = np.count_nonzero((points >= 0x0620) & (points <= 0x06D3))
    return bool(arabic > np.count_nonzero((points >= ord("a")) & (points <= ord("z"))))


def _code_points(text: str) -> "NDArray[np.uint64]":
    """One well-spread 64-bit number a character."""
    import numpy as np

    return mixed(np.frombuffer(text.encode("utf-32-le"), np.uint32).astype(np.uint64))


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

    hashes = np.full(columns[0].size, len(columns) + 1, np.uint64)
    for column in columns:
        hashes *= np.uint64(_MULTIPLIER)
        hashes += column
    return hashes
