"""The review page in a real browser: by keyboard, in both languages, at once, twice, and when the connection is lost.

Everything that the browser received is kept and searched for what would tell which answer is whose.
"""

import base64
import json
import re
import shutil
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import pytest
from playwright.sync_api import Browser, BrowserContext, Page, Route, sync_playwright

from sovereign_pipeline.ledger.tables import Ballot, Guess
from sovereign_pipeline_tests.review.conftest import InItsOwnProcess, InThisProcess, ReviewBench, Sent

BROWSERS = ("chromium", "chromium-browser", "google-chrome", "google-chrome-stable", "chrome")
FLAGS = (
    *("--no-sandbox", "--disable-gpu", "--disable-background-networking"),
    *("--disable-component-update", "--disable-sync"),
)
DESKTOP, PHONE = {"width": 1200, "height": 900}, {"width": 360, "height": 740}


@pytest.fixture(scope="module")
def chromium() -> Iterator[Browser]:
    path = next(filter(None, map(shutil.which, BROWSERS)), None)
    if path is None:
        pytest.fail(f"These tests need a browser: none of {', '.join(BROWSERS)} is there. apt-get install chromium")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=path, args=list(FLAGS))
        yield browser
        browser.close()


@dataclass
class Operator:
    """One operator at one browser. complaints: what the browser's console said."""

    name: str
    url: str
    context: BrowserContext
    page: Page
    complaints: list[str] = field(default_factory=list)

    def sign_in(self, token: str) -> None:
        self.page.goto(f"{self.url}/sign-in#{token}")
        self.record()
        self.page.wait_for_selector("#ballot")

    @property
    def pair(self) -> str:
        return str(self.page.get_attribute("form", "data-pair"))

    def type(self, keys: str) -> None:
        for key in keys:
            self.page.keyboard.press(key)

    def record(self) -> None:
        """Enter, and the next page, loaded: its script listens to keys from then on."""
        self.page.bring_to_front()  # else the browser draws nothing, and waiting looks once a frame
        with self.page.expect_navigation():
            self.page.keyboard.press("Enter")


@dataclass
class Operators:
    chromium: Browser
    served: InThisProcess
    url: str
    contexts: list[BrowserContext] = field(default_factory=list)

    def __call__(self, name: str, language: str = "en") -> Operator:
        context = self.chromium.new_context(locale=language, viewport=DESKTOP)  # type: ignore[arg-type]
        context.set_default_timeout(20_000)
        self.contexts.append(context)
        operator = Operator(name, self.url, context, context.new_page())
        operator.page.on("console", lambda message: operator.complaints.append(message.text))
        operator.page.on("pageerror", lambda error: operator.complaints.append(str(error)))
        return operator


@pytest.fixture
def operators(chromium: Browser, reviews: ReviewBench) -> Iterator[Operators]:
    reviews.open()
    served = InThisProcess(reviews)
    operators = Operators(chromium, served, served.url)
    yield operators
    for context in operators.contexts:
        context.close()
    served.stop()


def token(reviews: ReviewBench, name: str) -> str:
    assert reviews.opened is not None
    return reviews.opened.links[name]


def ballots(reviews: ReviewBench, name: str) -> dict[str, Ballot]:
    with reviews.registry.reading() as session:
        return {each.pair: each for each in session.query(Ballot).filter(Ballot.operator == name)}


def whole_review(operator: Operator, reviews: ReviewBench, pictures: Path, language: str) -> None:
    """Rate everything by keyboard alone, and guess. Each pair gets other ratings."""
    operator.sign_in(token(reviews, operator.name))
    page = operator.page
    for number, planned in enumerate(reviews.asked(operator.name)):
        assert operator.pair == planned.pair
        assert page.inner_text(".progress").split()[:3] == [str(4 - number), {"en": "of", "ar": "من"}[language], "4"]
        operator.type(f"1234{number + 1}5")
        if number == 0:
            page.screenshot(path=pictures / f"{language}-pair.png", full_page=True)
            page.set_viewport_size(PHONE)  # type: ignore[arg-type]
            assert page.evaluate("document.documentElement.scrollWidth") <= 360
            page.screenshot(path=pictures / f"{language}-phone.png", full_page=True)
            page.set_viewport_size(DESKTOP)  # type: ignore[arg-type]
        if language == "ar":
            # What an Arabic keyboard sends: its own letter, at the place of a T.
            page.evaluate("document.dispatchEvent(new KeyboardEvent('keydown', {code: 'KeyT', key: 'ف'}))")
        else:
            operator.type("abt"[number % 3])
        operator.record()
    page.screenshot(path=pictures / f"{language}-guess.png", full_page=True)
    for choice in "ab":
        assert page.locator("#guess").count() == 1
        operator.type(choice)
        operator.record()
    page.screenshot(path=pictures / f"{language}-done.png")
    assert {"en": "All your pairs are rated", "ar": "قيّمت كل ما لديك"}[language] in page.inner_text("main")


