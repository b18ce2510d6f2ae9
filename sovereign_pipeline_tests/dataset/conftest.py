"""Institutions with preference pairs, and with binary feedback."""

import json
from pathlib import Path

import pytest

from sovereign_pipeline_tests.conftest import DemoInstitution, letter, minimal_recipe
from sovereign_pipeline_tests.dataset.chain import write_labels


@pytest.fixture
def with_preferences(tmp_path: Path) -> DemoInstitution:
    """40 letters, and 30 preference documents of which ten belong to the case of a letter."""
    recipe = minimal_recipe()
    recipe["sources"].append(
        {
            "name": "pairs",
            "role": "preferences",
            "path": "sources/pairs.jsonl",
            "licence": "own | internal",
            "retention": "2 years",
        }
    )
    recipe["training"]["preference"] = {}
    institution = DemoInstitution(tmp_path, recipe, [letter(number) for number in range(40)])
    pairs = [
        letter(100 + number, case=f"CASE/{number if number < 10 else 100 + number:05d}", rejected=f"No lamp {number}.")
        for number in range(30)
    ]
    institution.write()
    (institution.settings.data / "sources" / "pairs.jsonl").write_text("".join(json.dumps(p) + "\n" for p in pairs))
    return institution


@pytest.fixture
def with_labels(tmp_path: Path) -> DemoInstitution:
    """40 letters, and a ShareGPT file of 40 labelled replies in an array, every fourth of them found bad."""
    recipe = minimal_recipe()
    recipe["training"]["preference"] = {"method": "kto"}
    recipe["sources"].append(
        {
            "name": "thumbs",
            "role": "labels",
            "path": "sources/thumbs.json",
            "layout": "sharegpt",
            "constants": {"author": "", "department": "", "date": "2024-05-01", "language": "en"},
            "classification_floor": "INTERNAL",
            "id_from_row": True,
            "case_from_row": True,
            "licence": "feedback",
            "retention": "2 years",
        }
    )
    institution = DemoInstitution(tmp_path, recipe, [letter(number) for number in range(40)])
    institution.write()
    write_labels(institution, [number % 4 != 0 for number in range(40)])
    return institution
