"""An institution's first hour: an empty directory, a file of its own, a recipe, datasets; by the command line alone."""

import csv
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from pyrage import x25519

from sovereign_pipeline.dataset.card import DatasetCard
from sovereign_pipeline.dataset.jsonl import CARD
from sovereign_pipeline_tests.end_to_end.conftest import Installation, invented_letter
from sovereign_pipeline_tests.tiny_model import write_card

pytestmark = pytest.mark.slow


@pytest.fixture
def new(tmp_path: Path) -> Installation:
    """What `sovereign init` writes, a vault key, keys for a trial, and an export of 40 rows."""
    installation = Installation(tmp_path / "new")
    installation.root.mkdir()
    status, output = installation.run("init", "data", "--name", "Harbour Office")
    assert status == 0, output
    (printed,) = [line.split("#")[0].split() for line in output.splitlines() if "sovereign-trust demonstration" in line]
    assert printed[2:] == [str(installation.settings.data / "trust"), str(installation.settings.keys)]
    program = Path(sys.executable).parent / "sovereign-trust"
    subprocess.run([program, *printed[1:]], env=installation.environment, check=True, capture_output=True)
    installation.settings.home.mkdir()
    installation.settings.vault_public_key.write_text(str(x25519.Identity.generate().to_public()))
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
        into_the_file = ("sh", "-c", f'"$0" "$@" > {recipe}')
        look = ("sources", "look", str(source_of(new)), "--recipe", "--line", "harbour")
        status, output = new.run(*look, before=into_the_file)
        assert status == 0, output
        named = recipe.read_text().replace("smollm2-135m-instruct", "tiny")
        recipe.write_text(named.replace("FILL IN", filled_in))

    look()
    status, output = new.ask("lines", "check", str(recipe))
    assert status == 1 and "still says FILL IN" in output and "are needed (--power)" in output, output
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
    added = yaml.safe_load(output[output.index("\nevaluation:\n") :])
    recipe.write_text(recipe.read_text() + yaml.safe_dump(added))
    (stage,) = [each for each in new.json("lines", "explain", "harbour") if each["stage"] == "training_dataset"]
    assert [(reason["cause"], reason["subject"]) for reason in stage["reasons"]] == [
        ("gate without record", "not_contaminated")
    ]
    status, output = new.run("run", "harbour", "--until", "training_dataset")
    assert status == 0 and "of what the line is evaluated on" in output, output
    assert new.store.current("harbour", "training_dataset") == made
