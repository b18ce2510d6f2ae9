"""An institution's first hour: an empty directory, a file of its own, a recipe, datasets; by the command line alone."""

import csv
import re
import shlex
from pathlib import Path
from typing import Any

import pytest
import yaml

from sovereign_pipeline.dataset.card import DatasetCard
from sovereign_pipeline.dataset.jsonl import CARD
from sovereign_pipeline_tests.end_to_end.conftest import Installation, invented_letter, newcomer
from sovereign_pipeline_tests.tiny_model import write_card

pytestmark = pytest.mark.slow


@pytest.fixture
def new(tmp_path: Path) -> Installation:
    """A new installation, and an export of 40 rows."""
    installation = newcomer(tmp_path / "new")
    rows = [invented_letter(number) for number in range(40)]
    with source_of(installation).open("w", newline="") as stream:
        table = csv.DictWriter(stream, list(rows[0]))
        table.writeheader()
        table.writerows(rows)
    return installation


def source_of(new: Installation) -> Path:
    return new.settings.data / "sources" / "export.csv"


def test_from_an_empty_directory_to_a_dataset_and_an_evaluation_later(new: Installation, tiny_model: Path) -> None:
    """A recipe is refused until it is filled in; without an evaluation it makes datasets and no more."""
    settings = new.settings
    write_card(settings.data, "tiny", tiny_model)
    recipe = settings.data / "lines" / "harbour.yaml"
    rules = settings.data / "suites" / "coastal_rules.jsonl"

    def look(filled_in: str = "FILL IN") -> None:
        """As an operator does, with the base model of these tests."""
        recipe.unlink(missing_ok=True)
        status, output = new.ask("sources", "look", str(source_of(new)), "--line", "harbour")
        assert status == 0, output
        named = recipe.read_text().replace("smollm2-135m-instruct", "tiny")
        recipe.write_text(named.replace("FILL IN", filled_in))

    look()
    status, output = new.ask("lines", "check", str(recipe))
    assert status == 1 and "still says FILL IN" in output and "details: --power" in output, output
    status, output = new.ask("run", "harbour", "--until", "training_dataset")
    assert status == 2 and "FILL IN" in output and new.store.current("harbour", "raw_corpus") is None, output
    look("Harbour Office:")
    status, output = new.ask("lines", "check", str(recipe))
    assert status == 0 and "FILL IN" not in output and "no evaluation yet" not in output, output

    away = rules.rename(new.root / rules.name)
    look("Harbour Office:")
    status, output = new.ask("run", "harbour")
    assert status == 2 and "has no 'evaluation' yet" in output and "red_team:" in output, output
    assert new.store.current("harbour", "raw_corpus") is None
    status, output = new.run("run", "harbour", "--until", "training_dataset")
    assert status == 0 and "the recipe names no evaluation yet" in output, output
    made = new.store.current("harbour", "training_dataset")
    assert made is not None
    card = DatasetCard.model_validate_json(new.store.open(made).file(CARD).read_bytes())
    assert 0 < card.documents < 40 and card.split.rows_train + card.split.rows_held_out == 40

    away.rename(rules)
    status, output = new.ask("lines", "check", str(recipe))
    added = yaml.safe_load(output[output.index("\nevaluation:\n") : output.rindex("\nNext")])
    recipe.write_text(recipe.read_text() + yaml.safe_dump(added))
    (stage,) = [each for each in new.json("lines", "explain", "harbour") if each["stage"] == "training_dataset"]
    assert [(reason["cause"], reason["subject"]) for reason in stage["reasons"]] == [
        ("gate without record", "not_contaminated")
    ]
    status, output = new.run("run", "harbour", "--until", "training_dataset")
    assert status == 0 and "of what the line is evaluated on" in output, output
    assert new.store.current("harbour", "training_dataset") == made


LETTERS = Path(__file__).with_name("newcomer.csv")
"""Letters in English and Arabic without a column of languages, with dots in dates, own level words, drafts, and two
rows without a date."""
ANSWERS = {"سري": "CONFIDENTIAL", "Status": "final", "max_share": 0.05}


def filled_in(value: Any, key: str = "") -> Any:
    """Answer each FILL IN, as a person does, and nothing else."""
    if isinstance(value, dict):
        return {name: filled_in(each, name) for name, each in value.items()}
    if isinstance(value, list):
        return [filled_in(each) for each in value]
    return ANSWERS.get(key, "Test") if isinstance(value, str) and "FILL IN" in value else value


def test_each_last_line_leads_a_newcomer_from_a_file_to_a_dataset(new: Installation, tiny_model: Path) -> None:
    """Four commands: the first one, and three that the last lines of those before it name."""
    write_card(new.settings.data, "tiny", tiny_model)
    said: list[str] = []
    command = f"sovereign sources look {LETTERS} "
    while "training_dataset" not in "".join(said[-1:]):
        words = shlex.split(command)[1:]
        status, output = (new.run if words[0] == "run" else new.ask)(*words)
        assert status == 0 and len(said) < 4, output
        said.append(command)
        (last,) = re.findall(r"(sovereign .*)", output.splitlines()[-1])
        for recipe in new.settings.data.glob("lines/*.yaml"):
            written = yaml.safe_load(recipe.read_text().replace("smollm2-135m-instruct", "tiny"))
            recipe.write_text(yaml.safe_dump(filled_in(written), allow_unicode=True))
        command = last
    dataset = new.store.current("newcomer", "training_dataset")
    assert dataset is not None and command == f"sovereign datasets show {dataset.digest[:12]}"
    card = DatasetCard.model_validate_json(new.store.open(dataset).file(CARD).read_bytes())
    assert card.split.rows_train + card.split.rows_held_out == 60 - 5 - 2 and {*card.by_language} == {"en", "ar"}
