"""The verifier as a program: which calls it refuses, what it reads, and what it prints where to."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from sovereign_pipeline.audit import verify
from sovereign_pipeline_tests.audit.conftest import Desk


@pytest.mark.parametrize(
    "options",
    [["--on", ""], ["--on", "0001-01-01T00:00+23:00"], ["--seen", "-5"], ["--folder", "f" * 300]],
    ids=["no day", "before all days", "fewer entries than none", "a name that no folder has"],
)
def test_a_wrong_call_ends_two(options: list[str], tmp_path: Path) -> None:
    assert verify.main(["0" * 64, "--folder", str(tmp_path), *options]) == 2


@pytest.mark.security_case("A file of evidence cannot be read, or is huge", "refused by name, and not read")
def test_what_cannot_be_read_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with (tmp_path / "huge").open("wb") as stream:
        stream.truncate(verify.LARGEST + 1)
    with pytest.raises(verify.Refused, match=r"the package has .* bytes, more than any: it was not read"):
        verify.read_folder(tmp_path)
    (tmp_path / "huge").write_bytes(b"")

    def refuses(path: Path) -> bytes:
        raise PermissionError(13, "Permission denied", str(path))

    monkeypatch.setattr(Path, "read_bytes", refuses)  # who runs the tests may be allowed to read everything
    with pytest.raises(verify.Refused, match=r"huge: it cannot be read \(Permission denied\)"):
        verify.read_folder(tmp_path)


@pytest.mark.security_case("A folder of evidence lies in a thousand others", "refused in a sentence")
def test_folders_in_folders_are_refused(tmp_path: Path) -> None:
    """Planted: so many that Python's own walk gives up."""
    (tmp_path / "in").mkdir()
    above = os.open(tmp_path / "in", os.O_DIRECTORY)
    for _ in range(sys.getrecursionlimit() + 100):
        os.mkdir("d", dir_fd=above)
        below = os.open("d", os.O_DIRECTORY, dir_fd=above)
        os.close(above)
        above = below
    os.close(above)
    try:
        with pytest.raises(verify.Refused, match=r"folders in folders, than can be read|it cannot be read"):
            verify.read_folder(tmp_path)
    finally:
        subprocess.run(["rm", "-rf", str(tmp_path / "in")], check=True)


def test_a_full_disk_is_said_and_nothing_counts_as_verified(desk: Desk) -> None:
    command = [sys.executable, str(desk.root / "package" / "verify.py"), desk.package.root_sha256]
    with Path("/dev/full").open("wb") as full:
        done = subprocess.run(command, stdout=full, stderr=subprocess.PIPE)
    said = b"What was found cannot be written (No space left on device).\n"
    assert (done.returncode, done.stderr) == (1, said)


def test_it_prints_wherever_it_is_read(desk: Desk) -> None:
    command = [sys.executable, str(desk.root / "package" / "verify.py"), desk.package.root_sha256]
    plain = subprocess.run(command, capture_output=True, env={**os.environ, "PYTHONIOENCODING": "ascii"})
    assert (plain.returncode, plain.stderr) == (0, b"")
    assert plain.stdout.startswith(b"\\u2713 ") and b"was checked, and holds" in plain.stdout.splitlines()[-1]
    reads, writes = os.pipe()
    os.close(reads)
    closed = subprocess.run(command, stdout=writes, stderr=subprocess.PIPE)
    os.close(writes)
    assert (closed.returncode, closed.stderr) == (0, b"")
    never = subprocess.run(["sh", "-c", 'exec "$@" >&-', "sh", *command], stderr=subprocess.PIPE)
    assert (never.returncode, never.stderr) == (0, b"")
