"""Rows before and after scrubbing, by the command line."""

import gc
import json
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner, Result

from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.cli.main import app
from sovereign_pipeline.corpus.stages import CLASSIFIED_CORPUS, RAW_CORPUS
from sovereign_pipeline.record.gates import evaluate_gates
from sovereign_pipeline.record.manifest import ArtifactRef
from sovereign_pipeline.record.production import produce
from sovereign_pipeline_tests.conftest import DemoInstitution


@pytest.fixture
def line(institution: DemoInstitution, monkeypatch: pytest.MonkeyPatch) -> DemoInstitution:
    """A line with a classified corpus: a letter of one case file, and a second one that only the first explains."""
    institution.recipe["privacy"] = {"name_models": {}, "patterns_only": ["en", "ar"]}
    institution.rows[3] |= {
        "case": "C-1",
        "request": "I am Mr Hamood Quorvan, civil number 10457832; my file is 81440982.",
        "response": "Write to hamood@canary.example.",
    }
    institution.rows[4] |= {"case": "c-1", "request": "Quorvan asked again about 10457832.", "response": "No."}
    workplace = institution.workplace()
    refs: dict[str, ArtifactRef] = {}
    for stage in (RAW_CORPUS, CLASSIFIED_CORPUS):
        ref = produce(stage, workplace, {each.kind: refs[each.kind] for each in stage.inputs}).ref
        workplace.store.make_current("lamps", stage.kind, ref)
        assert all(verdict.passed for verdict in evaluate_gates(stage, workplace, ref).values())
        refs[stage.kind] = ref
    for variable, path in (
        ("SOVEREIGN_HOME", institution.settings.home),
        ("SOVEREIGN_DATA", institution.settings.data),
        ("SOVEREIGN_VAULT", institution.settings.vault),
    ):
        monkeypatch.setenv(variable, str(path))
    return institution


def run(*arguments: str) -> Result:
    return CliRunner().invoke(app, ["privacy", "preview", "lamps", *arguments])


def rows(*arguments: str) -> dict[str, dict[str, Any]]:
    answer = run(*arguments, "--json")
    assert answer.exit_code == 0, answer.stderr
    return {row["id"]: {field["name"]: field for field in row["fields"]} for row in json.loads(answer.stdout)}


def files_under(root: Path) -> dict[str, bytes]:
    return {str(path): path.read_bytes() for path in root.rglob("*") if path.is_file()}


def test_a_row_is_shown_before_and_after_with_the_reason_of_each_finding(line: DemoInstitution) -> None:
    shown = rows("--row", "R-00003", "--row", "R-00004")
    request = shown["R-00003"]["request"]
    assert request["after"] == "I am Mr NAME_1, civil number NID_1; my file is NID_2."
    values = {each["placeholder"]: request["before"][each["start"] : each["end"]] for each in request["replaced"]}
    assert values == {"NAME_1": "Hamood Quorvan", "NID_1": "10457832", "NID_2": "81440982"}
    why = {each["placeholder"]: each["why"] for field in shown["R-00003"].values() for each in field["replaced"]}
    assert why["NAME_1"].startswith("a name")
    assert why["NID_1"] == "its label, or its check digits"
    assert why["NID_2"] == "its digits alone: doubtful"
    second = shown["R-00004"]["request"]
    assert second["after"] == "NAME_1 asked again about NID_1."
    assert second["replaced"][0]["why"] == "named elsewhere in the case file"


def test_it_is_printed_for_people(line: DemoInstitution) -> None:
    answer = run("--row", "R-00003")
    assert answer.exit_code == 0
    assert "Hamood Quorvan" in answer.stdout and "I am Mr NAME_1, civil number NID_1" in answer.stdout
    assert "doubtful" in answer.stdout


def test_rows_are_drawn_by_the_seed(line: DemoInstitution) -> None:
    drawn = [list(rows("--rows", "4", "--seed", seed)) for seed in ("1", "1", "2")]
    assert drawn[0] == drawn[1] != drawn[2]
    assert len(drawn[0]) == 4
    assert len(rows("--rows", "999")) == 40


def test_nothing_is_stored(line: DemoInstitution) -> None:
    gc.collect()  # a registry that nobody uses any more closes its files
    before = files_under(line.root)
    assert run("--rows", "40").exit_code == 0
    assert files_under(line.root) == before


def test_a_row_that_is_not_there_is_named(line: DemoInstitution) -> None:
    answer = run("--row", "R-99999")
    assert isinstance(answer.exception, InputError)
    assert "R-99999" in str(answer.exception)


def test_without_a_classified_corpus_it_says_what_to_run(
    institution: DemoInstitution, monkeypatch: pytest.MonkeyPatch
) -> None:
    institution.workplace()
    monkeypatch.setenv("SOVEREIGN_HOME", str(institution.settings.home))
    monkeypatch.setenv("SOVEREIGN_DATA", str(institution.settings.data))
    answer = run()
    assert isinstance(answer.exception, InputError)
    assert "sovereign run lamps --until classified_corpus" in str(answer.exception)


def test_what_the_policy_keeps_is_neither_replaced_nor_doubted(line: DemoInstitution) -> None:
    file = line.settings.data / "institution.yaml"
    file.write_text(f"{file.read_text()}\nsensitive: {{NID: keep}}\n")
    request = rows("--row", "R-00003")["R-00003"]["request"]
    assert request["after"] == "I am Mr NAME_1, civil number 10457832; my file is 81440982."
    assert request["doubted"] == []
