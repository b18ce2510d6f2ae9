"""Worker processes that share the work of one machine."""

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
"""So much is handed out at a time: no worker waits for work, and few results wait to be used."""
SECONDS_BETWEEN_LOOKS = 5.0
"""At the workers, while a result is waited for."""

Item = TypeVar("Item")
Result = TypeVar("Result")


class WorkerPool:
    """Worker processes, spawned and not forked, since this process may have threads. They end with it, however it ends.

    They import this package anew, so what they are given to do must be a function of a module.
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
        """What `work` returns for each item, in their order. May be called again.

        Raises WorkerKilled, and what `work` raises.
        """
        under_way: deque[Future[Result]] = deque()

        def hand_out(count: int) -> None:
            under_way.extend(self._pool.submit(work, item) for item in islice(items, count))

        try:
            hand_out(UNDER_WAY_PER_WORKER * self._workers)
            while under_way:
                yield self._wait_for(under_way.popleft())
                hand_out(1)
        except BrokenProcessPool:
            # The executor sends SIGTERM to the other workers and waits for them. A worker that inherited SIGTERM as
            # ignored would never end.
            self.kill()
            raise WorkerKilled(
                "A worker process was killed, most often because memory ran out. Nothing was kept.",
            ) from None

    def begin(self, work: Callable[[Item], Result], item: Item) -> "Future[Result]":
        """Hand one thing out, for whoever waits in another way than `over`. The workers are started by the thread that
        calls this first, and end with it.

        Raises BrokenProcessPool, as the future does, when a worker was killed: then the pool is of no more use.
        """
        return self._pool.submit(work, item)

    def kill(self) -> None:
        """End the workers now, whatever they do: the futures of what was handed out raise BrokenProcessPool."""
        pool: Any = self._pool
        for worker in list((pool._processes or {}).values()):
            worker.kill()
        self._pool.shutdown(wait=False)

    def _wait_for(self, future: "Future[Result]") -> Result:
        """Raises BrokenProcessPool when a worker was killed.

        The pool itself sees that, but for a worker that was killed while it sent a result: the pool then reads the
        half of it that came, and waits for the other half for ever, since other workers and this process could still
        write to the same pipe (CPython 3.11, `_ExecutorManagerThread`). So the workers are looked at, and where one is
        gone the pipe is closed everywhere.
        """
        pool: Any = self._pool
        was_gone = False
        while not wait([future], timeout=SECONDS_BETWEEN_LOOKS).done:
            is_gone = any(not worker.is_alive() for worker in list(pool._processes.values()))
            if is_gone and was_gone:  # the pool had its time to see it
                for worker in list(pool._processes.values()):
                    worker.kill()
                pool._result_queue._writer.close()
                break
            was_gone = is_gone
        return future.result()


def _begin_worker(parent: int, begin: Callable[..., None] | None, arguments: tuple[Any, ...]) -> None:
    die_with_parent(parent)
    signal.signal(signal.SIGINT, signal.SIG_DFL)  # an interruption ends them, without a traceback each
    if begin is not None:
        begin(*arguments)
