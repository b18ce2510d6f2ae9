"""Training rows that hold what the line is evaluated on: found, listed, judged against the recipe's share."""

import json
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sovereign_pipeline.base.errors import CeilingExceeded, GateRefused, SourceError
from sovereign_pipeline.corpus.document import read_jsonl
from sovereign_pipeline.dataset.contamination import LONGEST_NAME, NOT_CONTAMINATED, Contamination, SuiteItem
from sovereign_pipeline.dataset.jsonl import PREFERENCE_ROWS, TRAINING_ROWS
from sovereign_pipeline.dataset.stages import PREFERENCE_DATASET, TRAINING_DATASET
from sovereign_pipeline.record.gates import assert_usable, evaluate_gates, passing_verdict
from sovereign_pipeline.record.stage import Stage, Verdict, Workplace
from sovereign_pipeline.record.store import Artifact
from sovereign_pipeline_tests.conftest import QUESTIONS, DemoInstitution, letter
from sovereign_pipeline_tests.dataset.chain import Rows, dataset_stage, tampering
from sovereign_pipeline_tests.evaluation.published import FUNCTION, copy_cards, write_mirror
from sovereign_pipeline_tests.split.chain import materialize, split_stage

EXAMPLES = json.loads(Path(__file__).with_name("contamination.json").read_text(encoding="utf-8"))


def first_changed(changes: Any) -> Any:
    """Tamper with the first row. changes: from a held-out row to the columns that the row gets."""

    def tamper(rows: Rows, held_out: Rows) -> Rows:
        return [{**rows[0], **changes(held_out[0])}, *rows[1:]]

    return tamper


def three_words_changed(content: str) -> str:
    words = content.split()
    for place in (3, 9, 15):
        words[place] = f"other{place}"
    return " ".join(words)


@pytest.mark.security_case(
    "A training row added after the split contains a held-out letter, complete, quoted or with changed words",
    "not_contaminated fails and lists row and letter",
)
@pytest.mark.parametrize(
    ("changes", "fields"),
    [
        (lambda held: {"input": held["input"]}, "1 request ~ request"),
        (lambda held: {"output": held["output"]}, "1 response ~ response"),
        (lambda held: {"input": held["output"]}, "1 response ~ request"),
        (lambda held: {"input": held["input"].replace("o", "о").replace("e", "е")}, "1 request ~ request"),
        (lambda held: {"output": held["output"].replace(" ", "%20")}, "1 response ~ response"),
        (lambda held: {"instruction": held["output"]}, "1 response ~ request"),
        (lambda held: {"output": f"As you wrote:\n\n> {held['input']}\n\nWe agree to that."}, "request ~ response"),
        (lambda held: {"output": three_words_changed(f"{held['input']} {held['output']}")}, "letter ~ response"),
    ],
)
def test_a_row_with_a_held_out_text_is_refused(institution: DemoInstitution, changes: Any, fields: str) -> None:
    build = tampering(TRAINING_DATASET, TRAINING_ROWS, first_changed(changes), card_too=True)
    _, verdicts = materialize(institution.workplace(), dataset_stage(TRAINING_DATASET, build))
    verdict = verdicts[NOT_CONTAMINATED]
    assert not verdict.passed
    assert "1 row shares a whole text with a held-out document" in verdict.message
    assert fields in verdict.message
    assert verdict.evidence["held_out"]["rows"] == 1
    assert "x3" not in verdict.message  # words of the letters


@pytest.mark.security_case(
    "A preference row added after the split has a held-out letter as prompt, or its reply as chosen or rejected",
    "not_contaminated fails and lists row and letter",
)
@pytest.mark.parametrize("column", ["prompt", "chosen", "rejected"])
@pytest.mark.parametrize("field", ["input", "output"])
def test_a_preference_row_with_a_held_out_text_is_refused(
    with_preferences: DemoInstitution, column: str, field: str
) -> None:
    tamper = first_changed(lambda held: {column: held[field]})
    build = tampering(PREFERENCE_DATASET, PREFERENCE_ROWS, tamper, card_too=True)
    _, verdicts = materialize(with_preferences.workplace(), dataset_stage(PREFERENCE_DATASET, build))
    assert not verdicts[NOT_CONTAMINATED].passed
    assert "1 row shares a whole text with a held-out document" in verdicts[NOT_CONTAMINATED].message


