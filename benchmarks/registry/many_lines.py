"""A home with many lines: what its pages, the ticks of its sensors, and its commands take.

    python -m benchmarks.registry.many_lines [--lines 200] [--runs 10000] [--adapters 10000] [--keep DIRECTORY]

Recipes are copies of the demonstration's. Adapters are those of `benchmarks/registry/adapters.py`, with a valid ledger;
every line has a published flag. Runs lie in Dagster's own storage, each of a line; the newest of each line has
materialized every asset of the chain. Seconds are by the clock, the median of the repeats; CPU seconds beside, since
other programs share the machine. Pages are asked in this process, behind the servers' own routes.
"""

import argparse
import datetime
import os
import shutil
import statistics
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr
from io import StringIO
from pathlib import Path
from typing import Any

from benchmarks.harness import PROJECT_ROOT, machine_facts, run, say
from benchmarks.registry.adapters import SOVEREIGN, Office, fill
from sovereign_pipeline.base.settings import VARIABLES, Settings

RECIPE = "permits-desk"
NOW = datetime.datetime(2026, 7, 1, tzinfo=datetime.UTC)


def make(settings: Settings, lines: int, runs: int, adapters: int) -> None:
    """Make the home."""
    from sovereign_pipeline.dagster.resources import open_instance, register_lines
    from sovereign_pipeline.record.database import open_registry

    shutil.copytree(PROJECT_ROOT / "data", settings.data, ignore=shutil.ignore_patterns("trust"))
    recipe = (settings.data / "lines" / f"{RECIPE}.yaml").read_text(encoding="utf-8")
    for number in range(lines):
        text = recipe.replace(f"line: {RECIPE}", f"line: line-{number}", 1)
        (settings.data / "lines" / f"line-{number}.yaml").write_text(text, encoding="utf-8")
    settings.keys.mkdir(mode=0o700, parents=True)
    registry, office = open_registry(settings), Office(settings)
    fill(registry, office, adapters, lines)
    _publish(settings, office)
    instance = open_instance(settings)
    register_lines(instance, settings)
    started = time.monotonic()
    _enter_runs(instance, [f"line-{number % lines}" for number in range(runs)], newest=lines)
    say(f"{runs:,} runs in {time.monotonic() - started:.0f} s")


def _publish(settings: Settings, office: Office) -> None:
    """Sign a flag for each line: its production adapter for everybody."""
    from sovereign_pipeline.record.catalog import states
    from sovereign_pipeline.record.database import open_registry
    from sovereign_pipeline.serving.rollout.flag import Flag, FlagAdapter, installed_evaluator, write_change

    registry = open_registry(settings)
    with registry.reading() as session:
        held = [adapter for adapter, state in states(session).items() if state == "production"]
    for adapter in held:
        described = FlagAdapter(digest="0" * 64, record_manifest="0" * 64, classification="INTERNAL")
        flag = Flag(
            line=adapter.rpartition("-")[0],
            sequence=1,
            production=adapter,
            staged=None,
            share=0.0,
            groups=(),
            stopped=None,
            began=1,
            began_at=NOW,
            salt="0" * 64,
            evaluator=installed_evaluator(),
            staged_by=None,
            cause="transition",
            reason="Benchmark.",
            at=NOW,
            adapters={adapter: described},
            back=(),
        )
        write_change(settings, office.pipeline, flag)


def _enter_runs(instance: Any, lines: list[str], newest: int) -> None:
    """Enter one run for each of these lines, all in one transaction; the newest have materialized the chain."""
    import dagster as dg
    from dagster._core.events import DagsterEvent, StepMaterializationData
    from dagster._core.storage.runs.schema import RunsTable, RunTagsTable
    from dagster._serdes import serialize_value

    from sovereign_pipeline.dagster.chain import CHAIN

    done = dg.DagsterRunStatus.SUCCESS
    made = [dg.DagsterRun(job_name="chain", status=done, tags={"dagster/partition": line}) for line in lines]
    with instance.run_storage.connect() as connection:
        of_runs = [
            {"run_id": each.run_id, "pipeline_name": "chain", "status": done.value, "run_body": serialize_value(each)}
            for each in made
        ]
        of_tags = [
            {"run_id": each.run_id, "key": key, "value": value} for each in made for key, value in each.tags.items()
        ]
        connection.execute(RunsTable.insert(), of_runs)
        connection.execute(RunTagsTable.insert(), of_tags)
    for each in made[-newest:]:
        for stage in CHAIN:
            found = StepMaterializationData(
                dg.AssetMaterialization(stage.kind, partition=each.tags["dagster/partition"])
            )
            event = DagsterEvent("ASSET_MATERIALIZATION", "chain", event_specific_data=found)
            entry = dg.EventLogEntry(
                error_info=None,
                level="info",
                user_message="",
                run_id=each.run_id,
                timestamp=time.time(),
                job_name="chain",
                dagster_event=event,
            )
            instance.event_log_storage.store_event(entry)


def ticks(settings: Settings) -> Iterator[tuple[str, Callable[[], object]]]:
    """Each sensor's evaluation, as the code server makes it."""
    import dagster as dg
    from dagster._core.definitions.partitions.context import partition_loading_context

    from sovereign_pipeline.dagster.definitions import build_definitions
    from sovereign_pipeline.dagster.jobs import closed_reviews, new_lines, reviews_due
    from sovereign_pipeline.dagster.resources import open_instance
    from sovereign_pipeline.dagster.rollout import rollouts

    instance, repository = open_instance(settings), build_definitions(settings).get_repository_def()
    given = {"installation": settings, "clock": lambda: NOW}
    for sensor in (new_lines, closed_reviews, rollouts, reviews_due):
        names = [name for name in given if name in sensor.required_resource_keys]

        def tick(sensor: Any = sensor, names: list[str] = names) -> object:
            context = dg.build_sensor_context(
                instance=instance, repository_def=repository, resources={name: given[name] for name in names}
            )
            with partition_loading_context(dynamic_partitions_store=instance):
                return sensor.evaluate_tick(context)

        yield f"sensor `{sensor.name}`", tick


