"""Define the asset `experiment`, which trains the trials of one experiment and writes a page with the results.

A trial is a partition of the asset `experiment_trial`. The run of `experiment` materializes all trials of the
experiment in one trainer process, so that the trials share one base model in memory.
"""

import base64
import html
import math
import multiprocessing
from collections import Counter
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any, get_args

import dagster as dg

from sovereign_pipeline.base import pages
from sovereign_pipeline.base.errors import RunStopped
from sovereign_pipeline.base.files import short, write_atomically
from sovereign_pipeline.base.processes import die_with_parent
from sovereign_pipeline.base.settings import Settings, corpus_withheld, go_offline
from sovereign_pipeline.base.text import counted, duration, silent
from sovereign_pipeline.dagster.asset_details import picture, table
from sovereign_pipeline.dagster.assets import as_failures, mirrored_run
from sovereign_pipeline.dagster.chain import DEVICE_POOL
from sovereign_pipeline.dagster.plots import experiment_png
from sovereign_pipeline.dagster.resources import (
    DATA_VERSION_TAG,
    EXPERIMENTS,
    key_of_marks,
    launch_with_pipes,
    register_experiments,
)
from sovereign_pipeline.dagster.runner import Tell, execute, reason_of, run_line
from sovereign_pipeline.policy.experiment import Experiment, Setting, load_experiment, recipe_diff, settings_of
from sovereign_pipeline.policy.institution import Here, load_institution
from sovereign_pipeline.record.manifest import ArtifactRef
from sovereign_pipeline.record.stage import Launch, Progress, Workplace
from sovereign_pipeline.registry.mlflow_mirror import mirror_training
from sovereign_pipeline.training.experiments import TRIAL, Results, State, Trial, assert_selection_side, run_experiment
from sovereign_pipeline.training.job import TrainingJob
from sovereign_pipeline.training.warm import WarmTrainer
from sovereign_pipeline.workplace import open_workplace

TRIALS = dg.DynamicPartitionsDefinition(name="trial")
INPUTS = ("base_model", "training_dataset")
PAGE_FILE, PICTURE_FILE = "report.html", "trials.png"
GIB = 1 << 30
READING = (
    "The loss is the mean over the reply tokens of the selection side. The best trial was selected by this loss, so "
    "its loss on other documents is probably higher. The gates measure its loss on held-out documents."
)

EXPERIMENT_TRIAL = dg.AssetSpec(
    TRIAL,
    deps=INPUTS,
    partitions_def=TRIALS,
    group_name="experiments",
    owners=["team:model-office"],
    kinds={"pytorch"},
    code_version="1",
    description="One training of an experiment: its settings, its loss on the selection side, and the digest of its "
    "weights. The weights themselves are not stored, so a trial can be neither registered nor served.\n\n"
    "**Materializing it** happens in the run of the experiment.",
)


@dg.asset(
    deps=INPUTS,
    partitions_def=EXPERIMENTS,
    group_name="experiments",
    owners=["team:model-office"],
    kinds={"pytorch"},
    code_version="1",
    pool=DEVICE_POOL,
    description="The trials of an experiment, compared on the line's selection side. No adapter is registered.\n\n"
    "**Materializing it** trains the unfinished trials one after another in one process and takes minutes to days. "
    "An interrupted run resumes.",
)
def experiment(
    context: dg.AssetExecutionContext, installation: dg.ResourceParam[Settings]
) -> dg.MaterializeResult[Any]:
    go_offline()
    if multiprocessing.parent_process() is not None:
        die_with_parent()
    with as_failures("experiment"), corpus_withheld():
        return _materialization(context, installation)


def _materialization(context: dg.AssetExecutionContext, settings: Settings) -> dg.MaterializeResult[Any]:
    described, of_trials, workplace = opened(settings, context.partition_key, context.log.info)

    def made(trial: Trial, ref: ArtifactRef) -> None:
        key = f"{described.experiment}/{trial.setting.number:03}"
        context.instance.add_dynamic_partitions(str(TRIALS.name), [key])
        artifact = workplace.store.open(ref)
        summary = artifact.manifest.summary
        facts = {
            **{name: str(value) for name, value in trial.setting.values.items()},
            **{name: value for name, value in summary.get("selection", {}).items()},
            **{name: summary[name] for name in ("steps", "diverged") if name in summary},
            "seconds": artifact.manifest.circumstances.measured["seconds"],
            "digest": ref.digest,
        }
        if "diverged" not in summary:
            facts["mlflow run"] = mirrored_run(workplace, ref, mirror_training)
        context.log_event(
            dg.AssetMaterialization(TRIAL, partition=key, metadata=facts, tags={DATA_VERSION_TAG: ref.digest})
        )

    with workplace.store.workspace() as scratch, WarmTrainer(scratch, context.log.info) as warm:
        launch = _launch(settings, workplace, warm, launch_with_pipes(context, settings))
        results = run_experiment(replace(workplace, launch=launch), described, of_trials, made)
    page, result = write_page(settings, described, results, diff_of(settings, results)), summary_of(results)
    context.log.info(f"{described.experiment}: {result}")
    shown: dict[str, Any] = {
        "result": result,
        "trials": table(rows_of(results)),
        "picture": picture((page.parent / PICTURE_FILE).read_bytes()),
        "page": str(page),
    }
    return dg.MaterializeResult(metadata=shown)


def _launch(settings: Settings, workplace: Workplace, warm: WarmTrainer, elsewhere: Launch) -> Launch:
    """Return a launcher that runs a job in the running trainer process `warm`. A job on another machine or on several
    devices is passed to `elsewhere`."""

    def launch(job: Path) -> None:
        if isinstance(workplace.institution.trainer, Here) and TrainingJob.read(job).devices.count == 1:
            warm.run(job, key_of_marks(settings, job))
        else:
            elsewhere(job)

    return launch


