"""Commands about recipes: a broken one does not hide the others, a stale stage is explained, the schema is current."""

import json
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import jsonschema
import pytest
import yaml
from typer.testing import CliRunner, Result

from sovereign_pipeline.base.errors import InputError, NotFoundError
from sovereign_pipeline.base.settings import PROJECT_ROOT
from sovereign_pipeline.cli.main import app
from sovereign_pipeline.corpus.stages import RAW_CORPUS
from sovereign_pipeline.record.gates import evaluate_gates
from sovereign_pipeline.record.officers import PIPELINE_KEY_FILE
from sovereign_pipeline.record.production import produce
from sovereign_pipeline_tests.conftest import DemoInstitution
from sovereign_pipeline_tests.examples import examples

DATA = PROJECT_ROOT / "data"
SCHEMAS = {"line": DATA / "schemas" / "line.schema.json", "institution": DATA / "schemas" / "institution.schema.json"}


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, list(arguments))


@pytest.fixture
def lines(institution: DemoInstitution, monkeypatch: pytest.MonkeyPatch) -> Path:
    """The folder of an institution's recipes: one that is valid, and one that is not."""
    institution.write()
    monkeypatch.setenv("SOVEREIGN_HOME", str(institution.settings.home))
    monkeypatch.setenv("SOVEREIGN_DATA", str(institution.settings.data))
    folder = institution.settings.data / "lines"
    recipe = yaml.safe_load((folder / "lamps.yaml").read_text())
    (folder / "buoys.yaml").write_text(yaml.safe_dump({**recipe, "line": "buoys", "ceilling": "SECRET"}))
    return folder


def test_a_broken_recipe_does_not_hide_the_other_lines(lines: Path) -> None:
    shown = run("lines", "list")
    assert shown.exit_code == 1
    assert "lamps" in shown.stdout and "✗ broken" in shown.stdout
    assert "did you mean 'ceiling'?" in shown.stderr and "sovereign lines check" in shown.stderr
    answer = run("lines", "list", "--json")
    buoys, lamps = json.loads(answer.stdout)
    assert answer.exit_code == 1
    assert (buoys["line"], buoys["owner"], lamps["line"], lamps["error"]) == ("buoys", None, "lamps", None)
    assert "did you mean 'ceiling'?" in buoys["error"]
    valid = (lines / "lamps.yaml").read_text()
    (lines / "lamps.yaml").write_text("line: [")
    alone = run("lines", "list", "--json")
    assert (alone.exit_code, [row["line"] for row in json.loads(alone.stdout)]) == (1, ["buoys", "lamps"])
    (lines / "lamps.yaml").write_text(valid)
    (lines / "buoys.yaml").unlink()
    assert run("lines", "list").exit_code == 0


def test_doctor_examines_every_line_beside_a_broken_one(lines: Path) -> None:
    findings = {each["what"]: each for each in json.loads(run("doctor", "--json").stdout)}
    assert findings["line lamps"]["ok"] and findings["base model tiny"]["ok"]
    assert not findings["line buoys"]["ok"]
    assert findings["line buoys"]["advice"]["Command"] == f"sovereign lines check {lines / 'buoys.yaml'}"
    shown = run("doctor")
    assert shown.exit_code == 1
    assert "✓ line lamps" in shown.stdout and "✗ line buoys" in shown.stdout


def test_doctor_calls_demonstration_keys_a_finding(institution: DemoInstitution, lines: Path) -> None:
    settings = institution.settings

    def said() -> str:
        shown = {each["what"]: each for each in json.loads(run("doctor", "--json").stdout)}["trust root"]
        assert not shown["ok"]
        return str(shown["found"])

    assert "demonstration keys" in said()
    (settings.keys / PIPELINE_KEY_FILE).unlink()
    assert "the pipeline's key is missing" in said()
    shutil.rmtree(settings.data / "trust")
    assert "there is no trust root" in said()


@pytest.mark.security_case("An earlier release left files readable by other accounts", "`sovereign doctor` names them")
def test_doctor_names_what_an_earlier_release_left_open(institution: DemoInstitution, lines: Path) -> None:
    home = institution.settings.home
    home.chmod(0o755)
    left = home / "registry.db"
    left.touch()
    left.chmod(0o644)
    findings = {each["what"]: each for each in json.loads(run("doctor", "--json").stdout)}
    assert not findings["permissions"]["ok"]
    assert str(left) in findings["permissions"]["found"]
    assert findings["permissions"]["advice"]["Command"].startswith(f"chmod -R go= {home}")
    home.chmod(0o700)
    findings = {each["what"]: each for each in json.loads(run("doctor", "--json").stdout)}
    assert findings["permissions"]["ok"]


def test_suites_check_reads_the_suites_of_the_other_lines(lines: Path) -> None:
    answer = run("suites", "check")
    assert answer.exit_code == 1 and "did you mean 'ceiling'?" in answer.stderr
    (lines / "buoys.yaml").unlink()
    assert run("suites", "check").exit_code == 0


