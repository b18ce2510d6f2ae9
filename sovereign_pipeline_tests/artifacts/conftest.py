"""A workplace in an invented institution."""

import pytest

from sovereign_pipeline.record.stage import Workplace
from sovereign_pipeline_tests.conftest import DemoInstitution


@pytest.fixture
def workplace(institution: DemoInstitution) -> Workplace:
    return institution.workplace()