def test_a_full_review_by_keyboard_in_both_languages_and_nothing_that_was_received_tells_the_sides(
    operators: Operators, reviews: ReviewBench, output: Path
) -> None:
    english, arabic = operators("operator-1"), operators("operator-2", "ar")
    whole_review(english, reviews, output, "en")
    whole_review(arabic, reviews, output, "ar")
    for operator in (english, arabic):
        assert operator.complaints == []
        given = ballots(reviews, operator.name)
        for number, planned in enumerate(reviews.asked(operator.name)):
            ratings = given[planned.pair].ratings
            assert ratings == {
                "a.accuracy": 1,
                "a.helpfulness": 2,
                "a.tone": 3,
                "b.accuracy": 4,
                "b.helpfulness": number + 1,
                "b.tone": 5,
            }
            expected = "tie" if operator is arabic else ("a", "b", "tie")[number % 3]
            assert given[planned.pair].preference == expected
        with reviews.registry.reading() as session:
            guessed = [each.choice for each in session.query(Guess).filter(Guess.operator == operator.name)]
        assert sorted(guessed) == ["a", "b"]
        assert_nothing_tells(operator, reviews, operators.served.sent)
    assert_pages_are_alike(reviews, operators.served.sent)
    assert sorted(each.name for each in output.iterdir()) == [
        f"{language}-{what}.png" for language in ("ar", "en") for what in ("done", "guess", "pair", "phone")
    ]


def assert_nothing_tells(operator: Operator, reviews: ReviewBench, sent: list[Sent]) -> None:
    """No name, version, digest or seed in any URL, header, cookie, page, script or style."""
    plan, review = reviews.contents.plan, reviews.review
    digests = [review.plan_digest, plan.candidate_digest, plan.opponent_digest, plan.seed_sha256, review.record_digest]
    names = ["candidate", "opponent", "incumbent", "adapter", "base", "tiny", "lamps", "1.0.0", "sha256", "uvicorn"]
    forbidden = [*names, *(digest[:10] for digest in digests), reviews.seed.hex()[:10]]
    texts = [text for prompt in reviews.contents.prompts.values() for text in prompt.text.split("\n")]
    seen = []
    for each in sent:
        body = each.body
        for text in texts:  # the letters themselves are about lamps
            body = body.replace(text, "") if text else body
        seen += [each.path, each.headers, body]
    for cookie in operator.context.cookies():
        content = str(cookie["value"]).split(".")[0]
        seen += [str(cookie), base64.urlsafe_b64decode(content + "=" * (-len(content) % 4)).decode("latin-1")]
    seen.append(json.dumps(operator.page.evaluate("({...sessionStorage, ...localStorage})")))
    everything = "\n".join(seen).lower().replace("base-uri", "")  # a directive of the content policy
    assert len(everything) > 20_000
    assert [word for word in forbidden if re.search(rf"(?<![a-z]){re.escape(word.lower())}(?![a-z])", everything)] == []


