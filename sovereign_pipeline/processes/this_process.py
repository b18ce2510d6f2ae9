"""What processes of every room need: files for their own account alone, an end with their parent, and no output.

What belongs here: that alone. What a process does is told by its own room.
"""

import ctypes
import os
import signal
import sys
from pathlib import Path

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def keep_private() -> None:
    """Let every file that this process and its children make be their own account's alone: modes 0700 and 0600.

    Every entry point calls it first. Artifacts, databases and logs hold documents, or what tells about them.
    """
    os.umask(0o077)


def die_with_parent(parent: int | None = None) -> None:
    """Have the kernel kill this process when its parent is gone, and stop now if it is gone already.

    parent: the process id that the parent must have; None when it is not known. The kernel watches the thread that
    started this process, so that thread must live as long as this process is needed.
    """
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if parent is not None and os.getppid() != parent:
        raise SystemExit(f"The process {parent} that started this one is gone. Run the line again.")


def silence() -> None:
    """Send what libraries print nowhere from here on: they warn with pieces of the text they were given, and document
    text may not reach a log."""
    sys.stderr = sys.__stderr__
    with Path(os.devnull).open("w", encoding="utf-8") as nothing:
        os.dup2(nothing.fileno(), 1)
        os.dup2(nothing.fileno(), 2)
