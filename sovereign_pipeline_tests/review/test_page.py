"""The page over HTTP, without a browser: who gets in, what is refused, and in which words."""

import re
import time
from collections.abc import Iterator

import pytest
from starlette.testclient import TestClient

from sovereign_pipeline.review.page.app import create_app
from sovereign_pipeline.review.page.refusals import REFUSALS
from sovereign_pipeline.review.page.rendering import HERE
from sovereign_pipeline.review.page.translations import ARABIC, CRITERION_MEANINGS, direction
from sovereign_pipeline_tests.review.conftest import ReviewBench

RATINGS = {f"{side}.{name}": 3 for side in "ab" for name in ("accuracy", "helpfulness", "tone")}
BALLOT = {"preference": "a", "ratings": RATINGS}


class Browser(TestClient):
    """One operator's, that remembers the page it is on."""

    def see(self) -> str:
        page = self.get("/")
        self.page = page.text
        return self.page

    def attribute(self, name: str) -> str:
        (found,) = re.findall(rf'data-{name}="([^"]*)"', self.page)
        return str(found)

    def submit(self, path: str, content: object, token: str | None = None) -> tuple[int, str]:
        headers = {"X-Form-Token": self.attribute("form-token") if token is None else token}
        answer = self.post(path, json=content, headers=headers)
        return answer.status_code, answer.json()["error"] if answer.content else ""


@pytest.fixture
def reviews(reviews: ReviewBench) -> ReviewBench:
    reviews.open()
    return reviews


@pytest.fixture
def browser(reviews: ReviewBench) -> Iterator[Browser]:
    with Browser(create_app(reviews.bench.settings, reviews.registry), raise_server_exceptions=False) as browser:
        yield browser


def signed_in(browser: Browser, reviews: ReviewBench, operator: str = "operator-1") -> Browser:
    assert reviews.opened is not None
    assert browser.post("/sign-in", json={"token": reviews.opened.links[operator]}).status_code == 204
    browser.see()
    return browser


def test_a_link_is_exchanged_for_a_session_that_scripts_and_other_sites_cannot_use(
    browser: Browser, reviews: ReviewBench
) -> None:
    assert reviews.opened is not None
    token = reviews.opened.links["operator-1"]
    answer = browser.post("/sign-in", json={"token": token})
    cookie = answer.headers["set-cookie"]
    assert "HttpOnly" in cookie and "SameSite=strict" in cookie and "Secure" not in cookie
    assert browser.get("/").status_code == 200
    again = browser.post("/sign-in", json={"token": token})
    assert (again.status_code, "used already" in again.json()["error"]) == (401, True)


def test_without_a_session_nothing_is_shown(browser: Browser, reviews: ReviewBench) -> None:
    page = browser.get("/")
    assert page.status_code == 401
    assert "You are not signed in here. Open the link that you were sent." in page.text
    pair = reviews.asked("operator-1")[0].pair
    assert browser.post(f"/pairs/{pair}", json=BALLOT).status_code == 401
    assert "wording" not in page.text


def test_a_session_that_was_changed_is_refused(browser: Browser, reviews: ReviewBench) -> None:
    signed_in(browser, reviews)
    cookie = browser.cookies["session"]
    for changed in (cookie[:-2] + ("AA" if cookie[-2:] != "AA" else "BB"), "x" + cookie, "", "."):
        browser.cookies.clear()
        browser.cookies.set("session", changed)
        assert browser.get("/").status_code == 401


def test_a_session_of_another_operator_cannot_be_made_from_ones_own(browser: Browser, reviews: ReviewBench) -> None:
    """The name is in the cookie; the signature is over it."""
    import base64

    signed_in(browser, reviews)
    content, *signature = browser.cookies["session"].split(".")
    named = base64.urlsafe_b64decode(content + "=" * (-len(content) % 4)).decode()
    assert "operator-1" in named
    other = base64.urlsafe_b64encode(named.replace("operator-1", "operator-2").encode()).decode().rstrip("=")
    browser.cookies.clear()
    browser.cookies.set("session", ".".join([other, *signature]))
    assert browser.get("/").status_code == 401


