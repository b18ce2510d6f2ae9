"""Define the stage leakage_safe_split, which writes a training, a selection and a held-out file without any common
matter."""

from collections import Counter
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.base.text import and_more, counted
from sovereign_pipeline.corpus.document import read_documents
from sovereign_pipeline.corpus.stages import DOCUMENTS
from sovereign_pipeline.policy.corpus import Split
from sovereign_pipeline.policy.line import Line
from sovereign_pipeline.privacy.stages import SCRUBBED_CORPUS
from sovereign_pipeline.record.audit_log import append
from sovereign_pipeline.record.database import open_registry
from sovereign_pipeline.record.sealing import pipeline_actor
from sovereign_pipeline.record.stage import Built, Config, Gate, Inputs, Stage, Workplace
from sovereign_pipeline.split import HELD_OUT, PROOF, SELECTION, TRAIN
from sovereign_pipeline.split.assignment import MIN_SHARE, assign
from sovereign_pipeline.split.features import Columns, author_keys_of, read_features, stop_without_the_model
from sovereign_pipeline.split.gate import evaluate_no_crossing_groups
from sovereign_pipeline.split.proof import Proof, proof_of
from sovereign_pipeline.split.similarity import least_digests, normal_form

SELECTION_DRAWN = "selection side drawn"
"""Entry of the ledger with the least digests of a selection side's texts. Settings are chosen by these documents, so
they never judge an adapter; see `evaluation/looks.py`."""


def build_leakage_safe_split(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
    """Write each document to one of the files, byte for byte and in the input's order, and write the proof.

    The selection side is chosen last, from the documents that are not held out, so it does not change the held-out
    side. Raises InputError if two documents have the same id, if a side cannot get `letters` documents, or if the
    paraphrase model is not installed.
    """
    recipe = workplace.line.split
    scrubbed = inputs[SCRUBBED_CORPUS.kind]
    if recipe.paraphrases:
        stop_without_the_model()
    author_keys = author_keys_of(workplace, scrubbed)

    def take(documents: Path, rules: Split, side: Path, rest: Path) -> Proof:
        with workplace.store.workspace() as scratch:
            features = read_features(documents, rules, author_keys, scratch, workplace.progress, workplace.line.corpus)
            _check_unique_ids(features.columns, documents)
            workplace.progress(f"{len(features.columns):,} documents read; looking for near-duplicates")
            assignment = assign(features, rules, scratch, workplace.progress)
        _write_sides(documents, assignment.is_held_out, side, rest)
        return proof_of(features.columns, assignment, rules)

    proof = take(scrubbed.file(DOCUMENTS), recipe, workspace / HELD_OUT, workspace / TRAIN)
    if recipe.of_selection is not None:
        with workplace.store.workspace() as scratch:
            rest = (workspace / TRAIN).rename(scratch / TRAIN)
            try:
                of_selection = take(rest, recipe.of_selection, workspace / SELECTION, workspace / TRAIN)
            except InputError as error:
                raise InputError(f"Of the documents that are not held out: {error.message}", error.hint) from error
        proof = proof.with_selection(of_selection)
        texts = least_digests(map(normal_form, read_documents(workspace / SELECTION)))
        with open_registry(workplace.settings).writing() as session:
            subjects = {"line": workplace.line.line, "texts": texts}
            append(session, pipeline_actor(workplace.settings), SELECTION_DRAWN, subjects)
    (workspace / PROOF).write_text(proof.to_json(), encoding="utf-8")
    selection = f"{proof.rows.selection:,} for selection, " if proof.rows.selection else ""
    workplace.progress(
        f"{proof.rows.held_out:,} documents held out, {selection}{proof.rows.train:,} for training; "
        f"{proof.near_duplicates.pairs:,} near-duplicate pairs kept together"
    )
    return Built(
        summary={
            "rows_train": proof.rows.train,
            **({"rows_selection": proof.rows.selection} if proof.rows.selection else {}),
            "rows_held_out": proof.rows.held_out,
            "held_out_share_of_letters": proof.held_out_share_of_letters,
            "components": proof.components.count,
            "near_duplicate_pairs": proof.near_duplicates.pairs,
        }
    )


def _check_unique_ids(columns: Columns, documents: Path) -> None:
    keys, counts = np.unique(columns.own_keys, return_counts=True)
    ids = Counter(columns.ids_with(keys[counts > 1]))
    repeated = sorted(id for id, count in ids.items() if count > 1)
    if repeated:
        raise InputError(
            f"{documents}: {counted(len(repeated), 'id stands', 'ids stand')} for more than one document "
            f"({and_more(repeated)}).",
            "Make ids unique across the sources of the line.",
        )


def _write_sides(documents: Path, is_taken: NDArray[np.bool_], side: Path, rest: Path) -> None:
    with documents.open("rb") as lines, rest.open("wb") as others, side.open("wb") as taken:
        for line, is_of_side in zip(lines, is_taken.tolist(), strict=True):
            (taken if is_of_side else others).write(line)


def _config(line: Line) -> Config:
    return line.split.model_dump(mode="json")


NO_CROSSING_GROUPS = Gate(
    name="no_crossing_groups",
    question=(
        "Do the sides share no case, link, author (where asked), near-duplicate or contained text, whole or in "
        "pieces, and is enough held out?"
    ),
    code_version="4",
    evaluate=evaluate_no_crossing_groups,
    config=lambda line: {**_config(line), "least_held_out_share": MIN_SHARE},
)
LEAKAGE_SAFE_SPLIT = Stage(
    kind="leakage_safe_split",
    code_version="4",
    build=build_leakage_safe_split,
    inputs=(SCRUBBED_CORPUS,),
    reads_corpus=lambda line: True,
    config=_config,
    libraries=("numpy", "rensa", "scipy"),
    gates=(NO_CROSSING_GROUPS,),
)
