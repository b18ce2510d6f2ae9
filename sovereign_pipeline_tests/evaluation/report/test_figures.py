"""The figures, regressions and worse rows of a report, on planted samples."""

from statistics import fmean

import pytest

from sovereign_pipeline.base.errors import IntegrityError
from sovereign_pipeline.evaluation import statistics
from sovereign_pipeline.evaluation.records import CapabilitySample, TurnSample
from sovereign_pipeline.evaluation.report.gates import CRITERIA
from sovereign_pipeline.evaluation.report.report import IncumbentFacts, as_html, as_markdown
from sovereign_pipeline.evaluation.statistics import score_interval
from sovereign_pipeline.record.gates import assert_usable
from sovereign_pipeline_tests.conftest import DemoInstitution
from sovereign_pipeline_tests.evaluation.report.planted import (
    by_arm,
    capability,
    figure,
    incumbent,
    make_report,
    private,
    read_report,
    red_team,
    replies_to_letters,
    reported,
    run,
    stored_report,
    tool_calls,
)

pytestmark = pytest.mark.slow


def test_conversations_have_figures_by_turn_of_calls_and_of_prompts_of_several_turns(
    institution: DemoInstitution,
) -> None:
    held_out = [
        row.model_copy(
            update={
                "turns": tuple(
                    TurnSample(turn=turn, tokens=9, losses=by_arm(3.0, 3.0 - turn / 10, None))
                    for turn in range(1, 2 + n % 2)
                )
            }
        )
        for n, row in enumerate(private(0.5))
    ]
    prompts = [row.model_copy(update={"turns": 1 + 2 * (n % 4 == 0)}) for n, row in enumerate(red_team(0))]
    report = stored_report(institution, held_out=held_out, prompts=prompts, calls=tool_calls(false=6))
    loss = "held-out loss"
    assert [figure(report, loss, slice=f"turn {turn}").rows for turn in (1, 2)] == [20, 10]
    assert figure(report, loss, slice="turn 2").difference == pytest.approx(-0.2)
    assert figure(report, "refused, should be", slice="several turns").rows == 20
    assert figure(report, "exact tool calls").reference == pytest.approx(40 / 60)
    assert figure(report, "valid tool calls", slice="language ar").rows == 20
    assert figure(report, "false tool calls").difference == pytest.approx(0.1)


def written_questions() -> list[CapabilitySample]:
    """As `capability`, but written by the models: the candidate runs out of time in twenty, and is longer."""
    return [
        row.model_copy(
            update={
                "measures": {
                    "same": {arm: float(right) for arm, right in row.correct.items()},
                    "timeout": by_arm(0.0, float(n < 20), None),
                },
                "tokens": by_arm(40, 60, None),
                "stopped": by_arm(True, n % 4 != 0, None),
            }
        )
        for n, row in enumerate(capability(0))
    ]


def test_generated_replies_and_answers_have_their_figures_and_regressions(institution: DemoInstitution) -> None:
    report = reported(institution, questions=written_questions(), replies=replies_to_letters())
    chrf = "likeness to the true reply, chrF"
    assert figure(report, chrf).difference == pytest.approx(0.2, abs=0.01)
    assert figure(report, chrf, slice="language ar").difference == pytest.approx(0.05, abs=0.01)
    assert figure(report, chrf, slice="language en").difference == pytest.approx(0.25, abs=0.01)
    assert figure(report, "replies to letters ended by the model").candidate == 1.0
    assert figure(report, "length of a reply to a letter").difference == -32
    assert figure(report, "suite: timeout").candidate == pytest.approx(0.1)
    assert figure(report, "suite: length of an answer").difference == 20
    assert not any(each.what == "suite: same" for each in report.figures)
    worse = {each.what for each in report.regressions}
    assert worse == {
        "likeness to the true reply, ROUGE-L",
        "suite: timeout",
        "suite: answers ended by the model",
        "answers ended by the model",
    }
    assert "similarity to the true reply, chrF" in as_markdown(report)


def test_a_measure_of_zeros_and_ones_has_the_interval_of_a_share(institution: DemoInstitution) -> None:
    """A bootstrap of 200 rows of which three ran out of time ends at 0, as if they could not be fewer."""
    questions = [
        row.model_copy(
            update={"measures": {"timeout": by_arm(0.0, float(n < 3), None), "f1": by_arm(0.5, n / 200, None)}}
        )
        for n, row in enumerate(capability(0))
    ]
    report = reported(institution, questions=questions)
    timeouts, likeness = (figure(report, f"suite: {name}") for name in ("timeout", "f1"))
    assert (timeouts.low, timeouts.high) == pytest.approx(score_interval(3, 0, 200))
    assert (timeouts.only_reference, timeouts.only_candidate) == (0, 3)
    assert timeouts.p_value == 0.25
    assert isinstance(likeness, statistics.LossDifference)


