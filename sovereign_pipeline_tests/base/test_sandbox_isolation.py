"""What the sandbox hides and refuses: network, files, packages, calls and privileges."""

import os
import platform
import socket
import struct
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sovereign_pipeline.base import sandbox, sandbox_child
from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.base.sandbox import CommandEnd, Limits
from sovereign_pipeline.base.settings import PROJECT_ROOT
from sovereign_pipeline_tests.base.sandbox_programs import ROOM, SHELL, end_of, outcome_of, python
from sovereign_pipeline_tests.examples import examples

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


@pytest.mark.parametrize("program", examples(__file__, "files_are_small_few_and_in_its_own_directory"))
def test_files_are_small_few_and_in_its_own_directory(program: str) -> None:
    limits = Limits(file_bytes=100_000, disk_bytes=200_000, files=4)
    assert outcome_of(REFUSED + program, limits) == "passed"


def test_of_this_machine_python_and_its_libraries_are_there_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "vault.key"
    secret.write_text("AGE-SECRET-KEY")
    secret.chmod(0o644)
    monkeypatch.setenv("SOVEREIGN_SECRET", "hunter2")
    looks = f"""
        import os, ssl, sqlite3, sys, sysconfig  # two of them load libraries of their own
        assert set(os.environ) <= {{"PYTHONHASHSEED", "LC_CTYPE"}}  # the latter is set by Python itself
        for path in ({str(secret)!r}, {str(PROJECT_ROOT)!r}, "/etc", "/home", "/proc", "/sys", "/dev", "/var", "/run"):
            assert not os.path.lexists(path), path
        library = sysconfig.get_path("stdlib") + "/"
        for directory, _, names in os.walk("/"):
            for path in (os.path.join(directory, name) for name in names):
                assert path == sys.executable or path.startswith(library) or ".so" in os.path.basename(path), path
                assert "site-packages" not in path and "dist-packages" not in path, path
        assert os.listdir("/tmp") == [] and os.getcwd() == "/tmp"
        for descriptor in range(3, 32):
            try:
                os.lseek(descriptor, 0, os.SEEK_CUR)
            except OSError:
                continue
            raise SystemExit  # an open file of the process that started it
    """
    assert outcome_of(looks) == "passed"


@pytest.fixture
def library() -> Iterator[Path]:
    """Not in /tmp, which the sandbox has of its own, and readable to the account that the sandbox takes."""
    with tempfile.TemporaryDirectory(dir="/var/tmp") as directory:
        Path(directory).chmod(0o755)
        before = os.umask(0o022)
        yield Path(directory)
        os.umask(before)


