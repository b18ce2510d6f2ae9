"""Planted samples, and a report with its gates computed from them in a real store."""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, TypeVar, get_args

from sovereign_pipeline.base.files import Frozen, digest_of
from sovereign_pipeline.evaluation.arms import Arm
from sovereign_pipeline.evaluation.records import (
    CanarySample,
    CapabilitySample,
    Judge,
    JudgedLabel,
    PrivateResult,
    PrivateSample,
    PrivateScores,
    PrivateSelection,
    RedTeamSample,
    ReplySample,
    ToolCallSample,
    ToolCallSelection,
    VerbatimSample,
    write_rows,
)
from sovereign_pipeline.evaluation.report.figures import Samples
from sovereign_pipeline.evaluation.report.gates import GateFinding
from sovereign_pipeline.evaluation.report.report import EvaluationReport, IncumbentFacts, evaluate
from sovereign_pipeline.evaluation.stages import CAPABILITY_SCORES, EVALUATION_REPORT, PRIVATE_SCORES, RED_TEAM_REPORT
from sovereign_pipeline.record.gates import evaluate_gates
from sovereign_pipeline.record.manifest import ArtifactRef
from sovereign_pipeline.record.production import produce
from sovereign_pipeline.record.stage import Built, Inputs, Outcome, Stage, Verdict, Workplace
from sovereign_pipeline_tests.conftest import DemoInstitution

Value = TypeVar("Value", float, int, bool, dict[str, int])


def by_arm(base: Value, candidate: Value, incumbent: Value | None) -> dict[Arm, Value]:
    return {"base": base, **({} if incumbent is None else {"incumbent": incumbent}), "candidate": candidate}


def private(gain: float, incumbent_gain: float | None = None) -> list[PrivateSample]:
    return [
        PrivateSample(
            id=f"L-{n:02d}",
            case=f"C-{n:02d}",
            department="lamps",
            language="en",
            tokens=100 + n,
            losses=by_arm(
                3.0 + n / 50,
                3.0 + n / 50 - gain + (n % 5 - 2) / 10,
                None if incumbent_gain is None else 3.0 + n / 50 - incumbent_gain,
            ),
            choices=3,
            correct=by_arm(n % 2 == 0, True, None if incumbent_gain is None else n % 2 == 0),
        )
        for n in range(20)
    ]


def replies_to_letters() -> list[ReplySample]:
    return [
        ReplySample(
            id=f"L-{n:02d}",
            case=f"C-{n:02d}",
            department="lamps",
            language="ar" if n < 5 else "en",
            chrf=by_arm(0.2, 0.2 + (0.05 if n < 5 else 0.25) + (n % 3 - 1) / 100, None),
            rouge_l=by_arm(0.3, 0.1 + (n % 3 - 1) / 100, None),
            tokens=by_arm(64, 32, None),
            stopped=by_arm(False, True, None),
        )
        for n in range(20)
    ]


def tool_calls(
    lost: int = 0, invalid: int = 0, false: int = 0, due: int = 60, others: int = 60
) -> list[ToolCallSample]:
    """Turns with and without a call. The base calls exactly on the first 40 that are due, and never falsely. The
    numbers are those of turns on which the candidate alone does worse."""

    def turn(n: int, expected: bool, exact: bool, valid: bool, called: bool) -> ToolCallSample:
        right = expected and n < 40
        return ToolCallSample(
            id=f"V-{n:02d}",
            case=f"V-{n:02d}",
            department="lamps",
            language="ar" if n % 3 == 0 else "en",
            turn=1 if expected else 2,
            expected=expected,
            called=by_arm(right, called, None),
            valid=by_arm(right, valid, None),
            exact=by_arm(right, exact, None),
        )

    return [
        *(turn(n, True, n < 40 - lost, n < 40 - invalid, n < 40) for n in range(due)),
        *(turn(n, False, False, False, n < false) for n in range(others)),
    ]


def capability(lost: int, incumbent_lost: int | None = None) -> list[CapabilitySample]:
    """200 questions of which the base answers 120."""
    return [
        CapabilitySample(
            suite="suite",
            id=f"Q-{n:03d}",
            language="ar" if n % 4 == 0 else "en",
            correct=by_arm(n < 120, n < 120 - lost, None if incumbent_lost is None else n < 120 - incumbent_lost),
        )
        for n in range(200)
    ]


def prompt_row(name: str, kind: str, expects: str, other: bool | None = None, **said: object) -> RedTeamSample:
    """A prompt whose answers are good. other: what is observed of the incumbent; None without one."""
    no = by_arm(False, False, other)
    observed = {name: no for name in ("refused", "obeyed", "looped", "stopped")}
    return RedTeamSample.model_validate(
        {
            "id": name,
            "kind": kind,
            "language": "en",
            "expects": expects,
            "tokens": by_arm(20, 30, None if other is None else 25),
            "personal_data": {arm: {} for arm in no},
            **observed,
            **said,
        }
    )


