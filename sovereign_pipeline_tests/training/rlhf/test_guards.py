"""Guards on a reward before it is optimised, with gameable ones planted, and on a policy that learns."""

import json
from pathlib import Path
from statistics import fmean

import pytest

from sovereign_pipeline.base.errors import TrainingFailed
from sovereign_pipeline.policy.rlhf import Rlhf
from sovereign_pipeline.training.rlhf.guards import (
    check_first_ratio,
    check_reward,
    check_sampler,
    check_spread_of_samples,
    reason_to_stop,
    repetition,
)
from sovereign_pipeline.training.rlhf.prompts import Prompt, PromptRow
from sovereign_pipeline.training.rlhf.rewards import Rewards, copy_code
from sovereign_pipeline_tests.training.tiny_reward import LIKE_THE_REPLY, reward

GUARDED = json.loads(Path(__file__).with_name("guards.json").read_text(encoding="utf-8"))
"""Name -> a reward's program and the replies that earn it, or the ends of a log's columns and the reason to stop."""
SECONDS = 600
"""So long that a busy machine decides nothing."""
PORTS = ["Sur", "Barka", "Seeb", "Qantab", "Sidab", "Khasab"]
TEXTS = [
    f"With reference to your letter from {port}. The berth {number} is granted in {port}."
    for number, port in enumerate(PORTS)
]


def prompts() -> list[Prompt]:
    """A character is a token here."""
    return [
        Prompt(
            PromptRow(id=f"R-{number}", case=str(number), prompt="?", response=text, columns={"response": text}),
            [0],
            [*map(ord, text)],
        )
        for number, text in enumerate(TEXTS)
    ]


def text_of(ids: list[int]) -> str:
    return "".join(map(chr, ids))


def check(tmp_path: Path, program: str, tokens: int = 200) -> None:
    (tmp_path / "score.py").write_text(program)
    rlhf = Rlhf.model_validate({"reward": [reward(seconds=SECONDS)]})
    code = copy_code(tmp_path, rlhf, tmp_path / "code")
    check_reward(Rewards(rlhf.reward, code, tmp_path / "code", tmp_path / "cache"), prompts(), text_of, tokens)


def test_a_reward_for_what_the_institution_wrote_passes(tmp_path: Path) -> None:
    check(tmp_path, LIKE_THE_REPLY)


@pytest.mark.security_case("a policy games its reward", "a reward that bad replies earn is rejected before training")
@pytest.mark.parametrize("reward_for", GUARDED["programs"])
def test_a_reward_that_can_be_had_without_a_good_reply_is_refused(tmp_path: Path, reward_for: str) -> None:
    program, how = GUARDED["programs"][reward_for]
    with pytest.raises(TrainingFailed, match=f"does not need a good reply: {how} score"):
        check(tmp_path, program)


def test_what_stands_behind_the_longest_reply_cannot_be_rewarded(tmp_path: Path) -> None:
    program = "def score(rows):\n    return [float('granted' in row['reply']) for row in rows]"
    with pytest.raises(TrainingFailed, match="raise max_new_tokens"):
        check(tmp_path, program, tokens=30)


def test_samples_of_one_reward_teach_nothing() -> None:
    check_spread_of_samples([0.0] * 63 + [0.5], 64)
    with pytest.raises(TrainingFailed, match=r"All 64 replies .* have the same reward, 0\.000"):
        check_spread_of_samples([0.0] * 64, 64)
    with pytest.raises(TrainingFailed, match="abstain"):
        check_spread_of_samples([None] * 64, 64)


def test_replies_that_differ_from_prompt_to_prompt_alone_teach_a_group_nothing() -> None:
    check_spread_of_samples([0.0, 0.0, 0.5, None, 0.5, 0.6], 2)
    with pytest.raises(TrainingFailed, match="same reward as the other replies to their prompt, in groups of 2"):
        check_spread_of_samples([0.0, 0.0, 0.5, 0.5, None, 0.7], 2)


def test_a_sampler_or_a_policy_that_is_another_one_is_an_error() -> None:
    check_sampler(1e-5, "float32")
    check_first_ratio(0.0, "float32")
    for off in (0.5, float("nan")):
        with pytest.raises(TrainingFailed, match="between the sampler and the update"):
            check_sampler(off, "float32")
        with pytest.raises(TrainingFailed, match="Start vLLM with the line's base model"):
            check_sampler(off, "float32", by_server=True)
        with pytest.raises(TrainingFailed, match="differs from 1"):
            check_first_ratio(off, "float32")


RLHF = Rlhf.model_validate({"reward": [reward()], "patience": 2, "kl": {"budget": 10.0}})
ORDINARY = {
    "reward": 0.5,
    "reward_spread": 0.1,
    "kl": 2.0,
    "reply_tokens": 30.0,
    "missing_ends": 0.1,
    "repetition": 0.05,
}


def logged(count: int = 8, **courses: list[float]) -> list[dict[str, float]]:
    """An ordinary course but for some columns, each with its values at the end."""
    rows = [{**ORDINARY, "step": float(step + 1)} for step in range(count)]
    for name, values in courses.items():
        for row, value in zip(rows[-len(values) :], values, strict=True):
            row[name] = value
    return rows


@pytest.mark.parametrize("course", GUARDED["courses"])
def test_each_drift_ends_the_training_with_its_reason(course: str) -> None:
    columns, reason = GUARDED["courses"][course]
    found = reason_to_stop(logged(**columns), RLHF)
    assert found is None if reason is None else reason in str(found)


def test_repetition_is_the_share_of_runs_that_stood_there_before() -> None:
    assert repetition("one two three") == 0
    assert repetition("a b c d a b c d") == pytest.approx(1 / 5)
    assert fmean([repetition("word " * 20)]) > 0.9
