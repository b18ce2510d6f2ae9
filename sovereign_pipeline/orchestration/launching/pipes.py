"""Running the trainer's process from an asset, through Dagster Pipes, so that its progress streams into the run's log.

What belongs here: choosing the launcher that `institution.yaml` names, and its Pipes session. What does not: how a
process is started, watched and ended (`training/processes/`, and `kubernetes.py` for a pod).
"""

from pathlib import Path

import dagster as dg

from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.orchestration.launching.kubernetes import run_trainer_in_pod
from sovereign_pipeline.policy.institution import load_institution
from sovereign_pipeline.policy.trainer import Here, Kubernetes, Ray
from sovereign_pipeline.record.stage import Launch
from sovereign_pipeline.training.launcher import run_trainer, run_trainer_on_ray


def launch_with_pipes(context: dg.AssetExecutionContext, settings: Settings) -> Launch:
    """A launcher whose trainer reports to this step, wherever `institution.yaml` lets it run."""

    def launch(job: Path) -> None:
        match load_institution(settings.data).trainer:
            case Here():
                _run_here(context, job)
            case Kubernetes() as place:
                run_trainer_in_pod(context, place, settings.secret_directories, job)
            case Ray() as place:
                _run_on_ray(context, place, job)

    return launch


def _run_here(context: dg.AssetExecutionContext, job: Path) -> None:
    with dg.open_pipes_session(
        context=context,
        context_injector=dg.PipesTempFileContextInjector(),
        message_reader=dg.PipesTempFileMessageReader(),
    ) as session:
        run_trainer(job, context.log.info, session.get_bootstrap_env_vars())


def _run_on_ray(context: dg.AssetExecutionContext, place: Ray, job: Path) -> None:
    """Beside the job file, on the volume that both machines see."""
    with dg.open_pipes_session(
        context=context,
        context_injector=dg.PipesFileContextInjector(str(job.parent / "pipes-context.json")),
        message_reader=dg.PipesFileMessageReader(str(job.parent / "pipes-messages.jsonl")),
    ) as session:
        run_trainer_on_ray(job, place, context.log.info, session.get_bootstrap_env_vars())