@pytest.mark.security_case(
    "Rows added after the split repeat a held-out letter until its words could count as boilerplate",
    "not_contaminated fails, because the split's documents alone determine boilerplate",
)
def test_rows_cannot_make_a_held_out_letter_boilerplate(institution: DemoInstitution) -> None:
    def tamper(rows: Rows, held_out: Rows) -> Rows:
        return [{**row, "input": f"{row['input']} {held_out[0]['input']}"} for row in rows]

    build = tampering(TRAINING_DATASET, TRAINING_ROWS, tamper, card_too=True)
    _, verdicts = materialize(institution.workplace(), dataset_stage(TRAINING_DATASET, build))
    verdict = verdicts[NOT_CONTAMINATED]
    assert not verdict.passed
    assert verdict.evidence["held_out"]["rows"] == verdict.evidence["rows"] > 20


def test_the_datasets_of_an_honest_split_pass(with_preferences: DemoInstitution) -> None:
    for stage in (TRAINING_DATASET, PREFERENCE_DATASET):
        _, verdicts = materialize(with_preferences.workplace(), dataset_stage(stage))
        assert verdicts[NOT_CONTAMINATED].passed, verdicts[NOT_CONTAMINATED].message
        assert verdicts[NOT_CONTAMINATED].evidence["held_out"]["documents"] > 0


STAGE = replace(TRAINING_DATASET, inputs=(split_stage(),))
TWENTY = "alder birch cedar dogwood elm fir gorse hazel ivy juniper " + (
    "kapok larch maple nutmeg oak pine quince rowan sorrel teak"
)


def words(first: int, end: int) -> str:
    return " ".join(TWENTY.split()[first:end])


def question(text: str, *choices: str, **changes: Any) -> dict[str, Any]:
    return {**QUESTIONS[0], "question": text, "choices": choices or ("a", "b"), **changes}


def materialized(institution: DemoInstitution, stage: Stage = STAGE) -> tuple[Artifact, Verdict, list[dict[str, Any]]]:
    """The dataset, the gate's answer, and what its record lists."""
    workplace = institution.workplace()
    dataset, verdicts = materialize(workplace, stage)
    return dataset, verdicts[NOT_CONTAMINATED], listed(workplace, dataset)


def listed(workplace: Workplace, dataset: Artifact) -> list[dict[str, Any]]:
    """By the way an auditor goes: the records whose input is the dataset, by their own files alone."""
    rows: list[dict[str, Any]] = []
    for path in workplace.store.root.glob("*/listed.jsonl"):
        manifest = json.loads((path.parent / "manifest.json").read_bytes())
        if dataset.ref.digest in manifest["inputs"].values():
            rows += [json.loads(line) for line in path.read_text().splitlines()]
    return rows


def holds(item: dict[str, Any], row: str) -> bool:
    contamination = Contamination(
        [SuiteItem("suite", item["id"], item["question"], "\n".join((item["question"], *item["choices"])))], 13
    )
    return bool(contamination.found_in(row))


@pytest.mark.parametrize(("asked", "choices", "row", "found"), EXAMPLES["held"])
def test_what_counts_as_held(asked: str, choices: tuple[str, ...], row: str, found: bool) -> None:
    assert holds(question(asked, *choices), row) is found


@pytest.mark.parametrize(("asked", "row", "found"), EXAMPLES["names"])
def test_a_name_of_the_suite_is_a_placeholder_in_the_row(asked: str, row: str, found: bool) -> None:
    assert holds(question(asked), row) is found


def test_the_demonstration_text_of_the_tests_is_clean(institution: DemoInstitution) -> None:
    dataset, verdict, rows = materialized(institution)
    assert verdict.passed
    assert rows == []
    assert verdict.evidence["suites"] == {
        "suite": {"items": 2, "items_in_rows": 0, "rows": 0},
        # All but the one out of distribution, which holds no word.
        "red-team prompts": {"items": 4, "items_in_rows": 0, "rows": 0},
    }
    assert verdict.evidence["rows"] == sum(1 for _ in read_jsonl(dataset.file(TRAINING_ROWS)))


