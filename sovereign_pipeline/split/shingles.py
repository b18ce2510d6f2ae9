"""Convert texts to shingles, store them in a file, order them by rarity, and compute the Jaccard similarity of many
pairs."""

import hashlib
import html
import itertools
import re
import tempfile
from collections.abc import Iterable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import numpy as np
from numpy.typing import NDArray

from sovereign_pipeline.base.text import COMPARED
from sovereign_pipeline.corpus.document import Document, Message, strings_in
from sovereign_pipeline.corpus.threads import QUOTE_HEAD, QUOTE_MARK
from sovereign_pipeline.privacy.normalisation import decoded

# Word 5-shingles as in Lee et al. 2022, "Deduplicating Training Data Makes Language Models Better", section 4.2. Arabic
# attaches articles, prepositions and pronouns to words, so one changed affix would break five word shingles. Arabic
# texts are therefore cut into runs of 9 characters (Leskovec, Rajaraman, Ullman, "Mining of Massive Datasets", 3.2.2).
WORDS_PER_SHINGLE = 5
CHARACTERS_PER_SHINGLE = 9
PLACEHOLDER = re.compile(r"(?<![A-Za-z0-9_])([A-Z][A-Z_]*)_\d+(?![A-Za-z0-9_])")
SHORT_WORDS = 24
"""Minimum number of words at which equal texts always tie their documents. A shorter text that is in many documents is
a standard phrase."""
SKETCH = 256
"""Number of smallest digests that represent a set of texts (bottom-k: Cohen and Kaplan 2007, "Summarizing Data using
Bottom-k Sketches"). If two sets share 3 % of their texts, they have at least one of these digests in common with a
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
    character. `_` becomes a space. `NAME_3` becomes `name`, because a copy of a document in another case file may have
    other numbers.
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
    """Return the texts of at least SHORT_WORDS words, such as a letter to send, in the arguments of a message's
    calls."""
    texts = strings_in([call.arguments for call in message.tool_calls], with_keys=True)
    return [each for each in texts if normal_text(each).count(" ") + 1 >= SHORT_WORDS]


def blocks_of(text: str) -> list[str]:
    """Split a text into its own part and the texts that it quotes or forwards, in English and Arabic.

    Lines with the same number of `>` form one block, even if an answer is between them. Callers also compare the whole
    text. Therefore, an undetected quotation can hide only a part of a document in a much longer text.
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
    """Return the letters and digits of a normalised text, without spaces, each hashed to 8 bits."""
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
    among a million values, ties documents needlessly. A collision never removes a tie."""
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
    """Return True if, judged by the smallest digests of two sets of texts (`least_digests`), at least half of the first
    set is in the second set."""
    comparable = [each for each in texts if len(whole) < SKETCH or each <= whole[-1]]
    return 0 < len(comparable) <= 2 * len(set(comparable).intersection(whole))


ROWS_PER_BLOCK = 4_096
_SHINGLES_PER_BLOCK = 1 << 21
_SHINGLES_PER_PART = 1 << 24
_MOST_READ_IN_VAIN = 4
"""Maximum number of unneeded hashes that are read for each needed hash. Rows that are further apart are read one by
one."""
SLOTS = 1 << 26
_LEVELS_PER_OCTAVE = 9
HASH_BITS = 44
TOKEN_BITS = 52


@dataclass(frozen=True)
class Block:
    """The shingles of some rows in memory."""

    values: NDArray[np.uint64]
    """Shingles of all rows, concatenated."""
    sizes: NDArray[np.int64]
    """Number of values of each row."""

    @property
    def rows(self) -> NDArray[np.int64]:
        """Return, for each value, the number of its row within the block."""
        return np.repeat(np.arange(self.sizes.size), self.sizes)

    @property
    def starts(self) -> NDArray[np.int64]:
        return np.cumsum(self.sizes) - self.sizes

    def by_row(self) -> list[NDArray[np.uint64]]:
        return np.split(self.values, self.starts[1:])


@dataclass(frozen=True)
class Shingles:
    """The shingles of many documents, without text, in a file. The file has about 8 bytes for each word, or for each
    character of an Arabic text. Only rows that are being read are in memory."""

    path: Path
    sizes_in_file: NDArray[np.int64]
    """Number of hashes of each row of the file."""
    starts_in_file: NDArray[np.int64]
    """Start of each row of the file, in hashes."""
    kind: type[np.unsignedinteger[Any]] = np.uint64
    numbers: NDArray[np.int64] | None = None
    """Rows of the file that belong to this subset; None for all."""

    @staticmethod
    def of(path: Path, sizes: NDArray[np.int64], kind: type[np.unsignedinteger[Any]] = np.uint64) -> "Shingles":
        """Return the shingles in a file. `sizes`: number of hashes of each row in the file."""
        return Shingles(path, sizes, np.cumsum(sizes) - sizes, kind)

    def __len__(self) -> int:
        return int((self.sizes_in_file if self.numbers is None else self.numbers).size)

    @property
    def sizes(self) -> NDArray[np.int64]:
        """Return the number of hashes of each row."""
        return self.sizes_in_file if self.numbers is None else self.sizes_in_file[self.numbers]

    def sizes_of(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return self.sizes_in_file[self._in_file(rows)]

    def subset(self, rows: NDArray[np.int64]) -> "Shingles":
        return replace(self, numbers=self._in_file(rows))

    def read(self, rows: NDArray[np.int64]) -> Block:
        """Return the shingles of the given rows, in the given order."""
        rows = self._in_file(rows)
        starts, sizes = self.starts_in_file[rows], self.sizes_in_file[rows]
        total = int(sizes.sum())
        if total == 0:
            return Block(np.empty(0, self.kind), sizes)
        gaps = np.diff(starts + sizes, prepend=starts[0]) - sizes
        between = int(gaps.sum())
        if gaps.min() >= 0 and between <= _MOST_READ_IN_VAIN * total:
            found = np.fromfile(self.path, self.kind, total + between, offset=int(starts[0]) * self.kind().itemsize)
            if between:
                is_wanted = np.tile([False, True], rows.size)
                found = found[np.repeat(is_wanted, np.column_stack((gaps, sizes)).ravel())]
            return Block(found, sizes)
        positions = np.repeat(starts - (np.cumsum(sizes) - sizes), sizes)
        positions += np.arange(total)
        return Block(np.array(np.memmap(self.path, self.kind, "r")[positions]), sizes)

    def blocks(self) -> Iterator[NDArray[np.int64]]:
        """Yield the numbers of all rows, in runs of at most ROWS_PER_BLOCK rows that fit into memory."""
        return runs_of_about(self.sizes, _SHINGLES_PER_BLOCK, ROWS_PER_BLOCK)

    def _in_file(self, rows: NDArray[np.int64]) -> NDArray[np.int64]:
        return rows if self.numbers is None else self.numbers[rows]


def runs_of_about(sizes: NDArray[np.int64], total: int, rows: int) -> Iterator[NDArray[np.int64]]:
    """Yield the positions 0, 1, … in successive groups. The sizes in each group sum to about `total`, and a group has
    at most `rows` positions."""
    before = np.cumsum(sizes) - sizes
    cuts = [*np.flatnonzero(np.diff(before // total, prepend=-1)).tolist(), sizes.size]
    for first, end in itertools.pairwise(cuts):
        for start in range(first, end, rows):
            yield np.arange(start, min(start + rows, end))


def jaccard_of_pairs(
    left: Shingles, right: Shingles, one: NDArray[np.int64], other: NDArray[np.int64]
) -> NDArray[np.float64]:
    """Return the Jaccard similarity of each pair (row of `left`, row of `right`), computed from all shingles of both
    rows."""
    common = np.empty(one.size, np.int64)
    for pairs in runs_of_about(left.sizes_of(one) + right.sizes_of(other), _SHINGLES_PER_BLOCK, one.size):
        mine, theirs = left.read(one[pairs]).by_row(), right.read(other[pairs]).by_row()
        for pair, row, match in zip(pairs.tolist(), mine, theirs, strict=True):
            both = np.sort(np.concatenate((row, match)))
            common[pair] = np.count_nonzero(both[1:] == both[:-1])
    return common / (left.sizes_of(one) + right.sizes_of(other) - common)


@dataclass(frozen=True)
class Rarity:
    """An order of all shingles, the rarest first. The search for near-duplicates and the exhaustive check are correct
    with any order, but are fast only if common shingles come last."""

    levels: NDArray[np.uint8]
    """For each slot of a hash table, the scaled logarithm of the count of the slot's most common shingle; 0 if no
    shingle of the slot repeats."""

    @staticmethod
    def of(scratch: Path, *sides: Shingles) -> "Rarity":
        """Return the order that results from counting the shingles in all rows of the sides. `scratch`: directory for
        the shingles while they are sorted."""
        levels = np.zeros(SLOTS, np.uint8)
        for hashes, counts in repeated_shingles(scratch, *sides):
            # The commonest shingle of a slot is written last, so its count stays.
            order = np.argsort(counts)
            slots = slots_of(hashes[order])
            level = (np.log2(counts[order]) * _LEVELS_PER_OCTAVE).astype(np.uint8)
            levels[slots] = np.maximum(levels[slots], level)
        return Rarity(levels)

    def rarest_first(self, block: Block) -> Block:
        """Return the same rows with a token of TOKEN_BITS bits in place of each shingle. The tokens of a row are in
        ascending order, so that the rarest shingle is first.

        A token consists of the shingle's level and 44 bits of its hash. Different shingles with the same token make the
        search slower. No pair is missed, because equal shingles have equal tokens.
        """
        assert block.sizes.size <= ROWS_PER_BLOCK
        tokens = block.values >> np.uint64(64 - HASH_BITS)
        tokens |= self.levels[slots_of(block.values)].astype(np.uint64) << np.uint64(HASH_BITS)
        row = block.rows.astype(np.uint64) << np.uint64(TOKEN_BITS)
        return Block(np.sort(row | tokens) & np.uint64((1 << TOKEN_BITS) - 1), block.sizes)


def repeated_shingles(scratch: Path, *sides: Shingles) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.int64]]]:
    """Yield, in portions, every shingle that is in more than one row of the sides, with the number of these rows.
    `scratch`: directory for the shingles while they are sorted."""
    with cut_into_parts(_hashes_of(sides), parts_for(*sides), scratch) as paths:
        for path in paths:
            hashes = np.sort(np.fromfile(path, np.uint64))
            first = np.flatnonzero(np.diff(hashes, prepend=~hashes[:1]))
            counts = np.diff(first, append=hashes.size)
            repeated = np.flatnonzero(counts > 1)
            yield hashes[first[repeated]], counts[repeated]


def parts_for(*sides: Shingles) -> int:
    """Return into how many parts `cut_into_parts` must divide records so that each part fits into memory. There is at
    most one record for each shingle of the sides."""
    return 1 + sum(int(side.sizes.sum()) for side in sides) // _SHINGLES_PER_PART


@contextmanager
def cut_into_parts(
    blocks: Iterable[tuple[NDArray[Any], NDArray[np.uint64]]], parts: int, scratch: Path
) -> Iterator[list[Path]]:
    """Divide records into parts, write each part to a file below `scratch`, and yield the files' paths. The files are
    deleted on exit. `blocks`: pairs of arrays: records, and for each record a number of HASH_BITS bits. Records with
    equal numbers are written to the same part."""
    with tempfile.TemporaryDirectory(dir=scratch) as directory, ExitStack() as opened:
        paths = [Path(directory) / f"{part}" for part in range(parts)]
        files = [opened.enter_context(path.open("wb")) for path in paths]
        for records, numbers in blocks:
            part_of = ((numbers * np.uint64(parts)) >> np.uint64(HASH_BITS)).astype(np.uint16)
            order = np.argsort(part_of, kind="stable")  # by radix
            ends = np.cumsum(np.bincount(part_of, minlength=parts))
            for file, of_part in zip(files, np.split(records[order], ends[:-1]), strict=True):
                of_part.tofile(file)
        opened.close()
        yield paths


def _hashes_of(sides: Sequence[Shingles]) -> Iterator[tuple[NDArray[np.uint64], NDArray[np.uint64]]]:
    for side in sides:
        for rows in side.blocks():
            hashes = side.read(rows).values
            yield hashes, hashes >> np.uint64(64 - HASH_BITS)


def slots_of(hashes: NDArray[np.uint64], slots: int = SLOTS) -> NDArray[np.int64]:
    """Return the slot of each hash in a hash table. `slots`: size of the table, a power of two."""
    return (hashes & np.uint64(slots - 1)).view(np.int64)


def are_among(values: NDArray[Any], known: NDArray[Any]) -> NDArray[np.bool_]:
    """Return a mask of the values that are in the sorted array `known`."""
    if not known.size:
        return np.zeros(values.size, np.bool_)
    found: NDArray[np.bool_] = known[np.minimum(np.searchsorted(known, values), known.size - 1)] == values
    return found
