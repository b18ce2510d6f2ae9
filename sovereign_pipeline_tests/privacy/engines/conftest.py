"""The demonstration's letters as one file, and workers that are always worth their start."""

from pathlib import Path

import pytest

from sovereign_pipeline.corpus.document import write_documents
from sovereign_pipeline.privacy import engines
from sovereign_pipeline_tests.privacy.engines.scrubbed_files import demonstration


@pytest.fixture(scope="session")
def corpus_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("corpus") / "in.jsonl"
    assert write_documents(path, demonstration()) > 200
    return path


@pytest.fixture
def workers_are_always_worth_it(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(engines, "BYTES_WORTH_A_WORKER", 1)
    monkeypatch.setattr(engines, "DOCUMENTS_PER_BATCH", 64)
