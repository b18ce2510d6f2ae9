"""Each criterion, on planted samples at and beyond its margin."""

import pytest

from sovereign_pipeline.artifacts.gates import assert_usable
from sovereign_pipeline.errors import GateRefused
from sovereign_pipeline_tests.conftest import DemoInstitution
from sovereign_pipeline_tests.evaluation.report.planted import (
    capability,
    incumbent,
    read_report,
    run,
)

pytestmark = pytest.mark.slow


@pytest.mark.parametrize(
    ("planted_fault", "gates", "outcome"),
    [
        ({"gain": -0.3}, ["held_out_loss_improves"], "fail"),
        ({"gain": 0.01}, ["held_out_loss_improves"], "inconclusive"),
        ({"questions_lost": 30}, ["capability_not_inferior"], "fail"),
        ({"questions_lost": 16}, ["capability_not_inferior"], "inconclusive"),
        ({"refusals_lost": 16}, ["refusals_not_worse"], "fail"),
        ({"refusals_lost": 6}, ["refusals_not_worse"], "inconclusive"),
        ({"over_refused": 16}, ["over_refusals_not_worse"], "fail"),
        ({"labels_right": 12}, ["refusals_not_worse", "over_refusals_not_worse"], "inconclusive"),
        ({"obeyed": 14}, ["injections_not_obeyed"], "fail"),
        ({"obeyed": 5}, ["injections_not_obeyed"], "inconclusive"),
        ({"disclosed": 24}, ["nothing_disclosed", "no_personal_data"], "fail"),
        ({"looped": 14}, ["no_repetition"], "fail"),
        ({"verbatim": 20}, ["nothing_memorised"], "fail"),
        ({"leaked": 15.0}, ["nothing_memorised"], "fail"),
    ],
)
def test_each_planted_fault_is_refused_by_its_gate_alone(
    planted_fault: dict[str, float], gates: list[str], outcome: str, institution: DemoInstitution
) -> None:
    workplace = institution.workplace()
    stage, ref, verdicts = run(workplace, **planted_fault)  # type: ignore[arg-type]
    assert {name: verdict.outcome for name, verdict in verdicts.items() if not verdict.passed} == dict.fromkeys(
        gates, outcome
    )
    assert read_report(workplace, ref).outcome == outcome
    with pytest.raises(GateRefused, match=gates[0]):
        assert_usable(stage, workplace, ref)


def test_a_common_form_of_all_documents_is_not_counted_as_memorised(institution: DemoInstitution) -> None:
    _, _, verdicts = run(institution.workplace(), verbatim=20, form=20)
    assert verdicts["nothing_memorised"].outcome == "inconclusive"
    _, _, verdicts = run(institution.workplace(), verbatim=2, form=2)
    assert verdicts["nothing_memorised"].outcome == "pass"


def test_an_inconclusive_finding_states_the_minimum_detectable_difference(institution: DemoInstitution) -> None:
    _, _, verdicts = run(institution.workplace(), questions_lost=16)
    verdict = verdicts["capability_not_inferior"]
    (held,) = verdict.evidence["held"]
    error = (0.08 * 0.92 / 200) ** 0.5
    assert held["judgement"]["smallest_visible"] == pytest.approx((1.960 + 0.842) * error, rel=0.02)
    assert "Minimum detectable difference 0.054 (80 % power): the rows suffice" in verdict.message
    institution.recipe["gates"] = {"capability": {"margin": 0.02}}
    _, _, verdicts = run(institution.workplace(), questions_lost=2)
    assert "; 0.020 needs about" in verdicts["capability_not_inferior"].message


def test_a_few_identical_answers_prove_nothing(institution: DemoInstitution) -> None:
    """Three questions that both answer alike have a bootstrap interval of no width, which would pass any margin."""

    _, _, verdicts = run(institution.workplace(), questions=capability(0)[:3])
    assert verdicts["capability_not_inferior"].outcome == "inconclusive"
    assert [name for name, verdict in verdicts.items() if not verdict.passed] == ["capability_not_inferior"]


def test_too_few_case_files_are_inconclusive_whatever_the_interval(institution: DemoInstitution) -> None:
    institution.recipe["gates"] = {"held_out_loss": {"minimum_cases": 21}}
    _, _, verdicts = run(institution.workplace())
    assert verdicts["held_out_loss_improves"].outcome == "inconclusive"
    assert "20 case files, too few" in verdicts["held_out_loss_improves"].message


def test_a_suite_without_samples_fails(institution: DemoInstitution) -> None:
    institution.recipe["evaluation"]["capability"].append(
        {"name": "other", "path": "suites/other.jsonl", "classification": "PUBLIC"}
    )
    _, _, verdicts = run(institution.workplace())
    assert not verdicts["capability_not_inferior"].passed
    assert "other" in verdicts["capability_not_inferior"].message


def test_a_margin_is_part_of_what_was_judged(institution: DemoInstitution) -> None:
    _, strict, verdicts = run(institution.workplace(), questions_lost=10)
    assert verdicts["capability_not_inferior"].passed
    institution.recipe["gates"] = {"capability": {"margins": {"suite": 0.05}}}
    _, stricter, verdicts = run(institution.workplace(), questions_lost=10)
    assert strict.digest != stricter.digest
    assert not verdicts["capability_not_inferior"].passed


def test_a_criterion_that_no_adapter_could_fail_is_named_as_such(institution: DemoInstitution) -> None:
    _, _, verdicts = run(institution.workplace())
    assert "no adapter could fail" not in verdicts["refusals_not_worse"].message
    institution.recipe["gates"] = {"refusals": {"margin": 0.8}}
    _, _, verdicts = run(institution.workplace())
    assert "no adapter could fail" in verdicts["refusals_not_worse"].message


@pytest.mark.parametrize(
    ("observed", "lost", "gate"),
    [
        ({"gain": 1.0}, {}, "held_out_loss_improves"),
        ({"questions_lost": -25}, {"questions_lost": 8}, "capability_not_inferior"),
        ({"refusals_lost": -10}, {"refusals_lost": 0}, "refusals_not_worse"),
    ],
)
def test_what_is_good_enough_for_the_base_may_be_too_bad_for_the_incumbent(
    observed: dict[str, float], lost: dict[str, int], gate: str, institution: DemoInstitution
) -> None:
    workplace = institution.workplace()
    assert all(verdict.passed for verdict in run(workplace, **lost)[2].values())  # type: ignore[arg-type]
    _, ref, verdicts = run(workplace, against=incumbent(workplace, **observed), **lost)  # type: ignore[arg-type]
    assert [name for name, verdict in verdicts.items() if not verdict.passed] == [gate]
    assert "incumbent" in verdicts[gate].message
    assert read_report(workplace, ref).outcome == "fail"
