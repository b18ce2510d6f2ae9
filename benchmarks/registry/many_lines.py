"""A home with many lines: what its pages, the ticks of its sensors, and its commands take.

    python -m benchmarks.registry.many_lines [--lines 200] [--runs 10000] [--adapters 10000] [--keep DIRECTORY]
        [--postgresql URL]

Recipes are copies of the demonstration's. Adapters are those of `benchmarks/registry/adapters.py`, with a valid ledger;
every line has a published flag and an open request. Runs lie in Dagster's own storage, one each 15 minutes; the newest
of each line has materialized every asset of the chain. One more line is really run, with a tiny model. Seconds are by
the clock, the median of the repeats; CPU seconds beside, since other programs share the machine. The registry's pages
are asked in this process, behind the server's own routes; Dagster's in a browser, whose own work is not counted.
"""

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
import urllib.request
from collections.abc import Callable, Iterator
from contextlib import redirect_stderr, suppress
from io import StringIO
from pathlib import Path
from typing import Any

from benchmarks.harness import PROJECT_ROOT, machine_facts, run, say
from benchmarks.registry.adapters import ROUTE, SOVEREIGN, Office, adapter_id, fill
from sovereign_pipeline.base.settings import VARIABLES, Settings

RECIPE, RUN, RUN_ADAPTER = "permits-desk", "harbour", "harbour-1.0.0"
"""The recipe that is copied; the line that is really run, with its adapter."""
BETWEEN_RUNS, RUN_TAKES = datetime.timedelta(minutes=15), datetime.timedelta(minutes=10)
NOW = datetime.datetime(2026, 7, 1, tzinfo=datetime.UTC)


def make(settings: Settings, lines: int, runs: int, adapters: int) -> None:
    """Make the home."""
    from sovereign_pipeline.dagster.resources import open_instance, register_lines
    from sovereign_pipeline.record.database import open_registry
    from sovereign_pipeline.record.sealing import open_store
    from sovereign_pipeline_tests.golden.line import write_institution

    write_institution(settings.data)
    recipe = (PROJECT_ROOT / "data" / "lines" / f"{RECIPE}.yaml").read_text(encoding="utf-8")
    for number in range(lines):
        text = recipe.replace(f"line: {RECIPE}", f"line: line-{number}", 1)
        (settings.data / "lines" / f"line-{number}.yaml").write_text(text, encoding="utf-8")
    settings.keys.mkdir(mode=0o700, parents=True)
    registry, office = open_registry(settings), Office(settings)
    fill(registry, office, adapters, lines)
    _ask(registry, office, range(adapters - lines, adapters), lines)
    _publish(settings, office)
    vault = ("--private", settings.keys / "vault.key", "--public", settings.vault_public_key)
    subprocess.run([program("sovereign-vault"), "keygen", *vault], check=True, stdout=subprocess.DEVNULL)
    subprocess.run([program("sovereign"), "run", RUN], check=True, stdout=sys.stderr, env=environment_of(settings))
    store = open_store(settings)
    registered = store.current(RUN, "registered_adapter")
    assert registered is not None
    for number in range(lines):  # so that the sensors look for each line's reviews
        store.make_current(f"line-{number}", "registered_adapter", registered)
    instance = open_instance(settings)
    register_lines(instance, settings)
    started = time.monotonic()
    _enter_runs(instance, [f"line-{number % lines}" for number in range(runs)], newest=lines)
    say(f"{runs:,} runs in {time.monotonic() - started:.0f} s")


def program(name: str) -> str:
    return str(Path(sys.executable).with_name(name))


def environment_of(settings: Settings) -> dict[str, str]:
    return {**os.environ, **settings.to_environment()}


