"""The trainer's process: it answers, it waits for its device, it dies with its parent, and it says why it stopped."""

import fcntl
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from sovereign_pipeline.base.errors import TrainingFailed, TrainingStopped
from sovereign_pipeline.base.settings import PROJECT_ROOT
from sovereign_pipeline.dagster.plots import loss_curve_png
from sovereign_pipeline.training import launcher
from sovereign_pipeline.training.job import lock_of_line, read_result
from sovereign_pipeline.training.launcher import PARENT_VARIABLE, run_trainer
from sovereign_pipeline_tests.training.conftest import JobMaker, letters
from sovereign_pipeline_tests.training.processes.launching import KEY, halt_at, written
from sovereign_pipeline_tests.training.trainings import files, run
from sovereign_pipeline_tests.waiting import SECONDS, processes_of, wait_until

pytestmark = pytest.mark.slow


def test_a_job_streams_progress_and_answers(
    make_job: JobMaker, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    """And keeps its rows nowhere: neither beside the job nor in a cache of a library. It imports nothing from there."""
    monkeypatch.setenv("SOVEREIGN_TEST_SECRET", "must not reach the child")
    home = tmp_path / "home"
    home.mkdir()
    job = make_job("runs", letters(12), sft={"epochs": 1})
    job.locks.mkdir()
    lines: list[str] = []
    with (job.locks / "trainer-default.lock").open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)

        def progress(line: str) -> None:
            lines.append(line)
            if "waiting" in json.loads(line):
                fcntl.flock(held, fcntl.LOCK_UN)

        (written(job).parent / "json.py").write_text("raise SystemExit('imported')")
        run_trainer(written(job), progress, {"CUDA_VISIBLE_DEVICES": "", "HOME": str(home)})
    assert "another process holds trainer-default.lock" in json.loads(lines[0])["message"]
    messages = [json.loads(line) for line in lines[1:]]
    assert "saving the adapter and its report" in [each["message"] for each in messages]
    steps = [each for each in messages if "step" in each]
    assert [step["step"] for step in steps] == list(range(1, steps[0]["steps"] + 1))
    assert {"loss", "tokens_per_second", "seconds_left", "message"} <= steps[0].keys()
    assert read_result(job.result).measured["tokens_per_second"] > 0
    assert sorted(file.name for file in job.output.iterdir()) == ["adapter", "report.json", "training_log.jsonl"]
    assert loss_curve_png(job.output / "training_log.jsonl").startswith(b"\x89PNG")
    assert not list(home.iterdir()) and not list(tmp_path.rglob("*.arrow"))


def test_trainings_of_one_line_wait_for_each_other_on_whatever_devices(make_job: JobMaker) -> None:
    """The second of two jobs with the same checkpoints, each on a device of its own."""
    job = make_job("line", letters(12), sft={"epochs": 1})
    lines: list[str] = []
    with lock_of_line(job.checkpoint_directory).open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)

        def progress(line: str) -> None:
            lines.append(line)
            if "waiting" in json.loads(line):
                assert not (job.locks / "trainer-1.lock").exists()  # who waits keeps nobody from the device
                fcntl.flock(held, fcntl.LOCK_UN)

        run_trainer(written(job), progress, {"CUDA_VISIBLE_DEVICES": "1"})
    assert json.loads(lines[0])["message"] == "waiting: another process holds line.lock"
    assert job.output.exists() and (job.locks / "trainer-1.lock").exists()


@pytest.mark.parametrize("waits_for", ["line", "device"])
def test_a_trainer_that_waits_for_its_turn_can_be_stopped(make_job: JobMaker, waits_for: str) -> None:
    job = make_job("waits", letters(12))
    job.locks.mkdir()
    path = lock_of_line(job.checkpoint_directory) if waits_for == "line" else job.locks / "trainer-default.lock"

    def interrupt(line: str) -> None:
        if line.startswith("{"):
            raise KeyboardInterrupt

    with path.open("a") as held:
        fcntl.flock(held, fcntl.LOCK_EX)
        with pytest.raises(KeyboardInterrupt):
            run_trainer(written(job), interrupt, {"CUDA_VISIBLE_DEVICES": ""})
    with pytest.raises(TrainingStopped, match=path.name):
        read_result(job.result)


