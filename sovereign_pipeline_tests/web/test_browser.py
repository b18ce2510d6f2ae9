"""The pages and the file in a real browser, from left to right and from right to left."""

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from sovereign_pipeline.web.rendering import adapter_file, translate
from sovereign_pipeline_tests.browser import DESKTOP, LOWEST_CONTRAST, PHONE, Visitor
from sovereign_pipeline_tests.evidence.conftest import FIRST, SECOND
from sovereign_pipeline_tests.web.conftest import HOSTILE, THIRD, Site

pytestmark = [pytest.mark.browser, pytest.mark.slow]

RED = "rgb(138, 47, 34)"
TEXTS_FIT = """svg => [...svg.querySelectorAll("text")].every(text => {
  const own = text.getBBox(), box = text.parentElement.querySelector("rect").getBBox();
  return own.x >= box.x && own.x + own.width <= box.x + box.width;
})"""
"""Whether each text of the drawing is within its box."""


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
        page.set_viewport_size(size)
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
    drawing = page.locator("svg.lineage")
    expect(drawing).to_be_visible()
    assert drawing.evaluate(TEXTS_FIT)


@pytest.mark.parametrize("language", ["en", "ar"])
def test_a_reader_signs_in_and_follows_an_adapter_to_its_documents(
    site: Site, served: Callable[[], str], visitor: Callable[[str], Visitor], pictures: Path, language: str
) -> None:
    somebody = visitor(language)
    page = somebody.page
    address = served()
    assert page.goto(f"{address}/registry").status == 401  # type: ignore[union-attr]
    somebody.complaints.clear()  # a browser's own word on the 401
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
    assert somebody.complaints == []


@pytest.mark.parametrize("language", ["en", "ar"])
def test_a_file_shows_the_same_where_nothing_is_served(
    site: Site, visitor: Callable[[str], Visitor], pictures: Path, tmp_path: Path, language: str
) -> None:
    somebody = visitor(language)
    page = somebody.page
    path = tmp_path / "adapter.html"
    path.write_text(adapter_file(site.view(FIRST), "ar" if language == "ar" else "en"), encoding="utf-8")
    asked: list[str] = []
    page.on("request", lambda request: asked.append(request.url))
    page.goto(path.as_uri())
    assert_looks_right(page, language)
    page.screenshot(path=pictures / f"file-{language}.png", full_page=True)
    assert [url for url in asked if not url.startswith("data:")] == [path.as_uri()] and somebody.complaints == []
    assert page.locator("a").count() == 0
