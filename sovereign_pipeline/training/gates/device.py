"""The device on which a gate loads models.

What does not belong here: the trainers' own locks (`processes/worker.py`).
"""

from collections.abc import Iterator
from contextlib import contextmanager

from sovereign_pipeline.artifacts.stage import Workplace
from sovereign_pipeline.base.files import held
from sovereign_pipeline.training.locks import lock_of_device


@contextmanager
def device_of_gate(workplace: Workplace) -> Iterator[str]:
    """`cuda`, while no trainer uses the GPU; `cpu` without one."""
    import torch

    if not torch.cuda.is_available():
        yield "cpu"
        return
    with held(lock_of_device(workplace.settings.home / "locks"), workplace.progress):
        yield "cuda"
        torch.cuda.empty_cache()
