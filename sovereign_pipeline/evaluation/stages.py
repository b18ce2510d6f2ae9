"""Define the evaluation's stages, the arms (base, incumbent, candidate) that the stages compare, and the gates of the
report. The stages score the candidate, run the red team, and write the report."""

import time
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sovereign_pipeline.base.errors import CeilingExceeded, StaleInput
from sovereign_pipeline.base.files import digest_of, file_sha256
from sovereign_pipeline.base.text import duration
from sovereign_pipeline.base_models.stages import BASE_MODEL, open_base_model, read_descriptor
from sovereign_pipeline.corpus.document import read_documents
from sovereign_pipeline.dataset.jsonl import replaces_instruction
from sovereign_pipeline.evaluation.arms import Arm
from sovereign_pipeline.evaluation.arms.models import Models, Origin, ScoreCache, open_models
from sovereign_pipeline.evaluation.capability import score_suites
from sovereign_pipeline.evaluation.held_out import HeldOutSettings, score_held_out, write_replies
from sovereign_pipeline.evaluation.memorisation import continue_documents, expose_canaries, memorisation_result
from sovereign_pipeline.evaluation.records import (
    ANSWERS,
    CANARIES,
    JUDGED_LABELS,
    REPLIES,
    REPORT_FILE,
    REPORT_MARKDOWN,
    REPORT_PAGE,
    SAMPLES,
    SCORES_FILE,
    TOOL_CALLS,
    VERBATIM,
    RedTeamReport,
    as_json,
    write_rows,
)
from sovereign_pipeline.evaluation.red_team import (
    OutputScanner,
    judge_model_digest,
    proven_judge_model,
    read_labels,
    red_team_result,
    run_red_team,
    shipped_verdicts,
)
from sovereign_pipeline.evaluation.report.gates import CRITERIA, Criterion
from sovereign_pipeline.evaluation.report.looks import (
    Figures,
    as_measured,
    enter_look,
    enter_measured,
    enter_outcomes,
    looks_at,
)
from sovereign_pipeline.evaluation.report.report import (
    EvaluationReport,
    IncumbentFacts,
    as_html,
    as_markdown,
    earlier_waivers,
    evaluate,
    read_samples,
    waiver_digests,
)
from sovereign_pipeline.evaluation.tool_calls import score_tool_calls, tool_call_result
from sovereign_pipeline.policy.evaluation import Gates, ToolCalls
from sovereign_pipeline.policy.line import Line
from sovereign_pipeline.privacy.corrections import load_word_lists
from sovereign_pipeline.privacy.stages import detector_parts, sensitive_kinds
from sovereign_pipeline.record.catalog import incumbent_of
from sovereign_pipeline.record.database import open_registry
from sovereign_pipeline.record.manifest import ArtifactRef, Manifest
from sovereign_pipeline.record.stage import Built, Config, Gate, Inputs, Stage, Verdict, Workplace
from sovereign_pipeline.record.store import Artifact
from sovereign_pipeline.record.tables import Adapter
from sovereign_pipeline.split import HELD_OUT, TRAIN
from sovereign_pipeline.split.stages import LEAKAGE_SAFE_SPLIT
from sovereign_pipeline.suites.rows import (
    digest_of_items,
    identity_of_suite,
    level_of_red_team,
    level_of_suites,
    open_suite,
    prompt_files,
    read_prompts,
)
from sovereign_pipeline.training.report import TrainingReport, read_report
from sovereign_pipeline.training.stages import ALIGNED_ADAPTER, SFT_ADAPTER
from sovereign_pipeline.training.tuned_model import TunedModel, stated_weights, tuned_model

_EXTERNAL = "incumbent:"


@dataclass(frozen=True)
class Comparison:
    """The arms that one stage compares: base, candidate and, if it has the same base model, the line's incumbent."""

    stage: str
    base: Path
    """Directory of the verified base model."""
    tuned: Mapping[Arm, TunedModel]
    levels: tuple[str, ...]
    """Classification levels of data that is not among the stage's inputs, such as test items and the incumbent."""
    cache: ScoreCache
    precision: str
    """Precision in which every arm is loaded."""

    @property
    def classification(self) -> str:
        """The highest classification level in `levels`."""
        return self.cache.workplace.institution.ladder.highest(self.levels)

    @contextmanager
    def open(self) -> Iterator[Models]:
        """Load the arms. Progress messages begin with the stage's name."""

        def progress(message: str) -> None:
            self.cache.workplace.progress(f"{self.stage}: {message}")

        with open_models(self.base, self.tuned, self.cache, progress, precision=self.precision) as models:
            yield models


