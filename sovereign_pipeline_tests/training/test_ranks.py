"""Two processes that share one model train what one process trains, and what they save is whole."""

import fcntl
import importlib.util
import json
import os
import subprocess
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import psutil
import pytest
from dagster_pipes import encode_env_var
from safetensors.torch import load_file
from transformers import AutoTokenizer

from sovereign_pipeline.base.errors import TrainingFailed, TrainingStopped
from sovereign_pipeline.base.settings import PROJECT_ROOT
from sovereign_pipeline.training.job import TrainingJob, lock_of_line, read_result
from sovereign_pipeline.training.launcher import run_trainer, worker_environment
from sovereign_pipeline.training.plan import make_plan
from sovereign_pipeline.training.rows import encode
from sovereign_pipeline_tests.training.conftest import TWO, JobMaker, labels, letters, pairs
from sovereign_pipeline_tests.training.processes.launching import KEY, halt_at, run_many, written
from sovereign_pipeline_tests.training.trainings import files, log, losses, report
from sovereign_pipeline_tests.training.trainings import run as train_here

pytestmark = pytest.mark.slow

FULL = {"adapter": "none", "rank": 16, "alpha": 32, "learning_rate": 2e-3}


def run(
    job: TrainingJob,
    progress: Callable[[str], None] = lambda line: None,
    environment: Mapping[str, str] | None = None,
) -> None:
    run_trainer(written(job), progress, {**KEY, **(environment or {})})


ZERO3 = pytest.param(
    "zero3",
    marks=pytest.mark.skipif(
        importlib.util.find_spec("deepspeed") is None, reason="needs deepspeed: pip install sovereign-pipeline[zero3]"
    ),
)


KINDS: dict[str, dict[str, Any]] = {
    "full": FULL,
    "lora": {"adapter": "lora"},
    "lora in bfloat16": {"adapter": "lora", "precision": "bfloat16"},
    "lora unpacked": {"adapter": "lora", "packing": False, "batch_size": 2},
}
ROWS = letters(37)


@pytest.fixture(scope="module", params=["fsdp2", ZERO3])
def trained(
    request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory, make_session_job: JobMaker
) -> dict[str, tuple[TrainingJob, TrainingJob]]:
    """Of each kind a job of one process and one of two. Neither packs nor rows are even in number, so that in the last
    step one process has fewer than the other."""
    root = tmp_path_factory.mktemp(request.param)
    jobs = {}
    for kind, sft in KINDS.items():
        name = kind.replace(" ", "-")
        alone = {**sft, "epochs": 1, "gradient_accumulation": 2}
        devices = {**TWO, "sharding": request.param}
        jobs[kind] = (
            make_session_job(root, f"one-{name}", ROWS, sft=alone),
            make_session_job(root, f"two-{name}", ROWS, sft={**sft, "epochs": 1}, devices=devices),
        )
        train_here(jobs[kind][0])
    together = [two for _, two in jobs.values()]
    if request.param == "fsdp2":
        run_many([(job, None) for job in together])
    else:  # DeepSpeed keeps what it began with in its process
        for job in together:
            run(job)
    return jobs


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_train_what_one_does(trained: dict[str, tuple[TrainingJob, TrainingJob]], kind: str) -> None:
    one, two = trained[kind]
    tokenizer = AutoTokenizer.from_pretrained(two.base_model)
    plan = make_plan(two, [encode(tokenizer, "sft", dict(row), two.eos_ids) for row in ROWS])
    assert len(plan.units) % plan.units_a_pass == 1, "one process has nothing, or half of a batch, at the end"
    near = 1e-4 if kind != "lora in bfloat16" else 2e-2
    assert_alike(one, two, near)
    assert report(two)["sharding"] == two.devices.sharding


