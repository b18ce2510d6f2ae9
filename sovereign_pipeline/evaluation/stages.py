"""The stages that score and attack the candidate: `capability_scores`, `private_scores` and `red_team_report`.

What belongs here: which artifacts are read, what identifies the work, and which file holds what. How anything is
measured is in the packages beside this module; the report and its gates are in `report/stages.py`.
"""

import time
from pathlib import Path

from sovereign_pipeline.artifacts.stage import Built, Config, Inputs, Stage, Workplace
from sovereign_pipeline.base_models.stages import BASE_MODEL
from sovereign_pipeline.corpus.document import read_documents
from sovereign_pipeline.countdown import duration
from sovereign_pipeline.evaluation.capability.capability import score_suites
from sovereign_pipeline.evaluation.comparison import compare
from sovereign_pipeline.evaluation.files import (
    ANSWERS,
    CANARIES,
    JUDGED_LABELS,
    REPLIES,
    REPORT_FILE,
    SAMPLES,
    SCORES_FILE,
    VERBATIM,
    as_json,
    write_rows,
)
from sovereign_pipeline.evaluation.held_out.private import HeldOutSettings, score_held_out
from sovereign_pipeline.evaluation.held_out.replies import write_replies
from sovereign_pipeline.evaluation.incumbent import incumbent_digests
from sovereign_pipeline.evaluation.red_team.judge_model import judge_model_digest, shipped_verdicts
from sovereign_pipeline.evaluation.red_team.judges import proven_judge_model, read_labels
from sovereign_pipeline.evaluation.red_team.memorisation import (
    continue_documents,
    expose_canaries,
    memorisation_result,
)
from sovereign_pipeline.evaluation.red_team.personal_data import OutputScanner
from sovereign_pipeline.evaluation.red_team.records import RedTeamReport
from sovereign_pipeline.evaluation.red_team.red_team import red_team_result, run_red_team
from sovereign_pipeline.policy.line import Line
from sovereign_pipeline.privacy.stages import detector_parts, sensitive_kinds
from sovereign_pipeline.privacy.word_lists import load_word_lists
from sovereign_pipeline.split.files import HELD_OUT, TRAIN
from sovereign_pipeline.split.stages import LEAKAGE_SAFE_SPLIT
from sovereign_pipeline.suites.items import digest_of_items, level_of_red_team, level_of_suites
from sovereign_pipeline.suites.red_team_prompts import read_prompts
from sovereign_pipeline.suites.suites import identity_of_suite, open_suite
from sovereign_pipeline.training.stages import ALIGNED_ADAPTER

MODEL_LIBRARIES = ("lm-eval", "numpy", "peft", "scipy", "torch", "transformers")


def _private_config(line: Line) -> Config:
    return {
        "instruction": line.training.instruction,
        **line.named_evaluation.model_dump(
            mode="json", include={"seed", "precision", "max_held_out_rows", "distractors", "batch_size", "references"}
        ),
    }