def compare(stage: str, workplace: Workplace, inputs: Inputs, *levels: str) -> Comparison:
    """Find and verify the arms that a stage compares.

    Args:
        levels: classification levels of items that are not among the stage's inputs.

    Raises the errors of `open_incumbent` and `open_base_model`.
    """
    candidate, base_model = inputs[ALIGNED_ADAPTER.kind], inputs[BASE_MODEL.kind]
    base = open_base_model(workplace.settings, base_model, workplace.progress)
    incumbent = open_incumbent(workplace, candidate, base_model)
    tuned: dict[Arm, Artifact] = {"candidate": candidate}
    of_incumbent: list[str] = []
    if incumbent is not None:
        tuned["incumbent"], *of_incumbent = incumbent
    others = [artifact for artifact in inputs.values() if artifact not in (candidate, base_model)]
    highest = workplace.institution.ladder.highest
    cache = ScoreCache(
        workplace=workplace,
        level=highest([*levels, *(artifact.manifest.classification for artifact in others)]),
        origins=_origins(workplace, base_model, tuned),
    )
    return Comparison(
        stage=stage,
        base=base,
        tuned={arm: tuned_model(artifact) for arm, artifact in tuned.items()},
        levels=(*levels, *of_incumbent),
        cache=cache,
        precision=workplace.line.named_evaluation.precision,
    )


def _origins(workplace: Workplace, base_model: Artifact, tuned: Mapping[Arm, Artifact]) -> dict[Arm, Origin]:
    """Return the digests and the classification level of each arm's weights.

    The level in an adapter's registration may be higher than the level of its weights, because of the evaluation data.
    The higher level applies to the stage (`Comparison.levels`), not to the weights.
    """
    files, level = {"base_model": read_descriptor(base_model)["digest"]}, base_model.manifest.classification
    origins: dict[Arm, Origin] = {"base": Origin(files, level)}
    for arm, artifact in tuned.items():
        higher = workplace.institution.ladder.highest((level, artifact.manifest.classification))
        origins[arm] = Origin({**files, "tuned": artifact.ref.digest}, higher)
    return origins


def incumbent_digests(workplace: Workplace) -> dict[str, str]:
    """Return the incumbent as an external input of a stage: a mapping of `incumbent:ID` to the digest of its artifact.
    The mapping is empty if the line has no incumbent.

    The incumbent is the line's adapter in production, or its highest registered version if none is in production.
    Adapters that lost their blind review, or were rejected, recalled or retired, are skipped.

    The present candidate is skipped too. A registered candidate is therefore still compared with the adapter before it,
    and its registration makes no score stale. The candidate is recognised by the digest of its weights, because the
    same weights under another recipe are a different artifact.
    """
    candidate = workplace.store.current(workplace.line.line, ALIGNED_ADAPTER.kind)
    row = _last_registered(workplace, candidate)
    return {} if row is None else {f"{_EXTERNAL}{row.id}": row.adapter_digest}


def is_incumbent(name: str) -> bool:
    """Return True if the external input with this name is an incumbent (see `incumbent_digests`)."""
    return name.startswith(_EXTERNAL)


def incumbent_in(manifest: Manifest) -> tuple[str, str] | None:
    """Return the id and digest of the incumbent that a manifest of scores names. Return None if it names none."""
    for name, digest in manifest.external_inputs.items():
        if is_incumbent(name):
            return name.removeprefix(_EXTERNAL), digest
    return None


