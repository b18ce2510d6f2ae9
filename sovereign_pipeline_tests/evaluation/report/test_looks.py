"""Looks at a held-out side: what counts as one, that none can be made uncounted, and what they cost a gate."""

import shutil
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from sqlalchemy import select

from sovereign_pipeline.base.errors import GateRefused
from sovereign_pipeline.base.files import digest_of
from sovereign_pipeline.base.intervals import at_confidence
from sovereign_pipeline.corpus.document import Document, read_documents, write_documents
from sovereign_pipeline.evaluation.report.looks import (
    LOOKED,
    Looks,
    as_measured,
    confidence_at,
    enter_look,
    enter_measured,
    looks_at,
)
from sovereign_pipeline.evaluation.report.report import as_html, as_markdown
from sovereign_pipeline.evaluation.stages import PRIVATE_SCORES
from sovereign_pipeline.evaluation.statistics import compare_losses, compare_shares
from sovereign_pipeline.record.audit_log import append
from sovereign_pipeline.record.database import open_registry
from sovereign_pipeline.record.stage import Built, Inputs, Stage, Workplace
from sovereign_pipeline.record.tables import AuditEntry
from sovereign_pipeline.record.verifying import verify_registry
from sovereign_pipeline.split import HELD_OUT, SELECTION
from sovereign_pipeline.split.shingles import is_mostly_in, least_digests
from sovereign_pipeline_tests.conftest import DemoInstitution
from sovereign_pipeline_tests.evaluation.documents import document
from sovereign_pipeline_tests.evaluation.report.planted import BASE, make, stored_report
from sovereign_pipeline_tests.split.chain import materialize, split_stage

LETTERS = [document(number) for number in range(12)]