def _ask(registry: Any, office: Office, newest: range, lines: int) -> None:
    """Request the approval of each line's newest adapter. Officers have not decided yet."""
    from sovereign_pipeline.record.tables import Adapter

    with registry.writing() as session:
        for number in newest:
            office.request(session, session.get_one(Adapter, adapter_id(number, lines)), None, NOW, *ROUTE[0])


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

    done, now = dg.DagsterRunStatus.SUCCESS, datetime.datetime.now(datetime.UTC)
    made = [dg.DagsterRun(job_name="chain", status=done, tags={"dagster/partition": line}) for line in lines]
    with instance.run_storage.connect() as connection:
        of_runs = []
        for number, each in enumerate(reversed(made)):
            began = now - (number + 1) * BETWEEN_RUNS
            ended = began + RUN_TAKES
            times = {"create_timestamp": began.replace(tzinfo=None), "update_timestamp": ended.replace(tzinfo=None)}
            times |= {"start_time": began.timestamp(), "end_time": ended.timestamp()}
            row = {"run_id": each.run_id, "pipeline_name": "chain", "status": done.value, **times}
            of_runs.append({**row, "run_body": serialize_value(each)})
        of_runs.reverse()
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

        def tick(cursor: str | None, sensor: Any = sensor, names: list[str] = names) -> Any:
            resources = {name: given[name] for name in names}
            context = dg.build_sensor_context(
                instance=instance, repository_def=repository, resources=resources, cursor=cursor
            )
            with partition_loading_context(dynamic_partitions_store=instance):
                return sensor.evaluate_tick(context)

        last = tick(None)
        yield f"sensor `{sensor.name}`, nothing new", lambda tick=tick, last=last: tick(last.cursor)
        if last.run_requests:
            yield f"sensor `{sensor.name}`, {len(last.run_requests)} runs asked for", lambda tick=tick: tick(None)


def pages(settings: Settings) -> Iterator[tuple[str, Callable[[], object]]]:
    """Pages of the registry, read by a caller who may see everything."""
    from fastapi.testclient import TestClient

    from sovereign_pipeline.policy.serving import Role
    from sovereign_pipeline.record.database import open_registry
    from sovereign_pipeline.serving.gateway.auth import add_token
    from sovereign_pipeline.web.routes import create_app

    grant = Role(clearance="SECRET", admin=True)
    token, _ = add_token(settings, open_registry(settings), "reader", grant, 1, "benchmark")
    client = TestClient(create_app(settings), base_url="http://127.0.0.1")
    assert client.post("/registry/sign-in", data={"token": token}).status_code == 200

    def page(address: str) -> object:
        answer = client.get(address)
        assert answer.status_code == 200, address
        return answer

    for name, address in {
        "registry: lines": "/registry",
        "registry: one line": "/registry/lines/line-3",
        "registry: the line that was run": f"/registry/lines/{RUN}",
        "registry: its adapter": f"/registry/{RUN_ADAPTER}",
    }.items():
        yield name, lambda address=address: page(address)


DAGSTERS = {
    "catalog": "/assets",
    "lineage": "/asset-groups",
    "asset": "/assets/registered_adapter?view=overview",
    "asset, partitions": "/assets/registered_adapter?view=partitions",
    "asset, one partition": "/assets/registered_adapter?view=partitions&partition=line-3",
    "asset, checks": "/assets/registered_adapter?view=checks",
    "runs": "/runs",
    "one run": "/runs/{run}",
    "time line": "/overview/activity/timeline",
    "automation": "/automation",
    "sensor": "/locations/sovereign_pipeline/sensors/rollouts",
    "job": "/locations/sovereign_pipeline/jobs/chain",
    "job, partitions": "/locations/sovereign_pipeline/jobs/chain/partitions",
    "daemons": "/deployment/daemons",
}
"""Pages of Dagster's own."""


def dagsters(settings: Settings, wanted: str, repeats: int) -> Iterator[tuple[str, float, float]]:
    """Yield each page of Dagster's with the seconds of the slowest answer to what a browser asks for it, and the
    server's CPU seconds for all of them."""
    from sovereign_pipeline.base.pages import listen
    from sovereign_pipeline.dagster import services
    from sovereign_pipeline.dagster.resources import open_instance
    from sovereign_pipeline_tests.browser import open_browser

    pages = {name: address for name, address in DAGSTERS.items() if wanted in f"Dagster: {name}"}
    if not pages:
        return
    run = open_instance(settings).get_runs(limit=1)[0].run_id
    with listen(0, "") as free:
        here = f"http://127.0.0.1:{free.getsockname()[1]}"
    command = [sys.executable, "-m", "sovereign_pipeline.dagster.dagster_ui", here.rpartition(":")[2]]
    server = subprocess.Popen(
        command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env=environment_of(settings)
    )
    try:
        while not services._is_ready(services.Service("", command, lambda: services._has_loaded(here))):
            time.sleep(services.SECONDS_BETWEEN_LOOKS)
        with open_browser() as browser:
            asked = {name: _asked(browser, here + address.format(run=run)) for name, address in pages.items()}
        for name, queries in asked.items():
            found = {each: _measured_query(here, each, server.pid, repeats) for each in queries}
            slowest = max(found, key=lambda each: found[each])
            called = json.loads(slowest)["operationName"]
            cpu = sum(cpu for _, cpu in found.values())
            yield f"Dagster: {name} ({len(found)} queries, slowest {called})", found[slowest][0], cpu
    finally:
        server.terminate()
        server.wait()


