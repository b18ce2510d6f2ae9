"""Fewer bootstrap resamples and no pictures for the tests of the report; `test_stages.py` draws them."""

import pytest

from sovereign_pipeline.evaluation.report import report


@pytest.fixture(autouse=True)
def quick_reports(few_resamples: None, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(report, "_figure", lambda picture, caption: "")
