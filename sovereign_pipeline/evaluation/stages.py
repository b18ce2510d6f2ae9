"""The stages of the evaluation group, the last of which holds the gates that an adapter passes to be registered.

What belongs here: which artifacts are read, what identifies the work, and which file holds what. How anything is
measured is in the modules beside this one.
"""

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sovereign_pipeline.artifacts.hashing import digest_of
from sovereign_pipeline.artifacts.stage import Built, Config, Gate, Inputs, Stage, Verdict, Workplace
from sovereign_pipeline.artifacts.store import Artifact
from sovereign_pipeline.corpus.document import read_documents
from sovereign_pipeline.errors import StaleInput
from sovereign_pipeline.evaluation.acceptances import acceptance_digests, earlier_acceptances
from sovereign_pipeline.evaluation.capability import read_suite, score_suites
from sovereign_pipeline.evaluation.gates import DEMANDS, Demand
from sovereign_pipeline.evaluation.incumbent import (
    incumbent_digests,
    incumbent_in,
    is_incumbent,
    open_incumbent,
    stands_on,
)
from sovereign_pipeline.evaluation.items import digest_of_items, level_of_red_team, level_of_suites
from sovereign_pipeline.evaluation.models import Side, open_models
from sovereign_pipeline.evaluation.page import as_html
from sovereign_pipeline.evaluation.private import HeldOutSettings, score_held_out
from sovereign_pipeline.evaluation.records import SAMPLES, IncumbentFacts, as_json, write_rows
from sovereign_pipeline.evaluation.red_team import read_labels, read_prompts, run_red_team
from sovereign_pipeline.evaluation.report import EvaluationReport, as_markdown, evaluate, read_samples
from sovereign_pipeline.policy.gates import Gates
from sovereign_pipeline.policy.line import Line
from sovereign_pipeline.split.stages import LEAKAGE_SAFE_SPLIT
from sovereign_pipeline.training.base_models import open_base_model
from sovereign_pipeline.training.stages import ALIGNED_ADAPTER, BASE_MODEL
from sovereign_pipeline.training.tuned import TunedModel, tuned_model

SCORES_FILE = "scores.json"
REPORT_FILE = "report.json"

MODEL_LIBRARIES = ("lm-eval", "numpy", "peft", "scipy", "torch", "transformers")


def _private_config(line: Line) -> Config:
    return {
        "instruction": line.training.instruction,
        **line.evaluation.model_dump(mode="json", include={"seed", "max_held_out_rows", "distractors", "batch_size"}),
    }


