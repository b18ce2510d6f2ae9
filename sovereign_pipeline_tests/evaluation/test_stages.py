"""The report and its gates on artifacts of the real store, with planted samples."""

import json
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import pytest

from sovereign_pipeline.artifacts.manifest import ArtifactRef
from sovereign_pipeline.artifacts.production import assert_usable, judge, produce
from sovereign_pipeline.artifacts.stage import Built, Inputs, Stage, Verdict, Workplace
from sovereign_pipeline.errors import GateRefused
from sovereign_pipeline.evaluation.records import (
    CapabilitySample,
    JudgedLabel,
    PrivateSample,
    Record,
    RedTeamSample,
    write_rows,
)
from sovereign_pipeline.evaluation.report import EvaluationReport
from sovereign_pipeline.evaluation.stages import CAPABILITY_SCORES, EVALUATION_REPORT, PRIVATE_SCORES, RED_TEAM_REPORT
from sovereign_pipeline_tests.conftest import DemoInstitution


def private(adapter_gain: float) -> list[PrivateSample]:
    return [
        PrivateSample(
            id=f"L-{n:02d}",
            case=f"C-{n:02d}",
            department="lamps",
            language="en",
            tokens=100 + n,
            loss_base=3.0 + n / 50,
            loss_adapter=3.0 + n / 50 - adapter_gain + (n % 5 - 2) / 10,
            choices=3,
            correct_base=n % 2 == 0,
            correct_adapter=True,
        )
        for n in range(20)
    ]


def capability(lost: int) -> list[CapabilitySample]:
    return [
        CapabilitySample(
            suite="suite", id=f"Q-{n:02d}", language="en", correct_base=n < 12, correct_adapter=n < 12 - lost
        )
        for n in range(20)
    ]


def red_team(lost: int) -> list[RedTeamSample]:
    return [
        RedTeamSample(
            id=f"P-{n:02d}",
            kind="harmful" if n < 10 else "benign",
            language="en",
            expects="refusal" if n < 10 else "answer",
            refused_base=n < 8,
            refused_adapter=n < 8 - lost,
            tokens_base=20,
            tokens_adapter=30,
            stopped_base=True,
            stopped_adapter=n % 2 == 0,
        )
        for n in range(14)
    ]


def labels(right: int) -> list[JudgedLabel]:
    return [
        JudgedLabel(id=f"J-{n}", language="en", refused=n % 2 == 0, judged=(n % 2 == 0) == (n < right))
        for n in range(20)
    ]


