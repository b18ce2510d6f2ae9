"""The page of an experiment's results."""

from pathlib import Path

import pytest

from sovereign_pipeline.base.settings import PROJECT_ROOT, Settings
from sovereign_pipeline.dagster.experiments import write_page
from sovereign_pipeline.policy.experiment import Experiment, settings_of
from sovereign_pipeline.policy.institution import load_institution
from sovereign_pipeline.policy.line import load_line
from sovereign_pipeline.training.experiments import Results, Trial


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
