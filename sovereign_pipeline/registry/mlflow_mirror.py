"""Mirror registered adapters and their states in MLflow, and report or repair differences."""

import datetime
import json
import re
from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from itertools import groupby
from pathlib import Path
from typing import Any, NamedTuple

from sqlalchemy import create_engine, event, select, text
from sqlalchemy.exc import SQLAlchemyError
from sqlalchemy.orm import Session

from sovereign_pipeline.base.errors import NotFoundError
from sovereign_pipeline.base.files import canonical_json, held, short
from sovereign_pipeline.base.processes import account
from sovereign_pipeline.base.settings import VARIABLES, Settings, go_offline
from sovereign_pipeline.evaluation.records import REPORT_PAGE
from sovereign_pipeline.evaluation.stages import EVALUATION_REPORT
from sovereign_pipeline.record.audit_log import append
from sovereign_pipeline.record.catalog import State, adapters_of, states
from sovereign_pipeline.record.database import Registry, claim_for_home, is_on_postgresql, name_of_home, parsed_url
from sovereign_pipeline.record.officers import People
from sovereign_pipeline.record.sealing import open_store
from sovereign_pipeline.record.store import Artifact, ArtifactStore, lineage
from sovereign_pipeline.record.tables import Adapter, numbers_of, row_as_dict
from sovereign_pipeline.registry.record import numbers_in
from sovereign_pipeline.training.report import TRAINING_LOG_FILE

LATEST = "latest-registered"
NOTE = "mlflow.note.content"
"""Tag that MLflow displays as a run's description, in Markdown."""
KIND = {"mlflow.experimentKind": "custom_model_development"}
"""Tag that makes MLflow open the experiment on its list of runs."""
MIRRORED = "sovereign.mirrored"
"""Tag of a run or model version. Its value is the digest of the mirrored artifact."""
FIRST_EXPERIMENT, HOME = "0", "sovereign.home"
"""MLflow's default experiment, and the experiment's tag whose value is the name of the SOVEREIGN_HOME that uses the
database."""
METRICS_IN_A_BATCH, PARAMS_IN_A_BATCH, LONGEST_PARAM = 1000, 100, 6000
"""MLflow's limits: number of metrics in a batch, of parameters in a batch, and of characters in a parameter."""
HEADLINES = ("candidate", "difference")
"""Numbers of a criterion that are logged as metrics. All other numbers are only in the evaluation report."""


def mirror_training(settings: Settings, adapter: Artifact) -> str:
    """Log the training of an adapter, or a trial of an experiment, as a run in MLflow's experiment for the line.
    Returns the run's id.

    Metrics: every number of the training log by step, the measurements in the manifest, and a trial's loss on the
    selection side. Parameters: the recipe keys that the stage reads. Tags: line, stage, classification,
    digests and library versions.
    """
    manifest = adapter.manifest

    def points() -> Iterator[tuple[str, float, int]]:
        yield from _curve(adapter.file(TRAINING_LOG_FILE))
        yield from ((f"measured.{name}", value, 0) for name, value in manifest.circumstances.measured.items())
        yield from ((f"selection.{name}", value, 0) for name, value in manifest.summary.get("selection", {}).items())

    libraries = {f"library.{name}": version for name, version in manifest.producer.libraries.items()}
    return _mirror(settings, adapter, {"manifest_sha256": adapter.ref.manifest_sha256, **libraries}, points())


def mirror_evaluation(settings: Settings, report: Artifact) -> str:
    """Log an evaluation report as a run in its line's experiment, regardless of the outcome. Returns the run's id.

    Metrics: for each criterion, the candidate's value and its difference from the value of the compared model. Tags:
    line, stage, classification, digests and outcome. The description links to the report.
    """
    manifest = report.manifest
    note = _report_link(settings, report.ref.digest, manifest.classification)
    tags = {"outcome": str(manifest.summary["outcome"]), NOTE: note}
    return _mirror(settings, report, tags, _headlines(manifest.summary))


def _mirror(
    settings: Settings, artifact: Artifact, tags: Mapping[str, str], points: Iterable[tuple[str, float, int]]
) -> str:
    """Log an artifact as a run in its line's experiment, unless a finished run mirrors it. Returns the run's id."""
    manifest, digest = artifact.manifest, artifact.ref.digest
    created_at = datetime.datetime.fromisoformat(manifest.circumstances.created_at)
    every = {
        "line": manifest.line,
        "stage": manifest.kind,
        "artifact_digest": digest,
        "classification": manifest.classification,
        **{f"input.{kind}": of_input for kind, of_input in manifest.inputs.items()},
        **tags,
    }
    with mirrored(settings) as client:
        experiment = _experiment(client, settings, manifest.line)
        if (done := _finished_run(client, experiment, digest)) is not None:
            return done
        with _run(client, experiment, manifest.kind, digest, every, created_at) as run_id:
            _log_params(client, run_id, manifest.producer.config)
            _log_metrics(client, run_id, points)
            return run_id