def assert_pages_are_alike(reviews: ReviewBench, sent: list[Sent]) -> None:
    """With the texts and the ids taken out, a page on which the candidate is A is byte for byte one on which it is
    B."""
    shapes: dict[tuple[str, str], set[str]] = {}
    sides: Counter[str] = Counter()
    of_pair = {one.pair: (operator, one.prompt) for operator in reviews.operators for one in reviews.asked(operator)}
    for each in sent:
        body = each.body
        pair = next(iter(re.findall(r'data-pair="([^"]+)"', body)), None)
        if pair is None:
            continue
        operator, prompt = of_pair[pair]
        side = reviews.position_of(operator, pair)
        answers = reviews.contents.answers[prompt]
        shown = {"a": answers.candidate, "b": answers.opponent}
        if side == "b":
            shown = {"a": answers.opponent, "b": answers.candidate}
        assert body.index(shown["a"]) < body.index(shown["b"])
        for text in (reviews.contents.prompts[prompt].text, *shown.values()):
            body = body.replace(text, "TEXT")
        body = re.sub(r'<div class="text" dir="(ltr|rtl)">', '<div class="text">', body)
        body = re.sub(r'data-(pair|form-token)="[^"]+"|<progress [^>]*>|<b>\d+</b>', "", body)
        kept = "\n".join(
            sorted(line for line in each.headers.splitlines() if not line.startswith(("date", "content-length")))
        )
        page = "guess" if 'id="guess"' in body else "ballot"
        language = re.findall(r'<html lang="(..)"', body)[0]
        shapes.setdefault((page, language), set()).add(body + kept)
        sides[side] += 1
    assert {key: len(found) for key, found in shapes.items()} == {
        (page, language): 1 for page in ("ballot", "guess") for language in ("en", "ar")
    }
    assert min(sides["a"], sides["b"]) >= 4


def test_texts_run_in_their_own_direction_and_every_choice_has_a_name_and_enough_contrast(
    operators: Operators, reviews: ReviewBench
) -> None:
    operator = operators("operator-1")
    operator.sign_in(token(reviews, "operator-1"))
    for planned in reviews.asked("operator-1"):
        expected = "rtl" if reviews.contents.prompts[planned.prompt].language == "ar" else "ltr"
        found = operator.page.eval_on_selector_all(
            ".text", "texts => texts.map(text => [text.dir, getComputedStyle(text).direction])"
        )
        assert found == [[expected, expected]] * 3
        operator.type("333333t")
        operator.record()
    operator.page.goto(operator.url)
    operator = operators("operator-2")
    operator.sign_in(token(reviews, "operator-2"))
    page = operator.page
    for side in ("A", "B"):
        for criterion in ("accuracy", "helpfulness", "tone"):
            group = page.get_by_role("group", name=f"Answer {side}, {criterion}")
            assert group.get_by_role("radio").count() == 5
    assert page.get_by_role("radio", name="Tie").count() == 1
    assert page.evaluate(LOWEST_CONTRAST) >= 4.5  # WCAG 2.2, success criterion 1.4.3
    page.keyboard.press("1")
    assert page.evaluate("document.activeElement.name") == "a.helpfulness"


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


def test_two_operators_at_once_rate_their_own_pairs(operators: Operators, reviews: ReviewBench) -> None:
    one, other = operators("operator-1"), operators("operator-2")
    one.sign_in(token(reviews, "operator-1"))
    other.sign_in(token(reviews, "operator-2"))
    for _ in range(4):
        one.type("111111a")
        other.type("555555b")
        one.record()
        other.record()
    for operator, rating, preference in ((one, 1, "a"), (other, 5, "b")):
        given = ballots(reviews, operator.name)
        assert given.keys() == {each.pair for each in reviews.asked(operator.name)}
        assert {each.preference for each in given.values()} == {preference}
        assert {value for each in given.values() for value in (each.ratings or {}).values()} == {rating}
    own, others = (reviews.asked(name)[0].pair for name in ("operator-1", "operator-2"))
    assert own != others
    assert send_twice(one, [others, "0" * 16]) == [404, 404]


def send_twice(operator: Operator, pairs: list[str]) -> list[int]:
    """The same whole ballot for each pair at once, past the page's own care; the answers' statuses."""
    ratings = {f"{side}.{name}": 3 for side in "ab" for name in ("accuracy", "helpfulness", "tone")}
    script = """async ([pairs, ballot]) => Promise.all(pairs.map(async pair => (await fetch('/pairs/' + pair, {
      method: 'POST', body: JSON.stringify(ballot),
      headers: {'Content-Type': 'application/json', 'X-Form-Token': document.querySelector('form').dataset.formToken},
    })).status))"""
    found: list[int] = operator.page.evaluate(script, [pairs, {"preference": "tie", "ratings": ratings}])
    return sorted(found)


