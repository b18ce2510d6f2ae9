"""What a command in the sandbox sees and reaches of this machine, and which parts of it may be shown."""

import os
import socket
import struct
from pathlib import Path

import pytest

from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.base.settings import PROJECT_ROOT
from sovereign_pipeline.sandbox import inside, machine
from sovereign_pipeline.sandbox.sandbox import Limits
from sovereign_pipeline_tests.sandbox.commands import ROOM, SHELL, end_of, python


@pytest.mark.security_case("a command in the sandbox opens a connection", "no network, not even loopback")
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


@pytest.mark.security_case("a command in the sandbox reads the home, a key, the environment", "none of it is there")
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
    "a command in the sandbox writes beside itself or fills the disk", "read-only, and little room"
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


@pytest.mark.security_case(
    "a command in the sandbox reads what it kept of earlier replies", "each run has an empty /tmp"
)
def test_nothing_is_kept_from_one_run_to_the_next() -> None:
    keeps = SHELL + "for each in /tmp/*; do echo $each; done\ncat > /tmp/replies\n"
    for _ in range(2):
        assert end_of(keeps, "secretword\n", uses=["/bin/cat"]).output == b"/tmp/*\n"


def test_calls_are_refused_and_privileges_given_up_as_for_every_program() -> None:
    place = inside.MACHINES.index(os.uname().machine)
    numbers = [each[place] for each in inside.REFUSED.values()]
    tries = f"""
        import ctypes, errno
        libc = ctypes.CDLL(None, use_errno=True)
        for number in filter(None, {numbers}):
            assert libc.syscall(number, 0, 0, 0, 0, 0) == -1 and ctypes.get_errno() == errno.EPERM, number
        assert libc.unshare(0x10000000) == -1 and libc.mount(b"none", b"/tmp", b"tmpfs", 0, None) == -1
        assert libc.mount(None, b"/", None, 32 | 4096, None) == -1 and libc.umount2(b"/tool", 2) == -1
        try:
            bytearray(1 << 30)
        except MemoryError:
            print("refused")
    """
    assert end_of(python(tries)).output == b"refused\n"


def elf(loader: bytes) -> bytes:
    """The least that names a loader."""
    header = bytearray(64)
    header[:5] = b"\x7fELF\x02"
    header[32:40] = struct.pack("<Q", 64)
    header[54:58] = struct.pack("<HH", 56, 1)
    return bytes(header) + struct.pack("<IIQQQQQQ", 3, 0, 120, 0, 0, len(loader) + 1, 0, 0) + loader + b"\0"


@pytest.mark.security_case("a command has a file shown that is no program", "only what lies where programs lie")
@pytest.mark.parametrize(
    ("content", "uses", "said"),
    [
        (b"#!/usr/bin/env python3\n", [], "leaves it to /usr/bin/env"),
        (b"#!/etc/passwd\n", [], "may use only what lies below"),
        (b"#!/usr/bin/no-such-interpreter\n", [], "this machine has no such file"),
        (b"#!/usr/bin/ldd\n", [], "is itself a script"),
        (b"#!\n", [], "neither a binary of Linux nor a script"),
        (b"echo 1\n", [], "neither a binary of Linux nor a script"),
        (b"", [], "neither a binary of Linux nor a script"),
        (b"\x7fELF", [], "this binary is not one of this machine"),
        (elf(b"/tool/loader.so.1"), [], "its loader /tool/loader.so.1 is none of this machine's"),
        (b"#!/bin/sh\n", ["/etc"], "may use only what lies below"),
        (b"#!/bin/sh\n", ["/usr"], "may use only what lies below"),
        (b"#!/bin/sh\n", ["/"], "may use only what lies below"),
        (b"#!/bin/sh\n", ["usr/bin/cat"], "may use only what lies below"),
        (b"#!/bin/sh\n", ["/usr/lib/../../etc/passwd"], "may use only what lies below"),
        (b"#!/bin/sh\n", ["/usr/bin/../bin/cat"], "may use only what lies below"),
    ],
    ids=["env", "etc", "missing", "script", "no path", "no script", "empty", "cut", "loader",
         "directory", "everything", "root", "relative", "dots", "more dots"],
)  # fmt: skip
def test_what_may_not_be_shown_is_refused(content: bytes, uses: list[str], said: str) -> None:
    with pytest.raises(InputError, match=said):
        machine.parts_of("check", content, [Path(path) for path in uses])


def test_a_loader_is_believed_where_it_names_libraries_alone() -> None:
    shown = machine.parts_of("check", Path("/bin/cat").read_bytes(), [])
    assert any("libc.so" in path for path in shown) and not any("/bin/" in path for path in shown)
    assert not any(map(machine._is_library, ("/etc/passwd", "/usr/lib/../../etc/x.so", "/usr/lib/none.so", "/bin/sh")))


def test_a_link_counts_as_what_it_leads_to(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "DIRECTORIES", (str(tmp_path),))
    (tmp_path / "words").write_text("a")
    (tmp_path / "link").symlink_to(tmp_path / "words")
    (tmp_path / "out").symlink_to("/etc/passwd")
    machine.assert_may_be_shown(tmp_path / "link")
    with pytest.raises(InputError, match="may use only what lies below"):
        machine.assert_may_be_shown(tmp_path / "out")
