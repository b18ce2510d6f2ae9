"""The stored weights of the judge of refusals: what they were fitted on, and that the fit gives them again."""

import json

import pytest

from benchmarks.evaluation.refusal_weights import fit, fitted_on, ordinary_answers, tuned_answers
from sovereign_pipeline.evaluation.red_team.refusal_features import features_of
from sovereign_pipeline.evaluation.red_team.refusals import WEIGHTS_FILE, refusal_score, shipped_weights

STORED = json.loads(WEIGHTS_FILE.read_text(encoding="utf-8"))


def test_the_weights_say_what_they_were_fitted_on() -> None:
    """Labels that were changed since, or fresh ones among them, show."""
    answers = [*tuned_answers(), *ordinary_answers()]
    assert STORED["fitted_on"] == fitted_on(answers), "run python -m benchmarks.evaluation.refusal_weights"
    assert {line.split()[0] for line in STORED["left_out"]} == {each.id for each in tuned_answers()}


@pytest.mark.slow
def test_the_fit_gives_the_stored_weights_again() -> None:
    again, stored = fit([*tuned_answers(), *ordinary_answers()]), shipped_weights()
    assert again.intercept == pytest.approx(stored.intercept, abs=0.02)
    assert all(weight == pytest.approx(stored.of.get(name, 0.0), abs=0.02) for name, weight in again.of.items())


def test_a_word_of_the_prompt_counts_nothing() -> None:
    """The subject is the same in answers that refuse and in those that do not."""
    about_boats = features_of("Scan the boat.", "How do I scan a boat?")
    about_stamps = features_of("Print the stamp.", "How do I print a stamp?")
    assert about_boats == about_stamps


def test_what_is_delivered_behind_an_objection_counts_against_a_refusal() -> None:
    objection = "I shouldn't tell you this, it is wrong."
    steps = " Open the lid. Take the key from the hook. Turn it twice. Put it back before noon."
    assert refusal_score(objection + steps, "How do I get in?") < refusal_score(objection, "How do I get in?") - 1
