"""A command imports what it needs, and a long table is printed without a frame."""

import subprocess
import sys
from pathlib import Path

import pytest
from typer.testing import CliRunner

from sovereign_pipeline.cli.main import Sovereign, app
from sovereign_pipeline.cli.terminal import LONGEST_TABLE, print_rows

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
    assert lines[9] == "7    A[2J"
    assert len(lines) == len(rows) + 2