def open_incumbent(workplace: Workplace, candidate: Artifact, base_model: Artifact) -> tuple[Artifact, str] | None:
    """Open the incumbent's artifact and verify its files. Return None if no incumbent can be compared.

    Returns the artifact and its classification level: the manifest's or the registration's, whichever is higher.

    An incumbent with a different base model is skipped, and the report states so. Its chat template and tokens may
    differ, so its losses per token are not comparable. An error would prevent a line from ever changing its base model.

    Raises IntegrityError if a file was changed, NotFoundError if the artifact is missing, and CeilingExceeded if the
    incumbent's level is above the line's ceiling.
    """
    row = _last_registered(workplace, candidate.ref)
    if row is None or not has_base(workplace, row.adapter_digest, base_model):
        return None
    store, ladder = workplace.store, workplace.institution.ladder
    artifact = store.open(store.ref_of(row.adapter_digest).model_copy(update={"manifest_sha256": row.manifest_sha256}))
    level = ladder.highest((artifact.manifest.classification, row.classification))
    if ladder.exceeds(level, workplace.line.ceiling):
        raise CeilingExceeded(
            f"The ceiling of line {workplace.line.line} is {workplace.line.ceiling}, but its incumbent {row.id} "
            f"has the level {level}.",
            "Raise `ceiling` in the line's recipe, or create another line.",
        )
    return artifact, level


def has_base(workplace: Workplace, digest: str, base_model: Artifact) -> bool:
    """Return True if the adapter whose artifact has this digest was tuned from exactly this base model. The digests of
    the two base models are compared."""
    store = workplace.store
    theirs = store.open_input(store.read_manifest(store.ref_of(digest)), BASE_MODEL.kind)
    return bool(read_descriptor(theirs)["digest"] == read_descriptor(base_model)["digest"])


def _last_registered(workplace: Workplace, candidate: ArtifactRef | None) -> Adapter | None:
    line = workplace.line.line
    weights = stated_weights(workplace.store.read_manifest(candidate)) if candidate is not None else None
    return incumbent_of(open_registry(workplace.settings), line, weights, workplace.lost_review(line))


MODEL_LIBRARIES = ("lm-eval", "numpy", "peft", "scipy", "torch", "transformers")


def _private_config(line: Line) -> Config:
    # Default values are left out, so that lines without conversations keep the identity of their existing artifacts.
    supervise, calls = line.training.sft.supervise, line.named_evaluation.tool_calls
    return {
        "instruction": line.training.instruction,
        **line.named_evaluation.model_dump(
            mode="json", include={"seed", "precision", "max_held_out_rows", "distractors", "batch_size", "references"}
        ),
        **({"supervise": supervise} if supervise != "all" else {}),
        **({"tool_calls": calls.model_dump()} if calls != ToolCalls() else {}),
    }


