"""Launch the trainer from an asset: as a local process or Ray job through Dagster Pipes, or as a Slurm or Kubernetes
job."""

from collections.abc import Mapping
from pathlib import Path

import dagster as dg

from sovereign_pipeline.base.files import keyed_digest, read_secret
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.policy.institution import Here, Kubernetes, Ray, Slurm, load_institution
from sovereign_pipeline.record.stage import Launch
from sovereign_pipeline.training.here import run_trainer
from sovereign_pipeline.training.job import KEY_VARIABLE, TrainingJob
from sovereign_pipeline.training.kubernetes_jobs import run_trainer_on_kubernetes
from sovereign_pipeline.training.ray_jobs import run_trainer_on_ray
from sovereign_pipeline.training.slurm import run_trainer_on_slurm


def launch_with_pipes(context: dg.AssetExecutionContext, settings: Settings) -> Launch:
    """Return a launcher that runs the trainer where `institution.yaml` says. The trainer reports to this step."""

    def run(job: Path) -> None:
        key = key_of_marks(settings, job)
        environment = {KEY_VARIABLE: key}
        match load_institution(settings.data).trainer:
            case Here():
                _run_here(context, job, environment)
            case Kubernetes() as place:
                run_trainer_on_kubernetes(job, place, settings, context.log.info, key)
            case Ray() as place:
                _run_on_ray(context, place, settings, job, environment)
            case Slurm() as place:
                run_trainer_on_slurm(job, place, settings, context.log.info, key)

    return run


def key_of_marks(settings: Settings, job: Path) -> str:
    """Return the key that authenticates the checkpoints of a training, 64 hex digits. It depends on the training's
    identity."""
    identity = TrainingJob.read(job).identity
    return keyed_digest(read_secret(settings.caches_key), "trainer", identity.encode()).hex()


def _run_here(context: dg.AssetExecutionContext, job: Path, environment: Mapping[str, str]) -> None:
    with dg.open_pipes_session(
        context=context,
        context_injector=dg.PipesTempFileContextInjector(),
        message_reader=dg.PipesTempFileMessageReader(),
    ) as session:
        run_trainer(job, context.log.info, {**environment, **session.get_bootstrap_env_vars()})


def _run_on_ray(
    context: dg.AssetExecutionContext, place: Ray, settings: Settings, job: Path, environment: Mapping[str, str]
) -> None:
    """Run the trainer on Ray. The Pipes files are in the directory of the job file, on a volume that both machines
    share."""
    with dg.open_pipes_session(
        context=context,
        context_injector=dg.PipesFileContextInjector(str(job.parent / "pipes-context.json")),
        message_reader=dg.PipesFileMessageReader(str(job.parent / "pipes-messages.jsonl")),
    ) as session:
        given = {**environment, **session.get_bootstrap_env_vars()}
        run_trainer_on_ray(job, place, context.log.info, given, settings.secret_directories)
