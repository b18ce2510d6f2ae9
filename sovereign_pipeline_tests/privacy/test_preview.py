"""Rows before and after scrubbing, by the command line."""

import gc
import json
from pathlib import Path
from typing import Any

import pyrage
import pytest
from typer.testing import CliRunner, Result

from sovereign_pipeline.base.errors import GateRefused, InputError
from sovereign_pipeline.base.intervals import measured_share
from sovereign_pipeline.cli.main import app
from sovereign_pipeline.privacy.preview import JUDGEMENT, JUDGEMENT_FILE
from sovereign_pipeline.privacy.stages import SCRUBBED_CORPUS
from sovereign_pipeline.record.gates import evaluate_gates, passing_verdict
from sovereign_pipeline.record.manifest import ArtifactRef
from sovereign_pipeline.record.stage import Verdict
from sovereign_pipeline_tests.conftest import DemoInstitution
from sovereign_pipeline_tests.materializing import materialize
from sovereign_pipeline_tests.privacy.conftest import classified


@pytest.fixture
def line(institution: DemoInstitution, monkeypatch: pytest.MonkeyPatch) -> DemoInstitution:
    """A line with a classified corpus: a letter of one case file, and a second one that only the first explains."""
    institution.rows[3] |= {
        "case": "C-1",
        "request": "I am Mr Hamood Quorvan, civil number 10457832; my file is 81440982.",
        "response": "Write to hamood@canary.example.",
    }
    institution.rows[4] |= {"case": "c-1", "request": "The berth of Quorvan, 10457832.", "response": "No."}
    classified(institution.workplace())
    for variable, value in institution.settings.to_environment().items():
        monkeypatch.setenv(variable, value)
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
    assert why["NAME_1"].startswith("a name: first word: given name +")
    assert why["NID_1"] == "its label, or its check digits"
    assert why["NID_2"] == "its digits alone: doubtful"
    second = shown["R-00004"]["request"]
    assert second["after"] == "The berth of NAME_1, NID_1."
    assert second["replaced"][0]["why"] == "named elsewhere in the case file"


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


def test_what_the_policy_keeps_is_neither_replaced_nor_doubted(line: DemoInstitution) -> None:
    file = line.settings.data / "institution.yaml"
    file.write_text(f"{file.read_text()}\nsensitive: {{NID: keep}}\n")
    request = rows("--row", "R-00003")["R-00003"]["request"]
    assert request["after"] == "I am Mr NAME_1, civil number 10457832; my file is 81440982."
    assert request["doubted"] == []


GATE = next(gate for gate in SCRUBBED_CORPUS.gates if gate.name == "sample_judged")


@pytest.fixture
def judged_line(institution: DemoInstitution, monkeypatch: pytest.MonkeyPatch) -> DemoInstitution:
    """A line that demands four judged values, with a scrubbed corpus; one letter names a person, one a number."""
    institution.recipe["privacy"]["judged"] = 4
    institution.rows[3] |= {"request": "I am Mr Hamood Quorvan, civil number 10457832.", "response": "Mr Quorvan, no."}
    institution.rows[4] |= {"request": "Reach me at quorvan@canary.example.", "response": "Noted by Amina."}
    institution.workplace().settings.vault_public_key.write_text(f"{pyrage.x25519.Identity.generate().to_public()}\n")
    make(institution)
    for variable, value in institution.settings.to_environment().items():
        monkeypatch.setenv(variable, value)
    return institution


def make(institution: DemoInstitution) -> None:
    workplace = institution.workplace()
    materialize(SCRUBBED_CORPUS, workplace, classified(workplace))


def scrubbed(institution: DemoInstitution) -> ArtifactRef:
    current = institution.workplace().store.current("lamps", "scrubbed_corpus")
    assert current is not None
    return current


def verdict(institution: DemoInstitution) -> Verdict:
    return evaluate_gates(SCRUBBED_CORPUS, institution.workplace(), scrubbed(institution))["sample_judged"]


def judge(*answers: str) -> Result:
    """Answer about the drawn rows in their order up to R-00004: nothing about the first three."""
    return run_judging("\n\n" * 3 + "".join(f"{each}\n" for each in answers), "--rows", "40")


