"""Folders for unencrypted copies while a backup is made, verified or used: private, and gone with their process.

What belongs here: making one, and removing what a killed process left. What does not: what is copied into it.
"""

import fcntl
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

ASIDE = ".backup-"
"""What the name of such a folder begins with."""
OURS = ".sovereign-aside"
"""And ends with: beside the home may lie folders of others."""
_NAME = re.compile(re.escape(ASIDE) + r"\w+" + re.escape(OURS))


@contextmanager
def folder_aside(parent: Path) -> Iterator[Path]:
    """A new folder, for the owner alone, removed at the end. What killed processes left beside it is removed first."""
    _remove_left(parent)
    path, lock = _locked(parent)
    try:
        yield path
    finally:
        _remove(path, lock)


def _locked(parent: Path) -> tuple[Path, int]:
    """A folder that is locked for as long as this process lives."""
    while True:  # another process may take a folder for one that was left, before it is locked
        path = Path(tempfile.mkdtemp(prefix=ASIDE, suffix=OURS, dir=parent))
        lock = _lock(path)
        if lock is not None and path.exists():
            return path, lock
        if lock is not None:
            os.close(lock)


def _remove_left(parent: Path) -> None:
    for path in parent.iterdir():
        if _NAME.fullmatch(path.name) and not path.is_symlink() and (lock := _lock(path)) is not None:
            _remove(path, lock)


def _remove(path: Path, lock: int) -> None:
    try:
        shutil.rmtree(path)
    finally:
        os.close(lock)


def _lock(path: Path) -> int | None:
    """The folder's lock; None where a process holds it, and where the folder is gone or another account's."""
    try:
        lock = os.open(path, os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW)
    except (FileNotFoundError, NotADirectoryError, PermissionError):
        return None
    try:
        fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        if os.fstat(lock).st_uid == os.geteuid():
            return lock
    except BlockingIOError:
        pass
    os.close(lock)
    return None
