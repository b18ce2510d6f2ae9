"""Find texts that are contained in other texts: within one corpus by shared shingles, and between the two sides of a
split exhaustively."""

import json
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
from numpy.typing import NDArray

from sovereign_pipeline.corpus.document import Document
from sovereign_pipeline.split.shingles import (
    SHORT_WORDS,
    SLOTS,
    Shingles,
    are_among,
    blocks_of,
    key_of,
    letters_of,
    long_arguments,
    normal_form,
    normal_text,
    repeated_shingles,
    runs_of_about,
    slots_of,
    word_shingles,
)

if TYPE_CHECKING:
    from scipy.sparse import csr_array


FIELDS = ("request", "response", "rejected", "letter", "context")
"""Fields with texts. `request`: the subject and the texts of users. `response`: texts of assistants, including long
arguments of calls. `letter`: a short request with its short reply, or a conversation without its context. `context`:
texts of systems and tools, and calls without their long arguments. Contexts are not compared with each other, because
all conversations may have the same context."""
_CONTEXT = FIELDS.index("context")
LEAST_WORDS = 8
"""Minimum number of words of a compared text. A shorter text, such as a salutation, is ignored."""
BOILERPLATE_TEXTS = 20
"""Number of texts above which a shingle is boilerplate, such as a shingle of a greeting or of a paragraph of a law.
Copies of a long text count as one text, so that copies of a document do not become boilerplate."""
LEAST_IN_COMMON = 6
"""Minimum number of shingles that two texts must share. Ten consecutive words have this number of shingles. A text with
fewer shingles must be contained completely."""
LEAST_SHINGLES = 4
"""Minimum number of shingles, not counting boilerplate, of a compared text."""
MOSTLY = 0.75
"""Minimum share of a long text's shingles that must be boilerplate for the text to count as boilerplate."""
_LONG = 20
"""Number of shingles in a text of 24 words."""
_MOST_SLOTS = 1 << 30
_TEXTS_AT_ONCE = 1 << 14
_TEXTS_PER_BLOCK = 1 << 14
_PAIRS_PER_BLOCK = 1 << 22


@dataclass(frozen=True)
class Text:
    """A text in normal form (`normal_text`)."""

    field: str
    words: str
    is_repeated: bool = False
    """True if another text of the same document contains these words."""


def texts_of(document: Document) -> list[Text]:
    """Return all texts of a document with enough words to be compared."""
    if not document.is_letter:
        return _texts_of_conversation(document)
    request, response = normal_text(document.request), normal_text(document.response)
    is_short = max(_words(request), _words(response)) < SHORT_WORDS
    texts = [
        *texts_in("request", document.subject),
        *texts_in("request", document.request, is_repeated=is_short),
        *texts_in("response", document.response, is_repeated=is_short),
        *texts_in("rejected", document.rejected or ""),
    ]
    whole = f"{request} {response}".strip()
    if is_short and _words(whole) >= LEAST_WORDS:
        texts.append(Text("letter", whole))
    return texts


def _texts_of_conversation(document: Document) -> list[Text]:
    fields = {"user": "request", "assistant": "response"}
    texts = [*texts_in("request", document.subject), *texts_in("rejected", document.rejected or "")]
    for each in document.messages:
        field = fields.get(each.role, "context")
        texts += texts_in(field, each.content, is_repeated=field != "context")
        calls = each.calls_as_text
        for argument in long_arguments(each):
            texts += texts_in("response", argument, is_repeated=True)
            calls = calls.replace(json.dumps(argument, ensure_ascii=False), "")
        texts += texts_in("context", calls)
    whole = Text("letter", normal_form(document))
    return [*texts, *([whole] if _words(whole.words) >= LEAST_WORDS else [])]


def texts_in(field: str, content: str, *, is_repeated: bool = False) -> list[Text]:
    """Return the texts of one field: its blocks, and the whole field if it contains a quotation. `is_repeated`: True if
    another text of the document contains the whole field."""
    blocks = blocks_of(content)
    texts = [Text(field, normal_text(block), is_repeated) for block in blocks]
    if len(blocks) > 1:
        texts.append(Text(field, normal_text(content), is_repeated=True))
    return [text for text in texts if _words(text.words) >= LEAST_WORDS]


