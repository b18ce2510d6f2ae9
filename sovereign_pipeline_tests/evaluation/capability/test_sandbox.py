"""Each limit of the sandbox holds, and only a program that reaches its last line has passed.

Where a limit can be seen from inside, the program itself passes only if it ran into that limit.
"""

import os
import platform
import shutil
import socket
import subprocess
import sys
import sysconfig
import tempfile
import textwrap
import time
from collections.abc import Iterator
from pathlib import Path

import psutil
import pytest

from sovereign_pipeline.errors import SandboxUnavailable
from sovereign_pipeline.evaluation.capability import sandbox, sandbox_inside
from sovereign_pipeline.evaluation.capability.sandbox import Limits, require_sandbox, run_program
from sovereign_pipeline.settings import PROJECT_ROOT


def outcome_of(program: str, limits: Limits | None = None) -> str:
    return run_program(textwrap.dedent(program), limits)


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
    limits = Limits(cpu_seconds=1, wall_seconds=300)
    started = time.monotonic()
    assert outcome_of("while True: pass", limits) == "timeout"
    stays = "import signal\nsignal.signal(signal.SIGXCPU, signal.SIG_IGN)\nwhile True: pass"
    assert outcome_of(stays, limits) == "failed"
    assert time.monotonic() - started < limits.wall_seconds


def test_the_clock_ends_a_sleep() -> None:
    started = time.monotonic()
    assert outcome_of("import time; time.sleep(60)", Limits(wall_seconds=0.9)) == "timeout"
    assert time.monotonic() - started < 10


def test_output_without_end_is_not_kept_and_a_full_report_ends_by_time() -> None:
    before = psutil.Process().memory_info().rss
    assert outcome_of("for _ in range(2_000): print('x' * 100_000)", Limits(cpu_seconds=10)) == "passed"
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


def test_memory_is_limited() -> None:
    asks_for = """
        try:
            bytearray({})
        except MemoryError:
            pass
        else:
            raise SystemExit
    """
    assert outcome_of(asks_for.format(4 << 30)) == "passed"
    assert outcome_of(asks_for.format(16 << 20)) == "failed"


# Each program that follows it keeps 20 to 100 MiB of memory without having it mapped.
KEEPS = """
import ctypes, errno, os

libc = ctypes.CDLL(None, use_errno=True)
PIECES, SIZE, PAGE, READ_WRITE, MAY_MOVE = range(4), 24 << 20, 4096, 3, 1
PRIVATE, SHARED, ANONYMOUS, HUGE = 2, 1, 32, 14
addresses = {"mmap", "mremap", "shmat"}

def call(name, *arguments):
    function = getattr(libc, name)
    function.restype = ctypes.c_long if name in addresses else ctypes.c_int
    result = function(*(ctypes.c_long(each) if isinstance(each, int) else each for each in arguments))
    if result == -1:
        raise OSError(ctypes.get_errno(), name)
    return result

def written(address, piece):
    ctypes.memset(address, 65 + piece, SIZE)
    return address

def is_there(address, piece):
    assert ctypes.string_at(address + SIZE - 1, 1) == bytes([65 + piece])
    return address
"""
DETACHED_SEGMENTS = """
segments = [call("shmget", 0, SIZE, 0o1600) for _ in PIECES]
for piece, segment in enumerate(segments):
    call("shmdt", written(call("shmat", segment, None, 0), piece))
for piece, segment in enumerate(segments):
    call("shmdt", is_there(call("shmat", segment, None, 0), piece))
"""
SHARED_WITHOUT_A_FILE = """
pages = []
for piece in PIECES:
    address = written(call("mmap", None, SIZE, READ_WRITE, SHARED | ANONYMOUS, -1, 0), piece)
    call("munmap", address + PAGE, SIZE - PAGE)
    pages.append(address)
for piece, page in enumerate(pages):
    address = is_there(call("mremap", page, PAGE, SIZE, MAY_MOVE), piece)
    call("munmap", address + PAGE, SIZE - PAGE)
"""
GIVEN_TO_A_PIPE = """
pipes = [os.pipe() for _ in range(4)]
for number in range(40):  # a small pipe holds sixteen pages, and with each of them its 2 MiB
    address = call("mmap", None, 4 << 20, READ_WRITE, PRIVATE | ANONYMOUS, -1, 0)
    start = address + -address % (2 << 20)
    libc.madvise(ctypes.c_long(start), ctypes.c_long(2 << 20), HUGE)
    ctypes.memset(start, 65, 2 << 20)
    call("vmsplice", pipes[number % 4][1], (ctypes.c_uint64 * 2)(start, PAGE), 1, 0)
    call("munmap", address, 4 << 20)
"""
FILES_WITHOUT_A_NAME = """
files = [os.memfd_create("file") for _ in range(20)]
for file in files:
    assert os.write(file, b"x" * (1 << 20)) == 1 << 20
"""
MESSAGES = """
message = (ctypes.c_long * 1025)(1)
for _ in range(10_000):
    call("msgsnd", call("msgget", 0, 0o1600), message, 8192, 0)
"""
SEMAPHORES = """
for _ in range(1_000):
    call("semget", 0, 1_000, 0o1600)
"""
EVENTS = """
for _ in range(20):
    call("inotify_add_watch", call("inotify_init1", 0), b"/tmp", 0xFFF)
names = ["a" * 255, "b" * 255]
open(names[0], "w").close()
for _ in range(4_000):
    os.rename(*names)
    names.reverse()
"""


