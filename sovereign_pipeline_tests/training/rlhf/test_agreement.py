"""PPO and RLOO on one toy language task: the same reward, the same number of replies, several seeds."""

from pathlib import Path
from statistics import fmean, stdev
from typing import Any

import pytest

from sovereign_pipeline.training.rlhf import rewards as tools
from sovereign_pipeline.training.rlhf import run
from sovereign_pipeline_tests.training.rlhf.tiny_reward import learn, log, reward, reward_job
from sovereign_pipeline_tests.training.rlhf.trl_runs import JobMaker

pytestmark = pytest.mark.slow

SEEDS = (11, 12, 13)
REPLIES: dict[str, dict[str, Any]] = {
    "ppo": {"prompts": 16, "group": 1, "kl": {"coefficient": 0.005, "target": None, "budget": 500.0}},
    "rloo": {"prompts": 4, "group": 4, "kl": {"coefficient": 0.005, "budget": 500.0}},
}
NAMES_A_ROPE = 'def score(rows):\n    return [float("rope" in row["reply"]) for row in rows]\n'


def test_ppo_and_rloo_learn_a_word_alike(make_job: JobMaker, parent: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """The share of replies that name a rope rises from a sixth or less to .79 (PPO) and .83 (RLOO), with a deviation of
    .2 between seeds each. The difference is to lie within two of its standard errors."""
    monkeypatch.setattr(run, "check_reward", lambda *given: None)  # it would see that the word alone is enough
    # As the sandbox gives it, which would be started a hundred times.
    monkeypatch.setattr(tools.ToolRunner, "_run", lambda tool, rows: [float("rope" in row["reply"]) for row in rows])
    monkeypatch.setattr(run, "reason_to_stop", lambda *given: None)
    found = {name: [course(make_job, parent, name, seed) for seed in SEEDS] for name in REPLIES}
    ends = {name: [end for _, end in courses] for name, courses in found.items()}
    assert all(fmean(start for start, _ in courses) < 0.25 for courses in found.values()), found
    assert all(fmean(each) > 0.6 for each in ends.values()), found
    error = (sum(stdev(each) ** 2 for each in ends.values()) / len(SEEDS)) ** 0.5
    assert abs(fmean(ends["ppo"]) - fmean(ends["rloo"])) <= 2 * error, found


def course(make_job: JobMaker, parent: Path, algorithm: str, seed: int) -> tuple[float, float]:
    """The mean reward of the first iteration, and of the last two."""
    settings = {
        **REPLIES[algorithm],
        "algorithm": algorithm,
        "reward": [reward(program="rope.py")],
        "iterations": 8,
        "minibatches": 1,
        "learning_rate": 1e-2,
        "max_new_tokens": 12,
        "missing_end_penalty": 0.0,
        "measured_prompts": 4,
        "measure_every": 8,
        "samples": 0,
    }
    job = reward_job(make_job, f"{algorithm} {seed}", parent, settings, {"rope.py": NAMES_A_ROPE}, seed=seed)
    learn(job)
    rewards = [row["reward"] for row in log(job)]
    return rewards[0], fmean(rewards[-2:])
