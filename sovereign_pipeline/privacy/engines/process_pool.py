"""The engine for one machine: worker processes that each hold the detectors."""

import gc
import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from functools import cached_property
from itertools import islice
from typing import Any, Self

from sovereign_pipeline.errors import PrivacyError
from sovereign_pipeline.privacy.engines.batches import Batch, BatchScrubber, ScrubbedBatch, ScrubJob
from sovereign_pipeline.privacy.names.name_models import is_spacy_model
from sovereign_pipeline.processes import die_with_parent, silence
from sovereign_pipeline.settings import go_offline

BATCHES_PER_WORKER = 2
"""So many are handed out at a time: none waits for work, and few results wait to be written."""
SECONDS_BETWEEN_LOOKS = 5.0
"""At the workers, while a batch is waited for."""


class ProcessPool:
    """Worker processes, spawned and not forked, since this process may have threads. They end with it."""

    def __init__(self, job: ScrubJob, workers: int) -> None:
        self._job = job
        self._workers = workers
        self._pool = ProcessPoolExecutor(
            workers, multiprocessing.get_context("spawn"), initializer=_begin_worker, initargs=(job, os.getpid())
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def scrub(self, batches: Iterator[Batch]) -> Iterator[tuple[int, ScrubbedBatch]]:
        """See `Engine.scrub`. Batches come in order."""
        under_way: deque[Future[ScrubbedBatch]] = deque()
        number = 0
        try:
            self._submit(islice(batches, BATCHES_PER_WORKER * self._workers), under_way)
            while under_way:
                yield number, self._result(under_way.popleft())
                number += 1
                self._submit(islice(batches, 1), under_way)
        except BrokenProcessPool:
            raise PrivacyError(
                "A worker of the scrubbing was killed, most often because memory ran out. Nothing was kept.",
                "Lower corpus.workers in the recipe, and run the line again.",
                act="run_line",
                line=self._job.line,
            ) from None

    def _result(self, batch: "Future[ScrubbedBatch]") -> ScrubbedBatch:
        """Wait for a batch. Raises BrokenProcessPool when a worker was killed.

        The pool itself sees that, but for a worker that was killed while it sent a result: the pool then reads the
        half of it that came, and waits for the other half for ever, since other workers and this process could still
        write to the same pipe (CPython 3.11, `_ExecutorManagerThread`). So the workers are looked at, and where one is
        gone the pipe is closed everywhere.
        """
        pool: Any = self._pool
        was_gone = False
        while not wait([batch], timeout=SECONDS_BETWEEN_LOOKS).done:
            is_gone = any(not worker.is_alive() for worker in list(pool._processes.values()))
            if is_gone and was_gone:  # the pool had its time to see it
                for worker in list(pool._processes.values()):
                    worker.kill()
                pool._result_queue._writer.close()
                break
            was_gone = is_gone
        return batch.result()

    def _submit(self, batches: Iterator[Batch], under_way: "deque[Future[ScrubbedBatch]]") -> None:
        under_way.extend(self._pool.submit(_scrub_in_worker, batch) for batch in batches)


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


_worker: _Worker  # set by `_begin_worker`, which the pool calls once in each process


def _begin_worker(job: ScrubJob, parent: int) -> None:
    global _worker
    die_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    go_offline()
    os.environ["OMP_NUM_THREADS"] = "1"  # each core has a worker already
    if all(is_spacy_model(model) for model in job.privacy.name_models.values()):
        sys.modules["torch"] = None  # type: ignore[assignment]  # spaCy would import it, for nothing: more than a second
    silence()
    _worker = _Worker(job)


def _scrub_in_worker(batch: Batch) -> ScrubbedBatch:
    return _worker.scrubber.scrub(batch)
