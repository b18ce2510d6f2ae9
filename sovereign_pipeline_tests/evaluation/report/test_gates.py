"""Each criterion, on planted samples at and beyond its margin."""

from collections.abc import Callable
from typing import Any

import pytest
import yaml

from sovereign_pipeline.base.settings import PROJECT_ROOT
from sovereign_pipeline.evaluation.records import JudgedLabel, ToolCallSelection
from sovereign_pipeline.evaluation.red_team import OutputScanner, judge_labels, read_labels
from sovereign_pipeline.policy.corpus import Privacy
from sovereign_pipeline.policy.line import Line
from sovereign_pipeline.suites.rows import prompt_files, read_prompts
from sovereign_pipeline_tests.conftest import JUDGE_LABELS, DemoInstitution
from sovereign_pipeline_tests.evaluation.report.planted import (
    Incumbent,
    found,
    labels,
    not_passed,
    red_team,
    reported,
    run,
    tool_calls,
)
from sovereign_pipeline_tests.examples import examples

pytestmark = pytest.mark.slow


def selection(trained: int = 0, held_out: int = 0, too_long: int = 0) -> ToolCallSelection:
    return ToolCallSelection(trained=trained, held_out=held_out, too_long=too_long)


@pytest.mark.parametrize(
    ("fault", "gates", "outcome", "margins"), examples(__file__, "each_planted_fault_is_refused_by_its_gate_alone")
)
def test_each_planted_fault_is_refused_by_its_gate_alone(
    fault: dict[str, Any], gates: list[str], outcome: str, margins: dict[str, Any], institution: DemoInstitution
) -> None:
    made: dict[str, Callable[..., Any]] = {"calls": tool_calls, "selection": selection}
    institution.recipe["gates"] = margins
    report = reported(institution, **{key: made[key](**each) if key in made else each for key, each in fault.items()})
    assert not_passed({each.gate: each for each in report.findings}) == dict.fromkeys(gates, outcome)
    assert report.outcome == outcome


def test_an_inconclusive_finding_states_the_minimum_detectable_difference(institution: DemoInstitution) -> None:
    (held,) = found(institution, questions_lost=16)["capability_not_inferior"].held
    error = (0.08 * 0.92 / 200) ** 0.5
    assert held.judgement.smallest_visible == pytest.approx((1.960 + 0.842) * error, rel=0.02)


def test_a_suite_without_samples_fails(institution: DemoInstitution) -> None:
    institution.recipe["evaluation"]["capability"].append(
        {"name": "other", "path": "suites/other.jsonl", "classification": "PUBLIC"}
    )
    verdicts = found(institution)
    assert verdicts["capability_not_inferior"].outcome == "fail"
    assert "other" in verdicts["capability_not_inferior"].message


@pytest.mark.security_case(
    "Conversations with tools are too long to be scored, or none is held out, so that no tool call is measured",
    "the gate is inconclusive, and states how many there are",
)
@pytest.mark.parametrize(
    ("counts", "stated"),
    [
        (selection(held_out=20, too_long=60), "60 held-out turns were skipped, because"),
        (selection(trained=80), "80 training documents have tools, but no held-out conversation"),
    ],
)
def test_tool_calls_that_were_not_measured_are_inconclusive_in_the_store(
    counts: ToolCallSelection, stated: str, institution: DemoInstitution
) -> None:
    verdict = run(institution.workplace(), "tool_calls_not_worse", selection=counts)[2]["tool_calls_not_worse"]
    assert verdict.outcome == "inconclusive" and stated in verdict.message


@pytest.mark.parametrize(
    ("observed", "lost", "gate"),
    [
        ({"gain": 1.0}, {}, "held_out_loss_improves"),
        ({"questions_lost": -25}, {"questions_lost": 8}, "capability_not_inferior"),
        ({"refusals_lost": -10}, {"refusals_lost": 0}, "refusals_not_worse"),
    ],
)
def test_what_is_good_enough_for_the_base_may_be_too_bad_for_the_incumbent(
    observed: dict[str, Any], lost: dict[str, Any], gate: str, institution: DemoInstitution
) -> None:
    assert not_passed(found(institution, **lost)) == {}
    verdicts = found(institution, Incumbent({}, **observed), **lost)
    assert not_passed(verdicts) == {gate: "fail"}
    assert "incumbent" in verdicts[gate].message


def labels_of_refusals(
    language: str, *, tuned: bool = False, refuse: int = 10, found: int = 10, others: int = 10, let_be: int = 10
) -> list[JudgedLabel]:
    """found: of the answers that refuse, those that the judge names; let_be: of the others, those that it does not."""
    pairs = [(True, n < found) for n in range(refuse)] + [(False, n >= let_be) for n in range(others)]
    return [
        JudgedLabel(
            id=f"J-{language}-{tuned}-{n}", judge="refusal", language=language, tuned=tuned, label=label, judged=judged
        )
        for n, (label, judged) in enumerate(pairs)
    ]


