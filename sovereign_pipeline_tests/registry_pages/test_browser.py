"""The pages and the file in a real browser, from left to right and from right to left."""

import os
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, Page, expect

from sovereign_pipeline.registry_pages.rendering import adapter_file, translate
from sovereign_pipeline_tests.audit.conftest import FIRST, SECOND
from sovereign_pipeline_tests.browser import LOWEST_CONTRAST, open_browser
from sovereign_pipeline_tests.registry_pages.conftest import HOSTILE, THIRD, Site
from sovereign_pipeline_tests.waiting import SECONDS

pytestmark = [pytest.mark.browser, pytest.mark.slow]

DESKTOP, PHONE = {"width": 1200, "height": 900}, {"width": 360, "height": 740}
RED = "rgb(138, 47, 34)"
TEXTS_FIT = """svg => [...svg.querySelectorAll("text")].every(text => {
  const own = text.getBBox(), box = text.parentElement.querySelector("rect").getBBox();
  return own.x >= box.x && own.x + own.width <= box.x + box.width;
})"""
"""Whether each text of the drawing is within its box."""


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with open_browser() as browser:
        yield browser


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    root = Path(os.environ.get("SOVEREIGN_TEST_OUTPUT") or tmp_path) / "screenshots"
    root.mkdir(parents=True, exist_ok=True)
    return root


@pytest.fixture
def person(chromium: Browser) -> Iterator[Callable[..., tuple[Page, list[str]]]]:
    """Made by a call with a language: a page, and what its console said."""
    contexts: list[Any] = []

    def make(language: str) -> tuple[Page, list[str]]:
        context = chromium.new_context(locale=language, viewport=DESKTOP)  # type: ignore[arg-type]
        context.set_default_timeout(SECONDS * 1000)
        contexts.append(context)
        page, complaints = context.new_page(), list[str]()
        page.on("console", lambda message: complaints.append(message.text))
        page.on("pageerror", lambda error: complaints.append(str(error)))
        return page, complaints

    expect.set_options(timeout=SECONDS * 1000)
    yield make
    for context in contexts:
        context.close()


def assert_looks_right(page: Page, language: str) -> None:
    """Direction, contrast, nothing wider than the window, and what was waived in red and in words."""
    assert page.evaluate("[document.dir, document.documentElement.lang]") == [
        "rtl" if language == "ar" else "ltr",
        language,
    ]
    waived = page.locator(".waived").first
    expect(waived).to_be_visible()
    expect(waived).to_contain_text(translate("Waived", "ar" if language == "ar" else "en"))
    assert waived.evaluate("element => getComputedStyle(element).color") == RED
    assert page.evaluate(LOWEST_CONTRAST) >= 4.5  # WCAG 2.2, success criterion 1.4.3
    assert page.title() == FIRST and page.locator("img, script").count() == 0
    expect(page.get_by_text(HOSTILE, exact=False).first).to_be_visible()
    for size in (PHONE, DESKTOP):
        page.set_viewport_size(size)  # type: ignore[arg-type]
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    drawing = page.locator("svg.lineage")
    expect(drawing).to_be_visible()
    assert drawing.evaluate(TEXTS_FIT)


@pytest.mark.parametrize("language", ["en", "ar"])
def test_a_reader_signs_in_and_follows_an_adapter_to_its_documents(
    site: Site, served: Callable[[], str], person: Callable[..., tuple[Page, list[str]]], pictures: Path, language: str
) -> None:
    page, complaints = person(language)
    address = served()
    assert page.goto(f"{address}/registry").status == 401  # type: ignore[union-attr]
    complaints.clear()  # a browser's own word on the 401
    page.fill("#token", site.token("INTERNAL"))
    page.press("#token", "Enter")
    expect(page.get_by_text(SECOND, exact=True)).to_be_visible()
    assert THIRD not in page.content()
    expect(
        page.locator("section").get_by_text(translate("withheld", "ar" if language == "ar" else "en"))
    ).to_be_visible()
    page.screenshot(path=pictures / f"registry-{language}.png", full_page=True)
    page.get_by_role("link", name=FIRST, exact=True).click()
    assert_looks_right(page, language)
    page.screenshot(path=pictures / f"adapter-{language}.png", full_page=True)
    assert complaints == []


@pytest.mark.parametrize("language", ["en", "ar"])
def test_a_file_shows_the_same_where_nothing_is_served(
    site: Site, person: Callable[..., tuple[Page, list[str]]], pictures: Path, tmp_path: Path, language: str
) -> None:
    page, complaints = person(language)
    path = tmp_path / "adapter.html"
    path.write_text(adapter_file(site.view(FIRST), "ar" if language == "ar" else "en"), encoding="utf-8")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    assert_looks_right(page, language)
    page.screenshot(path=pictures / f"file-{language}.png", full_page=True)
    assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()] and complaints == []
    assert page.locator("a").count() == 0
