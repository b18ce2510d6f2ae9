"""What an engine is, and the one place where it is chosen.

Every engine gives the same bytes: it only decides where the batches are worked on. What does not belong here: what a
batch is (`batches.py`), how a file is cut into batches (`planning.py`).
"""

import os
from collections.abc import Iterator
from typing import Protocol, Self

from sovereign_pipeline.artifacts.stage import Progress
from sovereign_pipeline.policy.corpus import Corpus
from sovereign_pipeline.privacy.engines.batches import Batch, ScrubbedBatch, ScrubJob
from sovereign_pipeline.privacy.engines.in_process import InThisProcess
from sovereign_pipeline.privacy.engines.process_pool import ProcessPool
from sovereign_pipeline.privacy.engines.ray_actors import RayActors


class Engine(Protocol):
    """Works on batches between `with` and its end."""

    def __enter__(self) -> Self: ...

    def __exit__(self, *error: object) -> None: ...

    def scrub(self, batches: Iterator[Batch]) -> Iterator[tuple[int, ScrubbedBatch]]:
        """The number of each batch with what became of it, in any order. May be called again. Raises PrivacyError."""
        ...


def choose_engine(job: ScrubJob, corpus: Corpus, useful_workers: int, progress: Progress) -> Engine:
    """The engine of a recipe: Ray where `corpus.engine` says so, else as many processes as are useful.

    Args:
        useful_workers: how many workers are worth their start.
    """
    workers = corpus.workers or _usable_cores()
    if corpus.engine == "ray":
        return RayActors(job, workers, progress)
    if min(workers, useful_workers) <= 1:
        return InThisProcess(job)
    return ProcessPool(job, min(workers, useful_workers))


def _usable_cores() -> int:
    return len(os.sched_getaffinity(0))
