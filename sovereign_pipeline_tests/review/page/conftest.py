"""An open review, a client of its page, and real browsers."""

from collections.abc import Iterator

import pytest
from playwright.sync_api import Browser

from sovereign_pipeline.review.page.app import create_app
from sovereign_pipeline_tests.browser import at_a_browser
from sovereign_pipeline_tests.browser import chromium as chromium
from sovereign_pipeline_tests.browser import pictures as pictures
from sovereign_pipeline_tests.review.conftest import ReviewBench
from sovereign_pipeline_tests.review.page.client import PageClient
from sovereign_pipeline_tests.review.page.operators import Operators
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
def operators(chromium: Browser, reviews: ReviewBench) -> Iterator[Operators]:
    served = InThisProcess(reviews)
    with at_a_browser(chromium) as visitor:
        yield Operators(visitor, served, served.url)
    served.stop()
