"""Run a line of adapters from the command line, with the same job as in Dagster's UI, and print progress as text."""

import logging
import os
import platform
import signal
import sys
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import dagster as dg
from dagster._core.definitions.reconstruct import ReconstructableJob
from dagster._core.errors import DagsterExecutionInterruptedError
from dagster._core.execution.api import execute_run
from dagster._core.remote_origin import ManagedGrpcPythonEnvCodeLocationOrigin, RemoteJobOrigin, RemoteRepositoryOrigin
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin

from sovereign_pipeline.base.errors import InputError, RunStopped
from sovereign_pipeline.corpus.stages import RAW_CORPUS
from sovereign_pipeline.dagster.assets import NOT_REPEATED
from sovereign_pipeline.dagster.chain import CHAIN
from sovereign_pipeline.dagster.resources import is_the_materialized_one, register_lines
from sovereign_pipeline.policy.line import Line
from sovereign_pipeline.policy.recipe_model import nearest_known
from sovereign_pipeline.record.stage import Stage, Workplace
from sovereign_pipeline.record.staleness import stale_kinds

Tell = Callable[[str], None]
DEFINITIONS, LOCATION = "sovereign_pipeline.dagster.definitions", "sovereign_pipeline"
"""Module and name of the code location, as in `workspace.yaml`."""
REPOSITORY = "__repository__"
"""Dagster's name for the definitions of a module."""
PROCESS_TAG = "sovereign/process"
"""Tag of a run that a command executes: host, id and start time of its process."""
INTERRUPTIONS = (DagsterExecutionInterruptedError.__name__, KeyboardInterrupt.__name__)
"""Names of the errors of a step that was stopped by a signal."""


@dataclass(frozen=True)
class LineRun:
    materialized: list[str]
    """Kinds of artifacts that were materialized."""

    run_id: str | None
    """Id of the run; None if nothing was stale."""

    seconds: float
    """Wall-clock duration in seconds."""


def run_line(
    instance: dg.DagsterInstance,
    job: Callable[[], dg.JobDefinition],
    workplace: Workplace,
    tell: Tell,
    until: str | None = None,
) -> LineRun:
    """Materialize the stale assets of a line. Raises RunStopped if a step fails, a gate does not pass, or a person
    interrupts the run.

    Args:
        job: the module-level function that returns the chain's job. Each step's process calls it again.
        until: kind of the last stage to run, after all stages that it needs. None runs the whole chain.

    Raises InputError for an unknown kind, RecipeError if the recipe lacks a section that a stage reads, and SourceError
    if a source cannot be found. These errors are raised before any step starts, because Dagster would show every asset
    of a failed run as failed, for all lines.
    """
    stages = _made_with(until, workplace.line)
    started = time.monotonic()
    register_lines(instance, workplace.settings)
    kinds = _to_materialize(stages, instance, workplace)
    if not kinds:
        return LineRun([], None, time.monotonic() - started)
    for stage in stages:
        stage.config(workplace.line)
    if RAW_CORPUS.kind in kinds:
        RAW_CORPUS.external(workplace)
    log = workplace.settings.logs / f"run-{workplace.line.line}.log"
    result = execute(instance, job, kinds, workplace.line.line, log, tell)
    if result is None:
        raise _interrupted(workplace, until)
    if not result.success:
        raise reason_of(result)
    return LineRun(kinds, result.run_id, time.monotonic() - started)


def execute(
    instance: dg.DagsterInstance,
    job: Callable[[], dg.JobDefinition],
    kinds: Sequence[str],
    partition: str,
    log: Path,
    tell: Tell,
) -> dg.JobExecutionResult | None:
    """Materialize assets of one partition, each in its own process. Returns None if a person interrupted the run.

    Args:
        job: the module-level function that returns the job. Each step's process calls it again.
        log: file for the output of libraries and step processes.
    """
    _end_killed_runs(instance)
    try:
        with _printing_into(log), _forking_anew(), _signals_kept():
            reconstructable = dg.reconstructable(job)
            run = _created(reconstructable, instance, kinds, partition)
            with _Narration(instance, run.run_id, tell):
                result = execute_run(reconstructable, run, instance)
    except (KeyboardInterrupt, DagsterExecutionInterruptedError):
        return None
    return None if not result.success and _is_interrupted(result) else result