def mirror_adapter(settings: Settings, store: ArtifactStore, adapter: Adapter) -> str:
    """Add a registered adapter as a version of the MLflow model that is named after the line, unless the version
    exists. The highest version gets the alias `LATEST`. Returns MLflow's version number.

    Tags: the columns of the adapter's row. Source: the adapter's artifact. The version's run in MLflow has the recipe
    as parameters, and a link to the evaluation report.
    """
    from mlflow.exceptions import MlflowException

    record = store.read_manifest(adapter.record_ref)
    report, source = record.inputs[EVALUATION_REPORT.kind], store.path_of(adapter.adapter_digest)
    with mirrored(settings) as client:
        experiment = _experiment(client, settings, adapter.line)
        run_id = _finished_run(client, experiment, adapter.record_digest)
        if run_id is None:
            note = _report_link(settings, report, adapter.classification)
            tags = {"line": adapter.line, "stage": "registered_adapter", "adapter": adapter.id, NOTE: note}
            recipe = {manifest.kind: manifest.producer.config for _, manifest in lineage(store, record)}
            with _run(client, experiment, adapter.id, adapter.record_digest, tags, adapter.registered_at) as run_id:
                _log_params(client, run_id, recipe)
                _log_metrics(client, run_id, _headlines(adapter.evaluation))
        try:
            client.get_registered_model(adapter.line)
        except MlflowException as error:
            if error.error_code != "RESOURCE_DOES_NOT_EXIST":
                raise
            client.create_registered_model(adapter.line)
        versions = list(client.search_model_versions(f"name = '{adapter.line}'"))
        version = next((each for each in versions if each.tags.get(MIRRORED) == adapter.record_digest), None)
        if version is None:
            version = client.create_model_version(
                name=adapter.line,
                source=source.as_uri(),
                run_id=run_id,
                tags={MIRRORED: adapter.record_digest, **tags_of(adapter)},
                description=f"{adapter.id}, {adapter.classification}. The registry is the authority; this is a view.",
            )
        number = int(version.version)
        if number >= max((int(each.version) for each in versions), default=number):
            client.set_registered_model_alias(adapter.line, LATEST, str(number))
        return str(number)


def tags_of(adapter: Adapter) -> dict[str, str]:
    """Return every column of the adapter's row as a tag, with values other than text as JSON."""
    return {
        name: value if isinstance(value, str) else canonical_json(value).decode()
        for name, value in row_as_dict(adapter).items()
    }


def _report_link(settings: Settings, digest: str, level: str) -> str:
    return f"[Evaluation report]({settings.pages_url}/{digest}/{REPORT_PAGE}), {level}"


def _headlines(summary: Mapping[str, Any]) -> list[tuple[str, float, int]]:
    """Return name, value and step of each criterion's headline metrics."""
    held: Mapping[str, Mapping[str, float]] = summary.get("held", {})
    return [
        (f"{name.replace(',', '')}: {figure}", values[figure], 0)
        for name, values in held.items()
        for figure in HEADLINES
    ]


@contextmanager
def mirrored(settings: Settings) -> Iterator[Any]:
    """Open MLflow's client under a lock. Without the lock, two processes could mirror the same artifact twice."""
    go_offline()
    root = settings.home / "mlflow"
    root.mkdir(parents=True, exist_ok=True)
    with held(root / ".lock"):
        from mlflow import MlflowClient

        _create_database(settings.mlflow_url)
        client = MlflowClient(tracking_uri=settings.mlflow_url, registry_uri=settings.mlflow_url)
        if is_on_postgresql(settings.mlflow_url):
            _claim(client, settings)
        yield client


def _claim(client: Any, settings: Settings) -> None:
    """Write the name of SOVEREIGN_HOME into the database. Raises ConflictError if the database has the name of a
    different SOVEREIGN_HOME, or has models but no such name."""
    first = client.get_experiment(FIRST_EXPERIMENT)
    is_used = bool(client.search_registered_models(max_results=1))
    claim_for_home(settings, VARIABLES["mlflow_url"], first.tags.get(HOME), is_used=is_used)
    if HOME not in first.tags:
        client.set_experiment_tag(FIRST_EXPERIMENT, HOME, name_of_home(settings))


