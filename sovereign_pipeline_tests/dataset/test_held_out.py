"""Rows that hold a text of the line's held-out documents are refused by the datasets' own gate, whatever the column."""

from typing import Any

import pytest

from sovereign_pipeline.dataset.contamination import NOT_CONTAMINATED
from sovereign_pipeline.dataset.files import PREFERENCE_ROWS, TRAINING_ROWS
from sovereign_pipeline.dataset.stages import PREFERENCE_DATASET, TRAINING_DATASET
from sovereign_pipeline_tests.conftest import DemoInstitution
from sovereign_pipeline_tests.dataset.chain import Rows, dataset_stage, tampering
from sovereign_pipeline_tests.split.chain import materialize


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
    "A training row behind the split holds a held-out letter, whole, quoted or with changed words",
    "not_contaminated refuses the dataset and lists row and letter",
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
    assert "1 row holds a text of a held-out document" in verdict.message
    assert fields in verdict.message
    assert verdict.evidence["held_out"]["rows"] == 1
    assert "x3" not in verdict.message  # words of the letters


@pytest.mark.security_case(
    "A preference row behind the split holds a held-out letter as prompt, or its reply as chosen or rejected",
    "not_contaminated refuses the dataset and lists row and letter",
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
    assert "1 row holds a text of a held-out document" in verdicts[NOT_CONTAMINATED].message


@pytest.mark.security_case(
    "Rows behind the split repeat a held-out letter until its words would pass for boilerplate",
    "not_contaminated refuses: what is boilerplate is told from the split alone",
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
