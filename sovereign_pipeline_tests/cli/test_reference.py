"""The program as a whole: generated pages are current, the nearest commands, and what a command imports."""

import importlib.util
import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.base.settings import PROJECT_ROOT
from sovereign_pipeline.cli.main import app
from sovereign_pipeline.cli.terminal import LONGEST_TABLE, print_rows
from sovereign_pipeline_tests.conftest import DemoInstitution
from sovereign_pipeline_tests.examples import examples


def test_the_generated_pages_are_current() -> None:
    spec = importlib.util.spec_from_file_location("docs_make", PROJECT_ROOT / "docs" / "make.py")
    assert spec is not None and spec.loader is not None
    docs = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(docs)
    stale = [path.name for path, text in docs.pages().items() if path.read_text(encoding="utf-8") != text]
    assert not stale, f"{', '.join(stale)}: not what the code says now. Run `make docs` and commit what it wrote."


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


def test_a_long_table_has_a_line_for_each_row_and_no_control_characters(capsys: pytest.CaptureFixture[str]) -> None:
    rows = [{"id": number, "said_by": "A\x1b[2J" if number == 7 else None} for number in range(LONGEST_TABLE + 1)]
    print_rows(rows, "Rows")
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "Rows: 201"
    assert lines[1] == "id   said by"
    assert lines[9] == "7    A [2J"
    assert len(lines) == len(rows) + 2


@pytest.mark.parametrize(
    ("typed", "suggested"),
    examples(__file__, "an_unknown_command_gets_the_nearest_ones"),
)
def test_an_unknown_command_gets_the_nearest_ones(typed: str, suggested: str) -> None:
    shown = CliRunner().invoke(app, typed.split(), prog_name="sovereign", env={"COLUMNS": "1000", "TERM": "dumb"})
    assert shown.exit_code == 2
    assert f"'{suggested}'" in shown.stderr.partition("Did you mean ")[2]


def test_run_without_a_line_lists_the_lines(institution: DemoInstitution, monkeypatch: pytest.MonkeyPatch) -> None:
    institution.write()
    for name, value in institution.settings.to_environment().items():
        monkeypatch.setenv(name, value)
    error = CliRunner().invoke(app, ["run"]).exception
    assert isinstance(error, InputError) and "lamps" in error.message and error.hint == "sovereign run lamps"
