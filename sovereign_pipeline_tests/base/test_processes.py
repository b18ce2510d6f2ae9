"""Every program ends in a message and an exit status, and knows its account from the system."""

import ast
import os
import pwd
import subprocess
import sys
import tomllib
from collections.abc import Callable
from pathlib import Path

import pytest

from sovereign_pipeline.base.errors import GateRefused, InputError, SovereignError
from sovereign_pipeline.base.processes import account, run_program
from sovereign_pipeline.base.settings import PROJECT_ROOT
from sovereign_pipeline.cli.doctor import reachable_by_others


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


def test_an_error_for_people_decides_the_status_and_a_fault_keeps_its_traceback(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    refused, wrong = GateRefused("no"), InputError("wrong")
    assert ends(monkeypatch, raises(refused)) == (1, refused)
    assert ends(monkeypatch, raises(wrong)) == (2, wrong)
    status, error = ends(monkeypatch, Path("/nowhere/at all").read_bytes)
    assert status == 2 and error.message.startswith("/nowhere/at all:")
    assert ends(monkeypatch, raises(OSError("no such device")))[0] == 2
    with pytest.raises(ZeroDivisionError):
        run_program(raises(ZeroDivisionError()), lambda error: None)


WARNS = """
import warnings
from sovereign_pipeline.base.processes import run_program
run_program(lambda: warnings.warn("of a library", FutureWarning), print)
"""


def test_a_librarys_warning_does_not_reach_the_terminal() -> None:
    done = subprocess.run([sys.executable, "-c", WARNS], capture_output=True, text=True, check=True, cwd=PROJECT_ROOT)
    assert done.stderr == ""


@pytest.mark.security_case("LOGNAME and USER name another person", "logs name the account that the system reports")
def test_a_variable_does_not_decide_who_is_logged(monkeypatch: pytest.MonkeyPatch) -> None:
    for variable in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(variable, "somebody-else")
    assert account() == pwd.getpwuid(os.geteuid()).pw_name != "somebody-else"
    monkeypatch.setattr(os, "geteuid", lambda: 3_999_999)
    assert account() == "3999999"


PACKAGE = PROJECT_ROOT / "sovereign_pipeline"
IN_THE_SANDBOX = "base/sandbox_child.py"
"""It starts from the standard library alone, as a child of a process that is private already."""
WRITES_NOTHING = "evidence/verify.py"
"""It stands alone in a package of evidence, and reads."""


def programs() -> list[str]:
    """Every module that a process starts with: those of the installed programs, and those run by `python -m`."""
    installed = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text())["project"]["scripts"].values()
    modules = {each.split(":")[0].replace(".", "/").removeprefix("sovereign_pipeline/") + ".py" for each in installed}
    modules |= {
        str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if '__name__ == "__main__"' in path.read_text()
    }
    assert modules >= {"cli/main.py", "training/worker.py", "dagster/mlflow_ui.py", IN_THE_SANDBOX, WRITES_NOTHING}
    return sorted(modules - {IN_THE_SANDBOX, WRITES_NOTHING})


def calls_keep_private(statement: ast.stmt) -> bool:
    """The program that a bundle carries stands alone, and says it itself."""
    return ast.unparse(statement) in ("keep_private()", f"os.umask({0o077})")


@pytest.mark.security_case("another account of the machine reads what a process wrote", "modes 0700 and 0600")
@pytest.mark.parametrize("program", programs())
def test_a_program_is_private_before_it_does_anything(program: str) -> None:
    tree = ast.parse((PACKAGE / program).read_text())
    main = next(each for each in tree.body if isinstance(each, ast.FunctionDef) and each.name == "main")
    first = next(
        each for each in main.body if not (isinstance(each, ast.Expr) and isinstance(each.value, ast.Constant))
    )
    assert calls_keep_private(first)


def test_what_dagster_loads_is_private_before_anything_is_run() -> None:
    code = "import os, sovereign_pipeline.dagster.definitions; print(oct(os.umask(0)))"
    done = subprocess.run([sys.executable, "-c", code], umask=0o022, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "0o77"


def test_files_that_others_can_open_are_found_where_they_can_get_to_them(tmp_path: Path) -> None:
    root = tmp_path / "home"
    for name, mode in {"open/file": 0o644, "open/own": 0o600, "closed/file": 0o644, "group/file": 0o640}.items():
        (root / name).parent.mkdir(parents=True, exist_ok=True)
        (root / name).touch()
        (root / name).chmod(mode)
    for name, mode in {".": 0o755, "open": 0o755, "closed": 0o700, "group": 0o750}.items():
        (root / name).chmod(mode)
    (root / "link").symlink_to(root / "closed" / "file")
    assert list(reachable_by_others(root)) == [root / "group" / "file", root / "open" / "file"]
    root.chmod(0o700)
    assert list(reachable_by_others(root)) == []
