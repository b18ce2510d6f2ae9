"""Files of experiments: what may vary, what is refused and how that reads, and the winner as a diff of the recipe."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml

from sovereign_pipeline.base.errors import NotFoundError, RecipeError
from sovereign_pipeline.base.settings import PROJECT_ROOT
from sovereign_pipeline.policy.experiment import Setting, experiment_names, load_experiment, recipe_diff, settings_of
from sovereign_pipeline.policy.institution import load_institution
from sovereign_pipeline_tests.examples import examples

DATA = PROJECT_ROOT / "data"
GRID: dict[str, Any] = {
    "experiment": "rates",
    "line": "permits-desk",
    "vary": {"sft.learning_rate": [1e-4, 5e-4], "sft.rank": [4, 8, 16]},
    "budget": {"trials": 6},
}


def settings(data: Path, **changes: Any) -> list[Setting]:
    path = data / "experiments" / "rates.yaml"
    path.parent.mkdir(exist_ok=True)
    path.write_text(yaml.safe_dump({**GRID, **changes}))
    return settings_of(*load_experiment(data, "rates", load_institution(data)))


@pytest.fixture
def data(tmp_path: Path) -> Path:
    for name in ("lines", "institution.yaml"):
        copy = shutil.copytree if (DATA / name).is_dir() else shutil.copyfile
        copy(DATA / name, tmp_path / name)
    return tmp_path


def test_the_experiments_of_the_demonstration_are_valid() -> None:
    for name in experiment_names(DATA):
        assert len(settings_of(*load_experiment(DATA, name, load_institution(DATA)))) > 1
    assert experiment_names(DATA)


def test_a_grid_has_every_combination_in_a_fixed_order(data: Path) -> None:
    found = settings(data)
    assert [tuple(each.values.values()) for each in found] == [
        (rate, rank) for rate in (1e-4, 5e-4) for rank in (4, 8, 16)
    ]
    assert [each.number for each in found] == [1, 2, 3, 4, 5, 6]
    sft = found[3].line.training.sft
    assert (sft.learning_rate, sft.rank, sft.max_steps) == (5e-4, 4, 24)  # the last one is the recipe's


def test_a_random_search_draws_the_same_settings_again(data: Path) -> None:
    drawn = {
        "vary": {"sft.learning_rate": {"low": 1e-5, "high": 1e-2, "scale": "log"}, "sft.rank": [4, 8]},
        "random_seed": 3,
    }
    first, second = settings(data, **drawn), settings(data, **drawn)
    assert [each.values for each in first] == [each.values for each in second]
    rates = [each.line.training.sft.learning_rate for each in first]
    assert len(set(rates)) == 6 and all(1e-5 <= rate <= 1e-2 for rate in rates)
    assert min(rates) < 1e-4 < max(rates)
    assert [each.values for each in settings(data, **{**drawn, "random_seed": 4})] != [each.values for each in first]
    few = {"vary": {"sft.rank": [4, 8]}, "random_seed": 3}
    assert sorted(each.line.training.sft.rank for each in settings(data, **few)) == [4, 8]


@pytest.mark.parametrize(("changes", "message"), examples(__file__, "a_wrong_file_is_refused"))
def test_a_wrong_file_is_refused_with_key_and_file(data: Path, changes: dict[str, Any], message: str) -> None:
    with pytest.raises((RecipeError, NotFoundError), match=message):
        settings(data, **changes)


@pytest.mark.parametrize("line", ["permits-desk", "circulars-ar"])
def test_the_diff_changes_the_values_alone_and_makes_the_recipe_of_the_trial(data: Path, line: str) -> None:
    vary = {"sft.learning_rate": [1e-4, 9e-4], "sft.dropout": [0.1], "seed": [8], "sft.target_modules": [["q_proj"]]}
    chosen = settings(data, line=line, vary=vary)[1]
    path = data / "lines" / f"{line}.yaml"
    diff = recipe_diff(path, chosen)
    changed = [row for row in diff.splitlines() if row[0] in "+-" and not row.startswith(("+++", "---"))]
    assert any("9e-4" in row or "0.0009" in row for row in changed) and "+  seed: 8" in changed and len(changed) <= 5
    comments = [row for row in path.read_text().splitlines() if "#" in row]
    assert not any(row[1:] in comments for row in changed)


def test_a_value_that_stands_for_another_one_too_is_not_written(data: Path) -> None:
    path = data / "lines" / "permits-desk.yaml"
    path.write_text(path.read_text().replace("rank: 16, alpha: 32", "alpha: &size 32, rank: *size"))
    with pytest.raises(RecipeError, match="no diff could be generated"):
        recipe_diff(path, settings(data)[0])
