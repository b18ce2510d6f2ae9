"""How a program in the sandbox ends: time, processes, output, and machines that do not allow the limits.

Where a limit can be seen from inside, the program itself passes only if it ran into that limit.
"""

import os
import resource
import shutil
import subprocess
import sys
import textwrap
from pathlib import Path

import psutil
import pytest

from sovereign_pipeline.base.errors import SandboxUnavailable
from sovereign_pipeline.base.settings import PROJECT_ROOT
from sovereign_pipeline.sandbox import sandbox
from sovereign_pipeline.sandbox.sandbox import Limits, require_sandbox, run_program
from sovereign_pipeline_tests.sandbox.programs import outcome_of
from sovereign_pipeline_tests.waiting import SECONDS, wait_until

WRITES_TO_ITS_REPORT = """
import contextlib, os
for descriptor in range(3, 32):
    with contextlib.suppress(OSError):
        os.write(descriptor, b"{}")
"""


def test_a_program_passes_when_its_last_line_is_reached() -> None:
    require_sandbox()
    assert outcome_of("import collections, hashlib, math, random, re, typing\nassert math.sqrt(4) == 2") == "passed"


@pytest.mark.parametrize(
    "program",
    [
        "assert 1 == 2",
        "raise SystemExit(0)",
        "import sys; sys.exit(0)",
        "import os; os._exit(0)",
        "print('passed'); assert False",
        "import sys; sys.stderr.write('passed'); sys.exit()",
        "import atexit; atexit.register(print, 'passed'); assert False",
        "import os, signal; os.kill(os.getpid(), signal.SIGKILL)",
        "import ctypes; ctypes.string_at(0)",
        "def f(): return f()\nf()",
        "this is not python",
        WRITES_TO_ITS_REPORT.format("x:passed") + "assert False",
    ],
)
def test_any_other_ending_is_a_failure(program: str) -> None:
    assert outcome_of(program) == "failed"


def test_what_is_on_the_report_besides_the_number_is_no_pass() -> None:
    assert (
        outcome_of("import os\nfor fd in range(3, 4096):\n    try: os.write(fd, b'x')\n    except OSError: pass")
        == "failed"
    )


def test_processor_time_ends_a_loop_also_one_that_does_not_want_to() -> None:
    limits = Limits(cpu_seconds=1, wall_seconds=SECONDS)
    before = processor_seconds()
    assert outcome_of("while True: pass", limits) == "timeout"
    stays = "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass"
    assert outcome_of(stays, limits) == "failed"
    assert 1 < processor_seconds() - before < 30  # the clock would have let them have many times as much


def processor_seconds() -> float:
    """Of all children that were waited for, and of theirs."""
    used = resource.getrusage(resource.RUSAGE_CHILDREN)
    return used.ru_utime + used.ru_stime


def test_the_clock_ends_a_sleep() -> None:
    """A program that sleeps to its end would have passed."""
    assert outcome_of("import time; time.sleep(60)", Limits(wall_seconds=0.9)) == "timeout"


def test_output_without_end_is_not_kept_and_a_full_report_ends_by_time() -> None:
    before = psutil.Process().memory_info().rss
    assert (
        outcome_of("for _ in range(2_000): print('x' * 100_000)", Limits(cpu_seconds=10, wall_seconds=SECONDS))
        == "passed"
    )
    flood = """
        import os
        while True:
            for descriptor in range(3, 32):
                try:
                    os.write(descriptor, b"x" * 65_536)
                except OSError:
                    pass
    """
    assert outcome_of(flood, Limits(wall_seconds=1)) == "timeout"
    assert psutil.Process().memory_info().rss - before < 50 << 20


def test_processes_are_few() -> None:
    forks = """
        import os, time
        made = 0
        try:
            while made < 50:
                if os.fork() == 0:
                    time.sleep(1000)
                    os._exit(0)
                made += 1
        except BlockingIOError:
            pass
        assert 0 < made < 8
    """
    assert outcome_of(forks) == "passed"
    threads = forks.replace("os.fork() == 0", "threading.Thread(target=time.sleep, args=(1000,), daemon=True).start()")
    assert (
        outcome_of("import threading\n" + textwrap.dedent(threads).replace("BlockingIOError", "RuntimeError"))
        == "passed"
    )


