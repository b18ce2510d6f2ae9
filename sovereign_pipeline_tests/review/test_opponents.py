"""What a candidate is compared with: by rule something that was reviewed, by name anything, which is then stated."""

import datetime
from types import SimpleNamespace
from typing import Self

import pytest

from sovereign_pipeline.base.errors import ConflictError, GateRefused, InputError, NotFoundError
from sovereign_pipeline.evaluation.stages import incumbent_digests
from sovereign_pipeline.record.audit_log import entries
from sovereign_pipeline.release.requests import propose
from sovereign_pipeline.review import closing
from sovereign_pipeline.review.stages import adapters_that_lost, reviews_of
from sovereign_pipeline_tests.review.conftest import ReviewBench

pytestmark = pytest.mark.slow


@pytest.mark.security_case("An adapter without a review would be the opponent", "it is skipped, unless it is named")
def test_an_adapter_that_nobody_reviewed_is_passed_over(reviews: ReviewBench) -> None:
    reviews.another_adapter()
    plan = reviews.open().plan
    choice = plan.opponent_choice
    assert choice is not None
    assert (plan.adapter, plan.opponent, choice.named_by) == ("lamps-1.1.0", None, None)
    assert (choice.by_rule, choice.is_reviewed, choice.never_reviewed) == ("tiny", None, ("lamps-1.0.0",))
    reviews.vote_all(1)
    reviews.close()
    artifact, (verdict,) = _result(reviews)
    assert "tiny is the opponent by rule" in verdict
    assert "Passed over, since nobody reviewed them: lamps-1.0.0." in verdict
    assert "Passed over" in artifact


@pytest.mark.security_case("A weak opponent is named", "the log, the gate and the result say who named it")
def test_one_that_is_named_is_stated_with_who_named_it(reviews: ReviewBench) -> None:
    reviews.another_adapter()
    plan = reviews.open(opponent="lamps-1.0.0").plan
    assert plan.opponent == "lamps-1.0.0"
    opened = next(entry for entry in entries(reviews.registry) if entry.action == "review opened")
    assert (opened.subjects["opponent"], opened.subjects["opponent_named"]) == ("lamps-1.0.0", True)
    assert opened.subjects["opponent_reviewed"] is False
    reviews.vote_all(1)
    reviews.close()
    artifact, (verdict,) = _result(reviews)
    said = "lamps-1.0.0 was named as the opponent by clerk. Nobody has reviewed lamps-1.0.0. The rule gives tiny."
    assert said in verdict and said in artifact


@pytest.mark.security_case("a candidate that lost is reviewed again against a weaker opponent, by name", "rejected")
@pytest.mark.security_case(
    "The losing weights are registered again and reviewed against a weaker opponent, by name", "rejected"
)
def test_the_newest_that_was_reviewed_and_did_not_lose_is_the_opponent(reviews: ReviewBench) -> None:
    reviews.reviewed(1)
    reviews.another_adapter()
    reviews.reviewed(-1)
    for again in (lambda: None, reviews.same_weights_again):
        again()
        with pytest.raises(ConflictError, match=r"was reviewed already.*must be the rule's choice: lamps-1\.0\.0"):
            reviews.open(opponent="base")
    reviews.another_adapter()
    plan = reviews.open().plan
    assert plan.opponent == "lamps-1.0.0"
    assert plan.opponent_choice is not None
    assert plan.opponent_choice.is_reviewed


def test_what_lost_is_the_same_or_is_unknown_cannot_be_named(reviews: ReviewBench) -> None:
    reviews.reviewed(-1)
    reviews.another_adapter()
    with pytest.raises(ConflictError, match=r"lamps-1\.0\.0 lost its blind review"):
        reviews.open(opponent="lamps-1.0.0")
    with pytest.raises(InputError, match="has the same weights as the candidate"):
        reviews.open(opponent="lamps-1.1.0")
    with pytest.raises(NotFoundError, match=r"no registered adapter 'lamps-7'"):
        reviews.open(opponent="lamps-7")
    assert reviews.open(opponent="base").plan.opponent is None