def test_no_installed_package_is_there(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    planted = [library / "site-packages", library / "dist-packages"]
    for each in planted:
        each.mkdir()
        (each / "planted.py").touch()
    (library / "module.py").touch()
    shown = [*sandbox.python_parts(), str(library)]
    monkeypatch.setattr("sovereign_pipeline.base.sandbox.python_parts", lambda: shown)
    installed = [sysconfig.get_path("purelib"), *map(str, planted)]
    looks = f"""
        import os, sys
        sys.path += [{str(library)!r}, *{installed}]
        import module
        for directory in {installed}:
            assert not os.path.exists(directory) or os.listdir(directory) == [], directory
        for name in ("planted", "pytest", "numpy"):
            try:
                __import__(name)
            except ModuleNotFoundError:
                continue
            raise SystemExit
    """
    assert outcome_of(looks) == "passed"


@pytest.mark.security_case("a command in the sandbox opens a connection", "it has no network, not even loopback")
def test_no_network_is_there_not_even_loopback() -> None:
    name = f"\0sovereign-command-{os.getpid()}"
    with socket.create_server(("127.0.0.1", 0)) as server, socket.socket(socket.AF_UNIX) as local:
        local.bind(name)
        local.listen()
        reaches = f"""
            import socket
            unix = socket.socket(socket.AF_UNIX)
            for connect in (
                lambda: socket.create_connection(("127.0.0.1", {server.getsockname()[1]}), timeout=2),
                lambda: unix.connect({name!r}),
            ):
                try:
                    connect()
                except OSError:
                    continue
                print("reached")
        """
        assert end_of(python(reaches)).output == b""
        for listening in (server, local):
            listening.settimeout(0.1)
            with pytest.raises(TimeoutError):
                listening.accept()


@pytest.mark.security_case(
    "A command in the sandbox reads the home, a key or the environment", "none of them exist there"
)
def test_its_own_files_its_interpreter_and_libraries_are_there_and_nothing_else(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    secret = tmp_path / "vault.key"
    secret.write_text("AGE-SECRET-KEY")
    secret.chmod(0o644)
    monkeypatch.setenv("SOVEREIGN_SECRET", "hunter2")
    looks = f"""
        import os
        print(*sorted(os.environ))
        print(*os.listdir("/dev"), *os.listdir("/tool"), *os.listdir("/etc"), os.getcwd(), *os.listdir("/tmp"))
        for path in ({str(secret)!r}, {str(PROJECT_ROOT)!r}, "/etc/passwd", "/proc", "/sys", "/home", "/var", "/run"):
            print(path if os.path.lexists(path) else "", end="")
    """
    # Another interpreter than Python would hardly say so much; /bin/cat brings the list of libraries along.
    end = end_of(python(looks), uses=["/bin/cat"])
    variables = "LC_ALL LC_CTYPE PATH PYTHONHASHSEED"  # of which Python itself may set the second
    assert end.output.decode().splitlines()[1:] == ["null check ld.so.cache /tmp"]
    assert set(end.output.decode().splitlines()[0].split()) <= set(variables.split())
    shell = SHELL + 'for each in /*/* /usr/*/*; do echo "$each"; done\nset\n'
    seen = end_of(shell).output.decode()
    assert "hunter2" not in seen and "/bin/sh" in seen
    for line in seen.splitlines():
        if line.startswith("/"):
            assert line.startswith(("/bin/sh", "/lib", "/usr/lib", "/tool/check", "/etc/ld.so.cache", "/dev/null")) or (
                line.endswith("*")  # what the shell writes where nothing is
            ), line


@pytest.mark.security_case(
    "A command in the sandbox writes to its own directory or fills the disk",
    "directories are read-only, and space is limited",
)
def test_it_writes_little_into_its_own_directory_and_nothing_elsewhere() -> None:
    writes = """
        import errno, os
        for path in ("/tool/check", "/tool/new", "/new", "/dev/new", "/bin/cat", "/etc/ld.so.cache"):
            try:
                open(path, "ab").close()
            except OSError as error:
                assert error.errno in (errno.EROFS, errno.EACCES), (path, error)
            else:
                raise SystemExit(path)
        written = 0
        try:
            for number in range(100):
                with open(f"/tmp/{number}", "wb", buffering=0) as stream:
                    written += stream.write(b"x" * 60_000)
        except OSError as error:
            print(errno.errorcode[error.errno], written)
        open("/dev/null", "wb").write(b"x" * 1_000_000)
    """
    limits = Limits(file_bytes=64_000, disk_bytes=200_000, files=8, cpu_seconds=60, wall_seconds=ROOM.wall_seconds)
    end = end_of(python(writes), uses=["/bin/cat"], limits=limits)
    assert end.status == 0 and end.output.startswith(b"ENOSPC ") and int(end.output.split()[1]) <= 200_000


@pytest.mark.security_case("A command in the sandbox reads files of an earlier run", "each run has an empty /tmp")
def test_nothing_is_kept_from_one_run_to_the_next() -> None:
    keeps = SHELL + "for each in /tmp/*; do echo $each; done\ncat > /tmp/replies\n"
    for _ in range(2):
        assert end_of(keeps, "secretword\n", uses=["/bin/cat"]).output == b"/tmp/*\n"


TRIES = """
import ctypes, errno, os, resource

libc = ctypes.CDLL(None, use_errno=True)

def is_refused(name, *arguments):
    return getattr(libc, name)(*arguments) == -1 and ctypes.get_errno() == errno.EPERM

for number in filter(None, {numbers}):
    assert is_refused("syscall", number, 0, 0, 0, 0, 0), number
# Memory that no limit on mapped memory covers: segments, queues, files and pipes without a name, shared pages.
pipe, pages = os.pipe()[1], (ctypes.c_uint64 * 2)(ctypes.addressof(ctypes.create_string_buffer(4096)), 4096)
assert is_refused("shmget", 0, 4096, 0o1600) and is_refused("semget", 0, 1_000, 0o1600)
assert is_refused("msgget", 0, 0o1600) and is_refused("memfd_create", b"file", 0)
assert is_refused("vmsplice", pipe, pages, 1, 0)
assert is_refused("inotify_init") and is_refused("inotify_init1", 0) and is_refused("fanotify_init", 0, 0)
assert is_refused("mmap", None, 4096, 3, 1 | 32, -1, 0), "anonymous shared memory"

assert libc.unshare(0x10000000) == -1, "a user namespace of its own"
assert libc.unshare(0x00020000) == -1, "a mount namespace"
assert libc.mount(b"none", b"/tmp", b"tmpfs", 0, None) == -1
assert libc.mount(None, b"/", None, 32 | 4096, None) == -1, "the root writable again"
assert libc.umount2(b"/tmp", 2) == -1 and libc.umount2(b"/tool", 2) == -1
assert libc.chroot(b"/tmp") == -1 and libc.sethostname(b"x", 1) == -1
assert libc.setuid(0) == (0 if os.getuid() == 0 else -1)
for name in ("AS", "CPU", "FSIZE", "NPROC"):
    limit = getattr(resource, "RLIMIT_" + name)
    try:
        resource.setrlimit(limit, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
    except (ValueError, PermissionError):
        continue
    raise SystemExit(9)
bytearray(16 << 20)
try:
    bytearray(1 << 30)
except MemoryError:
    pass
else:
    raise SystemExit(9)
"""


def test_calls_are_refused_and_privileges_given_up_for_good() -> None:
    machine = sandbox_child.MACHINES.index(platform.machine())
    tries = TRIES.replace("{numbers}", str([each[machine] for each in sandbox_child.REFUSED.values()]))
    assert outcome_of(tries) == "passed"
    assert end_of(python(tries)) == CommandEnd("ended", 0, b"")


def elf(loader: bytes) -> bytes:
    """The least that names a loader."""
    header = bytearray(64)
    header[:5] = b"\x7fELF\x02"
    header[32:40] = struct.pack("<Q", 64)
    header[54:58] = struct.pack("<HH", 56, 1)
    return bytes(header) + struct.pack("<IIQQQQQQ", 3, 0, 120, 0, 0, len(loader) + 1, 0, 0) + loader + b"\0"


@pytest.mark.security_case(
    "A recipe gives a command a file that is not a program", "only files in program directories are allowed"
)
@pytest.mark.parametrize(
    ("content", "uses", "said"),
    [
        *examples(__file__, "what_may_not_be_shown"),
        (
            elf(b"/tool/loader.so.1").decode("latin-1"),
            [],
            "its loader /tool/loader.so.1 does not exist on this machine",
        ),
    ],
)
def test_what_may_not_be_shown_is_refused(content: str, uses: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        sandbox.parts_of("check", content.encode("latin-1"), [Path(path) for path in uses])


def test_a_loader_is_believed_where_it_names_libraries_alone() -> None:
    shown = sandbox.parts_of("check", Path("/bin/cat").read_bytes(), [])
    assert any("libc.so" in path for path in shown) and not any("/bin/" in path for path in shown)
    assert not any(map(sandbox._is_library, ("/etc/passwd", "/usr/lib/../../etc/x.so", "/usr/lib/none.so", "/bin/sh")))


def test_a_link_counts_as_what_it_leads_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sandbox, "DIRECTORIES", (str(tmp_path),))
    (tmp_path / "words").write_text("a")
    (tmp_path / "link").symlink_to(tmp_path / "words")
    (tmp_path / "out").symlink_to("/etc/passwd")
    sandbox.assert_may_be_shown(tmp_path / "link")
    with pytest.raises(InputError, match="may use only files below"):
        sandbox.assert_may_be_shown(tmp_path / "out")
