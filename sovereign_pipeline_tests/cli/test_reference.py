"""Every command explains itself in a current reference, and imports what it needs alone."""

import importlib.util
import subprocess
import sys
from pathlib import Path
from types import ModuleType

import pytest
from typer.main import get_command
from typer.testing import CliRunner

from sovereign_pipeline.base.settings import PROJECT_ROOT
from sovereign_pipeline.cli.main import Sovereign, app
from sovereign_pipeline.cli.reference import leaves
from sovereign_pipeline.cli.terminal import LONGEST_TABLE, print_rows
from sovereign_pipeline.privacy.vault_cli import app as vault_app
from sovereign_pipeline.record.trust_cli import app as trust_app
from sovereign_pipeline.serving.transcripts_cli import app as transcripts_app

PROGRAMS = {
    "sovereign": app,
    "sovereign-transcripts": transcripts_app,
    "sovereign-trust": trust_app,
    "sovereign-vault": vault_app,
}
COMMANDS = {path: command for name, program in PROGRAMS.items() for path, command in leaves(get_command(program), name)}


@pytest.fixture(scope="module")
def docs() -> ModuleType:
    spec = importlib.util.spec_from_file_location("docs_make", PROJECT_ROOT / "docs" / "make.py")
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def test_the_generated_pages_are_current(docs: ModuleType) -> None:
    stale = [path.name for path, text in docs.pages().items() if path.read_text(encoding="utf-8") != text]
    assert not stale, f"{', '.join(stale)}: not what the code says now. Run `make docs` and commit what it wrote."


@pytest.mark.parametrize("path", COMMANDS)
def test_a_command_explains_itself_and_all_that_it_takes(path: str) -> None:
    command = COMMANDS[path]
    assert command.help, f"{path} has no help"
    without = [each.name for each in command.params if each.name != "help" and not getattr(each, "help", None)]
    assert not without, f"{path}: no help for {', '.join(map(str, without))}"


def test_the_version_is_printed() -> None:
    said = CliRunner().invoke(app, ["--version"])
    assert said.exit_code == 0 and said.output.startswith("sovereign-pipeline ")


def test_completion_is_offered_for_the_shell() -> None:
    assert "--install-completion" in CliRunner().invoke(app, ["--help"]).output


PROGRAM = """
import sys
from sovereign_pipeline.cli.main import app
try:
    app(sys.argv[1:])
finally:
    rooms = {name.split(".")[1] for name in sys.modules if name.startswith("sovereign_pipeline.")}
    print(*sorted(rooms), file=sys.stderr)
"""


def test_listing_adapters_loads_neither_corpus_nor_detectors(tmp_path: Path) -> None:
    environment = {"SOVEREIGN_HOME": str(tmp_path / "home"), "SOVEREIGN_DATA": str(tmp_path), "PATH": ""}
    for _ in range(2):  # the first one makes the registry
        program = [sys.executable, "-c", PROGRAM, "adapters", "list"]
        ended = subprocess.run(program, env=environment, capture_output=True, text=True, check=True)
    assert "none yet" in ended.stdout
    loaded = set(ended.stderr.split())
    assert "record" in loaded
    assert not loaded & {"corpus", "privacy", "dataset", "training", "evaluation", "orchestration"}


def test_every_group_is_named_in_the_help() -> None:
    shown = CliRunner().invoke(app, ["--help"]).output
    for name in (*Sovereign.elsewhere, "run", "up", "doctor"):
        assert f"│ {name} " in shown


def test_a_long_table_has_a_line_for_each_row_and_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"id": number, "said_by": "A\x1b[2J" if number == 7 else None} for number in range(LONGEST_TABLE + 1)]
    print_rows(rows, "Rows")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Rows: 201"
    assert lines[1] == "id   said by"
    assert lines[9] == "7    A [2J"
    assert len(lines) == len(rows) + 2
