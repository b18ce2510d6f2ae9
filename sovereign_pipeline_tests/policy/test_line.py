"""Recipes: what is wrong is named, with the nearest known key, before anything runs."""

from pathlib import Path
from typing import Any

import pytest
import yaml
from pydantic import ValidationError

from sovereign_pipeline.base.errors import RecipeError
from sovereign_pipeline.base.settings import PROJECT_ROOT
from sovereign_pipeline.policy.evaluation import Review
from sovereign_pipeline.policy.institution import Institution, load_institution
from sovereign_pipeline.policy.line import line_names, load_line, read_line
from sovereign_pipeline_tests.conftest import LADDER, minimal_recipe
from sovereign_pipeline_tests.examples import examples

INSTITUTION = Institution(name="Lamp Office", classification=tuple(LADDER))


def read(tmp_path: Path, recipe: dict[str, Any]) -> None:
    path = tmp_path / "lamps.yaml"
    path.write_text(yaml.safe_dump(recipe))
    read_line(path, INSTITUTION)


def test_the_demonstration_lines_are_valid() -> None:
    data = PROJECT_ROOT / "data"
    institution = load_institution(data)
    assert line_names(data) == ["circulars-ar", "enquiries-desk", "permits-desk", "permits-rlhf"]
    for name in line_names(data):
        assert load_line(data, name, institution).line == name


def with_value(section: tuple[str, ...], key: str, value: object) -> dict[str, Any]:
    recipe = minimal_recipe()
    place = recipe
    for part in section:
        place = place.setdefault(part, {})
    place[key] = value
    return recipe


@pytest.mark.parametrize(("section", "key", "suggestion"), examples(__file__, "a_misspelt_key_names_the_nearest"))
def test_a_misspelt_key_names_the_nearest(tmp_path: Path, section: tuple[str, ...], key: str, suggestion: str) -> None:
    with pytest.raises(RecipeError) as refused:
        read(tmp_path, with_value(section, key, 1))
    assert suggestion in str(refused.value)
    assert ".".join([*section, key]) in str(refused.value)


@pytest.mark.parametrize(("section", "key", "value", "said"), examples(__file__, "a_wrong_value_is_explained"))
def test_a_wrong_value_is_explained_in_words_of_the_recipe(
    tmp_path: Path, section: tuple[str, ...], key: str, value: object, said: str
) -> None:
    with pytest.raises(RecipeError) as refused:
        read(tmp_path, with_value(section, key, value))
    assert said in str(refused.value)
    assert ";" not in str(refused.value) or key in ("operators",)
    assert "Input should" not in str(refused.value)


@pytest.mark.parametrize("written", ["5.0e-4", "5e-4", "5E-4", "0.0005"])
def test_a_number_may_be_written_with_an_exponent(tmp_path: Path, written: str) -> None:
    """YAML 1.1 takes `5e-4` for a text."""
    read(tmp_path, minimal_recipe(corpus={"workers": None}))
    file = tmp_path / "lamps.yaml"
    recipe = yaml.safe_load(file.read_text())
    recipe["training"]["sft"] = {"learning_rate": 0.25}
    file.write_text(yaml.safe_dump(recipe).replace("0.25", written))
    assert read_line(file, INSTITUTION).training.sft.learning_rate == 5e-4


@pytest.mark.parametrize("again", ["ceiling: SECRET\n", "gates:\n  personal_data: {margin: 0.1, margin: 0.9}\n"])
def test_a_key_that_is_written_twice_is_refused(tmp_path: Path, again: str) -> None:
    """YAML would take the last one, which a reader may overlook."""
    read(tmp_path, minimal_recipe())
    file = tmp_path / "lamps.yaml"
    file.write_text(file.read_text() + again)
    with pytest.raises(RecipeError, match=r"the key '(ceiling|margin)' is repeated"):
        read_line(file, INSTITUTION)


