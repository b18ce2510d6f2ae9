"""`staged_adapter` and `production_adapter` under Dagster: refused without officers, and what they show."""

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import dagster as dg
import pytest

from sovereign_pipeline.dagster.definitions import build_definitions
from sovereign_pipeline.dagster.resources import register_lines
from sovereign_pipeline.dagster.rollout import rollouts
from sovereign_pipeline.serving.rollout.telemetry import Telemetry, counts_directory
from sovereign_pipeline_tests.dagster.conftest import metadata, reasons
from sovereign_pipeline_tests.serving.rollout.conftest import Desk
from sovereign_pipeline_tests.serving.rollout.conftest import desk as desk
from sovereign_pipeline_tests.serving.rollout.conftest import office as office


@pytest.fixture
def instance(desk: Desk) -> Iterator[dg.DagsterInstance]:
    with dg.instance_for_test() as instance:
        desk.office.bench.workplace()  # writes recipe and rules
        register_lines(instance, desk.settings)
        yield instance


def materialize(
    desk: Desk, instance: dg.DagsterInstance, *names: str, tags: Mapping[str, str] | None = None
) -> dg.ExecuteInProcessResult:
    definitions = build_definitions(desk.settings)
    return definitions.resolve_implicit_global_asset_job_def().execute_in_process(
        asset_selection=[dg.AssetKey(name) for name in names],
        partition_key="lamps",
        instance=instance,
        tags=tags,
        raise_on_error=False,
    )


def requested(desk: Desk, instance: dg.DagsterInstance) -> list[dg.RunRequest]:
    context = dg.build_sensor_context(instance=instance, resources={"installation": desk.settings})
    given: Any = rollouts(context)
    return [each for each in given if isinstance(each, dg.RunRequest)]


def asked(desk: Desk, instance: dg.DagsterInstance) -> list[tuple[str, list[str]]]:
    """Run key and assets of every run that the sensor asks for."""
    return [
        (str(each.run_key), [key.to_user_string() for key in each.asset_selection or []])
        for each in requested(desk, instance)
    ]


def test_a_run_is_asked_for_once_until_something_changes(desk: Desk, instance: dg.DagsterInstance) -> None:
    def tick(cursor: str | None) -> tuple[list[Any], str | None]:
        resources = {"installation": desk.settings}
        context = dg.build_sensor_context(instance=instance, resources=resources, cursor=cursor)
        given: Any = rollouts(context)
        return list(given), context.cursor

    adapter = desk.staged()
    (first,), cursor = tick(None)
    assert isinstance(first, dg.RunRequest)
    (skipped,), cursor = tick(cursor)
    assert isinstance(skipped, dg.SkipReason) and skipped.skip_message == "Nothing changed."
    desk.office.move("promote", adapter)
    (second,), cursor = tick(cursor)
    assert isinstance(second, dg.RunRequest) and second.run_key != first.run_key
    desk.office.move("retire", adapter)
    (skipped,), cursor = tick(cursor)
    assert isinstance(skipped, dg.SkipReason) and cursor == "{}"


def test_nothing_is_flipped_without_officers(desk: Desk, instance: dg.DagsterInstance, tmp_path: Path) -> None:
    adapter = desk.office.adapter()
    refused = materialize(desk, instance, "staged_adapter")
    assert "has no adapter in the state 'staged'" in reasons(refused)
    assert "No request 'stage' is open" in reasons(refused)
    assert asked(desk, instance) == []
    desk.office.move("approve", adapter)
    standing = desk.office.ask("stage", adapter)
    assert "has 0 of 1 approvals" in reasons(materialize(desk, instance, "staged_adapter"))
    assert desk.gateway().which("lamps", "anybody") is None
    desk.office.decide(standing, "omar")
    ((first, names),) = asked(desk, instance)
    assert names == ["staged_adapter"]
    done = materialize(desk, instance, *names)
    assert done.success, reasons(done)
    shown = metadata(done, "staged_adapter")
    assert shown["adapter"].value == adapter.id
    assert "10 % of the users" in shown["who gets what"].value
    assert "missing: 7 days" in shown["hold"].value
    assert "| looping |" in shown["compared"].value
    flag = desk.gateway().flag("lamps")
    assert flag is not None
    assert flag.staged == adapter.id

    assert "No request 'promote' is open" in reasons(materialize(desk, instance, "production_adapter"))
    desk.office.move("promote", adapter)
    ((second, names),) = asked(desk, instance)
    assert second != first
    assert names == ["production_adapter"]
    done = materialize(desk, instance, *names)
    assert metadata(done, "production_adapter")["who gets what"].value == f"{adapter.id} for everybody"
    choice = desk.gateway().which("lamps", "anybody")
    assert choice is not None
    assert choice.adapter == adapter.id
    assert asked(desk, instance) == asked(desk, instance)


@pytest.mark.parametrize("transitions", [["unstage"], ["promote", "retire"]])
def test_a_run_of_the_sensor_ends_as_skipped_when_officers_were_faster(
    desk: Desk, instance: dg.DagsterInstance, transitions: list[str]
) -> None:
    adapter = desk.staged()
    (request,) = requested(desk, instance)
    for transition in transitions:
        desk.office.move(transition, adapter)
    done = materialize(desk, instance, "staged_adapter", tags=request.tags)
    assert done.success, reasons(done)
    assert done.get_asset_materialization_events() == []
    assert requested(desk, instance) != [request]
    assert not materialize(desk, instance, "staged_adapter").success


def test_what_was_compared_is_drawn(desk: Desk, instance: dg.DagsterInstance) -> None:
    desk.in_production()
    desk.rules(share=0.5)
    desk.staged()
    flags, telemetry = desk.gateway(), Telemetry(counts_directory(desk.settings))
    for user in range(20):
        choice = flags.which("lamps", f"user-{user}")
        assert choice is not None
        telemetry.note("lamps", choice, "The lamp is mended.", 5, 1 + user / 10, "complete")
    telemetry.write()
    shown = metadata(materialize(desk, instance, "staged_adapter"), "staged_adapter")
    assert shown["hold, drawn"].value.startswith("![hold](data:image/png;base64,iVBOR")
    assert "At the rate so far, the trial can be decided on" in shown["hold"].value
