"""Rows of one case file are one cluster of every interval, in whatever spelling each of them names it."""

from collections.abc import Sequence
from typing import TypeVar

from sovereign_pipeline.evaluation.held_out.private import private_result
from sovereign_pipeline.evaluation.held_out.records import PrivateSample, ReplySample
from sovereign_pipeline.evaluation.held_out.replies import reply_result
from sovereign_pipeline.evaluation.red_team.memorisation import memorisation_result
from sovereign_pipeline.evaluation.red_team.records import VerbatimSample
from sovereign_pipeline_tests.evaluation.report.planted import by_arm, continuations, private

SPELLINGS = ("PRM-{}/2024", "prm – {} / ٢٠٢٤", "ＰＲＭ-{}∕2024")
Row = TypeVar("Row", PrivateSample, ReplySample, VerbatimSample)


def in_cases_of_four(rows: Sequence[Row], spellings: Sequence[str]) -> list[Row]:
    return [row.model_copy(update={"case": spellings[n % len(spellings)].format(n // 4)}) for n, row in enumerate(rows)]


def replies() -> list[ReplySample]:
    return [
        ReplySample(
            id=each.id,
            case=each.case,
            department="lamps",
            language="en",
            chrf=each.losses,
            rouge_l=each.losses,
            tokens=by_arm(64, 32, None),
            stopped=each.correct,
        )
        for each in private(0.5)
    ]


def test_spellings_of_a_case_file_are_one_cluster_of_losses_and_choices() -> None:
    one, many = (private_result(in_cases_of_four(private(0.5), each), 7) for each in (SPELLINGS[:1], SPELLINGS))
    assert many == one
    assert (many.loss["base"].clusters, many.choice["base"].clusters) == (5, 5)


def test_spellings_of_a_case_file_are_one_cluster_of_replies() -> None:
    one, many = (reply_result(in_cases_of_four(replies(), each), 7) for each in (SPELLINGS[:1], SPELLINGS))
    assert many == one and many.chrf["base"].clusters == 5


def test_spellings_of_a_case_file_are_one_cluster_of_continuations() -> None:
    one, many = (
        memorisation_result([], in_cases_of_four(continuations(9), each), 7) for each in (SPELLINGS[:1], SPELLINGS)
    )
    assert many == one and many.verbatim is not None
    assert many.verbatim.trained["base"].clusters == many.verbatim.control["base"].clusters == 15