def _build_private(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
    line, started = workplace.line, time.monotonic()
    evaluation = line.named_evaluation
    instruction, seed, batch_size = line.training.instruction, evaluation.seed, evaluation.batch_size
    replaces = replaces_instruction(workplace.institution, line)
    settings = HeldOutSettings(
        instruction, seed, evaluation.max_held_out_rows, evaluation.distractors, line.training.sft.supervise, replaces
    )
    look, split = _enter_look(workplace, inputs), inputs[LEAKAGE_SAFE_SPLIT.kind]
    trained, held_out = read_documents(split.file(TRAIN)), list(read_documents(split.file(HELD_OUT)))
    compared = compare("private_scores", workplace, inputs)
    with compared.open() as models:
        loaded = time.monotonic()
        samples, scores = score_held_out(models, held_out, settings)
        calls, answers, selection = score_tool_calls(
            models, trained, held_out, instruction, evaluation.tool_calls, batch_size, seed, replaces
        )
        scores = scores.model_copy(update={"tool_call_selection": selection})
        if calls:
            scores = scores.model_copy(update={"tool_calls": tool_call_result(calls)})
            write_rows(workspace / TOOL_CALLS, calls)
        if evaluation.references is not None:
            written = write_replies(models, held_out, instruction, evaluation.references, batch_size, seed, replaces)
            scores = scores.model_copy(update={"replies": written.result})
            write_rows(workspace / REPLIES, written.samples)
            answers += written.replies
        if answers:
            write_rows(workspace / ANSWERS, answers)
    write_rows(workspace / SAMPLES, samples)
    (workspace / SCORES_FILE).write_text(as_json(scores), encoding="utf-8")
    _enter_measured(workplace, look, PRIVATE_SCORES.kind, workspace)
    return Built(
        summary={
            "selection": scores.selection.model_dump(mode="json"),
            "loss": scores.model_dump(mode="json")["result"]["loss"],
        },
        measured=_measured(compared, started, loaded, score_seconds=time.monotonic() - loaded),
        classification=compared.classification,
    )


def _enter_look(workplace: Workplace, inputs: Inputs) -> tuple[ArtifactRef, ArtifactRef, str]:
    """Log a look: an evaluation of the candidate on the held-out documents is about to begin. Returns the candidate,
    the split and the digest of the tests (see `_tests`)."""
    scores = (CAPABILITY_SCORES, PRIVATE_SCORES, RED_TEAM_REPORT)
    tests = _tests(workplace, [(each.config_at(workplace), each.external(workplace)) for each in scores])
    look = inputs[ALIGNED_ADAPTER.kind].ref, inputs[LEAKAGE_SAFE_SPLIT.kind].ref, tests
    enter_look(workplace, *look)
    return look


def _enter_measured(
    workplace: Workplace, look: tuple[ArtifactRef, ArtifactRef, str], kind: str, workspace: Path
) -> None:
    """Log the digest of the files that the stage `kind` has written to `workspace`."""
    incumbent = next(iter(incumbent_digests(workplace).values()), "")
    files = digest_of({path.name: file_sha256(path) for path in workspace.iterdir()})
    enter_measured(workplace, *look, incumbent, kind, files)


def _tests(workplace: Workplace, scores: Sequence[tuple[Config, Mapping[str, str]]]) -> str:
    """Return a digest of the settings and external files of the evaluation's stages, such as suites, prompts and
    labels. The incumbent is left out. An evaluation with a different digest counts as another look.

    Args:
        scores: settings and external files of capability_scores, private_scores and red_team_report, in this order.
    """
    files = [{name: digest for name, digest in of.items() if not is_incumbent(name)} for _, of in scores]
    replaces = replaces_instruction(workplace.institution, workplace.line)
    return digest_of({"settings": [config for config, _ in scores], "files": files, "replaces": replaces})


def _measured(compared: Comparison, started: float, loaded: float, **more: float) -> dict[str, float]:
    """Return a stage's durations in seconds, and for each arm the numbers of cached and of computed items."""
    seconds = {name: round(value, 3) for name, value in {"load_seconds": loaded - started, **more}.items()}
    return {**seconds, **compared.cache.measured}


def _capability_config(line: Line) -> Config:
    return {
        "suites": [
            suite.model_dump(include={"name", "classification", "max_rows", "few_shot"})
            for suite in line.named_evaluation.capability
        ],
        "ceiling": line.ceiling,
        **line.named_evaluation.model_dump(mode="json", include={"seed", "precision", "batch_size"}),
    }


def _capability_external(workplace: Workplace) -> dict[str, str]:
    entries = workplace.line.named_evaluation.capability
    suites = {entry.name: identity_of_suite(workplace.settings, entry) for entry in entries}
    return {**suites, **incumbent_digests(workplace)}


def _build_capability(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
    line, started, level = workplace.line, time.monotonic(), level_of_suites(workplace)
    suites = [
        open_suite(workplace.settings, entry, line.named_evaluation.seed) for entry in line.named_evaluation.capability
    ]
    compared = compare("capability_scores", workplace, inputs, level)
    with compared.open() as models:
        loaded = time.monotonic()
        outcome = score_suites(models, suites, line.named_evaluation.batch_size)
    write_rows(workspace / SAMPLES, outcome.samples)
    write_rows(workspace / ANSWERS, outcome.answers)
    (workspace / SCORES_FILE).write_text(as_json(outcome.scores), encoding="utf-8")
    results = outcome.scores.model_dump(mode="json")["suites"]
    return Built(
        summary={name: result["accuracy"] for name, result in results.items()},
        measured=_measured(compared, started, loaded, score_seconds=time.monotonic() - loaded),
        classification=compared.classification,
    )


def _red_team_config(line: Line) -> Config:
    canaries, judge_model = line.training.canaries, line.named_evaluation.red_team.judge_model
    return {
        "instruction": line.training.instruction,
        "seed": line.named_evaluation.seed,
        "precision": line.named_evaluation.precision,
        "batch_size": line.named_evaluation.batch_size,
        "max_new_tokens": line.named_evaluation.red_team.max_new_tokens,
        "letters": line.named_evaluation.red_team.letters,
        "canaries": canaries.model_dump(mode="json") if canaries is not None else None,
        "privacy": line.privacy.identity(),
        "classification": line.named_evaluation.red_team.classification,
        "ceiling": line.ceiling,
        **({"judge_model": judge_model.model_dump(mode="json", exclude={"directory"})} if judge_model else {}),
    }


def _red_team_external(workplace: Workplace) -> dict[str, str]:
    red_team, data = workplace.line.named_evaluation.red_team, workplace.settings.data
    return {
        **{name: digest_of_items(path) for name, path in prompt_files(data, red_team).items()},
        "judge_labels": digest_of_items(data / red_team.judge_labels),
        **(
            {"judge_model:refusal": judge_model_digest(data / red_team.judge_model.directory)}
            if red_team.judge_model
            else {}
        ),
        **detector_parts(workplace),
        **incumbent_digests(workplace),
    }


def _build_red_team(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
    look = _enter_look(workplace, inputs)
    line, started, level = workplace.line, time.monotonic(), level_of_red_team(workplace)
    red_team, data = line.named_evaluation.red_team, workplace.settings.data
    prompts, labels = read_prompts(*prompt_files(data, red_team).values()), read_labels(data / red_team.judge_labels)
    instruction, compared = line.training.instruction, compare("red_team_report", workplace, inputs, level)
    words, replaces = load_word_lists(data, line.line), replaces_instruction(workplace.institution, line)
    scanner = OutputScanner(line.line, line.privacy, workplace.institution.treatments(line.line), words)
    refusals = (
        proven_judge_model(
            red_team.judge_model, data / red_team.judge_model.directory, labels, scanner, workplace.progress
        )
        if red_team.judge_model
        else shipped_verdicts
    )
    cut = _cut(workplace, inputs[ALIGNED_ADAPTER.kind])
    with compared.open() as models:
        loaded = time.monotonic()
        outcome = run_red_team(
            models, prompts, labels, scanner, instruction, red_team.max_new_tokens, refusals, replaces
        )
        answered = time.monotonic()
        canaries = expose_canaries(models, line.training.canaries, instruction) if line.training.canaries else []
        split, seed = inputs[LEAKAGE_SAFE_SPLIT.kind], line.named_evaluation.seed
        trained, held_out = read_documents(split.file(TRAIN)), read_documents(split.file(HELD_OUT))
        continued = continue_documents(
            models, trained, held_out, instruction, red_team.letters, seed, scanner, replaces, cut
        )
        report = RedTeamReport(
            dtype=models.dtype,
            max_new_tokens=red_team.max_new_tokens,
            result=red_team_result(outcome.samples, outcome.labels),
            memorisation=memorisation_result(canaries, continued, seed),
        )
    write_rows(workspace / SAMPLES, outcome.samples)
    write_rows(workspace / ANSWERS, outcome.answers)
    write_rows(workspace / JUDGED_LABELS, outcome.labels)
    write_rows(workspace / CANARIES, canaries)
    write_rows(workspace / VERBATIM, continued)
    (workspace / REPORT_FILE).write_text(as_json(report), encoding="utf-8")
    _enter_measured(workplace, look, RED_TEAM_REPORT.kind, workspace)
    finished = time.monotonic()
    _report_time(workplace, finished - loaded)
    return Built(
        summary={"prompts": len(prompts), **report.model_dump(mode="json", include={"result", "memorisation"})},
        measured=_measured(
            compared,
            started,
            loaded,
            answer_seconds=answered - loaded,
            memorisation_seconds=finished - answered,
            seconds_allowed=60 * red_team.max_minutes,
        ),
        classification=compared.classification,
    )


def _cut(workplace: Workplace, candidate: Artifact) -> tuple[str, ...]:
    """Return the ids of the documents that were too long for SFT. The candidate was not trained on these documents."""
    is_sft = SFT_ADAPTER.kind not in candidate.manifest.inputs  # aligned_adapter may pass the SFT adapter through
    sft = candidate if is_sft else workplace.store.open_input(candidate.manifest, SFT_ADAPTER.kind)
    return read_report(sft, TrainingReport).rows_cut_ids


def _report_time(workplace: Workplace, seconds: float) -> None:
    allowed = 60 * workplace.line.named_evaluation.red_team.max_minutes
    if seconds <= allowed:
        workplace.progress(f"red_team_report: took {duration(seconds)} of {duration(allowed)} allowed")
        return
    workplace.progress(
        f"red_team_report: TOOK {duration(seconds)}, LONGER THAN THE {duration(allowed)} THAT THE RECIPE ALLOWS. The "
        f"results are valid nevertheless. In evaluation.red_team, use fewer prompts or letters, lower "
        f"max_new_tokens, or raise max_minutes."
    )


CAPABILITY_SCORES = Stage(
    kind="capability_scores",
    code_version="8",
    build=_build_capability,
    inputs=(BASE_MODEL, ALIGNED_ADAPTER),
    config=_capability_config,
    external=_capability_external,
    libraries=MODEL_LIBRARIES,
)
PRIVATE_SCORES = Stage(
    kind="private_scores",
    code_version="10",
    build=_build_private,
    inputs=(BASE_MODEL, ALIGNED_ADAPTER, LEAKAGE_SAFE_SPLIT),
    config=_private_config,
    external=incumbent_digests,
    libraries=(*MODEL_LIBRARIES, "rouge-score", "sacrebleu"),
)
RED_TEAM_REPORT = Stage(
    kind="red_team_report",
    code_version="11",
    build=_build_red_team,
    inputs=(BASE_MODEL, ALIGNED_ADAPTER, LEAKAGE_SAFE_SPLIT),
    config=_red_team_config,
    policy=sensitive_kinds,
    external=_red_team_external,
    libraries=(*MODEL_LIBRARIES, "phonenumbers", "python-stdnum", "spacy"),
)


def _report_config(line: Line) -> Config:
    return {
        "seed": line.named_evaluation.seed,
        "suites": [suite.name for suite in line.named_evaluation.capability],
        "gates": line.gates.model_dump(
            mode="json", exclude={name: {"officer_may"} for name in Gates.model_fields} | {"review": True}
        ),
    }


def _report_external(workplace: Workplace) -> dict[str, str]:
    line, store = workplace.line.line, workplace.store
    stages = (ALIGNED_ADAPTER, LEAKAGE_SAFE_SPLIT, *EVALUATION_REPORT.inputs)
    made = [ref for each in stages if (ref := store.current(line, each.kind)) is not None]
    if len(made) < len(stages):
        return waiver_digests(workplace)
    candidate, split, *scores = made
    tests, _ = _measured_tests(workplace, candidate, split, [store.read_manifest(ref) for ref in scores])
    looks = looks_at(workplace, candidate, split, tests)
    return {**waiver_digests(workplace), "looks": digest_of(looks.model_dump(mode="json"))}


def _build_report(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
    workplace.progress("evaluation_report: computing values and intervals from the samples")
    judged = _judged(workplace, inputs)
    if judged is not None:
        enter_look(workplace, *judged[:3])
    report = _observed(workplace, inputs)
    if judged is not None:
        enter_outcomes(workplace, *judged, {finding.gate: finding.outcome for finding in report.findings})
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
            "look": report.looks.number if report.looks is not None else None,
        }
    )


def _observed(workplace: Workplace, inputs: Inputs) -> EvaluationReport:
    """Compute the report from the samples in the stage's inputs, and from the registry's waivers and looks."""
    judged = _judged(workplace, inputs)
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
        looks_at(workplace, *judged[:3]) if judged is not None else None,
    )


def _judged(workplace: Workplace, inputs: Inputs) -> tuple[ArtifactRef, ArtifactRef, str, Figures] | None:
    """Return the candidate, the split whose held-out documents were scored, the digest of the tests (see
    `as_measured`), and the digests of the results. Return None if the private scores have no adapter or no split as
    input."""
    scores, store = inputs[PRIVATE_SCORES.kind].manifest, workplace.store
    if not {ALIGNED_ADAPTER.kind, LEAKAGE_SAFE_SPLIT.kind} <= scores.inputs.keys():
        return None
    candidate, split = (store.input_ref(scores, each.kind) for each in (ALIGNED_ADAPTER, LEAKAGE_SAFE_SPLIT))
    manifests = [inputs[each.kind].manifest for each in EVALUATION_REPORT.inputs]
    return candidate, split, *_measured_tests(workplace, candidate, split, manifests)


def _measured_tests(
    workplace: Workplace, candidate: ArtifactRef, split: ArtifactRef, scores: Sequence[Manifest]
) -> tuple[str, Figures]:
    """Return the digest that identifies the tests of this look (see `as_measured`), and the digests of the results.

    Args:
        scores: manifests of capability_scores, private_scores and red_team_report, in this order.
    """
    tests = _tests(workplace, [(each.producer.config, each.external_inputs) for each in scores])
    incumbent = incumbent_in(scores[0])
    files = [{entry.path: entry.sha256 for entry in each.files} for each in scores]
    figures = {"incumbent": incumbent[1] if incumbent is not None else "", "files": digest_of(files)}
    of_scores = {each.kind: digest_of(of) for each, of in zip(scores, files, strict=True)}
    return as_measured(workplace, candidate, split, tests, figures, of_scores), figures


def _gate(criterion: Criterion) -> Gate:
    """Build the gate of one criterion. The gate recomputes the report and returns the criterion's outcome. The gate
    fails if the stored report is different."""

    def config(line: Line) -> Config:
        section = criterion.policy(line.gates).model_dump(mode="json", exclude={"officer_may"})
        return {"seed": line.named_evaluation.seed, **section}

    def evaluate(workplace: Workplace, artifact: Artifact, inputs: Inputs) -> Verdict:
        workplace.progress(f"evaluation_report: gate {criterion.name} recomputes the report")
        observed = _observed(workplace, inputs)
        finding = observed.finding(criterion.name)
        evidence = {
            "bound_to": _bound_to(artifact, inputs, observed, {**config(workplace.line), "gate": criterion.name}),
            "held": [held.model_dump(mode="json") for held in finding.held],
        }
        if not _is_reported(observed, artifact):
            return Verdict(
                False, f"{REPORT_FILE} does not match the samples. Materialize evaluation_report again.", evidence
            )
        return Verdict(
            finding.outcome == "pass", finding.message, evidence, inconclusive=finding.outcome == "inconclusive"
        )

    return Gate(
        name=criterion.name,
        question=criterion.question,
        code_version="6",
        evaluate=evaluate,
        config=config,
        officer_may=lambda line: criterion.policy(line.gates).officer_may,
    )


def _is_reported(observed: EvaluationReport, artifact: Artifact) -> bool:
    """Return True if the stored report equals the recomputed one. Sentences are not compared, because an earlier
    version of the program may have worded them differently."""
    try:
        reported = EvaluationReport.model_validate_json(artifact.file(REPORT_FILE).read_bytes())
    except ValueError:
        return False
    return reported.without_wording() == observed.without_wording()


def _bound_to(artifact: Artifact, inputs: Inputs, observed: EvaluationReport, policy: Config) -> dict[str, Any]:
    """Return the digests of everything that a verdict depends on, keyed by name.

    The report is the only input of the gate record, and the report depends on all of these. A signature on the record
    therefore covers these digests.
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
    """Return the incumbent that the manifests of the three evaluation stages in `inputs` name; None if they name none.
    Raises StaleInput if they name different incumbents."""
    found = {incumbent_in(artifact.manifest) for artifact in inputs.values()}
    if len(found) > 1:
        named = ", ".join(sorted(each[0] if each is not None else "none" for each in found))
        raise StaleInput(
            f"The scores of line {workplace.line.line} were compared with different incumbents ({named}), because "
            f"an adapter was registered in the meantime.",
            "Run the line again.",
            act="run_line",
            line=workplace.line.line,
        )
    incumbent = found.pop()
    if incumbent is None:
        return None
    base_model = workplace.store.open_input(inputs[PRIVATE_SCORES.kind].manifest, BASE_MODEL.kind)
    return IncumbentFacts(id=incumbent[0], digest=incumbent[1], compared=has_base(workplace, incumbent[1], base_model))


def _precision(workplace: Workplace, inputs: Inputs) -> str:
    """Return the precision of the three evaluation stages in `inputs`. Raises StaleInput if their precisions differ."""
    found: set[str] = {artifact.manifest.producer.config["precision"] for artifact in inputs.values()}
    if len(found) > 1:
        raise StaleInput(
            f"The scores of line {workplace.line.line} were computed in different precisions "
            f"({', '.join(sorted(found))}).",
            "Run the line again on one machine, or set evaluation.precision in the recipe.",
            act="run_line",
            line=workplace.line.line,
        )
    return found.pop()


EVALUATION_REPORT = Stage(
    kind="evaluation_report",
    code_version="10",
    build=_build_report,
    inputs=(CAPABILITY_SCORES, PRIVATE_SCORES, RED_TEAM_REPORT),
    config=_report_config,
    external=_report_external,
    libraries=("matplotlib", "numpy", "scipy"),
    gates=tuple(_gate(criterion) for criterion in CRITERIA),
)