def test_a_fork_bomb_ends_by_time_and_leaves_nothing() -> None:
    bomb = f"""
        import ctypes, os
        ctypes.CDLL(None).prctl(15, b"bomb{os.getpid()}", 0, 0, 0)
        while True:
            try:
                os.fork()
            except OSError:
                pass
    """
    assert outcome_of(bomb, Limits(wall_seconds=1)) == "timeout"
    wait_until_none_is_named(f"bomb{os.getpid()}")


def test_a_child_that_left_its_session_does_not_outlive_the_program() -> None:
    leaves = f"""
        import ctypes, os, time
        ready, tell = os.pipe()
        if os.fork() == 0:
            os.setsid()
            ctypes.CDLL(None).prctl(15, b"left{os.getpid()}", 0, 0, 0)
            os.write(tell, b"x")
            time.sleep(1000)
            os._exit(0)
        os.read(ready, 1)
    """
    assert outcome_of(leaves) == "passed"
    wait_until_none_is_named(f"left{os.getpid()}")


def wait_until_none_is_named(name: str) -> None:
    """psutil reads the name that the kernel keeps, which is the one that prctl set."""
    wait_until(
        lambda: all(each.info["name"] != name for each in psutil.process_iter(["name"])), lambda: f"{name} still runs"
    )


RUN = "from sovereign_pipeline.sandbox.sandbox import run_program; print(run_program('assert True'))"


def test_where_the_kernel_refuses_a_namespace_nothing_is_run() -> None:
    """A user namespace in which no other one may be made stands for a machine that forbids them."""
    assert shutil.which("unshare")
    forbid = f'echo 0 > /proc/sys/user/max_user_namespaces; exec {sys.executable} -c "$0"'
    ended = subprocess.run(
        ["unshare", "--user", "--map-root-user", "sh", "-c", forbid, RUN],
        cwd=PROJECT_ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 1
    assert "SandboxUnavailable" in ended.stderr and "docs/how-to/models.md" in ended.stderr
    assert "passed" not in ended.stdout


def test_where_a_path_that_it_needs_cannot_be_shown_nothing_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sovereign_pipeline.sandbox.sandbox.python_parts", lambda: ["/dev/null/nowhere"])
    with pytest.raises(SandboxUnavailable, match="does not allow one of them"):
        run_program("assert True")


def test_where_python_cannot_say_what_it_consists_of_nothing_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox.python_parts.cache_clear()
    monkeypatch.setattr("sovereign_pipeline.sandbox.sandbox._PARTS", "raise SystemExit(1)")
    with pytest.raises(SandboxUnavailable, match="could not list the files"):
        run_program("assert True")


def test_where_the_kernel_does_not_take_the_filter_nothing_is_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A filter whose last instruction is no instruction stands for a kernel without filters."""
    inside = sandbox.INSIDE.read_text()
    altered = tmp_path / "inside.py"
    altered.write_text(inside.replace("(RETURN, 0, 0, SECCOMP_RET_ALLOW)", "(0xFFFF, 0, 0, 0)"))
    assert altered.read_text() != inside
    monkeypatch.setattr("sovereign_pipeline.sandbox.sandbox.INSIDE", altered)
    with pytest.raises(SandboxUnavailable, match="prctl"):
        run_program("assert True")


def test_a_process_whose_files_are_its_own_runs_programs_too() -> None:
    """The program has another account than the process that makes its root."""
    before = os.umask(0o077)
    try:
        assert outcome_of("import json") == "passed"
    finally:
        os.umask(before)


def test_sets_have_one_order() -> None:
    program = "assert list({'a', 'b', 'c', 'd', 'e'}) == %r"
    python = subprocess.run(
        [sys.executable, "-c", "print(list({'a', 'b', 'c', 'd', 'e'}))"],
        env={"PYTHONHASHSEED": "0"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert outcome_of(program.replace("%r", python.stdout.strip())) == "passed"