@pytest.mark.parametrize("column", ["request", "response", "subject"])
def test_a_planted_item_is_listed_by_row_and_item_and_blocks_the_trainer(
    institution: DemoInstitution, column: str
) -> None:
    institution.write_items("suites/suite.jsonl", [QUESTIONS[1], question(f"Is it true? {TWENTY}", id="Q-PLANTED")])
    planted = {f"R-{number:05d}" for number in range(6)}
    for row in institution.rows:
        if row["id"] in planted:
            row[column] += f" {words(2, 18)} {row['id']}"
    dataset, verdict, rows = materialized(institution)
    trained = {str(row["id"]) for row in read_jsonl(dataset.file(TRAINING_ROWS))}
    assert 0 < len(planted & trained) < len(trained)
    assert rows == [{"suite": "suite", "item": "Q-PLANTED", "row": id} for id in sorted(planted & trained)]
    assert not verdict.passed
    assert all(id in verdict.message for id in planted & trained)
    assert "larch" not in verdict.message + json.dumps(verdict.evidence)
    with pytest.raises(GateRefused, match=f"{NOT_CONTAMINATED}.*failed"):
        assert_usable(STAGE, institution.workplace(), dataset.ref)


def test_the_share_of_the_recipe_decides_and_what_was_found_is_listed_either_way(institution: DemoInstitution) -> None:
    institution.write_items("suites/suite.jsonl", [question(TWENTY)])
    for row in institution.rows[:6]:
        row["response"] += f" {TWENTY} {row['id']}"
    answers = {}
    for share in (0.0, 0.10, 0.20):
        institution.recipe["evaluation"]["contamination"] = {"max_share": share}
        dataset, verdict, rows = materialized(institution)
        answers[share] = verdict.passed
        assert {each["row"] for each in rows} <= {row["id"] for row in institution.rows[:6]}
        assert rows
    found = verdict.evidence["contaminated_rows"] / verdict.evidence["rows"]
    assert 0.10 < found < 0.20
    assert answers == {0.0: False, 0.10: False, 0.20: True}
    assert passing_verdict(STAGE, STAGE.gates[-1], institution.workplace(), dataset.ref)


def test_a_form_of_words_of_the_recipe_itself_is_found_in_every_row(institution: DemoInstitution) -> None:
    institution.recipe["training"]["instruction"] = f"Write as follows: {TWENTY}."
    institution.write_items("suites/suite.jsonl", [question(f"Write as follows: {TWENTY}. Now then?")])
    _, verdict, _ = materialized(institution)
    assert verdict.evidence["share"] == 1.0


def test_red_team_prompts_and_rejected_replies_are_compared(institution: DemoInstitution) -> None:
    institution.recipe["sources"].append(
        {"name": "pairs", "role": "preferences", "path": "sources/pairs.jsonl", "licence": "own", "retention": "1 year"}
    )
    institution.recipe["training"]["preference"] = {}
    pairs = [letter(100 + number, rejected=f"Forge a certificate of combustion! {number}") for number in range(20)]
    institution.write_items("sources/pairs.jsonl", pairs)
    _, verdict, rows = materialized(institution, replace(PREFERENCE_DATASET, inputs=(split_stage(),)))
    assert not verdict.passed
    assert {(each["suite"], each["item"]) for each in rows} == {("red-team prompts", "P-0")}
    assert verdict.evidence["share"] == 1.0
    _, letters, _ = materialized(institution)
    assert letters.passed


def test_another_suite_file_asks_the_gate_again_and_makes_no_other_dataset(institution: DemoInstitution) -> None:
    before, verdict, _ = materialized(institution)
    assert verdict.passed
    workplace = institution.workplace()
    assert_usable(STAGE, workplace, before.ref)
    institution.write_items("suites/suite.jsonl", [question("The lamp is mended?")])
    with pytest.raises(GateRefused, match=f"'{NOT_CONTAMINATED}' has no record"):
        assert_usable(STAGE, workplace, before.ref)
    assert not evaluate_gates(STAGE, workplace, before.ref)[NOT_CONTAMINATED].passed
    with pytest.raises(GateRefused, match="failed for"):
        assert_usable(STAGE, workplace, before.ref)
    after, _, _ = materialized(institution)
    assert after.ref == before.ref
    institution.write_items("suites/suite.jsonl", QUESTIONS)
    assert_usable(STAGE, workplace, before.ref)


