"""What the sandbox hides and refuses: network, files, packages, calls and privileges."""

import os
import platform
import socket
import subprocess
import sys
import sysconfig
import tempfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from sovereign_pipeline.base.settings import PROJECT_ROOT
from sovereign_pipeline.sandbox import inside, sandbox
from sovereign_pipeline.sandbox.sandbox import Limits
from sovereign_pipeline_tests.sandbox.programs import outcome_of


def test_each_call_that_is_to_be_refused_is() -> None:
    machine = inside.MACHINES.index(platform.machine())
    numbers = [each[machine] for each in inside.REFUSED.values()]
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
        before = os.umask(0o022)
        yield Path(directory)
        os.umask(before)


def test_no_installed_package_is_there(library: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Those of this environment and of the Python below it, and two that lie in a library that is shown."""
    planted = [library / "site-packages", library / "dist-packages"]
    for each in planted:
        each.mkdir()
        (each / "planted.py").touch()
    (library / "module.py").touch()
    shown = [*sandbox.python_parts(), str(library)]
    monkeypatch.setattr("sovereign_pipeline.sandbox.sandbox.python_parts", lambda: shown)
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
