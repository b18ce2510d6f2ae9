"""Fewer bootstrap resamples for the tests of the report."""

import pytest


@pytest.fixture(autouse=True)
def always_few_resamples(few_resamples: None) -> None:
    return None
