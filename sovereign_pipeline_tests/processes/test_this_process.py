"""Every entry point keeps what it makes to its own account, and `sovereign doctor` names what others can open."""

import ast
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

from sovereign_pipeline.commands.examination.machine import reachable_by_others
from sovereign_pipeline.settings import PROJECT_ROOT

PACKAGE = PROJECT_ROOT / "sovereign_pipeline"
IN_THE_SANDBOX = "sandbox/inside.py"
"""It starts from the standard library alone, as a child of a process that is private already."""
WRITES_NOTHING = "audit/verify.py"
"""It stands alone in a package of evidence, and reads."""


def programs() -> list[str]:
    """Every module that a process starts with: those of the installed programs, and those run by `python -m`."""
    installed = tomllib.loads((PROJECT_ROOT / "pyproject.toml").read_text())["project"]["scripts"].values()
    modules = {each.split(":")[0].replace(".", "/").removeprefix("sovereign_pipeline/") + ".py" for each in installed}
    modules |= {
        str(path.relative_to(PACKAGE)) for path in PACKAGE.rglob("*.py") if '__name__ == "__main__"' in path.read_text()
    }
    return sorted(modules - {IN_THE_SANDBOX, WRITES_NOTHING})


def calls_keep_private(statement: ast.stmt) -> bool:
    """The program that a bundle carries stands alone, and says it itself."""
    return ast.unparse(statement) in ("keep_private()", f"os.umask({0o077})")


def test_there_are_programs_to_hold_to_it() -> None:
    assert {"cli.py", "training/processes/worker.py", "orchestration/mlflow_ui.py"} <= set(programs())


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
    code = "import os, sovereign_pipeline.definitions; print(oct(os.umask(0)))"
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