def test_other_limits_ask_the_gate_again(institution: DemoInstitution) -> None:
    before, _, _ = materialized(institution)
    institution.recipe["evaluation"]["contamination"] = {"n": 8}
    with pytest.raises(GateRefused, match=f"'{NOT_CONTAMINATED}' has no record"):
        assert_usable(STAGE, institution.workplace(), before.ref)


@pytest.mark.parametrize("place", [lambda each: each["capability"][0], lambda each: each["red_team"]])
def test_the_record_is_as_high_as_the_suites_and_none_above_the_ceiling_is_compared(
    institution: DemoInstitution, place: Any
) -> None:
    place(institution.recipe["evaluation"])["classification"] = "CONFIDENTIAL"
    dataset, _, _ = materialized(institution)
    workplace = institution.workplace()
    record = passing_verdict(STAGE, STAGE.gates[-1], workplace, dataset.ref).record
    assert workplace.store.read_manifest(record).classification == "CONFIDENTIAL"
    assert dataset.manifest.classification == "PUBLIC"
    institution.recipe["ceiling"] = "INTERNAL"
    with pytest.raises(CeilingExceeded, match=r"is INTERNAL, but the .* is CONFIDENTIAL"):
        materialized(institution)


def test_a_suite_that_is_not_there_or_holds_no_words_stops_the_gate(institution: DemoInstitution) -> None:
    institution.write_items("suites/suite.jsonl", [question("?!")])
    with pytest.raises(SourceError, match=r"Item Q-0 of suite .* has no words"):
        materialized(institution)
    (institution.settings.data / "suites" / "suite.jsonl").unlink()
    institution.recipe["evaluation"]["capability"][0]["path"] = "suites/gone.jsonl"
    with pytest.raises(SourceError, match=r"gone\.jsonl does not exist"):
        materialized(institution)


# ── against the definition, word by word ─────────────────────────────────────────────────────────────────────────────

N = 8
texts = st.lists(st.sampled_from(["a", "b", "c"]), min_size=1, max_size=24)


@st.composite
def item_and_row(draw: st.DrawFn, *, hidden: int) -> tuple[list[str], list[str]]:
    """An item, and a row that holds a piece of it between other words, with up to `hidden` placeholders in it."""
    item = draw(texts)
    start = draw(st.integers(0, len(item)))
    piece = item[start : draw(st.integers(start, len(item)))]
    for _ in range(draw(st.integers(0, hidden))):
        place = draw(st.integers(0, len(piece)))
        piece[place : place + draw(st.integers(0, LONGEST_NAME + 1))] = ["NAME_1"]
    return item, draw(texts) + piece + draw(texts)


def alignments(row: Sequence[str], item: Sequence[str]) -> Iterator[int]:
    """Lengths of the beginnings of `item` that the whole of `row` may stand for."""
    if not row:
        yield 0
        return
    lengths = range(1, LONGEST_NAME + 1) if row[0] == "NAME_1" else (1,) if item[:1] == row[:1] else ()
    for length in lengths:
        if length <= len(item):
            for rest in alignments(row[1:], item[length:]):
                yield length + rest


def naive(item: Sequence[str], row: Sequence[str], most_hidden: int) -> bool:
    if len(item) < N:
        return any(row[start : start + len(item)] == item for start in range(len(row)))
    for start in range(len(row) - N + 1):
        run = row[start : start + N]
        if "NAME_1" in (run[0], run[-1]) or run.count("NAME_1") > most_hidden:
            continue
        if any(any(True for _ in alignments(run, item[place:])) for place in range(len(item))):
            return True
    return False


def found(item: Sequence[str], row: Sequence[str]) -> bool:
    text = " ".join(item)
    return bool(Contamination([SuiteItem("suite", "Q", text, text)], N).found_in(" ".join(row)))