def opened(settings: Settings, name: str, progress: Progress = silent) -> tuple[Experiment, list[Setting], Workplace]:
    """Return an experiment, its trials' settings, and the workplace of its line. Raises the errors of `load_experiment`
    and `settings_of`, and RecipeError for a line without a selection side."""
    described, line = load_experiment(settings.data, name, load_institution(settings.data))
    of_trials = settings_of(described, line)
    workplace = open_workplace(settings, line.line, progress)
    assert_selection_side(workplace.line, described)
    return described, of_trials, workplace


def run(
    instance: dg.DagsterInstance,
    jobs: tuple[Callable[[], dg.JobDefinition], Callable[[], dg.JobDefinition]],
    settings: Settings,
    name: str,
    tell: Tell,
) -> None:
    """Build the trials' common inputs, and train the unfinished trials.

    Args:
        jobs: the module-level functions that return the jobs of the chain and of experiments.

    Raises RunStopped if a run fails or a person interrupts it, and the errors of `opened` and `run_line`.
    """
    _, _, workplace = opened(settings, name)
    workplace.store.seals.assert_ready()
    for kind in INPUTS:
        run_line(instance, jobs[0], workplace, tell, until=kind)
    register_experiments(instance, settings)
    log = settings.logs / f"experiment-{name}.log"
    result = execute(instance, jobs[1], ["experiment"], name, log, tell)
    if result is None:
        raise RunStopped(
            f"Experiment {name}: stopped. Finished trials are stored.",
            "Run again to resume.",
            act="run_experiment",
            experiment=name,
        )
    if not result.success:
        raise reason_of(result)


def summary_of(results: Results) -> str:
    """Describe the results of an experiment in one sentence."""
    best = results.best
    counts = Counter(trial.state for trial in results.trials)
    states = ", ".join(f"{counts[state]} {state}" for state in get_args(State) if counts[state])
    found = f"; best is trial {best.setting.number}, loss {best.score['loss']:.4f}" if best is not None else ""
    return f"{counted(len(results.trials), 'trial')} in {duration(results.seconds)}: {states}{found}"


def rows_of(results: Results) -> list[dict[str, Any]]:
    """Return a table row for each trial: finished trials by loss, then all others, those with the most steps first."""
    order = sorted(results.trials, key=_rank)
    return [
        {
            "trial": trial.setting.number,
            **trial.setting.values,
            "state": f"stopped at step {trial.steps}" if trial.state == "stopped" else trial.state,
            "loss": f"{trial.score['loss']:.4f}" if trial.score else "",
            "95 % interval": f"{trial.score['low']:.3f} to {trial.score['high']:.3f}" if trial.score else "",
            "above the best": "{:.4f} ({:.4f} to {:.4f})".format(*trial.behind) if trial.behind else "",
            "time": duration(trial.seconds) if trial.artifacts else "",
            "memory": f"{trial.peak_memory_bytes / GIB:.2f} GiB" if trial.artifacts else "",
            "artifact": short(trial.artifacts[-1].digest) if trial.artifacts else "",
        }
        for trial in order
    ]


def _rank(trial: Trial) -> tuple[bool, int, float]:
    is_finished = trial.state == "finished"
    return not is_finished, 0 if is_finished else -(trial.steps or 0), trial.score.get("loss", math.inf)


def diff_of(settings: Settings, results: Results) -> str:
    """Return the diff from the line's recipe to the best trial's recipe. The diff is empty if no trial has finished."""
    if (best := results.best) is None:
        return ""
    return recipe_diff(settings.data / "lines" / f"{best.setting.line.line}.yaml", best.setting)


def write_page(settings: Settings, described: Experiment, results: Results, diff: str) -> Path:
    """Write the page with the results and a plot, and return its path."""
    directory = settings.home / "experiments" / described.experiment
    measured = [
        {
            **trial.setting.values,
            **trial.score,
            "state": trial.state,
            "seconds": trial.seconds,
            "memory, GiB": trial.peak_memory_bytes / GIB,
        }
        for trial in results.trials
        if trial.score
    ]
    png = experiment_png(measured, [*described.vary, "seconds", "memory, GiB"])
    write_atomically(directory / PICTURE_FILE, png)
    rows = rows_of(results)
    cells = ["".join(f"<td>{html.escape(str(cell))}</td>" for cell in row.values()) for row in rows]
    title = html.escape(f"Experiment {described.experiment} on {described.line}")
    style = (Path(pages.__file__).parent / "page.css").read_text(encoding="utf-8")
    body = [
        f"<h1>{title}</h1><p>{html.escape(results.classification)}. {html.escape(summary_of(results))}.</p>",
        f"<p>{html.escape(READING)}</p>",
        f"<table><tr>{''.join(f'<th>{html.escape(name)}</th>' for name in rows[0])}</tr>",
        *(f"<tr>{each}</tr>" for each in cells),
        f'</table><p><img alt="Loss over each key" src="data:image/png;base64,{base64.b64encode(png).decode()}"></p>',
        f"<h2>Changes to the recipe for the best trial</h2><pre>{html.escape(diff)}</pre>" if diff else "",
    ]
    head = f"<meta charset=utf-8><title>{title}</title><style>{style}</style>"
    page = f"<!doctype html><html lang=en><head>{head}</head><body><main>{''.join(body)}</main></body></html>\n"
    write_atomically(directory / PAGE_FILE, page)
    return directory / PAGE_FILE
