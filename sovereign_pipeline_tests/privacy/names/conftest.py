"""The tiny Arabic model, trained once."""

from pathlib import Path

import pytest

from sovereign_pipeline_tests.privacy.names.tiny_ner import LABELS, train


@pytest.fixture(scope="session")
def arabic(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return train(tmp_path_factory.mktemp("models") / "arabic-ner", LABELS)
