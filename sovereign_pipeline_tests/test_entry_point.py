"""Every program ends in a message and an exit status, and knows its account from the system."""

import os
import pwd
from collections.abc import Callable
from pathlib import Path

import pytest

from sovereign_pipeline.entry_point import account, run_program
from sovereign_pipeline.errors import GateRefused, InputError, SovereignError


def ends(
    monkeypatch: pytest.MonkeyPatch, commands: Callable[[], object], *arguments: str
) -> tuple[int, SovereignError]:
    """Exit status of a program, and the error that it printed."""
    monkeypatch.setattr("sys.argv", ["program", *arguments])
    printed: list[SovereignError] = []
    with pytest.raises(SystemExit) as end:
        run_program(commands, printed.append)
    (error,) = printed
    return int(str(end.value.code)), error


def raises(error: Exception) -> Callable[[], None]:
    def commands() -> None:
        raise error

    return commands


def test_an_error_for_people_is_printed_and_decides_the_status(monkeypatch: pytest.MonkeyPatch) -> None:
    refused = GateRefused("no")
    assert ends(monkeypatch, raises(refused)) == (1, refused)
    wrong = InputError("wrong")
    assert ends(monkeypatch, raises(wrong)) == (2, wrong)


def test_a_file_that_cannot_be_used_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    status, error = ends(monkeypatch, Path("/nowhere/at all").read_bytes)
    assert (status, error.message) == (2, "/nowhere/at all: No such file or directory.")
    status, error = ends(monkeypatch, raises(OSError("no such device")))
    assert (status, error.message) == (2, "no such device.")


def test_a_fault_of_the_program_keeps_its_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["program"])
    with pytest.raises(ZeroDivisionError):
        run_program(raises(ZeroDivisionError()), lambda error: None)


@pytest.mark.security_case("LOGNAME and USER name somebody else", "logs name the account that the system knows")
def test_a_variable_does_not_decide_who_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(variable, "somebody-else")
    assert account() == pwd.getpwuid(os.geteuid()).pw_name != "somebody-else"


def test_an_account_without_a_name_is_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 3_999_999)
    assert account() == "3999999"