def _words(normal: str) -> int:
    return normal.count(" ") + 1 if normal else 0


def key_of_text(text: Text) -> int:
    """Return a 64-bit key of a text: odd if the text has at least SHORT_WORDS words, even otherwise. A context text and
    a text of another field have different keys, even with the same words, so neither counts as a copy."""
    key = key_of(f"{text.field}: {text.words}" if text.field == "context" else text.words)
    return key & ~1 if _words(text.words) < SHORT_WORDS else key | 1


TEXT_COLUMNS: dict[str, type[np.generic]] = {
    "documents": np.int64,  # document number, ascending
    "fields": np.uint8,  # index of the field in FIELDS
    "keys": np.uint64,  # `key_of_text`
    "is_repeated": np.bool_,
    "sizes": np.int64,  # number of shingles
    "letters": np.int64,  # number of letters and digits
}
"""Maps the name of each column of text properties to the column's NumPy type. The index of a value in a column is the
text's number."""
TextRecords = Mapping[str, NDArray[Any]]
"""Maps each name in TEXT_COLUMNS to the column's values."""


class TextCollector:
    def __init__(self) -> None:
        self._waiting: list[str] = []
        self._records: list[tuple[int, int, int, bool]] = []
        self._shingles: list[NDArray[np.uint64]] = []
        self._letters: list[NDArray[np.uint8]] = []

    def add(self, document: int, texts: Iterable[Text]) -> None:
        for text in texts:
            self._records.append((document, FIELDS.index(text.field), key_of_text(text), text.is_repeated))
            self._waiting.append(text.words)
        if len(self._waiting) >= _TEXTS_AT_ONCE:
            self._hash()

    def records(self) -> TextRecords:
        self._hash()
        documents, fields, keys, is_repeated = zip(*self._records, strict=True) if self._records else ((),) * 4
        columns = {
            "documents": documents,
            "fields": fields,
            "keys": keys,
            "is_repeated": is_repeated,
            "sizes": [row.size for row in self._shingles],
            "letters": [row.size for row in self._letters],
        }
        return {name: np.array(column, TEXT_COLUMNS[name]) for name, column in columns.items()}

    def shingles(self) -> NDArray[np.uint64]:
        """Return the shingles of all texts, concatenated."""
        self._hash()
        return np.concatenate([np.empty(0, np.uint64), *self._shingles])

    def letters(self) -> NDArray[np.uint8]:
        """Return the letters of all texts (`letters_of`), concatenated."""
        self._hash()
        return np.concatenate([np.empty(0, np.uint8), *self._letters])

    def stored(self, path: Path) -> "Texts":
        """Store the shingles of all collected texts in the file `path` and the letters in `path` + `.letters`. Return
        the texts."""
        letters = path.with_name(f"{path.name}.letters")
        self.shingles().tofile(path)
        self.letters().tofile(letters)
        return Texts.of(self.records(), path, letters)

    def _hash(self) -> None:
        if self._waiting:
            self._shingles += word_shingles(self._waiting)
            self._letters += map(letters_of, self._waiting)
        self._waiting = []


@dataclass(frozen=True)
class Texts:
    """The properties (`TextRecords`), shingles and letters of the texts of many documents, without the texts
    themselves. A subset shares these data and stores only the numbers of its texts."""

    whole: TextRecords
    shingles: Shingles
    letters: Shingles
    """Letters of each text (`letters_of`)."""

    @staticmethod
    def of(records: TextRecords, path: Path, letters: Path) -> "Texts":
        """Return the texts that the records describe. `path` and `letters`: files with the shingles and the letters of
        these texts."""
        own = Shingles.of(path, records["sizes"])
        return Texts(records, own, Shingles.of(letters, records["letters"], np.uint8))

    def __len__(self) -> int:
        return len(self.shingles)

    @property
    def documents(self) -> NDArray[np.int64]:
        return self._of("documents")

    @property
    def fields(self) -> NDArray[np.uint8]:
        return self._of("fields")

    @property
    def keys(self) -> NDArray[np.uint64]:
        return self._of("keys")

    @property
    def is_repeated(self) -> NDArray[np.bool_]:
        return self._of("is_repeated")

    @property
    def is_long(self) -> NDArray[np.bool_]:
        """Return a mask of the texts with at least SHORT_WORDS words."""
        is_long: NDArray[np.bool_] = self.keys % 2 == 1
        return is_long

    @property
    def is_context(self) -> NDArray[np.bool_]:
        is_context: NDArray[np.bool_] = self.fields == _CONTEXT
        return is_context

    def distinct(self) -> "Texts":
        """Return the texts without copies: of equal long texts (`is_long`), only the first is returned. Documents with
        a copy are tied to the document of the first text."""
        is_first = ~self.is_long
        is_first[np.unique(self.keys, return_index=True)[1]] = True
        return self.subset(np.flatnonzero(is_first))

    def subset(self, numbers: NDArray[np.int64]) -> "Texts":
        shingles = self.shingles.subset(numbers)
        return Texts(self.whole, shingles, replace(self.letters, numbers=shingles.numbers))

    def _of(self, name: str) -> NDArray[Any]:
        column = self.whole[name]
        return column if self.shingles.numbers is None else column[self.shingles.numbers]


