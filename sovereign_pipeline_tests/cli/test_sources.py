"""`sovereign sources look`: facts without text, and a recipe that the line's check accepts once it is filled in."""

import json
from pathlib import Path

import pytest
import yaml
from typer.testing import CliRunner

from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.cli.main import app
from sovereign_pipeline.policy.institution import load_institution
from sovereign_pipeline.policy.line import load_line
from sovereign_pipeline_tests.conftest import DemoInstitution


@pytest.fixture
def export(institution: DemoInstitution, monkeypatch: pytest.MonkeyPatch) -> Path:
    institution.write()
    for name, value in institution.settings.to_environment().items():
        monkeypatch.setenv(name, value)
    return institution.settings.data / str(institution.recipe["sources"][0]["path"])


def test_a_file_is_shown_without_its_texts(institution: DemoInstitution, export: Path) -> None:
    shown = CliRunner().invoke(app, ["sources", "look", str(export)])
    assert shown.exit_code == 0, shown.output
    assert f"{len(institution.rows)} rows" in shown.stdout and "classification" in shown.stdout
    facts = json.loads(CliRunner().invoke(app, ["sources", "look", str(export), "--json"]).stdout)
    assert (facts["encoding"], facts["rows"]) == ("utf-8", len(institution.rows))
    for row in institution.rows:
        assert row["request"] not in shown.output and row["response"] not in shown.output


@pytest.mark.security_case(
    "A column has a few short letters or identifiers, and `sources look` shows its values",
    "values are shown only if they are short and frequent",
)
def test_short_letters_and_identifiers_are_not_shown(export: Path) -> None:
    letter, civil = "Salim, civil number 10457832, asks again about his boat.", "10457832"
    rows = [{"a": letter, "b": civil if number < 3 else "", "c": "open"} for number in range(12)]
    path = export.with_name("short.jsonl")
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for options in ([], ["--json"]):
        shown = CliRunner().invoke(app, ["sources", "look", str(path), *options]).output
        assert "open (12)" in shown and letter not in shown and civil not in shown


@pytest.mark.parametrize("options", [[], ["--json"], ["--recipe"]])
def test_halves_of_characters_are_no_traceback(export: Path, options: list[str]) -> None:
    path = export.with_name("odd.jsonl")
    path.write_text('{"a\\udcff": "\\udcff", "b": 1}\n' * 9)
    assert CliRunner().invoke(app, ["sources", "look", str(path), *options]).exit_code == 0


def test_the_recipe_is_one_that_the_line_reads(institution: DemoInstitution, export: Path) -> None:
    printed = CliRunner().invoke(app, ["sources", "look", str(export), "--recipe", "--line", "harbour"])
    assert printed.exit_code == 0, printed.output
    data = institution.settings.data
    recipe = yaml.safe_load(printed.stdout)
    assert recipe["sources"][0]["path"] == str(export.relative_to(data))
    recipe["training"]["base_model"] = institution.recipe["training"]["base_model"]
    (data / "lines" / "harbour.yaml").write_text(yaml.safe_dump(recipe))
    line = load_line(data, "harbour", load_institution(data))
    assert line.sources[0].columns == {} and line.ceiling == load_institution(data).classification[-1]


@pytest.mark.security_case(
    "A column has two frequent names of people or short replies, and `sources look` shows its values",
    "only known words for levels, languages, labels or states are shown",
)
def test_names_and_short_replies_are_not_shown(export: Path) -> None:
    secret = ("Salim Harthi", "Mona", "Permit is granted.", "granted", "salim", "SALIM", "سالم", "Li")
    rows = [
        {
            "officer": secret[number % 2],
            "answer": secret[2],
            "outcome": secret[3],
            "state": secret[4 * (number % 2)],
            "level": secret[5],
            "label": secret[6],
            "kind": secret[7],
            "status": ("in progress", "Closed")[number % 2],
        }
        for number in range(40)
    ]
    path = export.with_name("names.jsonl")
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    for options in ([], ["--json"]):
        shown = CliRunner().invoke(app, ["sources", "look", str(path), *options]).output
        assert "in progress (20)" in shown and not [each for each in secret if each in shown]


def test_a_column_with_a_line_break_in_its_name_leaves_the_recipe_readable(export: Path) -> None:
    path = export.with_name("odd.csv")
    path.write_text('id,"Rel\n\x0bated: x","links\x85"\n' + "".join(f"{n},{n ^ 1},{n ^ 1}\n" for n in range(40)))
    printed = CliRunner().invoke(app, ["sources", "look", str(path), "--recipe"])
    assert printed.exit_code == 0 and "Rel" in printed.stdout
    assert yaml.safe_load(printed.stdout)["sources"][0]["path"].endswith("odd.csv")


@pytest.mark.security_case(
    "A column's name has characters that control a terminal", "`sources look` shows spaces in their place"
)
def test_no_column_name_controls_the_terminal(export: Path) -> None:
    path = export.with_name("odd.csv")
    path.write_text(
        'id,"let\x00ter\x1b[2J\x07",status\x9b\n' + "".join(f"{n},Dear Sirs and Madams,draft\n" for n in range(9))
    )
    for options in ([], ["--recipe"], ["--line", "odd"]):
        shown = CliRunner().invoke(app, ["sources", "look", str(path), *options])
        assert shown.exit_code == 0 and "let ter" in shown.output
        assert all(each.isprintable() for each in shown.output.replace("\n", ""))


@pytest.mark.parametrize("name", ["My Line", "../lamps", ""])
def test_a_line_without_a_usable_name_is_rejected(export: Path, name: str) -> None:
    shown = CliRunner().invoke(app, ["sources", "look", str(export), "--line", name])
    assert isinstance(shown.exception, InputError)


def test_a_recipe_is_written_once(institution: DemoInstitution, export: Path) -> None:
    """A recipe that a person filled in is not written over."""
    recipe = institution.settings.data / "lines" / "harbour.yaml"
    assert CliRunner().invoke(app, ["sources", "look", str(export), "--line", "harbour"]).exit_code == 0
    recipe.write_text("filled in")
    again = CliRunner().invoke(app, ["sources", "look", str(export), "--line", "harbour"])
    assert isinstance(again.exception, InputError) and recipe.read_text() == "filled in"
