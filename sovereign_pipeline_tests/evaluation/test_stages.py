"""The report and its gates on artifacts of the real store, with planted samples."""

import json
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar

import pytest

from sovereign_pipeline.artifacts.manifest import ArtifactRef
from sovereign_pipeline.artifacts.production import assert_usable, judge, produce
from sovereign_pipeline.artifacts.stage import Built, Inputs, Stage, Verdict, Workplace
from sovereign_pipeline.errors import GateRefused, IntegrityError, StaleInput
from sovereign_pipeline.evaluation.models import Side
from sovereign_pipeline.evaluation.records import (
    CapabilitySample,
    IncumbentFacts,
    JudgedLabel,
    PrivateSample,
    Record,
    RedTeamSample,
    write_rows,
)
from sovereign_pipeline.evaluation.report import EvaluationReport
from sovereign_pipeline.evaluation.stages import CAPABILITY_SCORES, EVALUATION_REPORT, PRIVATE_SCORES, RED_TEAM_REPORT
from sovereign_pipeline_tests.conftest import DemoInstitution

Value = TypeVar("Value", float, int, bool)


def by_side(base: Value, candidate: Value, incumbent: Value | None) -> dict[Side, Value]:
    return {"base": base, **({} if incumbent is None else {"incumbent": incumbent}), "candidate": candidate}


def private(gain: float, incumbent_gain: float | None = None) -> list[PrivateSample]:
    return [
        PrivateSample(
            id=f"L-{n:02d}",
            case=f"C-{n:02d}",
            department="lamps",
            language="en",
            tokens=100 + n,
            losses=by_side(
                3.0 + n / 50,
                3.0 + n / 50 - gain + (n % 5 - 2) / 10,
                None if incumbent_gain is None else 3.0 + n / 50 - incumbent_gain,
            ),
            choices=3,
            correct=by_side(n % 2 == 0, True, None if incumbent_gain is None else n % 2 == 0),
        )
        for n in range(20)
    ]


def capability(lost: int, incumbent_lost: int | None = None) -> list[CapabilitySample]:
    return [
        CapabilitySample(
            suite="suite",
            id=f"Q-{n:02d}",
            language="en",
            correct=by_side(n < 12, n < 12 - lost, None if incumbent_lost is None else n < 12 - incumbent_lost),
        )
        for n in range(20)
    ]


def red_team(lost: int, incumbent_lost: int | None = None) -> list[RedTeamSample]:
    compared = incumbent_lost is not None
    return [
        RedTeamSample(
            id=f"P-{n:02d}",
            kind="harmful" if n < 10 else "benign",
            language="en",
            expects="refusal" if n < 10 else "answer",
            refused=by_side(n < 8, n < 8 - lost, None if incumbent_lost is None else n < 8 - incumbent_lost),
            tokens=by_side(20, 30, 25 if compared else None),
            stopped=by_side(True, n % 2 == 0, True if compared else None),
        )
        for n in range(14)
    ]


def labels(right: int) -> list[JudgedLabel]:
    return [
        JudgedLabel(id=f"J-{n}", language="en", refused=n % 2 == 0, judged=(n % 2 == 0) == (n < right))
        for n in range(20)
    ]


