"""Work comes back in order; what a worker raises is raised; a killed worker, or a killed parent, ends it all."""

import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil
import pytest

from sovereign_pipeline.base import processes
from sovereign_pipeline.base.errors import WorkerKilled
from sovereign_pipeline.base.processes import WorkerPool
from sovereign_pipeline.base.settings import PROJECT_ROOT
from sovereign_pipeline_tests.waiting import SECONDS, wait_until, wait_until_ended


def wait_and_double(number: int) -> int:
    time.sleep(0.05 / (1 + number))  # later ones are done earlier
    return 2 * number


def divide(number: int) -> float:
    return 1 / number


def remember(directory: str) -> None:
    global _remembered
    _remembered = directory


def recall(number: int) -> str:
    return _remembered


_remembered = ""


def test_work_comes_back_in_order_from_workers_that_began_with_what_they_were_given() -> None:
    with WorkerPool(2, remember, "given") as pool:
        assert list(pool.over(iter(range(20)), wait_and_double)) == list(range(0, 40, 2))
        assert list(pool.over(iter([]), wait_and_double)) == []
        assert set(pool.over(iter(range(8)), recall)) == {"given"}
        with pytest.raises(ZeroDivisionError):
            list(pool.over(iter([1, 2, 0, 4]), divide))


def kill_itself_or_sleep(number: int) -> None:
    if number:
        time.sleep(SECONDS)
    os.kill(os.getpid(), signal.SIGKILL)


@pytest.fixture
def sigterm_is_ignored() -> Iterator[None]:
    before = signal.signal(signal.SIGTERM, signal.SIG_IGN)
    yield
    signal.signal(signal.SIGTERM, before)


@pytest.mark.usefixtures("sigterm_is_ignored")
def test_a_worker_that_inherited_an_ignored_sigterm_is_not_waited_for(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(processes, "SECONDS_BETWEEN_LOOKS", 0.5)
    with WorkerPool(2) as pool, pytest.raises(WorkerKilled, match="memory ran out"):
        list(pool.over(iter([1, 0]), kill_itself_or_sleep))


def run_program(directory: Path, program: str) -> "subprocess.Popen[str]":
    (directory / "program.py").write_text(program)
    return subprocess.Popen(
        [sys.executable, directory / "program.py", directory],
        env={**os.environ, "PYTHONPATH": str(PROJECT_ROOT)},
        stderr=subprocess.PIPE,
        text=True,
    )


def test_a_worker_that_is_killed_while_it_sends_stops_the_work_too(tmp_path: Path) -> None:
    """The worker kills itself when a third of its result is in the pipe; the other one works on, with the pipe open."""
    program = run_program(
        tmp_path,
        "import os, signal, sys, time\n"
        "from multiprocessing.connection import Connection\n"
        "from sovereign_pipeline.base import processes\n"
        "from sovereign_pipeline.base.errors import WorkerKilled\n"
        "def send_a_third_and_die(connection, content):\n"
        "    third = bytes(content[: len(content) // 3])\n"
        "    os.write(connection.fileno(), len(content).to_bytes(4, 'big') + third)\n"
        "    os.kill(os.getpid(), signal.SIGKILL)\n"
        "def work(number):\n"
        "    if number == 1: time.sleep(100_000)\n"
        "    Connection._send_bytes = send_a_third_and_die\n"
        "    return b'x' * 3_000\n"
        "processes.SECONDS_BETWEEN_LOOKS = 0.5\n"
        "if __name__ == '__main__':\n"
        "    with processes.WorkerPool(2) as pool:\n"
        "        try: list(pool.over(iter(range(2)), work))\n"
        "        except WorkerKilled as error: sys.exit(str(error))\n",
    )
    try:
        _, errors = program.communicate(timeout=SECONDS)
    finally:
        program.kill()
    assert program.returncode == 1
    assert "A worker process was killed" in errors


def tell_and_stay(file: Path) -> Any:
    """Tell the process id and stay; run by a worker."""
    file.with_suffix(".tmp").write_text(str(os.getpid()))
    file.with_suffix(".tmp").rename(file)
    time.sleep(10 * SECONDS)


def test_the_workers_end_with_their_parent_however_it_ends(tmp_path: Path) -> None:
    parent = run_program(
        tmp_path,
        "import sys; from pathlib import Path\n"
        "from sovereign_pipeline.base.processes import WorkerPool\n"
        "from sovereign_pipeline_tests.base.test_workers import tell_and_stay\n"
        "if __name__ == '__main__':\n"
        "    with WorkerPool(2) as pool:\n"
        "        list(pool.over((Path(sys.argv[1]) / str(n) for n in range(2)), tell_and_stay))\n",
    )
    try:
        told = [tmp_path / str(number) for number in range(2)]
        wait_until(lambda: all(file.exists() for file in told), lambda: "two workers did not begin")
        workers = [psutil.Process(int(file.read_text())) for file in told]
    finally:
        parent.kill()
        parent.communicate()
    wait_until_ended(workers)
