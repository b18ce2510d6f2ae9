"""The trainer as a Ray job: what it is given there, how it reports, and how it ends.

Jobs run on a stand-in of Ray's head; `training/test_ray_nodes.py` starts Ray itself.
"""

import importlib.util
import json
import os
import shlex
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sovereign_pipeline.base.errors import InputError, TrainingFailed
from sovereign_pipeline.policy.institution import Ray
from sovereign_pipeline.training import ray_jobs
from sovereign_pipeline.training.job import KEY_VARIABLE, TrainingJob, TrainingResult, read_result
from sovereign_pipeline.training.launcher import remote_environment
from sovereign_pipeline.training.ray_jobs import run_trainer_on_ray
from sovereign_pipeline_tests.conftest import DemoInstitution
from sovereign_pipeline_tests.dagster.launching.conftest import SECRET, launch_under_dagster
from sovereign_pipeline_tests.dagster.stand_ins import RayHead
from sovereign_pipeline_tests.training.conftest import JobMaker, letters
from sovereign_pipeline_tests.training.processes.launching import program, written
from sovereign_pipeline_tests.waiting import wait_until

pytestmark = pytest.mark.slow


@pytest.fixture
def head() -> Iterator[RayHead]:
    """A head that takes jobs, whose node was started with a secret in its environment."""
    head = RayHead({"PATH": os.environ["PATH"], "NODE_SECRET": SECRET})
    with head.serving():
        yield head


def on_ray(head: RayHead, python: str, **more: Any) -> Ray:
    return Ray.model_validate({"where": "ray", "address": head.address, "python": python, "gpus": 0, **more})


def submitted(head: RayHead) -> Any:
    (job,) = [body for method, path, body in head.seen if (method, path) == ("POST", "/api/jobs/")]
    return job


def answering(directory: Path, job: TrainingJob, before: str = "") -> str:
    """An interpreter that trains nothing and leaves a result."""
    answer = shlex.quote(TrainingResult().model_dump_json())
    return program(directory / "python", f"{before}\necho {answer} > {job.result}")


