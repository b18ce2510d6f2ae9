"""The stages of the evaluation group, the last of which holds the gates that an adapter passes to be registered.

What belongs here: which artifacts are read, what identifies the work, and which file holds what. How anything is
measured is in the modules beside this one.
"""

import time
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from sovereign_pipeline.artifacts.stage import Built, Config, Inputs, Stage, Workplace
from sovereign_pipeline.artifacts.store import Artifact
from sovereign_pipeline.base_models.stages import BASE_MODEL
from sovereign_pipeline.base_models.verified import open_base_model, read_descriptor
from sovereign_pipeline.corpus.document import read_documents
from sovereign_pipeline.evaluation.arms.arms import Arm
from sovereign_pipeline.evaluation.arms.models import open_models
from sovereign_pipeline.evaluation.arms.score_cache import Origin, ScoreCache
from sovereign_pipeline.evaluation.capability.capability import score_suites
from sovereign_pipeline.evaluation.held_out.private import HeldOutSettings, score_held_out
from sovereign_pipeline.evaluation.held_out.replies import write_replies
from sovereign_pipeline.evaluation.incumbent import (
    incumbent_digests,
    open_incumbent,
)
from sovereign_pipeline.evaluation.records import (
    CANARIES,
    REPLIES,
    REPORT_FILE,
    SAMPLES,
    SCORES_FILE,
    VERBATIM,
    as_json,
    write_rows,
)
from sovereign_pipeline.evaluation.red_team.judges import read_labels
from sovereign_pipeline.evaluation.red_team.memorisation import continue_letters, expose_canaries, memorisation_result
from sovereign_pipeline.evaluation.red_team.personal_data import OutputScanner
from sovereign_pipeline.evaluation.red_team.records import RedTeamReport
from sovereign_pipeline.evaluation.red_team.red_team import red_team_result, run_red_team
from sovereign_pipeline.policy.line import Line
from sovereign_pipeline.privacy.stages import name_model_digests, sensitive_kinds
from sovereign_pipeline.split.files import HELD_OUT, TRAIN
from sovereign_pipeline.split.stages import LEAKAGE_SAFE_SPLIT
from sovereign_pipeline.suites.items import digest_of_items, level_of_red_team, level_of_suites
from sovereign_pipeline.suites.red_team_prompts import read_prompts
from sovereign_pipeline.suites.suites import identity_of_suite, open_suite
from sovereign_pipeline.training.stages import ALIGNED_ADAPTER
from sovereign_pipeline.training.tuned_model import TunedModel, tuned_model

MODEL_LIBRARIES = ("lm-eval", "numpy", "peft", "scipy", "torch", "transformers")


def _private_config(line: Line) -> Config:
    return {
        "instruction": line.training.instruction,
        **line.evaluation.model_dump(
            mode="json", include={"seed", "max_held_out_rows", "distractors", "batch_size", "references"}
        ),
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
    with open_models(compared.base, compared.tuned, compared.cache) as models:
        workplace.progress(f"Scoring the held-out letters with {', '.join(models.arms)} ({models.dtype}).")
        loaded = time.monotonic()
        samples, scores = score_held_out(models, held_out, settings)
        references = line.evaluation.references
        if references is not None:
            workplace.progress(f"Writing replies to held-out letters with {', '.join(models.arms)}.")
            written = write_replies(
                models, held_out, settings.instruction, references, line.evaluation.batch_size, settings.seed
            )
            scores = scores.model_copy(update={"replies": written.result})
            write_rows(workspace / REPLIES, written.samples)
            write_rows(workspace / "answers.jsonl", written.replies)
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
            for suite in line.evaluation.capability
        ],
        "ceiling": line.ceiling,
        **line.evaluation.model_dump(mode="json", include={"seed", "batch_size"}),
    }


def _capability_external(workplace: Workplace) -> dict[str, str]:
    entries = workplace.line.evaluation.capability
    suites = {entry.name: identity_of_suite(workplace.settings, entry) for entry in entries}
    return {**suites, **incumbent_digests(workplace)}


