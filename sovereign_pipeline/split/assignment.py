"""The assignment of every document to training or held-out: tie, choose, check exhaustively, and repeat.

What belongs here: the loop that ends in an assignment across which nothing crosses. What does not: its parts
(`grouping.py`, `hold_out.py`, `crossing.py`) and what is reported of it (`proof.py`).
"""

from dataclasses import dataclass
from datetime import date
from pathlib import Path
from typing import TYPE_CHECKING

from sovereign_pipeline.artifacts.stage import Progress
from sovereign_pipeline.policy.corpus import Split
from sovereign_pipeline.split.crossing import crossing_keys, crossing_near_duplicates
from sovereign_pipeline.split.features import Features
from sovereign_pipeline.split.grouping import components
from sovereign_pipeline.split.hold_out import hold_out, hold_out_newest
from sovereign_pipeline.split.near_duplicates import NearDuplicates, near_duplicates
from sovereign_pipeline.split.paraphrases import ROUNDING, paraphrase_pairs
from sovereign_pipeline.split.shingles import Rarity

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray


@dataclass(frozen=True)
class Assignment:
    """Which documents are held out, and what was found on the way."""

    is_held_out: "NDArray[np.bool_]"
    """By document number."""
    component_of: "NDArray[np.int64]"
    """By document number."""
    similar: NearDuplicates
    paraphrases: int
    """Pairs of paraphrases that were tied."""
    late_pairs: int
    """Near-duplicate pairs that only the exhaustive check found."""
    check: "CrossingCheck"
    """The last one, which found no near-duplicates."""
    cut: date | None
    """Day from which on everything is held out; None unless the line splits by date."""


@dataclass(frozen=True)
class CrossingCheck:
    """What crosses between training and held-out documents."""

    found: dict[str, int]
    """Kind of tie -> how many cross."""
    near_duplicates: "NDArray[np.int64]"
    """(n, 2) document numbers of the near-duplicate pairs that cross."""
    compared: int
    """How many pairs were compared in full."""


def assign(features: Features, recipe: Split, scratch: Path, progress: Progress) -> Assignment:
    """Tie, choose and check. A pair that the check finds (MinHash missed it) is tied, and the choice is repeated.

    Ends, because every such pair joins two components. Raises InputError when the letters cannot be on both sides.
    """
    columns = features.columns
    rarity = Rarity.of(scratch, columns.shingles)
    similar = near_duplicates(columns.shingles, rarity, recipe.near_duplicate_jaccard, progress)
    tied = [similar.pairs]
    if recipe.paraphrases and features.vectors is not None:
        tied.append(paraphrase_pairs(features.vectors, features.vectors, recipe.paraphrases.cosine - ROUNDING))
    paraphrases = sum(int((pairs[:, 0] < pairs[:, 1]).sum()) for pairs in tied[1:])
    late_pairs = 0
    while True:
        component_of = components(len(columns), features.ties.values(), tied)
        cut = None
        if recipe.by_date:
            by_date = hold_out_newest(columns.days, columns.is_preference, component_of, recipe.held_out_share)
            is_held_out, cut = by_date.is_held_out, by_date.day
        else:
            is_held_out = hold_out(columns.ids, columns.is_preference, component_of, recipe.held_out_share, recipe.seed)
        progress("checking every pair across the split for near-duplicates")
        check = _check_crossing(features, is_held_out, rarity, recipe, scratch)
        if not len(check.near_duplicates):
            return Assignment(is_held_out, component_of, similar, paraphrases, late_pairs, check, cut)
        tied.append(check.near_duplicates)
        late_pairs += len(check.near_duplicates)


def _check_crossing(
    features: Features, is_held_out: "NDArray[np.bool_]", rarity: Rarity, recipe: Split, scratch: Path
) -> CrossingCheck:
    import numpy as np

    shingles = features.columns.shingles
    held, train = np.flatnonzero(is_held_out), np.flatnonzero(~is_held_out)
    near = crossing_near_duplicates(
        shingles.subset(held), shingles.subset(train), rarity, recipe.near_duplicate_jaccard, scratch
    )
    found = {
        kind: int(crossing_keys(ties.on(is_held_out), ties.on(~is_held_out)).size)
        for kind, ties in features.ties.items()
        if kind != "author" or recipe.by_author
    }
    found["near_duplicate"] = len(near.pairs)
    if recipe.paraphrases and features.vectors is not None:
        vectors = features.vectors
        found["paraphrase"] = len(paraphrase_pairs(vectors[held], vectors[train], recipe.paraphrases.cosine))
    pairs = np.column_stack((held[near.pairs[:, 0]], train[near.pairs[:, 1]]))
    return CrossingCheck(found, pairs, near.compared)