def test_a_merged_mapping_is_not_a_key_written_twice(tmp_path: Path) -> None:
    file = tmp_path / "lamps.yaml"
    read(tmp_path, minimal_recipe())
    file.write_text(file.read_text() + "gates:\n  loops: &wide {margin: 0.3}\n  injections: {<<: *wide}\n")
    assert read_line(file, INSTITUTION).gates.injections.margin == 0.3


@pytest.mark.parametrize("taken", [("sources",), ("training", "owner", "line", "sources", "purpose", "ceiling")])
def test_one_message_shows_all_that_is_missing_as_it_can_be_pasted(tmp_path: Path, taken: tuple[str, ...]) -> None:
    recipe = {key: value for key, value in minimal_recipe().items() if key not in taken}
    with pytest.raises(RecipeError) as refused:
        read(tmp_path, recipe)
    shown = yaml.safe_load(refused.value.hint.partition("\n")[2])
    assert sorted(shown) == sorted(taken)
    read(tmp_path, {**recipe, **shown, "line": "lamps"})


def test_what_an_element_of_a_list_lacks_is_shown_under_its_name(tmp_path: Path) -> None:
    recipe = minimal_recipe()
    del recipe["sources"][0]["licence"], recipe["purpose"]
    recipe["evaluation"]["capability"] = [{"name": "suite", "path": "suites/suite.jsonl"}]
    with pytest.raises(RecipeError) as refused:
        read(tmp_path, recipe)
    assert "empty" not in refused.value.message and "at least" not in refused.value.message
    assert yaml.safe_load(refused.value.hint.partition("\n")[2]) == {
        "purpose": "Draft replies to letters about permits.",
        "sources": [{"name": "letters", "licence": "Ministry record, internal use"}],
        "evaluation": {"capability": [{"name": "suite", "classification": "PUBLIC"}]},
    }


@pytest.mark.parametrize(("changes", "said"), examples(__file__, "what_is_not_allowed_is_refused"))
def test_what_is_not_allowed_is_refused(tmp_path: Path, changes: dict[str, Any], said: str) -> None:
    with pytest.raises(RecipeError, match=said):
        read(tmp_path, minimal_recipe(**changes))


def with_source(role: str, **preference: Any) -> dict[str, Any]:
    recipe = minimal_recipe()
    described = {"path": "sources/judged.jsonl", "licence": "own", "retention": "1 year"}
    recipe["sources"].append({"name": "judged", "role": role, **described})
    if preference:
        recipe["training"]["preference"] = preference
    return recipe


def test_a_reward_model_reads_pairs(tmp_path: Path) -> None:
    recipe = with_source("preferences")
    recipe["training"]["reward_model"] = {}
    read(tmp_path, recipe)
    recipe["sources"].pop()
    with pytest.raises(RecipeError, match="reward_model needs a source with role 'preferences'"):
        read(tmp_path, recipe)
    recipe["training"] = {**minimal_recipe()["training"], "preference": {}}
    with pytest.raises(RecipeError, match="needs a source with role 'preferences'"):
        read(tmp_path, recipe)


def test_pairs_and_labels_go_with_their_methods(tmp_path: Path) -> None:
    for role, method, other in (("labels", "kto", "dpo"), ("preferences", "dpo", "kto"), ("preferences", "ipo", "kto")):
        read(tmp_path, with_source(role, method=method))
        with pytest.raises(RecipeError, match=f"method {other} needs a source with role"):
            read(tmp_path, with_source(role, method=other))
        with pytest.raises(RecipeError, match=r"needs training\.preference"):
            read(tmp_path, with_source(role))


def test_pairs_and_labels_in_one_line_are_refused(tmp_path: Path) -> None:
    recipe = with_source("labels", method="dpo")
    recipe["sources"].append({**recipe["sources"][1], "name": "pairs", "role": "preferences"})
    with pytest.raises(RecipeError, match="not both"):
        read(tmp_path, recipe)


@pytest.mark.parametrize(("wrong", "said"), examples(__file__, "an_inconsistent_review_is_refused"))
def test_an_inconsistent_review_is_refused(wrong: dict[str, Any], said: str) -> None:
    with pytest.raises(ValidationError, match=said):
        Review.model_validate(wrong)
