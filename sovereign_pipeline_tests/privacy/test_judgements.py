"""A person judges rows of a scrubbed corpus, and a gate that demands it."""

import pyrage
import pytest
from typer.testing import CliRunner, Result

from sovereign_pipeline.base.errors import GateRefused, InputError
from sovereign_pipeline.base.intervals import measured_share
from sovereign_pipeline.cli.main import app
from sovereign_pipeline.corpus.stages import CLASSIFIED_CORPUS, RAW_CORPUS
from sovereign_pipeline.privacy.preview import JUDGEMENT, JUDGEMENT_FILE, JudgedRow, estimate_of
from sovereign_pipeline.privacy.stages import SCRUBBED_CORPUS
from sovereign_pipeline.record.gates import evaluate_gates, passing_verdict
from sovereign_pipeline.record.manifest import ArtifactRef
from sovereign_pipeline.record.production import produce
from sovereign_pipeline.record.stage import Verdict
from sovereign_pipeline_tests.conftest import DemoInstitution

GATE = next(gate for gate in SCRUBBED_CORPUS.gates if gate.name == "sample_judged")


@pytest.fixture
def line(institution: DemoInstitution, monkeypatch: pytest.MonkeyPatch) -> DemoInstitution:
    """A line that demands four judged values, with a scrubbed corpus; one letter names a person, one a number."""
    institution.recipe["privacy"] = {"name_models": {}, "patterns_only": ["en", "ar"], "judged": 4}
    institution.rows[3] |= {"request": "I am Mr Hamood Quorvan, civil number 10457832.", "response": "Mr Quorvan, no."}
    institution.rows[4] |= {"request": "Reach me at quorvan@canary.example.", "response": "Noted by Amina."}
    institution.workplace().settings.vault_public_key.write_text(f"{pyrage.x25519.Identity.generate().to_public()}\n")
    make(institution)
    for variable, path in (
        ("SOVEREIGN_HOME", institution.settings.home),
        ("SOVEREIGN_DATA", institution.settings.data),
        ("SOVEREIGN_VAULT", institution.settings.vault),
    ):
        monkeypatch.setenv(variable, str(path))
    return institution


def make(institution: DemoInstitution) -> None:
    workplace = institution.workplace()
    refs: dict[str, ArtifactRef] = {}
    for stage in (RAW_CORPUS, CLASSIFIED_CORPUS, SCRUBBED_CORPUS):
        refs[stage.kind] = produce(stage, workplace, {each.kind: refs[each.kind] for each in stage.inputs}).ref
        workplace.store.make_current("lamps", stage.kind, refs[stage.kind])
        evaluate_gates(stage, workplace, refs[stage.kind])


def scrubbed(institution: DemoInstitution) -> ArtifactRef:
    current = institution.workplace().store.current("lamps", "scrubbed_corpus")
    assert current is not None
    return current


def verdict(institution: DemoInstitution) -> Verdict:
    return evaluate_gates(SCRUBBED_CORPUS, institution.workplace(), scrubbed(institution))["sample_judged"]


def judge(*answers: str) -> Result:
    """Answer about the drawn rows in their order up to R-00004: nothing about the first three."""
    return run("\n\n" * 3 + "".join(f"{each}\n" for each in answers), "--rows", "40")


def run(answers: str, *arguments: str) -> Result:
    return CliRunner().invoke(app, ["privacy", "preview", "lamps", "--judge", "S. Reader", *arguments], input=answers)


def test_the_gate_demands_as_many_judged_values_as_the_recipe(line: DemoInstitution) -> None:
    before = verdict(line)
    assert not before.passed
    assert "0 of 4 replaced values" in before.message and "sovereign privacy preview lamps --judge" in before.message
    with pytest.raises(GateRefused, match="sample_judged"):
        passing_verdict(SCRUBBED_CORPUS, GATE, line.workplace(), scrubbed(line))
    answer = judge("NID_1", "", "stop")
    assert answer.exit_code == 0, answer.output
    assert "3 of 4" in verdict(line).message
    assert judge("NID_1", "", "", "name", "stop").exit_code == 0
    after = verdict(line)
    assert after.passed, after.message
    assert after.evidence["by_kind"]["NID"] | {"precision": "", "recall": ""} == {
        "right": 0,
        "wrong": 1,
        "missed": 0,
        "precision": "",
        "recall": "",
    }
    assert after.evidence["by_kind"]["NAME"]["missed"] == 1
    passing_verdict(SCRUBBED_CORPUS, GATE, line.workplace(), scrubbed(line))