@pytest.mark.parametrize(
    "keeps",
    [DETACHED_SEGMENTS, SHARED_WITHOUT_A_FILE, GIVEN_TO_A_PIPE, FILES_WITHOUT_A_NAME, MESSAGES, SEMAPHORES, EVENTS],
    ids=["segments", "shared", "pipe", "files", "messages", "semaphores", "events"],
)
def test_memory_is_limited_also_when_it_is_not_mapped(keeps: str) -> None:
    tries = "try:\n" + textwrap.indent(keeps, "    ") + "except PermissionError: pass\nelse: raise SystemExit"
    assert outcome_of(KEEPS + tries, Limits(memory_bytes=64 << 20)) == "passed"


def test_each_call_that_is_to_be_refused_is() -> None:
    machine = sandbox_inside.MACHINES.index(platform.machine())
    numbers = [each[machine] for each in sandbox_inside.REFUSED.values()]
    calls = f"""
        import ctypes, errno
        libc = ctypes.CDLL(None, use_errno=True)
        for number in filter(None, {numbers}):
            assert libc.syscall(number, 0, 0, 0, 0, 0) == -1 and ctypes.get_errno() == errno.EPERM, number
    """
    assert outcome_of(calls) == "passed"


def test_the_network_is_not_there_not_even_loopback() -> None:
    name = f"\0sovereign-{os.getpid()}"
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as local:
        local.bind(name)
        local.listen()
        port = server.getsockname()[1]
        socket.create_connection(("127.0.0.1", port), timeout=5).close()
        server.accept()[0].close()
        reaches = f"""
            import socket
            unix = socket.socket(socket.AF_UNIX)
            for connect in (
                lambda: socket.create_connection(("127.0.0.1", {port}), timeout=2),
                lambda: socket.create_connection(("10.0.0.1", 80), timeout=2),
                lambda: socket.getaddrinfo("example.org", 80),
                lambda: unix.connect({name!r}),
            ):
                try:
                    connect()
                except OSError:
                    continue
                raise SystemExit
        """
        assert outcome_of(reaches) == "passed"
        for listening in (server, local):
            listening.settimeout(0.1)
            with pytest.raises(TimeoutError):
                listening.accept()


REFUSED = """
import errno, os

def refused(number, path, size=1):
    try:
        with open(path, "wb", buffering=0) as stream:
            while size > 0:
                size -= stream.write(b"x" * size)
    except OSError as error:
        return error.errno == number
    return False
"""


