"""An unknown command is answered with the nearest ones of the program, and `run` without a line with the lines."""

import pytest
from typer.testing import CliRunner

from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.cli.main import app
from sovereign_pipeline_tests.conftest import DemoInstitution
from sovereign_pipeline_tests.examples import examples


@pytest.mark.parametrize(
    ("typed", "suggested"),
    examples(__file__, "an_unknown_command_gets_the_nearest_ones"),
)
def test_an_unknown_command_gets_the_nearest_ones(typed: str, suggested: str) -> None:
    shown = CliRunner().invoke(app, typed.split(), prog_name="sovereign", env={"COLUMNS": "1000", "TERM": "dumb"})
    assert shown.exit_code == 2
    assert f"'{suggested}'" in shown.stderr.partition("Did you mean ")[2]


def test_nothing_is_suggested_for_what_resembles_nothing() -> None:
    shown = CliRunner().invoke(app, ["xyzzy"], prog_name="sovereign")
    assert shown.exit_code == 2 and "Did you mean" not in shown.stderr


def test_run_without_a_line_lists_the_lines(institution: DemoInstitution, monkeypatch: pytest.MonkeyPatch) -> None:
    institution.write()
    for name, value in institution.settings.to_environment().items():
        monkeypatch.setenv(name, value)
    error = CliRunner().invoke(app, ["run"]).exception
    assert isinstance(error, InputError) and "lamps" in error.message and error.hint == "sovereign run lamps"