@dataclass(frozen=True)
class Boilerplate:
    """Knows which shingles occur in several texts of a corpus, and which shingles are boilerplate."""

    marks: NDArray[np.uint8]
    """Two bits for each slot of a hash table. Bit 1 is set if a shingle of the slot occurs in several texts, and bit 2
    if a shingle of the slot is boilerplate."""
    shingles: NDArray[np.uint64]
    """Hashes of boilerplate shingles, sorted."""
    formulas: NDArray[np.uint64]
    """Keys of short texts that occur in more than BOILERPLATE_TEXTS documents, sorted."""

    @staticmethod
    def of(scratch: Path, *sides: Texts) -> "Boilerplate":
        """Find the boilerplate in the texts of all sides together. `scratch`: directory for sorting shingles."""
        counted = [each.shingles for each in _counted(sides)]
        shingles = sum(int(each.sizes.sum()) for each in counted)
        marks = np.zeros(min(max(SLOTS, 1 << shingles.bit_length()), _MOST_SLOTS), np.uint8)
        found = [np.empty(0, np.uint64)]
        for hashes, counts in repeated_shingles(scratch, *counted):
            is_boilerplate = counts > BOILERPLATE_TEXTS
            marks[slots_of(hashes, marks.size)] |= 1
            marks[slots_of(hashes[is_boilerplate], marks.size)] |= 2
            found.append(hashes[is_boilerplate])
        return Boilerplate(marks, np.sort(np.concatenate(found)), _formulas(sides))

    def contains(self, hashes: NDArray[np.uint64]) -> NDArray[np.bool_]:
        result = np.zeros(hashes.size, np.bool_)
        possible = np.flatnonzero(self.marks[slots_of(hashes, self.marks.size)] & 2)
        result[possible] = are_among(hashes[possible], self.shingles)
        return result

    def marking_also(self, other: "Boilerplate") -> "Boilerplate":
        """Return a copy of this instance whose `marks` have the bits of both instances set."""
        slots = max(self.marks.size, other.marks.size)
        mine, theirs = (np.tile(each.marks, slots // each.marks.size) for each in (self, other))
        return replace(self, marks=mine | theirs)


@dataclass(frozen=True)
class OwnShingles:
    """The shingles of texts, without boilerplate."""

    sizes: NDArray[np.int64]
    """Number of shingles of each text, without boilerplate."""
    hashes: NDArray[np.uint64]
    """Hashes of the shingles that may occur in another text, grouped by text."""
    texts: NDArray[np.int32]
    """Text number of each hash, ascending."""
    keys: NDArray[np.uint64]
    """Key of each text, or 0 for a standard phrase. Texts with equal keys other than 0 are equal."""

    @staticmethod
    def of(texts: Texts, boilerplate: Boilerplate, others: NDArray[np.uint64] | None = None) -> "OwnShingles":
        """Return the shingles of texts, without boilerplate. `others`: sorted shingles; if given, all other shingles
        are left out."""
        sizes = texts.shingles.sizes.copy()
        hashes, numbers = [np.empty(0, np.uint64)], [np.empty(0, np.int32)]
        for rows in texts.shingles.blocks():
            block = texts.shingles.read(rows)
            repeats = np.flatnonzero(boilerplate.marks[slots_of(block.values, boilerplate.marks.size)])
            values, own = block.values[repeats], rows[block.rows[repeats]]
            is_boilerplate = boilerplate.contains(values)
            np.subtract.at(sizes, own[is_boilerplate], 1)
            is_kept = ~is_boilerplate
            if others is not None:
                is_kept &= are_among(values, others)
            hashes.append(values[is_kept])
            numbers.append(own[is_kept].astype(np.int32))
        keys = texts.keys
        keys = np.where(np.isin(keys, boilerplate.formulas), np.uint64(0), keys)
        return OwnShingles(sizes, np.concatenate(hashes), np.concatenate(numbers), keys)

    def are_boilerplate(self, texts: Texts) -> NDArray[np.bool_]:
        """Return a mask of the long texts, except contexts, that are mostly boilerplate. For these texts, it cannot
        be determined whether other texts contain them."""
        is_long = (texts.shingles.sizes >= _LONG) & ~texts.is_context
        return is_long & (self.sizes < (1 - MOSTLY) * texts.shingles.sizes)


def needed_in_common(sizes: NDArray[np.int64]) -> NDArray[np.int64]:
    """Return how many shingles two texts must share for the shorter text to count as contained. `sizes`: number of
    shingles of the shorter text.

    Each changed word breaks five shingles. If every tenth word of a text is changed, about half of its shingles remain:
    15 of 34 in a text of 38 words. Three changed words leave at least 19. A text with few shingles must share
    LEAST_IN_COMMON of them, or all of them if it has fewer than that. A text with fewer than LEAST_SHINGLES never
    counts as contained.
    """
    needed = np.maximum(-(-sizes // 2) - 2, np.minimum(sizes, LEAST_IN_COMMON))
    return np.where(sizes < LEAST_SHINGLES, np.iinfo(np.int64).max, needed)


def contained_pairs(texts: Texts, own: OwnShingles) -> NDArray[np.int64]:
    """Return an (n, 2) array of text numbers, the lower number first. Each row is a pair of texts from different
    documents, at most one of them a context. The texts are equal, or one contains the other. All texts that share a
    shingle are compared in pairs. There are few such pairs, because `own` has no boilerplate."""
    order = _by_repeated_hash(own.hashes)
    # Place of each repeated shingle in this order, text by text.
    small: type[np.signedinteger[Any]] = np.int32 if order.size < 1 << 31 else np.int64
    place: NDArray[np.signedinteger[Any]] = np.full(own.hashes.size, -1, small)
    place[order] = np.arange(order.size, dtype=small)
    is_repeated = place >= 0
    place, of_texts = place[is_repeated], own.texts[is_repeated]
    numbers, hashes = own.texts[order], own.hashes[order]
    # Number of later texts with the same shingle. The sort is stable, so these have higher numbers.
    behind = (np.searchsorted(hashes, hashes, side="right") - np.arange(order.size) - 1).astype(small)[place]
    del order, hashes, is_repeated
    needed = needed_in_common(own.sizes)
    per_text = np.bincount(of_texts, behind, minlength=len(texts)).astype(np.int64)
    first = np.searchsorted(of_texts, np.arange(len(texts) + 1))
    found = [np.empty((0, 2), np.int64)]
    for run in runs_of_about(per_text, _PAIRS_PER_BLOCK, max(1, len(texts))):
        mine = np.arange(first[run[0]], first[run[-1] + 1])
        repeats = behind[mine]
        within = np.arange(repeats.sum()) - np.repeat(np.cumsum(repeats) - repeats, repeats)
        other = numbers[np.repeat(place[mine], repeats) + 1 + within]
        codes = np.repeat(of_texts[mine], repeats).astype(np.int64) * len(texts) + other
        codes, common = np.unique(codes, return_counts=True)
        pairs = np.column_stack((codes // len(texts), codes % len(texts)))
        is_found = common >= needed[pairs].min(axis=1)
        found.append(pairs[is_found])
    equal = _equal(own.keys, own.keys)
    found.append(equal[equal[:, 0] < equal[:, 1]])
    every: NDArray[np.int64] = np.unique(np.concatenate(found), axis=0)
    are_two: NDArray[np.bool_] = texts.documents[every[:, 0]] != texts.documents[every[:, 1]]
    return every[are_two & ~texts.is_context[every].all(axis=1)]


def _by_repeated_hash(hashes: NDArray[np.uint64]) -> NDArray[np.int64]:
    """Return the positions of all hashes that occur more than once. The positions are sorted by hash; equal hashes keep
    their order."""
    order = np.argsort(hashes, kind="stable")
    ordered = hashes[order]
    is_like_next = np.zeros(order.size, np.bool_)
    is_like_next[:-1] = ordered[1:] == ordered[:-1]
    return order[is_like_next | np.roll(is_like_next, 1)]


def _formulas(sides: tuple[Texts, ...]) -> NDArray[np.uint64]:
    """Return the sorted keys of the short texts that occur in more than BOILERPLATE_TEXTS documents, over all sides
    together."""
    keys = [np.empty(0, np.uint64)]
    for side in sides:
        short = np.flatnonzero(~side.is_long)
        order = short[np.lexsort((side.documents[short], side.keys[short]))]
        of_key, documents = side.keys[order], side.documents[order]
        is_first = np.ones(order.size, np.bool_)
        is_first[1:] = (of_key[1:] != of_key[:-1]) | (documents[1:] != documents[:-1])
        keys.append(of_key[is_first])
    distinct, counts = np.unique(np.concatenate(keys), return_counts=True)
    return distinct[counts > BOILERPLATE_TEXTS]


def _counted(sides: tuple[Texts, ...]) -> Iterator[Texts]:
    """Yield, for each side, the texts whose shingles are counted for boilerplate. Texts that are repeated in their
    document, and copies of long texts, are left out."""
    known = np.empty(0, np.uint64)
    for side in sides:
        distinct = side.subset(np.flatnonzero(~side.is_repeated)).distinct()
        is_new = ~(np.isin(distinct.keys, known) & distinct.is_long)
        known = np.union1d(known, distinct.keys)
        yield distinct.subset(np.flatnonzero(is_new))


@dataclass(frozen=True)
class CrossingTexts:
    """The pairs of equal or contained texts with one text on each side of a split."""

    documents: NDArray[np.int64]
    """(n, 2) array: the number of a held-out document, and the number of a document on the other side. Each pair occurs
    once; pairs are sorted."""
    by_fields: dict[str, int]
    """Number of pairs of texts by fields. The key `FIELD ~ FIELD` has the field in the held-out document first.
    Combinations with `context` are left out if the number is 0."""


def crossing_texts(held_out: Texts, other: Texts, boilerplate: Boilerplate) -> CrossingTexts:
    """Find every pair of a held-out text and a text of the other side in which one text contains the other. Equal texts
    count unless they are a standard phrase. The search is exhaustive.

    Each side is a matrix with a row for each text and a column for each shingle that both sides have. The product of
    the first matrix and the transpose of the second contains the number of shingles that each text of one side shares
    with each text of the other side.
    """
    one, two = held_out.distinct(), other.distinct()
    own_one = OwnShingles.of(one, boilerplate)
    own_two = OwnShingles.of(two, boilerplate, others=np.unique(own_one.hashes))
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
    found = found[~(one.is_context[found[:, 0]] & two.is_context[found[:, 1]])]
    names = Counter({f"{mine} ~ {theirs}": 0 for mine in FIELDS[:_CONTEXT] for theirs in FIELDS[:_CONTEXT]})
    for mine, theirs in zip(one.fields[found[:, 0]], two.fields[found[:, 1]], strict=True):
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
    """Return an (n, 2) array of all pairs of an index in `keys` and an index in `others` with equal keys. Texts with
    the key 0 are left out."""
    order = np.argsort(others, kind="stable")
    start = np.searchsorted(others, keys, side="left", sorter=order)
    count = np.where(keys == 0, 0, np.searchsorted(others, keys, side="right", sorter=order) - start)
    within = np.arange(count.sum()) - np.repeat(np.cumsum(count) - count, count)
    return np.column_stack((np.repeat(np.arange(keys.size), count), order[np.repeat(start, count) + within]))
