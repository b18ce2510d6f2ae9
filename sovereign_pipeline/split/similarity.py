"""Convert a text to its comparison form: normalised words, quoted blocks, and shingles."""

import hashlib
import html
import re
from collections.abc import Iterable, Sequence
from functools import lru_cache
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from sovereign_pipeline.base.text import COMPARED
from sovereign_pipeline.corpus.document import Document, Message, strings_in
from sovereign_pipeline.corpus.quotes import QUOTE_HEAD, QUOTE_MARK
from sovereign_pipeline.privacy.normalisation import decoded

# Word 5-shingles as in Lee et al. 2022, "Deduplicating Training Data Makes Language Models Better", section 4.2. Arabic
# attaches articles, prepositions and pronouns to words, so one changed affix would break five word shingles. Arabic
# texts are therefore cut into runs of 9 characters (Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", 3.2.2).
WORDS_PER_SHINGLE = 5
CHARACTERS_PER_SHINGLE = 9
PLACEHOLDER = re.compile(r"(?<![A-Za-z0-9_])([A-Z][A-Z_]*)_\d+(?![A-Za-z0-9_])")
SHORT_WORDS = 24
"""Number of words from which equal texts always tie their documents. A shorter text that is in many documents is a
standard phrase."""
SKETCH = 256
"""Number of smallest digests that represent a set of texts (bottom-k: Cohen and Kaplan 2007, "Summarizing Data using
Bottom-k Sketches"). If two sets share 3 % of their texts, their smallest digests have at least one in common with a
probability of 99.9 %."""
_WORD = re.compile(r"\w+")
_DIVIDED = re.compile(r"(?<=\w)[-\u00ad\u2010]\r?\n[ \t>]*(?=\w)")
_MULTIPLIER = 0x9E3779B97F4A7C15  # odd, the 64-bit golden ratio of splitmix64 (Steele et al. 2014)


# Callers normalise the texts of one document several times in a row.
@lru_cache(maxsize=16)
def normal_text(text: str) -> str:
    """Return the words of a text in lower case, separated by single spaces. Placeholders lose their numbers.

    Decodes HTML entities, percent-encoding and escapes, and joins a word that a hyphen divides at a line end.
    `compared_as` then drops invisible characters and maps confusables, and the spellings of one Arabic letter, to one
    character. `_` becomes a space. `NAME_3` becomes `name`, because the same document has other numbers in another case
    file.
    """
    if "%" in text or "&" in text or "\\" in text or "<" in text or "=" in text:
        text = unquote(html.unescape(decoded(text)[0]))
    if "\n" in text:
        text = _DIVIDED.sub("", text)
    text = without_placeholder_numbers(text.translate(COMPARED)).lower().replace("_", " ")
    return " ".join(_WORD.findall(text))


def without_placeholder_numbers(text: str) -> str:
    """Return the text with ` NAME ` instead of `NAME_3`."""
    return PLACEHOLDER.sub(r" \1 ", text) if "_" in text else text


def normal_form(document: Document) -> str:
    """Return request and response in normal form (see `normal_text`)."""
    return " ".join(filter(None, map(normal_text, written_in(document))))


def written_in(document: Document) -> list[str]:
    """Return the request and response of a letter. For a conversation, return the texts of users and assistants, and
    the long arguments of calls. System messages, other arguments and results of tools are left out, because many
    conversations share them."""
    if document.is_letter:
        return [document.request, document.response]
    turns = [each for each in document.messages if each.role in ("user", "assistant")]
    return [text for each in turns for text in (each.content, *long_arguments(each))]


def long_arguments(message: Message) -> list[str]:
    """Return those texts in the arguments of a message's calls that have at least SHORT_WORDS words, such as a letter
    to send."""
    texts = strings_in([call.arguments for call in message.tool_calls], with_keys=True)
    return [each for each in texts if normal_text(each).count(" ") + 1 >= SHORT_WORDS]


def blocks_of(text: str) -> list[str]:
    """Split a text into its own part and the texts that it quotes or forwards, in English and Arabic.

    Lines with the same number of `>` form one block, even if an answer is between them. Callers also compare the whole
    text. If a quotation is not detected, they can therefore only miss a part of a document inside a much longer text.
    """
    if not (":" in text or ">" in text or "---" in text or "___" in text):
        return [text]
    blocks: list[str] = []
    for piece in QUOTE_HEAD.split(text):
        by_depth: dict[int, list[str]] = {}
        for line in piece.split("\n"):
            mark = QUOTE_MARK.match(line)
            depth = mark.group(1).count(">") if mark else 0
            by_depth.setdefault(depth, []).append(line[mark.end() :] if mark else line)
        blocks += ["\n".join(lines) for lines in by_depth.values()]
    return [block for block in blocks if block.strip()]


