"""Define the jobs and sensors for a line's chain, for the results of closed reviews, and for due reviews."""

import json
import warnings
from collections import defaultdict
from collections.abc import Iterator

import dagster as dg

from sovereign_pipeline.base.errors import NotFoundError
from sovereign_pipeline.base.files import digest_of
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.dagster.chain import AFTER_PEOPLE, CHAIN
from sovereign_pipeline.dagster.resources import LINES, Clock, register_experiments, register_lines
from sovereign_pipeline.record.catalog import registered_as
from sovereign_pipeline.record.database import open_registry
from sovereign_pipeline.record.sealing import open_store
from sovereign_pipeline.registry.mlflow_mirror import differences
from sovereign_pipeline.release.cadence import Due, due_reviews
from sovereign_pipeline.review.acts import find_closed_of

DUE_CHECK = dg.AssetCheckKey(dg.AssetKey("registered_adapter"), "review_not_due")
"""Check whose result depends on the date. Runs of the chain omit this check, because it would need a separate
process."""

MLFLOW_CHECK = dg.AssetCheckKey(dg.AssetKey("registered_adapter"), "mlflow_follows")
"""Check whose result depends on adapters' states, which change between runs of the chain."""

CHAIN_JOB = dg.define_asset_job(
    name="chain",
    selection=dg.AssetSelection.assets(*(stage.kind for stage in CHAIN))
    - dg.AssetSelection.checks(DUE_CHECK, MLFLOW_CHECK),
    description="The whole chain of one line, from raw corpus to registered adapter. Unchanged artifacts are reused.",
)

REVIEW_JOB = dg.define_asset_job(
    name="closed_review",
    selection=dg.AssetSelection.assets(*(stage.kind for stage in AFTER_PEOPLE)),
    description="The result of a closed review. The sensor closed_reviews starts this job.",
)

DUE_JOB = dg.define_asset_job(
    name="due_review",
    selection=dg.AssetSelection.checks(DUE_CHECK, MLFLOW_CHECK),
    description="Checks whether the review of a line's adapter is due, and whether MLflow matches the registry. "
    "The sensor reviews_due starts this job when one of the results changes.",
)

ROLLOUT_JOB = dg.define_asset_job(
    name="rollout",
    selection=dg.AssetSelection.assets("staged_adapter", "production_adapter"),
    description="Writes the adapters that officers staged and promoted into the line's flag. The sensor rollouts "
    "starts this job.",
)

EXPERIMENT_JOB = dg.define_asset_job(
    name="experiments",
    selection=dg.AssetSelection.assets("experiment"),
    description="The trials of one experiment. Finished trials are reused, and no adapter is registered.",
)

EXECUTOR = dg.multiprocess_executor.configured(
    {
        "max_concurrent": 2,
        "start_method": {"forkserver": {"preload_modules": ["sovereign_pipeline.dagster.step_server"]}},
    }
)
"""Executor that runs each step in its own process, so that a step does not inherit the memory of earlier steps. Steps
are forked from a process that has already loaded the program, because loading takes longer than most steps."""


@dg.sensor(
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Creates a partition for every recipe in data/lines and every experiment in data/experiments, so that "
    "a new file appears without a restart. Removes the partition of a deleted file, unless its line has an adapter.",
)
def new_lines(context: dg.SensorEvaluationContext, installation: dg.ResourceParam[Settings]) -> dg.SkipReason:
    register_experiments(context.instance, installation)
    new = register_lines(context.instance, installation)
    return dg.SkipReason(f"New lines: {', '.join(new)}." if new else "No new line.")


@dg.sensor(
    job=REVIEW_JOB,
    minimum_interval_seconds=30,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Materializes blind_review of a line when a review of its current registered adapter is closed.",
)
def closed_reviews(
    context: dg.SensorEvaluationContext, installation: dg.ResourceParam[Settings]
) -> Iterator[dg.RunRequest | dg.SkipReason]:
    store, registry = open_store(installation), open_registry(installation)
    requests: list[dg.RunRequest | dg.SkipReason] = []
    with registry.reading():  # verifies the ledger once instead of for each line
        for line in context.instance.get_dynamic_partitions("line"):
            current = store.current(line, "registered_adapter")
            adapter = registered_as(registry, current.digest) if current is not None else None
            if current is None or adapter is None:
                continue
            for review, _ in find_closed_of(registry, line, adapter.adapter_sha256):
                requests.append(dg.RunRequest(f"review-{review.id}-{current.digest[:12]}", partition_key=line))
    yield from requests or [dg.SkipReason("No review of a current registered adapter is closed.")]


PERIOD_TAG = "sovereign/due_period"
"""Tag of a run that was started by a due review. The value is line and period, such as `permits-desk:2027-H1`."""


def run_of(instance: dg.DagsterInstance, due: Due) -> dg.DagsterRun | None:
    """Return the newest run that was started by this due review, or None."""
    if due.key is None:
        return None
    return next(iter(instance.get_runs(dg.RunsFilter(tags={PERIOD_TAG: due.key}), limit=1)), None)


