"""Scrubbing by Ray Data: the batches of `engine.py`, worked through by actors that each hold the detectors.

What belongs here: starting Ray so that it tells nobody, and handing batches over. What does not: what a batch or a
worker is (`engine.py`).
"""

import importlib.util
import logging
import os
import pickle
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

from sovereign_pipeline.errors import PrivacyError, SovereignError
from sovereign_pipeline.privacy.engine import Batch, BatchScrubber, Engine, ScrubbedBatch, ScrubJob
from sovereign_pipeline.settings import go_offline

OBJECT_STORE_BYTES = 256 * 1024 * 1024


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
    """An Engine over Ray Data: the Ray that this process is connected to, the cluster at RAY_ADDRESS, or a local one on
    loopback that ends with the work. Raises PrivacyError when Ray is not installed."""
    if importlib.util.find_spec("ray") is None:
        raise PrivacyError(
            "corpus.engine is 'ray', and Ray is not installed. Run `pip install 'sovereign-pipeline[ray]'` from the "
            "institution's own package mirror, or set corpus.engine to 'processes'."
        )
    # Read by Ray while it is imported and by the processes it starts.
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"
    os.environ["RAY_DATA_DISABLE_PROGRESS_BARS"] = "1"
    import ray

    own = not ray.is_initialized()
    scratch = tempfile.mkdtemp(prefix="ray-")
    if own:
        _start(ray, workers, scratch)
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

    try:
        yield scrubbed
    finally:
        if own:
            ray.shutdown()
        shutil.rmtree(scratch)


def _start(ray: Any, workers: int, scratch: str) -> None:
    if "RAY_ADDRESS" in os.environ:
        ray.init(log_to_driver=False)
        return
    ray.init(
        address="local",
        num_cpus=workers,
        object_store_memory=OBJECT_STORE_BYTES,
        include_dashboard=False,
        log_to_driver=False,
        logging_level="ERROR",
        _node_ip_address="127.0.0.1",
        _temp_dir=scratch,
    )