@pytest.mark.parametrize(
    "program",
    [
        "assert not refused(errno.EFBIG, 'a', 90_000) and refused(errno.EFBIG, 'b', 110_000)",
        "assert [refused(errno.ENOSPC, name, 90_000) for name in 'abc'] == [False, False, True]",
        "assert [refused(errno.ENOSPC, name, 0) for name in 'abcdef'] == [False] * 4 + [True] * 2",
        "assert all(refused(errno.EROFS, path) for path in ('/a', os.path.dirname(os.__file__) + '/a', os.__file__))",
    ],
    ids=["size", "all together", "number", "elsewhere"],
)
def test_files_are_small_few_and_in_its_own_directory(program: str) -> None:
    limits = Limits(file_bytes=100_000, disk_bytes=200_000, files=4)
    assert outcome_of(REFUSED + program, limits) == "passed"


def test_processes_are_few() -> None:
    forks = """
        import os, time
        made = 0
        try:
            while made < 50:
                if os.fork() == 0:
                    time.sleep(30)
                    os._exit(0)
                made += 1
        except BlockingIOError:
            pass
        assert 0 < made < 8
    """
    assert outcome_of(forks) == "passed"
    threads = forks.replace("os.fork() == 0", "threading.Thread(target=time.sleep, args=(30,), daemon=True).start()")
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
    assert not processes_named(f"bomb{os.getpid()}")


def test_a_child_that_left_its_session_does_not_outlive_the_program() -> None:
    leaves = f"""
        import ctypes, os, time
        ready, tell = os.pipe()
        if os.fork() == 0:
            os.setsid()
            ctypes.CDLL(None).prctl(15, b"left{os.getpid()}", 0, 0, 0)
            os.write(tell, b"x")
            time.sleep(30)
            os._exit(0)
        os.read(ready, 1)
    """
    assert outcome_of(leaves) == "passed"
    assert not processes_named(f"left{os.getpid()}")


def processes_named(name: str) -> list[int]:
    """psutil reads the name that the kernel keeps, which is the one that prctl set."""
    deadline = time.monotonic() + 2
    while True:
        found = [each.pid for each in psutil.process_iter(["name"]) if each.info["name"] == name]
        if not found or time.monotonic() > deadline:
            return found
        time.sleep(0.05)


def test_nothing_of_this_machine_is_there_to_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    secret = tmp_path / "vault.key"
    secret.write_text("AGE-SECRET-KEY")
    secret.chmod(0o644)
    monkeypatch.setenv("SOVEREIGN_SECRET", "hunter2")
    looks = f"""
        import os
        assert set(os.environ) <= {{"PYTHONHASHSEED", "LC_CTYPE"}}  # the latter is set by Python itself
        for path in ({str(secret)!r}, {str(PROJECT_ROOT)!r}, {str(Path.home() / ".bashrc")!r}, "/etc", "/home", "/proc",
                     "/sys", "/dev", "/var", "/run"):
            assert not os.path.lexists(path), path
        assert os.listdir("/tmp") == [] and os.getcwd() == "/tmp"
        for descriptor in range(3, 32):
            try:
                os.lseek(descriptor, 0, os.SEEK_CUR)
            except OSError:
                continue
            raise SystemExit  # an open file of the process that started it
    """
    assert outcome_of(looks) == "passed"


def test_of_this_machine_python_and_its_libraries_are_there_and_nothing_else() -> None:
    looks = """
        import os, sys, sysconfig
        library = sysconfig.get_path("stdlib") + "/"
        for directory, _, names in os.walk("/"):
            for path in (os.path.join(directory, name) for name in names):
                assert path == sys.executable or path.startswith(library) or ".so" in os.path.basename(path), path
                assert "site-packages" not in path and "dist-packages" not in path, path
        import ssl, sqlite3  # which load libraries of their own
    """
    assert outcome_of(looks) == "passed"


