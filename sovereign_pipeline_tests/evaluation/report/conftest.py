"""Fewer bootstrap resamples for the tests of the report."""

import pytest

from sovereign_pipeline.base import intervals


@pytest.fixture(autouse=True)
def few_resamples(monkeypatch: pytest.MonkeyPatch) -> None:
    """Enough here; the quality of the intervals is tested in `test_intervals.py`."""
    monkeypatch.setattr(intervals, "RESAMPLES", 1_000)
