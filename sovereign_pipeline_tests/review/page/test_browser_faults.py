"""The page in a real browser when two act at once, twice, without a connection, or with a link not theirs."""

import base64
from typing import Any

import pytest
from playwright.sync_api import Route

from sovereign_pipeline_tests.review.conftest import ReviewBench
from sovereign_pipeline_tests.review.page.operators import (
    Operator,
    Operators,
    ballots,
    token,
)
from sovereign_pipeline_tests.review.page.servers import InItsOwnProcess

pytestmark = pytest.mark.browser


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
    ratings = {f"{position}.{name}": 3 for position in "ab" for name in ("accuracy", "helpfulness", "tone")}
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
    operator.page.context.set_offline(True)
    page.keyboard.press("Enter")
    is_told()
    assert ballots(reviews, "operator-1") == {}
    operator.page.context.set_offline(False)
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
        tab = operator.page.context.new_page()
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
    (session,) = [each for each in owner.page.context.cookies() if each["name"] == "session"]
    assert (session["httpOnly"], session["sameSite"]) == (True, "Strict")
    content, *rest = str(session["value"]).split(".")
    named = base64.urlsafe_b64decode(content + "=" * (-len(content) % 4)).replace(b"operator-1", b"operator-2")
    forged = ".".join([base64.urlsafe_b64encode(named).decode().rstrip("="), *rest])
    cookie: Any = {"name": "session", "value": forged, "url": thief.url}
    thief.page.context.add_cookies([cookie])
    answer = thief.page.goto(thief.url)
    assert answer is not None and answer.status == 401
    assert "You are not signed in here" in thief.page.inner_text("main")
    assert "server" not in answer.all_headers()
    assert "wording" not in thief.page.content()
