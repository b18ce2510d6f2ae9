"""Both pages in a real browser: what a person sees, in both languages, whatever a model or a person writes."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from sovereign_pipeline.policy.serving import Role
from sovereign_pipeline_tests.browser import DESKTOP, PHONE, Visitor, assert_accessible, take_pictures
from sovereign_pipeline_tests.browser import chromium as chromium
from sovereign_pipeline_tests.browser import pictures as pictures
from sovereign_pipeline_tests.browser import visitor as visitor
from sovereign_pipeline_tests.serving.gateway.conftest import Running
from sovereign_pipeline_tests.serving.gateway.scripted import Bench, adapter, named, try_out
from sovereign_pipeline_tests.waiting import wait_until

pytestmark = pytest.mark.browser

HOSTILE = "<img src=x onerror=\"document.title='owned'\"><script>document.title='owned'</script>"
ARABIC = "المصباح على الرصيف القديم مضاء."

DIRECTIONS_OF_LINES = """text => [0, text.textContent.indexOf("\\n") + 1].map(start => {
  const range = document.createRange();
  range.setStart(text.firstChild, start);
  range.setEnd(text.firstChild, start + 1);
  const first = range.getBoundingClientRect(), box = text.getBoundingClientRect();
  return first.left - box.left < box.right - first.right ? "left" : "right";
})"""
"""At which side each of two lines begins."""

Start = Callable[[], Running]


@dataclass
class Person:
    """Somebody at a browser, who has a token or is asked for one."""

    seen: Visitor
    pictures: Path

    @property
    def page(self) -> Page:
        return self.seen.page

    @property
    def complaints(self) -> list[str]:
        """What the browser's console said, but for the answer to who has no token yet."""
        return [each for each in self.seen.complaints if "status of 401" not in each]

    def enter(self, url: str, token: str) -> None:
        self.page.goto(url)
        self.page.fill("#token", token)
        self.page.press("#token", "Enter")

    def picture(self, name: str) -> None:
        self.page.screenshot(path=self.pictures / f"{name}.png", full_page=True)

    def assert_fits_a_phone(self, name: str) -> None:
        self.page.set_viewport_size(PHONE)
        assert self.page.evaluate("document.documentElement.scrollWidth") <= PHONE["width"]
        self.picture(name)
        self.page.set_viewport_size(DESKTOP)


@pytest.fixture
def person(visitor: Callable[[str], Visitor], pictures: Path) -> Callable[[str], Person]:
    """Made by a call with a language."""
    return lambda language: Person(visitor(language), pictures)


@pytest.mark.security_case(
    "A model or a person writes markup with a script into the chat page",
    "it is shown as text; no script runs",
)
def test_a_line_is_tried_and_what_anybody_writes_is_shown_as_text(
    bench: Bench, running: Start, person: Callable[[str], Person]
) -> None:
    bench.serve(adapter("lamps"))
    bench.serve(adapter("buoys", level="SECRET"))
    bench.engine.words = [HOSTILE, "\n", ARABIC]
    served, somebody = running(), person("en")
    page = somebody.page
    somebody.enter(f"{served.url}/", bench.token("INTERNAL", metrics=True))
    expect(page.locator("#model option")).to_have_text(["lamps"])  # and not `buoys`, which is above the clearance
    expect(page.locator("#level")).to_have_text("INTERNAL")
    page.fill("#question", f"{HOSTILE} Is it lit?")
    page.press("#question", "Enter")
    answer = page.locator(".answered .text")
    expect(answer).to_have_text(f"{HOSTILE}\n{ARABIC}")
    expect(page.locator(".asked")).to_have_text(f"{HOSTILE} Is it lit?")
    assert page.locator(".answered .text").evaluate(DIRECTIONS_OF_LINES) == ["left", "right"]
    assert page.locator(".answered img, .asked img").count() == 0 and page.title() == "Try a line"
    expect(page.locator(".answered bdi")).to_have_text("lamps-1.0.0")
    assert bench.engine.asked[0].messages == [{"role": "user", "content": f"{HOSTILE} Is it lit?"}]

    page.get_by_role("button", name="Bad answer").click()
    page.get_by_label("Reason").select_option("harmful")
    page.get_by_label("Severity").select_option("1")
    page.get_by_role("button", name="Report").click()
    expect(page.get_by_role("status")).to_have_text("Thank you. Your feedback was counted.")
    counts = served.app.state.gateway.handler.metrics.counts()
    assert counts["lamps-1.0.0"].down == 1
    assert_accessible(page)
    take_pictures(page, somebody.pictures, "chat")
    somebody.assert_fits_a_phone("chat-phone")
    assert page.evaluate("[localStorage.length, sessionStorage.length, document.cookie]") == [0, 0, ""]
    page.reload()
    expect(page.locator("#sign-in")).to_be_visible()
    assert_accessible(page)
    assert page.input_value("#token") == ""
    assert somebody.complaints == []


