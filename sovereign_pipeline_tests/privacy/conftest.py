"""A scrubber without a model (quick), one with the English model (loaded once), and scrubbed corpora of any content."""

from collections.abc import Callable, Iterable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sovereign_pipeline.corpus.document import Document, read_documents, write_documents
from sovereign_pipeline.corpus.stages import CLASSIFIED_CORPUS, DOCUMENTS, RAW_CORPUS
from sovereign_pipeline.policy.corpus import Privacy
from sovereign_pipeline.privacy.case_files import ScrubbedCase
from sovereign_pipeline.privacy.scrubbing import Scrubber
from sovereign_pipeline.privacy.stages import SCRUBBED_CORPUS
from sovereign_pipeline.record.manifest import ArtifactRef
from sovereign_pipeline.record.stage import Built, Stage, Workplace
from sovereign_pipeline_tests.materializing import materialize


def document(request: str = "", **changes: object) -> Document:
    fields = {
        "id": "R-1",
        "source": "letters",
        "case": "PRM/2024/017",
        "department": "permits",
        "author": "",
        "date": "2024-03-11",
        "classification": "INTERNAL",
        "language": "en",
        "subject": "",
        "request": request,
        "response": "",
    }
    return Document.model_validate({**fields, **changes})


def scrub(scrubber: Scrubber, *documents: Document) -> ScrubbedCase:
    return scrubber.scrub([documents])[0]


@pytest.fixture(scope="session")
def patterns_only() -> Scrubber:
    return Scrubber("lamps", "run", Privacy(name_models={}))


@pytest.fixture(scope="session")
def with_model() -> Scrubber:
    return Scrubber("lamps", "run", Privacy())


def classified(workplace: Workplace) -> dict[str, ArtifactRef]:
    """The corpus as far as the input of scrubbing, with verdicts."""
    made: dict[str, ArtifactRef] = {}
    for stage in (RAW_CORPUS, CLASSIFIED_CORPUS):
        made[stage.kind] = materialize(stage, workplace, made)
    return {CLASSIFIED_CORPUS.kind: made[CLASSIFIED_CORPUS.kind]}


def careless(change: Callable[[Iterator[Document]], Iterable[Document]]) -> Stage:
    """The stage with a build that changes the documents of the classified corpus in this way, and scrubs nothing."""

    def build(workplace: Workplace, inputs: Any, workspace: Path) -> Built:
        source = read_documents(inputs["classified_corpus"].file(DOCUMENTS))
        return Built(summary={"rows": write_documents(workspace / DOCUMENTS, change(source))})

    return replace(SCRUBBED_CORPUS, code_version="x", build=build, external=lambda workplace: {})