def test_a_double_submit_gives_one_ballot(operators: Operators, reviews: ReviewBench) -> None:
    operator = operators("operator-1")
    operator.sign_in(token(reviews, "operator-1"))
    first = operator.pair
    assert send_twice(operator, [first, first, first]) == [204, 409, 409]
    assert ballots(reviews, "operator-1")[first].preference == "tie"
    operator.type("222222b")  # the page still shows it, as in a second tab
    operator.record()
    assert operator.pair == reviews.asked("operator-1")[1].pair
    assert ballots(reviews, "operator-1")[first].preference == "tie"
    posts: list[str] = []
    operator.page.on("request", lambda request: posts.append(request.url) if request.method == "POST" else None)
    operator.type("333333t")
    before = operator.pair
    with operator.page.expect_navigation():
        operator.page.evaluate(THREE_TIMES_ENTER)  # one script: the page leaves when the first is recorded
    assert operator.pair == reviews.asked("operator-1")[2].pair
    assert posts == [f"{operator.url}/pairs/{before}"]


THREE_TIMES_ENTER = """() => {
  for (let press = 0; press < 3; press += 1) {
    document.dispatchEvent(new KeyboardEvent('keydown', {code: 'Enter'}));
  }
}"""


def test_when_the_connection_is_lost_no_ballot_is_lost_or_doubled_and_it_goes_on_where_it_stopped(
    operators: Operators, reviews: ReviewBench
) -> None:
    served = InItsOwnProcess(reviews)
    operators.url = served.url
    operator = operators("operator-1")
    operator.sign_in(token(reviews, "operator-1"))
    page, (first, second, third, _) = operator.page, reviews.asked("operator-1")

    def is_told() -> None:
        page.wait_for_selector("#notice:not([hidden])")
        assert "there is no connection" in page.inner_text("#notice")

    # Nothing reached the server: the ratings stay, and Enter sends them when the line is back.
    operator.type("123451a")
    operator.context.set_offline(True)
    page.keyboard.press("Enter")
    is_told()
    assert ballots(reviews, "operator-1") == {}
    operator.context.set_offline(False)
    operator.record()
    assert ballots(reviews, "operator-1")[first.pair].preference == "a"

    # The ballot reached the server and its answer was lost: sent again it is refused, and the first one stands.
    def lose_the_answer(route: Route) -> None:
        route.fetch()
        route.abort()

    page.route("**/pairs/*", lose_the_answer)
    operator.type("111111b")
    page.keyboard.press("Enter")
    is_told()
    page.unroute("**/pairs/*")
    operator.record()
    assert ballots(reviews, "operator-1")[second.pair].preference == "b"
    assert len(ballots(reviews, "operator-1")) == 2

    # The server dies with half a ballot on the page; a new one takes it up, and so does a new tab.
    operator.type("5432")
    served.kill()
    operator.type("15t")
    page.keyboard.press("Enter")
    is_told()
    again = InItsOwnProcess(reviews, served.port)
    try:
        page.reload()
        assert operator.pair == third.pair
        assert page.locator("input:checked").count() == 7
        operator.record()
        kept = ballots(reviews, "operator-1")[third.pair]
        assert (kept.preference, list((kept.ratings or {}).values())) == ("tie", [5, 4, 3, 2, 1, 5])
        tab = operator.context.new_page()
        tab.goto(operator.url)
        assert tab.inner_text(".progress").startswith("1 of 4")
    finally:
        again.kill()


def test_a_link_works_once_and_a_cookie_that_was_tampered_with_not_at_all(
    operators: Operators, reviews: ReviewBench
) -> None:
    owner, thief = operators("operator-1"), operators("thief")
    owner.sign_in(token(reviews, "operator-1"))
    thief.page.goto(f"{thief.url}/sign-in#{token(reviews, 'operator-1')}")
    thief.page.keyboard.press("Enter")
    thief.page.wait_for_selector("#notice:not([hidden])")
    assert "This link was used already" in thief.page.inner_text("#notice")
    thief.page.goto(thief.url)
    assert "You are not signed in here" in thief.page.inner_text("main")
    (session,) = [each for each in owner.context.cookies() if each["name"] == "session"]
    assert (session["httpOnly"], session["sameSite"]) == (True, "Strict")
    content, *rest = str(session["value"]).split(".")
    named = base64.urlsafe_b64decode(content + "=" * (-len(content) % 4)).replace(b"operator-1", b"operator-2")
    forged = ".".join([base64.urlsafe_b64encode(named).decode().rstrip("="), *rest])
    cookie: Any = {"name": "session", "value": forged, "url": thief.url}
    thief.context.add_cookies([cookie])
    answer = thief.page.goto(thief.url)
    assert answer is not None and answer.status == 401
    assert "You are not signed in here" in thief.page.inner_text("main")
    assert "server" not in answer.all_headers()
    assert "wording" not in thief.page.content()