def _build_private(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
    line, started = workplace.line, time.monotonic()
    settings = HeldOutSettings(
        instruction=line.training.instruction,
        seed=line.named_evaluation.seed,
        max_rows=line.named_evaluation.max_held_out_rows,
        distractors=line.named_evaluation.distractors,
    )
    held_out = list(read_documents(inputs[LEAKAGE_SAFE_SPLIT.kind].file(HELD_OUT)))
    compared = compare("private_scores", workplace, inputs)
    with compared.open() as models:
        loaded = time.monotonic()
        samples, scores = score_held_out(models, held_out, settings)
        references = line.named_evaluation.references
        if references is not None:
            written = write_replies(
                models, held_out, settings.instruction, references, line.named_evaluation.batch_size, settings.seed
            )
            scores = scores.model_copy(update={"replies": written.result})
            write_rows(workspace / REPLIES, written.samples)
            write_rows(workspace / ANSWERS, written.replies)
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
            **compared.cache.measured,
        },
        classification=workplace.institution.ladder.highest(compared.levels),
    )


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
        measured={
            "load_seconds": round(loaded - started, 3),
            "score_seconds": round(time.monotonic() - loaded, 3),
            **compared.cache.measured,
        },
        classification=workplace.institution.ladder.highest(compared.levels),
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
        "prompts": digest_of_items(data / red_team.prompts),
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
    line, started, level = workplace.line, time.monotonic(), level_of_red_team(workplace)
    red_team, data = line.named_evaluation.red_team, workplace.settings.data
    prompts, labels = read_prompts(data / red_team.prompts), read_labels(data / red_team.judge_labels)
    instruction, compared = line.training.instruction, compare("red_team_report", workplace, inputs, level)
    words = load_word_lists(data, line.line)
    scanner = OutputScanner(line.line, line.privacy, workplace.institution.treatments(line.line), words)
    refusals = (
        proven_judge_model(
            red_team.judge_model, data / red_team.judge_model.directory, labels, scanner, workplace.progress
        )
        if red_team.judge_model
        else shipped_verdicts
    )
    with compared.open() as models:
        loaded = time.monotonic()
        outcome = run_red_team(models, prompts, labels, scanner, instruction, red_team.max_new_tokens, refusals)
        answered = time.monotonic()
        canaries = expose_canaries(models, line.training.canaries, instruction) if line.training.canaries else []
        split, seed = inputs[LEAKAGE_SAFE_SPLIT.kind], line.named_evaluation.seed
        trained, held_out = read_documents(split.file(TRAIN)), read_documents(split.file(HELD_OUT))
        continued = continue_documents(models, trained, held_out, instruction, red_team.letters, seed, scanner)
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
    finished = time.monotonic()
    _report_time(workplace, finished - loaded)
    return Built(
        summary={"prompts": len(prompts), **report.model_dump(mode="json", include={"result", "memorisation"})},
        measured={
            "load_seconds": round(loaded - started, 3),
            "answer_seconds": round(answered - loaded, 3),
            "memorisation_seconds": round(finished - answered, 3),
            "seconds_allowed": 60 * red_team.max_minutes,
            **compared.cache.measured,
        },
        classification=workplace.institution.ladder.highest(compared.levels),
    )


def _report_time(workplace: Workplace, seconds: float) -> None:
    allowed = 60 * workplace.line.named_evaluation.red_team.max_minutes
    if seconds <= allowed:
        workplace.progress(f"red_team_report: took {duration(seconds)} of {duration(allowed)} allowed")
        return
    workplace.progress(
        f"red_team_report: TOOK {duration(seconds)}, LONGER THAN THE {duration(allowed)} THAT THE RECIPE ALLOWS. The "
        f"answers count all the same. Use fewer prompts or letters, allow fewer new tokens, or raise "
        f"evaluation.red_team.max_minutes."
    )


CAPABILITY_SCORES = Stage(
    kind="capability_scores",
    code_version="6",
    build=_build_capability,
    inputs=(BASE_MODEL, ALIGNED_ADAPTER),
    config=_capability_config,
    external=_capability_external,
    libraries=MODEL_LIBRARIES,
)

PRIVATE_SCORES = Stage(
    kind="private_scores",
    code_version="7",
    build=_build_private,
    inputs=(BASE_MODEL, ALIGNED_ADAPTER, LEAKAGE_SAFE_SPLIT),
    config=_private_config,
    external=incumbent_digests,
    libraries=(*MODEL_LIBRARIES, "rouge-score", "sacrebleu"),
)

RED_TEAM_REPORT = Stage(
    kind="red_team_report",
    code_version="9",
    build=_build_red_team,
    inputs=(BASE_MODEL, ALIGNED_ADAPTER, LEAKAGE_SAFE_SPLIT),
    config=_red_team_config,
    policy=sensitive_kinds,
    external=_red_team_external,
    libraries=(*MODEL_LIBRARIES, "phonenumbers", "python-stdnum", "spacy"),
)
