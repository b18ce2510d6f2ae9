"""The source files, read again and compared with a raw corpus, document by document.

What belongs here: what differs, by row ids. What does not: reading a row (`documents_from_rows.py`), except for its
classification level: it is looked up a second time here, by other code, because a level that is missed lowers whatever
is made of the row.
"""

import unicodedata
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass, field
from functools import lru_cache
from itertools import zip_longest
from typing import Any

from sovereign_pipeline.artifacts.store import Artifact
from sovereign_pipeline.corpus.column_names import SPELLINGS_REMEMBERED
from sovereign_pipeline.corpus.document import Document, read_documents, read_jsonl
from sovereign_pipeline.corpus.documents_from_rows import SourceReader
from sovereign_pipeline.corpus.quarantine import Quarantined
from sovereign_pipeline.policy.classification import ClassificationLadder


@dataclass
class Comparison:
    """What a second reading of the sources found."""

    rows: int = 0
    """Of the sources."""
    documents: int = 0
    """Of the corpus."""
    quarantined: int = 0
    """Of the corpus."""
    excluded: int = 0
    """Of the sources."""
    not_selected: int = 0
    """Of the sources."""
    different: list[str] = field(default_factory=list)
    """Ids of documents that are not what their row says, that no row gives, or that are missing."""
    lowered: list[str] = field(default_factory=list)
    """Those of them, and others, that are below a level which their row or their source states."""
    quarantine_differs: bool = False
    levels: set[str] = field(default_factory=set)
    """Of the documents that the sources give."""


def compare_with_sources(
    corpus: Artifact, documents: str, quarantine: str, readers: Iterable[SourceReader], ladder: ClassificationLadder
) -> Comparison:
    """Compare a raw corpus with its sources, in the order of both.

    Args:
        documents: the name of its file of documents.
        quarantine: the name of its file of quarantined rows.
        readers: one for each source, in the order of the recipe.

    Raises SourceError for a source that cannot be read, and IntegrityError for a stored row that is not a document.
    """
    found = Comparison()
    broken: list[dict[str, object]] = []

    def from_sources() -> Iterator[Document]:
        for reader in readers:
            for outcome in reader:
                if isinstance(outcome, Quarantined):
                    broken.append(asdict(outcome))
                    continue
                if _is_below_what_is_stated(outcome, reader, ladder):
                    found.lowered.append(outcome.id)
                found.levels.add(outcome.classification)
                yield outcome
            found.rows += reader.count.rows
            found.excluded += reader.count.excluded
            found.not_selected += reader.count.not_selected

    for again, stored in zip_longest(from_sources(), read_documents(corpus.file(documents))):
        found.documents += stored is not None
        if again == stored:
            continue
        found.different += dict.fromkeys(each.id for each in (stored, again) if each is not None)
        if again and stored and again.id == stored.id and ladder.exceeds(again.classification, stored.classification):
            found.lowered.append(again.id)
    stored_broken = list(read_jsonl(corpus.file(quarantine)))
    found.quarantined = len(stored_broken)
    found.quarantine_differs = stored_broken != broken
    return found


def _is_below_what_is_stated(document: Document, reader: SourceReader, ladder: ClassificationLadder) -> bool:
    """Whether the row of a document, or its source, states a higher level, or one that is not on the ladder."""
    source = reader.source
    of_source = [level for level in (source.classification_floor, source.constants.get("classification")) if level]
    column = source.columns.get("classification", "classification")
    stated = [*_values_under(column, reader.row.values or {}), *of_source]
    return any(level not in ladder or ladder.exceeds(level, document.classification) for level in stated)


def _values_under(column: str, values: Mapping[str, Any]) -> list[str]:
    """What is written in any column whose letters and digits are those of the name, whatever stands between them."""
    wanted = _letters(column)
    return [text for name, value in values.items() if _letters(name) == wanted and (text := _text(value))]


def _text(value: Any) -> str:
    return "" if value is None else unicodedata.normalize("NFC", str(value).strip())


@lru_cache(maxsize=SPELLINGS_REMEMBERED)
def _letters(name: str) -> str:
    return "".join(each for each in unicodedata.normalize("NFKD", name).casefold() if each.isalnum())