def test_a_pair_of_another_operator_is_not_found_and_a_second_ballot_refused(
    browser: Browser, reviews: ReviewBench
) -> None:
    signed_in(browser, reviews)
    own, other = reviews.asked("operator-1")[0].pair, reviews.asked("operator-2")[0].pair
    assert browser.attribute("pair") == own
    assert browser.submit(f"/pairs/{other}", BALLOT) == (404, "This pair is not one of yours.")
    assert browser.submit(f"/pairs/{own}", BALLOT) == (204, "")
    changed = {**BALLOT, "preference": "b"}
    assert browser.submit(f"/pairs/{own}", changed) == (409, "This pair was rated already. The first rating stands.")


def test_a_request_that_another_site_made_is_refused(browser: Browser, reviews: ReviewBench) -> None:
    signed_in(browser, reviews)
    pair = browser.attribute("pair")
    for token in ("", "0" * 64):
        status, said = browser.submit(f"/pairs/{pair}", BALLOT, token)
        assert (status, said) == (401, "This request did not come from the page. Load the page again.")
    other = signed_in(Browser(browser.app), reviews, "operator-2")
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


def test_a_ballot_that_is_not_whole_is_refused(browser: Browser, reviews: ReviewBench) -> None:
    signed_in(browser, reviews)
    pair = browser.attribute("pair")
    for wrong in NOT_WHOLE:
        status, said = browser.submit(f"/pairs/{pair}", wrong)
        assert (status, said) == (400, "The rating is not complete. Load the page again."), wrong
    browser.see()
    assert browser.attribute("pair") == pair


def test_nobody_guesses_before_the_last_ballot_or_about_anothers_pair(browser: Browser, reviews: ReviewBench) -> None:
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


def test_a_closed_review_says_so(browser: Browser, reviews: ReviewBench) -> None:
    signed_in(browser, reviews)
    pair = browser.attribute("pair")
    reviews.vote_all(1)
    reviews.close()
    assert browser.submit(f"/pairs/{pair}", BALLOT)[0] == 409
    page = browser.get("/")
    assert (page.status_code, "This review is closed" in page.text) == (409, True)


def test_every_answer_carries_the_strict_headers_and_unknown_pages_are_told_plainly(browser: Browser) -> None:
    for path in ("/", "/sign-in", "/static/review.js", "/nowhere", "/docs", "/openapi.json", "/pairs/x"):
        answer = browser.get(path)
        assert "default-src 'none'" in answer.headers["content-security-policy"], path
        assert answer.headers["cache-control"] == "no-store"
        assert answer.headers["x-content-type-options"] == "nosniff"
    assert "There is no such page here." in browser.get("/nowhere").text
    assert browser.get("/docs").status_code == 404