def test_a_trainer_that_does_not_end_in_time_is_killed_and_the_interrupt_goes_on(
    make_job: JobMaker, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(launcher, "SECONDS_FOR_A_CHECKPOINT", 1)
    seen: list[int] = []

    def interrupt(line: str) -> None:
        if line.startswith("{"):
            seen.extend(_children(os.getpid()))
            for child in seen:
                os.kill(child, signal.SIGSTOP)  # it hears nothing from here on
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_trainer(written(make_job("deaf", letters(12), sft={"epochs": 2000})), interrupt)
    assert seen and not any(_runs(child) for child in seen)


def test_an_unexpected_error_names_its_place_and_no_text(make_job: JobMaker) -> None:
    job = make_job("broken", [{"id": "R-0", "instruction": "a secret sentence"}])
    with pytest.raises(TrainingFailed, match=r"KeyError at rows\.py:\d+ encode") as caught:
        run_trainer(written(job), lambda line: None)
    assert "secret" not in str(caught.value)


def test_the_child_dies_when_its_parent_is_killed(make_job: JobMaker) -> None:
    job = make_job("orphan", letters(12), sft={"epochs": 2000})
    parent = subprocess.Popen(
        [
            sys.executable,
            "-c",
            "import sys; from pathlib import Path;"
            "from sovereign_pipeline.training.launcher import run_trainer;"
            "run_trainer(Path(sys.argv[1]), lambda line: print(line, flush=True))",
            str(written(job)),
        ],
        stdout=subprocess.PIPE,
        text=True,
        env={**os.environ, "PYTHONPATH": str(PROJECT_ROOT)},
    )
    assert parent.stdout is not None
    assert any("step 1/" in line for line in parent.stdout)
    (child,) = _children(parent.pid)
    parent.send_signal(signal.SIGKILL)
    parent.wait()
    parent.stdout.close()
    wait_until(lambda: not _runs(child), lambda: f"{child} outlives its parent")
    assert not job.output.exists() and not job.result.exists()


def test_a_second_interrupt_kills_the_child(make_job: JobMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(launcher, "SECONDS_OF_REPEATED_INTERRUPT", 0)
    seen: list[int] = []

    def interrupt(line: str) -> None:
        seen.extend(_children(os.getpid()))
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_trainer(written(make_job("stopped", letters(12), sft={"epochs": 2000})), interrupt)
    assert seen and not any(_runs(child) for child in seen)


def test_an_interrupt_and_its_echo_are_one(make_job: JobMaker, monkeypatch: pytest.MonkeyPatch) -> None:
    """As Ctrl-C comes to a step of `sovereign run`: from the terminal, and at once again from Dagster's executor."""
    monkeypatch.setattr(launcher, "SECONDS_OF_REPEATED_INTERRUPT", SECONDS)
    job = make_job("stopped", letters(12), sft={"epochs": 2000})
    told: list[str] = []

    def interrupt(line: str) -> None:
        if line.startswith("{") and json.loads(line).get("step") == 3:
            raise KeyboardInterrupt
        if line.startswith("stopping the trainer"):
            told.append(line)
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        run_trainer(written(job), interrupt)
    assert len(told) == 1
    (checkpoint,) = job.checkpoint_directory.glob("step-*")
    assert int(checkpoint.name.removeprefix("step-")) >= 3


@pytest.mark.parametrize("step", [5])
def test_kill_9_at_a_step_and_the_next_run_ends_in_the_same_bytes(
    make_job: JobMaker, tmp_path: Path, step: int
) -> None:
    sft, checkpoints = {"epochs": 4, "dropout": 0.1}, {"every_steps": 2, "keep": 1}
    whole, killed = (make_job(name, letters(12), sft=sft, checkpoints=checkpoints) for name in ("whole", "killed"))
    run(whole)

    def kill(line: str) -> None:
        if json.loads(line).get("step") == step:
            for child in _children(os.getpid()):
                os.kill(child, signal.SIGKILL)

    with halt_at(step, tmp_path / "never") as environment, pytest.raises(TrainingFailed, match="killed by SIGKILL"):
        run_trainer(written(killed), kill, environment)
    assert not killed.output.exists()
    run_trainer(written(killed), lambda line: None, KEY)
    assert files(whole.output) == files(killed.output)


def test_a_child_whose_parent_is_gone_already_does_not_start(make_job: JobMaker) -> None:
    job = make_job("late", letters(12))
    done = subprocess.run(
        [sys.executable, "-m", "sovereign_pipeline.training.worker", str(written(job))],
        env={**os.environ, "PYTHONPATH": str(PROJECT_ROOT), PARENT_VARIABLE: "1"},
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 1 and "has ended" in done.stderr
    assert not job.result.exists()


def _children(pid: int) -> list[int]:
    """The trainers below a process."""
    return [each.pid for each in processes_of(".worker", under=pid)]


def _runs(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0] != "Z"
    except FileNotFoundError:
        return False