def test_a_judgement_holds_no_text_and_names_who_judged(line: DemoInstitution) -> None:
    judge("", "", "stop")
    store = line.workplace().store
    (ref,) = store.indexed(JUDGEMENT)
    content = store.open(ref).file(JUDGEMENT_FILE).read_text()
    assert "S. Reader" in content and "R-00003" in content
    assert "uorvan" not in content and "10457832" not in content
    assert store.read_manifest(ref).inputs == {"scrubbed_corpus": scrubbed(line).digest}


def test_the_judgement_of_another_corpus_does_not_count(line: DemoInstitution) -> None:
    judge("", "", "", "", "stop")
    assert verdict(line).passed
    line.rows[5]["request"] += " Write to Mr Amer Quorvan."
    make(line)
    assert not verdict(line).passed


def test_rows_that_are_scrubbed_otherwise_now_are_not_judged(line: DemoInstitution) -> None:
    line.recipe["privacy"]["keep_words"] = ["Quorvan"]
    line.workplace()
    answer = judge("", "", "stop")
    assert isinstance(answer.exception, InputError)
    assert "R-00004 is scrubbed otherwise now" in str(answer.exception)
    assert not list(line.workplace().store.indexed(JUDGEMENT))


def test_a_mistyped_answer_is_asked_again_and_stop_keeps_what_was_answered(line: DemoInstitution) -> None:
    answer = judge("NAME_9", "NAME_1", "NAMES", "PHONE, NAME", "stop")
    assert answer.exit_code == 0
    assert "not one of them: NAME_9" in answer.output and "not one of them: NAMES" in answer.output
    by_kind = verdict(line).evidence["by_kind"]
    assert (by_kind["NAME"]["right"], by_kind["NAME"]["wrong"], by_kind["PHONE"]["missed"]) == (0, 2, 1)
    assert verdict(line).evidence["rows"] == 4


def test_a_placeholder_is_right_in_one_place_and_wrong_in_another(line: DemoInstitution) -> None:
    answer = judge("NAME_1#3", "NAME_1#2", "", "stop")
    assert answer.exit_code == 0, answer.output
    assert "not one of them: NAME_1#3" in answer.output
    assert verdict(line).evidence["by_kind"]["NAME"] == {
        "right": 1,
        "wrong": 1,
        "missed": 0,
        "precision": str(measured_share(1, 2)),
        "recall": str(measured_share(1, 1)),
    }


def test_a_sample_is_drawn_and_not_chosen(line: DemoInstitution) -> None:
    answer = run("\n\n", "--row", "R-00003")
    assert isinstance(answer.exception, InputError)
    assert "--seed" in str(answer.exception)


def test_the_last_judgement_of_a_row_counts_also_where_it_was_made_before(line: DemoInstitution) -> None:
    for wrong in ("", "NID_1", ""):
        judge(wrong, "", "stop")
    assert verdict(line).evidence["by_kind"]["NID"]["right"] == 1
    assert len(list(line.workplace().store.indexed(JUDGEMENT))) == 3


def test_without_a_demand_the_gate_passes_and_says_so(line: DemoInstitution) -> None:
    del line.recipe["privacy"]["judged"]
    found = verdict(line)
    assert found.passed
    assert "demands no judged sample" in found.message


def test_a_row_that_was_judged_twice_counts_once() -> None:
    first = JudgedRow(id="R-1", right={"NAME": 3}, wrong={}, missed={})
    again = JudgedRow(id="R-1", right={"NAME": 1}, wrong={"NAME": 2}, missed={"PHONE": 1})
    estimate = estimate_of([first, JudgedRow(id="R-2", right={"NAME": 1}, wrong={}, missed={}), again])
    assert (estimate.rows, estimate.judged) == (2, 4)
    assert (estimate.precision(), estimate.recall(["NAME"]), estimate.recall()) == (
        measured_share(2, 4),
        measured_share(2, 2),
        measured_share(2, 3),
    )
