"""Read, write, hash and lock files, encode canonical JSON, and define the base class of frozen models."""

import fcntl
import hashlib
import json
import os
import secrets
import tempfile
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from pydantic import BaseModel, ConfigDict

from sovereign_pipeline.base.errors import ConflictError, InputError, IntegrityError, TrainingStopped

BLOCK = 1 << 20
"""Bytes per read."""
BYTES_OF_SECRET = 32
FIND_OUT = "Find out who changed the file, and run again."
RESTORE_SECRET = (
    "Restore the file from a backup. To create a missing file, the account needs write access to its directory."
)
ENCODER = json.JSONEncoder(ensure_ascii=False, sort_keys=True, separators=(",", ":"), allow_nan=False)
SECONDS_BETWEEN_TRIES = 1.0
SECONDS_BETWEEN_SHORT_TRIES = 0.005
TRIES_BETWEEN_MESSAGES = 15


class Frozen(BaseModel):
    """An immutable value that rejects unknown fields. Docstrings of fields become descriptions in the JSON schema."""

    model_config = ConfigDict(extra="forbid", frozen=True, use_attribute_docstrings=True)


def read_bounded(path: Path, most: int, hint: str | None = None) -> bytes:
    """Read a small file from a directory that other accounts can write to. Follows no symbolic link and never blocks,
    so a FIFO cannot stall this process. Raises IntegrityError if the file is larger than `most` bytes or cannot be
    read."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC | os.O_NONBLOCK)
        with os.fdopen(descriptor, "rb") as stream:
            content = stream.read(most + 1)
    except OSError as error:
        raise IntegrityError(f"{path}: the file cannot be read ({type(error).__name__}).", hint) from None
    if len(content) > most:
        raise IntegrityError(f"{path}: the file is larger than {most:,} bytes.", hint)
    return content


def write_atomically(path: Path, content: str | bytes | Iterable[str]) -> None:
    """Replace a file atomically. Even after a crash, or after an exception in the iterator `content`, the file has its
    complete old or new content."""
    path.parent.mkdir(parents=True, exist_ok=True)
    handle, name = tempfile.mkstemp(dir=path.parent)
    try:
        with os.fdopen(handle, "wb") as stream:
            for piece in [content] if isinstance(content, str | bytes) else content:
                stream.write(piece.encode() if isinstance(piece, str) else piece)
            stream.flush()
            os.fsync(stream.fileno())
        Path(name).replace(path)
    except BaseException:
        Path(name).unlink(missing_ok=True)
        raise
    sync_directory(path.parent)


def write_new(path: Path, content: str | bytes, mode: int = 0o600) -> None:
    """Create a file and flush it to disk. Raises FileExistsError if the file exists."""
    _write(path, content, os.O_EXCL, mode)


def append(path: Path, content: str | bytes) -> None:
    """Append to a private file, and flush it to disk. The content is written at once, so that the lines of two
    processes are not mixed. Creates the file if it is missing."""
    _write(path, content, os.O_APPEND, 0o600)


def _write(path: Path, content: str | bytes, how: int, mode: int) -> None:
    left = memoryview(content.encode() if isinstance(content, str) else content)
    descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | how, mode)
    try:
        while left:
            left = left[os.write(descriptor, left) :]
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def sync_directory(directory: Path) -> None:
    """Flush a directory's list of files to disk."""
    descriptor = os.open(directory, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def private_directory(path: Path, contents: str) -> Path:
    """Return the directory, and create it if it is missing. Raises InputError if its permissions give other accounts
    access. contents: what the directory contains, for the error message."""
    path.mkdir(parents=True, exist_ok=True, mode=0o700)
    if path.stat().st_mode & 0o077:
        raise InputError(
            f"{path}: other accounts can enter this directory, which contains {contents}.",
            f"Restrict it: chmod 700 {path}",
        )
    return path


def canonical_json(value: Any) -> bytes:
    """Return UTF-8 JSON with sorted keys and no spaces. Raises TypeError or ValueError for values that JSON cannot
    represent, such as NaN or a set."""
    return ENCODER.encode(value).encode()


def digest_of(value: Any) -> str:
    """Return the SHA-256 (64 hex digits) of the canonical JSON of a value."""
    return hashlib.sha256(canonical_json(value)).hexdigest()


def file_sha256(path: Path) -> str:
    """Return the SHA-256 (64 hex digits) of a file's bytes, read in blocks."""
    hasher = hashlib.sha256()
    with path.open("rb") as stream:
        while block := stream.read(BLOCK):
            hasher.update(block)
    return hasher.hexdigest()


def read_secret(path: Path, *, create: bool = True) -> bytes:
    """Return the secret in a file. Raises IntegrityError if the file cannot be read or does not have 32 bytes.

    create: create the file if it is missing.
    """
    try:
        if create and not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
            handle, aside = tempfile.mkstemp(dir=path.parent)  # 0600
            with os.fdopen(handle, "wb") as stream:
                stream.write(secrets.token_bytes(BYTES_OF_SECRET))
            with suppress(FileExistsError):  # another process created the secret first
                os.link(aside, path)
            Path(aside).unlink()
        secret = path.read_bytes()
    except OSError as error:
        raise IntegrityError(f"{path}: this secret cannot be used ({error.strerror}).", RESTORE_SECRET) from None
    if len(secret) != BYTES_OF_SECRET:
        raise IntegrityError(
            f"{path}: this is not a secret of {BYTES_OF_SECRET} bytes (it has {len(secret)}).", RESTORE_SECRET
        )
    return secret


def keyed_digest(secret: bytes, purpose: str, content: bytes, size: int = 32) -> bytes:
    """Return a digest that only a holder of the secret can compute: BLAKE2b with a key.

    purpose: at most 16 characters. Digests of the same content for two purposes cannot be linked.
    """
    return hashlib.blake2b(content, key=secret, person=purpose.encode(), digest_size=size).digest()


@contextmanager
def unchanged(files: Mapping[Path, str], directories: Iterable[Path] = ()) -> Iterator[None]:
    """Verify the SHA-256 of files before the block. After the block, verify that nothing was written to these files,
    not even the same content.

    directories: directories that may contain only these files. Raises IntegrityError for an extra or changed file.
    """
    inside = [path for directory in directories for path in (directory, *directory.rglob("*"))]
    before = {path: _stamp(path) for path in (*files, *inside)}
    extra = sorted({path for path in inside if not path.is_dir()} - files.keys())
    wrong = extra or [path for path, digest in files.items() if file_sha256(path) != digest]
    if not wrong:
        yield
        wrong = [path for path, stamp in before.items() if _stamp(path) != stamp]
    if wrong:
        raise IntegrityError(f"{wrong[0]}: this file was changed between its verification and its use.", FIND_OUT)


def _stamp(path: Path) -> "Stamps":
    if not (found := stamps([path])):
        raise IntegrityError(f"{path}: the file cannot be read.", FIND_OUT)
    return found


def short(digest: str) -> str:
    """Return the first twelve digits of a digest, for display only. Compare full digests."""
    return digest[:12]


Stamps = tuple[tuple[int, ...], ...]
"""Inode, size, mode and times of files."""


def stamps(paths: Iterable[Path]) -> Stamps:
    """Return values that change when a file is written, replaced, added or removed, even if the file's modification
    time is set back."""
    found = []
    for path in paths:
        with suppress(OSError):
            stat = path.stat()
            found.append((stat.st_ino, stat.st_size, stat.st_mode, stat.st_mtime_ns, stat.st_ctime_ns))
    return tuple(found)


def _never() -> bool:
    return False


def _no_progress(message: str) -> None:
    pass


@contextmanager
def held(
    path: Path, progress: Callable[[str], None] = _no_progress, stopped: Callable[[], bool] = _never
) -> Iterator[None]:
    """Hold an exclusive lock on a file. Wait while another process holds the lock, and report the wait every 15
    seconds.

    The kernel releases the lock when the process that holds the lock ends, even if that process is killed.

    Raises TrainingStopped if `stopped` returns true during the wait.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as lock:
        tries = 0
        while not _taken(lock.fileno()):
            if tries % TRIES_BETWEEN_MESSAGES == 0:
                progress(f"waiting: another process holds {path.name}")
            if stopped():
                raise TrainingStopped(f"Stopped on request while another process held the lock {path.name}.")
            tries += 1
            time.sleep(SECONDS_BETWEEN_TRIES)
        yield


@contextmanager
def held_within(path: Path, seconds: float) -> Iterator[None]:
    """Hold an exclusive lock. Raises ConflictError if another process holds the lock for longer than `seconds`."""
    path.parent.mkdir(parents=True, exist_ok=True)
    until = time.monotonic() + seconds
    with path.open("a", encoding="utf-8") as lock:
        while not _taken(lock.fileno()):
            if time.monotonic() > until:
                raise ConflictError(
                    f"{path}: another process has held this lock for {seconds:.0f} seconds.", "Try again later."
                )
            time.sleep(SECONDS_BETWEEN_SHORT_TRIES)
        yield


@contextmanager
def held_if_free(path: Path) -> Iterator[bool]:
    """Try to lock a file without waiting. Yields True if this process got the lock, otherwise False."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("a", encoding="utf-8") as lock:
        yield _taken(lock.fileno())


def _taken(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    return True
