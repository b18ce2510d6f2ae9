"""An open review, a client of its page, and real browsers."""

import os
import shutil
from collections.abc import Iterator
from pathlib import Path

import pytest
from playwright.sync_api import Browser, sync_playwright

from sovereign_pipeline.review.page.app import create_app
from sovereign_pipeline_tests.review.conftest import ReviewBench
from sovereign_pipeline_tests.review.page.client import PageClient
from sovereign_pipeline_tests.review.page.operators import BROWSERS, FLAGS, Operators
from sovereign_pipeline_tests.review.page.servers import InThisProcess


@pytest.fixture
def reviews(reviews: ReviewBench) -> ReviewBench:
    reviews.open()
    return reviews


@pytest.fixture
def browser(reviews: ReviewBench) -> Iterator[PageClient]:
    with PageClient(create_app(reviews.bench.settings, reviews.registry), raise_server_exceptions=False) as browser:
        yield browser


@pytest.fixture
def output(tmp_path: Path) -> Path:
    """Where a test leaves its screenshots: under $SOVEREIGN_TEST_OUTPUT, or in pytest's own directory."""
    root = Path(os.environ.get("SOVEREIGN_TEST_OUTPUT") or tmp_path) / "screenshots"
    root.mkdir(parents=True, exist_ok=True)
    return root


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.fail(f"These tests need a browser: none of {', '.join(BROWSERS)} is there. apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield browser
        browser.close()


@pytest.fixture
def operators(chromium: Browser, reviews: ReviewBench) -> Iterator[Operators]:
    served = InThisProcess(reviews)
    operators = Operators(chromium, served, served.url)
    yield operators
    for context in operators.contexts:
        context.close()
    served.stop()
