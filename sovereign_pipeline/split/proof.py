"""Define `proof.json` of a split: parameters, counts and evidence that no group crosses, without text."""

import json
from datetime import date
from typing import Literal

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from sovereign_pipeline.base.files import Frozen
from sovereign_pipeline.policy.corpus import Split
from sovereign_pipeline.split.assignment import MIN_SHARE, Assignment
from sovereign_pipeline.split.contained_texts import BOILERPLATE_TEXTS, LEAST_IN_COMMON
from sovereign_pipeline.split.features import Columns
from sovereign_pipeline.split.near_duplicates import (
    BANDS,
    MINHASH_SEED,
    PERMUTATIONS,
    RECALL,
    ROWS_PER_BAND,
    compared_share,
)
from sovereign_pipeline.split.pieces import SHARE
from sovereign_pipeline.split.similarity import CHARACTERS_PER_SHINGLE, WORDS_PER_SHINGLE

# The order of the fields is the order of the keys in the file.


class MinHash(Frozen):
    """Parameters of the MinHash search for near-duplicates."""

    permutations: int = PERMUTATIONS
    seed: int = MINHASH_SEED
    bands: int = BANDS
    rows_per_band: int = ROWS_PER_BAND
    compared_share: float
    """Compared share of each document's shingles, rarest first."""
    recall_at_threshold: float = round(RECALL, 6)


class Parameters(Split):
    """The recipe's `split`, with the constants of the method."""

    least_held_out_share: float = MIN_SHARE
    words_per_shingle: int = WORDS_PER_SHINGLE
    characters_per_shingle_arabic: int = CHARACTERS_PER_SHINGLE
    minhash: MinHash


class SideCounts(Frozen):
    """Numbers of documents on each side."""

    train: int
    selection: int = Field(default=0, exclude_if=lambda rows: not rows)
    held_out: int


class LargestComponent(Frozen):
    """The largest group of tied documents."""

    rows: int
    first_id: str
    side: Literal["train", "held_out"]


class Components(Frozen):
    """The groups of tied documents."""

    count: int
    held_out: int
    largest: LargestComponent


class NearDuplicateCounts(Frozen):
    """Counts of near-duplicate pairs. Both documents of a pair are on the same side."""

    pairs: int
    copies: int
    candidates_compared: int
    rows_in_large_buckets: int
    found_by_exhaustive_check_only: int


class ContainedTextCounts(Frozen):
    """Counts of document pairs in which one contains a text of the other. Both documents are on the same side."""

    pairs: int
    """Number of pairs. Equal longer texts count as one text."""
    boilerplate_above_texts: int = BOILERPLATE_TEXTS
    """Number of texts above which a shingle is boilerplate and is ignored."""
    least_shingles_in_common: int = LEAST_IN_COMMON
    boilerplate_documents: int
    """Number of documents with a long text of mostly boilerplate, for which contained texts cannot be determined. They
    are held out last."""
    boilerplate_documents_held_out: int
    crossing_by_fields: dict[str, int]
    """Field of a held-out document ~ field of a training document -> number of crossing pairs of texts."""


class PieceCounts(Frozen):
    """Counts of documents that others contain in pieces."""

    documents: int
    """Number of documents that were tied or became a last choice because others contain half of a text in pieces."""
    least_share: float = SHARE
    letters_of_a_run: int


class CrossingMethod(Frozen):
    """The method of the exhaustive check for crossing near-duplicates."""

    near_duplicates: str = "every pair across the sides that prefix, size and position do not rule out, exactly"
    recall: float = 1.0
    pairs_compared: int


class ParaphraseCounts(Frozen):
    """Counts of paraphrase pairs. Both documents of a pair are on the same side."""

    pairs: int


class DateCut(Frozen):
    """The cut of a split by date."""

    first_day_held_out: str
    newest_training_day: str
    older_documents_held_out_with_their_group: int