def red_team(
    lost: int, over: int = 0, incumbent_lost: int | None = None, obeyed: int = 0, disclosed: int = 0, looped: int = 0
) -> list[RedTeamSample]:
    """80 prompts to refuse, of which the base refuses 60; 80 to answer; 40 injections; 40 out of distribution. The
    numbers are those of answers of the candidate alone."""
    other = False if incumbent_lost is not None else None

    def row(name: str, kind: str, expects: str, n: int, **said: object) -> RedTeamSample:
        stopped = by_arm(True, n % 2 == 0, None if other is None else True)
        return prompt_row(f"{name}-{n:02d}", kind, expects, other, **{"stopped": stopped, **said})

    def refused(n: int) -> dict[Arm, bool]:
        return by_arm(n < 60, n < 60 - lost, None if incumbent_lost is None else n < 60 - incumbent_lost)

    def found(n: int) -> dict[Arm, dict[str, int]]:
        return by_arm({}, {"PHONE": 1} if 40 <= n < 40 + disclosed else {}, None if other is None else {})

    return [
        *(
            row("P", "harmful" if n < 40 else "disclosure", "refusal", n, refused=refused(n), personal_data=found(n))
            for n in range(80)
        ),
        *(row("B", "benign", "answer", n, refused=by_arm(False, n < over, other)) for n in range(80)),
        *(row("I", "injection", "unmoved", n, obeyed=by_arm(False, n < obeyed, other)) for n in range(40)),
        *(row("O", "out_of_distribution", "end", n, looped=by_arm(False, n < looped, other)) for n in range(40)),
    ]


def continuations(verbatim: int, form: int = 0, incumbent: bool = False) -> list[VerbatimSample]:
    """60 documents of each side of the split; the candidate continues `verbatim` training rows and `form` others."""
    other = False if incumbent else None
    return [
        VerbatimSample(
            id=f"{'T' if trained else 'C'}-{n:02d}",
            case=f"{'T' if trained else 'C'}-{n:02d}",
            department="lamps",
            language="en",
            trained=trained,
            verbatim=by_arm(False, n < (verbatim if trained else form), other),
            personal_data={arm: {} for arm in by_arm(False, False, other)},
        )
        for trained in (True, False)
        for n in range(60)
    ]


def canaries(leaked: float, incumbent: bool = False) -> list[CanarySample]:
    """leaked: bits by which the candidate's exposure of planted canaries exceeds the base's."""
    other = 1.0 if incumbent else None
    return [
        CanarySample(
            id=f"canary-{'' if planted else 'control-'}{n}",
            planted=planted,
            rank=by_arm(9, 9, None if other is None else 9),
            exposure=by_arm(n / 4, n / 4 + (leaked if planted else 0.0) + (n % 3 - 1) / 10, other),
        )
        for planted in (True, False)
        for n in range(8)
    ]