def pages(settings: Settings) -> Iterator[tuple[str, Callable[[], object]]]:
    """Pages of the registry, read by a caller who may see everything."""
    from fastapi.testclient import TestClient

    from sovereign_pipeline.record.database import open_registry
    from sovereign_pipeline.serving.gateway.auth import Grant, add_token
    from sovereign_pipeline.web.artifact_pages import create_app

    grant = Grant("SECRET", None, admin=True)
    token, _ = add_token(settings, open_registry(settings), "reader", grant, 1, "benchmark")
    client = TestClient(create_app(settings), base_url="http://127.0.0.1")
    assert client.post("/registry/sign-in", data={"token": token}).status_code == 200

    def page(address: str) -> object:
        answer = client.get(address)
        assert answer.status_code == 200, address
        return answer

    for name, address in {
        "registry: list": "/registry",
        "registry: list in Arabic": "/registry?language=ar",
    }.items():
        yield name, lambda address=address: page(address)


QUERIES = {
    "Dagster: runs": "{ runsOrError(limit: 25) { ... on Runs { results { runId status tags { key value } } } } }",
    "Dagster: catalog": "{ assetsOrError(limit: 100) { ... on AssetConnection { nodes { key { path } } } } }",
    "Dagster: partitions": "{ assetNodes { assetKey { path } partitionStats { numMaterialized numFailed } } }",
    "Dagster: sensors": (
        '{ sensorsOrError(repositorySelector: {repositoryName: "__repository__", repositoryLocationName: '
        '"sovereign_pipeline"}) { ... on Sensors { results { name sensorState { status ticks(limit: 1) { id } } } } } }'
    ),
}


def dagsters(settings: Settings) -> Iterator[tuple[str, Callable[[], object]]]:
    """What Dagster's pages ask its server."""
    from dagster._core.workspace.context import WorkspaceProcessContext
    from dagster._core.workspace.load_target import PythonFileTarget
    from dagster_graphql.schema import create_schema
    from dagster_graphql.test.utils import execute_dagster_graphql

    from sovereign_pipeline.dagster.resources import open_instance

    instance = open_instance(settings)
    target = PythonFileTarget(
        str(PROJECT_ROOT / "sovereign_pipeline" / "dagster" / "definitions.py"), None, None, "sovereign_pipeline"
    )
    context, schema = WorkspaceProcessContext(instance, target), create_schema()
    del schema

    def ask(query: str) -> object:
        found = execute_dagster_graphql(context.create_request_context(), query)
        assert not found.errors, found.errors
        return found

    for name, query in QUERIES.items():
        yield name, lambda query=query: ask(query)


def commands() -> Iterator[tuple[str, ...]]:
    yield ("lines", "list", "--json")
    yield ("adapters", "list", "--json")
    yield ("adapters", "list", "--line", "line-3", "--json")


def measured(work: Callable[[], object], repeats: int) -> tuple[float, float]:
    """Median seconds, and fewest seconds of the processor. The first time is left out: it imports."""
    work()
    wall, cpu = [], []
    for _ in range(repeats):
        started, used = time.monotonic(), time.process_time()
        work()
        wall.append(time.monotonic() - started)
        cpu.append(time.process_time() - used)
    return statistics.median(wall), min(cpu)


def main() -> None:
    arguments = argparse.ArgumentParser(description=__doc__)
    for name, count in {"lines": 200, "runs": 10_000, "adapters": 10_000, "repeats": 3}.items():
        arguments.add_argument(f"--{name}", type=int, default=count)
    arguments.add_argument("--keep", type=Path, help="Make the home here, or measure the one that is here.")
    arguments.add_argument("--only", default="", help="Measure what has this in its name.")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = (given.keep or Path(temporary)).absolute()
        settings = Settings(home=root / "home", data=root / "data")
        if not (root / "home" / "registry.db").exists():
            make(settings, given.lines, given.runs, given.adapters)
        machine = machine_facts()
        out = [
            f"{given.lines} lines, {given.runs:,} runs, {given.adapters:,} adapters; {machine['processor']}, "
            f"{machine['cores']} cores, load {os.getloadavg()[0]:.1f}\n",
            "| what | s | CPU s |\n|---|---:|---:|",
        ]
        for group in (ticks, dagsters, pages):
            for name, work in group(settings):
                if given.only in name:
                    with redirect_stderr(StringIO()):
                        wall, cpu = measured(work, given.repeats)
                    say(f"{name}: {wall:.2f} s, {cpu:.2f} s of the processor")
                    out.append(f"| {name} | {wall:.2f} | {cpu:.2f} |")
        environment = {VARIABLES[field]: settings.to_environment()[VARIABLES[field]] for field in VARIABLES}
        environment["PYTHONDONTWRITEBYTECODE"] = ""  # an installation has its modules compiled
        for command in commands():
            name = f"`sovereign {' '.join(command)}`"
            if given.only in name:
                used = [run([*SOVEREIGN, *command], environment) for _ in range(given.repeats)]
                wall, cpu = (statistics.median(each[key] for each in used) for key in ("whole_seconds", "cpu_seconds"))
                say(f"{name}: {wall:.2f} s, {cpu:.2f} s of the processor")
                out.append(f"| {name} | {wall:.2f} | {cpu:.2f} |")
    sys.stdout.write("\n".join([*out, ""]))


if __name__ == "__main__":
    main()
