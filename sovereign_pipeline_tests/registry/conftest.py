"""A chain of small real artifacts in an invented institution."""

import pytest

from sovereign_pipeline_tests.conftest import DemoInstitution
from sovereign_pipeline_tests.registry.bench import Bench, small_bench


@pytest.fixture
def bench(institution: DemoInstitution) -> Bench:
    return small_bench(institution)