def _create_database(mlflow_url: str) -> None:
    """Create a new SQLite database under a temporary name and rename it into place.

    MLflow flushes each of its migrations to disk. A temporary database needs no flushing, which halves the time of the
    first use. A killed process leaves no incomplete database.
    """
    url = parsed_url(VARIABLES["mlflow_url"], mlflow_url)
    if url.get_backend_name() != "sqlite" or not url.database or Path(url.database).exists():
        return
    from mlflow.store.db.utils import _initialize_tables

    target = Path(url.database)
    aside = target.with_name(f"{target.name}.new")
    aside.unlink(missing_ok=True)
    engine = create_engine(url.set(database=str(aside)))

    @event.listens_for(engine, "connect")
    def _without_flushing(connection: Any, record: Any) -> None:
        connection.execute("PRAGMA journal_mode=MEMORY")
        connection.execute("PRAGMA synchronous=OFF")

    _initialize_tables(engine)
    engine.dispose()
    aside.replace(target)


def _experiment(client: Any, settings: Settings, line: str) -> str:
    found = client.get_experiment_by_name(line)
    if found is not None:
        return str(found.experiment_id)
    location = settings.home / "mlflow" / "artifacts" / line
    return str(client.create_experiment(line, artifact_location=location.as_uri(), tags=KIND))


def _finished_run(client: Any, experiment: str, digest: str) -> str | None:
    """Return the finished run that mirrors this digest, or None. Deletes unfinished runs that a killed process left."""
    finished = None
    for run in client.search_runs([experiment], filter_string=f"tags.`{MIRRORED}` = '{digest}'"):
        if run.info.status == "FINISHED":
            finished = str(run.info.run_id)
        else:
            client.delete_run(run.info.run_id)
    return finished


@contextmanager
def _run(
    client: Any, experiment: str, name: str, digest: str, tags: Mapping[str, str], created_at: datetime.datetime
) -> Iterator[str]:
    started = int(created_at.timestamp() * 1000)
    run = client.create_run(experiment, start_time=started, run_name=name, tags={MIRRORED: digest, **tags})
    yield run.info.run_id
    client.set_terminated(run.info.run_id, "FINISHED")


def _curve(training_log: Path) -> Iterator[tuple[str, float, int]]:
    """Yield metric, value and step of every number in the training log."""
    with training_log.open(encoding="utf-8") as stream:
        for number, line in enumerate(stream, start=1):
            row = json.loads(line)
            step = int(row.get("step", number))
            for name, value in numbers_in({name: value for name, value in row.items() if name != "step"}):
                yield name, value, step


def _log_params(client: Any, run_id: str, config: Mapping[str, Any]) -> None:
    from mlflow.entities import Param

    texts = (
        (key, value if isinstance(value, str) else json.dumps(value, ensure_ascii=False))
        for key, value in _leaves("", config)
    )
    params = [Param(_name(key), value[:LONGEST_PARAM]) for key, value in texts]
    for start in range(0, len(params), PARAMS_IN_A_BATCH):
        client.log_batch(run_id, params=params[start : start + PARAMS_IN_A_BATCH])


def _log_metrics(client: Any, run_id: str, points: Iterable[tuple[str, float, int]]) -> None:
    from mlflow.entities import Metric

    now = int(datetime.datetime.now(datetime.UTC).timestamp() * 1000)
    metrics = [Metric(_name(name), value, now, step) for name, value, step in points]
    for start in range(0, len(metrics), METRICS_IN_A_BATCH):
        client.log_batch(run_id, metrics=metrics[start : start + METRICS_IN_A_BATCH])


def _leaves(prefix: str, config: Mapping[str, Any]) -> Iterator[tuple[str, Any]]:
    for key, value in config.items():
        name = f"{prefix}.{key}" if prefix else key
        if isinstance(value, Mapping):
            yield from _leaves(name, value)
        else:
            yield name, value


def _name(name: str) -> str:
    """Replace each character that MLflow rejects in the name of a metric or parameter."""
    return re.sub(r"[^\w.\-/ :]", "_", name)


REPAIRED = "mlflow repaired"
ALIASES: Mapping[str, frozenset[State]] = {
    "candidate": frozenset({"registered", "in review", "approved"}),
    "staging": frozenset({"staged"}),
    "production": frozenset({"production"}),
}
"""Maps each alias to states. The newest version whose adapter is in one of these states gets the alias."""

