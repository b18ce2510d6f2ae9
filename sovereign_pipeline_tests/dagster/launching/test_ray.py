"""The trainer as a Ray job: what it is given there, how it reports, and how it ends.

Jobs run on a stand-in of Ray's head, and on Ray itself where `ray[default]` is installed.
"""

import importlib.util
import json
import os
import shlex
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from sovereign_pipeline.base.errors import InputError, TrainingFailed
from sovereign_pipeline.policy.institution import Ray
from sovereign_pipeline.training import ray_jobs
from sovereign_pipeline.training.job import KEY_VARIABLE, Failure, TrainingResult, read_result
from sovereign_pipeline.training.launcher import remote_environment
from sovereign_pipeline.training.ray_jobs import run_trainer_on_ray
from sovereign_pipeline_tests.conftest import DemoInstitution
from sovereign_pipeline_tests.dagster.launching.conftest import SECRET, launch_under_dagster
from sovereign_pipeline_tests.dagster.stand_ins import RayHead
from sovereign_pipeline_tests.training.conftest import JobMaker, letters
from sovereign_pipeline_tests.training.processes.launching import program, written
from sovereign_pipeline_tests.waiting import SECONDS, wait_until

pytestmark = pytest.mark.slow

HAS_RAY_DASHBOARD = importlib.util.find_spec("aiohttp_cors") is not None and importlib.util.find_spec("opencensus")


@pytest.fixture(scope="module")
def ray_itself(tmp_path_factory: pytest.TempPathFactory) -> Iterator[str]:
    """A head of its own ports and directory, ended by its process and not by `ray stop`, which ends every Ray here."""
    if not HAS_RAY_DASHBOARD:
        pytest.skip("the head of a Ray cluster needs ray[default]")
    scratch = tempfile.mkdtemp(prefix="ray-")  # short, for the paths of its sockets
    command = [str(Path(sys.executable).parent / "ray"), "start", "--head", "--block", "--num-cpus=2", "--num-gpus=0"]
    command += ["--node-ip-address=127.0.0.1", "--dashboard-host=127.0.0.1", "--disable-usage-stats", "--port=26379"]
    command += ["--dashboard-port=28265", "--dashboard-agent-listen-port=28266", f"--temp-dir={scratch}"]
    command += [f"--object-store-memory={100 * 2**20}"]
    log = tmp_path_factory.mktemp("ray") / "log"
    with pytest.MonkeyPatch.context() as patch, log.open("wb") as printed:
        patch.setenv("RAY_AUTH_MODE", "token")
        patch.setenv("RAY_AUTH_TOKEN", SECRET)
        environment = {**os.environ, "NODE_SECRET": SECRET}
        process = subprocess.Popen(command, env=environment, stdout=printed, stderr=printed, start_new_session=True)
        try:
            wait_until(lambda: takes_a_job("http://127.0.0.1:28265"), log.read_text)
            yield "http://127.0.0.1:28265"
        finally:
            process.terminate()
            process.wait(timeout=SECONDS)
            shutil.rmtree(scratch)


