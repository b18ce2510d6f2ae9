"""What held-out pairs say of scores, beside baselines that see the surface alone: against numbers counted by hand."""

import math

import pytest

from sovereign_pipeline.dataset.jsonl import PreferenceRow
from sovereign_pipeline.training.reward_model import PairScore, calibration, held_out_accuracy


def pair(chosen: str, rejected: str) -> PreferenceRow:
    return PreferenceRow(id="R", prompt="Answer.", chosen=chosen, rejected=rejected)


def scored(*margins: float) -> list[PairScore]:
    return [PairScore(id=f"R{place}", chosen=margin, rejected=0.0) for place, margin in enumerate(margins)]


TRAINING = [pair("the fee is due now", "go away"), pair("the fee is five", "no"), pair("fee", "the pier is closed")]
"""Chosen is the longer one in two of three; `fee` and `due` stand for it, `pier` against it."""


def test_shares_and_baselines_are_those_counted_by_hand() -> None:
    held_out = [
        pair("fee paid in full", "pier"),  # longer, and `fee` against `pier`: both baselines are right
        pair("fee", "pier closed today"),  # shorter: the length is wrong, the words are right
        pair("pier", "fee and more"),  # both are wrong
        pair("lamp", "buoy"),  # same length, unknown words: neither says anything, which counts as wrong
    ]
    found = held_out_accuracy(scored(1.0, 2.0, -1.0, 0.0), held_out, TRAINING)
    assert (found.accuracy.hits, found.accuracy.of) == (2, 4)
    assert (found.length_only.hits, found.words_only.hits) == (1, 2)
    assert (found.where_length_is_wrong.hits, found.where_length_is_wrong.of) == (1, 3)
    assert found.mean_margin == 0.5


def test_the_shorter_reply_is_the_guess_where_training_chose_the_shorter_ones() -> None:
    found = held_out_accuracy(scored(1.0), [pair("no", "a long reply")], [pair("no", "never"), pair("yes", "perhaps")])
    assert found.length_only.hits == 1


def test_a_calibration_compares_the_stated_probability_with_what_was_right() -> None:
    small, large = math.log(3), math.log(9)  # probabilities .75 and .9
    bins = calibration([small, small, small, -small, large, large, large, large])
    assert [each.expected for each in bins] == pytest.approx([0.75, 0.9])
    assert [each.right.share for each in bins] == [0.75, 1.0]


def test_few_pairs_are_one_bin_and_none_are_none() -> None:
    assert [each.right.of for each in calibration([1.0, -2.0, 3.0])] == [3]
    assert calibration([]) == ()
