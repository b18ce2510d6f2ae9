"""Two processes that share one model train what one process trains, and what they save is whole."""

import fcntl
import importlib.util
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import psutil
import pytest
from dagster_pipes import encode_env_var
from safetensors.torch import load_file
from transformers import AutoTokenizer

from sovereign_pipeline.base.errors import TrainingFailed
from sovereign_pipeline.base.settings import PROJECT_ROOT
from sovereign_pipeline.training.job import TrainingJob, lock_of_line
from sovereign_pipeline.training.launcher import run_trainer, worker_environment
from sovereign_pipeline.training.plan import make_plan
from sovereign_pipeline.training.rows import encode
from sovereign_pipeline_tests.training.conftest import letters
from sovereign_pipeline_tests.training.processes.halting import halt_at
from sovereign_pipeline_tests.training.processes.many import run_many
from sovereign_pipeline_tests.training.trainings import run as train_here

pytestmark = pytest.mark.slow

JobMaker = Callable[..., TrainingJob]
TWO = {"launcher": "accelerate", "count": 2}
FULL = {"adapter": "none", "rank": 16, "alpha": 32, "learning_rate": 2e-3}


def run(
    job: TrainingJob,
    progress: Callable[[str], None] = lambda line: None,
    environment: Mapping[str, str] | None = None,
) -> None:
    path = job.result.with_name("job.json")
    job.write(path)
    run_trainer(path, progress, environment)


def log(job: TrainingJob, name: str = "loss") -> list[float]:
    return [json.loads(line)[name] for line in (job.output / "training_log.jsonl").read_text().splitlines()]


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
    assert len(log(one)) == len(log(two)) > 3
    assert log(two) == pytest.approx(log(one), rel=near)
    assert log(two, "grad_norm") == pytest.approx(log(one, "grad_norm"), rel=20 * near)
    (made,) = one.output.rglob("*.safetensors")
    alone, together = load_file(made), load_file(two.output / made.relative_to(one.output))
    assert {name: tensor.shape for name, tensor in alone.items()} == {
        name: tensor.shape for name, tensor in together.items()
    }
    assert all(tensor.numel() and bool(tensor.any()) for tensor in together.values())
    assert max(float((alone[name] - together[name]).abs().max()) for name in alone) < 50 * near
    files = {str(file.relative_to(one.output)) for file in one.output.rglob("*") if file.is_file()}
    assert files == {str(file.relative_to(two.output)) for file in two.output.rglob("*") if file.is_file()}
    report = json.loads((two.output / "report.json").read_bytes())
    assert (report["devices"], report["sharding"]) == (2, two.devices.sharding)


def test_killed_and_resumed_two_processes_end_in_the_same_bytes(make_job: JobMaker, tmp_path: Path) -> None:
    whole, killed = (
        make_job(name, letters(40), sft={**FULL, "epochs": 1}, devices=TWO, checkpoints={"every_steps": 2, "keep": 1})
        for name in ("whole", "killed")
    )
    run(whole)

    def kill(line: str) -> None:
        if json.loads(line).get("step") == 3:
            for each in _trainers(killed):
                os.kill(each, signal.SIGKILL)

    with halt_at(3, tmp_path / "never") as environment, pytest.raises(TrainingFailed):
        run(killed, kill, environment)
    assert not killed.output.exists() and not _trainers(killed)
    lines: list[str] = []
    run(killed, lines.append)
    assert "resuming from step-00000002" in [json.loads(line)["message"] for line in lines]
    assert (whole.output / "model" / "model.safetensors").read_bytes() == (
        killed.output / "model" / "model.safetensors"
    ).read_bytes()


def test_several_devices_have_one_session_that_tells_their_steps(make_job: JobMaker) -> None:
    """Messages go to stderr, as a pod's do, and nothing else goes anywhere."""
    job = make_job("told", letters(12), sft={**FULL, "max_steps": 2}, devices=TWO)
    path = job.result.with_name("job.json")
    job.write(path)
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
            "DAGSTER_PIPES_MESSAGES": encode_env_var({"stdio": "stderr"}),
        },
        capture_output=True,
        text=True,
        check=True,
    )
    messages = [json.loads(line) for line in done.stderr.splitlines()]
    assert [each["method"] for each in messages if each["method"] != "log"] == ["opened", "closed"]
    told = [each["params"]["message"] for each in messages if each["method"] == "log"]
    steps = [message for message in told if message.startswith("step ")]
    assert [message.split(",")[0] for message in steps] == ["step 1/2", "step 2/2"]
    assert done.stdout == "" and job.output.exists()


@pytest.mark.security_case(
    "Another machine, or another account, connects to the processes that train one model together",
    "they meet in a file of the account's own, and nothing listens but on loopback",
)
def test_nothing_of_several_trainers_listens_but_on_loopback(make_job: JobMaker, tmp_path: Path) -> None:
    job = make_job("met", letters(12), sft={**FULL, "max_steps": 2}, devices=TWO)
    addresses: set[str] = set()

    def look(line: str) -> None:
        if json.loads(line).get("step") == 1:
            family = psutil.Process().children(recursive=True)
            trainers = [each for each in family if "worker" in " ".join(each.cmdline())]
            assert len(trainers) >= 2
            sockets = [each for process in family for each in process.net_connections("inet")]
            addresses.update(each.laddr.ip for each in sockets if each.status == psutil.CONN_LISTEN)
            (tmp_path / "seen").touch()

    with halt_at(1, tmp_path / "seen") as environment:
        run(job, look, environment)
    assert (tmp_path / "seen").exists()
    assert addresses <= {"127.0.0.1", "::1"}


def test_several_devices_wait_for_the_line_as_one_does(make_job: JobMaker) -> None:
    job = make_job("waits", letters(12), sft={**FULL, "max_length": 32}, devices=TWO)
    lines: list[str] = []
    with lock_of_line(job.checkpoint_directory).open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)

        def progress(line: str) -> None:
            lines.append(json.loads(line)["message"])
            fcntl.flock(held, fcntl.LOCK_UN)

        with pytest.raises(TrainingFailed, match="rows are longer"):
            run(job, progress)
    assert lines == ["waiting: another process holds waits.lock"]


def test_a_guard_in_every_process_is_one_failure(make_job: JobMaker) -> None:
    with pytest.raises(TrainingFailed, match="rows are longer than max_length 32"):
        run(make_job("cut", letters(12), sft={**FULL, "max_length": 32}, devices=TWO))


def _trainers(job: TrainingJob) -> list[int]:
    """The processes that have this job's file on their command line, except accelerate's launcher."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            command = (process / "cmdline").read_bytes()
        except (FileNotFoundError, ProcessLookupError):  # it ended meanwhile
            continue
        if str(job.result.with_name("job.json")).encode() in command and b"training.worker" in command:
            found.append(int(process.name))
    return found