_QUERY = """
SELECT v.name, v.version, v.source, mirrored.value, named.value, a.alias
FROM model_versions v
LEFT JOIN model_version_tags mirrored ON mirrored.workspace = v.workspace AND mirrored.name = v.name
    AND mirrored.version = v.version AND mirrored.key = :mirrored
LEFT JOIN model_version_tags named ON named.workspace = v.workspace AND named.name = v.name
    AND named.version = v.version AND named.key = 'id'
LEFT JOIN registered_model_aliases a ON a.workspace = v.workspace AND a.name = v.name AND a.version = v.version
WHERE v.current_stage IS NULL OR v.current_stage <> 'Deleted_Internal'
ORDER BY v.name, v.version
"""


@dataclass(frozen=True)
class Version:
    """A version of a model in MLflow."""

    model: str
    number: int
    source: str | None
    record: str | None
    """Digest of the adapter record that the version mirrors, from the version's tag."""
    adapter: str | None
    """Id of the adapter, from the version's tag."""
    aliases: frozenset[str]


@dataclass(frozen=True)
class Difference:
    line: str
    what: str
    wrong: Version | None = None
    """The version that mirrors an adapter wrongly or a second time, or mirrors no adapter. None if the difference is a
    missing version or an alias."""

    def __str__(self) -> str:
        return f"line {self.line}: {self.what}"


def differences(registry: Registry, settings: Settings, line: str | None = None) -> list[Difference]:
    """List each difference in name, version, source, digest or alias between MLflow and the registry. Changes nothing.
    Raises NotFoundError if MLflow's database cannot be read.

    Args:
        line: the line to compare; all lines if None.
    """
    store = open_store(settings, registry=registry)
    with registry.reading() as session:
        adapters, state = _registered(session, line), states(session, line)
    versions = defaultdict[str, list[Version]](list)
    for version in _versions(settings) if adapters else ():
        versions[version.model].append(version)
    found: list[Difference] = []
    for each, of_line in adapters.items():
        found += _differences_of(each, of_line, state, versions.pop(each, []), store)
    records = {adapter.record_digest for of_line in adapters.values() for adapter in of_line}
    if line is None:
        found += [
            Difference(v.model, f"version {v.number} of a model that is not a line has the id {v.adapter}", v)
            for others in versions.values()
            for v in others
            if v.record in records or v.adapter is not None
        ]
    return found


def follow(registry: Registry, settings: Settings, line: str) -> None:
    """Set a line's aliases in MLflow to match the registry's states. Does nothing if the line has no version."""
    if not _is_there(settings):
        return
    with registry.reading() as session:
        expected = expected_aliases(_registered(session, line).get(line, ()), states(session, line))
    with mirrored(settings) as client:
        by_record = {
            version.tags.get(MIRRORED): str(version.version)
            for version in client.search_model_versions(f"name = '{line}'")
        }
        if not by_record:
            return
        current = {name: str(number) for name, number in client.get_registered_model(line).aliases.items()}
        for alias in (*ALIASES, LATEST):
            adapter = expected.get(alias)
            number = by_record.get(adapter.record_digest) if adapter is not None else None
            if number is not None and current.get(alias) != number:
                client.set_registered_model_alias(line, alias, number)
            elif number is None and alias in current:
                client.delete_registered_model_alias(line, alias)


def follow_after_act(registry: Registry, settings: Settings, line: str, tell: Callable[[str], None]) -> str | None:
    """Run `follow` after a signed act was committed. A failure is reported through `tell` and does not undo the act.
    Returns the failure message, or None."""
    try:
        follow(registry, settings, line)
    except Exception as error:  # any error of MLflow, its database or its disk
        failed = f"MLflow does not show the state of line {line} yet ({type(error).__name__}); the act is logged"
        tell(f"{failed}. `sovereign adapters mlflow --repair` corrects MLflow.")
        return failed
    return None


def repair(registry: Registry, settings: Settings) -> list[Difference]:
    """Correct MLflow's entries that differ from the registry, and log the repair in the ledger. Returns the differences
    that remain: entries that someone else added to MLflow."""
    found = differences(registry, settings) if _is_there(settings) else []
    store = open_store(settings, registry=registry)
    with registry.reading() as session:
        lines = session.scalars(select(Adapter.line).distinct().order_by(Adapter.line))
        adapters = {each: adapters_of(session, each) for each in lines}
    with mirrored(settings) as client:
        for each in found:
            if each.wrong is not None and each.wrong.record is not None:
                client.delete_model_version(each.wrong.model, str(each.wrong.number))
    for line, of_line in adapters.items():
        for adapter in sorted(of_line, key=lambda adapter: adapter.version_numbers):
            mirror_adapter(settings, store, adapter)
        follow(registry, settings, line)
    if found:
        with registry.writing() as session:
            # MLflow has no sign-in: anyone can put any text into its names, sources and tags.
            repaired = {
                "lines": sorted({each.line for each in found if each.line in adapters}),
                "differences": len(found),
            }
            append(session, People(settings).commitment_of(account()), REPAIRED, repaired)
    return differences(registry, settings)


