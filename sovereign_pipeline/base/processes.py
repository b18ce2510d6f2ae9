"""Set private file modes, end child processes with their parent, and turn a program's errors into exit statuses."""

import ctypes
import os
import pwd
import signal
import sys
import warnings
from collections.abc import Callable, Mapping
from pathlib import Path

from sovereign_pipeline.base.errors import InputError, SovereignError

PR_SET_PDEATHSIG = 1  # linux/prctl.h


def keep_private() -> None:
    """Set the umask to 077, so that only this account can read the files of this process and its children. Every entry
    point calls this first, because artifacts, databases and logs contain facts about documents."""
    os.umask(0o077)


def die_with_parent(parent: int | None = None) -> None:
    """Ask the kernel to kill this process when its parent ends. Exit now if the parent has already ended.

    The kernel watches the parent's thread that started this process, so that thread must live as long as this process.

    Args:
        parent: expected process id of the parent; None if unknown.
    """
    if ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, signal.SIGKILL) != 0:
        raise OSError(ctypes.get_errno(), "prctl(PR_SET_PDEATHSIG) failed")
    if parent is not None and os.getppid() != parent:
        raise SystemExit(f"The process {parent} that started this one is gone. Run the line again.")


def silence() -> None:
    """Silence library output from now on. Library warnings quote input text, and logs must not contain document
    text."""
    sys.stderr = sys.__stderr__
    with Path(os.devnull).open("w", encoding="utf-8") as nothing:
        os.dup2(nothing.fileno(), 1)
        os.dup2(nothing.fileno(), 2)


def run_program(commands: Callable[[], object], print_error: Callable[[SovereignError], None]) -> None:
    """Run a program's commands. A user's mistake ends with a message and an exit status instead of a traceback.

    A file that cannot be read or written counts as a user's mistake: its path comes from an argument, a variable or a
    recipe, or the disk is full. Library warnings are hidden, because they quote input text.
    """
    if not sys.warnoptions:
        warnings.simplefilter("ignore")
    try:
        _refuse_what_is_no_text()
        commands()
    except SovereignError as error:
        refusal = error
    except OSError as error:
        subject = f"{str(error.filename)[:200]}: " if error.filename is not None else ""
        refusal = InputError(f"{subject}{error.strerror or error}.", "Check the path, its permissions and the disk.")
    except Exception as error:
        if not type(error).__module__.startswith("sqlalchemy."):  # importing sqlalchemy here would take 0.25 s
            raise
        refusal = InputError(
            f"The database rejected a request ({type(getattr(error, 'orig', error)).__name__}).",
            "Check that it is running, and the settings and rights of its role.",
        )
    else:
        return
    print_error(refusal)
    sys.exit(refusal.exit_status)


def account() -> str:
    """Return the name or number of the account that runs this program. The system provides the name, because anyone can
    set LOGNAME to any name."""
    number = os.geteuid()
    try:
        return pwd.getpwuid(number).pw_name
    except KeyError:
        return str(number)


def _refuse_what_is_no_text() -> None:
    """Raise InputError for a command-line argument that is not UTF-8, because it cannot be stored or printed."""
    for number, argument in enumerate(sys.argv[1:], start=1):
        try:
            argument.encode()
        except UnicodeEncodeError:
            raise InputError(f"Argument {number} is not UTF-8.", "Enter it again as UTF-8 text.") from None


def print_message(message: str, advice: Mapping[str, str]) -> None:
    """Print an error message and its remedies to standard error, each on its own line.

    Args:
        advice: label, such as `Hint` -> remedy.
    """
    from rich.console import Console
    from rich.markup import escape

    err = Console(stderr=True, highlight=False, soft_wrap=True)
    err.print(f"[bold red]✗[/] {escape(message)}")
    for label, text in advice.items():
        err.print(f"  [bold]{label}:[/] {escape(text)}")