def _build_capability(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
    line, started, level = workplace.line, time.monotonic(), level_of_suites(workplace)
    suites = [open_suite(workplace.settings, entry, line.evaluation.seed) for entry in line.evaluation.capability]
    compared = _compared(workplace, inputs, level)
    with open_models(compared.base, compared.tuned, compared.cache) as models:
        questions = sum(len(suite.rows) for suite in suites)
        workplace.progress(f"Asking {questions} questions of {len(suites)} suites of {', '.join(models.arms)}.")
        loaded = time.monotonic()
        outcome = score_suites(models, suites, line.evaluation.batch_size)
    write_rows(workspace / SAMPLES, outcome.samples)
    write_rows(workspace / "answers.jsonl", outcome.answers)
    (workspace / SCORES_FILE).write_text(as_json(outcome.scores), encoding="utf-8")
    results = outcome.scores.model_dump(mode="json")["suites"]
    return Built(
        summary={name: result["accuracy"] for name, result in results.items()},
        measured={
            "load_seconds": round(loaded - started, 3),
            "score_seconds": round(time.monotonic() - loaded, 3),
            **compared.cache.measured,
        },
        classification=workplace.institution.ladder.highest([level, *compared.levels]),
    )


def _red_team_config(line: Line) -> Config:
    canaries = line.training.canaries
    return {
        "instruction": line.training.instruction,
        "seed": line.evaluation.seed,
        "batch_size": line.evaluation.batch_size,
        "max_new_tokens": line.evaluation.red_team.max_new_tokens,
        "letters": line.evaluation.red_team.letters,
        "canaries": canaries.model_dump(mode="json") if canaries is not None else None,
        "privacy": line.privacy.model_dump(mode="json"),
        "classification": line.evaluation.red_team.classification,
        "ceiling": line.ceiling,
    }


def _red_team_external(workplace: Workplace) -> dict[str, str]:
    red_team, data = workplace.line.evaluation.red_team, workplace.settings.data
    return {
        "prompts": digest_of_items(data / red_team.prompts),
        "judge_labels": digest_of_items(data / red_team.judge_labels),
        **name_model_digests(workplace),
        **incumbent_digests(workplace),
    }


def _build_red_team(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
    line, started, level = workplace.line, time.monotonic(), level_of_red_team(workplace)
    red_team, data = line.evaluation.red_team, workplace.settings.data
    prompts, labels = read_prompts(data / red_team.prompts), read_labels(data / red_team.judge_labels)
    instruction, compared = line.training.instruction, _compared(workplace, inputs, level)
    scanner = OutputScanner(line.line, line.privacy, workplace.institution.treatments(line.line))
    with open_models(compared.base, compared.tuned, compared.cache) as models:
        workplace.progress(f"Answering {len(prompts)} red-team prompts with {', '.join(models.arms)}.")
        loaded = time.monotonic()
        outcome = run_red_team(models, prompts, labels, scanner, instruction, red_team.max_new_tokens)
        answered = time.monotonic()
        canaries = expose_canaries(models, line.training.canaries, instruction) if line.training.canaries else []
        split, seed = inputs[LEAKAGE_SAFE_SPLIT.kind], line.evaluation.seed
        trained, held_out = read_documents(split.file(TRAIN)), read_documents(split.file(HELD_OUT))
        letters = continue_letters(models, trained, held_out, instruction, red_team.letters, seed, scanner)
        report = RedTeamReport(
            dtype=models.dtype,
            max_new_tokens=red_team.max_new_tokens,
            result=red_team_result(outcome.samples, outcome.labels),
            memorisation=memorisation_result(canaries, letters, seed),
        )
    write_rows(workspace / SAMPLES, outcome.samples)
    write_rows(workspace / "answers.jsonl", outcome.answers)
    write_rows(workspace / "judge.jsonl", outcome.labels)
    write_rows(workspace / CANARIES, canaries)
    write_rows(workspace / VERBATIM, letters)
    (workspace / REPORT_FILE).write_text(as_json(report), encoding="utf-8")
    finished = time.monotonic()
    _tell_time(workplace, finished - loaded)
    return Built(
        summary={"prompts": len(prompts), **report.model_dump(mode="json", include={"result", "memorisation"})},
        measured={
            "load_seconds": round(loaded - started, 3),
            "answer_seconds": round(answered - loaded, 3),
            "memorisation_seconds": round(finished - answered, 3),
            "seconds_allowed": 60 * red_team.max_minutes,
            **compared.cache.measured,
        },
        classification=workplace.institution.ladder.highest([level, *compared.levels]),
    )


def _tell_time(workplace: Workplace, seconds: float) -> None:
    allowed = 60 * workplace.line.evaluation.red_team.max_minutes
    if seconds <= allowed:
        workplace.progress(f"The red team took {seconds:.0f} s of the {allowed:.0f} s that the recipe allows.")
        return
    workplace.progress(
        f"THE RED TEAM TOOK {seconds:.0f} s, and the recipe allows {allowed:.0f} s. Its answers count all the same. "
        f"Ask fewer prompts or letters, allow fewer new tokens, or raise evaluation.red_team.max_minutes."
    )


@dataclass(frozen=True)
class _Compared:
    """What one session scores. base: the verified directory. levels: of what is not among the stage's inputs. cache:
    where what each arm gives is kept."""

    base: Path
    tuned: dict[Arm, TunedModel]
    levels: tuple[str, ...]
    cache: ScoreCache


def _compared(workplace: Workplace, inputs: Inputs, *asked: str) -> _Compared:
    """asked: levels of what the arms are asked that is not among the stage's inputs."""
    candidate, base_model = inputs[ALIGNED_ADAPTER.kind], inputs[BASE_MODEL.kind]
    base = open_base_model(workplace.settings, base_model)
    incumbent = open_incumbent(workplace, candidate, base_model)
    tuned: dict[Arm, Artifact] = {"candidate": candidate}
    if incumbent is not None:
        tuned["incumbent"] = incumbent.artifact
    others = [artifact for artifact in inputs.values() if artifact not in (candidate, base_model)]
    highest = workplace.institution.ladder.highest
    cache = ScoreCache(
        workplace=workplace,
        asked=highest([*asked, *(artifact.manifest.classification for artifact in others)]),
        origins=_origins(workplace, base_model, tuned),
    )
    levels = (incumbent.classification,) if incumbent is not None else ()
    return _Compared(base, {arm: tuned_model(artifact) for arm, artifact in tuned.items()}, levels, cache)


def _origins(workplace: Workplace, base_model: Artifact, tuned: Mapping[Arm, Artifact]) -> dict[Arm, Origin]:
    """Levels are those of the artifacts. A registration may be higher, for what the adapter was evaluated on; that is
    the level of the stage (`levels`), and not of what the weights say."""
    files, level = {"base_model": read_descriptor(base_model)["digest"]}, base_model.manifest.classification
    origins: dict[Arm, Origin] = {"base": Origin(files, level)}
    for arm, artifact in tuned.items():
        higher = workplace.institution.ladder.highest((level, artifact.manifest.classification))
        origins[arm] = Origin({**files, "tuned": artifact.ref.digest}, higher)
    return origins


CAPABILITY_SCORES = Stage(
    kind="capability_scores",
    code_version="5",
    build=_build_capability,
    inputs=(BASE_MODEL, ALIGNED_ADAPTER),
    config=_capability_config,
    external=_capability_external,
    libraries=MODEL_LIBRARIES,
)

PRIVATE_SCORES = Stage(
    kind="private_scores",
    code_version="5",
    build=_build_private,
    inputs=(BASE_MODEL, ALIGNED_ADAPTER, LEAKAGE_SAFE_SPLIT),
    config=_private_config,
    external=incumbent_digests,
    libraries=(*MODEL_LIBRARIES, "rouge-score", "sacrebleu"),
)

RED_TEAM_REPORT = Stage(
    kind="red_team_report",
    code_version="5",
    build=_build_red_team,
    inputs=(BASE_MODEL, ALIGNED_ADAPTER, LEAKAGE_SAFE_SPLIT),
    config=_red_team_config,
    policy=sensitive_kinds,
    external=_red_team_external,
    libraries=(*MODEL_LIBRARIES, "phonenumbers", "python-stdnum", "spacy"),
)
