"""Run the work on a corpus in this process, in a process pool, or with Ray. Every engine gives the same results.

An item of work states where a part of a file is, for example by byte offsets. The worker reads that part itself.
"""

import gc
import importlib.util
import logging
import os
import pickle
import platform
import secrets
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import dataclass
from functools import cache, partial
from pathlib import Path
from typing import Any, TypeAlias, TypeVar

from sovereign_pipeline.base.errors import InputError, SovereignError, WorkerKilled
from sovereign_pipeline.base.processes import WorkerPool, keep_private, silence
from sovereign_pipeline.base.settings import go_offline
from sovereign_pipeline.policy.corpus import Corpus
from sovereign_pipeline.record.stage import Progress

Item = TypeVar("Item")
Result = TypeVar("Result")
Start: TypeAlias = Callable[[], AbstractContextManager[Callable[[Item], Result]]]
"""Picklable function that prepares a worker, for example by loading models, and returns the function to apply to each
item."""
Engine: TypeAlias = Callable[[Iterator[Item]], Iterator[Result]]
"""Function that processes items and yields their results in order. It can be called several times. It raises the
exceptions of the function that processes an item, and WorkerKilled if a worker is killed."""


@contextmanager
def _ready(work: Callable[[Item], Result]) -> Iterator[Callable[[Item], Result]]:
    yield work


def unprepared(work: Callable[[Item], Result]) -> Start[Item, Result]:
    """Return a `Start` for a function that needs no preparation."""
    return partial(_ready, work)


def choose_engine(
    start: Start[Item, Result], source: Path, corpus: Corpus, useful_workers: int, progress: Progress
) -> AbstractContextManager[Engine[Item, Result]]:
    """Return the engine to use: Ray if `corpus.engine` is `ray`, else the calling process if one worker is enough, else
    a process pool.

    Args:
        source: the file that the workers read.
        useful_workers: maximum number of workers, except with Ray. A further worker would take longer to start than it
            would save.
    """
    workers = corpus.workers or len(os.sched_getaffinity(0))
    if corpus.engine == "ray":
        return ray_actors(start, source, workers, progress)
    workers = min(workers, useful_workers)
    return process_pool(start, workers) if workers > 1 else this_process(start)


# --- processes of this machine ----------------------------------------------------------------------------------------


@contextmanager
def this_process(start: Start[Item, Result]) -> Iterator[Engine[Item, Result]]:
    """Yield an engine that processes one item after another in the calling process."""
    with start() as work:
        yield partial(map, work)


@contextmanager
def process_pool(start: Start[Item, Result], workers: int) -> Iterator[Engine[Item, Result]]:
    """Yield an engine that runs worker processes. The workers end when the calling process ends."""
    with WorkerPool(workers, _begin_worker, start) as pool:
        yield partial(pool.over, work=_work_in_worker)


_start_work: Start[Any, Any]  # set by `_begin_worker`, once in each process
_started = ExitStack()  # contexts that a worker opened; they close when its process ends


def _begin_worker(start: Start[Any, Any]) -> None:
    global _start_work
    go_offline()
    os.environ["OMP_NUM_THREADS"] = "1"  # each core already has a worker
    silence()
    _start_work = start


@cache
def _worker() -> Callable[[Any], Any]:
    """Prepare this worker when its first item arrives, for example by loading models, and return the function to apply
    to each item. If the preparation failed at the start of the process, the pool would break and the error message
    would be lost."""
    work = _started.enter_context(_start_work())
    gc.freeze()  # loaded models stay in memory; scanning them in each garbage collection costs a sixth of the time
    return work


def _work_in_worker(item: Any) -> Any:
    return _worker()(item)


# --- Ray --------------------------------------------------------------------------------------------------------------

OBJECT_STORE_BYTES = 256 * 1024 * 1024
SECONDS_TO_START = 600
"""Timeout for starting Ray's processes, which is slow on a busy machine. Ray's own limit of 30 s has no setting."""
SECONDS_BETWEEN_MESSAGES = 15
NO_CLUSTER = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


@contextmanager
def ray_actors(
    start: Start[Item, Result], source: Path, workers: int, progress: Progress
) -> Iterator[Engine[Item, Result]]:
    """Yield an engine of Ray actors. They run on the cluster at RAY_ADDRESS, or on a local Ray if RAY_ADDRESS is not
    set. The local Ray accepts connections only from this process, and stops when the work ends.

    Raises InputError if Ray is not installed, does not start or cannot be reached. Without RAY_ADDRESS, also raises it
    if `ray` was imported before this function could restrict access to the local Ray.
    """
    if importlib.util.find_spec("ray") is None:
        raise InputError(
            "corpus.engine is 'ray', but Ray is not installed.",
            "Run `pip install 'sovereign-pipeline[ray]'` from the institution's own package mirror, or set "
            "corpus.engine to 'processes'.",
        )
    # Ray, and the processes that it starts, read these variables at import.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_DATA_DISABLE_PROGRESS_BARS"] = "1"
    os.environ.setdefault("RAY_worker_register_timeout_seconds", str(SECONDS_TO_START))
    os.environ.setdefault("RAY_gcs_server_request_timeout_seconds", str(SECONDS_TO_START))
    if not os.environ.get("RAY_ADDRESS"):
        _close_to_others()
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context.execution_options.preserve_order = True
    # The path must be short, because Ray's sockets are in this directory.
    with tempfile.TemporaryDirectory(prefix="ray-", ignore_cleanup_errors=True) as scratch:
        try:
            _start(ray, workers, scratch, progress)
            yield partial(_over_actors, ray, start, source, workers)
        finally:
            ray.shutdown()


