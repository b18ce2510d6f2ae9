"""The program as a whole: generated pages are current and explain all, the nearest commands, what a command imports."""

import importlib.util
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import typer
from pydantic import BaseModel
from typer.main import get_command
from typer.testing import CliRunner

from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.base.settings import PROJECT_ROOT
from sovereign_pipeline.base_models.stages import BaseModelCard
from sovereign_pipeline.cli.main import app
from sovereign_pipeline.cli.terminal import LONGEST_TABLE, print_rows
from sovereign_pipeline.policy.institution import Institution
from sovereign_pipeline.policy.line import Line
from sovereign_pipeline.policy.recipe_model import models_in
from sovereign_pipeline.privacy.vault_cli import app as vault_app
from sovereign_pipeline.record.trust_cli import app as trust_app
from sovereign_pipeline.serving.transcripts_cli import app as transcripts_app
from sovereign_pipeline.suites.cards import SuiteCard
from sovereign_pipeline_tests.conftest import DemoInstitution
from sovereign_pipeline_tests.examples import examples


@pytest.fixture(scope="module")
def docs() -> Any:
    """The program that writes the generated pages."""
    spec = importlib.util.spec_from_file_location("docs_make", PROJECT_ROOT / "docs" / "make.py")
    assert spec is not None and spec.loader is not None
    found = importlib.util.module_from_spec(spec)
    sys.modules["docs_make"] = found
    spec.loader.exec_module(found)
    return found


def test_the_generated_pages_are_current(docs: Any) -> None:
    stale = [path.name for path, text in docs.pages().items() if path.read_text(encoding="utf-8") != text]
    assert not stale, f"{', '.join(stale)}: not what the code says now. Run `make docs` and commit what it wrote."


@pytest.mark.parametrize("program", [app, vault_app, trust_app, transcripts_app])
def test_every_command_and_argument_is_explained(docs: Any, program: typer.Typer) -> None:
    for path, command in docs.leaves(get_command(program), ""):
        assert command.help, f"{path} has no help"
        without = [each.name for each in command.params if each.name != "help" and not getattr(each, "help", None)]
        assert not without, f"{path}: no help for {without}"


def models(model: type[BaseModel]) -> Iterator[type[BaseModel]]:
    yield model
    for field in model.model_fields.values():
        for nested in models_in(field.annotation):
            yield from models(nested)


@pytest.mark.parametrize("model", [Line, Institution, BaseModelCard, SuiteCard])
def test_every_key_and_section_is_documented(model: type[BaseModel]) -> None:
    every = set(models(model))
    without = [
        f"{each.__name__}.{key}" for each in every for key, it in each.model_fields.items() if not it.description
    ]
    without += [each.__name__ for each in every if not each.__doc__]
    assert not without, f"{', '.join(without)}: write a docstring below it"


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
    assert not loaded & {"corpus", "privacy", "dataset", "training", "evaluation", "dagster"}


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