@pytest.fixture(params=["stand-in", "ray"])
def head(request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a head that takes jobs, whose node was started with a secret in its environment."""
    if request.param == "ray":
        yield request.getfixturevalue("ray_itself")
        return
    with RayHead({"PATH": os.environ["PATH"], "NODE_SECRET": SECRET}).serving() as server:
        yield server.address


def takes_a_job(address: str) -> bool:
    from ray.exceptions import RayError
    from ray.job_submission import JobSubmissionClient

    try:
        return bool(JobSubmissionClient(address).submit_job(entrypoint="true"))
    except (ConnectionError, RuntimeError, RayError):
        return False


def on_ray(head: str, python: str) -> Ray:
    return Ray.model_validate({"where": "ray", "address": head, "python": python, "gpus": 0})


@pytest.mark.slow
def test_a_ray_job_trains_and_reports_through_pipes(
    head: str, python: str, make_job: JobMaker, institution: DemoInstitution, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RAY_ADDRESS", "10.9.9.9:6379")  # the corpus's cluster: not this one
    job = make_job("runs", letters(12), sft={"epochs": 1})
    log = launch_under_dagster(institution, on_ray(head, python).model_dump(mode="json"), written(job))
    assert any("step 1/" in line and "tokens/s" in line for line in log)
    assert any("is SUCCEEDED" in line for line in log)
    assert not any("PLANTED" in line or SECRET in line for line in log)
    assert read_result(job.result).measured["tokens_per_second"] > 0
    assert (job.output / "adapter").is_dir()
    assert os.environ["RAY_ADDRESS"] == "10.9.9.9:6379"


@pytest.mark.slow
def test_an_interrupt_stops_the_ray_job_with_a_checkpoint(head: str, python: str, make_job: JobMaker) -> None:
    job = make_job("stopped", letters(12), sft={"epochs": 2000})

    def progress(line: str) -> None:
        if "is RUNNING" in line:
            wait_until(lambda: messages.exists() and "step 3/" in messages.read_text(), lambda: "no third step")
            raise KeyboardInterrupt

    path = written(job)
    messages = path.parent / "messages.jsonl"
    with pytest.raises(KeyboardInterrupt):
        run_trainer_on_ray(path, on_ray(head, python), progress, pipes_by_hand(messages))
    # The job was waited for, so what it left is there now.
    with pytest.raises(TrainingFailed, match=r"stopped, as requested, at step \d+ of \d+"):
        read_result(job.result)
    (checkpoint,) = job.checkpoint_directory.glob("step-*")
    assert int(checkpoint.name.removeprefix("step-")) >= 3


def test_ray_waits_longer_for_a_checkpoint_than_it_does_by_itself(
    ray_itself: str, make_job: JobMaker, tmp_path: Path
) -> None:
    started, saved = tmp_path / "started", tmp_path / "saved"
    python = program(
        tmp_path / "python",
        f"trap 'sleep 6; touch {saved}; exit 1' TERM\ntouch {started}\nwhile true; do sleep 0.1; done",
    )

    def progress(line: str) -> None:
        if "is RUNNING" in line:
            while not started.exists():
                time.sleep(0.05)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_trainer_on_ray(written(make_job("slow", letters(2))), on_ray(ray_itself, python), progress, {})
    assert saved.exists()


def pipes_by_hand(messages: Path) -> dict[str, str]:
    """What opens a Pipes session whose messages go to a file; nobody reads them."""
    from dagster_pipes import encode_env_var

    context = messages.with_name("context.json")
    nothing: tuple[str, ...] = ("asset_keys", "code_version_by_asset_key", "provenance_by_asset_key", "partition_key")
    nothing += ("partition_key_range", "partition_time_window", "job_name")
    context.write_text(json.dumps({**dict.fromkeys(nothing), "run_id": "r", "retry_number": 0, "extras": {}}))
    return {
        "DAGSTER_PIPES_CONTEXT": encode_env_var({"path": str(context)}),
        "DAGSTER_PIPES_MESSAGES": encode_env_var({"path": str(messages)}),
    }


def test_a_ray_job_gets_the_allowlist_and_not_its_nodes_environment(
    head: str, make_job: JobMaker, tmp_path: Path
) -> None:
    job = make_job("env", letters(2))
    result = shlex.quote(TrainingResult().model_dump_json())
    shown = tmp_path / "shown"
    python = program(tmp_path / "python", f"env -0 > {shown}\necho {result} > {job.result}")
    given = {"DAGSTER_PIPES_CONTEXT": "a 'b' $c", KEY_VARIABLE: "0" * 64}
    run_trainer_on_ray(written(job), on_ray(head, python), lambda line: None, given)
    lines = [line.partition("=") for line in shown.read_text().split("\0") if line]
    environment = {name: value for name, _, value in lines}
    assert environment.items() >= given.items()
    assert environment.items() >= remote_environment(job.result.with_name("job.json")).items()
    assert SECRET not in shown.read_text()
    from_the_node = {"PATH", "CUDA_VISIBLE_DEVICES", "LANG", "LC_ALL", "LD_LIBRARY_PATH", "TMPDIR", "OMP_NUM_THREADS"}
    of_the_shell = {"PWD", "SHLVL", "_"}
    assert set(environment) - from_the_node - of_the_shell - {"MKL_NUM_THREADS"} == {
        *remote_environment(Path("/job.json")),
        *given,
    }


def test_a_ray_job_that_is_killed_is_a_failure_with_a_remedy(head: str, make_job: JobMaker, tmp_path: Path) -> None:
    python = program(tmp_path / "python", "kill -9 $$")
    with pytest.raises(TrainingFailed, match=r"(?s)on Ray ended as FAILED .*, without a result.*Lower.*max_length"):
        run_trainer_on_ray(written(make_job("killed", letters(2))), on_ray(head, python), lambda line: None, {})


def test_a_ray_job_that_says_why_it_stopped_is_quoted(head: str, make_job: JobMaker, tmp_path: Path) -> None:
    job = make_job("guard", letters(2))
    answer = shlex.quote(TrainingResult(failure=Failure(message="Too many rows are cut.")).model_dump_json())
    python = program(tmp_path / "python", f"echo {answer} > {job.result}\nexit 1")
    with pytest.raises(TrainingFailed, match="Too many rows are cut"):
        run_trainer_on_ray(written(job), on_ray(head, python), lambda line: None, {})


def test_a_ray_job_that_ends_well_without_an_answer_is_a_failure(head: str, make_job: JobMaker, tmp_path: Path) -> None:
    python = program(tmp_path / "python", "exit 0")
    with pytest.raises(TrainingFailed, match="ended without a result"):
        run_trainer_on_ray(written(make_job("silent", letters(2))), on_ray(head, python), lambda line: None, {})


def test_ray_is_told_what_to_reserve_and_how_long_a_checkpoint_takes(make_job: JobMaker, tmp_path: Path) -> None:
    job = make_job("reserved", letters(2))
    answer = shlex.quote(TrainingResult().model_dump_json())
    python = program(tmp_path / "python", f"echo {answer} > {job.result}")
    with RayHead({"PATH": os.environ["PATH"]}).serving() as server:
        place = Ray(
            where="ray", address=server.address, python=python, gpus=2, cpus=8, memory_gib=64, resources={"h100": 1}
        )
        run_trainer_on_ray(written(job), place, lambda line: None, {KEY_VARIABLE: "1" * 64})
        (submitted,) = [body for method, path, body in server.seen if (method, path) == ("POST", "/api/jobs/")]
    assert submitted["entrypoint_num_gpus"] == 2 and submitted["entrypoint_num_cpus"] == 8
    assert submitted["entrypoint_memory"] == 64 * 2**30 and submitted["entrypoint_resources"] == {"h100": 1}
    assert submitted["runtime_env"]["env_vars"] == {"RAY_JOB_STOP_WAIT_TIME_S": "300", KEY_VARIABLE: "1" * 64}
    assert "1" * 64 not in submitted["entrypoint"], "other accounts of the node can read a command line"
    assert SECRET not in json.dumps(submitted)


def test_a_job_on_several_nodes_reserves_them_itself_and_leaves_no_key(make_job: JobMaker, tmp_path: Path) -> None:
    job = make_job("nodes", letters(2), devices={"launcher": "accelerate", "count": 4})
    answer = shlex.quote(TrainingResult().model_dump_json())
    python = program(tmp_path / "python", f'cat "$3" "$4" > {tmp_path / "read"}\necho {answer} > {job.result}')
    with RayHead({"PATH": os.environ["PATH"]}).serving() as server:
        place = Ray(where="ray", address=server.address, python=python, gpus=2, devices_per_node=2, interface="ib0")
        run_trainer_on_ray(written(job), place, lambda line: None, {KEY_VARIABLE: "1" * 64}, {"V": tmp_path / "vault"})
        (submitted,) = [body for method, path, body in server.seen if (method, path) == ("POST", "/api/jobs/")]
    assert (submitted["entrypoint_num_gpus"], submitted["entrypoint_num_cpus"]) == (0, 0)
    assert "1" * 64 not in submitted["entrypoint"]
    order, _, nodes = (tmp_path / "read").read_text().partition("}{")
    assert json.loads(order + "}")["withheld"] == {"V": str(tmp_path / "vault")}
    assert json.loads("{" + nodes) == {"count": 2, "python": python, "reserved": {"GPU": 2.0}}
    assert not job.result.with_name("order.json").exists()


def test_a_head_that_is_away_for_a_while_loses_no_job(make_job: JobMaker, tmp_path: Path) -> None:
    job = make_job("away", letters(2))
    answer = shlex.quote(TrainingResult().model_dump_json())
    python = program(tmp_path / "python", f"sleep 0.5\necho {answer} > {job.result}")
    lines: list[str] = []
    with RayHead({"PATH": os.environ["PATH"]}).serving() as server:
        looks = iter(range(1000))
        server.fails = lambda method, path: path.startswith("/api/jobs/sovereign-") and next(looks) < 5
        run_trainer_on_ray(written(job), Ray(where="ray", address=server.address, python=python), lines.append, {})
    assert len([line for line in lines if "Ray does not answer" in line]) == 1
    assert lines[-1].endswith("is SUCCEEDED")


def test_a_head_that_stays_away_is_a_failure_that_names_the_job(
    make_job: JobMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ray_jobs, "SECONDS_OUT_OF_REACH", 0.3)
    python = program(tmp_path / "python", "sleep 60")
    lines: list[str] = []
    with RayHead({"PATH": os.environ["PATH"]}).serving() as server:
        server.fails = lambda method, path: path.startswith("/api/jobs/sovereign-")
        place = Ray(where="ray", address=server.address, python=python)
        with pytest.raises(TrainingFailed, match=r"job sovereign-\w+ may still run"):
            run_trainer_on_ray(written(make_job("lost", letters(2))), place, lines.append, {})
    assert "could not be stopped and may still run" in lines[-1]


def test_no_ray_there_and_no_ray_here_say_what_to_do(make_job: JobMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    job = written(make_job("none", letters(2)))
    nobody = Ray(where="ray", address="http://127.0.0.1:9")
    with pytest.raises(InputError, match=r"(?s)no Ray answers there.*head's dashboard"):
        run_trainer_on_ray(job, nobody, lambda line: None, {})
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'sovereign-pipeline\[ray\]'"):
        run_trainer_on_ray(job, nobody, lambda line: None, {})