def test_a_ray_job_trains_and_reports_through_pipes(
    head: RayHead, python: str, make_job: JobMaker, institution: DemoInstitution, monkeypatch: pytest.MonkeyPatch
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


def test_an_interrupt_stops_the_ray_job_and_waits_for_its_checkpoint(
    head: RayHead, make_job: JobMaker, tmp_path: Path
) -> None:
    started, saved = tmp_path / "started", tmp_path / "saved"
    python = program(
        tmp_path / "python",
        f"trap 'sleep 0.3; touch {saved}; exit 1' TERM\ntouch {started}\nwhile true; do sleep 0.1; done",
    )

    def progress(line: str) -> None:
        if "is RUNNING" in line:
            wait_until(started.exists, lambda: "the job did not start")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_trainer_on_ray(written(make_job("slow", letters(2))), on_ray(head, python), progress, {})
    assert saved.exists()


def test_a_ray_job_gets_the_allowlist_and_not_its_nodes_environment(
    head: RayHead, make_job: JobMaker, tmp_path: Path
) -> None:
    job = make_job("env", letters(2))
    shown = tmp_path / "shown"
    python = answering(tmp_path, job, f"env -0 > {shown}")
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


@pytest.mark.parametrize(
    ("script", "said"),
    [
        ("kill -9 $$", r"(?s)on Ray ended as FAILED .*, without a result.*Lower.*max_length"),
        ("exit 0", "ended without a result"),
    ],
    ids=["killed", "silent"],
)
def test_a_ray_job_without_a_result_is_a_failure(
    head: RayHead, script: str, said: str, make_job: JobMaker, tmp_path: Path
) -> None:
    python = program(tmp_path / "python", script)
    with pytest.raises(TrainingFailed, match=said):
        run_trainer_on_ray(written(make_job("killed", letters(2))), on_ray(head, python), lambda line: None, {})


def test_ray_is_told_what_to_reserve_and_how_long_a_checkpoint_takes(
    head: RayHead, make_job: JobMaker, tmp_path: Path
) -> None:
    job = make_job("reserved", letters(2))
    reserved = {"gpus": 2, "cpus": 8, "memory_gib": 64, "resources": {"h100": 1}}
    place = on_ray(head, answering(tmp_path, job), **reserved)
    run_trainer_on_ray(written(job), place, lambda line: None, {KEY_VARIABLE: "1" * 64})
    given = submitted(head)
    assert given["entrypoint_num_gpus"] == 2 and given["entrypoint_num_cpus"] == 8
    assert given["entrypoint_memory"] == 64 * 2**30 and given["entrypoint_resources"] == {"h100": 1}
    assert given["runtime_env"]["env_vars"] == {"RAY_JOB_STOP_WAIT_TIME_S": "300", KEY_VARIABLE: "1" * 64}
    assert "1" * 64 not in given["entrypoint"], "other accounts of the node can read a command line"
    assert SECRET not in json.dumps(given)


def test_a_job_on_several_nodes_reserves_them_itself_and_leaves_no_key(
    head: RayHead, make_job: JobMaker, tmp_path: Path
) -> None:
    job = make_job("nodes", letters(2), devices={"launcher": "accelerate", "count": 4})
    python = answering(tmp_path, job, f'cat "$3" "$4" > {tmp_path / "read"}')
    place = on_ray(head, python, gpus=2, devices_per_node=2, interface="ib0")
    run_trainer_on_ray(written(job), place, lambda line: None, {KEY_VARIABLE: "1" * 64}, {"V": tmp_path / "vault"})
    given = submitted(head)
    assert (given["entrypoint_num_gpus"], given["entrypoint_num_cpus"]) == (0, 0)
    assert "1" * 64 not in given["entrypoint"]
    order, _, nodes = (tmp_path / "read").read_text().partition("}{")
    assert json.loads(order + "}")["withheld"] == {"V": str(tmp_path / "vault")}
    assert json.loads("{" + nodes) == {"count": 2, "python": python, "reserved": {"GPU": 2.0}}
    assert not job.result.with_name("order.json").exists()


def test_a_head_that_is_away_for_a_while_loses_no_job_and_one_that_stays_away_is_a_failure(
    head: RayHead, make_job: JobMaker, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    job, lines = make_job("away", letters(2)), list[str]()
    looks = iter(range(1000))
    head.fails = lambda method, path: path.startswith("/api/jobs/sovereign-") and next(looks) < 5
    run_trainer_on_ray(written(job), on_ray(head, answering(tmp_path, job, "sleep 0.5")), lines.append, {})
    assert len([line for line in lines if "Ray does not answer" in line]) == 1
    assert lines[-1].endswith("is SUCCEEDED")

    monkeypatch.setattr(ray_jobs, "SECONDS_OUT_OF_REACH", 0.3)
    head.fails = lambda method, path: path.startswith("/api/jobs/sovereign-")
    place = on_ray(head, program(tmp_path / "python", "sleep 60"))
    with pytest.raises(TrainingFailed, match=r"job sovereign-\w+ may still be running"):
        run_trainer_on_ray(written(make_job("lost", letters(2))), place, lines.append, {})
    assert "could not be stopped and may still be running" in lines[-1]


def test_no_ray_there_and_no_ray_here_say_what_to_do(make_job: JobMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    job = written(make_job("none", letters(2)))
    nobody = Ray(where="ray", address="http://127.0.0.1:9")
    with pytest.raises(InputError, match=r"(?s)no Ray cluster answers at.*head's dashboard"):
        run_trainer_on_ray(job, nobody, lambda line: None, {})
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
    with pytest.raises(InputError, match=r"pip install 'sovereign-pipeline\[ray\]'"):
        run_trainer_on_ray(job, nobody, lambda line: None, {})