def _end_killed_runs(instance: dg.DagsterInstance) -> None:
    """Mark each run whose command was killed on this machine as failed, and free the run's pool slots. Otherwise steps
    of later runs would wait until Dagster's daemon frees the slots, and there may be no daemon."""
    for run in instance.get_runs(dg.RunsFilter(statuses=[dg.DagsterRunStatus.STARTING, dg.DagsterRunStatus.STARTED])):
        host, _, process = run.tags.get(PROCESS_TAG, "").partition(" ")
        if host == platform.node() and _process(int(process.split()[0])) != run.tags[PROCESS_TAG]:
            instance.report_run_failed(run, "The command was killed.")
            instance.event_log_storage.free_concurrency_slots_for_run(run.run_id)


def _process(pid: int) -> str:
    """Return host, id and start time of a process; without the start time if no such process is running."""
    stat = Path(f"/proc/{pid}/stat")
    started = stat.read_text().rpartition(")")[2].split()[19] if stat.exists() else ""
    return f"{platform.node()} {pid} {started}"


def _created(
    job: ReconstructableJob, instance: dg.DagsterInstance, kinds: Sequence[str], partition: str
) -> dg.DagsterRun:
    """Create a run as `dg.execute_job` does, and name the code location, because the UI's timeline omits runs without
    a code location."""
    definition = job.get_definition()
    target = LoadableTargetOrigin(executable_path=sys.executable, module_name=DEFINITIONS)
    location = ManagedGrpcPythonEnvCodeLocationOrigin(target, LOCATION)
    return instance.create_run_for_job(
        definition,
        tags={**definition.run_tags, "dagster/partition": partition, PROCESS_TAG: _process(os.getpid())},
        asset_selection=frozenset(dg.AssetKey(kind) for kind in kinds),
        remote_job_origin=RemoteJobOrigin(RemoteRepositoryOrigin(location, REPOSITORY), definition.name),
        job_code_origin=job.get_python_origin(),
    )


def _is_interrupted(result: dg.JobExecutionResult) -> bool:
    errors = (event.step_failure_data.error for event in result.all_events if event.is_step_failure)
    return any(error is not None and error.cls_name in INTERRUPTIONS for error in errors)


def _interrupted(workplace: Workplace, until: str | None) -> RunStopped:
    """Return the error for a run that a person stopped. Its message contains the step of the newest checkpoint that the
    run wrote or resumed from."""
    line = workplace.line.line
    found = (workplace.settings.home / "checkpoints").glob(f"{line}.*/*/step-*")
    steps = [(path.stat().st_mtime, int(path.name.removeprefix("step-"))) for path in found]
    kept = f"; the newest checkpoint is at step {max(steps)[1]}" if steps else ""
    stopped = partial(RunStopped, f"Line {line}: stopped{kept}.", "Run again to resume.", line=line)
    return stopped(act="run_line") if until is None else stopped(act="run_line_until", until=until)


def _made_with(until: str | None, line: Line) -> list[Stage]:
    """Return all stages that the stage `until` directly or indirectly needs for a line, followed by `until`. If `until`
    is None, return all stages. Raises InputError if there is no stage `until`."""
    stages = {stage.kind: stage for stage in CHAIN}
    if until is None:
        return list(CHAIN)
    if until not in stages:
        raise InputError(f"There is no stage '{until}'; {nearest_known(until, [*stages])}", "Correct --until.")
    waiting, found = [stages[until]], set[str]()
    while waiting:
        stage = waiting.pop()
        found.add(stage.kind)
        waiting.extend(stage.inputs_of(line))
    return [stage for stage in CHAIN if stage.kind in found]


def _to_materialize(stages: Sequence[Stage], instance: dg.DagsterInstance, workplace: Workplace) -> list[str]:
    """Return the kinds to materialize: stale kinds, and kinds whose current artifact differs from the last
    materialization in Dagster, because downstream assets would reject that artifact."""
    line = workplace.line.line
    kinds = set(stale_kinds(stages, workplace))
    for stage in stages:
        current = workplace.store.current(line, stage.kind)
        if current is not None and not is_the_materialized_one(instance, stage.kind, line, current):
            kinds.add(stage.kind)
    return [stage.kind for stage in stages if stage.kind in kinds]


@contextmanager
def _printing_into(log: Path) -> Iterator[None]:
    """Redirect the output of libraries and step processes to a file. `sys.stdout` still writes to the terminal."""
    log.parent.mkdir(parents=True, exist_ok=True)
    terminal, errors = os.dup(1), os.dup(2)
    stdout = sys.stdout
    stdout.flush()
    with log.open("ab") as file, os.fdopen(terminal, "w", encoding="utf-8", closefd=False) as to_terminal:
        os.dup2(file.fileno(), 1)
        os.dup2(file.fileno(), 2)
        sys.stdout = to_terminal
        try:
            yield
        finally:
            to_terminal.flush()
            sys.stdout = stdout
            os.dup2(terminal, 1)
            os.dup2(errors, 2)
            os.close(terminal)
            os.close(errors)