def assert_alike(one: TrainingJob, two: TrainingJob, near: float) -> None:
    """Whether two processes trained what one did. near: relative, of the losses."""
    assert len(losses(one)) == len(losses(two)) >= 4
    assert losses(two) == pytest.approx(losses(one), rel=near)
    for alone, together in zip(log(one), log(two), strict=True):  # gradients, rewards and kto's divergence too
        assert together == pytest.approx(alone, rel=20 * near, abs=1e-5)
    (made,) = one.output.rglob("*.safetensors")
    ours, theirs = load_file(two.output / made.relative_to(one.output)), load_file(made)
    assert {name: each.shape for name, each in ours.items()} == {name: each.shape for name, each in theirs.items()}
    assert all(each.numel() and bool(each.any()) for each in ours.values())
    assert max(float((ours[name] - theirs[name]).abs().max()) for name in ours) < 50 * near
    assert files(one.output).keys() == files(two.output).keys()
    assert report(two)["devices"] == 2
    assert report(two)["data_order_sha256"] == report(one)["data_order_sha256"]


@pytest.mark.security_case(
    "Another machine or account connects to the processes of a distributed training",
    "they meet through a private file, and listen only on loopback",
)
def test_killed_and_resumed_two_processes_end_in_the_same_bytes_and_listen_on_loopback_alone(
    trained: dict[str, tuple[TrainingJob, TrainingJob]], make_job: JobMaker, tmp_path: Path
) -> None:
    _, whole = trained["full"]
    checkpoints = {"every_steps": 2, "keep": 1}
    killed = make_job("killed", ROWS, sft={**FULL, "epochs": 1}, devices=whole.devices, checkpoints=checkpoints)

    addresses: list[set[str]] = []

    def kill(line: str) -> None:
        if json.loads(line).get("step") == 3:
            trainers = [psutil.Process(each) for each in _trainers(killed)]
            assert len(trainers) == 2
            sockets = [each for process in trainers for each in process.net_connections("inet")]
            addresses.append({each.laddr.ip for each in sockets if each.status == psutil.CONN_LISTEN})
            for each in trainers:
                each.kill()

    with halt_at(3, tmp_path / "never") as environment, pytest.raises(TrainingFailed):
        run(killed, kill, environment)
    assert not killed.output.exists() and not _trainers(killed)
    (listened,) = addresses
    assert listened <= {"127.0.0.1", "::1"}
    lines: list[str] = []
    run(killed, lines.append)
    assert "resuming from step-00000002" in [json.loads(line)["message"] for line in lines]
    assert files(whole.output / "model") == files(killed.output / "model")


