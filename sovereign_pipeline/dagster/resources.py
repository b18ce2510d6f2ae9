"""Define Dagster's resources, instance and partitions, and launch the trainer from an asset. No resource has a run
configuration, so that nobody can change a line's rules in Dagster's launchpad."""

import datetime
import os
from collections.abc import Callable, Mapping
from pathlib import Path

import dagster as dg
from sqlalchemy import NullPool, create_engine, select
from sqlalchemy.exc import DBAPIError

from sovereign_pipeline.base.errors import InputError, NotFoundError, SovereignError, StaleInput
from sovereign_pipeline.base.files import keyed_digest, read_secret, short, write_atomically
from sovereign_pipeline.base.settings import VARIABLES, Settings, go_offline
from sovereign_pipeline.policy.experiment import experiment_names
from sovereign_pipeline.policy.institution import Here, Kubernetes, Ray, Slurm, load_institution
from sovereign_pipeline.policy.line import line_names
from sovereign_pipeline.record.database import claim_for_home, is_on_postgresql, name_of_home, open_registry, place_of
from sovereign_pipeline.record.manifest import ArtifactRef
from sovereign_pipeline.record.sealing import open_store
from sovereign_pipeline.record.stage import Launch
from sovereign_pipeline.record.store import ArtifactStore
from sovereign_pipeline.record.tables import Adapter
from sovereign_pipeline.training.job import KEY_VARIABLE, TrainingJob
from sovereign_pipeline.training.kubernetes_jobs import run_trainer_on_kubernetes
from sovereign_pipeline.training.launcher import run_trainer
from sovereign_pipeline.training.ray_jobs import run_trainer_on_ray
from sovereign_pipeline.training.slurm import run_trainer_on_slurm

Clock = Callable[[], datetime.datetime]
"""Function that returns the current time in UTC."""

DATA_VERSION_TAG = "dagster/data_version"
"""Dagster's tag of a materialization, which contains the artifact's digest."""

NO_CONFIGURATION: dict[str, dg.Field] = {}
"""Configuration schema that rejects every key. Dagster accepts any key for a resource without a schema."""


class References(dg.IOManager):
    """An IO manager that passes references to artifacts between assets, instead of data.

    Storing a reference also makes the artifact the line's current artifact of its kind. The run writes the artifact's
    digest to Dagster's event log. Loading a reference fails if the digest of the current artifact in the store differs
    from the logged digest. A stage that reads the artifact verifies every byte.
    """

    def __init__(self, settings: Settings) -> None:
        self._store = open_store(settings)

    def handle_output(self, context: dg.OutputContext, obj: ArtifactRef) -> None:
        self._store.make_current(context.partition_key, context.asset_key.path[-1], obj)

    def load_input(self, context: dg.InputContext) -> ArtifactRef:
        try:
            return materialized(self._store, context.instance, context.asset_key.path[-1], context.partition_key)
        except SovereignError as error:
            raise _failure(error) from error


def materialized(store: ArtifactStore, instance: dg.DagsterInstance, kind: str, line: str) -> ArtifactRef:
    """Return the line's current artifact of a kind. Raises NotFoundError if the line has no such artifact, and
    StaleInput if the artifact's digest differs from the last materialization's."""
    ref = store.current(line, kind)
    if ref is None:
        raise NotFoundError(f"Line {line} has no {kind} yet.", f"Materialize {kind} first.")
    if not is_the_materialized_one(instance, kind, line, ref):
        raise StaleInput(
            f"Line {line}: the store's current {kind} is {short(ref.digest)}, but Dagster's last materialization is "
            "a different artifact.",
            f"Find out who changed the store. Then materialize {kind} again.",
        )
    return ref


def is_the_materialized_one(instance: dg.DagsterInstance, kind: str, line: str, ref: ArtifactRef) -> bool:
    """Return True if an artifact is the asset's last materialization, or if Dagster has no materialization of the
    asset."""
    latest = instance.get_latest_data_version_record(dg.AssetKey(kind), partition_key=line)
    if latest is None:
        return True
    event = latest.asset_materialization
    return event is not None and (event.tags or {}).get(DATA_VERSION_TAG) == ref.digest


def _now() -> datetime.datetime:
    return datetime.datetime.now(datetime.UTC)


def _failure(error: SovereignError) -> dg.Failure:
    return dg.Failure(str(error), allow_retries=False)


def resources(settings: Settings | None = None, clock: Clock | None = None) -> dict[str, dg.ResourceDefinition]:
    """Return a mapping of name to resource.

    Args:
        settings: settings of the installation. None reads them from the environment of the process that runs the step.
        clock: function that returns the current time. None uses the system clock.
    """

    def installation(_: dg.InitResourceContext) -> Settings:
        return settings or Settings.from_environment()

    def references(context: dg.InitResourceContext) -> References:
        return References(context.resources.installation)

    def time(_: dg.InitResourceContext) -> Clock:
        return clock or _now

    return {
        "clock": dg.ResourceDefinition(time, config_schema=NO_CONFIGURATION),
        "installation": dg.ResourceDefinition(installation, config_schema=NO_CONFIGURATION),
        "references": dg.IOManagerDefinition(
            references, config_schema=NO_CONFIGURATION, required_resource_keys={"installation"}
        ),
    }


