"""The assignment of every document to training or held-out: tie, choose, check exhaustively, and repeat.

What belongs here: the loop that ends in an assignment across which nothing crosses. What does not: its parts
(`grouping.py`, `hold_out.py`, `crossing.py`) and what is reported of it (`proof.py`).
"""

from dataclasses import dataclass
from datetime import date
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sovereign_pipeline.artifacts.stage import Progress
from sovereign_pipeline.policy.corpus import Split
from sovereign_pipeline.split.containment import Boilerplate, OwnShingles, contained_pairs
from sovereign_pipeline.split.crossing import crossing_keys, crossing_near_duplicates
from sovereign_pipeline.split.crossing_texts import CrossingTexts, crossing_texts
from sovereign_pipeline.split.features import Features
from sovereign_pipeline.split.grouping import components
from sovereign_pipeline.split.hold_out import hold_out, hold_out_newest
from sovereign_pipeline.split.near_duplicates import NearDuplicates, near_duplicates
from sovereign_pipeline.split.paraphrases import ROUNDING, paraphrase_pairs
from sovereign_pipeline.split.shingles import Rarity


@dataclass(frozen=True)
class Assignment:
    """Which documents are held out, and what was found on the way."""

    is_held_out: NDArray[np.bool_]
    """By document number."""
    component_of: NDArray[np.int64]
    """By document number."""
    similar: NearDuplicates
    contained: int
    """Pairs of documents of which a text of the one is contained in a text of the other; of equal texts one counts."""
    is_boilerplate: NDArray[np.bool_]
    """By document number: whether a long text of it is boilerplate. Such documents are held out last."""
    paraphrases: int
    """Pairs of paraphrases that were tied."""
    late_pairs: int
    """Pairs of near-duplicates, or with a contained text, that only the exhaustive check found."""
    check: "CrossingCheck"
    """The last one, which found no pair."""
    cut: date | None
    """Day from which on everything is held out; None unless the line splits by date."""


@dataclass(frozen=True)
class CrossingCheck:
    """What crosses between training and held-out documents."""

    found: dict[str, int]
    """Kind of tie -> how many cross."""
    near_duplicates: NDArray[np.int64]
    """(n, 2) document numbers of the near-duplicate pairs that cross."""
    compared: int
    """How many pairs of near-duplicates were compared in full."""
    texts: CrossingTexts


def assign(features: Features, recipe: Split, scratch: Path, progress: Progress) -> Assignment:
    """Tie, choose and check. A pair that the check finds (MinHash missed it) is tied, and the choice is repeated.

    Ends, because every such pair joins two components. Raises InputError when the letters cannot be on both sides.
    """
    columns = features.columns
    rarity = Rarity.of(scratch, columns.shingles)
    similar = near_duplicates(columns.shingles, rarity, recipe.near_duplicate_jaccard, progress)
    progress("looking for texts that stand in others")
    boilerplate = Boilerplate.of(scratch, columns.texts)
    contained, is_boilerplate = _contained(features, boilerplate)
    tied = [similar.pairs, contained]
    paraphrased = np.empty((0, 2), np.int64)
    if recipe.paraphrases and features.vectors is not None:
        paraphrased = paraphrase_pairs(features.vectors, features.vectors, recipe.paraphrases.cosine - ROUNDING)
        tied.append(paraphrased)
    paraphrases = int((paraphrased[:, 0] < paraphrased[:, 1]).sum())
    late_pairs = 0
    while True:
        component_of = components(len(columns), features.ties.values(), tied)
        cut = None
        if recipe.by_date:
            by_date = hold_out_newest(columns.days, columns.is_preference, component_of, recipe.held_out_share)
            is_held_out, cut = by_date.is_held_out, by_date.day
        else:
            share, seed = recipe.held_out_share, recipe.seed
            is_held_out = hold_out(columns.ids, columns.is_preference, component_of, share, seed, is_boilerplate)
        progress("checking every pair across the split for near-duplicates and contained texts")
        check = _check_crossing(features, is_held_out, rarity, boilerplate, recipe, scratch)
        late = np.concatenate((check.near_duplicates, check.texts.documents))
        if not len(late):
            return Assignment(
                is_held_out,
                component_of,
                similar,
                len(contained),
                is_boilerplate,
                paraphrases,
                late_pairs,
                check,
                cut,
            )
        tied.append(late)
        late_pairs += len(late)


def _contained(features: Features, boilerplate: Boilerplate) -> tuple[NDArray[np.int64], NDArray[np.bool_]]:
    """(n, 2) documents of which a text of the one stands in a text of the other; and which ones are boilerplate."""
    texts = features.columns.texts.distinct()
    own = OwnShingles.of(texts, boilerplate)
    pairs = texts.documents[contained_pairs(texts, own)]
    is_boilerplate = np.zeros(len(features.columns), np.bool_)
    is_boilerplate[texts.documents[own.are_boilerplate(texts)]] = True
    return np.unique(pairs, axis=0), is_boilerplate


def _check_crossing(
    features: Features,
    is_held_out: NDArray[np.bool_],
    rarity: Rarity,
    boilerplate: Boilerplate,
    recipe: Split,
    scratch: Path,
) -> CrossingCheck:
    shingles, texts = features.columns.shingles, features.columns.texts
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
    is_text_held_out = is_held_out[texts.documents]
    in_texts = crossing_texts(
        texts.subset(np.flatnonzero(is_text_held_out)), texts.subset(np.flatnonzero(~is_text_held_out)), boilerplate
    )
    found["contained_text"] = len(in_texts.documents)
    if recipe.paraphrases and features.vectors is not None:
        vectors = features.vectors
        found["paraphrase"] = len(paraphrase_pairs(vectors[held], vectors[train], recipe.paraphrases.cosine))
    pairs = np.column_stack((held[near.pairs[:, 0]], train[near.pairs[:, 1]]))
    return CrossingCheck(found, pairs, near.compared, in_texts)
