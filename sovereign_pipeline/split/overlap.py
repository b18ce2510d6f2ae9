"""What held-out and training documents have in common, measured on the files of two sides.

What belongs here: the measurement and its sentences, for the gate of a split and for an adapter that was trained on
another split. What does not: whether enough is held out, and from which input (`gate.py`).
"""

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sovereign_pipeline.artifacts.stage import Workplace
from sovereign_pipeline.artifacts.store import Artifact
from sovereign_pipeline.policy.corpus import Split
from sovereign_pipeline.privacy.stages import SCRUBBED_CORPUS
from sovereign_pipeline.split.containment import Boilerplate
from sovereign_pipeline.split.crossing import crossing_keys, crossing_near_duplicates
from sovereign_pipeline.split.crossing_texts import crossing_texts
from sovereign_pipeline.split.features import Features, author_keys_of, read_features
from sovereign_pipeline.split.files import HELD_OUT, TRAIN
from sovereign_pipeline.split.grouping import Ties
from sovereign_pipeline.split.paraphrases import paraphrase_pairs
from sovereign_pipeline.split.shingles import Rarity
from sovereign_pipeline.wording import and_more


@dataclass(frozen=True)
class Overlap:
    """What two sides have in common."""

    near_duplicates: int
    """Pairs of near-duplicates."""
    contained_texts: dict[str, int]
    """Fields of the two documents -> pairs of texts of which one is contained in the other."""
    problems: tuple[str, ...]
    """One clause with counts and ids for each kind of tie that crosses; empty when nothing does."""


def overlap_of(
    held: Features, train: Features, rarity: Rarity, boilerplate: Boilerplate, recipe: Split, scratch: Path
) -> Overlap:
    """Everything that held-out and training documents have in common. rarity, boilerplate: over both."""
    ids = set(train.columns.ids) & set(held.columns.ids)
    problems = _problem("id", len(ids), sorted(ids))
    for kind, ties in held.ties.items():
        keys = crossing_keys(ties.keys, train.ties[kind].keys)
        problems += _problem(kind.replace("_", " "), keys.size, _ids_with(held, ties, keys))
    similar = crossing_near_duplicates(
        held.columns.shingles, train.columns.shingles, rarity, recipe.near_duplicate_jaccard, scratch
    ).pairs
    problems += _problem("near-duplicate pair", len(similar), _ids_of_pairs(held, train, similar))
    texts = crossing_texts(held.columns.texts, train.columns.texts, boilerplate)
    fields = ", ".join(f"{count:,} {name}" for name, count in texts.by_fields.items() if count)
    problems += [
        f"{problem}, by field: {fields}"
        for problem in _problem("contained text", len(texts.documents), _ids_of_pairs(held, train, texts.documents))
    ]
    if recipe.paraphrases and held.vectors is not None and train.vectors is not None:
        pairs = paraphrase_pairs(held.vectors, train.vectors, recipe.paraphrases.cosine)
        problems += _problem("paraphrase pair", len(pairs), _ids_of_pairs(held, train, pairs))
    return Overlap(len(similar), texts.by_fields, tuple(problems))


def shared_with_held_out(workplace: Workplace, split: Artifact, earlier: Artifact) -> list[str]:
    """What the held-out side of one split shares with the training side of an earlier one; empty for nothing.

    Compares what the gate of a split compares, under the recipe of the workplace's line. Raises IntegrityError or
    NotFoundError when an ancestor of either split that is needed for it cannot be opened.
    """
    recipe = workplace.line.split

    def read(of: Artifact, name: str, scratch: Path) -> Features:
        scrubbed = workplace.store.open_input(of.manifest, SCRUBBED_CORPUS.kind)
        return read_features(of.file(name), recipe, author_keys_of(workplace, scrubbed), scratch, workplace.progress)

    with workplace.store.workspace() as scratch:
        held, train = read(split, HELD_OUT, scratch), read(earlier, TRAIN, scratch)
        rarity = Rarity.of(scratch, held.columns.shingles, train.columns.shingles)
        boilerplate = Boilerplate.of(scratch, held.columns.texts, train.columns.texts)
        return list(overlap_of(held, train, rarity, boilerplate, recipe, scratch).problems)


def _ids_with(side: Features, ties: Ties, keys: NDArray[np.uint64]) -> list[str]:
    return [side.columns.ids[row] for row in np.unique(ties.rows[np.isin(ties.keys, keys)]).tolist()]


def _ids_of_pairs(held: Features, train: Features, pairs: NDArray[np.int64]) -> list[str]:
    return [f"{held.columns.ids[one]} ~ {train.columns.ids[other]}" for one, other in pairs.tolist()]


def _problem(kind: str, count: int, ids: Sequence[str]) -> list[str]:
    return [f"{count:,} {kind}{' crosses' if count == 1 else 's cross'} ({and_more(ids)})"] if count else []
