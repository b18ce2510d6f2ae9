"""What the RLHF benchmark reckons: how many steps fit the time, and what an arm has gained over seeds and prompts; and
what it takes for no result of an arm."""

from typing import Any

import pytest

from benchmarks.rlhf.run import PAIRS, STOCK, steps_within, summary


@pytest.mark.parametrize(
    ("arm", "pace", "steps"),
    [
        # 10 s an iteration, 5 s a measurement: twelve take 12 · 10 + 3 · 5 = 135 s, thirteen 145 s.
        ("ppo", {"step_seconds": [10.0, 15.0]}, 12),
        ("ppo", {"step_seconds": [10.0, 9.0]}, 14),  # what is faster than nothing costs nothing
        ("ppo", {"step_seconds": [900.0, 900.0]}, 1),
        (STOCK, {"step_seconds": [90.0, 19.0, 21.0]}, 7),  # the first step warms up
        (PAIRS, {"sampling_seconds": 16.0, "learning_seconds": 8.0, "prompts": 8, "pairs": 5}, 46),
    ],
)
def test_so_many_steps_fit_the_time(arm: str, pace: dict[str, Any], steps: int) -> None:
    assert steps_within(arm, pace, 140.0, 5) == steps


def judged(*rewards: float | None, divergence: float = 1.0) -> dict[str, Any]:
    prompts = {f"P-{place}": {"case": f"C-{place}", "reward": reward} for place, reward in enumerate(rewards)}
    return {"prompts": prompts, "divergence": divergence}


def run(seconds: float, found: dict[str, Any], failed: str | None = None) -> dict[str, Any]:
    measured = {"steps": 9, "loop_seconds": seconds, "whole_seconds": 2 * seconds, "peak_bytes": 1e9}
    return {**measured, "failed": failed, "judged": found}


def test_the_gain_is_paired_by_prompt_over_the_mean_of_the_seeds() -> None:
    parent = judged(0.0, 0.5, 1.0, 0.2)
    found = summary(parent, [run(180, judged(0.2, 0.9, 1.0, None)), run(180, judged(0.4, 0.7, 1.0, 0.9))])
    assert (found["prompts"], found["cases"]) == (3, 3)  # what one seed's tools abstained from is compared for none
    assert found["difference"] == pytest.approx(0.2)
    assert found["rewards"] == pytest.approx([0.7, 0.7]) and found["between_seeds"] == pytest.approx(0)
    assert found["interval"][0] < 0.2 < found["interval"][1]


def test_an_arm_that_failed_counts_with_the_parents_reward() -> None:
    parent = judged(0.0, 0.5, 1.0)
    measured = summary(parent, [run(170, parent, failed="nothing is worth keeping")])
    assert measured["difference"] == 0 and measured["between_seeds"] is None