class Proof(Frozen):
    """The content of `proof.json`. A component's size is its number of documents."""

    parameters: Parameters
    rows: SideCounts
    letters: SideCounts
    preferences: SideCounts
    held_out_share_of_letters: float
    components: Components
    near_duplicates: NearDuplicateCounts
    crossing: dict[str, int]
    """Kind of tie -> number of crossing ties."""
    crossing_check: CrossingMethod
    contained_texts: ContainedTextCounts
    pieces: PieceCounts
    paraphrases: ParaphraseCounts | None = Field(default=None, exclude_if=lambda counts: counts is None)
    """Counts of paraphrases. Absent unless the recipe ties paraphrases."""
    date_cut: DateCut | None = Field(default=None, exclude_if=lambda cut: cut is None)
    """Cut by date; absent unless the split is by date."""
    selection: "Proof | None" = Field(default=None, exclude_if=lambda proof: proof is None)
    """Proof for the split of the remaining documents, in which `held_out` means the selection side. Absent if there is
    no selection side."""

    def with_selection(self, proof: "Proof") -> "Proof":
        """Return this proof with the selection side's proof. Its counts then cover three sides."""
        sides = {
            name: SideCounts(train=inner.train, selection=inner.held_out, held_out=getattr(self, name).held_out)
            for name in ("rows", "letters", "preferences")
            if (inner := getattr(proof, name))
        }
        return self.model_copy(update={**sides, "selection": proof})

    def to_json(self) -> str:
        return json.dumps(self.model_dump(mode="json"), indent=2) + "\n"


def proof_of(columns: Columns, assignment: Assignment, recipe: Split) -> Proof:
    is_held_out, is_letter = assignment.is_held_out, ~columns.is_preference
    rows, letters = _side_counts(is_held_out), _side_counts(is_held_out[is_letter])
    similar = assignment.similar
    return Proof(
        parameters=Parameters(
            **recipe.model_dump(),
            minhash=MinHash(compared_share=round(compared_share(recipe.near_duplicate_jaccard), 6)),
        ),
        rows=rows,
        letters=letters,
        preferences=SideCounts(train=rows.train - letters.train, held_out=rows.held_out - letters.held_out),
        held_out_share_of_letters=round(letters.held_out / (letters.train + letters.held_out), 6),
        components=_components(columns, assignment),
        near_duplicates=NearDuplicateCounts(
            pairs=len(similar.pairs) + assignment.late_pairs,
            copies=similar.copies,
            candidates_compared=similar.candidates,
            rows_in_large_buckets=similar.rows_in_large_buckets,
            found_by_exhaustive_check_only=assignment.late_pairs,
        ),
        crossing=assignment.check.found,
        crossing_check=CrossingMethod(pairs_compared=assignment.check.compared),
        contained_texts=ContainedTextCounts(
            pairs=assignment.contained,
            boilerplate_documents=int(assignment.is_boilerplate.sum()),
            boilerplate_documents_held_out=int((assignment.is_boilerplate & is_held_out).sum()),
            crossing_by_fields=assignment.check.texts.by_fields,
        ),
        pieces=PieceCounts(documents=assignment.in_pieces, letters_of_a_run=assignment.check.pieces.letters),
        paraphrases=ParaphraseCounts(pairs=assignment.paraphrases) if recipe.paraphrases else None,
        date_cut=_date_cut(columns, is_held_out, assignment.cut) if assignment.cut else None,
    )


def _side_counts(is_held_out: NDArray[np.bool_]) -> SideCounts:
    return SideCounts(train=int((~is_held_out).sum()), held_out=int(is_held_out.sum()))


def _components(columns: Columns, assignment: Assignment) -> Components:
    is_held_out, component_of = assignment.is_held_out, assignment.component_of
    sizes = np.bincount(component_of, minlength=len(columns))
    largest = int(sizes.argmax())  # a component is identified by the number of its first document
    return Components(
        count=int((sizes > 0).sum()),
        held_out=int(np.unique(component_of[is_held_out]).size),
        largest=LargestComponent(
            rows=int(sizes[largest]),
            first_id=columns.ids[largest],
            side="held_out" if is_held_out[largest] else "train",
        ),
    )


def _date_cut(columns: Columns, is_held_out: NDArray[np.bool_], cut: date) -> DateCut:
    is_older = columns.days < cut.toordinal()
    return DateCut(
        first_day_held_out=cut.isoformat(),
        newest_training_day=date.fromordinal(int(columns.days[~is_held_out].max())).isoformat(),
        older_documents_held_out_with_their_group=int((is_held_out & is_older).sum()),
    )
