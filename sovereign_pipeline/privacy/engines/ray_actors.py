"""The engine for a cluster: actors of Ray Data that each hold the detectors.

What belongs here: starting Ray so that it is closed to others, and handing batches over. What does not: what a batch
is (`batches.py`).
"""

import importlib.util
import logging
import os
import pickle
import secrets
import shutil
import sys
import tempfile
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any, Self

from sovereign_pipeline.artifacts.stage import Progress
from sovereign_pipeline.base.errors import PrivacyError, SovereignError
from sovereign_pipeline.base.processes import keep_private
from sovereign_pipeline.base.settings import go_offline
from sovereign_pipeline.privacy.engines.batches import Batch, BatchScrubber, ScrubbedBatch, ScrubJob

OBJECT_STORE_BYTES = 256 * 1024 * 1024
SECONDS_TO_START = 600
"""For Ray's own processes, which start slowly on a busy machine. Ray allows 30 and has no setting for it."""
SECONDS_BETWEEN_MESSAGES = 15
NO_CLUSTER = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


class RayActors:
    """Actors on the cluster at RAY_ADDRESS, or on a local Ray that obeys this process alone and ends with the work."""

    def __init__(self, job: ScrubJob, workers: int, progress: Progress) -> None:
        """Raises PrivacyError when Ray is not installed, or was imported before it could be closed to others."""
        if importlib.util.find_spec("ray") is None:
            raise PrivacyError(
                "corpus.engine is 'ray', and Ray is not installed.",
                "Run `pip install 'sovereign-pipeline[ray]'` from the institution's own package mirror, or set "
                "corpus.engine to 'processes'.",
            )
        # Ray reads these while it is imported, and so do the processes it starts.
        os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
        os.environ["RAY_DATA_DISABLE_PROGRESS_BARS"] = "1"
        os.environ.setdefault("RAY_worker_register_timeout_seconds", str(SECONDS_TO_START))
        os.environ.setdefault("RAY_gcs_server_request_timeout_seconds", str(SECONDS_TO_START))
        if not os.environ.get("RAY_ADDRESS"):
            _close_to_others()
        import ray

        self._job = job
        self._workers = workers
        self._progress = progress
        self._ray: Any = ray
        self._end = ExitStack()

    def __enter__(self) -> Self:
        """Raises PrivacyError when Ray does not start or is not reached."""
        context = self._ray.data.DataContext.get_current()
        context.enable_progress_bars = False
        logging.getLogger("ray.data").setLevel(logging.ERROR)
        context.execution_options.preserve_order = True
        scratch = tempfile.mkdtemp(prefix="ray-")  # short, for the paths of its sockets
        with ExitStack() as started:
            started.callback(shutil.rmtree, scratch)
            started.callback(self._ray.shutdown)
            _start(self._ray, self._workers, scratch, self._progress)
            self._end = started.pop_all()
        return self

    def __exit__(self, *error: object) -> None:
        self._end.close()

    def scrub(self, batches: Iterator[Batch]) -> Iterator[tuple[int, ScrubbedBatch]]:
        """See `Engine.scrub`."""
        ray = self._ray
        actor: Any = _Actor  # Ray's own types know functions only
        rows = [{"number": number, "batch": pickle.dumps(batch)} for number, batch in enumerate(batches)]
        scrubbed = ray.data.from_items(rows, override_num_blocks=max(1, len(rows))).map(
            actor,
            fn_constructor_args=(self._job,),
            compute=ray.data.ActorPoolStrategy(size=self._workers),
            num_cpus=1,
        )
        try:
            for row in scrubbed.iter_rows():
                result = pickle.loads(row["result"])
                if isinstance(result, SovereignError):
                    raise result
                yield row["number"], result
        except ray.exceptions.RayError as error:
            raise PrivacyError(
                f"Ray ended the scrubbing with {type(error).__name__}, most often because an actor was killed when "
                f"memory ran out. Nothing was kept.",
                "Lower corpus.workers in the recipe, and run the line again.",
                act="run_line",
                line=self._job.line,
            ) from None


class _Actor:
    """One worker. An error crosses as a value: Ray would report it with a traceback that may quote a text."""

    def __init__(self, job: ScrubJob) -> None:
        keep_private()
        go_offline()
        os.environ["OMP_NUM_THREADS"] = "1"
        self._scrubber = BatchScrubber(job)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            result: ScrubbedBatch | SovereignError = self._scrubber.scrub(pickle.loads(row["batch"]))
        except SovereignError as error:
            result = error
        return {"number": row["number"], "result": pickle.dumps(result)}


def _close_to_others() -> None:
    """Set what Ray reads once, at its import: a local one listens on loopback and obeys whoever knows a token.

    Ray runs what it is sent. It listens on every interface: an address of 127.0.0.1 it takes for a mistake and replaces
    by the machine's own, unless it is told that it is no cluster, by a switch made for desktops. On loopback there are
    still the other accounts of the machine, hence the token.
    """
    closed = os.environ.get(NO_CLUSTER) == "0" and os.environ.get("RAY_AUTH_MODE") == "token"
    if "ray" in sys.modules and not closed:
        raise PrivacyError(
            "corpus.engine is 'ray', and Ray was imported in this process before it could be closed to others.",
            "Run the step in a process of its own, as the Dagster UI does.",
        )
    os.environ[NO_CLUSTER] = "0"
    if os.environ.get("RAY_AUTH_MODE") != "token":
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))


@contextmanager
def _patience(ray: Any, progress: Progress) -> Iterator[None]:
    """Have Ray look for the node that it starts for `SECONDS_TO_START`, and say so.

    Ray 2.60 looks by `ray._private.services.get_node`, which raises RuntimeError while the node is not there, and gives
    up after 30 s (`Node.__init__` in `ray/_private/node.py`).
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
                    progress(f"privacy: Ray is starting, {now - begun:.0f} s of {SECONDS_TO_START} s at most")
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
        with _patience(ray, progress):
            ray.init(log_to_driver=False, **({} if address else local))
    except Exception as error:  # Ray raises a bare Exception when its processes are slow to start; no text is near yet
        failed = f"Ray at {address} was not reached" if address else "A local Ray did not start"
        raise PrivacyError(
            f"{failed} ({str(error).splitlines()[0]}).",
            "Run again when the machine is less busy, or set corpus.engine to 'processes', which gives the same bytes.",
        ) from error
