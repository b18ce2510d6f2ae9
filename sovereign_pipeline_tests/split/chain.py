"""The chain up to the split and the datasets with its real stages, and shingles of a few documents.

The invented texts hold no personal data, so a stage that hands the documents on stands where scrubbing stands.
"""

import tempfile
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from sovereign_pipeline.base.text import silent
from sovereign_pipeline.corpus.document import Document, read_documents, write_documents
from sovereign_pipeline.corpus.stages import CLASSIFIED_CORPUS, DOCUMENTS
from sovereign_pipeline.policy.corpus import Corpus, Split
from sovereign_pipeline.record.gates import evaluate_gates
from sovereign_pipeline.record.manifest import ArtifactRef
from sovereign_pipeline.record.production import produce
from sovereign_pipeline.record.stage import Built, Inputs, Stage, Verdict, Workplace
from sovereign_pipeline.record.store import Artifact
from sovereign_pipeline.split import HELD_OUT, TRAIN
from sovereign_pipeline.split.assignment import Assignment, assign
from sovereign_pipeline.split.features import HERE, Features, read_features
from sovereign_pipeline.split.shingles import Shingles, key_of, normal_form, shingles_of_normal_forms
from sovereign_pipeline.split.stages import LEAKAGE_SAFE_SPLIT

Change = Callable[[Document], Document]


def _handed_on(document: Document) -> Document:
    return document


def scrubbing_that(change: Change = _handed_on) -> Stage:
    """A stage in the place of scrubbed_corpus that applies `change` to every document."""

    def build(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
        documents = read_documents(inputs[CLASSIFIED_CORPUS.kind].file(DOCUMENTS))
        return Built(summary={"rows": write_documents(workspace / DOCUMENTS, map(change, documents))})

    return Stage("scrubbed_corpus", code_version="1", build=build, inputs=(CLASSIFIED_CORPUS,))


def split_stage(change: Change = _handed_on, build: Any = LEAKAGE_SAFE_SPLIT.build) -> Stage:
    return replace(LEAKAGE_SAFE_SPLIT, inputs=(scrubbing_that(change),), build=build)


def holding_out(choose: Callable[[set[str], list[str]], set[str]]) -> Any:
    """A build that holds out other documents. choose: ids of the held-out and of all documents -> ids to hold out."""

    def build(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
        built = LEAKAGE_SAFE_SPLIT.build(workplace, inputs, workspace)
        documents = list(read_documents(inputs["scrubbed_corpus"].file(DOCUMENTS)))
        held = choose({d.id for d in read_documents(workspace / HELD_OUT)}, [d.id for d in documents])
        write_documents(workspace / HELD_OUT, [d for d in documents if d.id in held])
        write_documents(workspace / TRAIN, [d for d in documents if d.id not in held])
        return built

    return build


def materialize(workplace: Workplace, stage: Stage) -> tuple[Artifact, dict[str, Verdict]]:
    """Produce and judge a stage after all that it needs, as a run does."""
    ref, verdicts = _materialize(workplace, stage)
    return workplace.store.open(ref), verdicts


def _materialize(workplace: Workplace, stage: Stage) -> tuple[ArtifactRef, dict[str, Verdict]]:
    inputs = {upstream.kind: _materialize(workplace, upstream)[0] for upstream in stage.inputs}
    ref = produce(stage, workplace, inputs).ref
    workplace.store.make_current(workplace.line.line, stage.kind, ref)
    return ref, evaluate_gates(stage, workplace, ref)


def documents_of(artifact: Artifact, name: str) -> list[Document]:
    return list(read_documents(artifact.file(name)))


def shingles_of(document: Document) -> NDArray[np.uint64]:
    (shingles,) = shingles_of_normal_forms([normal_form(document)])
    return shingles


def write_shingles(path: Path, rows: Sequence[NDArray[np.uint64]]) -> Shingles:
    sizes = np.array([row.size for row in rows], np.int64)
    np.concatenate([np.empty(0, np.uint64), *rows]).tofile(path)
    return Shingles.of(path, sizes)


def read(directory: Path, rows: Sequence[dict[str, Any]], recipe: Split, corpus: Corpus = HERE) -> Features:
    """The features of documents that are given as rows of `letter`."""
    documents = [Document.model_validate({"source": "letters", **row}) for row in rows]
    authors = {one.id: key_of(one.author) for one in documents} if recipe.by_author else {}
    file = Path(tempfile.mkdtemp(dir=directory)) / "documents.jsonl"
    write_documents(file, documents)
    return read_features(file, recipe, authors, file.parent, silent, corpus)


def assigned(directory: Path, rows: Sequence[dict[str, Any]], recipe: Split) -> Assignment:
    """The build's assignment without the stages before it."""
    return assign(read(directory, rows, recipe), recipe, directory, silent)