def run_judging(answers: str, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["privacy", "preview", "lamps", "--judge", "S. Reader", *arguments], input=answers)


def test_the_gate_demands_as_many_judged_values_as_the_recipe(judged_line: DemoInstitution) -> None:
    before = verdict(judged_line)
    assert not before.passed
    assert "0 of 4 replaced values" in before.message and "sovereign privacy preview lamps --judge" in before.message
    with pytest.raises(GateRefused, match="sample_judged"):
        passing_verdict(SCRUBBED_CORPUS, GATE, judged_line.workplace(), scrubbed(judged_line))
    answer = judge("NID_1", "", "stop")
    assert answer.exit_code == 0, answer.output
    assert "3 of 4" in verdict(judged_line).message
    assert judge("NID_1", "", "", "name", "stop").exit_code == 0
    after = verdict(judged_line)
    assert after.passed, after.message
    of_numbers = after.evidence["by_kind"]["NID"]
    assert (of_numbers["right"], of_numbers["wrong"], of_numbers["missed"]) == (0, 1, 0)
    assert after.evidence["by_kind"]["NAME"]["missed"] == 1
    passing_verdict(SCRUBBED_CORPUS, GATE, judged_line.workplace(), scrubbed(judged_line))


def test_a_judgement_holds_no_text_and_names_who_judged(judged_line: DemoInstitution) -> None:
    judge("", "", "stop")
    store = judged_line.workplace().store
    (ref,) = store.indexed(JUDGEMENT)
    content = store.open(ref).file(JUDGEMENT_FILE).read_text()
    assert "S. Reader" in content and "R-00003" in content
    assert "uorvan" not in content and "10457832" not in content
    assert store.read_manifest(ref).inputs == {"scrubbed_corpus": scrubbed(judged_line).digest}


def test_the_judgement_of_another_corpus_does_not_count(judged_line: DemoInstitution) -> None:
    judge("", "", "", "", "stop")
    assert verdict(judged_line).passed
    judged_line.rows[5]["request"] += " Write to Mr Amer Quorvan."
    make(judged_line)
    assert not verdict(judged_line).passed


def test_rows_that_are_scrubbed_otherwise_now_are_not_judged(judged_line: DemoInstitution) -> None:
    judged_line.recipe["privacy"]["keep_words"] = ["Quorvan"]
    judged_line.workplace()
    answer = judge("", "", "stop")
    assert isinstance(answer.exception, InputError)
    assert "R-00004 is now scrubbed differently" in str(answer.exception)
    assert not list(judged_line.workplace().store.indexed(JUDGEMENT))


def test_a_mistyped_answer_is_asked_again_and_stop_keeps_what_was_answered(judged_line: DemoInstitution) -> None:
    answer = judge("NAME_9", "NAME_1#3", "NAME_1#2", "NAMES", "PHONE, NAME", "stop")
    assert answer.exit_code == 0, answer.output
    assert all(f"unknown: {each}" in answer.output for each in ("NAME_9", "NAME_1#3", "NAMES"))
    evidence = verdict(judged_line).evidence
    by_kind = evidence["by_kind"]
    assert (by_kind["NAME"]["right"], by_kind["NAME"]["wrong"], by_kind["PHONE"]["missed"]) == (1, 1, 1)
    assert by_kind["NAME"]["precision"] == by_kind["NAME"]["recall"] == str(measured_share(1, 2))
    assert evidence["rows"] == 4


def test_a_sample_is_drawn_and_not_chosen(judged_line: DemoInstitution) -> None:
    answer = run_judging("\n\n", "--row", "R-00003")
    assert isinstance(answer.exception, InputError)
    assert "--seed" in str(answer.exception)


def test_the_last_judgement_of_a_row_counts_also_where_it_was_made_before(judged_line: DemoInstitution) -> None:
    for wrong in ("", "NID_1", ""):
        judge(wrong, "", "stop")
    assert verdict(judged_line).evidence["by_kind"]["NID"]["right"] == 1
    assert len(list(judged_line.workplace().store.indexed(JUDGEMENT))) == 3
