"""What a training by reward needs, before its model is loaded."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sovereign_pipeline.base_models.shapes import read_shape
from sovereign_pipeline.training.job import TrainingJob
from sovereign_pipeline.training.preflight import largest_pass, peak_bytes, rows_a_pass
from sovereign_pipeline.training.sizing import Forward, estimate
from sovereign_pipeline_tests.training.rlhf.tiny_reward import LEARNED, reward_job

pytestmark = pytest.mark.slow

JobMaker = Callable[..., TrainingJob]
SHORT_AND_ONE_LONG = [10] * 15 + [100]


def job_of(make_job: JobMaker, tmp_path: Path, **rlhf: Any) -> TrainingJob:
    """One reply to a prompt. Its packs have 128 tokens at most, its replies 16, and a minibatch 8 of these."""
    return reward_job(make_job, f"memory {len(rlhf)}", tmp_path, rlhf)


def test_more_prompts_at_once_need_more_memory(make_job: JobMaker, tmp_path: Path) -> None:
    job = job_of(make_job, tmp_path)
    assert job.reward is not None
    rlhf = job.reward.rlhf.model_copy(update={"prompts": 256, "max_new_tokens": 64})
    larger = job.model_copy(update={"reward": job.reward.model_copy(update={"rlhf": rlhf})})
    assert peak_bytes(larger, [40], "cpu") > peak_bytes(job, [40], "cpu") > 0


def test_one_long_prompt_hides_no_pass_of_many_short_ones(make_job: JobMaker, tmp_path: Path) -> None:
    """Four whole replies fit with their prompts, and five of fifteen tokens and more: 128 − 5 · 10 of replies."""
    job = job_of(make_job, tmp_path)
    assert largest_pass(job, SHORT_AND_ONE_LONG) == Forward(128, 78)
    assert peak_bytes(job, SHORT_AND_ONE_LONG, "cpu") >= peak_bytes(job, [100] * 16, "cpu")


def test_replies_that_share_their_prompts_leave_more_room_for_replies(make_job: JobMaker, tmp_path: Path) -> None:
    """Of four replies to a prompt: behind two prompts of ten tokens, 128 − 2 · 10 of eight replies."""
    assert largest_pass(job_of(make_job, tmp_path, group=4), SHORT_AND_ONE_LONG) == Forward(128, 108)


def test_a_reward_model_is_a_third_adapter(make_job: JobMaker, tmp_path: Path) -> None:
    job = job_of(make_job, tmp_path)
    judged = reward_job(make_job, "judged", tmp_path, {"group": 1, "reward": [LEARNED]}, reward_model=tmp_path)
    adapter = estimate(read_shape(str(job.base_model)), job.sft, device="cpu").adapter
    assert peak_bytes(judged, [40], "cpu") - peak_bytes(job, [40], "cpu") == adapter > 0


def test_ppo_s_optimizer_is_adamw_whatever_sft_s_is(make_job: JobMaker, tmp_path: Path) -> None:
    ppo, rloo = job_of(make_job, tmp_path), job_of(make_job, tmp_path, algorithm="rloo", group=4)

    def with_eight_bits(job: TrainingJob) -> TrainingJob:
        return job.model_copy(update={"sft": job.sft.model_copy(update={"optimizer": "paged_adamw_8bit"})})

    assert peak_bytes(with_eight_bits(ppo), [40], "cuda") == peak_bytes(ppo, [40], "cuda")
    assert peak_bytes(with_eight_bits(rloo), [40], "cuda") < peak_bytes(rloo, [40], "cuda")


def test_a_pass_is_of_one_minibatch(make_job: JobMaker, tmp_path: Path) -> None:
    job = job_of(make_job, tmp_path, minibatches=8)
    assert largest_pass(job, SHORT_AND_ONE_LONG) == Forward(128, 32)
    assert largest_pass(job, [10] * 16) == Forward(52, 32)


def test_trl_pads_a_pass_and_takes_as_many_replies_as_fit(make_job: JobMaker, tmp_path: Path) -> None:
    """Of 32 replies a step, with prompts of at most 48 tokens, two of 64 tokens fit into 128."""
    job = job_of(make_job, tmp_path, algorithm="rloo", group=4)
    assert (rows_a_pass(job, [10, 48]), rows_a_pass(job, [10]), rows_a_pass(job, [112])) == (2, 4, 1)
    assert largest_pass(job, [10, 48]) == Forward(128, 128)
    small = job_of(make_job, tmp_path, algorithm="rloo", prompts=2, group=3)
    assert (rows_a_pass(small, [10]), largest_pass(small, [10])) == (3, Forward(78, 78))