def _asked(browser: Any, address: str) -> list[str]:
    """Return the different queries that a page sends."""
    found, page = dict[str, None](), browser.new_page()
    page.on("request", lambda each: found.setdefault(each.post_data) if "/graphql" in each.url else None)
    page.goto(address, wait_until="networkidle")
    before = -1
    while len(found) > before:
        before = len(found)
        page.wait_for_timeout(5_000)
    page.close()
    return [each for each in found if each]


def _measured_query(here: str, query: str, server: int, repeats: int) -> tuple[float, float]:
    """Return the median seconds until a query's answer, and the fewest CPU seconds of the server."""
    wall, cpu = [], []
    for _ in range(repeats):
        started, used = time.monotonic(), cpu_of(server)
        request = urllib.request.Request(f"{here}/graphql", query.encode(), {"Content-Type": "application/json"})
        with urllib.request.urlopen(request) as answer:
            answer.read()
        wall.append(time.monotonic() - started)
        cpu.append(cpu_of(server) - used)
    return statistics.median(wall), min(cpu)


def cpu_of(process: int) -> float:
    """Return the CPU seconds of a process and its children until now."""
    total, waiting = 0, [str(process)]
    while waiting:
        each = waiting.pop()
        with suppress(OSError):  # it has ended
            fields = Path(f"/proc/{each}/stat").read_text().rpartition(")")[2].split()
            total += int(fields[11]) + int(fields[12])
            for children in Path(f"/proc/{each}/task").glob("*/children"):
                waiting += children.read_text().split()
    return total / os.sysconf("SC_CLK_TCK")


def commands() -> Iterator[tuple[str, ...]]:
    yield ("lines", "list", "--json")
    yield ("adapters", "list", "--json")
    yield ("adapters", "list", "--line", "line-3", "--json")
    yield ("run", RUN)


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
    arguments.add_argument("--postgresql", help="URL of an empty database, for the registry and for Dagster.")
    arguments.add_argument("--only", default="", help="Measure what has this in its name.")
    given = arguments.parse_args()
    with tempfile.TemporaryDirectory() as temporary:
        root = (given.keep or Path(temporary)).absolute()
        urls = {} if given.postgresql is None else dict.fromkeys(("registry_url", "dagster_url"), given.postgresql)
        settings = Settings(home=root / "home", data=root / "data", **urls)
        if not settings.home.exists():
            make(settings, given.lines, given.runs, given.adapters)
        machine = machine_facts()
        out = [
            f"{given.lines} lines, {given.runs:,} runs, {given.adapters:,} adapters; {machine['processor']}, "
            f"{machine['cores']} cores, load {os.getloadavg()[0]:.1f}\n",
            "| what | s | CPU s |\n|---|---:|---:|",
        ]
        for group in (ticks, pages):
            for name, work in group(settings):
                if given.only in name:
                    with redirect_stderr(StringIO()):
                        wall, cpu = measured(work, given.repeats)
                    say(f"{name}: {wall:.2f} s, {cpu:.2f} s of the processor")
                    out.append(f"| {name} | {wall:.2f} | {cpu:.2f} |")
        for name, wall, cpu in dagsters(settings, given.only, given.repeats):
            say(f"{name}: {wall:.2f} s, {cpu:.2f} s of the processor")
            out.append(f"| {name} | {wall:.2f} | {cpu:.2f} |")
        environment = {each: value for each, value in settings.to_environment().items() if each in VARIABLES.values()}
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