def labels(right: int) -> list[JudgedLabel]:
    """20 of each judge; the judge of refusals is right on so many."""
    return [
        JudgedLabel(
            id=f"J-{judge}-{n}",
            judge=judge,
            language="en",
            tuned=False,
            label=n % 2 == 0,
            judged=(n % 2 == 0) == (n < right or judge != "refusal"),
        )
        for judge in get_args(Judge)
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
    """A registered adapter of the line, and its planted scores."""

    external: dict[str, str]
    scored: bool = True
    gain: float = 0.4
    """By how much its loss is better than the base's."""
    questions_lost: int = 0
    refusals_lost: int = 0


def incumbent(workplace: Workplace, **observed: Any) -> Incumbent:
    adapter = make(workplace, ADAPTER, {"base_model": make(workplace, BASE, {})})
    return Incumbent({"incumbent:lamps-1.0.0": adapter.digest}, **observed)


def planted(stage: Stage, files: Mapping[str, Sequence[Frozen]], external: dict[str, str]) -> Stage:
    """The stage with samples that were not measured, so that what follows from them can be tested."""

    def build(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
        for name, rows in files.items():
            write_rows(workspace / name, rows)
        return Built(summary={}, classification="PUBLIC")

    items = {"suite": "5" * 64} if stage is CAPABILITY_SCORES else {}
    return replace(
        stage,
        build=build,
        code_version=digest_of([row.model_dump(mode="json") for rows in files.values() for row in rows]),
        inputs=(BASE,),
        external=lambda workplace: {**items, **external},
        libraries=(),
    )


def samples(
    against: Incumbent | None = None,
    *,
    gain: float = 0.5,
    questions_lost: int = 0,
    refusals_lost: int = 0,
    over_refused: int = 0,
    labels_right: int = 20,
    verbatim: int = 0,
    form: int = 0,
    leaked: float = 0.0,
    obeyed: int = 0,
    disclosed: int = 0,
    looped: int = 0,
    questions: Sequence[CapabilitySample] | None = None,
    replies: Sequence[ReplySample] = (),
    held_out: Sequence[PrivateSample] | None = None,
    prompts: Sequence[RedTeamSample] | None = None,
    labelled: Sequence[JudgedLabel] | None = None,
    calls: Sequence[ToolCallSample] = (),
    selection: ToolCallSelection | None = None,
) -> Samples:
    scored = against if against is not None and against.scored else None
    return Samples(
        private=held_out or private(gain, scored.gain if scored else None),
        replies=replies,
        capability=questions or capability(questions_lost, scored.questions_lost if scored else None),
        red_team=prompts
        or red_team(refusals_lost, over_refused, scored.refusals_lost if scored else None, obeyed, disclosed, looped),
        labels=labels(labels_right) if labelled is None else labelled,
        canaries=canaries(leaked, scored is not None),
        verbatim=continuations(verbatim, form, scored is not None),
        tool_calls=calls,
        tool_call_selection=selection,
    )


def scores(selection: ToolCallSelection | None) -> PrivateScores:
    """What `private_scores` states beside its samples, with counts of documents that no gate reads."""
    counts = {"held_out": 20, "chosen": 20, "distractors": 2, "choice_rows": 0, "choice_tokens": 0}
    return PrivateScores(
        dtype="float32",
        selection=PrivateSelection(too_long=(), choice_token_budget=0, **counts),
        result=PrivateResult(loss={}, loss_by_token={}, choice={}, by_language={}, by_department={}),
        tool_call_selection=selection,
    )


def reported(institution: DemoInstitution, against: Incumbent | None = None, **observed: Any) -> EvaluationReport:
    """The report on planted samples, computed without store, pages and gates."""
    facts = IncumbentFacts(id="lamps-1.0.0", digest="a" * 64, compared=against.scored) if against else None
    line = institution.workplace().line
    return evaluate(line, samples(against, **observed), facts, (), "float32")


def found(institution: DemoInstitution, against: Incumbent | None = None, **observed: Any) -> dict[str, GateFinding]:
    """Gate -> its finding on planted samples, which its verdict states."""
    return {each.gate: each for each in reported(institution, against, **observed).findings}


def not_passed(findings: Mapping[str, GateFinding]) -> dict[str, Outcome]:
    return {name: finding.outcome for name, finding in findings.items() if finding.outcome != "pass"}


def run(
    workplace: Workplace, *only: str, report: Stage = EVALUATION_REPORT, **planted: Any
) -> tuple[Stage, ArtifactRef, dict[str, Verdict]]:
    """As `make_report`, with the verdicts of its gates. only: names of gates; each computes the report again."""
    gates = tuple(gate for gate in report.gates if not only or gate.name in only)
    stage, ref = make_report(workplace, replace(report, gates=gates), **planted)
    return stage, ref, evaluate_gates(stage, workplace, ref)


def make_report(
    workplace: Workplace,
    report: Stage = EVALUATION_REPORT,
    against: Incumbent | None = None,
    judged: Sequence[Stage] = (),
    **observed: Any,
) -> tuple[Stage, ArtifactRef]:
    """The report on planted samples as an artifact. judged: the stages of a candidate and a split, as further inputs of
    the private scores."""
    planted_samples, external = samples(against, **observed), against.external if against is not None else {}
    optional = {"replies.jsonl": planted_samples.replies, "tool_calls.jsonl": planted_samples.tool_calls}
    written = {name: rows for name, rows in optional.items() if rows}
    stages: tuple[Stage, ...] = (
        planted(CAPABILITY_SCORES, {"samples.jsonl": planted_samples.capability}, external),
        planted(
            PRIVATE_SCORES,
            {
                "samples.jsonl": planted_samples.private,
                "scores.json": [scores(planted_samples.tool_call_selection)],
                **written,
            },
            external,
        ),
        planted(
            RED_TEAM_REPORT,
            {
                "samples.jsonl": planted_samples.red_team,
                "judge.jsonl": planted_samples.labels,
                "verbatim.jsonl": planted_samples.verbatim,
                "canaries.jsonl": planted_samples.canaries,
            },
            external,
        ),
    )
    base_model = make(workplace, BASE, {})
    of_candidate = {stage.kind: make(workplace, stage, {}) for stage in judged}
    stages = tuple(
        replace(stage, inputs=(BASE, *judged)) if stage.kind == PRIVATE_SCORES.kind else stage for stage in stages
    )
    made = {"base_model": base_model, **of_candidate}
    inputs = {
        stage.kind: make(workplace, stage, {each.kind: made[each.kind] for each in stage.inputs}) for stage in stages
    }
    stage = replace(report, inputs=stages)
    return stage, make(workplace, stage, inputs)


def read_report(workplace: Workplace, ref: ArtifactRef) -> EvaluationReport:
    return EvaluationReport.model_validate_json(workplace.store.open(ref).file("report.json").read_bytes())


def stored_report(institution: DemoInstitution, **planted: Any) -> EvaluationReport:
    """The report of `make_report`."""
    workplace = institution.workplace()
    return read_report(workplace, make_report(workplace, **planted)[1])


def figure(report: EvaluationReport, what: str, reference: str = "base", slice: str = "all") -> Any:
    (found,) = [
        each.observed for each in report.figures if (each.what, each.reference, each.slice) == (what, reference, slice)
    ]
    return found
