"""Scrubbing by Ray Data: the batches of `engine.py`, worked through by actors that each hold the detectors.

What belongs here: starting Ray so that it tells nobody, and handing batches over. What does not: what a batch or a
worker is (`engine.py`).
"""

import importlib.util
import logging
import os
import pickle
import secrets
import shutil
import sys
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sovereign_pipeline.errors import PrivacyError, SovereignError
from sovereign_pipeline.privacy.engines.batches import Batch, BatchScrubber, Engine, ScrubbedBatch, ScrubJob
from sovereign_pipeline.settings import go_offline

OBJECT_STORE_BYTES = 256 * 1024 * 1024
NO_CLUSTER = "RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"


class _Actor:
    """One worker. An error crosses as a value: Ray would tell it with a traceback that quotes what it likes."""

    def __init__(self, job: ScrubJob) -> None:
        go_offline()
        os.environ["OMP_NUM_THREADS"] = "1"
        self._scrubber = BatchScrubber(job)

    def __call__(self, row: dict[str, Any]) -> dict[str, Any]:
        try:
            result: ScrubbedBatch | SovereignError = self._scrubber(pickle.loads(row["batch"]))
        except SovereignError as error:
            result = error
        return {"number": row["number"], "result": pickle.dumps(result)}


@contextmanager
def ray_actors(job: ScrubJob, workers: int) -> Iterator[Engine]:
    """An Engine over Ray Data: on the cluster at RAY_ADDRESS, or on a local one that obeys this process alone and ends
    with the work. Raises PrivacyError when Ray is not installed, does not start or was imported before it could be
    closed to others."""
    if importlib.util.find_spec("ray") is None:
        raise PrivacyError(
            "corpus.engine is 'ray', and Ray is not installed. Run `pip install 'sovereign-pipeline[ray]'` from the "
            "institution's own package mirror, or set corpus.engine to 'processes'."
        )
    # Read by Ray while it is imported and by the processes it starts.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_DATA_DISABLE_PROGRESS_BARS"] = "1"
    if not os.environ.get("RAY_ADDRESS"):
        _close_to_others()
    import ray

    context = ray.data.DataContext.get_current()
    context.enable_progress_bars = False
    logging.getLogger("ray.data").setLevel(logging.ERROR)
    context.execution_options.preserve_order = True

    def scrubbed(batches: Iterator[Batch]) -> Iterator[tuple[int, ScrubbedBatch]]:
        worker: Any = _Actor  # Ray's own types know functions only
        rows = [{"number": number, "batch": pickle.dumps(batch)} for number, batch in enumerate(batches)]
        done = ray.data.from_items(rows, override_num_blocks=max(1, len(rows))).map(
            worker,
            fn_constructor_args=(job,),
            compute=ray.data.ActorPoolStrategy(size=workers),
            num_cpus=1,
        )
        try:
            for row in done.iter_rows():
                result = pickle.loads(row["result"])
                if isinstance(result, SovereignError):
                    raise result
                yield row["number"], result
        except ray.exceptions.RayError as error:
            raise PrivacyError(
                f"Ray ended the scrubbing with {type(error).__name__}; most often an actor was killed because memory "
                f"ran out. Nothing of it counts. Lower corpus.workers, and materialize scrubbed_corpus again."
            ) from None

    scratch = tempfile.mkdtemp(prefix="ray-")  # short, for the paths of its sockets
    try:
        _start(ray, workers, scratch)
        yield scrubbed
    finally:
        ray.shutdown()
        shutil.rmtree(scratch)


def _close_to_others() -> None:
    """Set what Ray reads once, at its import: a local one listens on loopback and obeys whoever knows a token.

    Ray runs what it is sent. It listens on every interface: an address of 127.0.0.1 it takes for a mistake and replaces
    by the machine's own, unless it is told that it is no cluster, by a switch made for desktops. On loopback there are
    still the other accounts of the machine, hence the token.
    """
    closed = os.environ.get(NO_CLUSTER) == "0" and os.environ.get("RAY_AUTH_MODE") == "token"
    if "ray" in sys.modules and not closed:
        raise PrivacyError(
            "corpus.engine is 'ray', and Ray was imported in this process before it could be closed to others. Run the "
            "step in a process of its own, as `sovereign run` and the Dagster UI do."
        )
    os.environ[NO_CLUSTER] = "0"
    if os.environ.get("RAY_AUTH_MODE") != "token":
        os.environ.update(RAY_AUTH_MODE="token", RAY_AUTH_TOKEN=secrets.token_hex(32))


def _start(ray: Any, workers: int, scratch: str) -> None:
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
        ray.init(log_to_driver=False, **({} if address else local))
    except (ConnectionError, RuntimeError, ValueError) as error:
        failed = f"Ray at {address} was not reached" if address else "A local Ray did not start"
        raise PrivacyError(
            f"{failed} ({str(error).splitlines()[0]}). Mend that, or set corpus.engine to 'processes', which gives the "
            f"same bytes."
        ) from error