def test_an_answer_is_shown_while_it_comes_and_can_be_stopped(
    bench: Bench, running: Start, person: Callable[[str], Person]
) -> None:
    bench.serve(adapter("lamps"))
    bench.engine.silent_after = 2
    served, somebody = running(), person("en")
    page = somebody.page
    somebody.enter(f"{served.url}/", bench.token("INTERNAL"))
    page.fill("#question", "Is it lit?")
    page.click("#send")
    expect(page.locator(".answered .text")).to_have_text("The lamp ")
    assert bench.engine.running == 1, "it is still being computed"
    page.click("#stop")
    wait_until(lambda: bench.engine.given_up == 1, lambda: "the engine goes on")
    expect(page.locator(".answered")).to_contain_text("stopped")
    page.get_by_role("button", name="Good answer").click()
    expect(page.get_by_role("status")).to_have_text("Thank you. Your feedback was counted.")

    bench.engine.silent_after, bench.engine.lost_after = None, 1
    page.fill("#question", "And now?")
    page.press("#question", "Enter")
    expect(page.get_by_role("alert").last).to_contain_text("The engine ended before the answer was complete.")
    bench.engine.lost_after = None
    page.fill("#question", "And now?")
    page.press("#question", "Enter")
    expect(page.locator(".answered .text").last).to_have_text("The lamp is mended.")
    roles = [each["role"] for each in bench.engine.asked[-1].messages]
    assert roles == ["user", "assistant", "user", "assistant", "user"], "what was said so far goes along"
    page.click("#anew")
    expect(page.locator("#turns li")).to_have_count(0)
    assert somebody.complaints == []


def test_arabic_runs_from_right_to_left_and_the_language_can_change(
    bench: Bench, running: Start, person: Callable[[str], Person]
) -> None:
    bench.serve(adapter("lamps"))
    bench.engine.words = [ARABIC]
    served, somebody = running(), person("ar")
    page = somebody.page
    somebody.enter(f"{served.url}/", "sk-sov-wrong")
    expect(page.locator("#refused")).to_have_text("هذا الرمز غير صالح. أدخل الرمز الذي صُنع لك.")
    somebody.enter(f"{served.url}/", bench.token("INTERNAL"))
    assert page.get_attribute("html", "dir") == "rtl"
    page.fill("#question", "هل المصباح مضاء؟")
    page.press("#question", "Enter")
    expect(page.locator(".answered .text")).to_have_text(ARABIC)
    page.get_by_role("button", name="جواب سيئ").click()
    somebody.picture("chat-ar")
    directions = "texts => texts.map(text => getComputedStyle(text).direction)"
    assert page.eval_on_selector_all(".text", directions) == ["rtl", "rtl"]
    page.click("#language")
    expect(page.locator("html")).to_have_attribute("dir", "ltr")
    assert page.eval_on_selector_all(".text", directions) == ["rtl", "rtl"], "texts keep their own direction"
    expect(page.get_by_role("button", name="Good answer")).to_be_visible()
    assert somebody.complaints == []


def test_whom_the_proxy_names_is_asked_for_no_token(
    bench: Bench, running: Start, person: Callable[[str], Person]
) -> None:
    bench.behind_proxy("127.0.0.1", desk=Role(clearance="INTERNAL"))
    bench.serve(adapter("lamps"))
    served, somebody = running(), person("en")
    page = somebody.page
    page.set_extra_http_headers(named("layla", "desk"))
    page.goto(f"{served.url}/")
    page.fill("#question", "Is it lit?")
    page.press("#question", "Enter")
    expect(page.locator(".answered .text")).to_have_text("The lamp is mended.")
    page.get_by_role("button", name="Good answer").click()
    expect(page.get_by_role("status")).to_have_text("Thank you. Your feedback was counted.")
    expect(page.locator("#sign-in")).to_be_hidden()
    assert somebody.complaints == []


def test_an_administrator_sees_how_it_stands_within_their_reach(
    bench: Bench, running: Start, person: Callable[[str], Person]
) -> None:
    try_out(bench)
    served, somebody = running(), person("en")
    page = somebody.page
    somebody.enter(f"{served.url}/admin", bench.token("SECRET"))
    expect(page.locator("#refused")).to_have_text("This page does not exist.")
    somebody.enter(f"{served.url}/admin", bench.token("INTERNAL", admin=True))
    expect(page.locator("h2")).to_have_text(["lamps"])
    card = page.locator("section")
    for told in ("lamps-1.1.0", "10 %", "pilot-desk", "12 / 20", "Reports of severity 1", "+11.1%", "INTERNAL"):
        expect(card).to_contain_text(told)
    expect(page.get_by_role("heading", name="Trial of the staged adapter")).to_contain_text("open")
    assert_accessible(page)
    take_pictures(page, somebody.pictures, "admin")
    somebody.assert_fits_a_phone("admin-phone")
    page.click("#language")
    expect(card).to_contain_text("فترة تجربة المحوّل")
    assert page.get_attribute("html", "dir") == "rtl"
    somebody.picture("admin-ar")
    assert [each for each in somebody.complaints if "status of 404" not in each] == []
