"""What an operator sees, what is recorded of it, and what is refused."""

import json
import re
import time

import pytest

from sovereign_pipeline.review.page.app import CRITERION_MEANINGS, HERE, REFUSALS, TURN_HEADINGS, create_app, direction
from sovereign_pipeline_tests.examples import examples
from sovereign_pipeline_tests.review.conftest import ReviewBench
from sovereign_pipeline_tests.review.page.client import BALLOT, RATINGS, PageClient, signed_in


def test_an_answer_that_was_changed_on_disk_is_never_shown(reviews: ReviewBench) -> None:
    file = reviews.bench.store.path_of(reviews.review.plan_digest) / "answers.sealed"
    content = file.read_bytes()
    file.write_bytes(content[:-9] + bytes([content[-9] ^ 1]) + content[-8:])
    browser = PageClient(create_app(reviews.bench.settings, reviews.registry), raise_server_exceptions=False)
    assert reviews.opened is not None
    browser.post("/sign-in", json={"token": reviews.opened.links["operator-1"]})
    page = browser.get("/")
    assert (page.status_code, "wording" in page.text) == (500, False)


def test_a_review_that_cannot_be_read_takes_the_page_from_nobody_else(
    reviews: ReviewBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOVEREIGN_REVIEW_USER_HEADER", "X-Remote-User")
    of_lamps = reviews.opened
    reviews.bench.recipe["line"] = "lanterns"
    reviews.bench.refs.clear()
    reviews.bench.register()
    damaged = reviews.open().review
    (reviews.bench.settings.review_secrets / f"{damaged}.seed").unlink()
    reviews.opened = of_lamps
    reviews.__dict__.pop("contents", None)
    app = create_app(reviews.bench.settings, reviews.registry)
    with PageClient(app, client=("127.0.0.1", 1), headers={"X-Remote-User": "operator-3"}) as browser:
        browser.see()
        assert browser.attribute("pair") in {each.pair for each in reviews.asked("operator-3")}


def test_neither_time_nor_length_depends_on_the_position(reviews: ReviewBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mann and Whitney's test, at a level that chance passes once in ten thousand; both answers are as long here.

    Processor time, and of each pair the least of five requests: on a busy machine, requests that follow each other are
    slow together, and the test takes its figures for independent.
    """
    from scipy.stats import mannwhitneyu

    monkeypatch.setenv("SOVEREIGN_REVIEW_USER_HEADER", "X-Remote-User")
    app = create_app(reviews.bench.settings, reviews.registry)
    seconds: dict[str, list[float]] = {"a": [], "b": []}
    overheads = set()
    with PageClient(app, client=("127.0.0.1", 1)) as browser:
        for number in range(4):
            for operator in reviews.operators:
                planned = reviews.asked(operator)[number]
                position = reviews.position_of(operator, planned.pair)
                seconds[position].append(float("inf"))
                for _ in range(5):
                    started = time.process_time()
                    page = browser.get("/", headers={"X-Remote-User": operator})
                    seconds[position][-1] = min(seconds[position][-1], time.process_time() - started)
                answers = reviews.answers[planned.prompt]
                shown = [reviews.contents.prompts[planned.prompt].text, answers.candidate, answers.opponent]
                overheads.add(int(page.headers["content-length"]) - sum(len(text.encode()) for text in shown))
                reviews.vote(operator, planned.pair, 0)
    assert len(seconds["a"]) == len(seconds["b"]) == 10
    assert mannwhitneyu(seconds["a"], seconds["b"]).pvalue > 1e-4
    assert len(overheads) == 1


def test_a_pair_of_another_operator_is_not_found_and_a_second_ballot_refused(
    browser: PageClient, reviews: ReviewBench
) -> None:
    signed_in(browser, reviews)
    own, other = reviews.asked("operator-1")[0].pair, reviews.asked("operator-2")[0].pair
    assert browser.attribute("pair") == own
    assert browser.submit(f"/pairs/{other}", BALLOT) == (404, "This pair is not assigned to you.")
    assert browser.submit(f"/pairs/{own}", BALLOT) == (204, "")
    changed = {**BALLOT, "preference": "b"}
    assert browser.submit(f"/pairs/{own}", changed) == (409, "This pair was rated already. The first rating counts.")


def test_a_request_that_another_site_made_is_refused(browser: PageClient, reviews: ReviewBench) -> None:
    signed_in(browser, reviews)
    pair = browser.attribute("pair")
    for token in ("", "0" * 64):
        status, said = browser.submit(f"/pairs/{pair}", BALLOT, token)
        assert (status, said) == (401, "This request did not come from the page. Load the page again.")
    other = signed_in(PageClient(browser.app), reviews, "operator-2")
    assert browser.submit(f"/pairs/{pair}", BALLOT, other.attribute("form-token"))[0] == 401
    assert len(reviews.asked("operator-1")) == 4
    assert browser.attribute("pair") == pair


NOT_WHOLE: tuple[dict[str, object], ...] = (
    {},
    {"preference": "c", "ratings": RATINGS},
    {"preference": "a", "ratings": {**RATINGS, "a.tone": 6}},
    {"preference": "a", "ratings": {**RATINGS, "a.tone": 0}},
    {"preference": "a", "ratings": {**RATINGS, "a.tone": "3"}},
    {"preference": "a", "ratings": {**RATINGS, "a.tone": 2.5}},
    {"preference": "a", "ratings": {name: 3 for name in list(RATINGS)[1:]}},
    {"preference": "a", "ratings": {**RATINGS, "a.beauty": 3}},
    {"preference": "a", "ratings": RATINGS, "operator": "operator-2"},
)


def test_a_ballot_that_is_not_whole_is_refused(browser: PageClient, reviews: ReviewBench) -> None:
    signed_in(browser, reviews)
    pair = browser.attribute("pair")
    for wrong in NOT_WHOLE:
        status, said = browser.submit(f"/pairs/{pair}", wrong)
        assert (status, said) == (400, "The rating is not complete. Load the page again."), wrong
    browser.see()
    assert browser.attribute("pair") == pair


def test_nobody_guesses_before_the_last_ballot_or_about_anothers_pair(
    browser: PageClient, reviews: ReviewBench
) -> None:
    signed_in(browser, reviews)
    pair = browser.attribute("pair")
    assert browser.submit(f"/guesses/{pair}", {"choice": "a"})[0] == 404
    for _ in range(4):
        assert browser.submit(f"/pairs/{browser.attribute('pair')}", BALLOT)[0] == 204
        browser.see()
    assert 'id="guess"' in browser.page
    assert browser.submit(f"/guesses/{reviews.asked('operator-2')[0].pair}", {"choice": "a"})[0] == 404
    for _ in range(2):
        guessed = browser.attribute("pair")
        assert browser.submit(f"/guesses/{guessed}", {"choice": "a"}) == (204, "")
        assert browser.submit(f"/guesses/{guessed}", {"choice": "b"})[0] == 409
        browser.see()
    assert "All your pairs are rated" in browser.page


def test_a_closed_review_says_so(browser: PageClient, reviews: ReviewBench) -> None:
    signed_in(browser, reviews)
    pair = browser.attribute("pair")
    reviews.vote_all(1)
    reviews.close()
    assert browser.submit(f"/pairs/{pair}", BALLOT)[0] == 409
    page = browser.get("/")
    assert (page.status_code, "This review is closed" in page.text) == (409, True)


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
    monkeypatch.setattr("sovereign_pipeline.review.page.app.given", fail)
    page = browser.get("/")
    assert page.status_code == 500
    assert "The page is not available now" in page.text
    assert "wording" not in page.text + caplog.text
    assert "ValueError at" in caplog.text


def test_every_sentence_of_the_pages_has_its_arabic(browser: PageClient, reviews: ReviewBench) -> None:
    source = "".join(file.read_text() for file in (HERE / "templates").glob("*.html"))
    sentences = {*re.findall(r'say\("([^"~]+)"\)', source), *CRITERION_MEANINGS, *CRITERION_MEANINGS.values()}
    sentences |= {title for _, _, title in REFUSALS} | set(TURN_HEADINGS.values())
    arabic = json.loads((HERE / "arabic.json").read_text(encoding="utf-8"))
    assert sentences <= arabic.keys() | {"Answer "}
    signed_in(browser, reviews)
    browser.cookies.set("language", "ar")
    assert '<html lang="ar" dir="rtl">' in browser.see()
    assert "سجّل وتابع" in browser.page


@pytest.mark.parametrize(
    ("text", "expected"),
    examples(__file__, "a_text_is_read_in_the_direction_of_most_of_its_letters"),
)
def test_a_text_is_read_in_the_direction_of_most_of_its_letters(text: str, expected: str) -> None:
    assert direction(text) == expected
