"""The trainer's process for several jobs one after another, some of them with a planted fault.

Importing torch takes longer than training a tiny model, so the tests start as few processes as they can.
"""

import json
import os
import signal
import sys
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any
from unittest.mock import patch

from sovereign_pipeline.base.processes import die_with_parent
from sovereign_pipeline.base.settings import go_offline
from sovereign_pipeline.training import devices
from sovereign_pipeline.training.job import TrainingJob
from sovereign_pipeline.training.launcher import PARENT_VARIABLE
from sovereign_pipeline.training.worker import run_job
from sovereign_pipeline_tests.training.processes.launching import JOBS


def main() -> int:
    die_with_parent(int(os.environ[PARENT_VARIABLE]))
    go_offline()
    devices.MINUTES_TO_WAIT = 3
    meeting = os.environ[devices.MEETING_VARIABLE]
    for number, (path, fault) in enumerate(json.loads(os.environ[JOBS])):
        os.environ[devices.MEETING_VARIABLE] = f"{meeting}.{number}"
        job = TrainingJob.read(Path(path))
        stop_requests: list[int] = []

        def on_progress(message: str, values: dict[str, object], fault: Any = fault, stop: Any = stop_requests) -> None:
            if values.get("step") == 3 and fault == "killed" and os.environ["RANK"] == "1":
                os.kill(os.getpid(), signal.SIGKILL)
            if values.get("step") == 1 and fault == "stopped":
                stop.append(signal.SIGTERM)

        with _faulty(fault):
            result = run_job(job, on_progress, stop_requests)
        if result.failure is not None or result.measured:
            result.write(job.result)
        if result.failure is not None and fault != "stopped":
            return 1
        _part()
    return 0


def _faulty(fault: str | None) -> AbstractContextManager[Any]:
    if fault != "not a mean":
        return nullcontext()
    from sovereign_pipeline.training.methods.sft import PackedTrainer

    compute_loss = PackedTrainer.compute_loss
    return patch.object(
        PackedTrainer,
        "compute_loss",
        lambda self, *given, **named: compute_loss(self, *given, **named) / self.accelerator.num_processes,
    )


def _part() -> None:
    """As if this process had trained nothing: the next job's processes meet anew."""
    import torch.distributed as dist
    from accelerate.state import AcceleratorState, GradientState

    dist.destroy_process_group()
    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()


if __name__ == "__main__":
    sys.exit(main())