def test_a_fault_of_the_program_tells_the_operator_nothing_and_the_log_no_text(
    browser: Browser, reviews: ReviewBench, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise ValueError("first wording 3")

    signed_in(browser, reviews)
    monkeypatch.setattr("sovereign_pipeline.review.page.open_reviews.given", fail)
    page = browser.get("/")
    assert page.status_code == 500
    assert "The page cannot be served now" in page.text
    assert "wording" not in page.text + caplog.text
    assert "ValueError at" in caplog.text


def test_an_answer_that_was_changed_on_disk_is_never_shown(reviews: ReviewBench) -> None:
    file = reviews.bench.store.path_of(reviews.review.plan_digest) / "answers.jsonl"
    file.write_bytes(file.read_bytes().replace(b"first", b"worst"))
    browser = Browser(create_app(reviews.bench.settings, reviews.registry), raise_server_exceptions=False)
    assert reviews.opened is not None
    browser.post("/sign-in", json={"token": reviews.opened.links["operator-1"]})
    page = browser.get("/")
    assert (page.status_code, "worst" in page.text) == (500, False)


def test_no_header_is_trusted_unless_it_is_named_and_comes_from_the_proxy(
    reviews: ReviewBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    def ask(peer: str) -> int:
        app = create_app(reviews.bench.settings, reviews.registry)
        with Browser(app, client=(peer, 1)) as browser:
            return browser.get("/", headers={"X-Remote-User": "operator-3"}).status_code

    assert ask("127.0.0.1") == 401
    monkeypatch.setenv("SOVEREIGN_REVIEW_USER_HEADER", "X-Remote-User")
    assert ask("127.0.0.1") == 200
    assert ask("10.0.0.9") == 401
    monkeypatch.setenv("SOVEREIGN_REVIEW_PROXIES", "10.0.0.9")
    assert (ask("10.0.0.9"), ask("127.0.0.1")) == (200, 401)


def test_an_operator_whom_the_proxy_names_rates_their_own_pairs_and_a_stranger_none(
    reviews: ReviewBench, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("SOVEREIGN_REVIEW_USER_HEADER", "X-Remote-User")
    app = create_app(reviews.bench.settings, reviews.registry)
    with Browser(app, client=("127.0.0.1", 1), headers={"X-Remote-User": "operator-3"}) as browser:
        browser.see()
        assert browser.attribute("pair") == reviews.asked("operator-3")[0].pair
        assert browser.submit(f"/pairs/{browser.attribute('pair')}", BALLOT) == (204, "")
        stranger = browser.get("/", headers={"X-Remote-User": "stranger"})
        assert (stranger.status_code, "You take part in no open review" in stranger.text) == (401, True)


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
    with Browser(app, client=("127.0.0.1", 1), headers={"X-Remote-User": "operator-3"}) as browser:
        browser.see()
        assert browser.attribute("pair") in {each.pair for each in reviews.asked("operator-3")}


def test_neither_time_nor_length_goes_with_the_side(reviews: ReviewBench, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mann and Whitney's test, at a level that chance passes once in ten thousand; both answers are as long here."""
    from scipy.stats import mannwhitneyu

    monkeypatch.setenv("SOVEREIGN_REVIEW_USER_HEADER", "X-Remote-User")
    app = create_app(reviews.bench.settings, reviews.registry)
    seconds: dict[str, list[float]] = {"a": [], "b": []}
    overheads = set()
    with Browser(app, client=("127.0.0.1", 1)) as browser:
        for number in range(4):
            for operator in reviews.operators:
                planned = reviews.asked(operator)[number]
                side = reviews.position_of(operator, planned.pair)
                for _ in range(3):
                    started = time.perf_counter()
                    page = browser.get("/", headers={"X-Remote-User": operator})
                    seconds[side].append(time.perf_counter() - started)
                answers = reviews.contents.answers[planned.prompt]
                shown = [reviews.contents.prompts[planned.prompt].text, answers.candidate, answers.opponent]
                overheads.add(int(page.headers["content-length"]) - sum(len(text.encode()) for text in shown))
                reviews.vote(operator, planned.pair, 0)
    assert len(seconds["a"]) == len(seconds["b"]) == 30
    assert mannwhitneyu(seconds["a"], seconds["b"]).pvalue > 1e-4
    assert max(*seconds["a"], *seconds["b"]) < 5
    assert len(overheads) == 1


def test_behind_tls_the_cookie_is_secure(reviews: ReviewBench) -> None:
    assert reviews.opened is not None
    app = create_app(reviews.bench.settings, reviews.registry)
    for operator, peer, header, secure in (
        ("operator-1", "127.0.0.1", "https", True),
        ("operator-2", "10.0.0.9", "https", False),
        ("operator-3", "127.0.0.1", "http", False),
    ):
        with Browser(app, client=(peer, 1)) as browser:
            answer = browser.post(
                "/sign-in", json={"token": reviews.opened.links[operator]}, headers={"X-Forwarded-Proto": header}
            )
            assert ("Secure" in answer.headers["set-cookie"]) == secure


def test_every_sentence_of_the_pages_has_its_arabic(browser: Browser, reviews: ReviewBench) -> None:
    source = "".join(file.read_text() for file in (HERE / "templates").glob("*.html"))
    sentences = {*re.findall(r'say\("([^"~]+)"\)', source), *CRITERION_MEANINGS, *CRITERION_MEANINGS.values()}
    sentences |= {title for _, _, title in REFUSALS}
    assert sentences <= ARABIC.keys() | {"Answer "}
    signed_in(browser, reviews)
    browser.cookies.set("language", "ar")
    assert '<html lang="ar" dir="rtl">' in browser.see()
    assert "سجّل وتابع" in browser.page


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("The lamp is lit.", "ltr"),
        ("المصباح مضاء.", "rtl"),
        ("NAME_1: المصباح مضاء", "rtl"),
        ("NAME_1 NAME_2 NAME_3 NAME_4 نعم", "rtl"),
        ("Harbour: المصباح على الرصيف القديم مضاء", "rtl"),
        ("The lamp on الرصيف is lit", "ltr"),
        ("12 34", "ltr"),
        ("", "ltr"),
    ],
)
def test_a_text_is_read_in_the_direction_of_most_of_its_letters(text: str, expected: str) -> None:
    assert direction(text) == expected
