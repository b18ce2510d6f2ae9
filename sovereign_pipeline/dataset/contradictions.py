"""Pairs and labels that contradict each other: the same reply is the better one in one row and the worse in another.

What belongs here: finding these rows over a whole dataset, without keeping their text. What does not: what is done
about them (`quality.py` warns).
"""

import hashlib
from array import array
from collections.abc import Sequence

from sovereign_pipeline.corpus.document import Document
from sovereign_pipeline.corpus.folding import folded
from sovereign_pipeline.split.similarity import normal_text


class Contradictions:
    """Takes the documents of a dataset one at a time. Kept are each row's id, and a digest of each reply with its
    request.

    Texts are the same when their words are (`normal_text`); two replies of one pair that differ in marks alone, by
    these (`folded`).
    """

    def __init__(self) -> None:
        self._numbers: dict[bytes, int] = {}
        self._ids: list[str] = []
        self._better, self._worse = array("q"), array("q")
        self._labelled: dict[int, tuple[set[bool], list[str]]] = {}

    def add(self, document: Document) -> None:
        request = normal_text(f"{document.subject}\n\n{document.request}")
        if document.label is not None:
            labels, ids = self._labelled.setdefault(self._number(request, normal_text(document.response)), (set(), []))
            labels.add(document.label)
            ids.append(document.id)
        if document.rejected is None:
            return
        chosen, rejected = normal_text(document.response), normal_text(document.rejected)
        if chosen == rejected:
            chosen, rejected = folded(document.response), folded(document.rejected)
        if chosen == rejected:
            return
        self._ids.append(document.id)
        self._better.append(self._number(request, chosen))
        self._worse.append(self._number(request, rejected))

    def rows(self) -> list[str]:
        """Ids of the rows that contradict others, each beside those that it contradicts.

        Pairs: A over B and B over A for one request, or a longer circle such as A over B, B over C, C over A. Labels:
        the same reply to one request is good and bad.
        """
        labelled = [row for labels, ids in self._labelled.values() if len(labels) > 1 for row in ids]
        return self._in_circles() + labelled

    def _number(self, request: str, reply: str) -> int:
        key = hashlib.blake2b(f"{len(request)} {request} {reply}".encode(errors="surrogatepass"), digest_size=16)
        return self._numbers.setdefault(key.digest(), len(self._numbers))

    def _in_circles(self) -> list[str]:
        """A pair is in a circle when its replies are strongly connected: each is better than the other by some way."""
        if not self._ids:
            return []
        circle = _strongly_connected(self._better, self._worse, len(self._numbers))
        rows: dict[int, list[str]] = {}
        for row, better, worse in zip(self._ids, self._better, self._worse, strict=True):
            if circle[better] == circle[worse]:
                rows.setdefault(circle[better], []).append(row)
        return [row for ids in rows.values() for row in ids]


def _strongly_connected(better: Sequence[int], worse: Sequence[int], count: int) -> list[int]:
    """For each reply, which circle it is in."""
    import numpy as np
    from scipy.sparse import coo_array
    from scipy.sparse.csgraph import connected_components

    edges = coo_array((np.ones(len(better), dtype=np.int8), (np.array(better), np.array(worse))), shape=(count, count))
    _, circles = connected_components(edges.tocsr(), directed=True, connection="strong")
    found: list[int] = circles.tolist()
    return found