def test_a_stale_stage_is_explained_field_by_field(institution: DemoInstitution, lines: Path) -> None:
    workplace = institution.workplace_as_written()
    made = produce(RAW_CORPUS, workplace, {}).ref
    evaluate_gates(RAW_CORPUS, workplace, made)
    workplace.store.make_current("lamps", RAW_CORPUS.kind, made)
    raw, classified, *_ = json.loads(run("lines", "explain", "lamps", "--json").stdout)
    assert (raw["stage"], raw["stale"], raw["reasons"]) == ("raw_corpus", False, [])
    assert classified["stale"] and [reason["cause"] for reason in classified["reasons"]] == ["never made"]
    institution.recipe["quarantine"] = {"max_share": 0.5}
    institution.write()
    raw, *_ = json.loads(run("lines", "explain", "lamps", "--json").stdout)
    changes = [change for reason in raw["reasons"] for change in reason["changes"]]
    assert {"field": "recipe", "name": "quarantine.max_share", "before": "0.02", "now": "0.5"} in changes
    shown = run("lines", "explain", "lamps")
    assert shown.exit_code == 0
    assert "✗ stale" in shown.stdout and "quarantine.max_share: 0.02 → 0.5" in shown.stdout


@pytest.mark.parametrize(("name", "options"), [("line", []), ("institution", ["--institution"])])
def test_the_schema_is_printed_as_it_is_kept(name: str, options: list[str]) -> None:
    assert run("lines", "schema", *options).stdout == SCHEMAS[name].read_text(encoding="utf-8")


def files_with_a_schema() -> Iterator[Path]:
    yield DATA / "institution.yaml"
    yield from sorted((DATA / "lines").glob("*.yaml"))


@pytest.mark.parametrize("file", files_with_a_schema(), ids=lambda file: file.name)
def test_a_file_of_the_demonstration_names_its_schema_and_is_valid_by_it(file: Path) -> None:
    first = file.read_text(encoding="utf-8").splitlines()[0]
    named = file.parent / first.removeprefix("# yaml-language-server: $schema=")
    assert named.resolve() in SCHEMAS.values()
    jsonschema.validate(yaml.safe_load(file.read_text(encoding="utf-8")), json.loads(named.read_bytes()))


@pytest.mark.parametrize(
    ("changes", "source", "said"),
    examples(__file__, "check_reads_the_first_rows_of_every_source"),
)
def test_check_reads_the_first_rows_of_every_source(
    institution: DemoInstitution, lines: Path, changes: dict[str, str], source: dict[str, Any], said: str
) -> None:
    institution.rows = [{**row, **changes} for row in institution.rows]
    institution.recipe["sources"][0] |= source
    institution.recipe["ceiling"] = "INTERNAL"
    del institution.recipe["evaluation"]
    institution.write()
    checked = run("lines", "check", str(lines / "lamps.yaml"))
    assert checked.exit_code == (1 if said else 0), checked.output
    assert said in " ".join(checked.stdout.split()) and ("40 rows" in checked.stdout or "levels" in source)
    assert ("not read: desk note" in checked.stdout) == ("desk note" in changes)
    assert not [row["request"] for row in institution.rows if row["request"] in checked.output]
    added = run("lines", "add", str(lines / "lamps.yaml"))
    assert isinstance(added.exception, InputError) == bool(said), added.output
    assert not said or "lines check" in str(added.exception)
    (sample,) = json.loads(run("lines", "check", str(lines / "lamps.yaml"), "--json").stdout)["sources"]
    assert (sample["rows"] == 40) is (sample["error"] is None)


def test_check_takes_a_line_by_name_and_accounts_for_every_row(institution: DemoInstitution, lines: Path) -> None:
    rows = enumerate(institution.rows)
    institution.rows = [{**row, "status": "draft" if number < 3 else "final"} for number, row in rows]
    institution.rows[5]["date"] = "soon"
    institution.recipe["sources"][0] |= {"where": {"status": "final"}, "date": {"format": "dd.mm.yyyy"}}
    del institution.recipe["evaluation"]
    institution.write()
    printed = " ".join(run("lines", "check", "lamps").stdout.split())
    assert "36 documents (en 36), 3 not selected by `where`, 1 to quarantine" in printed
    assert "1: date is not written as dd.mm.yyyy (row 6)" in printed
    assert "Correct the format under `date`" in printed and "Set the format of dates" not in printed


@pytest.mark.parametrize("command", ["check", "add"])
def test_a_recipe_is_named_by_its_line_or_its_file(institution: DemoInstitution, lines: Path, command: str) -> None:
    del institution.recipe["evaluation"]
    institution.write()
    assert run("lines", command, "lamps").exit_code == run("lines", command, str(lines / "lamps.yaml")).exit_code == 0
    unknown = run("lines", command, "lamp")
    assert isinstance(unknown.exception, NotFoundError) and "lamps" in unknown.exception.hint
