"""The Dagster instance of this installation; its home is `$SOVEREIGN_HOME/dagster`.

What belongs here: finding it. What does not: how it stores and limits runs (`dagster.yaml`).
"""

import os
import shutil

import dagster as dg

from sovereign_pipeline.base.settings import PROJECT_ROOT, Settings, go_offline


def prepare_dagster_home(settings: Settings) -> None:
    """Put `dagster.yaml` in place, and set the variables that this process and its children read."""
    settings.dagster_home.mkdir(parents=True, exist_ok=True)
    shutil.copyfile(PROJECT_ROOT / "dagster.yaml", settings.dagster_home / "dagster.yaml")
    os.environ.update({"DAGSTER_HOME": str(settings.dagster_home), **settings.to_environment()})
    go_offline()


def open_instance(settings: Settings) -> dg.DagsterInstance:
    prepare_dagster_home(settings)
    return dg.DagsterInstance.get()
