"""The processes that search texts for personal data, and their end.

Searching takes 15 to 50 ms of a core, so it is never done where answers are passed on. A search that fails, a process
that was killed and one that takes too long are all ScannerLost; the processes are then started again. What belongs
here: that. What does not: the detectors (`findings.py`).
"""

import asyncio
import gc
import os
import time
from collections.abc import Mapping, Sequence
from concurrent.futures import Future
from concurrent.futures.process import BrokenProcessPool
from dataclasses import dataclass
from functools import cached_property

from sovereign_pipeline.errors import ScannerLost, SovereignError
from sovereign_pipeline.processes import silence
from sovereign_pipeline.serving.scanning.findings import Finding, LineDetectors, TextDetectors
from sovereign_pipeline.settings import go_offline
from sovereign_pipeline.worker_pool import WorkerPool

SECONDS_TO_SEARCH = 15.0
"""Waiting for other searches included. A text that takes longer is not searched, and so it does not pass."""
SECONDS_BETWEEN_STARTS = 5.0
MOST_CHARACTERS = 200_000
"""Of the texts that are searched together: more than any model here can be asked."""
HINT = "Send it again later."


@dataclass(frozen=True)
class _Work:
    line: str
    texts: tuple[str, ...]


class Scanner:
    """Searches the texts of some lines. Used by one event loop, whose thread lives as long as the processes."""

    def __init__(self, lines: Mapping[str, LineDetectors], processes: int = 1) -> None:
        self._lines, self._processes = dict(lines), processes
        self._pool: WorkerPool | None = None
        self._started_at = 0.0
        self.starts = 0
        """How often the processes were started."""

    def start(self) -> None:
        """Start the processes, and search something for each line, so that each detector that its recipe names is
        loaded. Raises what loading raises, and ScannerLost."""
        pool = self._running()
        texts = ("Good morning.", "صباح الخير")
        begun = [pool.begin(_find, _Work(line, texts)) for line in self._lines for _ in range(self._processes)]
        try:
            for each in begun:
                each.result()
        except BrokenProcessPool:
            raise ScannerLost(
                "The search for personal data cannot be started.", "Free memory, and look again."
            ) from None

    async def find(self, line: str, texts: Sequence[str]) -> list[list[Finding]]:
        """What is in each of the texts of one conversation. Raises ScannerLost."""
        pool = self._running()
        try:
            begun: Future[list[list[Finding]]] = pool.begin(_find, _Work(line, tuple(texts)))
            return await asyncio.wait_for(asyncio.wrap_future(begun), SECONDS_TO_SEARCH)
        except (BrokenProcessPool, TimeoutError) as error:
            self._give_up(pool)
            why = "took too long" if isinstance(error, TimeoutError) else "was killed"
            raise ScannerLost(f"The search for personal data {why}.", HINT) from None
        except SovereignError as error:
            raise ScannerLost(f"The search for personal data failed: {error.message}", HINT) from None

    def close(self) -> None:
        if self._pool is not None:
            self._pool.kill()

    def _running(self) -> WorkerPool:
        """The processes, started again where they were lost: not at once again and again."""
        if self._pool is None:
            if self.starts and time.monotonic() - self._started_at < SECONDS_BETWEEN_STARTS:
                raise ScannerLost("The search for personal data is being started again.", HINT)
            self._pool = WorkerPool(self._processes, _begin_worker, self._lines)
            self._started_at = time.monotonic()
            self.starts += 1
        return self._pool

    def _give_up(self, pool: WorkerPool) -> None:
        pool.kill()
        if self._pool is pool:
            self._pool = None


# --- in a worker process ---------------------------------------------------------------------------------------------


class _Worker:
    """What a worker process holds between texts."""

    def __init__(self, lines: Mapping[str, LineDetectors]) -> None:
        self._lines = lines

    @cached_property
    def _detectors(self) -> dict[str, TextDetectors]:
        """Made with the first text, not at the process's start: an error there would only say that the pool broke."""
        made = {line: TextDetectors(each) for line, each in self._lines.items()}
        gc.freeze()
        return made

    def find(self, work: _Work) -> list[list[Finding]]:
        return self._detectors[work.line].find(work.texts)


_worker: _Worker  # set by `_begin_worker`, once in each process


def _begin_worker(lines: Mapping[str, LineDetectors]) -> None:
    global _worker
    go_offline()
    os.environ["OMP_NUM_THREADS"] = "1"
    silence()
    _worker = _Worker(lines)


def _find(work: _Work) -> list[list[Finding]]:
    return _worker.find(work)
