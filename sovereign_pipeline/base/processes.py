"""Start worker processes, end child processes with their parent, set private file modes, and turn a program's errors
into exit statuses."""

import ctypes
import multiprocessing
import os
import pwd
import signal
import sys
import warnings
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, wait
from concurrent.futures.process import BrokenProcessPool
from itertools import islice
from pathlib import Path
from typing import Any, Self, TypeVar

from sovereign_pipeline.base.errors import InputError, SovereignError, WorkerKilled

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def keep_private() -> None:
    """Set the umask to 077, so that only this account can read the files of this process and its children. Every entry
    point calls this first, because artifacts, databases and logs contain facts about documents."""
    os.umask(0o077)


def die_with_parent(parent: int | None = None) -> None:
    """Ask the kernel to kill this process when its parent ends. Exit now if the parent has already ended.

    The kernel watches the parent's thread that started this process, so that thread must live as long as this process.

    Args:
        parent: expected process id of the parent; None if unknown.
    """
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if parent is not None and os.getppid() != parent:
        raise SystemExit(f"The process {parent}, which started this process, has ended. Run the line again.")


def silence() -> None:
    """Silence library output from now on. Library warnings quote input text, and logs must not contain document
    text."""
    sys.stderr = sys.__stderr__
    with Path(os.devnull).open("w", encoding="utf-8") as nothing:
        os.dup2(nothing.fileno(), 1)
        os.dup2(nothing.fileno(), 2)


def run_program(commands: Callable[[], object], print_error: Callable[[SovereignError], None]) -> None:
    """Run a program's commands. After a user's mistake, the program prints a message and exits with an error status,
    without a traceback.

    A file that cannot be read or written and an error of the database count as a user's mistake, too. Usually, a path
    or an address in the settings is wrong, or the disk is full. Library warnings are hidden, because they quote input
    text.
    """
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    try:
        _refuse_what_is_no_text()
        commands()
    except SovereignError as error:
        refusal = error
    except OSError as error:
        subject = f"{str(error.filename)[:200]}: " if error.filename is not None else ""
        refusal = InputError(f"{subject}{error.strerror or error}.", "Check the path, its permissions and the disk.")
    except Exception as error:
        if not type(error).__module__.startswith("sqlalchemy."):  # importing sqlalchemy here would take 0.25 s
            raise
        refusal = InputError(
            f"The database rejected a request ({type(getattr(error, 'orig', error)).__name__}).",
            "Check that the database is running, and check the settings and rights of its role.",
        )
    else:
        return
    print_error(refusal)
    sys.exit(refusal.exit_status)


def account() -> str:
    """Return the name or number of the account that runs this program. The name comes from the system, because anyone
    can set LOGNAME to any name."""
    number = os.geteuid()
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _refuse_what_is_no_text() -> None:
    """Raise InputError for a command-line argument that is not UTF-8, because it cannot be stored or printed."""
    for number, argument in enumerate(sys.argv[1:], start=1):
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise InputError(f"Argument {number} is not UTF-8.", "Enter the argument again as UTF-8 text.") from None


def print_message(message: str, advice: Mapping[str, str]) -> None:
    """Print an error message and its remedies to standard error, each on its own line.

    Args:
        advice: remedies by label, such as `Hint`.
    """
    from rich.console import Console
    from rich.markup import escape

    err = Console(stderr=True, highlight=False, soft_wrap=True)
    err.print(f"[bold red]✗[/] {escape(message)}")
    for label, text in advice.items():
        err.print(f"  [bold]{label}:[/] {escape(text)}")


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
        WorkerKilled if a worker was killed, and the exceptions that `work` raises."""
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

        The executor does not detect a worker that was killed while it sent a result: it waits forever for the rest,
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
