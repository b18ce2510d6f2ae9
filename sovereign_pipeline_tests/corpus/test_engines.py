"""A Ray that nobody else reaches and that sees the corpus; workers only where they are worth it."""

import ipaddress
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from sovereign_pipeline.corpus import engines
from sovereign_pipeline.corpus.engines import unprepared
from sovereign_pipeline.policy.corpus import Corpus
from sovereign_pipeline_tests.privacy.engines.scrubbed_files import of_no_cluster
from sovereign_pipeline_tests.waiting import SECONDS

pytestmark = pytest.mark.slow


def test_nobody_else_reaches_the_ray_of_a_step(tmp_path: Path) -> None:
    """Not from the network, whatever Ray listens on by default, and not from another account of this machine."""
    program = (
        "import sys; from pathlib import Path\n"
        "from sovereign_pipeline.corpus.engines import ray_actors\n"
        "from sovereign_pipeline.corpus.engines import unprepared\n"
        "with ray_actors(unprepared(abs), Path(sys.argv[1]), 1, lambda message: None):\n"
        "    import ray\n"
        "    print(ray.get_runtime_context().gcs_address, flush=True)\n"
        "    sys.stdin.read()\n"
    )
    asks = "import sys, ray; print(ray._raylet.GcsClient(address=sys.argv[1]).internal_kv_keys(b'', None))"
    with subprocess.Popen(
        [sys.executable, "-c", program, tmp_path],
        env=of_no_cluster(),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdin and process.stdout
        address = process.stdout.readline().strip()
        held = psutil.Process(process.pid)
        ports = {
            port.laddr.ip
            for each in [held, *held.children(recursive=True)]
            for port in each.net_connections()
            if port.status == psutil.CONN_LISTEN
        }
        stranger = subprocess.run(
            [sys.executable, "-c", asks, address], env=of_no_cluster(), capture_output=True, text=True, timeout=SECONDS
        )
        process.stdin.close()
    assert ports
    assert all(ipaddress.ip_address(port.removeprefix("::ffff:")).is_loopback for port in ports), ports
    assert stranger.returncode != 0
    assert "InvalidAuthToken" in stranger.stderr


def test_a_ray_that_was_imported_open_is_refused(tmp_path: Path) -> None:
    program = (
        "import sys, ray; from pathlib import Path\n"
        "from sovereign_pipeline.corpus.engines import ray_actors\n"
        "from sovereign_pipeline.corpus.engines import unprepared\n"
        "with ray_actors(unprepared(abs), Path(sys.argv[1]), 1, print): pass\n"
    )
    refused = subprocess.run(
        [sys.executable, "-c", program, tmp_path], env=of_no_cluster(), capture_output=True, text=True, timeout=SECONDS
    )
    assert refused.returncode != 0
    assert "Run the step in a separate process" in refused.stderr


def test_a_ray_that_starts_slowly_is_waited_for(tmp_path: Path) -> None:
    """By Ray's own clock, 31 s are over whenever it looks; its node is there at the third look."""
    program = (
        "import itertools, sys, time, types; from pathlib import Path\n"
        "from sovereign_pipeline.corpus import engines\n"
        "from sovereign_pipeline.corpus.engines import unprepared\n"
        "engines.SECONDS_BETWEEN_MESSAGES = 0\n"
        "ticks, looks, start = itertools.count(0, 31), itertools.count(1), engines._start\n"
        "def start_slowly(ray, *others):\n"
        "    import ray._private.node as node, ray._private.services as services\n"
        "    look = services.get_node\n"
        "    def slow(*of):\n"
        "        if next(looks) < 3: raise RuntimeError('not found')\n"
        "        return look(*of)\n"
        "    services.get_node = slow\n"
        "    node.time = types.SimpleNamespace(**{**vars(time), 'monotonic': lambda: next(ticks)})\n"
        "    start(ray, *others)\n"
        "engines._start = start_slowly\n"
        "with engines.ray_actors(unprepared(abs), Path(sys.argv[1]), 1, print): print('started', flush=True)\n"
    )
    started = subprocess.run(
        [sys.executable, "-c", program, tmp_path], env=of_no_cluster(), capture_output=True, text=True, timeout=SECONDS
    )
    assert started.returncode == 0, started.stderr
    assert "started" in started.stdout
    assert "Ray is starting" in started.stdout


def test_a_node_that_does_not_see_the_corpus_is_named(tmp_path: Path) -> None:
    """The file is there when Ray gets its work, and gone when an actor reads it, as on a node without the mount."""
    (tmp_path / "documents.jsonl").write_text("{}\n")
    program = (
        "import sys; from pathlib import Path; from sovereign_pipeline.corpus.engines import unprepared\n"
        "from sovereign_pipeline.corpus import engines\n"
        "from sovereign_pipeline.corpus.engines import unprepared\n"
        "source = Path(sys.argv[1])\n"
        "with engines.ray_actors(unprepared(abs), source, 1, print) as engine:\n"
        "    print(*engine(iter([-1, -2])))\n"
        "    of_driver = source.stat()\n"
        "    source.unlink()\n"
        "    Path.stat = lambda path, **options: of_driver\n"
        "    print(*engine(iter([-3])))\n"
    )
    asked = subprocess.run(
        [sys.executable, "-c", program, tmp_path / "documents.jsonl"],
        env=of_no_cluster(),
        capture_output=True,
        text=True,
        timeout=SECONDS,
    )
    assert "1 2" in asked.stdout
    assert "InputError" in asked.stderr
    assert "has no file" in asked.stderr


@pytest.mark.parametrize(("workers", "useful", "chosen"), [(8, 1, "this process"), (1, 8, "this process"), (2, 8, 2)])
def test_little_work_is_done_in_this_process(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: int, useful: int, chosen: object
) -> None:
    monkeypatch.setattr(engines, "this_process", lambda start: "this process")
    monkeypatch.setattr(engines, "process_pool", lambda start, workers: workers)
    assert engines.choose_engine(unprepared(abs), tmp_path, Corpus(workers=workers), useful, print) == chosen
