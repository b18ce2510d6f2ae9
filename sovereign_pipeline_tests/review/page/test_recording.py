"""What is recorded of an operator, and what is refused: foreign pairs and sites, incomplete and late ballots."""

from sovereign_pipeline_tests.review.conftest import ReviewBench
from sovereign_pipeline_tests.review.page.client import BALLOT, RATINGS, PageClient, signed_in


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
