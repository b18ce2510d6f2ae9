"""The engine for one machine: worker processes that each hold the detectors."""

import gc
import os
import sys
from collections.abc import Iterator
from functools import cached_property
from typing import Self

from sovereign_pipeline.base.errors import PrivacyError, WorkerKilled
from sovereign_pipeline.base.processes import silence
from sovereign_pipeline.base.settings import go_offline
from sovereign_pipeline.base.workers import WorkerPool
from sovereign_pipeline.privacy.engines.batches import Batch, BatchScrubber, ScrubbedBatch, ScrubJob
from sovereign_pipeline.privacy.names.name_models import is_spacy_model


class ProcessPool:
    """Worker processes. They end with this process."""

    def __init__(self, job: ScrubJob, workers: int) -> None:
        self._job = job
        self._pool = WorkerPool(workers, _begin_worker, job)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.__exit__(*error)

    def scrub(self, batches: Iterator[Batch]) -> Iterator[tuple[int, ScrubbedBatch]]:
        """See `Engine.scrub`. Batches come in order."""
        try:
            yield from enumerate(self._pool.over(batches, _scrub_in_worker))
        except WorkerKilled:
            raise PrivacyError(
                "A worker of the scrubbing was killed, most often because memory ran out. Nothing was kept.",
                "Lower corpus.workers in the recipe, and run the line again.",
                act="run_line",
                line=self._job.line,
            ) from None


# --- in a worker process ---------------------------------------------------------------------------------------------


class _Worker:
    """What a worker process holds between batches."""

    def __init__(self, job: ScrubJob) -> None:
        self._job = job

    @cached_property
    def scrubber(self) -> BatchScrubber:
        """Made with the first batch, not at the process's start: an error there would only say that the pool broke."""
        scrubber = BatchScrubber(self._job)
        gc.freeze()  # what was loaded stays; collecting through it again and again costs a sixth of the time
        return scrubber


_worker: _Worker  # set by `_begin_worker`, once in each process


def _begin_worker(job: ScrubJob) -> None:
    global _worker
    go_offline()
    os.environ["OMP_NUM_THREADS"] = "1"  # each core has a worker already
    if all(is_spacy_model(model) for model in job.privacy.name_models.values()):
        sys.modules["torch"] = None  # type: ignore[assignment]  # spaCy would import it, for nothing: more than a second
    silence()
    _worker = _Worker(job)


def _scrub_in_worker(batch: Batch) -> ScrubbedBatch:
    return _worker.scrubber.scrub(batch)
