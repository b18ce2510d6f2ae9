"""Where the packaged base model is, for the few tests that need a real vocabulary and real depth."""

from pathlib import Path

import pytest

from sovereign_pipeline.base.settings import Settings


def packaged_base() -> Path:
    base = Settings.from_environment().models / "smollm2-135m-instruct"
    if not (base / "model.safetensors").is_file():
        pytest.skip("the packaged base model was not fetched")
    return base
