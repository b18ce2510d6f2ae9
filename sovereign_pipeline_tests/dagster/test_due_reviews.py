"""Reviews that are due, under Dagster's sensor daemon with a moved clock: shown for each line, run once a period."""

import datetime
import logging
from collections.abc import Iterator

import dagster as dg
import pytest
from dagster._core.definitions.asset_checks.asset_check_evaluation import AssetCheckEvaluation
from dagster._core.event_api import PartitionKeyFilter
from dagster._core.events import DagsterEvent, DagsterEventType
from dagster._core.remote_origin import InProcessCodeLocationOrigin
from dagster._core.test_utils import create_test_daemon_workspace_context, freeze_time
from dagster._core.types.loadable_target_origin import LoadableTargetOrigin
from dagster._core.workspace.context import WorkspaceProcessContext
from dagster._core.workspace.load_target import InProcessWorkspaceLoadTarget
from dagster._daemon.sensor import execute_sensor_iteration

from sovereign_pipeline.dagster.jobs import DUE_CHECK, DUE_JOB, PERIOD_TAG
from sovereign_pipeline.dagster.resources import register_lines
from sovereign_pipeline.record.tables import Adapter
from sovereign_pipeline.release.cadence import record_review
from sovereign_pipeline_tests.dagster.moved_clock import defs
from sovereign_pipeline_tests.officers import officer
from sovereign_pipeline_tests.release.conftest import ask, holders  # noqa: F401 (fixtures)
from sovereign_pipeline_tests.release.holders import Ask, Holders, letters

pytestmark = pytest.mark.slow

EVALUATED = DagsterEventType.ASSET_CHECK_EVALUATION
LAUNCHER = {"module": "dagster._core.test_utils", "class": "MockedRunLauncher"}
MODULE = "sovereign_pipeline_tests.dagster.moved_clock"
HALF_A_YEAR = datetime.timedelta(days=190)


class Daemon:
    """The sensor daemon of one instance; each tick is at a time that the test chooses."""

    def __init__(self, holders: Holders, context: WorkspaceProcessContext, adapter: Adapter) -> None:  # noqa: F811
        self.holders = holders
        self.context, self.instance = context, context.instance
        self.started = adapter.registered_at
        month = self.started.month + 6
        half = ((month - 1) % 12) // 6 + 1
        self.key = f"lamps:{self.started.year + (month - 1) // 12}-H{half}"
        """Of the half year in which the adapter's review falls."""
        self.one_run = [(self.key, self.key, "lamps")]
        register_lines(self.instance, holders.bench.settings)

    def tick(self, after: datetime.timedelta) -> None:
        with freeze_time(self.started + after):
            before = {run.run_id for run in self.instance.get_runs()}
            list(execute_sensor_iteration(self.context, logging.getLogger("test"), None, None))
            for run in self.instance.get_runs():
                if run.run_id not in before and run.job_name == DUE_JOB.name:  # no other one is executed here
                    job = defs.resolve_job_def(run.job_name)
                    job.execute_in_process(tags=run.tags, instance=self.instance)

    def runs(self) -> list[tuple[str, str, str]]:
        """Key, tag and line of every run that was launched, the oldest first."""
        return [
            (run.tags["dagster/run_key"], run.tags[PERIOD_TAG], run.tags["dagster/partition"])
            for run in reversed(self.instance.get_runs())
            if PERIOD_TAG in run.tags
        ]

    def end(self, event: DagsterEventType) -> None:
        """Let the newest run end."""
        run = next(run for run in self.instance.get_runs() if run.job_name != DUE_JOB.name)
        self.instance.report_dagster_event(DagsterEvent(event.value, run.job_name, message="planted"), run.run_id)

    def check(self, line: str) -> AssetCheckEvaluation:
        """The newest result of the check for a line."""
        return self.checks(line)[0]

    def checks(self, line: str) -> list[AssetCheckEvaluation]:
        records = self.instance.event_log_storage.get_asset_check_execution_history(
            DUE_CHECK, limit=20, partition_filter=PartitionKeyFilter(key=line)
        )
        events = [record.event.dagster_event for record in records if record.event is not None]
        found = [event for event in events if event is not None]
        return [each.asset_check_evaluation_data for each in found if each.event_type == EVALUATED]

    def reason(self) -> str:
        """Why the sensor requested nothing at its last tick."""
        (state,) = [each for each in self.instance.all_instigator_state() if each.instigator_name == "reviews_due"]
        (tick,) = self.instance.get_ticks(state.instigator_origin_id, state.selector_id, limit=1)
        return tick.skip_reason or ""


