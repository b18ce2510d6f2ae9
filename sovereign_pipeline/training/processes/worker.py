"""The trainer's process: `python -m sovereign_pipeline.training.processes.worker JOB.json`.

What belongs here: living and dying with the parent, the locks on the line and the device, and how progress and the
answer, and nothing else, leave the process. What is trained, and how, is `trainer.py`.
"""

import json
import os
import signal
import socket
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager, nullcontext
from dataclasses import asdict
from pathlib import Path

from sovereign_pipeline.errors import SovereignError, place_of
from sovereign_pipeline.locks import held
from sovereign_pipeline.processes import die_with_parent, silence
from sovereign_pipeline.settings import go_offline
from sovereign_pipeline.training.job import TrainingJob, TrainingResult
from sovereign_pipeline.training.locks import lock_of_device, lock_of_line
from sovereign_pipeline.training.loop.outside import Outside, Step
from sovereign_pipeline.training.loop.trainer import train
from sovereign_pipeline.training.processes.launcher import PARENT_VARIABLE
from sovereign_pipeline.training.processes.remote import refuse_another_installation
from sovereign_pipeline.training.sizing.preflight import available_memory, out_of_memory_message

# Where the launcher of several trainers hears them: a Pipes session can be opened once only.
LAUNCHER_VARIABLE = "SOVEREIGN_TRAINER_LAUNCHER"


def main(job_file: Path) -> int:
    """Exit status: 0 trained; 1 not, and the job's result file says why."""
    parent = os.environ.get(PARENT_VARIABLE)
    if parent is not None:
        die_with_parent(int(parent))
    go_offline()
    asked_to_stop = stop_on_sigterm()
    job = TrainingJob.read(job_file)
    with open_progress() as progress:
        result = answer(job, progress, asked_to_stop)
    # Of several trainers the first one has something to report; the others answer when they failed.
    if result.error is not None or result.measured:
        result.write(job.result)
    return 0 if result.error is None else 1


def answer(
    job: TrainingJob, progress: Callable[[str, dict[str, object]], None], asked_to_stop: list[int]
) -> TrainingResult:
    """Every error becomes an answer in here: Pipes would send its own words and traceback, which may quote a text."""
    try:
        refuse_another_installation()
        outside = Outside(
            on_step=lambda step: progress(describe(step), asdict(step)),
            tell=lambda message: progress(message, {}),
            stop=lambda: bool(asked_to_stop),
        )
        # Where there are several trainers, the launcher of all of them holds the locks.
        with locks(job, progress, outside.stop) if job.devices.count == 1 else nullcontext():
            return TrainingResult(measured=train(job, outside))
    except SovereignError as error:
        return TrainingResult(error=str(error))
    except Exception as error:
        if ran_out_of_memory(error):
            _, device = available_memory()
            count = job.devices.count
            return TrainingResult(
                error=out_of_memory_message(job.base_model, job.sft, job.preference, device=device, devices=count)
            )
        return TrainingResult(
            error=f"The trainer failed with {place_of(error)}. Report this; its last checkpoint, if any, is kept."
        )


def stop_on_sigterm() -> list[int]:
    """Filled at the first SIGTERM. The training then ends after its present step, with a checkpoint, or sooner while it
    waits for its turn or prepares; whoever cannot wait for that kills the process, and the checkpoint before it stands.
    """
    received: list[int] = []
    signal.signal(signal.SIGTERM, lambda number, frame: received.append(number))
    return received


def ran_out_of_memory(error: Exception) -> bool:
    """torch raises an error of its own on CUDA, and on the CPU a RuntimeError that only its words tell apart."""
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
    stop: Callable[[], bool] = lambda: False,
) -> Iterator[None]:
    """Hold the lock of the line's checkpoints, so that no other trainer writes into them, and the one of the device.

    In this order everywhere: who waits for the first keeps nobody from a device.
    """
    for_the_line, for_the_device = lock_of_line(job.checkpoint_directory), lock_of_device(job.locks)

    def tell(message: str) -> None:
        progress(message, {"waiting": True})

    with held(for_the_line, tell, stop), held(for_the_device, tell, stop):
        yield


@contextmanager
def open_progress() -> Iterator[Callable[[str, dict[str, object]], None]]:
    """Where progress goes: into the Dagster run's log when a Pipes session is open, else to stdout as JSON lines.

    Of the processes that train one model together, the first one speaks, and their launcher hands it on.
    """
    if os.environ.get("RANK", "0") != "0":
        yield lambda message, values: None
        return
    if LAUNCHER_VARIABLE in os.environ:
        with socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM) as launcher:
            launcher.connect(os.environ[LAUNCHER_VARIABLE])
            yield lambda message, values: launcher.sendall(json.dumps([message, values]).encode())
        return
    if "DAGSTER_PIPES_CONTEXT" in os.environ:
        from dagster_pipes import open_dagster_pipes

        # A copy, for a session whose messages go to stderr, as a pod's do.
        sys.stderr = os.fdopen(os.dup(2), "w", buffering=1, encoding="utf-8")
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
    minutes, seconds = divmod(round(step.seconds_left), 60)
    return (
        f"step {step.step}/{step.steps}, loss {step.loss:.4f}, {step.tokens_per_second:.0f} tokens/s, "
        f"{minutes} min {seconds:02d} s left"
    )


if __name__ == "__main__":
    sys.exit(main(Path(sys.argv[1])))