def _build_private(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
    line, started = workplace.line, time.monotonic()
    settings = HeldOutSettings(
        instruction=line.training.instruction,
        seed=line.evaluation.seed,
        max_rows=line.evaluation.max_held_out_rows,
        distractors=line.evaluation.distractors,
    )
    held_out = list(read_documents(inputs[LEAKAGE_SAFE_SPLIT.kind].file("held_out.jsonl")))
    compared = _compared(workplace, inputs)
    with open_models(compared.base, compared.tuned, line.evaluation.batch_size) as models:
        workplace.progress(f"Scoring the held-out letters with {', '.join(models.sides)} ({models.dtype}).")
        loaded = time.monotonic()
        samples, scores = score_held_out(models, held_out, settings)
    write_rows(workspace / SAMPLES, samples)
    (workspace / SCORES_FILE).write_text(as_json(scores), encoding="utf-8")
    return Built(
        summary={
            "selection": scores.selection.model_dump(mode="json"),
            "loss": scores.model_dump(mode="json")["result"]["loss"],
        },
        measured={
            "load_seconds": round(loaded - started, 3),
            "score_seconds": round(time.monotonic() - loaded, 3),
        },
        classification=workplace.institution.ladder.highest(compared.levels),
    )


def _capability_config(line: Line) -> Config:
    return {
        "suites": [suite.model_dump(include={"name", "classification"}) for suite in line.evaluation.capability],
        "ceiling": line.ceiling,
        **line.evaluation.model_dump(mode="json", include={"batch_size"}),
    }


def _capability_external(workplace: Workplace) -> dict[str, str]:
    data = workplace.settings.data
    suites = {suite.name: digest_of_items(data / suite.path) for suite in workplace.line.evaluation.capability}
    return {**suites, **incumbent_digests(workplace)}


def _build_capability(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
    line, started, level = workplace.line, time.monotonic(), level_of_suites(workplace)
    suites = {suite.name: read_suite(workplace.settings.data / suite.path) for suite in line.evaluation.capability}
    compared = _compared(workplace, inputs)
    with open_models(compared.base, compared.tuned, line.evaluation.batch_size) as models:
        questions = sum(len(rows) for rows in suites.values())
        workplace.progress(f"Asking {questions} questions of {len(suites)} suites of {', '.join(models.sides)}.")
        loaded = time.monotonic()
        samples, scores = score_suites(models, suites)
    write_rows(workspace / SAMPLES, samples)
    (workspace / SCORES_FILE).write_text(as_json(scores), encoding="utf-8")
    return Built(
        summary={name: result["accuracy"] for name, result in scores.model_dump(mode="json")["suites"].items()},
        measured={
            "load_seconds": round(loaded - started, 3),
            "score_seconds": round(time.monotonic() - loaded, 3),
        },
        classification=workplace.institution.ladder.highest([level, *compared.levels]),
    )


def _red_team_config(line: Line) -> Config:
    return {
        "instruction": line.training.instruction,
        "max_new_tokens": line.evaluation.red_team.max_new_tokens,
        "classification": line.evaluation.red_team.classification,
        "ceiling": line.ceiling,
    }


def _red_team_external(workplace: Workplace) -> dict[str, str]:
    red_team, data = workplace.line.evaluation.red_team, workplace.settings.data
    return {
        "prompts": digest_of_items(data / red_team.prompts),
        "judge_labels": digest_of_items(data / red_team.judge_labels),
        **incumbent_digests(workplace),
    }


def _build_red_team(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
    line, started, level = workplace.line, time.monotonic(), level_of_red_team(workplace)
    red_team, data = line.evaluation.red_team, workplace.settings.data
    prompts, labels = read_prompts(data / red_team.prompts), read_labels(data / red_team.judge_labels)
    compared = _compared(workplace, inputs)
    with open_models(compared.base, compared.tuned, line.evaluation.batch_size) as models:
        workplace.progress(f"Answering {len(prompts)} red-team prompts with {', '.join(models.sides)}.")
        loaded = time.monotonic()
        outcome = run_red_team(models, prompts, labels, line.training.instruction, red_team.max_new_tokens)
    write_rows(workspace / SAMPLES, outcome.samples)
    write_rows(workspace / "answers.jsonl", outcome.answers)
    write_rows(workspace / "judge.jsonl", outcome.labels)
    (workspace / REPORT_FILE).write_text(as_json(outcome.report), encoding="utf-8")
    result = outcome.report.model_dump(mode="json")["result"]
    return Built(
        summary={
            "prompts": len(prompts),
            "refusals": result["refusals"],
            "over_refusals": result["over_refusals"],
            "judge": result["judge"],
        },
        measured={
            "load_seconds": round(loaded - started, 3),
            "answer_seconds": round(time.monotonic() - loaded, 3),
        },
        classification=workplace.institution.ladder.highest([level, *compared.levels]),
    )


def _report_config(line: Line) -> Config:
    return {
        "seed": line.evaluation.seed,
        "suites": [suite.name for suite in line.evaluation.capability],
        "gates": line.gates.model_dump(
            mode="json", exclude={name: {"officer_may"} for name in Gates.model_fields} | {"review": True}
        ),
    }


def _build_report(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
    report = _observed(workplace, inputs)
    (workspace / REPORT_FILE).write_text(as_json(report), encoding="utf-8")
    (workspace / "report.md").write_text(as_markdown(report), encoding="utf-8")
    (workspace / "report.html").write_text(as_html(report), encoding="utf-8")
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
    """The report computed anew from the samples of the report's inputs, and from what the registry holds."""
    samples = read_samples(
        capability=inputs[CAPABILITY_SCORES.kind].path,
        private=inputs[PRIVATE_SCORES.kind].path,
        red_team=inputs[RED_TEAM_REPORT.kind].path,
    )
    return evaluate(workplace.line, samples, _incumbent(workplace, inputs), earlier_acceptances(workplace))


def _gate(demand: Demand) -> Gate:
    """The gate of one demand. It computes the report anew, and says no to one that says something else."""

    def config(line: Line) -> Config:
        section = demand.section(line.gates).model_dump(mode="json", exclude={"officer_may"})
        return {"seed": line.evaluation.seed, **section}

    def judge(workplace: Workplace, artifact: Artifact, inputs: Inputs) -> Verdict:
        observed = _observed(workplace, inputs)
        finding = observed.finding(demand.name)
        evidence = {
            "bound_to": _bound_to(artifact, inputs, observed, {**config(workplace.line), "gate": demand.name}),
            "held": [held.model_dump(mode="json") for held in finding.held],
        }
        if artifact.file(REPORT_FILE).read_text(encoding="utf-8") != as_json(observed):
            said = "report.json does not say what the samples say. Materialize evaluation_report again."
            return Verdict(False, said, evidence)
        return Verdict(
            finding.outcome == "pass", finding.message, evidence, inconclusive=finding.outcome == "inconclusive"
        )

    return Gate(
        name=demand.name,
        question=demand.question,
        code_version="3",
        judge=judge,
        config=config,
        officer_may=lambda line: demand.section(line.gates).officer_may,
    )


def _bound_to(artifact: Artifact, inputs: Inputs, observed: EvaluationReport, policy: Config) -> dict[str, Any]:
    """The digests of all that an answer stands on. That another of them is another answer follows from the record's
    identity, its one input being the report; here they are by name. A signature of the record covers them."""
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
    """The one incumbent of all three scores. Raises StaleInput when they were made against different ones."""
    found = {incumbent_in(artifact.manifest) for artifact in inputs.values()}
    if len(found) > 1:
        named = ", ".join(sorted(each[0] if each is not None else "none" for each in found))
        raise StaleInput(
            f"Line {workplace.line.line}: its scores were made against different incumbents ({named}), since an "
            f"adapter was registered between them. Run the line again: `sovereign run {workplace.line.line}`."
        )
    incumbent = found.pop()
    if incumbent is None:
        return None
    base_model = workplace.store.open_input(inputs[PRIVATE_SCORES.kind].manifest, BASE_MODEL.kind)
    return IncumbentFacts(id=incumbent[0], digest=incumbent[1], compared=stands_on(workplace, incumbent[1], base_model))


@dataclass(frozen=True)
class _Compared:
    """What one session scores. base: the verified directory. levels: of what is not among the stage's inputs."""

    base: Path
    tuned: dict[Side, TunedModel]
    levels: tuple[str, ...]


def _compared(workplace: Workplace, inputs: Inputs) -> _Compared:
    candidate, base_model = inputs[ALIGNED_ADAPTER.kind], inputs[BASE_MODEL.kind]
    base = open_base_model(workplace.settings, base_model)
    incumbent = open_incumbent(workplace, candidate, base_model)
    if incumbent is None:
        return _Compared(base, {"candidate": tuned_model(candidate)}, ())
    return _Compared(
        base, {"incumbent": incumbent.tuned, "candidate": tuned_model(candidate)}, (incumbent.classification,)
    )


CAPABILITY_SCORES = Stage(
    kind="capability_scores",
    code_version="2",
    build=_build_capability,
    inputs=(BASE_MODEL, ALIGNED_ADAPTER),
    config=_capability_config,
    external=_capability_external,
    libraries=MODEL_LIBRARIES,
)

PRIVATE_SCORES = Stage(
    kind="private_scores",
    code_version="2",
    build=_build_private,
    inputs=(BASE_MODEL, ALIGNED_ADAPTER, LEAKAGE_SAFE_SPLIT),
    config=_private_config,
    external=incumbent_digests,
    libraries=MODEL_LIBRARIES,
)

RED_TEAM_REPORT = Stage(
    kind="red_team_report",
    code_version="2",
    build=_build_red_team,
    inputs=(BASE_MODEL, ALIGNED_ADAPTER),
    config=_red_team_config,
    external=_red_team_external,
    libraries=MODEL_LIBRARIES,
)

EVALUATION_REPORT = Stage(
    kind="evaluation_report",
    code_version="3",
    build=_build_report,
    inputs=(CAPABILITY_SCORES, PRIVATE_SCORES, RED_TEAM_REPORT),
    config=_report_config,
    external=acceptance_digests,
    libraries=("matplotlib", "numpy", "scipy"),
    gates=tuple(_gate(demand) for demand in DEMANDS),
)
