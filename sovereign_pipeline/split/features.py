"""What a split compares of its documents: what ties them, their shingles and, where asked, their embeddings.

What belongs here: reading all of it from a file of documents. What does not: one column of it (`reading.py`), and what
is concluded (`assignment.py`, `overlap.py`).
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sovereign_pipeline.artifacts.stage import Progress, Workplace
from sovereign_pipeline.artifacts.store import Artifact
from sovereign_pipeline.corpus.stages import CLASSIFIED_CORPUS, DOCUMENTS
from sovereign_pipeline.policy.corpus import Split
from sovereign_pipeline.split.grouping import Ties
from sovereign_pipeline.split.paraphrases import embed_documents
from sovereign_pipeline.split.reading import Columns, read_author_keys, read_columns


@dataclass(frozen=True)
class Features:
    """What is compared of many documents, by their number in the file; no text."""

    columns: Columns
    authors: Ties
    """Empty where the line does not split by author."""
    vectors: NDArray[np.float32] | None
    """Embeddings (documents, 384); None where the line ties no paraphrases."""

    @property
    def ties(self) -> dict[str, Ties]:
        """Kind of tie -> the documents with their keys. Equal texts tie when they are long."""
        texts = self.columns.texts
        is_long = texts.records.is_long
        return {
            "case": self.columns.cases,
            "link": self.columns.matters,
            "author": self.authors,
            "equal_text": Ties(texts.documents[is_long], texts.records.keys[is_long]),
        }


def read_features(
    documents: Path, recipe: Split, author_keys: Mapping[str, int], scratch: Path, progress: Progress
) -> Features:
    """Read what is compared of a file of documents.

    author_keys: from `author_keys_of`. scratch: a directory that keeps the shingles as long as the result is used.
    Raises IntegrityError with file and line for a row that is not a document.
    """
    columns = read_columns(documents, scratch, progress)
    named = [number for number, id in enumerate(columns.ids) if id in author_keys]
    keys = [author_keys[columns.ids[number]] for number in named]
    return Features(
        columns=columns,
        authors=Ties(np.array(named, np.int64), np.array(keys, np.uint64)),
        vectors=embed_documents(documents, len(columns), progress) if recipe.paraphrases else None,
    )


def author_keys_of(workplace: Workplace, scrubbed: Artifact) -> dict[str, int]:
    """Id -> key of the author as the institution wrote the name; empty unless the line splits by author.

    A scrubbed author is a placeholder that is numbered anew in every case file, so it identifies nobody across case
    files. The names are read from the classified corpus, compared, and never written.
    """
    if not workplace.line.split.by_author:
        return {}
    classified = workplace.store.open_input(scrubbed.manifest, CLASSIFIED_CORPUS.kind)
    return read_author_keys(classified.file(DOCUMENTS))
