"""The stage `evaluation_report` with its gates: one for each criterion that a candidate must meet to be registered.

What belongs here: what identifies the report, and what a gate's verdict is bound to. What does not: the criteria
(`gates.py`), and the other stages of the group (`evaluation/stages.py`).
"""

from pathlib import Path
from typing import Any

from sovereign_pipeline.artifacts.hashing import digest_of
from sovereign_pipeline.artifacts.stage import Built, Config, Gate, Inputs, Stage, Verdict, Workplace
from sovereign_pipeline.artifacts.store import Artifact
from sovereign_pipeline.base_models.stages import BASE_MODEL
from sovereign_pipeline.errors import StaleInput
from sovereign_pipeline.evaluation.files import REPORT_FILE, REPORT_MARKDOWN, REPORT_PAGE, as_json
from sovereign_pipeline.evaluation.incumbent import has_base, incumbent_in, is_incumbent
from sovereign_pipeline.evaluation.report.gates import CRITERIA, Criterion
from sovereign_pipeline.evaluation.report.page import as_html
from sovereign_pipeline.evaluation.report.report import (
    EvaluationReport,
    IncumbentFacts,
    as_markdown,
    evaluate,
    read_samples,
)
from sovereign_pipeline.evaluation.report.waivers import earlier_waivers, waiver_digests
from sovereign_pipeline.evaluation.stages import CAPABILITY_SCORES, PRIVATE_SCORES, RED_TEAM_REPORT
from sovereign_pipeline.policy.line import Line
from sovereign_pipeline.policy.margins import Gates
from sovereign_pipeline.training.stages import ALIGNED_ADAPTER


def _report_config(line: Line) -> Config:
    return {
        "seed": line.named_evaluation.seed,
        "suites": [suite.name for suite in line.named_evaluation.capability],
        "gates": line.gates.model_dump(
            mode="json", exclude={name: {"officer_may"} for name in Gates.model_fields} | {"review": True}
        ),
    }


