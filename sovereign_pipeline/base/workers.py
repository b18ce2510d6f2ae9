"""Distribute work over worker processes of one machine."""

import multiprocessing
import os
import signal
from collections import deque
from collections.abc import Callable, Iterator
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from typing import Any, Self, TypeVar

from sovereign_pipeline.base.errors import WorkerKilled
from sovereign_pipeline.base.processes import die_with_parent

UNDER_WAY_PER_WORKER = 2
"""Number of items queued per worker: enough to keep all workers busy, and few enough to limit the results in memory."""
SECONDS_BETWEEN_LOOKS = 5.0
"""Seconds between two checks that the workers are alive, while a caller waits for a result."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class WorkerPool:
    """A pool of worker processes that end when this process ends, even if this process is killed.

    Workers are spawned instead of forked, because this process may have threads. The function that they run must be at
    module level.
    """

    def __init__(self, workers: int, begin: Callable[..., None] | None = None, *arguments: Any) -> None:
        """
        Args:
            begin: called once in each worker, with `arguments`, before its first work.
        """
        self._workers = workers
        self._pool = ProcessPoolExecutor(
            workers,
            multiprocessing.get_context("spawn"),
            initializer=_begin_worker,
            initargs=(os.getpid(), begin, arguments),
        )

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self._pool.shutdown(cancel_futures=True)

    def over(self, items: Iterator[Item], work: Callable[[Item], Result]) -> Iterator[Result]:
        """Yield the result of `work` for each item, in the items' order. The method can be called several times. Raises
        WorkerKilled, and the exceptions that `work` raises."""
        under_way: deque[Future[Result]] = deque()

        def hand_out(count: int) -> None:
            under_way.extend(self._pool.submit(work, item) for item in islice(items, count))

        try:
            hand_out(UNDER_WAY_PER_WORKER * self._workers)
            while under_way:
                yield self._wait_for(under_way.popleft())
                hand_out(1)
        except BrokenProcessPool:
            # The executor sends SIGTERM to the other workers and waits for them. A worker that inherited an ignored
            # SIGTERM would never end.
            self.kill()
            raise WorkerKilled(
                "A worker process was killed, most often because memory ran out. No result was stored.",
            ) from None

    def begin(self, work: Callable[[Item], Result], item: Item) -> "Future[Result]":
        """Submit one item and return its future, for callers that do not use `over`.

        The first thread that calls this method starts the workers, and the workers end with that thread. If a worker
        was killed, this method and the futures raise BrokenProcessPool, and the pool is no longer usable.
        """
        return self._pool.submit(work, item)

    def kill(self) -> None:
        """Kill the workers immediately. The futures of unfinished items raise BrokenProcessPool."""
        pool: Any = self._pool
        for worker in list((pool._processes or {}).values()):
            worker.kill()
        self._pool.shutdown(wait=False)

    def _wait_for(self, future: "Future[Result]") -> Result:
        """Return the future's result. Raises BrokenProcessPool if a worker was killed.

        The executor does not detect a worker that was killed while it sent a result: it waits for ever for the rest,
        since other processes could still write to the same pipe (CPython 3.11, `_ExecutorManagerThread`). This method
        therefore checks the workers. If one worker is gone, it kills the other workers and closes the pipe.
        """
        pool: Any = self._pool
        was_gone = False
        while not wait([future], timeout=SECONDS_BETWEEN_LOOKS).done:
            is_gone = any(not worker.is_alive() for worker in list(pool._processes.values()))
            if is_gone and was_gone:  # the pool has had time to detect it
                for worker in list(pool._processes.values()):
                    worker.kill()
                pool._result_queue._writer.close()
                break
            was_gone = is_gone
        return future.result()


def _begin_worker(parent: int, begin: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    die_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # Ctrl-C ends the workers without a traceback from each
    if begin is not None:
        begin(*arguments)
