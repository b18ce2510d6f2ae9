"""Running the trainer's process from an asset, through Dagster Pipes, so that its progress streams into the run's log.

How the process is started, watched and killed is `training/launcher.py`; only the Pipes session is added here.
"""

from pathlib import Path

import dagster as dg

from sovereign_pipeline.artifacts.stage import Launch
from sovereign_pipeline.training.launcher import run_trainer


def launch_with_pipes(context: dg.AssetExecutionContext) -> Launch:
    """A launcher whose child reports to this step."""

    def launch(job: Path) -> None:
        with dg.open_pipes_session(
            context=context,
            context_injector=dg.PipesTempFileContextInjector(),
            message_reader=dg.PipesTempFileMessageReader(),
        ) as session:
            run_trainer(job, context.log.info, session.get_bootstrap_env_vars())

    return launch