def fate_of(run: dg.DagsterRun | None) -> str | None:
    """Describe the outcome of a due review's run for display. Return None if there is no run."""
    if run is None:
        return None
    told = {
        dg.DagsterRunStatus.SUCCESS: "succeeded and registered nothing new, so an officer must review the adapter",
        dg.DagsterRunStatus.FAILURE: "FAILED and is not repeated",
    }
    return f"run {run.run_id[:8]} of {run.tags[PERIOD_TAG]} {told.get(run.status, run.status.value.lower())}"


def in_words(due: Due, run: dg.DagsterRun | None) -> str:
    """Describe a due review: its date, its reason, and its run's outcome."""
    parts = [f"{due.adapter}: review {due.state}, by {due.on.isoformat()}"]
    parts += [f"{cause.event}: {cause.what}" for cause in due.causes]
    parts += [] if due.has_recipe else ["the line has no valid recipe, so nothing is run"]
    parts += [fate] if (fate := fate_of(run)) is not None else []
    return "; ".join(parts)


@dg.sensor(
    jobs=[CHAIN_JOB, DUE_JOB],
    minimum_interval_seconds=300,
    default_status=dg.DefaultSensorStatus.RUNNING,
    description="Shows due reviews on registered_adapter. Retrains a line once per review period if its recipe has "
    "`review: {retrain: true}`.",
)
def reviews_due(
    context: dg.SensorEvaluationContext, installation: dg.ResourceParam[Settings], clock: dg.ResourceParam[Clock]
) -> dg.SensorResult:
    known = set(context.instance.get_dynamic_partitions("line"))
    reviews = [
        due
        for due in due_reviews(open_registry(installation), installation, clock().date())
        if due.line in known  # otherwise another sensor creates the partition first
    ]
    shown: dict[str, str] = json.loads(context.cursor or "{}")
    in_mlflow = _in_mlflow(installation)
    told: dict[str, str] = {}
    requests: list[dg.RunRequest] = []
    for due in reviews:
        run = run_of(context.instance, due)
        told[due.line] = "; ".join([in_words(due, run), *in_mlflow.get(due.line, ())])
        if told[due.line] != shown.get(due.line):
            # A run evaluates the check, because Dagster accepts only one result without a run for each partition. The
            # run's partition is a tag, because a job without assets has no partitions.
            key = f"{DUE_CHECK.name}:{due.line}:{digest_of(told[due.line])[:12]}"
            requests.append(dg.RunRequest(key, job_name=DUE_JOB.name, tags={"dagster/partition": due.line}))
        if due.key is not None and due.retrain and run is None and not _is_running(context.instance, due.line):
            tags = {PERIOD_TAG: due.key}
            requests.append(dg.RunRequest(due.key, job_name=CHAIN_JOB.name, partition_key=due.line, tags=tags))
    pending = [told[due.line] for due in reviews if due.state != "not due"]
    return dg.SensorResult(
        run_requests=requests,
        skip_reason=None if requests else " | ".join(pending) or "No review is due.",
        cursor=json.dumps(told, sort_keys=True),
    )


def _in_mlflow(installation: Settings) -> dict[str, list[str]]:
    """Return a mapping of line to the differences between MLflow and the registry. The mapping is empty if MLflow's
    database cannot be read."""
    found = defaultdict[str, list[str]](list)
    try:
        for each in differences(open_registry(installation), installation):
            found[each.line].append(each.what)
    except NotFoundError:  # the check and `sovereign doctor` report a missing MLflow
        return {}
    return found


def _is_running(instance: dg.DagsterInstance, line: str) -> bool:
    """Return True if a run of the line is in progress that is not a run of DUE_JOB, which only runs checks. When such a
    run ends, the review may no longer be due."""
    unfinished = [status for status in dg.DagsterRunStatus if status not in FINISHED]
    runs = instance.get_runs(dg.RunsFilter(tags={"dagster/partition": line}, statuses=unfinished))
    return any(run.job_name != DUE_JOB.name for run in runs)


FINISHED = (dg.DagsterRunStatus.SUCCESS, dg.DagsterRunStatus.FAILURE, dg.DagsterRunStatus.CANCELED)


def _result(due: Due, words: str) -> dg.AssetCheckResult:
    return dg.AssetCheckResult(
        check_name=DUE_CHECK.name,
        passed=due.state == "not due",
        severity=dg.AssetCheckSeverity.WARN,
        description=words,
        metadata={"adapter": due.adapter, "review by": due.on.isoformat(), "state": due.state},
    )


with warnings.catch_warnings():
    warnings.simplefilter("ignore", dg.PreviewWarning)  # preview feature: Dagster is pinned, and a test covers it

    @dg.asset_check(
        asset=DUE_CHECK.asset_key,
        name=DUE_CHECK.name,
        blocking=False,
        partitions_def=LINES,
        description="Was the line's newest adapter reviewed in time? A failure is only a warning and stops no run.",
    )
    def review_not_due(
        context: dg.AssetCheckExecutionContext, installation: dg.ResourceParam[Settings], clock: dg.ResourceParam[Clock]
    ) -> dg.AssetCheckResult:
        line = context.partition_key
        for due in due_reviews(open_registry(installation), installation, clock().date(), line):
            return _result(due, in_words(due, run_of(context.instance, due)))
        return dg.AssetCheckResult(passed=True, description=f"{line}: no adapter is registered yet")
