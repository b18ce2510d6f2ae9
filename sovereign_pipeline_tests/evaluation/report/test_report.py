"""The report as an artifact: what its gates are bound to, incumbents, waivers and falsified reports."""

import json
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from sovereign_pipeline.base.errors import GateRefused, IntegrityError, StaleInput
from sovereign_pipeline.evaluation.report import report as waivers
from sovereign_pipeline.evaluation.report.report import compared_with
from sovereign_pipeline.evaluation.stages import EVALUATION_REPORT, PRIVATE_SCORES
from sovereign_pipeline.record.gates import assert_usable
from sovereign_pipeline.record.stage import Built, Inputs, Stage, Workplace
from sovereign_pipeline_tests.conftest import DemoInstitution
from sovereign_pipeline_tests.evaluation.report import planted
from sovereign_pipeline_tests.evaluation.report.planted import incumbent, make_report, read_report, run
from sovereign_pipeline_tests.officers import waive

pytestmark = pytest.mark.slow


def test_the_record_states_what_it_is_bound_to(institution: DemoInstitution) -> None:
    workplace = institution.workplace()
    against, gates = incumbent(workplace), ("capability_not_inferior", "refusals_not_worse")
    _, ref, verdicts = run(workplace, *gates, against=against)
    bound = {name: verdict.evidence["bound_to"] for name, verdict in verdicts.items()}
    one = bound["capability_not_inferior"]
    assert one["report"] == ref.digest
    assert one["incumbent"] == against.external["incumbent:lamps-1.0.0"]
    assert set(one["scores"]) == {"capability_scores", "private_scores", "red_team_report"}
    assert one["items"] == {"suite": "5" * 64}
    assert len({each["policy"] for each in bound.values()}) == len(bound)
    institution.recipe["gates"] = {"capability": {"margin": 0.2}}
    _, _, again = run(institution.workplace(), *gates, against=against)
    assert again["capability_not_inferior"].evidence["bound_to"]["policy"] != one["policy"]
    assert again["refusals_not_worse"].evidence["bound_to"]["policy"] == bound["refusals_not_worse"]["policy"]


def rewritten(change: Callable[[Any], object]) -> Stage:
    """The report's stage, with a report that was changed."""

    def build(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
        built = EVALUATION_REPORT.build(workplace, inputs, workspace)
        report = json.loads((workspace / "report.json").read_text())
        change(report)
        (workspace / "report.json").write_text(json.dumps(report))
        return built

    return replace(EVALUATION_REPORT, build=build)


def test_a_report_that_says_more_than_the_samples_is_not_believed(institution: DemoInstitution) -> None:
    def lie(report: Any) -> None:
        report["outcome"] = report["findings"][0]["outcome"] = "pass"
        report["findings"][0]["held"][0]["observed"].update(difference=-0.9, low=-1.0, high=-0.8)

    workplace, gates = institution.workplace(), ("held_out_loss_improves", "refusals_not_worse")
    stage, ref, verdicts = run(workplace, *gates, gain=-0.3, report=rewritten(lie))
    assert not any(verdict.passed for verdict in verdicts.values())
    (held,) = verdicts["held_out_loss_improves"].evidence["held"]
    assert held["observed"]["difference"] == pytest.approx(0.3)
    with pytest.raises(GateRefused):
        assert_usable(stage, workplace, ref)


def test_a_report_worded_by_another_version_is_judged_by_its_figures(institution: DemoInstitution) -> None:
    """Its gates are evaluated again when only `officer_may` changes, and the stored report stays as it is."""

    def reword(report: Any) -> None:
        for finding in report["findings"]:
            finding["message"] = "Worded otherwise."

    _, _, verdicts = run(institution.workplace(), "refusals_not_worse", report=rewritten(reword))
    assert verdicts["refusals_not_worse"].passed
    assert "Worded otherwise." not in verdicts["refusals_not_worse"].message


def test_scores_of_two_precisions_make_no_report(institution: DemoInstitution, monkeypatch: pytest.MonkeyPatch) -> None:
    _, ref = make_report(institution.workplace())
    report = read_report(institution.workplace(), ref)
    assert report.precision == "float32"
    assert compared_with(report).endswith("scored in float32, in which choices and texts equal lm-eval's.")
    other = replace(PRIVATE_SCORES, config=lambda line: {"precision": "bfloat16"})
    monkeypatch.setattr(planted, "PRIVATE_SCORES", other)
    with pytest.raises(StaleInput, match=r"different precisions \(bfloat16, float32\)"):
        make_report(institution.workplace())


def test_what_an_officer_may_waive_is_the_recipes_and_does_not_change_the_report(institution: DemoInstitution) -> None:
    workplace = institution.workplace()
    stage, before, _ = run(workplace, "capability_not_inferior", questions_lost=16)
    (gate,) = stage.gates
    with pytest.raises(GateRefused, match="capability_not_inferior"):
        waive(stage, gate, workplace, before, "Because.")
    institution.recipe["gates"] = {"capability": {"officer_may": "accept_inconclusive"}}
    workplace = institution.workplace()
    stage, ref, _ = run(workplace, "capability_not_inferior", questions_lost=16)
    assert ref == before
    waive(stage, gate, workplace, ref, "Because.")
    assert_usable(stage, workplace, ref)
    stage, other, _ = run(workplace, "capability_not_inferior", questions_lost=15)
    assert other != ref
    with pytest.raises(GateRefused, match=r"capability_not_inferior.* is inconclusive"):
        assert_usable(stage, workplace, other)


def test_earlier_waivers_are_in_the_report(institution: DemoInstitution, monkeypatch: pytest.MonkeyPatch) -> None:
    earlier = {
        "adapter": "lamps-1.0.0",
        "gate": "capability_not_inferior",
        "outcome": "inconclusive",
        "kind": "accept",
        "officer": "4f" * 32,
        "reason": "Enlarged | soon.",
        "at": "2024-01-15T08:00:00+00:00",
        "digest": "e" * 64,
    }
    workplace = institution.workplace()
    _, without = make_report(workplace)
    monkeypatch.setattr(waivers, "waivers_of_line", lambda registry, line, besides: [earlier])
    _, ref, verdicts = run(workplace, "refusals_not_worse")
    assert ref != without and verdicts["refusals_not_worse"].passed
    artifact = workplace.store.open(ref)
    assert list(artifact.manifest.external_inputs) == ["acceptances"]
    assert "key 4f4f4f4f4f4f | Enlarged \\| soon." in artifact.file("report.md").read_text()
    assert "<td>key 4f4f4f4f4f4f</td><td>Enlarged | soon.</td>" in artifact.file("report.html").read_text()


def test_samples_that_leave_the_incumbent_out_are_refused(institution: DemoInstitution) -> None:
    workplace = institution.workplace()
    with pytest.raises(IntegrityError, match=r"private_scores: row L-00 .*incumbent"):
        make_report(workplace, against=incumbent(workplace, scored=False))


def test_scores_against_different_incumbents_are_not_put_together(institution: DemoInstitution) -> None:
    workplace = institution.workplace()
    store = workplace.store
    alone, beside = (
        store.read_manifest(make_report(workplace, against=each)[1]) for each in (None, incumbent(workplace))
    )
    scores = {kind: store.open_input(alone, kind) for kind in alone.inputs}
    scores["capability_scores"] = store.open_input(beside, "capability_scores")
    with pytest.raises(StaleInput, match=r"different incumbents \(lamps-1\.0\.0, none\)"):
        EVALUATION_REPORT.build(workplace, scores, institution.root)
