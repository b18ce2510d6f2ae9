"""Every held-out letter against every training letter, by definitions written a second time; no part of the split.

What belongs here: that comparison, for the sizes at which it ends. What does not: measuring (`split_scale.py`).
"""

from collections import Counter
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from benchmarks.corpus.generated_letters import runs_of_words, shingles
from sovereign_pipeline.corpus.document import Document

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

BOILERPLATE_TEXTS = 20
RUNS_OF_A_LONGER_TEXT = 20


def brute_force(held: Sequence[Document], train: Sequence[Document], jaccard: float) -> dict[str, Any]:
    """What crosses between the letters of two sides."""
    common, sizes = _common([[shingles(document.model_dump()) for document in side] for side in (held, train)])
    union = sizes[0][common.row] + sizes[1][common.col] - common.data
    texts = [[each for document in side for each in _texts(document)] for side in (held, train)]
    # Copies of a longer text count once.
    short = [text for side in texts for text in side if len(text) < RUNS_OF_A_LONGER_TEXT]
    longer = {frozenset(text) for side in texts for text in side if len(text) >= RUNS_OF_A_LONGER_TEXT}
    seen = Counter(run for text in (*short, *longer) for run in text)
    own = [[{run for run in text if seen[run] <= BOILERPLATE_TEXTS} for text in side] for side in texts]
    in_texts, sizes_of_texts = _common(own)
    needed = [_needed(each) for each in sizes_of_texts]
    contained = in_texts.data >= _lower(needed[0][in_texts.row], needed[1][in_texts.col])
    matters = [{matter for document in side for matter in (document.id, *document.links)} for side in (held, train)]
    cases = [{document.case for document in side} for side in (held, train)]
    return {
        "pairs_of_letters": len(held) * len(train),
        "crossing_near_duplicates": int((common.data / union >= jaccard).sum()),
        "crossing_contained_texts": int(contained.sum()),
        "crossing_cases": len(cases[0] & cases[1]),
        "crossing_links": len(matters[0] & matters[1]),
        "held_out_share": round(len(held) / (len(held) + len(train)), 4),
    }


def _texts(document: Document) -> list[set[Any]]:
    own, _, forwarded = document.request.partition("-----Original Message-----")
    return [runs_of_words(text) for text in (own, forwarded, document.response) if text]


def _needed(sizes: "NDArray[np.int64]") -> "NDArray[np.int64]":
    import numpy as np

    half = np.ceil(sizes / 2) - 2
    return np.where(sizes < 4, 1e9, np.maximum(half, np.minimum(sizes, 6))).astype(np.int64)


def _lower(one: "NDArray[np.int64]", other: "NDArray[np.int64]") -> "NDArray[np.int64]":
    import numpy as np

    return np.minimum(one, other)


def _common(sides: Sequence[Sequence[set[Any]]]) -> tuple[Any, "list[NDArray[np.int64]]"]:
    """How many elements each two sets of the sides share, as a sparse matrix, and the sizes of the sets."""
    import numpy as np
    from scipy.sparse import csr_array

    number_of: dict[Any, int] = {}
    columns = [[number_of.setdefault(each, len(number_of)) for row in side for each in row] for side in sides]
    sizes = [np.array([len(row) for row in side], np.int64) for side in sides]
    matrices = [
        csr_array(
            (np.ones(len(own), np.int32), own, np.concatenate(([0], np.cumsum(size)))),
            shape=(size.size, len(number_of)),
        )
        for own, size in zip(columns, sizes, strict=True)
    ]
    return (matrices[0] @ matrices[1].T).tocoo(), sizes
