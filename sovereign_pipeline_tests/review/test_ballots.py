"""Ballots are given once, whoever sends them and however often, on either kind of database, which refuses a change."""

import threading

import pytest

from sovereign_pipeline.base.errors import ConflictError
from sovereign_pipeline.record.audit_log import entries
from sovereign_pipeline.record.tables import Ballot
from sovereign_pipeline.review.ballots import given
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
