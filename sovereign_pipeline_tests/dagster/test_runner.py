"""What the terminal shows of a run, and how the reason it stopped comes out of Dagster's events."""

import multiprocessing
import os
import shutil
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import dagster as dg
import psutil
import pytest

from sovereign_pipeline.base.errors import InputError, RecipeError, SourceError
from sovereign_pipeline.base.settings import VARIABLES
from sovereign_pipeline.corpus.stages import RAW_CORPUS
from sovereign_pipeline.dagster.definitions import chain_job
from sovereign_pipeline.dagster.resources import open_instance, register_lines
from sovereign_pipeline.dagster.runner import _forking_anew, _signals_kept, reason_of, run_line
from sovereign_pipeline.record.stage import Built, Inputs, Workplace
from sovereign_pipeline_tests.conftest import DemoInstitution
from sovereign_pipeline_tests.dagster.conftest import CORPUS, Line
from sovereign_pipeline_tests.waiting import wait_until_ended


def test_a_refusal_keeps_message_hint_act_and_status(line: Line) -> None:
    def build(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
        raise RecipeError("lamps.yaml: wrong.", "Mend it.", act="run_line", line="lamps")

    result = line.materialize(CORPUS[:1], {"raw_corpus": replace(RAW_CORPUS, build=build)})
    stopped = reason_of(result)  # type: ignore[arg-type]
    assert (stopped.message, stopped.hint, stopped.exit_status) == ("lamps.yaml: wrong.", "Mend it.", 2)
    assert stopped.remedy is not None
    assert (stopped.remedy.act, dict(stopped.remedy.about)) == ("run_line", {"line": "lamps"})


def test_the_steps_of_the_next_run_get_its_variables(monkeypatch: pytest.MonkeyPatch) -> None:
    context = multiprocessing.get_context("forkserver")
    context.set_forkserver_preload([])
    with _forking_anew():  # a test before this one may have left a server, with the variables of its time
        pass
    seen = []
    for run in ("first", "second"):
        monkeypatch.setenv("LAMPS", run)
        with _forking_anew(), context.Pool(1) as steps:
            seen.append(steps.apply(os.getenv, ("LAMPS",)))
    assert seen == ["first", "second"]


def test_a_run_that_a_script_began_in_the_background_leaves_sigterm_as_it_was() -> None:
    @dg.asset
    def lamp() -> None: ...

    handlers = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)}
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # as a shell without job control has it for `sovereign run … &`
    signal.signal(signal.SIGTERM, signal.SIG_DFL)
    try:
        with _signals_kept():
            assert dg.materialize([lamp]).success
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    finally:
        for number, handler in handlers.items():
            signal.signal(number, handler)


@pytest.mark.slow
def test_a_run_ends_with_the_stage_that_is_named_and_tells_of_itself_alone(
    institution: DemoInstitution, monkeypatch: pytest.MonkeyPatch
) -> None:
    institution.write()
    environment = {**os.environ, **institution.settings.to_environment()}
    for variable in (*VARIABLES.values(), "DAGSTER_HOME"):
        monkeypatch.setenv(variable, "")  # restored, whatever opening the instance sets
    command: list[str | Path] = [Path(sys.executable).with_name("sovereign"), "run", "lamps", "--until"]

    def run_until(kind: str) -> str:
        done = subprocess.run([*command, kind], env=environment, capture_output=True, text=True)
        assert done.returncode == 0, done.stdout + done.stderr
        return done.stdout

    assert "✓ raw_corpus" in run_until("raw_corpus")
    instance = open_instance(institution.settings)
    (run,) = instance.get_runs()
    assert run.remote_job_origin is not None  # without a code location it is on no time line
    assert run.remote_job_origin.repository_origin.code_location_origin.location_name == "sovereign_pipeline"
    for _ in range(51):
        instance.add_run(dg.DagsterRun("chain", tags={"dagster/partition": "buoys"}))
    told = run_until("classified_corpus")
    assert "✓ classified_corpus" in told and "✓ raw_corpus" not in told
    store = institution.workplace().store
    assert store.current("lamps", "classified_corpus") is not None
    assert store.current("lamps", "scrubbed_corpus") is store.current("lamps", "base_model") is None
    with dg.instance_for_test() as instance, pytest.raises(InputError, match="did you mean 'classified_corpus'"):
        run_line(instance, chain_job, institution.workplace(), print, "clasified_corpus")


def test_a_source_that_is_missing_starts_no_run(line: Line) -> None:
    """Dagster would show every asset of the run as failed, for all lines."""
    (source,) = line.institution.recipe["sources"]
    source["path"] = "sources/nowhere.jsonl"
    line.institution.write()
    with pytest.raises(SourceError):
        run_line(line.instance, chain_job, line.institution.workplace(), print)
    assert line.instance.get_runs() == []


def test_a_line_without_a_recipe_is_no_partition_any_more(line: Line) -> None:
    recipe = line.institution.settings.data / "lines" / "lamps.yaml"
    other = recipe.with_name("buoys.yaml")
    for _ in range(2):
        shutil.copyfile(recipe, other)
        assert register_lines(line.instance, line.institution.settings) == ["buoys"]
        other.unlink()
        assert register_lines(line.instance, line.institution.settings) == []
        assert line.instance.get_dynamic_partitions("line") == ["lamps"]


RUN = """
import multiprocessing, time
context = multiprocessing.get_context("forkserver")
context.set_forkserver_preload(["sovereign_pipeline.dagster.step_server"])
step = context.Process(target=time.sleep, args=(600,))
step.start()
print(step.pid, flush=True)
time.sleep(600)
"""


def test_it_ends_with_a_run_that_is_killed() -> None:
    with subprocess.Popen([sys.executable, "-c", RUN], stdout=subprocess.PIPE, text=True) as run:
        assert run.stdout is not None
        step = psutil.Process(int(run.stdout.readline()))
        server = step.parent()
        try:
            assert server is not None and server.ppid() == run.pid
            run.kill()
            wait_until_ended([server])
        finally:
            step.kill()
            run.kill()
