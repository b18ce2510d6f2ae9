"""Two nodes of Ray on this machine, each with one core, which the tests of a module share."""

import signal
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from sovereign_pipeline.corpus.engines import patience


@pytest.fixture(scope="module")
def cluster() -> Iterator[str]:
    with tempfile.TemporaryDirectory(prefix="ray-") as scratch, pytest.MonkeyPatch.context() as patch:  # a short path
        patch.setenv("RAY_TMPDIR", scratch)
        Path(scratch, "ray").mkdir()
        handler = signal.getsignal(signal.SIGTERM)
        started = _two_nodes()
        signal.signal(signal.SIGTERM, handler)  # Ray sets its own, for as long as the process lives
        yield started.address
        started.shutdown()


def _two_nodes(tries: int = 3) -> Any:
    """Start a cluster. On a busy machine Ray's processes can miss the limits that it sets for their start."""
    import ray
    from ray.cluster_utils import Cluster

    node = {"num_cpus": 1, "num_gpus": 0, "object_store_memory": 100 * 2**20, "include_dashboard": False}
    for left in reversed(range(tries)):
        try:
            with patience(ray, print):
                cluster = Cluster(initialize_head=True, head_node_args=node)
                cluster.add_node(**node)
                return cluster
        except Exception:  # Ray raises bare exceptions
            if not left:
                raise
    raise AssertionError