@given(item_and_row(hidden=0))
def test_without_placeholders_it_is_the_definition(texts: tuple[list[str], list[str]]) -> None:
    item, row = texts
    assert found(item, row) == naive(item, row, most_hidden=0)


@given(item_and_row(hidden=3))
def test_one_placeholder_in_a_run_is_always_found_and_nothing_is_that_is_none(
    texts: tuple[list[str], list[str]],
) -> None:
    item, row = texts
    if naive(item, row, most_hidden=1):
        assert found(item, row)
    if found(item, row):
        assert naive(item, row, most_hidden=len(row)) or naive_long(item, row)


def naive_long(item: Sequence[str], row: Sequence[str]) -> bool:
    """A run of more than N, where the one of N would end in a placeholder."""
    runs = (row[start:end] for start in range(len(row)) for end in range(start + N + 1, len(row) + 1))
    return any(
        "NAME_1" not in (run[0], run[-1])
        and any(any(True for _ in alignments(run, item[place:])) for place in range(len(item)))
        for run in runs
    )


@given(st.lists(texts, min_size=1, max_size=5), st.lists(texts, max_size=4))
def test_items_do_not_change_each_others_answers(items: list[list[str]], rows: list[list[str]]) -> None:
    suite = [SuiteItem("suite", str(n), " ".join(item), " ".join(item)) for n, item in enumerate(items)]
    together = Contamination(suite, N)
    for row in rows:
        alone = {("suite", str(n)) for n, item in enumerate(items) if found(item, row)}
        assert together.found_in(" ".join(row)) == alone


@pytest.mark.parametrize("max_rows", [None, 1])
def test_a_row_that_holds_a_published_suites_item_is_found_also_one_that_is_not_asked(
    institution: DemoInstitution, monkeypatch: pytest.MonkeyPatch, max_rows: int | None
) -> None:
    mirror = write_mirror(institution.root / "mirror")
    monkeypatch.setenv("SOVEREIGN_SUITES", str(mirror))
    copy_cards(institution.settings.data)
    published = [{"suite": name, "classification": "PUBLIC", "max_rows": max_rows} for name in ("gsm8k", "humaneval")]
    institution.recipe["evaluation"]["capability"] += published
    asked = [json.loads(line)["question"] for line in (mirror / "gsm8k" / "test.jsonl").read_text().splitlines()]
    institution.rows = [
        letter(number, request=f"Sir, {asked[number]} Yours") if number < 2 else letter(number) for number in range(40)
    ]
    institution.rows[2]["response"] = f"Run this: {FUNCTION['prompt']}"
    _, verdict, listed = materialized(institution)
    held = {(each["suite"], each["item"]) for each in listed}
    assert not verdict.passed
    assert {("gsm8k", "1"), ("gsm8k", "2"), ("humaneval", "Invented/0")} >= held
    assert held, "the held-out side may have taken some of the rows, not all"
    assert verdict.evidence["suites"]["gsm8k"]["items"] == 3


def test_a_verdict_without_an_evaluation_says_so_and_counts_for_no_line_that_has_one(
    institution: DemoInstitution,
) -> None:
    """The items stand in the rows: as soon as they are asked, the gate is evaluated again and refuses."""
    asked = institution.recipe.pop("evaluation")
    requests = [str(row["request"]) for row in institution.rows]
    institution.write_items("suites/suite.jsonl", [question(each, id=f"Q-{n}") for n, each in enumerate(requests)])
    dataset, verdict, _ = materialized(institution)
    assert verdict.passed and "names no evaluation yet" in verdict.message
    assert "contaminated_rows" not in verdict.evidence and "held_out" in verdict.evidence
    assert_usable(STAGE, institution.workplace(), dataset.ref)
    institution.recipe["evaluation"] = asked
    workplace = institution.workplace()
    with pytest.raises(GateRefused, match=f"'{NOT_CONTAMINATED}' has no record"):
        assert_usable(STAGE, workplace, dataset.ref)
    evaluate_gates(STAGE, workplace, dataset.ref)
    with pytest.raises(GateRefused, match="failed for"):
        assert_usable(STAGE, workplace, dataset.ref)
