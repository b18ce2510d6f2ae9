"""How a command in the sandbox is run and how it ends: input, output, exit status, time, and what it leaves behind."""

import os
import signal
import subprocess
import sys
from pathlib import Path

import psutil
import pytest

from sovereign_pipeline.base.settings import PROJECT_ROOT
from sovereign_pipeline.sandbox.command import CommandEnd
from sovereign_pipeline.sandbox.machine import parts_of
from sovereign_pipeline.sandbox.sandbox import Limits
from sovereign_pipeline_tests.sandbox.commands import ROOM, SHELL, end_of, python
from sovereign_pipeline_tests.sandbox.test_sandbox import wait_until_none_is_named
from sovereign_pipeline_tests.waiting import wait_until

AWK = "#!/usr/bin/awk -f\n"


def test_a_script_of_a_shell_reads_its_input_and_writes_its_output() -> None:
    counts = SHELL + 'while read -r line; do echo "$1 ${#line}"; done\n'
    assert end_of(counts, "a\nbb\n", "--strict") == CommandEnd("ended", 0, b"--strict 1\n--strict 2\n")


def test_a_script_of_awk_reads_its_files() -> None:
    looks_up = (
        AWK + 'BEGIN { while ((getline word < "/tool/words.txt") > 0) known[word] = 1 }\n{ print ($0 in known) }\n'
    )
    assert end_of(looks_up, "a\nb\n", files={"words.txt": b"b\nc\n"}).output == b"0\n1\n"


def test_a_script_of_this_python_has_its_standard_library() -> None:
    assert end_of(python("import json, sys\nprint(len(json.load(sys.stdin)))"), '["é", 2]').output == b"2\n"


def test_a_binary_runs_with_the_libraries_that_its_loader_finds() -> None:
    assert end_of(Path("/bin/cat").read_bytes(), "as it is\n", name="cat").output == b"as it is\n"


def test_an_input_larger_than_the_limit_on_files_arrives_whole() -> None:
    small = Limits(file_bytes=1 << 16, cpu_seconds=60, wall_seconds=ROOM.wall_seconds)
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


@pytest.mark.parametrize(
    ("script", "status"),
    [
        ("exit 3", 3),
        ("kill -9 $$", -signal.SIGKILL),
        ("exec /tool/none", 127),
        ("exec 3>/tmp/a; while echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx >&3; do :; done", -signal.SIGXFSZ),
        ("while echo xxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxxx; do :; done", -signal.SIGXFSZ),
    ],
    ids=["status", "signal", "missing", "large file", "flood"],
)
def test_its_end_is_told(script: str, status: int) -> None:
    end = end_of(SHELL + script, limits=Limits(file_bytes=4096, cpu_seconds=60, wall_seconds=ROOM.wall_seconds))
    assert (end.ending, end.status) == ("ended", status)
    assert len(end.output) <= 4096


def test_what_cannot_be_executed_has_a_status_of_its_own() -> None:
    for_no_machine = bytearray(Path("/bin/cat").read_bytes())
    for_no_machine[18:20] = b"\xff\xff"  # e_machine
    for_no_machine[32:40] = bytes(8)  # no headers, so no loader either
    for_no_machine[56:58] = bytes(2)
    assert end_of(bytes(for_no_machine)).status == 126


@pytest.mark.security_case("a command in the sandbox never ends", "processor time and the clock end it")
def test_time_ends_a_loop_and_a_sleep() -> None:
    assert end_of(SHELL + "while :; do :; done", limits=Limits(cpu_seconds=1, wall_seconds=ROOM.wall_seconds)) == (
        CommandEnd("timeout")
    )
    sleeps = python("import time\ntime.sleep(1000)")
    assert end_of(sleeps, limits=Limits(wall_seconds=1)) == CommandEnd("timeout")


@pytest.mark.security_case("a command in the sandbox forks without end", "few processes, and none outlives the run")
def test_a_fork_bomb_and_a_child_in_the_background_leave_nothing() -> None:
    name = f"bomb{os.getpid()}"
    assert (
        end_of(SHELL + "f() { f | f & }\nf\nwhile :; do :; done", name=name, limits=Limits(wall_seconds=1)).status != 0
    )
    wait_until_none_is_named(name)
    name = f"left{os.getpid()}"
    assert end_of(SHELL + "(while :; do :; done) &\nexit 0", name=name).status == 0
    wait_until_none_is_named(name)


@pytest.mark.security_case("who started a command is killed", "the sandbox ends with it")
def test_a_command_does_not_outlive_the_process_that_started_it() -> None:
    """As a trainer that is killed while it judges."""
    name = f"orphan{os.getpid()}"
    waits = python("import time\ntime.sleep(1000)")
    starts = f"from sovereign_pipeline_tests.sandbox.commands import end_of\nend_of({waits!r}, name={name!r})"
    with subprocess.Popen([sys.executable, "-c", starts], cwd=PROJECT_ROOT) as starter:
        try:
            wait_until(
                lambda: any(each.info["name"] == name for each in psutil.process_iter(["name"])),
                lambda: f"{name} never ran",
            )
        finally:
            starter.kill()
    wait_until_none_is_named(name)


@pytest.mark.security_case("a command in the sandbox writes its own report", "its exit status is what the kernel says")
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