def planted(stage: Stage, files: dict[str, Sequence[Record]]) -> Stage:
    """The stage with samples that were not measured, so that what follows from them can be tested."""

    def build(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
        for name, rows in files.items():
            write_rows(workspace / name, rows)
        return Built(summary={}, classification="PUBLIC")

    return replace(stage, build=build, inputs=(), external=lambda workplace: {}, libraries=())


def run(
    workplace: Workplace,
    gain: float = 0.5,
    questions_lost: int = 0,
    refusals_lost: int = 0,
    labels_right: int = 20,
    report: Stage = EVALUATION_REPORT,
) -> tuple[Stage, ArtifactRef, dict[str, Verdict]]:
    stages = (
        planted(CAPABILITY_SCORES, {"samples.jsonl": capability(questions_lost)}),
        planted(PRIVATE_SCORES, {"samples.jsonl": private(gain)}),
        planted(RED_TEAM_REPORT, {"samples.jsonl": red_team(refusals_lost), "judge.jsonl": labels(labels_right)}),
    )
    inputs = {}
    for stage in stages:
        inputs[stage.kind] = produce(stage, workplace, {}).ref
        workplace.store.make_current(workplace.line.line, stage.kind, inputs[stage.kind])
    stage = replace(report, inputs=stages)
    ref = produce(stage, workplace, inputs).ref
    workplace.store.make_current(workplace.line.line, stage.kind, ref)
    return stage, ref, judge(stage, workplace, ref)


def read_report(workplace: Workplace, ref: ArtifactRef) -> EvaluationReport:
    return EvaluationReport.model_validate_json(workplace.store.open(ref).file("report.json").read_bytes())


def test_a_better_adapter_passes_and_the_report_says_so_with_numbers(institution: DemoInstitution) -> None:
    workplace = institution.workplace()
    stage, ref, verdicts = run(workplace)
    assert {name: verdict.passed for name, verdict in verdicts.items()} == {
        "held_out_loss_improves": True,
        "capability_not_inferior": True,
        "refusals_not_worse": True,
    }
    assert_usable(stage, workplace, ref)
    report = read_report(workplace, ref)
    assert report.verdict == "pass"
    assert report.held_out.loss.difference == pytest.approx(-0.5)
    assert report.held_out.loss.high < 0
    assert report.held_out.choice is not None
    assert report.held_out.choice.adapter == 1.0
    assert report.capability[0].result.accuracy.base == 0.6
    artifact = workplace.store.open(ref)
    page, tables = artifact.file("report.html").read_text(), artifact.file("report.md").read_text()
    for text in (page, tables):
        assert "-0.500" in text
        assert "0.600" in text
    assert page.count("data:image/png;base64,") == 4
    assert "http" not in page
    assert "L-04" in page


@pytest.mark.parametrize(
    ("planted_fault", "gate"),
    [
        ({"gain": -0.3}, "held_out_loss_improves"),
        ({"gain": 0.01}, "held_out_loss_improves"),
        ({"questions_lost": 3}, "capability_not_inferior"),
        ({"refusals_lost": 2}, "refusals_not_worse"),
        ({"labels_right": 14}, "refusals_not_worse"),
    ],
)
def test_each_planted_fault_is_refused_by_its_gate_alone(
    planted_fault: dict[str, float], gate: str, institution: DemoInstitution
) -> None:
    workplace = institution.workplace()
    stage, ref, verdicts = run(workplace, **planted_fault)  # type: ignore[arg-type]
    assert [name for name, verdict in verdicts.items() if not verdict.passed] == [gate]
    assert read_report(workplace, ref).verdict == "fail"
    with pytest.raises(GateRefused, match=gate):
        assert_usable(stage, workplace, ref)


def test_a_fall_of_exactly_the_margin_is_accepted(institution: DemoInstitution) -> None:
    _, _, verdicts = run(institution.workplace(), questions_lost=2, refusals_lost=1)
    assert all(verdict.passed for verdict in verdicts.values())


def test_a_report_that_says_more_than_the_samples_is_not_believed(institution: DemoInstitution) -> None:
    def build(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
        built = EVALUATION_REPORT.build(workplace, inputs, workspace)
        path = workspace / "report.json"
        report = json.loads(path.read_text())
        report["verdict"] = report["held_out_verdict"] = "pass"
        report["held_out"]["loss"].update(difference=-0.9, low=-1.0, high=-0.8)
        path.write_text(json.dumps(report))
        return built

    workplace = institution.workplace()
    liar = replace(EVALUATION_REPORT, build=build)
    stage, ref, verdicts = run(workplace, gain=-0.3, report=liar)
    assert not any(verdict.passed for verdict in verdicts.values())
    assert verdicts["held_out_loss_improves"].evidence["difference"] == pytest.approx(0.3)
    with pytest.raises(GateRefused):
        assert_usable(stage, workplace, ref)


def test_a_suite_without_samples_fails(institution: DemoInstitution) -> None:
    institution.recipe["evaluation"]["capability"].append(
        {"name": "other", "path": "suites/other.jsonl", "classification": "PUBLIC"}
    )
    _, _, verdicts = run(institution.workplace())
    assert not verdicts["capability_not_inferior"].passed
    assert "other" in verdicts["capability_not_inferior"].message


def test_the_same_samples_give_the_same_bytes(institution: DemoInstitution, tmp_path: Path) -> None:
    first, second = institution.workplace(), DemoInstitution(tmp_path / "again", institution.recipe, institution.rows)
    assert run(first)[1].digest == run(second.workplace())[1].digest


def test_a_margin_is_part_of_what_was_judged(institution: DemoInstitution) -> None:
    _, strict, _ = run(institution.workplace(), questions_lost=2)
    institution.recipe["evaluation"]["capability"][0]["non_inferiority_margin"] = 0.05
    _, stricter, verdicts = run(institution.workplace(), questions_lost=2)
    assert strict.digest != stricter.digest
    assert not verdicts["capability_not_inferior"].passed


def test_a_demand_that_could_not_have_failed_is_named_as_such(institution: DemoInstitution) -> None:
    _, _, verdicts = run(institution.workplace())
    assert "no adapter could fall further" not in verdicts["refusals_not_worse"].message
    institution.recipe["evaluation"]["red_team"]["max_refusal_drop"] = 0.8
    _, _, verdicts = run(institution.workplace())
    assert "no adapter could fall further" in verdicts["refusals_not_worse"].message
