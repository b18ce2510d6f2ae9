"""What a recipe's rows can show: against the exact probability over all outcomes, and against the gates' own rule."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml

from sovereign_pipeline.base.settings import PROJECT_ROOT, Settings
from sovereign_pipeline.evaluation.memorisation import rise_over_control
from sovereign_pipeline.evaluation.statistics import (
    CHANGED_ANSWERS,
    ShareDifference,
    compare_shares,
    evaluate_difference,
    gate_powers,
    least_rows,
    passing_probability,
    passing_probability_of_rise,
    rows_by_approximation,
)
from sovereign_pipeline.policy.institution import load_institution
from sovereign_pipeline.policy.line import load_line
from sovereign_pipeline_tests.conftest import DemoInstitution
from sovereign_pipeline_tests.evaluation.test_statistics import passing_probability as exactly


@pytest.mark.parametrize("margin", [0.05, 0.15, 0.30])
@pytest.mark.parametrize("groups", [1, 2])
def test_with_fewer_rows_than_the_least_a_candidate_with_the_same_answers_does_not_pass(
    margin: float, groups: int
) -> None:
    def passes(rows: int) -> bool:
        none, clusters = [False] * rows, [str(number) for number in range(rows)]
        group = compare_shares(none, none, clusters)
        compared = group if groups == 1 else rise_over_control(group, group)
        return evaluate_difference(compared, margin, "lower").outcome == "pass"

    least = least_rows(margin, groups=groups)
    assert passes(least) and not passes(least - 1)


@pytest.mark.parametrize("changed", [0.05, 0.20])
@pytest.mark.parametrize("margin", [0.10, 0.30])
@pytest.mark.parametrize("rows", [12, 48])
def test_the_probability_is_the_exact_one_over_all_outcomes(rows: int, margin: float, changed: float) -> None:
    assert passing_probability(rows, margin, changed) == pytest.approx(
        exactly(rows, changed / 2, changed / 2, margin), abs=1e-5
    )


def test_the_probability_of_a_rise_is_that_of_simulated_candidates() -> None:
    rows, margin = 24, 0.30
    generator, clusters = np.random.default_rng(5), [str(number) for number in range(rows)]

    def group() -> ShareDifference:
        reference = generator.random(rows) < 0.5
        candidate = reference ^ (generator.random(rows) < 0.10)
        return compare_shares(reference.tolist(), candidate.tolist(), clusters)

    passed = [
        evaluate_difference(rise_over_control(group(), group()), margin, "lower").outcome == "pass" for _ in range(600)
    ]
    assert np.mean(passed) == pytest.approx(passing_probability_of_rise(rows, margin, 0.10), abs=0.06)


def test_each_gate_counts_its_own_rows(institution: DemoInstitution) -> None:
    institution.write()
    workplace = institution.workplace()
    powers = {each.gate: each for each in gate_powers(institution.settings, workplace.line)}
    rows = {gate: each.rows for gate, each in powers.items()}
    letters = workplace.line.named_evaluation.red_team.letters
    assert rows == {
        f"capability: {workplace.line.named_evaluation.capability[0].name}": 2,
        "refusals": 2,
        "over_refusals": 1,
        "injections": 1,
        "disclosures": 1,
        "loops": 1,
        "personal_data": 5,
        "memorisation": letters,
    }
    assert all(each.margin == 1.0 or each.rows < each.least for each in powers.values() if each.rows <= 5)


@pytest.mark.parametrize("line", ["permits-desk", "circulars-ar", "permits-rlhf", "enquiries-desk"])
def test_the_demonstration_lines_have_the_rows_for_their_margins(line: str, tmp_path: Path) -> None:
    settings = Settings(home=tmp_path, data=PROJECT_ROOT / "data")
    recipe = load_line(settings.data, line, load_institution(settings.data))
    assert [each.gate for each in gate_powers(settings, recipe) if each.rows < each.needed] == []


def test_the_default_margins_need_more_prompts_than_the_shipped_ones(tmp_path: Path) -> None:
    """So an institution that removes the demonstration's margins is told before it trains."""
    data = PROJECT_ROOT / "data"
    recipe: dict[str, Any] = yaml.safe_load((data / "lines" / "permits-desk.yaml").read_text())
    del recipe["gates"]
    settings = Settings(home=tmp_path, data=data)
    line = load_line(data, "permits-desk", load_institution(data)).model_validate(recipe)
    few = {each.gate: each.needed for each in gate_powers(settings, line) if each.rows < each.needed}
    assert passing_probability(few["refusals"], 0.10, CHANGED_ANSWERS) >= 0.8
    assert passing_probability(rows_by_approximation(0.10, CHANGED_ANSWERS), 0.10, CHANGED_ANSWERS) < 0.8
    assert few.keys() >= {"refusals", "over_refusals", "injections", "disclosures", "personal_data"}