@contextmanager
def _signals_kept() -> Iterator[None]:
    """Restore the handlers of SIGINT and SIGTERM after the block. Dagster sets SIGTERM's handler to that of SIGINT. If
    a script starts the command in the background, the command ignores SIGINT, and would then ignore SIGTERM, too."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


@contextmanager
def _forking_anew() -> Iterator[None]:
    """End Python's fork server after the block, so that the next run starts a server with its own variables and log."""
    try:
        yield
    finally:
        # Python has no public function for this. Python itself ends the fork server only when this process ends.
        if (server := forkserver._forkserver._forkserver_pid) is not None:  # type: ignore[attr-defined]
            os.kill(server, signal.SIGKILL)  # also ends steps that are still running
            forkserver._forkserver._stop()  # type: ignore[attr-defined]


def reason_of(result: dg.JobExecutionResult) -> RunStopped:
    """Return an error with the reason why a run failed, taken from the run's events. An error of this project takes
    precedence, then a gate that did not pass, then any other error."""
    for event in result.all_events:
        if event.is_step_failure and (failure := event.step_failure_data.user_failure_data) is not None:
            given: dict[str, Any] = {name: value.value for name, value in failure.metadata.items()}
            return RunStopped(
                str(given.get("message") or failure.description),
                str(given.get("hint", "")),
                exit_status=int(given.get("exit_status", 1)),
                act=given.get("act"),
                **given.get("about", {}),
            )
    for event in result.all_events:
        if event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION:
            check = event.asset_check_evaluation_data
            if not check.passed and check.severity == dg.AssetCheckSeverity.ERROR:
                asset = check.asset_key.to_user_string()
                return RunStopped(f"{asset}: the gate '{check.check_name}' did not pass: {check.description}")
    for event in result.all_events:
        if event.is_step_failure and event.step_failure_data.error is not None:
            return RunStopped(f"{event.step_key} failed: {event.step_failure_data.error.message.strip()}")
    return RunStopped(f"The run {result.run_id} ended without success.", "Read the run's log in the Dagster UI.")


class _Narration:
    """Reports the steps, progress and checks of a run in progress. Polls the event log, to which every process of the
    run writes."""

    def __init__(self, instance: dg.DagsterInstance, run_id: str, tell: Tell) -> None:
        self._instance = instance
        self._run_id = run_id
        self._tell = tell
        self._done = threading.Event()
        self._thread = threading.Thread(target=self._follow, daemon=True)

    def __enter__(self) -> None:
        self._thread.start()

    def __exit__(self, *_: object) -> None:
        self._done.set()
        self._thread.join()

    def _follow(self) -> None:
        cursor = None
        while True:
            last_round = self._done.is_set()
            connection = self._instance.get_records_for_run(self._run_id, cursor=cursor)
            cursor = connection.cursor
            for record in connection.records:
                line = _narrate(record.event_log_entry)
                if line is not None:
                    self._tell(line)
            if last_round:
                return
            self._done.wait(0.7)


def _narrate(entry: dg.EventLogEntry) -> str | None:
    """Return the text for one log entry, or None for an entry that is not reported."""
    step = f"{entry.step_key or '':<20}"
    event = entry.dagster_event
    if event is None:
        return f"  {step} {entry.user_message}" if _is_progress(entry) else None
    if event.event_type == dg.DagsterEventType.ASSET_CHECK_EVALUATION:
        check = event.asset_check_evaluation_data
        if NOT_REPEATED in check.metadata:
            return None
        mark = "✓" if check.passed else "✗" if check.severity == dg.AssetCheckSeverity.ERROR else "!"
        return f"  {step} {mark} {check.check_name}: {check.description}"
    if event.is_step_success:
        return f"✓ {step} {event.step_success_data.duration_ms / 1000:.1f} s"
    if event.is_step_failure:
        return f"✗ {step} failed"
    return None


def _is_progress(entry: dg.EventLogEntry) -> bool:
    """Return True if a log entry reports a stage's progress. Stages log at INFO within a step. Dagster's own INFO
    entries within a step come from Pipes and begin with `[pipes]`."""
    return entry.level == logging.INFO and bool(entry.step_key) and not entry.user_message.startswith("[pipes]")