@pytest.mark.parametrize(
    ("why", "english", "outcome"), examples(__file__, "a_judge_must_be_shown_to_be_better_than_a_coin")
)
def test_a_judge_must_be_shown_to_be_better_than_a_coin(
    why: str, english: dict[str, Any], outcome: str, institution: DemoInstitution
) -> None:
    others = [label for label in labels(20) if label.judge != "refusal"]
    verdicts = found(institution, labelled=[*others, *labels_of_refusals("en", **english)])
    of_refusals = ("refusals_not_worse", "over_refusals_not_worse")
    assert {verdicts[name].outcome for name in of_refusals} == {outcome}, why
    assert not_passed(verdicts).keys() <= set(of_refusals)
    assert ("Not good enough in en" in verdicts["refusals_not_worse"].message) == (outcome != "pass")


@pytest.mark.parametrize(
    ("arabic", "outcome", "said"),
    [
        ({"tuned": True}, "pass", "ar (tuned on): precision 1.00"),
        ({"tuned": True, "found": 0}, "inconclusive", "Not good enough in ar:"),
        ({"tuned": False, "found": 0}, "inconclusive", "Not good enough in ar:"),
    ],
)
def test_tuned_answers_count_in_each_language_that_has_no_fresh_ones(
    arabic: dict[str, Any], outcome: str, said: str, institution: DemoInstitution
) -> None:
    """What English answers say of a judge says nothing about its Arabic ones."""
    both = [*labels(20), *labels_of_refusals("en", tuned=True, found=0), *labels_of_refusals("ar", **arabic)]
    verdicts = found(institution, labelled=both)
    assert verdicts["refusals_not_worse"].outcome == outcome
    assert said in verdicts["refusals_not_worse"].message
    assert "en: precision 1.00" in verdicts["refusals_not_worse"].message


@pytest.mark.parametrize(
    ("prefix", "unanswered"),
    [
        ("P", ["refusals_not_worse", "nothing_disclosed", "no_personal_data"]),
        ("B", ["over_refusals_not_worse", "no_personal_data"]),
        ("I", ["injections_not_obeyed", "no_personal_data"]),
        ("O", []),
    ],
)
def test_prompts_in_a_language_without_labelled_answers_are_named(
    prefix: str, unanswered: list[str], institution: DemoInstitution
) -> None:
    """A judge that knows no Urdu finds as little in one arm's answers as in the other's."""
    prompts = [
        each.model_copy(update={"language": "ur"}) if each.id.startswith(prefix) else each for each in red_team(0)
    ]
    verdicts = found(institution, prompts=prompts)
    assert not_passed(verdicts) == dict.fromkeys(unanswered, "inconclusive")
    assert all("There is no labelled answer in ur" in verdicts[name].message for name in unanswered)


@pytest.fixture(scope="module")
def shipped_labels() -> list[JudgedLabel]:
    scanner = OutputScanner("permits-desk", Privacy(name_models={}), {})
    return judge_labels(read_labels(JUDGE_LABELS), scanner)


@pytest.mark.parametrize("line", ["permits-desk", "circulars-ar", "enquiries-desk"])
def test_the_demonstrations_prompts_and_labels_leave_none_of_its_gates_in_doubt(
    line: str, shipped_labels: list[JudgedLabel], institution: DemoInstitution
) -> None:
    """With arms that answer alike, at the recipe's own margins."""
    data = PROJECT_ROOT / "data"
    recipe = Line.model_validate(yaml.safe_load((data / "lines" / f"{line}.yaml").read_text()))
    asked = read_prompts(*prompt_files(data, recipe.named_evaluation.red_team).values())
    alike = red_team(0)[-1]
    prompts = [
        alike.model_copy(update={"id": each.id, "kind": each.kind, "language": each.language, "expects": each.expects})
        for each in asked
    ]
    assert data / recipe.named_evaluation.red_team.judge_labels == JUDGE_LABELS
    institution.recipe["gates"] = recipe.gates.model_dump(mode="json", exclude={"capability", "review"})
    verdicts = found(institution, prompts=prompts, labelled=shipped_labels)
    assert not_passed(verdicts) == {}
    assert sum("ar: precision" in each.message or "ar (tuned on)" in each.message for each in verdicts.values()) == 6


def test_a_doubt_about_the_judge_never_turns_a_fail_into_inconclusive(institution: DemoInstitution) -> None:
    """An officer who may accept what is inconclusive may not accept this."""
    prompts = red_team(0, obeyed=14)
    prompts = [*prompts, prompts[-41].model_copy(update={"id": "I-ur", "language": "ur"})]
    assert prompts[-1].expects == "unmoved"
    verdicts = found(institution, prompts=prompts)
    assert verdicts["injections_not_obeyed"].outcome == "fail"
    assert "in ur, the language of some prompts" in verdicts["injections_not_obeyed"].message
