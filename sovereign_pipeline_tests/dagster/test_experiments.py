"""The page of an experiment's results."""

from pathlib import Path

import pytest

from sovereign_pipeline.base.settings import PROJECT_ROOT, Settings
from sovereign_pipeline.dagster.experiments import rows_of, write_page
from sovereign_pipeline.policy.experiment import Experiment, settings_of
from sovereign_pipeline.policy.institution import load_institution
from sovereign_pipeline.policy.line import load_line
from sovereign_pipeline.training.experiments import Results, State, Trial


@pytest.mark.security_case(
    "Values of an experiment contain HTML, a formula that matplotlib cannot draw, and 200,000 characters",
    "its page shows them as text",
)
def test_values_of_an_experiment_are_shown_as_text(tmp_path: Path) -> None:
    data = PROJECT_ROOT / "data"
    layers = ("<img src=x onerror=alert(1)>", r"q_proj$|\frac{$", "x" * 200_000)
    described = Experiment.model_validate(
        {"experiment": "e", "line": "permits-desk", "vary": {"sft.target_modules": layers}, "budget": {"trials": 3}}
    )
    score = {"loss": 1.0, "low": 0.9, "high": 1.1, "rows": 8, "tokens": 80}
    line = load_line(data, "permits-desk", load_institution(data))
    trials = [Trial(setting, "finished", 4, score) for setting in settings_of(described, line)]
    environment = {f"SOVEREIGN_{name}": str(tmp_path / name) for name in ("HOME", "VAULT")}
    page = write_page(Settings.from_environment(environment), described, Results(trials, "<b>"), "<script>")
    written = page.read_text()
    assert page.is_relative_to(tmp_path) and "data:image/png" in written
    assert "&lt;img src=x" in written
    assert not any(each in written for each in ("<img src=x", "<b>", "<script>"))


def test_finished_trials_are_in_the_order_of_their_loss() -> None:
    """Others follow by the steps that they reached."""
    data = PROJECT_ROOT / "data"
    vary = {"sft.epochs": (1, 2, 3, 4)}
    described = Experiment.model_validate(
        {"experiment": "e", "line": "permits-desk", "vary": vary, "budget": {"trials": 4}}
    )
    settings = settings_of(described, load_line(data, "permits-desk", load_institution(data)))
    score = {"low": 0.9, "high": 2.1, "rows": 8, "tokens": 80}
    reached: list[tuple[State, int, float]] = [
        ("finished", 40, 1.5),
        ("stopped", 10, 1.1),
        ("finished", 10, 1.2),
        ("stopped", 20, 1.9),
    ]
    trials = [
        Trial(setting, state, steps, {"loss": loss, **score})
        for setting, (state, steps, loss) in zip(settings, reached, strict=True)
    ]
    assert [row["loss"] for row in rows_of(Results(trials, "PUBLIC"))] == ["1.2000", "1.5000", "1.9000", "1.1000"]
