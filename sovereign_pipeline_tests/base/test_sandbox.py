"""How a program in the sandbox ends: time, processes, output, and machines that do not allow the limits.

Where a limit can be seen from inside, the program itself passes only if it ran into that limit.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from sovereign_pipeline.base import sandbox
from sovereign_pipeline.base.errors import SandboxUnavailable
from sovereign_pipeline.base.sandbox import (
    Call,
    CommandEnd,
    Limits,
    call_function,
    parts_of,
    require_sandbox,
    run_program,
)
from sovereign_pipeline.base.settings import PROJECT_ROOT
from sovereign_pipeline_tests.base.sandbox_programs import ROOM as ROOM_OF_COMMANDS
from sovereign_pipeline_tests.base.sandbox_programs import SHELL, end_of, outcome_of, python
from sovereign_pipeline_tests.examples import examples
from sovereign_pipeline_tests.waiting import SECONDS, wait_until


def test_a_program_passes_when_its_last_line_is_reached() -> None:
    require_sandbox()
    assert outcome_of("import collections, hashlib, math, random, re, typing\nassert math.sqrt(4) == 2") == "passed"


@pytest.mark.parametrize("program", examples(__file__, "any_other_ending_is_a_failure"))
def test_any_other_ending_is_a_failure(program: str) -> None:
    assert outcome_of(program) == "failed"


def test_a_full_report_is_not_kept_and_ends_by_time() -> None:
    before = psutil.Process().memory_info().rss
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


RUN = "from sovereign_pipeline.base.sandbox import run_program; print(run_program('assert True'))"


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


def test_where_python_cannot_say_what_it_consists_of_nothing_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox.python_parts.cache_clear()
    monkeypatch.setattr("sovereign_pipeline.base.sandbox._PARTS", "raise SystemExit(1)")
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
    monkeypatch.setattr("sovereign_pipeline.base.sandbox.INSIDE", altered)
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


def test_a_script_of_a_shell_reads_its_input_and_writes_its_output() -> None:
    counts = SHELL + 'while read -r line; do echo "$1 ${#line}"; done\n'
    assert end_of(counts, "a\nbb\n", "--strict") == CommandEnd("ended", 0, b"--strict 1\n--strict 2\n")


def test_a_binary_runs_with_the_libraries_that_its_loader_finds() -> None:
    assert end_of(Path("/bin/cat").read_bytes(), "as it is\n", name="cat").output == b"as it is\n"


def test_an_input_larger_than_the_limit_on_files_arrives_whole() -> None:
    small = Limits(file_bytes=1 << 16, cpu_seconds=60, wall_seconds=ROOM_OF_COMMANDS.wall_seconds)
    counts = "import sys\nprint(len(sys.stdin.read()))"
    assert end_of(python(counts), "x" * 3_000_000, limits=small).output == b"3000000\n"


def test_a_program_of_this_machine_is_there_where_it_is_named_and_not_else() -> None:
    counts = SHELL + "grep -c a\n"
    assert end_of(counts, "a\nb\na\n", uses=["/bin/grep"]).output == b"2\n"
    assert end_of(counts, "a\nb\na\n").status == 127


def test_a_directory_that_is_named_is_there_whole_though_a_library_lies_in_it() -> None:
    libc = next(path for path in parts_of("check", SHELL.encode(), []) if "/libc.so" in path)
    names = [path.name for path in Path(libc).parent.iterdir() if not path.name.startswith(".")]
    counts = SHELL + f"set -- {Path(libc).parent}/*\necho $#\n"
    assert int(end_of(counts).output) < int(end_of(counts, uses=[str(Path(libc).parent)]).output) == len(names)


@pytest.mark.parametrize(("script", "status"), examples(__file__, "its_end_is_told"))
def test_its_end_is_told(script: str, status: int) -> None:
    end = end_of(
        SHELL + script, limits=Limits(file_bytes=4096, cpu_seconds=60, wall_seconds=ROOM_OF_COMMANDS.wall_seconds)
    )
    assert (end.ending, end.status) == ("ended", status)
    assert len(end.output) <= 4096


def test_what_cannot_be_executed_has_a_status_of_its_own() -> None:
    for_no_machine = bytearray(Path("/bin/cat").read_bytes())
    for_no_machine[18:20] = b"\xff\xff"  # e_machine
    for_no_machine[32:40] = bytes(8)  # no headers, so no loader either
    for_no_machine[56:58] = bytes(2)
    assert end_of(bytes(for_no_machine)).status == 126


@pytest.mark.security_case("a command in the sandbox never ends", "limits on processor time and wall-clock time end it")
def test_time_ends_a_loop_and_a_sleep() -> None:
    assert end_of(
        SHELL + "while :; do :; done", limits=Limits(cpu_seconds=1, wall_seconds=ROOM_OF_COMMANDS.wall_seconds)
    ) == (CommandEnd("timeout"))
    sleeps = python("import time\ntime.sleep(1000)")
    assert end_of(sleeps, limits=Limits(wall_seconds=1)) == CommandEnd("timeout")
    limits = Limits(cpu_seconds=1, wall_seconds=SECONDS)
    stays = "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass"
    assert outcome_of(stays, limits) == "failed"
    assert call_function("def f(x):\n    while True:\n        pass", "f", 0, limits) == Call("timeout")


@pytest.mark.security_case(
    "A command in the sandbox forks endlessly", "the number of processes is limited, and none outlives the run"
)
def test_a_fork_bomb_and_a_child_in_the_background_leave_nothing() -> None:
    name = f"bomb{os.getpid()}"
    assert (
        end_of(SHELL + "f() { f | f & }\nf\nwhile :; do :; done", name=name, limits=Limits(wall_seconds=1)).status != 0
    )
    wait_until_none_is_named(name)
    name = f"left{os.getpid()}"
    assert end_of(SHELL + "(while :; do :; done) &\nexit 0", name=name).status == 0
    wait_until_none_is_named(name)


@pytest.mark.security_case("The process that started a sandbox is killed", "the sandbox ends, too")
def test_a_command_does_not_outlive_the_process_that_started_it() -> None:
    """As a trainer that is killed while it judges."""
    name = f"orphan{os.getpid()}"
    waits = python("import time\ntime.sleep(1000)")
    starts = f"from sovereign_pipeline_tests.base.sandbox_programs import end_of\nend_of({waits!r}, name={name!r})"
    with subprocess.Popen([sys.executable, "-c", starts], cwd=PROJECT_ROOT) as starter:
        try:
            wait_until(
                lambda: any(each.info["name"] == name for each in psutil.process_iter(["name"])),
                lambda: f"{name} never ran",
            )
        finally:
            starter.kill()
    wait_until_none_is_named(name)


@pytest.mark.security_case("A command in the sandbox forges its report", "its exit status comes from the kernel")
def test_a_report_that_the_command_writes_itself_is_not_taken() -> None:
    forges = """
        import os
        for descriptor in range(3, 64):
            try:
                os.write(descriptor, b"x:ended:0")
            except OSError:
                continue
            print("wrote to", descriptor)
        os._exit(9)
    """
    assert end_of(python(forges)) == CommandEnd("ended", 9, b"")


ROOM = Limits(wall_seconds=SECONDS)


def test_a_function_gets_its_argument_and_returns_what_json_has() -> None:
    program = "import re\ndef f(rows):\n    return {'lengths': [len(row) for row in rows], 'none': None}"
    assert call_function(program, "f", ["a", "bb"], ROOM) == Call("returned", {"lengths": [1, 2], "none": None})


@pytest.mark.parametrize(
    ("program", "where"),
    examples(__file__, "a_failure_names_its_kind_and_line_and_not_its_message"),
    ids=["raises", "raises_at_once", "missing", "no_json", "infinite", "too_long", "exit", "killed", "syntax", "named"],
)
def test_a_failure_names_its_kind_and_line_and_not_its_message(program: str, where: str) -> None:
    found = call_function(program, "f", "secretword", ROOM)
    assert found.ending == "raised" and found.value is None
    assert where in found.where and "secretword" not in found.where


@pytest.mark.security_case(
    "Code in the sandbox finds its nonce and reports its input", "no error and no value quotes it"
)
@pytest.mark.parametrize("said", ["{}", "raised:{} in line 2", "returned:{}"], ids=["set-up", "raised", "returned"])
def test_what_a_program_reports_with_its_nonce_is_quoted_nowhere(said: str) -> None:
    program = (
        "import os, sys\ndef f(x):\n    own = sys._getframe(1).f_locals\n"
        f"    os.write(own['report'], (own['nonce'] + ':' + {said!r}.format(x)).encode())\n    os._exit(0)"
    )
    found = call_function(program, "f", "secretword", ROOM)
    assert found.ending == "raised" and "secretword" not in str(found)


@pytest.mark.security_case("code in the sandbox writes to its report", "text without the nonce is ignored")
def test_a_value_that_the_program_writes_itself_is_not_taken() -> None:
    program = (
        "import os\ndef f(x):\n    for fd in range(3, 64):\n        try:\n            os.write(fd, b'x:returned:1')\n"
    )
    program += "        except OSError:\n            pass\n    os._exit(0)"
    assert call_function(program, "f", 0, ROOM).ending == "raised"