def candidate(weights: str) -> Stage:
    def build(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
        (workspace / "adapter").mkdir()
        (workspace / "adapter" / "adapter_model.safetensors").write_text(weights)
        return Built(summary={})

    return Stage("aligned_adapter", f"planted {weights}", build)


def split(letters: Sequence[Document] = LETTERS, others: Sequence[Document] = ()) -> Stage:
    def build(workplace: Workplace, inputs: Inputs, workspace: Path) -> Built:
        write_documents(workspace / "held_out.jsonl", letters)
        write_documents(workspace / "train.jsonl", others)
        return Built(summary={}, classification="PUBLIC")

    written = digest_of([[each.model_dump(mode="json") for each in side] for side in (letters, others)])
    return Stage("leakage_safe_split", f"planted {written}", build)


def look(
    institution: DemoInstitution, weights: str, letters: Sequence[Document] = LETTERS, others: Sequence[Document] = ()
) -> Looks:
    """Begin to evaluate weights, and return the looks until this one. others: documents of the training side."""
    workplace = institution.workplace()
    of, side = (make(workplace, stage, {}) for stage in (candidate(weights), split(letters, others)))
    enter_look(workplace, of, side, "")
    return looks_at(workplace, of, side, "")


def test_the_same_weights_are_one_look_and_other_settings_are_another(institution: DemoInstitution) -> None:
    assert look(institution, "one").number == 1
    assert look(institution, "one").number == 1
    assert look(institution, "two").number == 2
    assert look(institution, "one").number == 1
    institution.recipe["evaluation"]["seed"] = 8
    assert look(institution, "one").number == 3
    institution.recipe["evaluation"]["precision"] = "bfloat16"
    assert look(institution, "one").number == 4
    institution.recipe["gates"] = {"loops": {"margin": 0.25}}
    looks = look(institution, "one")
    assert (looks.number, looks.confidence) == (5, confidence_at(5))
    assert [each.precision for each in looks.earlier[2:]] == ["float32", "bfloat16"]
    institution.recipe["owner"] = "team:others"
    assert look(institution, "one").number == 5


@pytest.mark.security_case(
    "Every artifact of a failed evaluation is deleted, with the line's current ones and the store's index",
    "the next evaluation is the second look all the same: the ledger counts",
)
def test_a_deleted_evaluation_still_counts(institution: DemoInstitution) -> None:
    stored_report(institution, judged=(candidate("one"), split()), gain=-0.5)
    shutil.rmtree(institution.workplace().store.root)
    looks = look(institution, "two")
    assert looks.number == 2 and looks.earlier[0].outcomes["held_out_loss_improves"] == "fail"


def begin(institution: DemoInstitution, weights: str, workspace: Path) -> None:
    """Begin to score held-out documents, and be stopped."""
    workplace = institution.workplace()
    stages = (BASE, candidate(weights), split())
    inputs = {stage.kind: workplace.store.open(make(workplace, stage, {})) for stage in stages}
    with pytest.raises(KeyError):  # the base model is planted, so it cannot be opened
        PRIVATE_SCORES.build(workplace, inputs, workspace)


@pytest.mark.security_case(
    "An evaluation is stopped as soon as it shows a figure that displeases, and a margin is loosened",
    "it counts as a look, because it was entered into the ledger before the first score; the report shows the margin "
    "in red",
)
def test_an_evaluation_that_is_interrupted_counts(institution: DemoInstitution, tmp_path: Path) -> None:
    institution.write_items("red_team/judge_labels.jsonl", [])
    begin(institution, "one", tmp_path)
    looks = look(institution, "two")
    assert looks.number == 2 and not looks.earlier[0].outcomes
    assert (1, "loops.margin", 0.2, 0.5) in looks.loosened({"loops.margin": 0.5})


@pytest.mark.security_case(
    "The same weights are evaluated again after a prompt, a question of a suite, a label of a judge, or a word that "
    "is never a name was changed",
    "it is another look, with stronger evidence needed",
)
def test_other_questions_are_another_look(institution: DemoInstitution, tmp_path: Path) -> None:
    files = ("red_team/judge_labels.jsonl", "red_team/prompts.jsonl", "suites/suite.jsonl")
    institution.write_items(files[0], [])
    begin(institution, "one", tmp_path)
    begin(institution, "one", tmp_path)
    assert look(institution, "two").number == 2
    for name in files:
        with (institution.settings.data / name).open("a") as file:
            file.write("\n")
        begin(institution, "one", tmp_path)
    institution.recipe["privacy"]["keep_words"] = ["Lamp"]
    begin(institution, "one", tmp_path)
    assert look(institution, "three").number == 3 + len(files) + 1


@pytest.mark.security_case(
    "The scores of a failed evaluation are deleted and measured again with other threads, until other answers pass",
    "it is another look, with stronger evidence needed",
)
def test_other_figures_of_the_same_weights_are_another_look(institution: DemoInstitution) -> None:
    def number(gain: float) -> int:
        looks = stored_report(institution, judged=(candidate("one"), split()), gain=gain).looks
        assert looks is not None
        return looks.number

    assert [number(gain) for gain in (-0.5, 0.5, -0.5)] == [1, 2, 1]


@pytest.mark.security_case(
    "Scores are measured again and again, read and deleted, before the first report is made",
    "each measurement with other figures is another look, because its figures are entered into the ledger before it is "
    "committed",
)
def test_figures_that_no_report_judged_are_looks_too(institution: DemoInstitution) -> None:
    workplace = institution.workplace()
    of, side = (make(workplace, stage, {}) for stage in (candidate("one"), split()))
    enter_look(workplace, of, side, "")

    def measure(kind: str, files: str, incumbent: str = "") -> None:
        enter_measured(workplace, of, side, "", incumbent, kind, files)

    def number(private: str, red_team: str, incumbent: str = "") -> int:
        scores = {"private_scores": private, "red_team_report": red_team, "capability_scores": "any"}
        figures = {"incumbent": incumbent, "files": digest_of(scores)}
        return looks_at(workplace, of, side, as_measured(workplace, of, side, "", figures, scores)).number

    for files in "abac":
        measure("red_team_report", files)
    measure("private_scores", "a")
    assert [number("a", files) for files in "abc"] == [1, 2, 3]
    measure("private_scores", "b")
    assert [number("b", files) for files in "abc"] == [4, 4, 4]
    measure("red_team_report", "b", "of an incumbent")
    assert number("a", "b", "of an incumbent") == 1
    assert look(institution, "two").number == 5


def test_a_look_that_two_stages_enter_at_once_counts_once_and_the_ledger_verifies(institution: DemoInstitution) -> None:
    look(institution, "one")
    registry = open_registry(institution.settings)
    with registry.writing() as session:
        entry = session.scalars(select(AuditEntry).where(AuditEntry.action == LOOKED)).one()
        append(session, entry.actor, LOOKED, entry.subjects)
    assert look(institution, "two").number == 2
    verify_registry(registry)


@pytest.mark.security_case(
    "A letter is added to a held-out side, all its ids are changed, or all its texts are, to begin counting anew",
    "earlier looks still count; only a side that shares no letter, by id, case file or text, begins at the first look",
)
@pytest.mark.parametrize(
    ("letters", "number"),
    [
        ([*LETTERS, document(99)], 2),
        ([LETTERS[0], *(document(number) for number in range(50, 61))], 2),
        ([each.model_copy(update={"id": f"X-{each.id}", "case": f"X-{each.case}"}) for each in LETTERS], 2),
        ([each.with_texts({"request": f"{each.request} So.", "response": each.response}) for each in LETTERS], 2),
        ([each.model_copy(update={"id": f"X-{each.id}", "case": "", "subject": ""}) for each in LETTERS], 2),
        ([document(number) for number in range(50, 62)], 1),
    ],
    ids=["one more", "one left", "other ids", "other texts", "no subject", "fresh"],
)
def test_a_held_out_side_counts_until_no_letter_of_it_is_left(
    institution: DemoInstitution, letters: list[Document], number: int
) -> None:
    look(institution, "one")
    assert look(institution, "two", letters).number == number


NEWER = [document(number) for number in range(50, 62)]


@pytest.mark.security_case(
    "Another seed of the split draws a held-out side that shares no letter with the earlier one",
    "earlier looks still count, because its letters were in the corpus then; newer letters begin at the first look",
)
def test_a_side_drawn_anew_from_the_same_letters_is_not_fresh(institution: DemoInstitution) -> None:
    look(institution, "one", LETTERS, NEWER)
    assert look(institution, "two", NEWER, LETTERS).number == 2
    newest = [document(number) for number in range(100, 112)]
    report = stored_report(institution, judged=(candidate("three"), split(newest, [*LETTERS, *NEWER])))
    assert report.looks is not None and (report.looks.number, report.looks.at_other_sides) == (1, 2)
    assert "Earlier held-out sides of the line had 2 looks, not counted here" in as_markdown(report)
    assert look(institution, "four", [*newest[:5], *LETTERS[:7]]).number == 4


@pytest.mark.security_case(
    "The recipe is copied as another line, with another seed of the split, to begin counting anew",
    "looks of all lines count whose corpus had most of the held-out letters; the report says how many those are",
)
def test_a_copy_of_the_recipe_counts_the_looks_of_the_first_line(institution: DemoInstitution) -> None:
    look(institution, "one", LETTERS, NEWER)
    look(institution, "two", LETTERS, NEWER)
    name = institution.recipe["line"]
    institution.recipe["line"] = "copy"
    looks = look(institution, "one", NEWER, LETTERS)
    assert (looks.number, looks.of_other_lines) == (3, 2)
    same_ids = [each.with_texts({"request": f"Where is {number}?"}) for number, each in enumerate(LETTERS)]
    institution.recipe["line"] = "others"
    assert look(institution, "one", same_ids).number == 1
    institution.recipe["line"] = "copy"
    report = stored_report(institution, judged=(candidate("six"), split()))
    assert "Other lines with the same documents made 2 of these looks" in as_html(report)
    institution.recipe["line"] = name
    assert look(institution, "two", LETTERS, NEWER).number == 2


@pytest.mark.security_case(
    "Settings are chosen by an experiment on letters of the selection side, and these letters are then held out, in "
    "the same line or another",
    "no adapter is evaluated on them",
)
@pytest.mark.parametrize("line", ["lamps", "copy"])
def test_a_selection_side_never_judges(institution: DemoInstitution, line: str) -> None:
    institution.recipe["split"] = {"selection": 0.2}
    side, _ = materialize(institution.workplace(), split_stage())
    chosen_by = list(read_documents(side.file(SELECTION)))
    institution.recipe["line"] = line
    assert look(institution, "one", list(read_documents(side.file(HELD_OUT)))).number == 1
    with pytest.raises(GateRefused):
        look(institution, "one", [*chosen_by, document(99)])


@settings(max_examples=20, deadline=None)
@given(size=st.integers(400, 3000), share=st.sampled_from([0.0, 0.2, 0.8, 1.0]), seed=st.integers(0, 9))
def test_digests_of_few_texts_tell_whether_most_are_in_a_large_corpus(size: int, share: float, seed: int) -> None:
    corpus = [f"{seed} {number}" for number in range(size)]
    held_out = [text if number < share * size / 8 else f"new {text}" for number, text in enumerate(corpus[: size // 8])]
    assert is_mostly_in(least_digests(held_out), least_digests(corpus)) == (share > 0.5)


def test_a_margin_that_was_loosened_after_a_failure_is_shown_with_both_values(institution: DemoInstitution) -> None:
    judged = (candidate("one"), split())
    stored_report(institution, judged=judged, looped=12)
    institution.recipe["gates"] = {"loops": {"margin": 0.5}, "injections": {"margin": 0.5}}
    report = stored_report(institution, judged=judged, looped=12)
    assert [(each.look, each.margin, each.then, each.now) for each in report.loosened] == [
        (1, "loops.margin", 0.2, 0.5)
    ]
    for page in (as_html(report), as_markdown(report)):
        assert "loops.margin was 0.2 at look 1, which did not pass this gate, and is 0.5 now" in page


def test_a_later_look_needs_stronger_evidence_and_a_failure_stays_one(institution: DemoInstitution) -> None:
    found: dict[int, dict[str, str]] = {}
    for number in (1, 5):
        judged = (candidate(str(number)), split())
        report = stored_report(institution, judged=judged, gain=0.085, over_refused=20)
        found[number] = {each.gate: each.outcome for each in report.findings}
        for between in "abc":
            look(institution, between)
    assert f"{100 * confidence_at(5):.4g} % CI" in report.finding("held_out_loss_improves").message
    assert [found[number]["held_out_loss_improves"] for number in (1, 5)] == ["pass", "inconclusive"]
    assert {found[number]["over_refusals_not_worse"] for number in found} == {"fail"}


@given(looks=st.integers(1, 10_000))
def test_all_looks_together_spend_less_than_five_percent(looks: int) -> None:
    assert sum((1 - confidence_at(number)) / 2 for number in range(1, looks + 1)) < 0.0412


@settings(max_examples=25, deadline=None)
@given(seed=st.integers(0, 2**31), number=st.integers(2, 12))
def test_the_interval_of_a_later_look_contains_that_of_an_earlier_one(seed: int, number: int) -> None:
    draw = np.random.default_rng(seed)
    before, after = draw.normal(size=(2, 24)).tolist()
    cases = [str(each // 2) for each in range(24)]
    was, now = draw.random((2, 24)) < 0.5
    for compared in (
        lambda: compare_losses(before, after, cases, seed),
        lambda: compare_shares(was.tolist(), now.tolist(), cases),
    ):
        with at_confidence(confidence_at(number - 1)):
            earlier = compared()
        with at_confidence(confidence_at(number)):
            later = compared()
        assert later.low <= earlier.low <= earlier.high <= later.high
