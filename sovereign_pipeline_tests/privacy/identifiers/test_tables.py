"""Each row of the tables of labels and forms finds its example, and nothing where the check digit is wrong."""

import json
from pathlib import Path
from typing import Any

import pytest

from sovereign_pipeline.privacy import identifiers
from sovereign_pipeline.privacy.identifiers.forms import CODES, FORMS, Form
from sovereign_pipeline.privacy.identifiers.recognizers import structured_spans
from sovereign_pipeline.privacy.normalisation import normalise

LABELS: list[dict[str, Any]] = json.loads((Path(identifiers.__path__[0]) / "labels.json").read_bytes())
EXAMPLES = [(row["kind"], row["example"]) for row in LABELS]
EXAMPLES += [(form.kind, form.example) for form in (*FORMS, *CODES) if form.example]


def kinds(text: str) -> list[str]:
    return [span.kind for span in structured_spans(normalise(text).text)]


@pytest.mark.parametrize(("kind", "example"), EXAMPLES)
def test_each_row_finds_its_example(kind: str, example: str) -> None:
    assert kinds(f"It is so: {example}, and that is all.") == [kind]


@pytest.mark.parametrize(("kind", "counter"), [(form.kind, form.counter) for form in (*FORMS, *CODES) if form.counter])
def test_what_resembles_a_row_is_none(kind: str, counter: str) -> None:
    assert kind not in kinds(f"It is so: {counter}, and that is all.")


NO_CHECK_DIGIT = ("", "mac", "mrz", "stdnum.in_.pan", "stdnum.pk.cnic")


@pytest.mark.parametrize(
    "form", [form for form in CODES if form.check not in NO_CHECK_DIGIT], ids=lambda form: form.name
)
def test_a_check_rejects_another_digit(form: Form) -> None:
    assert form.accepts(form.example)
    digits = [place for place, each in enumerate(form.example) if each.isdigit()]
    others = [
        form.example[:place] + str((int(form.example[place]) + 1) % 10) + form.example[place + 1 :] for place in digits
    ]
    assert not all(map(form.accepts, others))
