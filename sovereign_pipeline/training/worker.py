"""Run the trainer's process: `python -m sovereign_pipeline.training.worker JOB.json`.

The process outputs only progress and the result. It locks the line and the device, and ends when its parent ends.
"""

import json
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path

from sovereign_pipeline.base.errors import SovereignError, TrainingStopped, place_of
from sovereign_pipeline.base.files import held
from sovereign_pipeline.base.processes import die_with_parent, keep_private, silence
from sovereign_pipeline.base.settings import go_offline
from sovereign_pipeline.base.text import duration
from sovereign_pipeline.training.compute import metered
from sovereign_pipeline.training.job import (
    Failure,
    Kept,
    Step,
    TrainerHooks,
    TrainingJob,
    TrainingResult,
    lock_of_device,
    lock_of_line,
)
from sovereign_pipeline.training.launcher import PARENT_VARIABLE, refuse_another_installation
from sovereign_pipeline.training.methods import train
from sovereign_pipeline.training.preflight import available_memory, out_of_memory


def main(job_file: Path) -> int:
    """Run the job. Returns exit status 0 if the training succeeded, otherwise 1. The job's result file states the
    failure."""
    keep_private()
    parent = os.environ.get(PARENT_VARIABLE)
    if parent is not None:
        die_with_parent(int(parent))
    go_offline()
    stop_requests = collect_sigterm()
    job = TrainingJob.read(job_file)
    with open_progress() as progress:
        result = run_job(job, progress, stop_requests)
    # With several trainers, only the first writes a successful result. All trainers write failures.
    if result.failure is not None or result.measured:
        result.write(job.result)
    return 0 if result.failure is None else 1


def run_job(
    job: TrainingJob,
    progress: Callable[[str, dict[str, object]], None],
    stop_requests: list[int],
    prepared: AbstractContextManager[None] | None = None,
    kept: Kept | None = None,
) -> TrainingResult:
    """Train, and return every error as a result. A raised error would reach Dagster Pipes, whose traceback may quote a
    document.

    Args:
        prepared: context manager around the training. None locks the line and the device, unless the launcher of
            several trainers has already locked both.
        kept: parts that this process keeps in memory between jobs; None keeps nothing.
    """
    try:
        refuse_another_installation()
        hooks = TrainerHooks(
            on_step=lambda step: progress(describe(step), asdict(step)),
            progress=lambda message: progress(message, {}),
            should_stop=lambda: bool(stop_requests),
            kept=kept,
        )
        if prepared is None:
            prepared = locks(job, progress, hooks.should_stop) if job.devices.count == 1 else nullcontext()
        with prepared, metered(job) as meter:
            measured = train(job, hooks)
            if not measured:  # only the first of several processes has the result
                return TrainingResult()
            energy = meter.total()
            return TrainingResult(measured={**measured, **energy.measured}, recorded=energy.recorded)
    except SovereignError as error:
        return TrainingResult(failure=Failure.of(error if not lost_a_process(error) else _lost()))
    except Exception as error:
        if lost_a_process(error):
            return TrainingResult(failure=Failure.of(_lost()))
        if ran_out_of_memory(error):
            _, device = available_memory()
            count = job.devices.count
            failed = out_of_memory(job.base_model, job.sft, job.preference, device=device, devices=count)
            return TrainingResult(failure=Failure.of(failed))
        return TrainingResult(
            failure=Failure(
                message=f"The trainer failed with {place_of(error)}.",
                hint="Report this. The last checkpoint, if any, is kept.",
            )
        )


def lost_a_process(error: BaseException) -> bool:
    """Return True if an error, or its cause, means that another process of the job ended. gloo reports this with a
    RuntimeError that can be recognised only by its message."""
    is_named = type(error).__name__ in ("DistBackendError", "DistNetworkError")
    if is_named or (isinstance(error, RuntimeError) and "gloo" in str(error)):
        return True
    return error.__cause__ is not None and lost_a_process(error.__cause__)


def _lost() -> TrainingStopped:
    return TrainingStopped("Another process of this training ended, or its machine failed.")


def collect_sigterm() -> list[int]:
    """Install a handler for SIGTERM. Returns a list to which the handler appends an element for each SIGTERM.

    After a SIGTERM, the training finishes its current step, saves a checkpoint and ends. A training that still waits or
    prepares ends without a checkpoint. After a SIGKILL instead, the steps since the last checkpoint would be lost.
    """
    received: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    return received


def ran_out_of_memory(error: Exception) -> bool:
    """Return True if an error means that memory ran out. torch raises its own class on CUDA. On CPUs torch raises a
    RuntimeError that can be recognised only by its message."""
    return (
        isinstance(error, MemoryError)
        or type(error).__name__ == "OutOfMemoryError"
        or (isinstance(error, RuntimeError) and "not enough memory" in str(error))
        or (isinstance(error, RuntimeError) and "allocate memory" in str(error))
    )


@contextmanager
def locks(
    job: TrainingJob,
    progress: Callable[[str, dict[str, object]], None],
    should_stop: Callable[[], bool] = lambda: False,
) -> Iterator[None]:
    """Lock the line's checkpoints and the device during the block, so that no other trainer uses them. The checkpoints
    are locked first, so that a trainer does not block the device while it waits for the checkpoints. Raises
    TrainingStopped if a stop is requested while this process waits for a lock."""
    for_line, for_device = lock_of_line(job.checkpoint_directory), lock_of_device(job.locks)

    def waiting(message: str) -> None:
        progress(message, {"waiting": True})

    with held(for_line, waiting, should_stop), held(for_device, waiting, should_stop):
        yield


@contextmanager
def open_progress() -> Iterator[Callable[[str, dict[str, object]], None]]:
    """Yield a function that reports progress. In a Dagster Pipes session, the messages go to the run's log; otherwise
    they go to stdout as JSON lines.

    If several processes train one model together, only the first process reports. Its stdout is then a file, from which
    `ranks.py` or the machine that submitted the job forwards the messages.
    """
    if os.environ.get("RANK", "0") != "0":
        yield lambda message, values: None
        return
    if "DAGSTER_PIPES_CONTEXT" in os.environ:
        from dagster_pipes import open_dagster_pipes

        with open_dagster_pipes() as pipes:
            silence()

            def log(message: str, values: dict[str, object]) -> None:
                pipes.log.info(message)

            yield log
        return

    def write(message: str, values: dict[str, object]) -> None:
        sys.stdout.write(json.dumps({"message": message, **values}) + "\n")
        sys.stdout.flush()

    yield write


def describe(step: Step) -> str:
    """Format the progress after a step as a message for people."""
    return (
        f"step {step.step}/{step.steps}, loss {step.loss:.4f}, {step.tokens_per_second:.0f} tokens/s, "
        f"{duration(step.seconds_left)} left"
    )


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
