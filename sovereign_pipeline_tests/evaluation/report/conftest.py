"""Fewer bootstrap resamples for the tests of the report."""

import pytest

from sovereign_pipeline.evaluation.statistics import paired as statistics


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough here; the quality of the intervals is tested in `statistics/test_paired.py`."""
    monkeypatch.setattr(statistics, "RESAMPLES", 1_000)
