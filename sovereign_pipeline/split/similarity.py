"""The definition of similarity: how a document becomes a set of shingles, which are compared by Jaccard similarity.

What belongs here: the definition. What does not: the shingles of a whole corpus (`shingles.py`), finding pairs in it
(`near_duplicates.py`) and the exhaustive check across the two sides (`crossing.py`).
"""

import hashlib
import html
import re
from collections.abc import Sequence
from functools import lru_cache
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from sovereign_pipeline.base.text import compared_as
from sovereign_pipeline.corpus.document import Document
from sovereign_pipeline.privacy.normalisation import decoded

# Word 5-shingles as in Lee et al. 2022, "Deduplicating Training Data Makes Language Models Better", section 4.2. Arabic
# carries articles, prepositions and pronouns on the word, so one changed affix would break five word shingles; it is
# cut into runs of 9 characters (Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", section 3.2.2).
WORDS_PER_SHINGLE = 5
CHARACTERS_PER_SHINGLE = 9

PLACEHOLDER = re.compile(r"(?<![A-Za-z0-9_])([A-Z][A-Z_]*)_\d+(?![A-Za-z0-9_])")
_WORD = re.compile(r"\w+")


class _Compared(dict[int, str | None]):
    """For `str.translate`: what each character is compared as, found out when it is met first."""

    def __missing__(self, point: int) -> str | None:
        # None, not "": with it Python translates a text in ASCII without a look at each character.
        self[point] = compared_as(chr(point)) or None
        return self[point]


_COMPARED = _Compared()

_MULTIPLIER = 0x9E3779B97F4A7C15  # odd, the 64-bit golden ratio of splitmix64 (Steele et al. 2014)


def normal_form(document: Document) -> str:
    """Request and response as they are compared (see `normal_text`)."""
    return f"{normal_text(document.request)} {normal_text(document.response)}".strip()


# The texts of one document are asked for several times, one after another.
@lru_cache(maxsize=16)
def normal_text(text: str) -> str:
    """Words alone, one space between, in lower case, and placeholders without numbers.

    Characters are read as what they are encoded as (entities, percent-encoding, escapes), and each as what it is
    compared as (`compared_as`): what is not seen is gone, and what looks the same, or is a spelling of one Arabic
    letter, is the same. `_` is a space. `NAME_3` becomes `name`, because the same letter in two case files has its
    placeholders numbered differently.
    """
    if "%" in text or "&" in text or "\\" in text or "<" in text or "=" in text:
        text = unquote(html.unescape(decoded(text)[0]))
    text = without_placeholder_numbers(text.translate(_COMPARED)).lower().replace("_", " ")
    return " ".join(_WORD.findall(text))


def without_placeholder_numbers(text: str) -> str:
    """The text with `NAME_3` as ` NAME `."""
    return PLACEHOLDER.sub(r" \1 ", text) if "_" in text else text


def shingles_of(document: Document) -> NDArray[np.uint64]:
    """Sorted distinct 64-bit hashes of the document's shingles; never empty.

    Words are taken unless the text has more Arabic than Latin letters. A text shorter than one shingle is one shingle.
    """
    (found,) = shingles_of_normal_forms([normal_form(document)])
    return found


def shingles_of_normal_forms(texts: Sequence[str]) -> list[NDArray[np.uint64]]:
    """`shingles_of` documents with these normal forms."""
    found = word_shingles(texts)
    for number, text in enumerate(texts):
        if _is_arabic(text):
            found[number] = _rolled(_code_points(text), CHARACTERS_PER_SHINGLE)
        elif not found[number].size:
            words = text.split(" ")
            found[number] = _rolled(_word_hashes(words), len(words))
    return found


def word_shingles(texts: Sequence[str]) -> list[NDArray[np.uint64]]:
    """Sorted distinct 64-bit hashes of the runs of words of each text in normal form, whatever its script; none where
    it has fewer words than a run.

    By words in both scripts, so that an Arabic letter has the same shingles within an English one. All texts at once,
    which takes a third of the time.
    """
    words = " ".join(texts).split(" ")
    lengths = np.array([text.count(" ") + 1 for text in texts], np.int64)
    counts = np.maximum(lengths - WORDS_PER_SHINGLE + 1, 0)
    if not counts.sum():
        return [np.empty(0, np.uint64) for _ in texts]
    starts = np.repeat(np.cumsum(lengths) - lengths - (np.cumsum(counts) - counts), counts)
    hashes = _runs(_word_hashes(words), WORDS_PER_SHINGLE)[starts + np.arange(counts.sum())]
    rows = np.split(hashes, np.cumsum(counts)[:-1])
    for row in rows:
        row.sort()  # a view of `hashes`
    is_first = np.ones(hashes.size, np.bool_)
    is_first[1:] = hashes[1:] != hashes[:-1]
    ends = np.cumsum(counts)
    is_first[(ends - counts)[counts > 0]] = True
    kept = np.append(0, np.cumsum(is_first))[ends]
    return np.split(hashes[is_first], kept[:-1])


def mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Well-spread 64-bit numbers from any (splitmix64: Steele et al. 2014); different ones stay different."""
    result = (values + np.uint64(1)) * np.uint64(_MULTIPLIER)
    result = (result ^ (result >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    result = (result ^ (result >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return result ^ (result >> np.uint64(31))


def _is_arabic(text: str) -> bool:
    if text.isascii():
        return False
    points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    arabic = np.count_nonzero((points >= 0x0620) & (points <= 0x06D3))
    return bool(arabic > np.count_nonzero((points >= ord("a")) & (points <= ord("z"))))


def _code_points(text: str) -> NDArray[np.uint64]:
    """One well-spread 64-bit number a character."""
    return mixed(np.frombuffer(text.encode("utf-32-le"), np.uint32).astype(np.uint64))


def _word_hashes(words: Sequence[str]) -> NDArray[np.uint64]:
    numbers = {word: number for number, word in enumerate(dict.fromkeys(words))}
    hashes = np.fromiter(map(_word_hash, numbers), np.uint64, len(numbers))
    return hashes[np.fromiter(map(numbers.__getitem__, words), np.int64, len(words))]


@lru_cache(maxsize=1 << 18)
def _word_hash(word: str) -> int:
    return int.from_bytes(hashlib.blake2b(word.encode(), digest_size=8).digest(), "little")


def _rolled(units: NDArray[np.uint64], size: int) -> NDArray[np.uint64]:
    """Polynomial hash (modulo 2^64) of every run of `size` units, or of all units when there are fewer; distinct."""
    rolled = _runs(units, min(size, units.size))
    rolled.sort()
    is_first = np.ones(rolled.size, np.bool_)
    is_first[1:] = rolled[1:] != rolled[:-1]
    return rolled[is_first]


def _runs(units: NDArray[np.uint64], size: int) -> NDArray[np.uint64]:
    """The hash of every run of `size` units, in their order."""
    count = units.size - size + 1
    return _combined([units[start : start + count] for start in range(size)])


def _combined(columns: Sequence[NDArray[np.unsignedinteger]]) -> NDArray[np.uint64]:
    """One hash for each position from the values that the columns have there, their order included."""
    hashes = np.full(columns[0].size, len(columns) + 1, np.uint64)
    for column in columns:
        hashes *= np.uint64(_MULTIPLIER)
        hashes += column
    return hashes


def _spaced(phrases: str) -> str:
    """For a verbose expression, where a bare space means nothing."""
    return phrases.replace(" ", r"[ ]")


_QUOTE_MARK = re.compile(r"^[ \t]*((?:>[ \t]?)+)", re.MULTILINE)

_FORWARDED = _spaced(
    r"original message|forwarded message|begin forwarded message|forwarded by|"
    r"الرسالة الأصلية|رسالة أصلية|النص الأصلي|الرسالة المعاد توجيهها|رسالة معاد توجيهها|رسالة مُعاد توجيهها|"
    r"رسالة محولة|رسالة مُحوّلة|الرسالة المحولة|بدء الرسالة"
)
_LABEL = _spaced(
    r"(?:from|sent|date|to|cc|subject|"
    r"من|المرسل|أرسلت|أُرسلت|أرسل|تاريخ الإرسال|تم الإرسال|التاريخ|إلى|الى|المرسل إليه|نسخة|نسخة إلى|الموضوع)"
)
_BOUNDARIES = re.compile(
    rf"""
      [-_=*]{{3,}} [ \t]* (?:{_FORWARDED}) [^\n]*                     # -----Original Message-----
    | ^ [ \t]* (?:{_FORWARDED}) [^\n]{{0,80}} : [ \t]* $              # Begin forwarded message:
    | ^ [ \t]* [_-]{{10,}} [ \t]* $                                   # the line that Outlook draws
    | (?: ^ [ \t*>]* {_LABEL} [ \t*]* : [^\n]* \n? ){{2,}}             # From: … / Sent: … / Subject: …
    | \b (?:from|من|المرسل) [ \t]* : [^\n]{{1,120}}?
      \b (?:sent|date|to|أرسلت|أرسل|التاريخ|تاريخ[ ]الإرسال|إلى|الى) [ \t]* : [^\n]{{1,120}}?
      \b (?:subject|الموضوع) [ \t]* :                                 # the same in one line
    | ^ [ \t]* on \b [^\n]{{1,200}} (?: \n [^\n]{{0,200}} )?? \b wrote [ \t]* :   # On 4 May 2024, A wrote:
    | ^ [ \t]* (?:في|بتاريخ|يوم) \b [^\n]{{1,200}} (?: \n [^\n]{{0,200}} )??
      \b كتبت? \b [^\n]{{0,120}} (?: \n [^\n]{{0,80}} )?? :
    | ^ [ \t]* (?:و|وقد[ ]|وكان[ ]قد[ ])? كتبت? \b [^\n]{{1,160}} : [ \t]* $
    """,
    re.IGNORECASE | re.MULTILINE | re.VERBOSE,
)


def blocks_of(text: str) -> list[str]:
    """The text's own part and what it quotes, each a block; the text alone when it quotes nothing.

    A block ends where a mark of a quoted or forwarded letter stands. The lines of one depth of `>` are one block, also
    where an answer stands between them.
    """
    if not (":" in text or ">" in text or "---" in text or "___" in text):
        return [text]
    blocks: list[str] = []
    for piece in _BOUNDARIES.split(text):
        by_depth: dict[int, list[str]] = {}
        for line in piece.split("\n"):
            mark = _QUOTE_MARK.match(line)
            depth = mark.group(1).count(">") if mark else 0
            by_depth.setdefault(depth, []).append(line[mark.end() :] if mark else line)
        blocks += ["\n".join(lines) for lines in by_depth.values()]
    return [block for block in blocks if block.strip()]
