"""MODULE DOCSTRING."""

import gc
import multiprocessing
import os
import signal
import sys
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ProcessPoolExecutor
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from itertools import islice

from sovereign_pipeline.errors import PrivacyError
from sovereign_pipeline.privacy.engines.batches import Batch, BatchScrubber, Engine, ScrubbedBatch, ScrubJob
from sovereign_pipeline.privacy.names.name_models import is_spacy_model
from sovereign_pipeline.processes import die_with_parent, silence
from sovereign_pipeline.settings import go_offline


def in_this_process(job: ScrubJob) -> Engine:
    scrubber = BatchScrubber(job)

    def scrubbed(batches: Iterator[Batch]) -> Iterator[tuple[int, ScrubbedBatch]]:
        return enumerate(map(scrubber, batches))

    return scrubbed


@contextmanager
def processes(job: ScrubJob, workers: int) -> Iterator[Engine]:
    """Started anew, not forked, since this process may have threads. Few batches are under way at any time."""
    pool = ProcessPoolExecutor(
        workers, multiprocessing.get_context("spawn"), initializer=_begin_worker, initargs=(job, os.getpid())
    )

    def scrubbed(batches: Iterator[Batch]) -> Iterator[tuple[int, ScrubbedBatch]]:
        under_way: deque[Future[ScrubbedBatch]] = deque()
        number = 0
        try:
            under_way.extend(pool.submit(_scrub_in_worker, batch) for batch in islice(batches, 2 * workers))
            while under_way:
                yield number, under_way.popleft().result()
                number += 1
                under_way.extend(pool.submit(_scrub_in_worker, batch) for batch in islice(batches, 1))
        except BrokenProcessPool:
            raise PrivacyError(
                "A worker of the scrubbing was killed from outside; most often memory ran out. Nothing of it counts. "
                "Lower corpus.workers in the recipe, and materialize scrubbed_corpus again."
            ) from None

    try:
        yield scrubbed
    finally:
        pool.shutdown(cancel_futures=True)


job_of_worker: ScrubJob | None = None
scrubber_of_worker: BatchScrubber | None = None


def _begin_worker(job: ScrubJob, parent: int) -> None:
    global job_of_worker
    die_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_DFL)
    go_offline()
    os.environ["OMP_NUM_THREADS"] = "1"  # each core has a worker already
    if all(is_spacy_model(model) for model in job.privacy.name_models.values()):
        sys.modules["torch"] = None  # type: ignore[assignment]  # spaCy would import it, for nothing: more than a second
    silence()
    job_of_worker = job


def _scrub_in_worker(batch: Batch) -> ScrubbedBatch:
    global scrubber_of_worker
    if scrubber_of_worker is None:
        assert job_of_worker is not None
        scrubber_of_worker = BatchScrubber(job_of_worker)
        gc.freeze()  # what was loaded stays; looking through it again and again costs a sixth of the time
    return scrubber_of_worker(batch)