def test_several_devices_have_one_session_that_tells_their_steps(make_job: JobMaker) -> None:
    """Messages go to the session's file, and nothing else goes anywhere."""
    job = make_job("told", letters(12), sft={**FULL, "max_steps": 2}, devices=TWO)
    path = written(job)
    unknown = [
        "asset_keys",
        "code_version_by_asset_key",
        "job_name",
        "partition_key",
        "partition_key_range",
        "partition_time_window",
        "provenance_by_asset_key",
    ]
    session: Any = {"data": {**dict.fromkeys(unknown), "run_id": "r", "retry_number": 0, "extras": {}}}
    done = subprocess.run(
        [sys.executable, "-m", "sovereign_pipeline.training.ranks", str(path)],
        cwd=path.parent,
        env={
            **os.environ,
            **worker_environment(path),
            "PYTHONPATH": str(PROJECT_ROOT),
            "DAGSTER_PIPES_CONTEXT": encode_env_var(session),
            "DAGSTER_PIPES_MESSAGES": encode_env_var({"path": str(path.with_name("messages"))}),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    messages = [json.loads(line) for line in path.with_name("messages").read_text().splitlines()]
    assert [each["method"] for each in messages if each["method"] != "log"] == ["opened", "closed"]
    told = [each["params"]["message"] for each in messages if each["method"] == "log"]
    steps = [message for message in told if message.startswith("step ")]
    assert [message.split(",")[0] for message in steps] == ["step 1/2", "step 2/2"]
    assert done.stdout == done.stderr == "" and job.output.exists()


def test_several_devices_wait_for_the_line_as_one_does_and_their_guards_are_one_failure(make_job: JobMaker) -> None:
    job = make_job("waits", letters(12), sft={**FULL, "max_length": 32}, devices=TWO)
    lines: list[str] = []
    with lock_of_line(job.checkpoint_directory).open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)

        def progress(line: str) -> None:
            lines.append(json.loads(line)["message"])
            fcntl.flock(held, fcntl.LOCK_UN)

        with pytest.raises(TrainingFailed, match="rows are longer than max_length 32"):
            run(job, progress)
    assert lines == ["waiting: another process holds waits.lock"]


def test_several_devices_that_wait_for_the_line_can_be_stopped(make_job: JobMaker) -> None:
    job = make_job("stopped", letters(12), sft={**FULL, "max_steps": 2}, devices=TWO)
    path = written(job)
    command = [sys.executable, "-m", "sovereign_pipeline.training.ranks", str(path)]
    environment = {**os.environ, **worker_environment(path), "PYTHONPATH": str(PROJECT_ROOT)}
    with lock_of_line(job.checkpoint_directory).open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with subprocess.Popen(command, cwd=path.parent, env=environment, stdout=subprocess.PIPE) as launcher:
            assert launcher.stdout is not None
            assert json.loads(launcher.stdout.readline())["waiting"]
            launcher.terminate()
            assert launcher.wait() == 1
    with pytest.raises(TrainingStopped):
        read_result(job.result)


def _trainers(job: TrainingJob) -> list[int]:
    """The processes that have this job's file on their command line, except their launcher; halting ones too."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            continue
        if str(job.result.with_name("job.json")).encode() in command and b".worker" in command:
            found.append(int(process.name))
    return found


STEPS = {"warmup_steps": 0, "epochs": 1, "gradient_accumulation": 1, "learning_rate": 5e-3}
NEAR = 1e-4
"""Relative, of the losses of two processes and one in float32."""

# The last rows are fewer than two batches: in dpo one process has none of them, in ipo and kto one has half a batch.
ALONE: dict[str, dict[str, Any]] = {
    "dpo": {"batch_size": 1, "gradient_accumulation": 2},
    "ipo": {"batch_size": 2, "gradient_accumulation": 2, "packing": False},
    "kto": {"batch_size": 4},
    "reward": {"batch_size": 4, "max_steps": 4},
}
TOGETHER: dict[str, dict[str, Any]] = {
    "dpo": {"batch_size": 1},
    "ipo": {"batch_size": 2, "packing": False},
    "kto": {"batch_size": 2},
    "reward": {"batch_size": 2, "max_steps": None},
}
ROWS_OF_METHODS: dict[str, list[dict[str, Any]]] = {
    "dpo": [*pairs(9)],
    "ipo": [*pairs(15)],
    "kto": [*labels(19)],
    "reward": [*pairs(18)],
}


@dataclass(frozen=True)
class Trained:
    """Jobs that have run, by name; a job that failed has a result that says why, and no output."""

    alone: dict[str, TrainingJob]
    together: dict[str, TrainingJob]
    references: dict[str, bytes]
    """Files of reference log-probabilities that two processes wrote."""


@pytest.fixture(scope="module")
def preferences_trained(tmp_path_factory: pytest.TempPathFactory, make_session_job: JobMaker) -> Trained:
    first = make_session_job(tmp_path_factory.mktemp("sft"), "sft", letters(12), {"epochs": 1})
    train_here(first)
    root = {name: tmp_path_factory.mktemp(name) for name in ("alone", "together")}

    def job(where: str, name: str, method: str, section: dict[str, Any], **changes: Any) -> TrainingJob:
        section = {**STEPS, **section}
        if method != "reward":
            parent = first.output / "adapter"
            preference = {"method": method, **section}
            return make_session_job(
                root[where],
                name,
                ROWS_OF_METHODS[method],
                preference=preference,
                parent_adapter=parent,
                **changes,
            )
        held_out = root[where] / f"{name}.jsonl"
        held_out.write_text("".join(json.dumps(row) + "\n" for row in pairs(23)[18:]), encoding="utf-8")
        own = {"method": "reward", "reward_model": section, "held_out": held_out}
        return make_session_job(root[where], name, ROWS_OF_METHODS[method], **own, **changes)

    alone = {method: job("alone", method, method, section) for method, section in ALONE.items()}
    for each in alone.values():
        train_here(each)
    checkpoints = {"every_steps": 2, "keep": 1}
    two = {
        name: job("together", name.replace(" ", "-"), method, TOGETHER[method], devices=TWO, checkpoints=checkpoints)
        for name, method in [
            *zip(TOGETHER, TOGETHER, strict=True),
            ("stopped", "reward"),
            ("killed", "dpo"),
            ("not a mean", "dpo"),
        ]
    }
    faulty = list(two)[len(TOGETHER) : -1]
    _run([*((two[method], None) for method in TOGETHER), *((two[name], name) for name in faulty)])
    references = files(root["together"] / "references")
    for name in references:  # the killed one computes its own again, before it loads its checkpoint
        (root["together"] / "references" / name).unlink()
    for name in ("stopped", "killed"):
        two[name].result.unlink(missing_ok=True)  # the killed one may be ended before it writes any
    _run([(two["stopped"], None), (two["killed"], None), (two["not a mean"], "not a mean")])
    return Trained(alone, two, references)


def _run(jobs: list[tuple[TrainingJob, str | None]]) -> None:
    """In two processes, which end with the last job, whose fault ends them."""
    with pytest.raises(TrainingFailed):
        run_many(jobs)


@pytest.mark.parametrize("method", TOGETHER)
def test_two_processes_learn_what_one_does(preferences_trained: Trained, method: str) -> None:
    assert_alike(preferences_trained.alone[method], preferences_trained.together[method], NEAR)


def test_references_of_two_processes_are_those_of_one(preferences_trained: Trained) -> None:
    alone, together = (
        {name: json.loads(content)["values"] for name, content in each.items()}
        for each in (files(preferences_trained.alone["dpo"].references), preferences_trained.references)
    )
    assert len(alone) == len(together) == 3  # of dpo, ipo and kto
    one, two = ({key: value for values in each.values() for key, value in values.items()} for each in (alone, together))
    assert two == pytest.approx(one, abs=1e-3)


def test_held_out_pairs_are_scored_as_by_one(preferences_trained: Trained) -> None:
    one, two = (
        log(jobs["reward"], "held_out_scores") for jobs in (preferences_trained.alone, preferences_trained.together)
    )
    assert [row["id"] for row in two] == [row["id"] for row in one] and len(one) == 5
    for side in ("chosen", "rejected"):
        assert [row[side] for row in two] == pytest.approx([row[side] for row in one], abs=1e-3)
    found = report(preferences_trained.together["reward"])
    assert (found["rows"], found["rows_left_out"]) == (18, 2)


@pytest.mark.parametrize(("interrupted", "whole"), [("killed", "dpo"), ("stopped", "reward")])
def test_two_processes_resume_to_the_same_bytes(preferences_trained: Trained, interrupted: str, whole: str) -> None:
    resumed, uninterrupted = (
        preferences_trained.together[interrupted],
        preferences_trained.together[whole],
    )
    assert read_result(resumed.result).measured["resumed_at_step"] > 0
    assert files(resumed.output) == files(uninterrupted.output)


def test_a_loss_that_is_no_mean_over_both_is_refused(preferences_trained: Trained) -> None:
    with pytest.raises(TrainingFailed, match="Gradients are not accumulated as a mean"):
        read_result(preferences_trained.together["not a mean"].result)
    assert not preferences_trained.together["not a mean"].output.exists()
