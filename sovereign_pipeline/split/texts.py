"""The texts of documents, each field and each quoted block by itself, as shingles: what is compared by containment.

What belongs here: which texts a document has, and keeping those of many documents. What does not: quoted blocks
(`quotes.py`), and when one text is contained in another (`containment.py`).
"""

import hashlib
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, fields, replace
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sovereign_pipeline.corpus.document import Document
from sovereign_pipeline.split.quotes import blocks_of
from sovereign_pipeline.split.shingles import Shingles
from sovereign_pipeline.split.similarity import normal_text, word_shingles

FIELDS = ("request", "response", "rejected", "letter")
"""`request` has the subject too, as the prompt of a row has; `letter` is a short request with its short reply."""

LEAST_WORDS = 8
"""Shorter texts, such as a salutation, are no text of their own."""
SHORT_WORDS = 24
"""Below it a text that many documents have is a formula; from it on equal texts stay together, however many."""

_TEXTS_AT_ONCE = 1 << 14


@dataclass(frozen=True)
class Text:
    """One text in normal form (`normal_text`)."""

    field: str
    words: str
    is_repeated: bool = False
    """Whether the document's other texts hold its words too."""


def texts_of(document: Document) -> list[Text]:
    """Every text of a document that has enough words to be compared."""
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


def texts_in(field: str, content: str, *, is_repeated: bool = False) -> list[Text]:
    """The texts of one field: its blocks, and all of it where it quotes something.

    is_repeated: whether another text of the document holds this field.
    """
    blocks = blocks_of(content)
    texts = [Text(field, normal_text(block), is_repeated) for block in blocks]
    if len(blocks) > 1:
        texts.append(Text(field, normal_text(content), is_repeated=True))
    return [text for text in texts if _words(text.words) >= LEAST_WORDS]


def _words(normal: str) -> int:
    return normal.count(" ") + 1 if normal else 0


def key_of_text(text: Text) -> int:
    """64 bits that stand for a text: odd for one of SHORT_WORDS words or more, even for a shorter one."""
    key = int.from_bytes(hashlib.blake2b(text.words.encode(), digest_size=8).digest(), "little")
    return key & ~1 if _words(text.words) < SHORT_WORDS else key | 1


@dataclass(frozen=True)
class TextRecords:
    """What is known of texts beside their shingles, by number."""

    documents: NDArray[np.int64]
    """Of each text the number of its document, ascending."""
    fields: NDArray[np.uint8]
    """Place in FIELDS."""
    keys: NDArray[np.uint64]
    """From `key_of_text`."""
    is_repeated: NDArray[np.bool_]
    sizes: NDArray[np.int64]
    """Number of shingles."""

    @property
    def is_long(self) -> NDArray[np.bool_]:
        """Whether a text has SHORT_WORDS words or more."""
        is_long: NDArray[np.bool_] = self.keys % 2 == 1
        return is_long

    def after(self, documents: int) -> "TextRecords":
        """The same behind so many documents."""
        return replace(self, documents=self.documents + documents)


class TextCollector:
    """Takes the texts of documents, one document after another."""

    def __init__(self) -> None:
        self._waiting: list[str] = []
        self._records: list[tuple[int, int, int, bool]] = []
        self._shingles: list[NDArray[np.uint64]] = []

    def add(self, document: int, texts: Iterable[Text]) -> None:
        """The texts of a document, by its number."""
        for text in texts:
            self._records.append((document, FIELDS.index(text.field), key_of_text(text), text.is_repeated))
            self._waiting.append(text.words)
        if len(self._waiting) >= _TEXTS_AT_ONCE:
            self._hash()

    def records(self) -> TextRecords:
        self._hash()
        documents, fields, keys, is_repeated = zip(*self._records, strict=True) if self._records else ((),) * 4
        return TextRecords(
            documents=np.array(documents, np.int64),
            fields=np.array(fields, np.uint8),
            keys=np.array(keys, np.uint64),
            is_repeated=np.array(is_repeated, np.bool_),
            sizes=np.array([row.size for row in self._shingles], np.int64),
        )

    def shingles(self) -> NDArray[np.uint64]:
        """Of all texts, one after another."""
        self._hash()
        return np.concatenate([np.empty(0, np.uint64), *self._shingles])

    def _hash(self) -> None:
        if self._waiting:
            self._shingles += word_shingles(self._waiting)
        self._waiting = []


@dataclass(frozen=True)
class Texts:
    """The texts of many documents, by number; no text itself."""

    records: TextRecords
    shingles: Shingles

    @staticmethod
    def joined(parts: Sequence[TextRecords], path: Path) -> "Texts":
        """The texts of several parts of a file of documents. path: their shingles, one after another."""
        columns = {
            field.name: np.concatenate([getattr(part, field.name) for part in (TextCollector().records(), *parts)])
            for field in fields(TextRecords)
        }
        records = TextRecords(**columns)
        return Texts(records, Shingles(path, np.cumsum(records.sizes) - records.sizes, records.sizes))

    def __len__(self) -> int:
        return len(self.shingles)

    @property
    def documents(self) -> NDArray[np.int64]:
        """Of each text the number of its document."""
        return self.records.documents

    def distinct(self) -> "Texts":
        """Of equal longer texts the first alone: the others are tied to it."""
        _, first = np.unique(self.records.keys, return_index=True)
        return self.subset(np.union1d(np.flatnonzero(~self.records.is_long), first).astype(np.int64))

    def subset(self, numbers: NDArray[np.int64]) -> "Texts":
        columns = {field.name: getattr(self.records, field.name)[numbers] for field in fields(TextRecords)}
        return Texts(TextRecords(**columns), self.shingles.subset(numbers))
