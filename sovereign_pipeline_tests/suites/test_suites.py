"""The mirror of published suites: every format is read as it is published, and what is missing or damaged is told."""

import json
from collections import Counter
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from typer.testing import CliRunner

from sovereign_pipeline.base.errors import IntegrityError, NotFoundError, RecipeError, SourceError
from sovereign_pipeline.base.settings import Settings
from sovereign_pipeline.cli.main import app
from sovereign_pipeline.evaluation.capability import check_suite
from sovereign_pipeline.policy.evaluation import CapabilitySuite
from sovereign_pipeline.suites.cards import card_path, load_suite_card, suite_digest, suite_names
from sovereign_pipeline.suites.rows import (
    Passage,
    Problem,
    Question,
    chosen_rows,
    continuations_of,
    examine_suites,
    identity_of_suite,
    open_suite,
    question_of,
    read_asked,
    read_examples,
    read_items,
    rows_of_suite,
)
from sovereign_pipeline_tests.conftest import A_LABEL, QUESTIONS, DemoInstitution
from sovereign_pipeline_tests.evaluation.published import ROWS, SUBJECTS, copy_cards, write_mirror, write_text
from sovereign_pipeline_tests.examples import examples


@pytest.fixture
def settings(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    monkeypatch.setenv("SOVEREIGN_SUITES", str(write_mirror(tmp_path / "mirror")))
    copy_cards(tmp_path / "data")
    return Settings.from_environment(
        {"SOVEREIGN_HOME": str(tmp_path / "home"), "SOVEREIGN_DATA": str(tmp_path / "data")}
    )


def entry(suite: str, **changes: Any) -> CapabilitySuite:
    return CapabilitySuite.model_validate({"suite": suite, "classification": "PUBLIC", **changes})


def change_card(settings: Settings, name: str, change: Callable[[dict[str, Any]], Any]) -> None:
    path = card_path(settings, name)
    card = yaml.safe_load(path.read_text())
    change(card)
    path.write_text(yaml.safe_dump(card, allow_unicode=True))


def test_every_card_of_this_repository_reads_its_publishers_format(settings: Settings) -> None:
    assert suite_names(settings) == sorted(ROWS)
    for name, rows in ROWS.items():
        card = load_suite_card(settings, name)
        read = read_asked(settings, card)
        assert len(read) == rows, name
        assert len({row.id for row in read}) == rows
        assert {row.language for row in read} == {card.language}
    problem = read_asked(settings, load_suite_card(settings, "gsm8k"))[2]
    assert isinstance(problem, Problem) and problem.solution.endswith("#### 1,400")
    passage = read_asked(settings, load_suite_card(settings, "arabic_reading"))[1]
    assert isinstance(passage, Passage) and passage.answers == ("في صور",)
    (settings.suites / "gsm8k" / "test_2.jsonl").write_bytes((settings.suites / "gsm8k" / "test.jsonl").read_bytes())
    ids = [row.id for row in read_asked(settings, load_suite_card(settings, "gsm8k"))]
    assert ids == ["test/1", "test/2", "test/3", "test_2/1", "test_2/2", "test_2/3"]


def test_mmlu_is_read_with_and_without_header_with_numbers_and_with_letters(settings: Settings) -> None:
    for name in ("mmlu", "mmlu_ar"):
        rows = read_asked(settings, load_suite_card(settings, name))
        assert [row.id for row in rows if row.subject == "lamp_care"] == [f"lamp_care/{n}" for n in range(1, 7)]
        assert all(isinstance(row, Question) for row in rows)
        assert [row.answer for row in rows if isinstance(row, Question)] == [0, 1, 2, 3, 0, 1] * 2
        first = rows[0]
        assert isinstance(first, Question)
        assert first.question == 'Which of "harbour_law",\ntest 0\x85 holds?'
        assert first.choices[3] == "harbour_law test 0 is shut"


def test_examples_are_of_the_subject_of_the_row(settings: Settings) -> None:
    examples = read_examples(settings, load_suite_card(settings, "mmlu"))
    assert list(examples) == list(SUBJECTS)
    assert Counter(row.subject for rows in examples.values() for row in rows) == dict.fromkeys(SUBJECTS, 3)
    suite = open_suite(settings, entry("mmlu", few_shot=2), seed=7)
    assert {subject: len(rows) for subject, rows in suite.examples.items()} == dict.fromkeys(SUBJECTS, 2)
    assert not any(open_suite(settings, entry("mmlu", few_shot=0), seed=7).examples.values())
    with pytest.raises(RecipeError, match="has no examples, and few_shot is"):
        check_suite(settings, entry("boolq", few_shot=2))


def test_labels_as_words_letters_and_arcs_own_shape(settings: Settings) -> None:
    (first, *_, last) = read_asked(settings, load_suite_card(settings, "legalbench_function_of_decision_section"))
    assert isinstance(first, Question) and isinstance(last, Question)
    assert (first.choices[first.answer], last.choices[last.answer], len(first.choices)) == ("Facts", "Decree", 7)
    hub = {"id": "M-1", "question": "What floats?", "choices": {"text": ["a stone", "a boat"], "label": ["1", "2"]}}
    write_text(settings.suites / "arc_challenge" / "arc_challenge.jsonl", json.dumps({**hub, "answerKey": "2"}))
    columns = {"id": "id", "question": "question", "answer": "answerKey"}
    change_card(settings, "arc_challenge", lambda card: card["files"].update(columns=columns))
    (row,) = read_asked(settings, load_suite_card(settings, "arc_challenge"))
    assert isinstance(row, Question)
    assert (row.id, row.choices, row.answer) == ("M-1", ("a stone", "a boat"), 1)


@pytest.mark.parametrize(("choices", "continuation"), [(26, "letter"), (27, "text"), (27, "letter")])
def test_choices_have_letters_up_to_26_and_texts_beyond(settings: Settings, choices: int, continuation: str) -> None:
    """LegalBench and intent suites have so many."""
    row = {"question": "Which quay?", "choices": [f"quay {n}" for n in range(choices)], "answer": choices - 1}
    shown = "{question}\n{choices}" if continuation == "letter" else "{question}"
    write_text(settings.suites / "arc_challenge" / "many.jsonl", json.dumps(row))
    change_card(settings, "arc_challenge", lambda card: card.update(files={"test": "many.jsonl"}))
    change_card(settings, "arc_challenge", lambda card: card["task"].update(continuation=continuation, prompt=shown))
    card = load_suite_card(settings, "arc_challenge")
    if continuation == "letter" and choices > 26:
        with pytest.raises(SourceError, match=r"many.jsonl, row 1: .*27 choices, but a prompt can label at most 26"):
            read_asked(settings, card)
        return
    (read,) = read_asked(settings, card)
    assert isinstance(read, Question) and (len(read.choices), read.answer) == (choices, choices - 1)
    scored = continuations_of(card.task, read)
    assert len(scored) == len(set(scored)) == choices
    if continuation == "letter":
        assert f"\n{scored[-1]}. quay {choices - 1}" in question_of(card.task, read)


def test_choices_may_stand_in_a_column_each_and_be_fewer_in_a_row(settings: Settings) -> None:
    """The way in which ArabicMMLU is published."""
    table = "Question,Option 1,Option 2,Option 3,Answer Key\nما الذي يطفو؟,حجر,سفينة,,B\n"
    write_text(settings.suites / "arc_challenge" / "a.csv", table)
    columns = {"question": "Question", "choices": ["Option 1", "Option 2", "Option 3"], "answer": "Answer Key"}
    change_card(settings, "arc_challenge", lambda card: card["files"].update(test="a.csv", columns=columns))
    (row,) = read_asked(settings, load_suite_card(settings, "arc_challenge"))
    assert isinstance(row, Question)
    assert (row.choices, row.answer) == (("حجر", "سفينة"), 1)


@pytest.mark.parametrize(
    ("name", "file", "content", "said"),
    examples(__file__, "a_row_that_is_none_is_told_by_file_and_number_without_its_text"),
)
def test_a_row_that_is_none_is_told_by_file_and_number_without_its_text(
    settings: Settings, name: str, file: str, content: str, said: str
) -> None:
    write_text(settings.suites / name / file, content)
    with pytest.raises(SourceError, match=said) as caught:
        read_asked(settings, load_suite_card(settings, name))
    assert "Which" not in str(caught.value) and "seven" not in str(caught.value) and "ربما" not in str(caught.value)


def test_what_is_asked_identifies_a_suite_and_its_digest_is_of_names_and_bytes_of_all_files(
    settings: Settings, tmp_path: Path
) -> None:
    def seen(name: str) -> tuple[str, str]:
        return suite_digest(settings, load_suite_card(settings, name)), identity_of_suite(settings, entry(name))

    before = seen("mmlu")
    write_mirror(tmp_path / "mirror")
    assert seen("mmlu") == before
    file = settings.suites / "mmlu" / "dev" / "lamp_care_dev.csv"
    file.write_text(file.read_text().replace("is wet", "is damp", 1))
    assert all(new != old for new, old in zip(seen("mmlu"), before, strict=True))

    digest, identity = seen("gsm8k")
    change_card(settings, "gsm8k", lambda card: card["task"].update(prompt="Q: {question}\nA:"))
    worded = seen("gsm8k")
    assert worded[0] == digest and worded[1] != identity
    change_card(settings, "gsm8k", lambda card: card.update(title="Sums"))
    assert seen("gsm8k") == worded


def test_files_other_than_the_pinned_ones_are_refused(settings: Settings) -> None:
    digest = suite_digest(settings, load_suite_card(settings, "gsm8k"))
    change_card(settings, "gsm8k", lambda card: card.update(sha256=digest))
    assert len(read_asked(settings, load_suite_card(settings, "gsm8k"))) == 3
    write_text(settings.suites / "gsm8k" / "test.jsonl", '{"question": "How many?", "answer": "#### 7"}\n')
    with pytest.raises(IntegrityError, match="card states"):
        read_asked(settings, load_suite_card(settings, "gsm8k"))


@pytest.mark.parametrize(("name", "section", "fault", "said"), examples(__file__, "a_card_with_a_fault_is_refused"))
def test_a_card_with_a_fault_is_refused(
    settings: Settings, name: str, section: str, fault: dict[str, Any], said: str
) -> None:
    change_card(settings, name, lambda card: card[section].update(fault))
    with pytest.raises(RecipeError, match=said):
        load_suite_card(settings, name)


def test_a_card_is_found_by_the_name_it_says(settings: Settings) -> None:
    with pytest.raises(NotFoundError, match="did you mean 'gsm8k'"):
        load_suite_card(settings, "gsm8")
    change_card(settings, "gsm8k", lambda card: card.update(suite="sums"))
    with pytest.raises(NotFoundError, match="Use the same name for the file and the suite"):
        load_suite_card(settings, "gsm8k")


def test_a_limit_keeps_the_rows_of_a_smaller_one_whatever_the_order_of_the_file(settings: Settings) -> None:
    rows = rows_of_suite(settings, entry("mmlu"))
    five, eight = chosen_rows(rows, 5, seed=7), chosen_rows(rows, 8, seed=7)
    assert (len(five), len(eight)) == (5, 8)
    assert {row.id for row in five} < {row.id for row in eight}
    assert {row.id for row in chosen_rows(rows[::-1], 5, seed=7)} == {row.id for row in five}
    assert [row.id for row in eight] == [row.id for row in rows if row in eight]
    assert {row.id for row in chosen_rows(rows, 5, seed=8)} != {row.id for row in five}
    assert chosen_rows(rows, None, seed=7) == rows == chosen_rows(rows, 99, seed=7)
    suite = open_suite(settings, entry("mmlu", max_rows=5), seed=7)
    assert ([row.id for row in suite.rows], suite.total_rows) == ([row.id for row in five], 12)


@pytest.mark.parametrize(
    ("values", "said"), examples(__file__, "an_entry_of_the_recipe_is_an_own_or_a_published_suite")
)
def test_an_entry_of_the_recipe_is_an_own_or_a_published_suite(values: dict[str, Any], said: str) -> None:
    with pytest.raises(ValueError, match=said):
        CapabilitySuite.model_validate({**values, "classification": "PUBLIC"})


def test_every_suite_is_looked_at_also_behind_a_damaged_one(settings: Settings) -> None:
    write_text(settings.suites / "gsm8k" / "test.jsonl", "{\n")
    (settings.suites / "boolq" / "boolq.jsonl.gz").unlink()
    states = {state.card.suite: state for state in examine_suites(settings, {"mmlu": ["lamps"]})}
    assert {name: state.rows for name, state in states.items() if state.problem is None} == {
        name: rows for name, rows in ROWS.items() if name not in ("gsm8k", "boolq")
    }
    assert "row 1" in (states["gsm8k"].problem or "") and "boolq.jsonl.gz" in (states["boolq"].problem or "")
    assert states["mmlu"].lines == ("lamps",) and states["mmlu"].examples == 6


@pytest.fixture
def lamps(institution: DemoInstitution, settings: Settings, monkeypatch: pytest.MonkeyPatch) -> Settings:
    """A line whose recipe names a published suite, as the command line finds it."""
    named = {"suite": "gsm8k", "max_rows": 2, "classification": "PUBLIC"}
    institution.recipe["evaluation"]["capability"].append(named)
    institution.write_items("red_team/judge_labels.jsonl", [A_LABEL])
    institution.workplace()
    monkeypatch.setenv("SOVEREIGN_HOME", str(settings.home))
    monkeypatch.setenv("SOVEREIGN_DATA", str(settings.data))
    return settings


def test_the_check_ends_1_when_a_suite_that_a_line_names_is_missing(lamps: Settings) -> None:
    listed = CliRunner().invoke(app, ["suites", "list", "--json"])
    assert {each["suite"] for each in json.loads(listed.stdout)} == set(ROWS)
    whole = CliRunner().invoke(app, ["suites", "check", "--json"])
    assert whole.exit_code == 0
    told = {each["suite"]: each for each in json.loads(whole.stdout)}
    assert (told["gsm8k"]["rows"], told["gsm8k"]["examples"], told["gsm8k"]["lines"]) == (3, 3, ["lamps"])
    (lamps.suites / "boolq" / "boolq.jsonl.gz").unlink()
    assert CliRunner().invoke(app, ["suites", "check"]).exit_code == 0, "no line names it"
    (lamps.suites / "gsm8k" / "train.jsonl.gz").unlink()
    missing = CliRunner().invoke(app, ["suites", "check"])
    assert missing.exit_code == 1
    assert "train.jsonl*" in missing.stdout and "grade-school-math" in missing.stdout


def test_a_recipe_is_checked_down_to_its_suites(lamps: Settings) -> None:
    recipe = str(lamps.data / "lines" / "lamps.yaml")
    assert CliRunner().invoke(app, ["lines", "check", recipe]).exit_code == 0
    for name in ("suites/suite.jsonl", "red_team/prompts.jsonl", "red_team/judge_labels.jsonl"):
        file = lamps.data / name
        whole = file.read_text(encoding="utf-8")
        file.write_text("{\n" + whole, encoding="utf-8")
        refused = CliRunner().invoke(app, ["lines", "check", recipe])
        assert isinstance(refused.exception, SourceError)
        assert f"{file}, line 1: not a JSON object." in str(refused.exception)
        file.write_text(whole, encoding="utf-8")
    (lamps.suites / "gsm8k" / "test.jsonl").unlink()
    refused = CliRunner().invoke(app, ["lines", "check", recipe])
    assert isinstance(refused.exception, SourceError) and "gsm8k" in str(refused.exception)


@pytest.mark.parametrize("separator", ["\x85", "\u2028", "\u2029"])
def test_what_ends_a_line_of_text_ends_no_row(tmp_path: Path, separator: str) -> None:
    written = {**QUESTIONS[0], "question": f"Which is{separator}nine?"}
    path = tmp_path / "suite.jsonl"
    for end in ("", "\n", "\r\n"):
        path.write_bytes(json.dumps(written, ensure_ascii=False).encode() + end.encode())
        (row,) = read_items(path, Question)
        assert row.question == written["question"]
