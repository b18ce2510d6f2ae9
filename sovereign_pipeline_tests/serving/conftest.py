"""A tiny base model with adapters, and one event loop for all tests of a module."""

import asyncio
from collections.abc import Iterator

import pytest

from sovereign_pipeline_tests.conftest import DemoInstitution
from sovereign_pipeline_tests.release.conftest import Office, office  # noqa: F401  fixtures
from sovereign_pipeline_tests.serving.rollout.conftest import desk as desk
from sovereign_pipeline_tests.serving.rollout.conftest import desk_of_two as desk_of_two
from sovereign_pipeline_tests.serving.served_office import Deploying, ServedOffice, serving_one
from sovereign_pipeline_tests.serving.tiny_adapters import TinyAdapters


@pytest.fixture
def anyio_backend() -> str:
    """Tests that are coroutines run in asyncio's loop."""
    return "asyncio"


@pytest.fixture(scope="module")
def runner() -> Iterator[asyncio.Runner]:
    """An engine belongs to a loop, and a module has one engine: starting it takes seconds."""
    with asyncio.Runner() as runner:
        yield runner


@pytest.fixture(scope="session")
def tiny(tmp_path_factory: pytest.TempPathFactory) -> TinyAdapters:
    return TinyAdapters(tmp_path_factory.mktemp("tiny"))


@pytest.fixture
def served_office(
    office: Office,  # noqa: F811
    tiny: TinyAdapters,
) -> ServedOffice:
    return ServedOffice(office, tiny)


@pytest.fixture
def deploying(institution: DemoInstitution, tiny: TinyAdapters) -> Deploying:
    """One adapter is in production."""
    return Deploying(serving_one(institution, tiny))
