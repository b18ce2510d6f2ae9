"""From `sources look --recipe` to a training dataset with the recipe as it was written but for the texts that a person
fills in, with links in four forms."""

import csv
import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pyarrow
import pyarrow.parquet
import pytest
import yaml
from pyrage import x25519
from typer.testing import CliRunner

from sovereign_pipeline.cli.main import app
from sovereign_pipeline.dataset.stages import TRAINING_DATASET
from sovereign_pipeline.policy.recipe_model import FILL_IN
from sovereign_pipeline.split import HELD_OUT, TRAIN
from sovereign_pipeline_tests.conftest import DemoInstitution, letter
from sovereign_pipeline_tests.split.chain import documents_of, materialize

pytestmark = pytest.mark.slow  # the name model that a suggested recipe reads with is loaded

GROUP = 3
"""Rows that name each other."""


def question(number: int) -> dict[str, Any]:
    """A written question with its answer, as a parliament publishes it."""
    texts = letter(number)
    first = number - number % GROUP
    return {
        "id": 1_676_644 + number,
        "uin": str(6_036 + number),
        "questionText": texts["request"],
        "answerText": f"<p>{texts['response']}</p>",
        "heading": f"Lamps: {number}",
        "answeringBodyName": "Department for Lamps",
        "dateAnswered": f"2024-05-{number % 28 + 1:02d}T00:00:00",
        "groupedQuestions": [str(6_036 + each) for each in range(first, first + GROUP) if each != number],
        "answeringMember": None,
    }


QUESTIONS = [question(number) for number in range(36)]


def as_jsonl(path: Path, links: Callable[[list[str]], Any]) -> None:
    rows = [{**row, "groupedQuestions": links(row["groupedQuestions"])} for row in QUESTIONS]
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))


def as_csv(path: Path, links: Callable[[list[str]], Any]) -> None:
    with path.open("w", newline="") as stream:
        writer = csv.DictWriter(stream, [*QUESTIONS[0]])
        writer.writeheader()
        writer.writerows({**row, "groupedQuestions": links(row["groupedQuestions"])} for row in QUESTIONS)


def as_parquet(path: Path, links: Callable[[list[str]], Any]) -> None:
    rows = [{**row, "groupedQuestions": links(row["groupedQuestions"])} for row in QUESTIONS]
    pyarrow.parquet.write_table(pyarrow.Table.from_pylist(rows), path)


def every(ids: list[str]) -> list[str]:
    return ids


def first_as_fraction(ids: list[str]) -> float:
    return float(ids[0])


FORMS: dict[str, tuple[str, Callable[..., None], Callable[[list[str]], Any]]] = {
    "JSONL": ("questions.jsonl", as_jsonl, every),
    "CSV, a;b": ("questions.csv", as_csv, ";".join),
    "CSV, a fraction": ("questions.csv", as_csv, first_as_fraction),
    "Parquet, a list": ("questions.parquet", as_parquet, every),
}
"""One of each kind; the tests of `corpus/inspection.py` read every form."""


@pytest.fixture
def office(institution: DemoInstitution, monkeypatch: pytest.MonkeyPatch) -> DemoInstitution:
    """A data directory whose base model has the name that a suggested recipe gives it, and no line yet."""
    institution.write()
    data = institution.settings.data
    (data / "lines" / "lamps.yaml").unlink()
    card = yaml.safe_load((data / "models" / "tiny.yaml").read_text())
    card["name"] = "smollm2-135m-instruct"
    (data / "models" / "smollm2-135m-instruct.yaml").write_text(yaml.safe_dump(card))
    for name, value in institution.settings.to_environment().items():
        monkeypatch.setenv(name, value)
    institution.settings.vault_public_key.write_text(f"{x25519.Identity.generate().to_public()}\n")
    return institution


def write_recipe(office: DemoInstitution, form: str) -> None:
    """The first two commands of an operator: look, and keep the recipe."""
    name, write, links = FORMS[form]
    path = office.settings.data / "sources" / name
    write(path, links)
    shown = CliRunner().invoke(app, ["sources", "look", str(path)])
    assert shown.exit_code == 0 and "'groupedQuestions' contains" in shown.output
    printed = CliRunner().invoke(app, ["sources", "look", str(path), "--recipe", "--line", "questions"])
    assert printed.exit_code == 0
    (office.settings.data / "lines" / "questions.yaml").write_text(printed.stdout.replace(FILL_IN, "Test"))


@pytest.mark.parametrize("form", FORMS)
def test_the_recipe_as_written_leads_to_a_dataset_and_no_linked_rows_cross(office: DemoInstitution, form: str) -> None:
    write_recipe(office, form)
    office.recipe["line"] = "questions"
    workplace = office.workplace_as_written()
    _, verdicts = materialize(workplace, TRAINING_DATASET)
    assert all(verdict.passed for verdict in verdicts.values())
    current = workplace.store.current("questions", "leakage_safe_split")
    assert current is not None
    split = workplace.store.open(current)
    sides = {
        document.id: (side, document.links) for side in (TRAIN, HELD_OUT) for document in documents_of(split, side)
    }
    assert len(sides) == len(QUESTIONS) and {side for side, _ in sides.values()} == {TRAIN, HELD_OUT}
    dataset = workplace.store.current("questions", TRAINING_DATASET.kind)
    assert dataset is not None
    card = CliRunner().invoke(app, ["datasets", "show", dataset.digest[:12]])
    listed = CliRunner().invoke(app, ["datasets", "list"])
    assert card.exit_code == listed.exit_code == 0 and "for training" in card.stdout
    assert dataset.digest[:12] in listed.stdout and str(workplace.store.path_of(dataset.digest)) in listed.stdout
    takes = 1 if "fraction" in form else GROUP - 1
    for row in QUESTIONS:
        side, links = sides[row["uin"]]
        assert links == tuple(row["groupedQuestions"][:takes])
        assert {sides[each][0] for each in row["groupedQuestions"]} == {side}
