"""A reward model on the policy's base: one base in memory, the scores of its own trainer, and nothing of the policy
moved."""

import json
import shutil
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pytest
import torch

from sovereign_pipeline.base.errors import IntegrityError, TrainingFailed
from sovereign_pipeline.training.job import TrainingJob
from sovereign_pipeline.training.models import load_trainable
from sovereign_pipeline.training.reward_model import HEAD, REWARD_DIRECTORY, Scorer, read_scorer
from sovereign_pipeline.training.rlhf.policy import REFERENCE, Policy
from sovereign_pipeline.training.rlhf.rewards import REWARD, Reply, RewardAdapter
from sovereign_pipeline.training.rows import Completion, encode
from sovereign_pipeline_tests.training.rlhf.tiny_reward import LEARNED, reward_job

pytestmark = pytest.mark.slow

JobMaker = Callable[..., TrainingJob]


@pytest.fixture
def job(make_job: JobMaker, parent: Path, reward_model: TrainingJob) -> TrainingJob:
    directory = reward_model.output / REWARD_DIRECTORY
    return reward_job(make_job, "judged", parent, {"reward": [LEARNED]}, reward_model=directory)


@pytest.fixture
def policy(job: TrainingJob) -> Policy:
    return Policy(load_trainable(job, lambda message: None), job, temperature=0.7)


def tokenizer(job: TrainingJob) -> Any:
    from transformers import AutoTokenizer

    return AutoTokenizer.from_pretrained(job.base_model)


def held_out(reward_model: TrainingJob) -> list[dict[str, str]]:
    assert reward_model.held_out is not None
    return [json.loads(line) for line in reward_model.held_out.read_text().splitlines()]


def reply(row: dict[str, str], text: str, ids: Sequence[int] | None = None) -> Reply:
    return Reply(row["prompt"], text, {"response": row["chosen"]}, None if ids is None else tuple(ids))


def base_tensors(model: Any) -> dict[str, int]:
    return {name: each.data_ptr() for name, each in model.named_parameters() if "lora_" not in name}


def test_three_adapters_stand_on_one_base_and_the_policy_stays_as_it_was(
    job: TrainingJob, policy: Policy, reward_model: TrainingJob
) -> None:
    model, row = policy.model, held_out(reward_model)[0]
    completions = [Completion([5, 9, 40], [7, 8, 2])]
    base, numbers = base_tensors(model), policy.numbers_without_gradient(completions)
    trained = {name for name, each in model.named_parameters() if each.requires_grad}
    adapter = RewardAdapter(model, tokenizer(job), job)
    adapter.judge([reply(row, row["rejected"])])
    assert base_tensors(model) == base, "no second copy, and none was moved"
    assert set(model.peft_config) == {"default", REFERENCE, REWARD}
    adapters = [each.numel() for name, each in model.named_parameters() if "lora_" in name]
    assert sum(adapters) == 3 * sum(each.numel() for each in policy.adapter.values())
    assert (model.active_adapter, model.training) == ("default", True)
    assert {name for name, each in model.named_parameters() if each.requires_grad} == trained == policy.adapter.keys()
    after = policy.numbers_without_gradient(completions)
    assert torch.equal(numbers.log_probabilities, after.log_probabilities)
    assert set(policy.alone().peft_config) == {"default"}


