"""Which documents must stay together: connected components over case, links, author and similarity.

What belongs here: the ties and their components. What does not: which components are held out (`hold_out.py`).
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

from sovereign_pipeline.corpus.document import Document
from sovereign_pipeline.corpus.links import link_key


@dataclass(frozen=True)
class Ties:
    """Documents with an equal key are tied. A document may have several keys, or none."""

    rows: NDArray[np.int64]
    """Document numbers, ascending."""
    keys: NDArray[np.uint64]
    """As many, from `key_of`."""

    def on(self, side: NDArray[np.bool_]) -> NDArray[np.uint64]:
        """The keys of the documents that `side` marks."""
        return self.keys[side[self.rows]]


def key_of(value: str) -> int:
    """64 bits that stand for a case file, an author or an id.

    A collision (one chance in 37 million among a million values) ties documents that need not be tied; it never lets
    any cross.
    """
    return int.from_bytes(hashlib.blake2b(value.encode(), digest_size=8).digest(), "little")


def matters_of(document: Document) -> tuple[str, ...]:
    """The document's own id and the ids that it links to, each as ids and links are compared.

    So two documents that link to the same third one are tied even where that third one was quarantined.
    """
    return tuple(map(link_key, (document.id, *document.links)))


def components(count: int, ties: Iterable[Ties], similar: Iterable[NDArray[np.int64]]) -> NDArray[np.int64]:
    """The component of each of `count` documents: the number of the first document in it.

    similar: arrays (n, 2) of document numbers that are tied too.
    """
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    edges = np.concatenate([np.empty((0, 2), np.int64), *map(_chain, ties), *similar])
    graph = coo_array((np.ones(len(edges), np.bool_), (edges[:, 0], edges[:, 1])), shape=(count, count))
    _, label = connected_components(graph, directed=False)
    _, first, number = np.unique(label, return_index=True, return_inverse=True)
    return first[number]


def _chain(ties: Ties) -> NDArray[np.int64]:
    """(n, 2) edges that join the documents of each key, one to the next."""
    order = np.argsort(ties.keys, kind="stable")
    rows, keys = ties.rows[order], ties.keys[order]
    is_same = keys[1:] == keys[:-1]
    return np.column_stack((rows[:-1][is_same], rows[1:][is_same]))
