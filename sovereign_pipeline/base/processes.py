"""How each process begins and ends: private files, exit status, errors on standard error."""

import ctypes
import os
import pwd
import signal
import sys
from collections.abc import Callable, Mapping
from pathlib import Path

from sovereign_pipeline.base.errors import InputError, SovereignError

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


def run_program(commands: Callable[[], object], print_error: Callable[[SovereignError], None]) -> None:
    """Run a program's commands. A user's mistake ends in a message and an exit status, never in a traceback.

    A file that cannot be opened, read or written is one, wherever the path came from: an argument, a variable, a
    recipe, or a disk that is full.
    """
    try:
        _refuse_what_is_no_text()
        commands()
    except SovereignError as error:
        refusal = error
    except OSError as error:
        subject = f"{str(error.filename)[:200]}: " if error.filename is not None else ""
        refusal = InputError(f"{subject}{error.strerror or error}.", "Check the path, its permissions and the disk.")
    else:
        return
    print_error(refusal)
    sys.exit(refusal.exit_status)


def account() -> str:
    """The account that runs this program, for logs: from the system, since a variable such as LOGNAME can be set to
    any name. Its number where it has no name."""
    number = os.geteuid()
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _refuse_what_is_no_text() -> None:
    """Raise InputError for an argument of bytes that are no UTF-8: it could be neither stored nor printed."""
    for number, argument in enumerate(sys.argv[1:], start=1):
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise InputError(f"Argument {number} is not UTF-8.", "Write it again, as text.") from None


def print_message(message: str, advice: Mapping[str, str]) -> None:
    """Print what went wrong and what puts it right, each on a line of its own.

    Args:
        advice: by its label, such as `Hint`.
    """
    from rich.console import Console
    from rich.markup import escape

    err = Console(stderr=True, highlight=False, soft_wrap=True)
    err.print(f"[bold red]✗[/] {escape(message)}")
    for label, text in advice.items():
        err.print(f"  [bold]{label}:[/] {escape(text)}")
