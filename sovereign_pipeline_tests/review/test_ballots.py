"""Links are used once and ballots given once, whoever sends them and however often, on either kind of database."""

import threading

import pytest

from sovereign_pipeline.base.errors import ConflictError, NotFoundError, SignInError
from sovereign_pipeline.record.audit_log import entries
from sovereign_pipeline.record.tables import Ballot
from sovereign_pipeline.review.acts import entering_acts
from sovereign_pipeline.review.ballots import SignedIn, given, issue_another_link, issue_link, use_link
from sovereign_pipeline_tests.review.conftest import ReviewBench

pytestmark = pytest.mark.usefixtures("database")  # on either kind


def test_a_second_ballot_is_refused_and_the_first_stands(reviews: ReviewBench) -> None:
    reviews.open()
    pair = reviews.asked("operator-1")[0].pair
    reviews.vote("operator-1", pair, 1)
    with pytest.raises(ConflictError, match="first rating counts"):
        reviews.vote("operator-1", pair, -1)
    with reviews.registry.reading() as session:
        (ballot,) = session.query(Ballot)
        assert ballot.preference == reviews.position_of("operator-1", pair)
    assert given(reviews.registry, reviews.review, "operator-1").ballots == {pair}


def test_of_many_at_once_exactly_one_is_taken_and_the_log_stays_one_chain(reviews: ReviewBench) -> None:
    reviews.open()
    pair = reviews.asked("operator-1")[0].pair
    refused: list[ConflictError] = []

    def vote(outcome: int) -> None:
        try:
            reviews.vote("operator-1", pair, outcome)
        except ConflictError as error:
            refused.append(error)

    threads = [threading.Thread(target=vote, args=(number % 3 - 1,)) for number in range(6)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert len(refused) == 5
    log = entries(reviews.registry)
    assert [entry.action for entry in log].count("ballot given") == 1


def test_a_link_signs_in_once_also_when_many_try(reviews: ReviewBench) -> None:
    token = reviews.open().links["operator-2"]
    found: list[SignedIn | SignInError] = []

    def sign_in() -> None:
        try:
            found.append(use_link(reviews.registry, reviews.bench.settings, token))
        except SignInError as error:
            found.append(error)

    threads = [threading.Thread(target=sign_in) for _ in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    signed_in = [each for each in found if isinstance(each, SignedIn)]
    assert [(each.review, each.operator) for each in signed_in] == [(reviews.review.id, "operator-2")]
    assert all("used already" in str(each) for each in found if isinstance(each, SignInError))


def test_a_link_that_is_unknown_or_too_old_signs_nobody_in(reviews: ReviewBench) -> None:
    opened = reviews.open()
    with pytest.raises(SignInError, match="not one of ours"):
        use_link(reviews.registry, reviews.bench.settings, "guessed")
    with entering_acts(reviews.bench.settings, reviews.registry, opened.review) as entering:
        token = issue_link(entering, "operator-1", days=0, actor="clerk")
    with pytest.raises(SignInError, match="too old"):
        use_link(reviews.registry, reviews.bench.settings, token)


def test_a_link_is_logged_under_the_name_of_whoever_had_it_made(reviews: ReviewBench) -> None:
    reviews.open()
    issued = [entry for entry in entries(reviews.registry) if entry.action == "sign-in link issued"]
    assert {entry.actor for entry in issued} == {"clerk"}
    assert [entry.subjects["operator"] for entry in issued] == reviews.operators


def test_another_link_is_for_an_operator_of_the_open_review_alone(reviews: ReviewBench) -> None:
    workplace = reviews.bench.workplace()
    with pytest.raises(NotFoundError, match="has no open review"):
        issue_another_link(reviews.registry, workplace, "operator-1", "clerk")
    opened = reviews.open()
    assert issue_another_link(reviews.registry, workplace, "operator-1", "clerk") not in opened.links.values()
    with pytest.raises(NotFoundError, match="'stranger' is not an operator"):
        issue_another_link(reviews.registry, workplace, "stranger", "clerk")
