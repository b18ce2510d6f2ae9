"""The pages and the file in a real browser, from left to right and from right to left."""

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from sovereign_pipeline.web.rendering import adapter_file, translate
from sovereign_pipeline_tests.browser import DESKTOP, PHONE, Visitor, assert_accessible, take_pictures
from sovereign_pipeline_tests.evidence.conftest import FIRST, SECOND
from sovereign_pipeline_tests.web.conftest import HOSTILE, THIRD, Site

pytestmark = [pytest.mark.browser, pytest.mark.slow]

RED = "rgb(138, 47, 34)"
TEXTS_FIT = """svg => [...svg.querySelectorAll("text")].every(text => {
  const own = text.getBBox(), box = text.parentElement.querySelector("rect").getBBox();
  return own.x >= box.x && own.x + own.width <= box.x + box.width;
})"""
"""Whether each text of the drawing is within its box."""
LINES_CROSS_NO_BOX = """svg => [...svg.querySelectorAll("path")].every(path => {
  const boxes = [...svg.querySelectorAll("rect")].map(rect => rect.getBBox());
  const steps = [...Array(201).keys()].map(step => path.getPointAtLength(path.getTotalLength() * step / 200));
  return steps.every(({x, y}) => boxes.every(box =>
    x <= box.x || x >= box.x + box.width || y <= box.y + 1 || y >= box.y + box.height - 1));
})"""
"""Whether no line of the drawing runs behind a box."""


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
    assert page.title() == FIRST and page.locator("img, script").count() == 0
    expect(page.get_by_text(HOSTILE, exact=False).first).to_be_visible()
    for size in (PHONE, DESKTOP):
        page.set_viewport_size(size)
        assert page.evaluate("document.documentElement.scrollWidth") <= size["width"]
        assert page.evaluate("document.documentElement.scrollHeight") <= 8_000
    drawing = page.locator("svg.lineage")
    expect(drawing).to_be_visible()
    assert drawing.evaluate(TEXTS_FIT) and drawing.evaluate(LINES_CROSS_NO_BOX)
    assert "…" not in (drawing.text_content() or "")
    assert_accessible(page)


def follow(page: Page, link: str) -> None:
    """Click and wait until the other page is there: until then the old one answers, or an empty document."""
    with page.expect_navigation():
        page.get_by_role("link", name=link, exact=True).click()


@pytest.mark.parametrize("language", ["en", "ar"])
def test_a_reader_signs_in_and_follows_an_adapter_to_its_documents(
    site: Site, served: Callable[[], str], visitor: Callable[[str], Visitor], pictures: Path, language: str
) -> None:
    somebody = visitor(language)
    page = somebody.page
    address = served()
    assert page.goto(f"{address}/registry").status == 401  # type: ignore[union-attr]
    somebody.complaints.clear()  # a browser's own word on the 401
    assert_accessible(page)
    page.fill("#token", site.token("INTERNAL"))
    page.press("#token", "Enter")
    expect(page.get_by_text(SECOND, exact=True)).to_be_visible()
    assert THIRD not in page.content()
    expect(
        page.locator("section").get_by_text(translate("withheld", "ar" if language == "ar" else "en"))
    ).to_be_visible()
    assert_accessible(page)
    take_pictures(page, pictures, f"registry-{language}")
    follow(page, "lamps")
    assert THIRD not in page.content()
    assert_accessible(page)
    take_pictures(page, pictures, f"line-{language}")
    follow(page, FIRST)
    assert_looks_right(page, language)
    take_pictures(page, pictures, f"adapter-{language}")
    linked = page.locator("svg.lineage a", has_text="evaluation_report").get_attribute("href")
    assert '<aside class="level" aria-label="Level"><bdi>PUBLIC</bdi>' in page.request.get(f"{address}{linked}").text()
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


@pytest.mark.parametrize(("kind", "file"), [("evaluation_report", "report.html"), ("training_dataset", "card.md")])
def test_a_report_and_a_card_are_marked_on_every_page(
    site: Site, served: Callable[[], str], visitor: Callable[[str], Visitor], pictures: Path, kind: str, file: str
) -> None:
    page = visitor("en").page
    node = next(each for each in site.view(THIRD).nodes if each.name == kind)
    manifest = site.office.bench.store.read_manifest(site.office.bench.store.ref_of(node.sha256))
    # In the browser the page runs no script at all, also none of a test.
    page.set_content(page.request.get(f"{served()}/{node.sha256}/{file}").text())
    expect(page.locator(".level")).to_have_text("SECRET")
    for expected in ("SECRET", node.sha256, f"version {manifest.producer.code_version}"):
        expect(page.locator(".marking")).to_contain_text(expected)
    expect(page.locator(".marking")).to_contain_text(manifest.circumstances.created_at[:10])
    assert_accessible(page)
    take_pictures(page, pictures, f"{kind}")
    page.emulate_media(media="print")
    for part, group in ((".level", "header"), (".marking", "footer")):  # such a group is printed on every page
        assert page.locator(part).evaluate("element => getComputedStyle(element).display") == f"table-{group}-group"
    (pictures / f"{kind}.pdf").write_bytes(page.pdf())