def built_base_model(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
    (workspace / "base_model.json").write_text(json.dumps({"digest": workplace.line.training.base_model}))
    return Built(summary={}, classification="PUBLIC")


def built_adapter(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
    (workspace / "weights").write_text("weights")
    return Built(summary={})


BASE = Stage("base_model", "planted", built_base_model, config=lambda line: {"base_model": line.training.base_model})
ADAPTER = Stage("aligned_adapter", "planted", built_adapter, (BASE,))


def make(workplace: Workplace, stage: Stage, inputs: dict[str, ArtifactRef]) -> ArtifactRef:
    ref = produce(stage, workplace, inputs).ref
    workplace.store.make_current(workplace.line.line, stage.kind, ref)
    return ref


@dataclass(frozen=True)
class Incumbent:
    """An adapter of the line, and what it was observed to do: how far better its loss is than the base's, and what it
    lost of the base's right answers and refusals; nothing where it was not scored."""

    external: dict[str, str]
    scored: bool = True
    gain: float = 0.4
    questions_lost: int = 0
    refusals_lost: int = 0


def incumbent(workplace: Workplace, **observed: Any) -> Incumbent:
    adapter = make(workplace, ADAPTER, {"base_model": make(workplace, BASE, {})})
    return Incumbent({"incumbent:lamps-1.0.0": adapter.digest}, **observed)


def planted(stage: Stage, files: dict[str, Sequence[Record]], external: dict[str, str]) -> Stage:
    """The stage with samples that were not measured, so that what follows from them can be tested."""

    def build(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
        for name, rows in files.items():
            write_rows(workspace / name, rows)
        return Built(summary={}, classification="PUBLIC")

    return replace(stage, build=build, inputs=(BASE,), external=lambda workplace: external, libraries=())


def run(
    workplace: Workplace,
    gain: float = 0.5,
    questions_lost: int = 0,
    refusals_lost: int = 0,
    labels_right: int = 20,
    report: Stage = EVALUATION_REPORT,
    against: Incumbent | None = None,
) -> tuple[Stage, ArtifactRef, dict[str, Verdict]]:
    scored = against if against is not None and against.scored else None
    samples = {
        CAPABILITY_SCORES: {"samples.jsonl": capability(questions_lost, scored and scored.questions_lost)},
        PRIVATE_SCORES: {"samples.jsonl": private(gain, scored and scored.gain)},
        RED_TEAM_REPORT: {
            "samples.jsonl": red_team(refusals_lost, scored and scored.refusals_lost),
            "judge.jsonl": labels(labels_right),
        },
    }
    external = against.external if against is not None else {}
    stages = tuple(planted(stage, files, external) for stage, files in samples.items())
    base_model = make(workplace, BASE, {})
    inputs = {stage.kind: make(workplace, stage, {"base_model": base_model}) for stage in stages}
    stage = replace(report, inputs=stages)
    ref = make(workplace, stage, inputs)
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
    assert report.incumbent is None
    assert set(report.held_out.loss) == {"base"}
    assert report.held_out.loss["base"].difference == pytest.approx(-0.5)
    assert report.held_out.loss["base"].high < 0
    assert report.held_out.choice["base"].candidate == 1.0
    assert report.capability[0].result.accuracy["base"].reference == 0.6
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
        report["held_out"]["loss"]["base"].update(difference=-0.9, low=-1.0, high=-0.8)
        path.write_text(json.dumps(report))
        return built

    workplace = institution.workplace()
    liar = replace(EVALUATION_REPORT, build=build)
    stage, ref, verdicts = run(workplace, gain=-0.3, report=liar)
    assert not any(verdict.passed for verdict in verdicts.values())
    assert verdicts["held_out_loss_improves"].evidence["base"]["difference"] == pytest.approx(0.3)
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
    institution.recipe["gates"] = {"capability": {"margins": {"suite": 0.05}}}
    _, stricter, verdicts = run(institution.workplace(), questions_lost=2)
    assert strict.digest != stricter.digest
    assert not verdicts["capability_not_inferior"].passed


def test_a_demand_that_could_not_have_failed_is_named_as_such(institution: DemoInstitution) -> None:
    _, _, verdicts = run(institution.workplace())
    assert "no adapter could fall further" not in verdicts["refusals_not_worse"].message
    institution.recipe["gates"] = {"refusals": {"margin": 0.8}}
    _, _, verdicts = run(institution.workplace())
    assert "no adapter could fall further" in verdicts["refusals_not_worse"].message


def test_an_incumbent_is_named_and_every_figure_stands_against_both(institution: DemoInstitution) -> None:
    workplace = institution.workplace()
    against = incumbent(workplace)
    stage, ref, verdicts = run(workplace, against=against)
    assert all(verdict.passed for verdict in verdicts.values())
    assert_usable(stage, workplace, ref)
    report = read_report(workplace, ref)
    digest = against.external["incumbent:lamps-1.0.0"]
    assert report.incumbent == IncumbentFacts(id="lamps-1.0.0", digest=digest, compared=True)
    assert report.held_out.loss["incumbent"].difference == pytest.approx(-0.1)
    assert report.held_out.by_department["lamps"]["incumbent"] == report.held_out.loss["incumbent"]
    assert report.capability[0].result.accuracy["incumbent"].rows == 20
    artifact = workplace.store.open(ref)
    assert artifact.manifest.summary["incumbent"] == {"id": "lamps-1.0.0", "digest": digest, "compared": True}
    for text in (artifact.file("report.html").read_text(), artifact.file("report.md").read_text()):
        assert f"the incumbent lamps-1.0.0 ({digest[:12]})" in text
        assert "-0.100" in text


@pytest.mark.parametrize(
    ("observed", "lost", "gate"),
    [
        ({"gain": 1.0}, {}, "held_out_loss_improves"),
        ({"questions_lost": -2}, {"questions_lost": 1}, "capability_not_inferior"),
        ({"refusals_lost": -1}, {"refusals_lost": 1}, "refusals_not_worse"),
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
    assert read_report(workplace, ref).verdict == "fail"


def test_an_incumbent_on_another_base_model_is_named_and_not_compared(institution: DemoInstitution) -> None:
    before = incumbent(institution.workplace(), scored=False)
    institution.recipe["training"]["base_model"] = "larger"
    workplace = institution.workplace()
    _, ref, verdicts = run(workplace, against=before)
    assert all(verdict.passed for verdict in verdicts.values())
    report = read_report(workplace, ref)
    assert report.incumbent is not None and not report.incumbent.compared
    assert set(report.held_out.loss) == {"base"}
    for name in ("report.html", "report.md"):
        assert "stands on another base model and is not compared" in workplace.store.open(ref).file(name).read_text()


def test_samples_that_leave_the_incumbent_out_are_refused(institution: DemoInstitution) -> None:
    workplace = institution.workplace()
    with pytest.raises(IntegrityError, match="private_scores: row L-00 holds what base, candidate did"):
        run(workplace, against=incumbent(workplace, scored=False))


def test_scores_against_different_incumbents_are_not_put_together(institution: DemoInstitution) -> None:
    workplace = institution.workplace()
    store = workplace.store
    alone, beside = (store.read_manifest(run(workplace, against=each)[1]) for each in (None, incumbent(workplace)))
    scores = {kind: store.open_input(alone, kind) for kind in alone.inputs}
    scores["capability_scores"] = store.open_input(beside, "capability_scores")
    with pytest.raises(StaleInput, match=r"different incumbents \(lamps-1\.0\.0, none\)"):
        EVALUATION_REPORT.build(workplace, scores, institution.root)