def shingles_of_normal_forms(texts: Sequence[str]) -> list[NDArray[np.uint64]]:
    """Return sorted distinct 64-bit hashes of the shingles of each normalised text; never empty.

    Shingles are runs of words, or of characters if the text has more Arabic than Latin letters. A text shorter than one
    shingle is one shingle.
    """
    found = word_shingles(texts)
    for number, text in enumerate(texts):
        if _is_arabic(text):
            found[number] = _rolled(_code_points(text), CHARACTERS_PER_SHINGLE)
        elif not found[number].size:
            words = text.split(" ")
            found[number] = _rolled(_word_hashes(words), len(words))
    return found


def word_shingles(texts: Sequence[str]) -> list[NDArray[np.uint64]]:
    """Return sorted distinct 64-bit hashes of the word runs of each normalised text, in any script; none if the text is
    shorter than a run.

    Runs consist of words in every script, so that an Arabic text has the same shingles when it is inside an English
    text. Hashing all texts at once takes a third of the time.
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


def letters_of(text: str) -> NDArray[np.uint8]:
    """Return the letters and digits of a normalised text, without spaces, as 8-bit numbers."""
    points = np.frombuffer(text.replace(" ", "").encode("utf-32-le"), np.uint32)
    return (points * np.uint32(0x9E3779B1) >> np.uint32(24)).astype(np.uint8)


def mixed(values: NDArray[np.uint64]) -> NDArray[np.uint64]:
    """Return uniformly distributed 64-bit numbers (splitmix64: Steele et al. 2014). Different numbers stay
    different."""
    result = (values + np.uint64(1)) * np.uint64(_MULTIPLIER)
    result = (result ^ (result >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    result = (result ^ (result >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    return result ^ (result >> np.uint64(31))


def key_of(value: str) -> int:
    """Hash a word, a text, a case file, an author or an id to 64 bits. A collision, with a chance of one in 37 million
    among a million values, ties documents needlessly. It never breaks a tie."""
    return int.from_bytes(hashlib.blake2b(value.encode(), digest_size=8).digest(), "little")


_word_hash = lru_cache(maxsize=1 << 18)(key_of)


def _is_arabic(text: str) -> bool:
    if text.isascii():
        return False
    points = np.frombuffer(text.encode("utf-32-le"), np.uint32)
    arabic = np.count_nonzero((points >= 0x0620) & (points <= 0x06D3))
    return bool(arabic > np.count_nonzero((points >= ord("a")) & (points <= ord("z"))))


def _code_points(text: str) -> NDArray[np.uint64]:
    """Return one uniformly distributed 64-bit number per character."""
    return mixed(np.frombuffer(text.encode("utf-32-le"), np.uint32).astype(np.uint64))


def _word_hashes(words: Sequence[str]) -> NDArray[np.uint64]:
    numbers = {word: number for number, word in enumerate(dict.fromkeys(words))}
    hashes = np.fromiter(map(_word_hash, numbers), np.uint64, len(numbers))
    return hashes[np.fromiter(map(numbers.__getitem__, words), np.int64, len(words))]


def _rolled(units: NDArray[np.uint64], size: int) -> NDArray[np.uint64]:
    """Return the distinct polynomial hashes (modulo 2^64) of all runs of `size` units. If there are fewer units, return
    the hash of all units."""
    rolled = _runs(units, min(size, units.size))
    rolled.sort()
    is_first = np.ones(rolled.size, np.bool_)
    is_first[1:] = rolled[1:] != rolled[:-1]
    return rolled[is_first]


def _runs(units: NDArray[np.uint64], size: int) -> NDArray[np.uint64]:
    """Return the hash of every run of `size` units, in order."""
    count = units.size - size + 1
    hashes = np.full(count, size + 1, np.uint64)
    for start in range(size):
        hashes *= np.uint64(_MULTIPLIER)
        hashes += units[start : start + count]
    return hashes


def least_digests(texts: Iterable[str]) -> list[str]:
    """Return the SKETCH smallest digests of a set of texts, in ascending order."""
    return sorted({hashlib.sha256(each.encode()).hexdigest()[:16] for each in texts})[:SKETCH]


def is_mostly_in(texts: Sequence[str], whole: Sequence[str]) -> bool:
    """Return True if at least half of a set of texts is in another set. The smallest digests of both sets show this."""
    comparable = [each for each in texts if len(whole) < SKETCH or each <= whole[-1]]
    return 0 < len(comparable) <= 2 * len(set(comparable).intersection(whole))