def _build_report(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
    workplace.progress("evaluation_report: computing figures and intervals from the samples")
    report = _observed(workplace, inputs)
    (workspace / REPORT_FILE).write_text(as_json(report), encoding="utf-8")
    (workspace / REPORT_MARKDOWN).write_text(as_markdown(report), encoding="utf-8")
    (workspace / REPORT_PAGE).write_text(as_html(report), encoding="utf-8")
    return Built(
        summary={
            "outcome": report.outcome,
            "incumbent": report.incumbent.model_dump(mode="json") if report.incumbent is not None else None,
            "gates": {finding.gate: finding.outcome for finding in report.findings},
            "held": {
                f"{held.what}, against the {held.reference}": held.observed.model_dump(mode="json")
                for finding in report.findings
                for held in finding.held
            },
            "regressions": len(report.regressions),
        }
    )


def _observed(workplace: Workplace, inputs: Inputs) -> EvaluationReport:
    """The report computed from the samples of its inputs and the waivers in the registry."""
    samples = read_samples(
        capability=inputs[CAPABILITY_SCORES.kind].path,
        private=inputs[PRIVATE_SCORES.kind].path,
        red_team=inputs[RED_TEAM_REPORT.kind].path,
    )
    return evaluate(
        workplace.line,
        samples,
        _incumbent(workplace, inputs),
        earlier_waivers(workplace),
        _precision(workplace, inputs),
    )


def _gate(criterion: Criterion) -> Gate:
    """The gate of one criterion. It computes the report again and fails one that differs."""

    def config(line: Line) -> Config:
        section = criterion.section(line.gates).model_dump(mode="json", exclude={"officer_may"})
        return {"seed": line.named_evaluation.seed, **section}

    def evaluate(workplace: Workplace, artifact: Artifact, inputs: Inputs) -> Verdict:
        workplace.progress(f"evaluation_report: gate {criterion.name} computes the figures again")
        observed = _observed(workplace, inputs)
        finding = observed.finding(criterion.name)
        evidence = {
            "bound_to": _bound_to(artifact, inputs, observed, {**config(workplace.line), "gate": criterion.name}),
            "held": [held.model_dump(mode="json") for held in finding.held],
        }
        if not _is_reported(observed, artifact):
            return Verdict(
                False, f"{REPORT_FILE} differs from the samples. Materialize evaluation_report again.", evidence
            )
        return Verdict(
            finding.outcome == "pass", finding.message, evidence, inconclusive=finding.outcome == "inconclusive"
        )

    return Gate(
        name=criterion.name,
        question=criterion.question,
        code_version="5",
        evaluate=evaluate,
        config=config,
        officer_may=lambda line: criterion.section(line.gates).officer_may,
    )


def _is_reported(observed: EvaluationReport, artifact: Artifact) -> bool:
    """Whether the report states what was observed. Its sentences may be those of an earlier version."""
    try:
        reported = EvaluationReport.model_validate_json(artifact.file(REPORT_FILE).read_bytes())
    except ValueError:
        return False
    return reported.without_wording() == observed.without_wording()


def _bound_to(artifact: Artifact, inputs: Inputs, observed: EvaluationReport, policy: Config) -> dict[str, Any]:
    """The digests of everything that a verdict rests on, by name.

    The record's identity depends on them already, through its one input, the report. A signature of the record covers
    them.
    """
    scores = [each.manifest for each in inputs.values()]
    return {
        "report": artifact.ref.digest,
        "candidate": sorted(
            {each.inputs[ALIGNED_ADAPTER.kind] for each in scores if ALIGNED_ADAPTER.kind in each.inputs}
        ),
        "base_model": sorted({each.inputs[BASE_MODEL.kind] for each in scores}),
        "incumbent": observed.incumbent.digest if observed.incumbent is not None else None,
        "items": {
            name: digest for each in scores for name, digest in each.external_inputs.items() if not is_incumbent(name)
        },
        "scores": {kind: each.ref.digest for kind, each in inputs.items()},
        "policy": digest_of(policy),
    }


def _incumbent(workplace: Workplace, inputs: Inputs) -> IncumbentFacts | None:
    """The one incumbent of all three scores. Raises StaleInput when they were compared with different ones."""
    found = {incumbent_in(artifact.manifest) for artifact in inputs.values()}
    if len(found) > 1:
        named = ", ".join(sorted(each[0] if each is not None else "none" for each in found))
        raise StaleInput(
            f"The scores of line {workplace.line.line} were compared with different incumbents ({named}): an adapter "
            f"was registered between them.",
            "Run the line again.",
            act="run_line",
            line=workplace.line.line,
        )
    incumbent = found.pop()
    if incumbent is None:
        return None
    base_model = workplace.store.open_input(inputs[PRIVATE_SCORES.kind].manifest, BASE_MODEL.kind)
    return IncumbentFacts(id=incumbent[0], digest=incumbent[1], compared=has_base(workplace, incumbent[1], base_model))


def _precision(workplace: Workplace, inputs: Inputs) -> str | None:
    """The one precision of all three scores. Raises StaleInput when they were computed in different ones."""
    found = {artifact.manifest.producer.config.get("precision") for artifact in inputs.values()}
    if len(found) > 1:
        raise StaleInput(
            f"The scores of line {workplace.line.line} were computed in different precisions "
            f"({', '.join(sorted(str(each) for each in found))}).",
            "Run the line again, on one machine; or name evaluation.precision in the recipe.",
            act="run_line",
            line=workplace.line.line,
        )
    return found.pop()


EVALUATION_REPORT = Stage(
    kind="evaluation_report",
    code_version="7",
    build=_build_report,
    inputs=(CAPABILITY_SCORES, PRIVATE_SCORES, RED_TEAM_REPORT),
    config=_report_config,
    external=waiver_digests,
    libraries=("matplotlib", "numpy", "scipy"),
    gates=tuple(_gate(criterion) for criterion in CRITERIA),
)
