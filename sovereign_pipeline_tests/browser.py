"""A real browser for the tests that drive one, and people at it. A folder's conftest imports the fixtures it needs."""

import os
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, ViewportSize, expect, sync_playwright

from sovereign_pipeline_tests.waiting import SECONDS

DESKTOP: ViewportSize = {"width": 1200, "height": 900}
PHONE: ViewportSize = {"width": 360, "height": 740}

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)

LOWEST_CONTRAST = """() => {
  const luminance = color => {
    const [r, g, b] = color.match(/[\\d.]+/g).slice(0, 3).map(Number).map(value => value / 255)
      .map(value => value <= 0.04045 ? value / 12.92 : ((value + 0.055) / 1.055) ** 2.4);
    return 0.2126 * r + 0.7152 * g + 0.0722 * b;
  };
  const ground = element => {
    const color = getComputedStyle(element).backgroundColor;
    return color === 'rgba(0, 0, 0, 0)' && element.parentElement ? ground(element.parentElement) : color;
  };
  const ratio = element => {
    const pair = [luminance(getComputedStyle(element).color), luminance(ground(element))].sort((a, b) => b - a);
    return (pair[0] + 0.05) / (pair[1] + 0.05);
  };
  const written = [...document.body.querySelectorAll('*')]
    .filter(element => [...element.childNodes].some(node => node.nodeType === 3 && node.textContent.trim()));
  return Math.min(...written.map(ratio));
}"""
"""Of the text of a page and what is behind it."""


WIDTHS = (390, 1024, 1440)


def assert_accessible(page: Page) -> None:
    """Fail for every rule of axe-core that a part of the page violates, in light and in dark."""
    from axe_playwright_python.sync_playwright import Axe

    for scheme in ("light", "dark"):
        page.emulate_media(color_scheme=scheme)
        violations = Axe().run(page).response["violations"]
        assert [(each["id"], [node["html"] for node in each["nodes"]]) for each in violations] == [], scheme
        assert page.evaluate(LOWEST_CONTRAST) >= 4.5, scheme  # WCAG 2.2, success criterion 1.4.3
    page.emulate_media(color_scheme="light")


def take_pictures(page: Page, folder: Path, name: str) -> None:
    """Take the page at every width, in light and in dark. Nothing is wider than the window."""
    before = page.viewport_size
    for width in WIDTHS:
        page.set_viewport_size({"width": width, "height": 900})
        assert page.evaluate("document.documentElement.scrollWidth") <= width
        for scheme in ("light", "dark"):
            page.emulate_media(color_scheme=scheme)
            page.screenshot(path=folder / f"{name}-{width}-{scheme}.png", full_page=True)
    page.emulate_media(color_scheme="light")
    if before is not None:
        page.set_viewport_size(before)


@contextmanager
def open_browser(*flags: str) -> Iterator[Browser]:
    """Fails the test where none is installed. flags: besides those that every test needs."""
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.fail(f"These tests need a browser: none of {', '.join(BROWSERS)} is there. apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=[*FLAGS, *flags])
        yield browser
        browser.close()


@dataclass
class Visitor:
    """Somebody at a browser that nobody else uses. complaints: what its console said."""

    page: Page
    complaints: list[str] = field(default_factory=list)


@contextmanager
def at_a_browser(browser: Browser) -> Iterator[Callable[[str], Visitor]]:
    """Visitors, each made by a call with a language; they leave at the end."""
    contexts: list[BrowserContext] = []

    def make(language: str) -> Visitor:
        context = browser.new_context(locale=language, viewport=DESKTOP)
        context.set_default_timeout(SECONDS * 1000)
        contexts.append(context)
        visitor = Visitor(context.new_page())
        visitor.page.on("console", lambda message: visitor.complaints.append(message.text))
        visitor.page.on("pageerror", lambda error: visitor.complaints.append(str(error)))
        return visitor

    expect.set_options(timeout=SECONDS * 1000)
    yield make
    for context in contexts:
        context.close()


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    with open_browser() as browser:
        yield browser


@pytest.fixture
def visitor(chromium: Browser) -> Iterator[Callable[[str], Visitor]]:
    """Made by a call with a language."""
    with at_a_browser(chromium) as make:
        yield make


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    """Where a test leaves its screenshots: under $SOVEREIGN_TEST_OUTPUT, or in pytest's own directory."""
    root = Path(os.environ.get("SOVEREIGN_TEST_OUTPUT") or tmp_path) / "screenshots"
    root.mkdir(parents=True, exist_ok=True)
    return root
