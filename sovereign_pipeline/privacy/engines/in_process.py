"""The engine for little work: this process."""

from collections.abc import Iterator
from typing import Self

from sovereign_pipeline.privacy.engines.batches import Batch, BatchScrubber, ScrubbedBatch, ScrubJob


class InThisProcess:
    """One batch after the other, in the process that calls."""

    def __init__(self, job: ScrubJob) -> None:
        self._scrubber = BatchScrubber(job)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._scrubber.close()

    def scrub(self, batches: Iterator[Batch]) -> Iterator[tuple[int, ScrubbedBatch]]:
        """See `Engine.scrub`. Batches come in order."""
        return enumerate(map(self._scrubber.scrub, batches))