def _over_actors(
    ray: Any, start: Start[Item, Result], source: Path, workers: int, items: Iterator[Item]
) -> Iterator[Result]:
    rows = [{"item": pickle.dumps(item)} for item in items]
    seen = _Source(source, source.stat().st_size)
    results = ray.data.from_items(rows, override_num_blocks=max(1, len(rows))).map(
        _Actor, fn_constructor_args=(start, seen), compute=ray.data.ActorPoolStrategy(size=workers), num_cpus=1
    )
    try:
        for row in results.iter_rows():
            result = pickle.loads(row["result"])
            if isinstance(result, SovereignError):
                raise result
            yield result
    except ray.exceptions.RayError as error:
        raise WorkerKilled(
            f"Ray stopped with {type(error).__name__}. The usual reason is that an actor was killed because memory ran "
            f"out. No result was stored."
        ) from None


@dataclass(frozen=True)
class _Source:
    """The source file. Every machine with an actor must have it under the same path."""

    path: Path
    size: int

    def check(self) -> None:
        if not self.path.is_file() or self.path.stat().st_size != self.size:
            raise InputError(
                f"The Ray node {platform.node()} has no file {self.path}, or the file's size differs from the size on "
                f"the machine that started the work.",
                "Mount the directories SOVEREIGN_HOME and SOVEREIGN_CORPUS under the same paths on every node.",
            )


class _Actor:
    """A Ray worker. The actor returns a SovereignError instead of raising it: Ray would report an exception with a
    traceback, which may quote a text."""

    def __init__(self, start: Start[Any, Any], source: _Source) -> None:
        keep_private()
        go_offline()
        os.environ["OMP_NUM_THREADS"] = "1"
        self._start, self._source = start, source
        self._work: Callable[[Any], Any] | None = None

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            if self._work is None:
                self._source.check()
                self._work = _started.enter_context(self._start())
            result = self._work(pickle.loads(row["item"]))
        except SovereignError as error:
            result = error
        return {"result": pickle.dumps(result)}


def _close_to_others() -> None:
    """Set environment variables that make a local Ray listen on loopback only and require a token. Ray reads them at
    import, so InputError is raised if Ray was imported without them.

    Ray executes any code that it receives, and by default listens on every interface. Ray replaces 127.0.0.1 by the
    machine's address unless `RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER` is "0". Other accounts of this machine can connect to
    loopback, so a token is required, too.
    """
    closed = os.environ.get(NO_CLUSTER) == "0" and os.environ.get("RAY_AUTH_MODE") == "token"
    if "ray" in sys.modules and not closed:
        raise InputError(
            "corpus.engine is 'ray', but Ray was imported before this process could restrict access to Ray.",
            "Run the step in a separate process, as the Dagster UI does.",
        )
    os.environ[NO_CLUSTER] = "0"
    if os.environ.get("RAY_AUTH_MODE") != "token":
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))


@contextmanager
def patience(ray: Any, progress: Progress) -> Iterator[None]:
    """Make Ray wait up to `SECONDS_TO_START` for the node that Ray itself starts. Report progress meanwhile.

    Ray 2.60 calls `ray._private.services.get_node`, which raises RuntimeError until the node exists, and stops trying
    after 30 s (`Node.__init__` in `ray/_private/node.py`).
    """
    services = ray._private.services
    look = services.get_node
    begun = told = time.monotonic()

    def get_node(*of: Any, **named: Any) -> Any:
        nonlocal told
        while True:
            try:
                return look(*of, **named)
            except RuntimeError:
                now = time.monotonic()
                if now - begun > SECONDS_TO_START:
                    raise
                if now - told > SECONDS_BETWEEN_MESSAGES:
                    told = now
                    progress(f"Ray is starting, {now - begun:.0f} s of at most {SECONDS_TO_START} s")
                time.sleep(0.5)

    services.get_node = get_node
    try:
        yield
    finally:
        services.get_node = look


def _start(ray: Any, workers: int, scratch: str, progress: Progress) -> None:
    local = {
        "address": "local",
        "num_cpus": workers,
        "object_store_memory": OBJECT_STORE_BYTES,
        "include_dashboard": False,
        "logging_level": "ERROR",
        "_temp_dir": scratch,
    }
    address = os.environ.get("RAY_ADDRESS")
    try:
        with patience(ray, progress):
            ray.init(log_to_driver=False, **({} if address else local))
    except Exception as error:  # Ray raises a bare Exception if its processes start slowly; no text is loaded yet
        failed = f"Ray at {address} could not be reached" if address else "A local Ray did not start"
        raise InputError(
            f"{failed} ({str(error).splitlines()[0]}).",
            "Retry when the machine is less busy, or set corpus.engine to 'processes', which gives the same results.",
        ) from error