@pytest.fixture
def daemon(holders: Holders, ask: Ask) -> Iterator[Daemon]:  # noqa: F811
    holders.bench.recipe["review"] = {"every": "6 months", "retrain": True}
    target = InProcessWorkspaceLoadTarget(
        InProcessCodeLocationOrigin(LoadableTargetOrigin(module_name=MODULE, attribute="defs"))
    )
    with (
        dg.instance_for_test(overrides={"run_launcher": LAUNCHER}) as instance,
        create_test_daemon_workspace_context(target, instance) as context,
    ):
        yield Daemon(holders, context, holders.register())


def days(number: float) -> datetime.timedelta:
    return datetime.timedelta(days=number)


def test_a_due_line_is_run_once_a_period_and_a_failed_run_is_told_and_not_repeated(daemon: Daemon) -> None:
    for before in (0, 150):
        daemon.tick(days(before))
    assert daemon.runs() == []
    assert daemon.check("lamps").passed
    assert len(daemon.checks("lamps")) == 1  # nothing new is not told again
    daemon.tick(HALF_A_YEAR)
    assert daemon.runs() == daemon.one_run
    check = daemon.check("lamps")
    assert (check.passed, check.severity) == (False, dg.AssetCheckSeverity.WARN)
    daemon.end(DagsterEventType.RUN_FAILURE)
    daemon.tick(HALF_A_YEAR + days(40))
    assert daemon.runs() == daemon.one_run
    daemon.tick(HALF_A_YEAR + days(41))
    for told in (str(daemon.check("lamps").description), daemon.reason()):
        assert f"of {daemon.key} FAILED and is not repeated" in told
    now = daemon.started + HALF_A_YEAR + days(42)
    signer = officer(daemon.holders.bench.settings)
    record_review(daemon.holders.registry, "lamps-1.0.0", "Read ten answers; it stays.", signer, now)
    daemon.tick(HALF_A_YEAR + days(43))
    assert daemon.check("lamps").passed
    daemon.tick(2 * HALF_A_YEAR + days(50))
    keys = [key for key, _, _ in daemon.runs()]
    assert len(set(keys)) == 2 and keys[0] == daemon.key


def test_lines_have_days_of_their_own_wait_for_their_runs_and_need_a_recipe(daemon: Daemon) -> None:
    settings = daemon.holders.bench.settings
    daemon.holders.bench.recipe["review"] = {"every": "1 year"}
    daemon.holders.register("buoys", letters(100, 112))
    register_lines(daemon.instance, settings)
    daemon.instance.create_run_for_job(
        defs.resolve_job_def("closed_review"),
        tags={"dagster/partition": "lamps"},
        status=dg.DagsterRunStatus.STARTED,
    )
    daemon.tick(HALF_A_YEAR)
    assert daemon.runs() == []  # a run of the line is waited for
    assert (daemon.check("lamps").passed, daemon.check("buoys").passed) == (False, True)
    daemon.end(DagsterEventType.RUN_FAILURE)
    recipe = settings.data / "lines" / "lamps.yaml"
    away = recipe.rename(recipe.with_suffix(".away"))
    daemon.tick(HALF_A_YEAR + days(1))
    assert daemon.runs() == []
    assert "the line has no valid recipe" in str(daemon.check("lamps").description)
    away.rename(recipe)
    daemon.tick(HALF_A_YEAR + days(2))
    assert daemon.runs() == daemon.one_run
    daemon.tick(days(370))
    assert daemon.runs() == daemon.one_run  # buoys is due too, and its recipe lets nothing be run
    assert not daemon.check("buoys").passed


def test_the_check_is_no_part_of_a_run_of_the_chain() -> None:
    assert "review_not_due" not in " ".join(node.name for node in defs.resolve_job_def("chain").nodes)
