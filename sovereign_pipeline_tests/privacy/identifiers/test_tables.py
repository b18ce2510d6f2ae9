"""Each row of the tables of labels and forms finds its example, and nothing where the check digit is wrong."""

import json
from pathlib import Path
from typing import Any

import pytest

from sovereign_pipeline.privacy import identifiers
from sovereign_pipeline.privacy.identifiers.forms import FORMS
from sovereign_pipeline.privacy.identifiers.recognizers import structured_spans
from sovereign_pipeline.privacy.normalisation import normalise


def rows_of(table: str) -> list[dict[str, Any]]:
    rows: list[dict[str, Any]] = json.loads((Path(identifiers.__path__[0]) / table).read_bytes())
    return [row for row in rows if not row.get("is_head")]


def kinds(text: str) -> list[str]:
    return [span.kind for span in structured_spans(normalise(text).text)]


@pytest.mark.parametrize("row", [*rows_of("labels.json"), *rows_of("forms.json")], ids=lambda row: row["example"])
def test_each_row_finds_its_example(row: dict[str, Any]) -> None:
    assert kinds(f"It is so: {row['example']}, and that is all.") == [row["kind"]]


NO_CHECK_DIGIT = ("", "mac", "mrz", "stdnum.in_.pan", "stdnum.pk.cnic")


@pytest.mark.parametrize(
    "form", [form for form in FORMS if form.check not in NO_CHECK_DIGIT], ids=lambda form: form.name
)
def test_a_check_rejects_another_digit(form: Any) -> None:
    (example,) = [row["example"] for row in rows_of("forms.json") if row["name"] == form.name]
    assert form.accepts(example)
    digits = [place for place, each in enumerate(example) if each.isdigit()]
    others = [example[:place] + str((int(example[place]) + 1) % 10) + example[place + 1 :] for place in digits]
    assert not all(map(form.accepts, others))
