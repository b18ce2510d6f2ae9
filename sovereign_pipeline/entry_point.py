"""How every program of this package begins and ends: `sovereign`, `sovereign-vault` and those to come.

What belongs here: who runs it, and what no program may end with, whatever it was called with. What does not: any
command.
"""

import os
import pwd
import sys
from collections.abc import Callable

from sovereign_pipeline.errors import InputError, SovereignError


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