STORAGE = f"\nstorage: {{postgres: {{postgres_url: {{env: {VARIABLES['dagster_url']}}}}}}}\n"
HOME_IN_DAGSTER = "sovereign-home"
"""Key of the Dagster cursor that contains the path of SOVEREIGN_HOME and the host's name."""


def open_instance(settings: Settings) -> dg.DagsterInstance:
    """Write `dagster.yaml`, set the variables for this process and its children, and open Dagster's instance.

    Raises InputError if the configured URL of Dagster's database is not a PostgreSQL URL or is also that of MLflow's
    database, or if the database cannot be opened. Raises ConflictError if another SOVEREIGN_HOME or another program
    uses the database.
    """
    variable = VARIABLES["dagster_url"]
    if settings.dagster_url is not None and not is_on_postgresql(settings.dagster_url):
        raise InputError(
            f"{variable} is not the URL of a PostgreSQL database.", "Write postgresql://ROLE:PASSWORD@HOST/DATABASE."
        )
    if settings.dagster_url is not None and place_of(settings.dagster_url) == place_of(settings.mlflow_url):
        raise InputError(
            f"{variable} and {VARIABLES['mlflow_url']} name the same database, but both programs have a table `runs`.",
            "Use two databases. They may be on the same server.",
        )
    content = Path(__file__).with_name("dagster.yaml").read_text(encoding="utf-8")
    content += STORAGE if settings.dagster_url is not None else ""
    write_atomically(settings.dagster_home / "dagster.yaml", content)
    os.environ.update({"DAGSTER_HOME": str(settings.dagster_home), **settings.to_environment()})
    go_offline()
    if settings.dagster_url is None:
        return dg.DagsterInstance.get()
    try:
        with create_engine(settings.dagster_url, poolclass=NullPool).connect():  # fails at once; Dagster would retry
            instance = dg.DagsterInstance.get()
        home, runs = instance.run_storage.get_cursor_values({HOME_IN_DAGSTER}), instance.get_runs_count()
    except (DBAPIError, ImportError) as error:  # a message may quote the URL, with its password
        raise InputError(
            f"{variable}: Dagster's database cannot be opened ({type(error).__name__}).",
            "Check the URL and the rights of its role. Check that the server is running, and that dagster-postgres is "
            "installed (the extra `postgresql`).",
        ) from None
    claim_for_home(settings, variable, home.get(HOME_IN_DAGSTER), is_used=runs > 0)
    instance.run_storage.set_cursor_values({HOME_IN_DAGSTER: name_of_home(settings)})
    return instance


LINES = dg.DynamicPartitionsDefinition(name="line")
EXPERIMENTS = dg.DynamicPartitionsDefinition(name="experiment")


def register_lines(instance: dg.DagsterInstance, settings: Settings) -> list[str]:
    """Add every line that has a recipe to the instance's partitions, and return the new names. Remove the partition of
    each line without a recipe, unless the line has a registered adapter."""
    known, there = set(instance.get_dynamic_partitions("line")), line_names(settings.data)
    if gone := known - {*there}:
        with open_registry(settings).reading() as session:
            gone -= {*session.scalars(select(Adapter.line).distinct())}
    for name in gone:
        instance.delete_dynamic_partition("line", name)
    new = [name for name in there if name not in known]
    if new:
        instance.add_dynamic_partitions("line", new)
    return new


def register_experiments(instance: dg.DagsterInstance, settings: Settings) -> None:
    """Add every experiment that has a file to the instance's partitions. Remove the partitions of all other
    experiments."""
    known, there = set(instance.get_dynamic_partitions("experiment")), experiment_names(settings.data)
    for name in known - {*there}:
        instance.delete_dynamic_partition("experiment", name)
    if new := [name for name in there if name not in known]:
        instance.add_dynamic_partitions("experiment", new)


def launch_with_pipes(context: dg.AssetExecutionContext, settings: Settings) -> Launch:
    """Return a launcher that runs the trainer at the place that `institution.yaml` sets. The trainer reports its
    progress to this step."""

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
    """Return the key that authenticates a training's checkpoints, as 64 hex digits. The key is derived from the
    training's identity."""
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
    """Run the trainer on Ray. The Pipes files are in the directory of the job file, on a volume that this machine and
    the Ray cluster share."""
    with dg.open_pipes_session(
        context=context,
        context_injector=dg.PipesFileContextInjector(str(job.parent / "pipes-context.json")),
        message_reader=dg.PipesFileMessageReader(str(job.parent / "pipes-messages.jsonl")),
    ) as session:
        given = {**environment, **session.get_bootstrap_env_vars()}
        run_trainer_on_ray(job, place, context.log.info, given, settings.secret_directories)