def test_a_score_is_that_of_the_reward_models_own_trainer(
    job: TrainingJob, policy: Policy, reward_model: TrainingJob
) -> None:
    """The recorded scores, and those of the base that is read for the gate; for the end of turn and for a cut reply."""
    rows = held_out(reward_model)
    adapter = RewardAdapter(policy.model, tokenizer(job), job)
    recorded = [json.loads(line) for line in (reward_model.output / "held_out_scores.jsonl").read_text().splitlines()]
    rows, recorded = rows[:6], recorded[:6]
    encoded = [encode(tokenizer(job), "reward", dict(row), job.eos_ids) for row in rows]
    fits = [max(len(each.reply_ids) for each in row.completions) <= 16 for row in encoded]
    assert any(fits), "the policy may write replies of that length"
    found = adapter.judge([reply(row, row["rejected"]) for row in rows])
    for each, wanted, is_whole in zip(found, recorded, fits, strict=True):
        if is_whole:
            assert each.raw == pytest.approx(wanted["rejected"], abs=1e-4)
            margin = wanted["rejected"] - wanted["chosen"]
            assert each.probability == pytest.approx(float(torch.sigmoid(torch.tensor(margin))), abs=1e-4)
    assert max(each.probability for each in found) < 0.5
    (own,) = adapter.judge([reply(rows[0], rows[0]["chosen"])])
    assert own.probability == 0.5, "as good as itself"

    prompt, chosen = encoded[0].completions[0].prompt_ids, encoded[0].completions[0].reply_ids
    scorer = read_scorer(job.base_model, reward_model.output / REWARD_DIRECTORY, job.sft)
    cut, whole = adapter.judge([reply(rows[0], "…", ids) for ids in (chosen[:3], chosen)])
    assert [cut.raw, whole.raw] == pytest.approx(
        scorer.scores([Completion(prompt, chosen[:3]), Completion(prompt, chosen)]), abs=1e-4
    )
    assert chosen[-1] in job.eos_ids and whole.raw == own.raw and cut.raw != whole.raw


def test_a_score_depends_on_no_other_reply_and_is_cached(
    job: TrainingJob, policy: Policy, reward_model: TrainingJob, monkeypatch: pytest.MonkeyPatch
) -> None:
    replies = [reply(row, row["rejected"]) for row in held_out(reward_model)[:5]]
    together = RewardAdapter(policy.model, tokenizer(job), job).judge(replies)
    assert job.reward is not None
    (cache,) = job.reward.cache.glob("*.jsonl")
    assert cache.stem == "2" * 64 and not any(word in cache.read_text() for word in ("officer", "rope"))
    cache.rename(cache.with_suffix(".kept"))
    policy.model.delete_adapter(REWARD)
    again = RewardAdapter(policy.model, tokenizer(job), job)
    assert [again.judge([each])[0] for each in reversed(replies)] == together[::-1], "to the bit"

    policy.model.delete_adapter(REWARD)
    monkeypatch.setattr(Scorer, "scores", lambda *given: pytest.fail("it was scored already"))
    assert RewardAdapter(policy.model, tokenizer(job), job).judge(replies) == together


def change(job: TrainingJob, to: Path, alter: Callable[[dict[str, Any]], dict[str, Any]]) -> TrainingJob:
    from safetensors.torch import load_file, save_file

    assert job.reward is not None and job.reward.reward_model is not None
    shutil.copytree(job.reward.reward_model.directory, to)
    file = to / "adapter_model.safetensors"
    save_file(alter(load_file(file)), file)
    given = job.reward.reward_model.model_copy(update={"directory": to})
    return job.model_copy(update={"reward": job.reward.model_copy(update={"reward_model": given})})


def test_tensors_that_fit_nowhere_or_give_no_number_are_an_error_and_no_low_reward(
    job: TrainingJob, policy: Policy, tmp_path: Path, reward_model: TrainingJob
) -> None:
    def without_one(tensors: dict[str, Any]) -> dict[str, Any]:
        gone = next(name for name in tensors if name != HEAD)
        return {**{name: each for name, each in tensors.items() if name != gone}, f"{gone}.other": tensors[gone]}

    def infinite(tensors: dict[str, Any]) -> dict[str, Any]:
        return {**tensors, HEAD: tensors[HEAD] * float("nan")}

    with pytest.raises(IntegrityError, match="1 tensors of the reward model are missing and 1 belong to no layer"):
        RewardAdapter(policy.model, tokenizer(job), change(job, tmp_path / "fewer", without_one))
    policy.model.delete_adapter(REWARD)
    adapter = RewardAdapter(policy.model, tokenizer(job), change(job, tmp_path / "infinite", infinite))
    row = held_out(reward_model)[0]
    with pytest.raises(TrainingFailed, match=r"2 of 2 replies a score that is not finite"):
        adapter.judge([reply(row, row["rejected"])])