@pytest.fixture
def library() -> Iterator[Path]:
    """Not in /tmp, which the sandbox has of its own, and readable to the account that the sandbox takes."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        Path(directory).chmod(0o755)
        yield Path(directory)


def test_no_installed_package_is_there(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of this environment and of the Python below it, and two that lie in a library that is shown."""
    planted = [library / "site-packages", library / "dist-packages"]
    for each in planted:
        each.mkdir()
        (each / "planted.py").touch()
    (library / "module.py").touch()
    shown = [*sandbox._shown(), str(library)]
    monkeypatch.setattr("sovereign_pipeline.evaluation.capability.sandbox._shown", lambda: shown)
    below = subprocess.run(
        [os.path.realpath(sys.executable), "-c", "import site; print(*site.getsitepackages(), sep='\\n')"],
        capture_output=True, text=True, check=True,
    ).stdout.splitlines()  # fmt: skip
    installed = [sysconfig.get_path("purelib"), *below, *map(str, planted)]
    looks = f"""
        import os, sys
        sys.path += [{str(library)!r}, *{installed}]
        import module
        for directory in {installed}:
            assert not os.path.exists(directory) or os.listdir(directory) == [], directory
        for name in ("planted", "pytest", "pip", "numpy"):
            try:
                __import__(name)
            except ModuleNotFoundError:
                continue
            raise SystemExit
    """
    assert outcome_of(looks) == "passed"


def test_what_was_given_up_cannot_be_taken_back() -> None:
    tries = """
        import ctypes, os
        libc = ctypes.CDLL(None)
        assert libc.unshare(0x10000000) == -1, "a user namespace of its own"
        assert libc.unshare(0x00020000) == -1, "a mount namespace"
        assert libc.mount(b"none", b"/tmp", b"tmpfs", 0, None) == -1
        assert libc.mount(None, b"/", None, 32 | 4096, None) == -1, "the root writable again"
        assert libc.umount2(b"/tmp", 2) == -1
        assert libc.chroot(b"/tmp") == -1
        assert libc.sethostname(b"x", 1) == -1
        assert libc.setuid(0) == (0 if os.getuid() == 0 else -1)
        import resource
        for name in ("AS", "CPU", "FSIZE", "NPROC"):
            limit = getattr(resource, f"RLIMIT_{name}")
            try:
                resource.setrlimit(limit, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
            except (ValueError, PermissionError):
                continue
            raise SystemExit
    """
    assert outcome_of(tries) == "passed"


RUN = "from sovereign_pipeline.evaluation.capability.sandbox import run_program; print(run_program('assert True'))"


def test_where_the_kernel_refuses_a_namespace_nothing_is_run() -> None:
    """A user namespace in which no other one may be made stands for a machine that forbids them."""
    assert shutil.which("unshare")
    forbid = f'echo 0 > /proc/sys/user/max_user_namespaces; exec {sys.executable} -c "$0"'
    ended = subprocess.run(
        ["unshare", "--user", "--map-root-user", "sh", "-c", forbid, RUN],
        cwd=PROJECT_ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert ended.returncode == 1
    assert "SandboxUnavailable" in ended.stderr and "docs/administrator.md" in ended.stderr
    assert "passed" not in ended.stdout


def test_where_a_path_that_it_needs_cannot_be_shown_nothing_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sovereign_pipeline.evaluation.capability.sandbox._shown", lambda: ["/dev/null/nowhere"])
    with pytest.raises(SandboxUnavailable, match="does not allow one of them"):
        run_program("assert True")


def test_where_python_cannot_say_what_it_consists_of_nothing_is_run(monkeypatch: pytest.MonkeyPatch) -> None:
    sandbox._shown.cache_clear()
    monkeypatch.setattr("sovereign_pipeline.evaluation.capability.sandbox._PARTS", "raise SystemExit(1)")
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
    monkeypatch.setattr("sovereign_pipeline.evaluation.capability.sandbox.INSIDE", altered)
    with pytest.raises(SandboxUnavailable, match="prctl"):
        run_program("assert True")


def test_sets_have_one_order() -> None:
    program = "assert list({'a', 'b', 'c', 'd', 'e'}) == %r"
    python = subprocess.run(
        [sys.executable, "-c", "print(list({'a', 'b', 'c', 'd', 'e'}))"],
        env={"PYTHONHASHSEED": "0"}, capture_output=True, text=True, check=True,
    )  # fmt: skip
    assert outcome_of(program.replace("%r", python.stdout.strip())) == "passed"
