"""Headers of every response, and what a browser gets when something is wrong."""

import pytest

from sovereign_pipeline_tests.review.conftest import ReviewBench
from sovereign_pipeline_tests.review.page.client import PageClient, signed_in


def test_every_answer_carries_the_strict_headers_and_unknown_pages_are_told_plainly(browser: PageClient) -> None:
    for path in ("/", "/sign-in", "/static/review.js", "/nowhere", "/docs", "/openapi.json", "/pairs/x"):
        answer = browser.get(path)
        assert "default-src 'none'" in answer.headers["content-security-policy"], path
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert "There is no such page here." in browser.get("/nowhere").text
    assert browser.get("/docs").status_code == 404


def test_a_fault_of_the_program_tells_the_operator_nothing_and_the_log_no_text(
    browser: PageClient, reviews: ReviewBench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("first wording 3")

    signed_in(browser, reviews)
    monkeypatch.setattr("sovereign_pipeline.review.page.context.given", fail)
    page = browser.get("/")
    assert page.status_code == 500
    assert "The page is not available now" in page.text
    assert "wording" not in page.text + caplog.text
    assert "ValueError at" in caplog.text