@pytest.mark.parametrize(("cases", "named"), [(1, False), (2, False), (5, False), (6, True)])
def test_a_slice_of_few_case_files_is_never_worse_beyond_chance(
    cases: int, named: bool, institution: DemoInstitution
) -> None:
    """The bootstrap of one case file has no width, and that of two lies above 0 in one of four that do not differ."""
    held_out = private(0.5)
    for n in range(cases):
        worse = {**held_out[n].losses, "candidate": held_out[n].losses["base"] + 0.1 + n / 100}
        held_out[n] = held_out[n].model_copy(update={"department": "signals", "losses": worse})
    report = reported(institution, held_out=held_out)
    assert figure(report, "held-out loss", slice="department signals").low > 0
    slices = {each.slice for each in report.regressions if each.what == "held-out loss"}
    assert slices == ({"department signals"} if named else set())
    assert "fewer than 6 case files are not counted" in as_markdown(report)


def test_a_reply_without_one_of_the_arms_is_not_reported_on(institution: DemoInstitution) -> None:
    broken = [row.model_copy(update={"stopped": {"base": True}}) for row in replies_to_letters()]
    with pytest.raises(IntegrityError, match="private_scores: row L-00"):
        reported(institution, replies=broken)


def test_a_better_adapter_passes_and_the_report_has_the_numbers(institution: DemoInstitution) -> None:
    workplace = institution.workplace()
    stage, ref, verdicts = run(workplace)
    assert {name: verdict.outcome for name, verdict in verdicts.items()} == {
        criterion.name: "pass" for criterion in CRITERIA
    }
    assert_usable(stage, workplace, ref)
    report = read_report(workplace, ref)
    assert report.outcome == "pass"
    assert report.incumbent is None
    assert figure(report, "held-out loss").difference == pytest.approx(-0.5)
    assert figure(report, "held-out loss").high < 0
    assert figure(report, "true reply preferred").candidate == 1.0
    assert figure(report, "suite").reference == 0.6
    assert figure(report, "suite", slice="language ar").rows == 50
    length = figure(report, "length of an answer")
    assert (length.reference, length.candidate) == (20, 30)
    assert [(each.what, each.slice) for each in report.regressions] == [("answers ended by the model", "all")]
    artifact = workplace.store.open(ref)
    page, tables = artifact.file("report.html").read_text(), artifact.file("report.md").read_text()
    for text in (page, tables):
        assert "-0.500" in text
        assert "0.600" in text
        assert "language ar" in text
    assert "http" not in page


def test_the_held_out_loss_is_a_mean_over_documents_and_beside_it_stands_that_over_tokens(
    institution: DemoInstitution,
) -> None:
    """Nineteen short replies become better and a long one worse. The gate compares documents, as its name says."""
    short = private(0.5)
    long = short[0].model_copy(update={"tokens": 40_000, "losses": by_arm(3.0, 4.0, None)})
    report = reported(institution, held_out=[long, *short[1:]])
    by_document, by_token = figure(report, "held-out loss"), figure(report, "held-out loss, mean over tokens")
    assert by_document.candidate == pytest.approx(fmean(each.losses["candidate"] for each in [long, *short[1:]]))
    tokens = [each.tokens for each in [long, *short[1:]]]
    sums = sum(each.losses["candidate"] * each.tokens for each in [long, *short[1:]])
    assert by_token.candidate == pytest.approx(sums / sum(tokens))
    assert by_document.difference < 0 < by_token.difference < by_token.high
    finding = report.finding("held_out_loss_improves")
    assert finding.outcome == "pass"
    for text in (finding.message, as_markdown(report), as_html(report)):
        assert f"{by_document.candidate:.3f}" in text and f"{by_token.candidate:.3f}" in text


def test_rows_that_got_worse_are_named_by_id(institution: DemoInstitution) -> None:
    report = reported(institution, gain=0.1, questions_lost=3, refusals_lost=2)
    worse = {each.what: each for each in report.worse}
    assert (worse["suite"].worse, worse["suite"].ids) == (3, ("Q-117", "Q-118", "Q-119"))
    assert worse["refused, should be"].ids == ("P-58", "P-59")
    assert worse["held-out loss"].worse == 4
    assert "Q-117" in as_html(report) and "Q-117" in as_markdown(report)


def test_an_incumbent_is_named_and_every_figure_is_compared_with_both(institution: DemoInstitution) -> None:
    workplace = institution.workplace()
    against = incumbent(workplace)
    ref = make_report(workplace, against=against)[1]
    report = read_report(workplace, ref)
    assert report.outcome == "pass"
    digest = against.external["incumbent:lamps-1.0.0"]
    assert report.incumbent == IncumbentFacts(id="lamps-1.0.0", digest=digest, compared=True)
    assert figure(report, "held-out loss", "incumbent").difference == pytest.approx(-0.1)
    assert figure(report, "suite", "incumbent").rows == 200
    assert figure(report, "length of an answer", "incumbent").reference == 25
    artifact = workplace.store.open(ref)
    assert artifact.manifest.summary["incumbent"] == {"id": "lamps-1.0.0", "digest": digest, "compared": True}
    for text in (artifact.file("report.html").read_text(), artifact.file("report.md").read_text()):
        assert f"the incumbent lamps-1.0.0 ({digest[:12]})" in text
        assert "-0.100" in text