@pytest.mark.security_case("The losing weights are reproduced under another recipe and reviewed again", "rejected")
def test_the_same_weights_are_not_reviewed_again_under_another_artifact(reviews: ReviewBench) -> None:
    lost = reviews.with_adapter()
    reviews.reviewed(-1)
    assert reviews.materialize()[1]["net_preference_not_negative"].outcome == "fail"
    again = reviews.same_weights_again()
    assert (again.adapter_sha256, again.adapter_digest == lost.adapter_digest) == (lost.adapter_sha256, False)
    with pytest.raises(ConflictError, match=r"lamps-1\.0\.0, with the same weights.*was reviewed against tiny already"):
        reviews.open()
    assert reviews.materialize()[1]["net_preference_not_negative"].outcome == "fail"
    assert adapters_that_lost(reviews.registry, reviews.bench.store, "lamps") == {again.adapter_sha256}
    workplace = reviews.bench.workplace()
    assert incumbent_digests(workplace) == {}
    reviews.another_adapter()
    assert incumbent_digests(workplace) == {}


@pytest.mark.security_case(
    "A candidate is compared with its own weights in another artifact", "rejected if named, and never the rule's choice"
)
def test_no_candidate_is_its_own_opponent_or_incumbent(reviews: ReviewBench) -> None:
    first = reviews.with_adapter()
    reviews.reviewed(1)
    reviews.same_weights_again()
    assert incumbent_digests(reviews.bench.workplace()) == {}
    with pytest.raises(InputError, match="has the same weights as the candidate"):
        reviews.open(opponent=first.id)
    with pytest.raises(ConflictError, match="That result is final"):
        reviews.open()


def _result(reviews: ReviewBench) -> tuple[str, list[str]]:
    artifact, verdicts = reviews.materialize()
    return artifact.file("review.md").read_text(), [each.message for each in verdicts.values()]


@pytest.mark.security_case(
    "A lost blind review has no result yet, or the store's unsigned pointer names an earlier one",
    "`approve` is refused until the newest review of the weights has passed",
)
def test_an_approval_rests_on_the_newest_review_of_the_weights(reviews: ReviewBench) -> None:
    reviews.bench.institution.rules["release"] = {"blind_review": "not_required"}
    reviews.reviewed(1)
    adapter = reviews.another_adapter()

    def asks() -> str:
        now = datetime.datetime.now(datetime.UTC)
        return propose(reviews.registry, reviews.bench.workplace(), adapter.id, "approve", "Good.", now).adapter.id

    reviews.open(opponent="base")
    with pytest.raises(GateRefused, match="is open"):
        asks()
    reviews.vote_all(1)
    reviews.close()
    first, _ = reviews.materialize()
    assert asks() == adapter.id
    reviews.reviewed(-1)
    with pytest.raises(GateRefused, match="no result yet"):
        asks()
    reviews.materialize()
    store = reviews.bench.workplace().store
    for pointed in (None, first.ref):
        if pointed is not None:
            store.make_current("lamps", "blind_review", pointed)
        with pytest.raises(GateRefused, match="net_preference"):
            asks()


@pytest.mark.security_case(
    "A review that was won is closed on a host whose clock is ahead, and a later one is lost",
    "the lost one is the newest, because its closing is the later entry of the ledger",
)
def test_the_newest_review_is_the_last_in_the_ledger(reviews: ReviewBench, monkeypatch: pytest.MonkeyPatch) -> None:
    class Ahead(datetime.datetime):
        @classmethod
        def now(cls, tz: datetime.tzinfo | None = None) -> Self:
            return super().now(tz) + datetime.timedelta(days=8)

    reviews.reviewed(1)
    adapter = reviews.another_adapter()
    reviews.open(opponent="base")
    reviews.vote_all(1)
    with monkeypatch.context() as patch:
        patch.setattr(closing, "datetime", SimpleNamespace(**{**vars(datetime), "datetime": Ahead}))
        reviews.close()
    reviews.reviewed(-1)
    found = reviews_of(reviews.registry, adapter)
    assert found is not None and found.newest[0].id == reviews.review.id
    assert adapters_that_lost(reviews.registry, reviews.bench.store, "lamps") == {adapter.adapter_sha256}