class Registered(NamedTuple):
    """The registry columns of an adapter that the adapter's version in MLflow must match."""

    id: str
    version: str
    adapter_digest: str
    record_digest: str


def expected_aliases(adapters: Sequence[Registered], state: Mapping[str, State]) -> dict[str, Registered]:
    """Return a mapping of alias to the adapter that should have the alias. Omits an alias that no adapter should
    have."""
    ordered = sorted(adapters, key=lambda adapter: numbers_of(adapter.version))
    found = {alias: each for alias, of in ALIASES.items() for each in ordered if state[each.id] in of}
    return found | ({LATEST: ordered[-1]} if ordered else {})


def _registered(session: Session, line: str | None) -> dict[str, list[Registered]]:
    """Return a mapping of line to the line's adapters, for one line or for all lines. Reads few columns, because
    loading a row's large values would take most of the time."""
    query = select(Adapter.line, Adapter.id, Adapter.version, Adapter.adapter_digest, Adapter.record_digest)
    found = defaultdict[str, list[Registered]](list)
    for each, *columns in session.execute(query if line is None else query.where(Adapter.line == line)):
        found[each].append(Registered(*columns))
    return {each: sorted(found[each]) for each in sorted(found)}


def _differences_of(
    line: str,
    adapters: Sequence[Registered],
    state: Mapping[str, State],
    versions: Sequence[Version],
    store: ArtifactStore,
) -> list[Difference]:
    found: list[Difference] = []
    by_record = defaultdict[str | None, list[Version]](list)
    for version in versions:
        by_record[version.record].append(version)
    shown: dict[str, Version] = {}
    for adapter in adapters:
        source = store.path_of(adapter.adapter_digest).as_uri()
        mirrors = by_record.pop(adapter.record_digest, [])
        for place, version in enumerate(sorted(mirrors, key=lambda v: (v.source, v.adapter) != (source, adapter.id))):
            shown.setdefault(adapter.id, version)
            where = f"version {version.number}, which mirrors {adapter.id},"
            if version.source != source:
                found.append(Difference(line, f"{where} leads to {version.source}, not to {source}", version))
            elif version.adapter != adapter.id:
                found.append(Difference(line, f"{where} has the id {version.adapter}", version))
            elif place > 0:
                found.append(Difference(line, f"{where} is a duplicate", version))
        if not mirrors:
            found.append(Difference(line, f"{adapter.id} has no version"))
    for record, others in by_record.items():
        for version in others:
            what = f"mirrors {short(record)}, which is not registered" if record is not None else "mirrors no adapter"
            found.append(Difference(line, f"version {version.number} {what}", version))
    has = {alias: version for version in versions for alias in version.aliases}
    expected = expected_aliases(adapters, state)
    for alias in (*ALIASES, LATEST):
        wanted = expected.get(alias)
        meant = shown.get(wanted.id) if wanted is not None else None
        if has.get(alias) != meant:
            now = f"is set to version {has[alias].number}" if alias in has else "is not set"
            should = f"should be set to {wanted.id}" if wanted is not None else "no adapter should have it"
            found.append(Difference(line, f"the alias {alias} {now}, but {should}"))
    return found


def _versions(settings: Settings) -> list[Version]:
    """Return all model versions in MLflow, with one SQL query, which is sixty times as fast as MLflow's own search.
    Raises NotFoundError if the database cannot be read."""
    if not _is_there(settings):
        return []
    engine = create_engine(settings.mlflow_url)
    try:
        with engine.connect() as connection:
            rows = connection.execute(text(_QUERY), {"mirrored": MIRRORED}).all()
    except SQLAlchemyError as error:
        raise NotFoundError(
            f"MLflow's database cannot be read ({type(error).__name__}).",
            "Check SOVEREIGN_MLFLOW_URL, and that the database is running.",
        ) from None
    finally:
        engine.dispose()
    found: list[Version] = []
    for (model, number, source, record, adapter), of_version in groupby(rows, key=lambda row: tuple(row[:5])):
        aliases = frozenset(row[5] for row in of_version if row[5] is not None)
        found.append(Version(model, number, source, record, adapter, aliases))
    return found


def _is_there(settings: Settings) -> bool:
    url = parsed_url(VARIABLES["mlflow_url"], settings.mlflow_url)
    return url.get_backend_name() != "sqlite" or Path(url.database or "").is_file()
