"""Whole trainings by PPO, RLOO and GRPO on the tiny model: what they learn, record and refuse, and that a kill changes
no byte."""

import math
import os
import signal
from collections.abc import Callable, Sequence
from contextlib import suppress
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import pytest
import torch
from safetensors.torch import load_file
from transformers import AutoTokenizer

from sovereign_pipeline.base.errors import TrainingFailed
from sovereign_pipeline.dagster.plots import reward_curves_png
from sovereign_pipeline.training.job import TrainerHooks
from sovereign_pipeline.training.methods import ppo, train
from sovereign_pipeline.training.methods.trl import _RewardSteps as TrlSteps
from sovereign_pipeline.training.models import load_trainable
from sovereign_pipeline.training.rlhf import guards, rewards, run, sampling
from sovereign_pipeline.training.rlhf.policy import REFERENCE, Policy
from sovereign_pipeline.training.rlhf.run import put_back
from sovereign_pipeline_tests.tiny_model import EOS_ID
from sovereign_pipeline_tests.training.conftest import JobMaker, letters
from sovereign_pipeline_tests.training.methods.rewarded import RATES, SEEN, Whole, job_by, watched
from sovereign_pipeline_tests.training.tiny_reward import learn_until_killed, prompt_rows, reward
from sovereign_pipeline_tests.training.trainings import files, learn, load, log, report

pytestmark = pytest.mark.slow
Trained = Callable[[str], Whole]


@pytest.fixture(scope="module")
def trained_by(tmp_path_factory: pytest.TempPathFactory, make_session_job: JobMaker, parent: Path) -> Trained:
    """`trained_by("ppo")`: a training by this algorithm that nothing interrupted, once."""

    @cache
    def train_once(algorithm: str) -> Whole:
        make_job = partial(make_session_job, tmp_path_factory.mktemp(algorithm))
        job = job_by(algorithm, make_job, algorithm, parent)
        with watched() as seen:
            told = learn(job)
        return Whole(job, told, seen)

    return train_once


@pytest.mark.parametrize("algorithm", ["ppo", "rloo", "grpo"])
def test_it_learns_and_records_what_it_learned_from(trained_by: Trained, algorithm: str, parent: Path) -> None:
    whole, is_ppo = trained_by(algorithm), algorithm == "ppo"
    job = whole.job
    assert whole.told and not any("officer" in message or "harbour" in message for message in whole.told)
    rows, found, by_reward = log(job), report(job), report(job, "rlhf")
    assert [row["step"] for row in rows] == [1, 2, 3, 4]
    assert max(row["first_ratio_off"] for row in rows) <= (0 if is_ppo else 1e-5), "PPO's first ratio is 1 to the bit"
    assert max(row["sampler_gap"] for row in rows) < 1e-5
    assert rows[0]["kl"] == pytest.approx(0, abs=1e-5), "the policy starts as its reference"
    assert rows[-1]["kl"] > 0.01
    assert {"reward/likeness", "gold/likeness", "entropy", "clip_share", "repetition"} <= rows[-1].keys()
    assert rows[-1].keys() & {"value_loss", "groups_without_spread"} == {
        "value_loss" if is_ppo else "groups_without_spread"
    }
    assert is_ppo or {row["kl_coefficient"] for row in rows} == {0.05}
    shares = (1, 0.75, 0.5, 0.25)
    assert [row["learning_rate"] for row in rows] == pytest.approx([share * RATES[algorithm] for share in shares])
    assert by_reward["gold_of_best"] > by_reward["gold_of_parent"] + 0.01
    assert by_reward["gold_of_best"] == max(row["gold"] for row in rows)
    assert (by_reward["algorithm"], by_reward["rollouts"]) == (algorithm, 64)
    comparison = by_reward["comparison"]
    assert comparison["prompts"] == len(by_reward["held_out_adapter"]) == 6
    assert comparison["low"] <= comparison["difference"] <= comparison["high"]
    assert list(by_reward["reward"]) == ["likeness"] and len(by_reward["reward"]["likeness"]["identity"]) == 64
    assert found["method"] == algorithm and found["packing"] == is_ppo and ("trl" in found) != is_ppo
    if not is_ppo:
        trl = found["trl"]
        assert (trl["trainer"], trl["stability"]) == (f"trl.{algorithm.upper()}Trainer", "stable")
        sampling_ = {"temperature": 0.7, "top_k": 0, "top_p": 1.0, "min_p": None, "repetition_penalty": 1.0}
        given = {**sampling_, "beta": 0.05, "epsilon": 0.2, "num_generations": 4, "num_iterations": 2}
        assert given.items() <= trl["arguments"].items()
    made = ("adapter/adapter_config.json", "adapter/adapter_model.safetensors")
    assert files(job.output).keys() == {*made, "report.json", "rlhf.json", "samples.jsonl", "training_log.jsonl"}
    ours, before = (load_file(path / "adapter_model.safetensors") for path in (job.output / "adapter", parent))
    assert ours.keys() == before.keys()
    assert any(not bool((ours[name] == before[name]).all()) for name in ours)
    assert reward_curves_png(job.output / "training_log.jsonl").startswith(b"\x89PNG")
    learned, samples = {f"R-{number}" for number in range(16)}, log(job, "samples")
    assert not by_reward["held_out_parent"].keys() & learned, "held-out prompts are only measured"
    assert {sample["id"] for sample in samples} <= learned
    assert [sample["when"] for sample in samples] == ["start", "start", "middle", "middle", "end", "end"]


@pytest.mark.parametrize("algorithm", ["ppo", "grpo"])
def test_the_divergence_shown_is_that_of_the_kept_adapter(
    trained_by: Trained, tiny_model: Path, parent: Path, algorithm: str
) -> None:
    """Against other replies than were measured, by transformers' own sampling and whole distributions."""
    from peft import PeftModel

    job = trained_by(algorithm).job
    model = PeftModel.from_pretrained(load(tiny_model), parent, adapter_name="parent")
    model.load_adapter(str(job.output / "adapter"), "kept")
    tokenizer = AutoTokenizer.from_pretrained(tiny_model)
    torch.manual_seed(1)
    found = []
    for row in prompt_rows(letters(16)):
        asked = tokenizer.apply_chat_template(
            [{"role": "user", "content": row["prompt"]}], add_generation_prompt=True, return_tensors="pt"
        )["input_ids"].repeat(8, 1)
        model.set_adapter("kept")
        drawn = {"do_sample": True, "temperature": 0.7, "top_k": 0, "top_p": 1.0, "max_new_tokens": 16}
        whole = model.generate(input_ids=asked, attention_mask=torch.ones_like(asked), pad_token_id=EOS_ID, **drawn)
        logs = []
        for adapter in ("kept", "parent"):
            model.set_adapter(adapter)
            with torch.no_grad():
                logits = model(input_ids=whole, attention_mask=torch.ones_like(whole)).logits
            logs.append((logits[:, asked.shape[1] - 1 : -1] / 0.7).log_softmax(-1))
        at_token = (logs[0].exp() * (logs[0] - logs[1])).sum(-1)
        written = (whole[:, asked.shape[1] :] == EOS_ID).cumsum(1) - (whole[:, asked.shape[1] :] == EOS_ID).int() == 0
        found.append((at_token * written).sum(1))
    every = torch.cat(found)
    shown, error = report(job, "rlhf")["divergence_of_best"], float(every.std()) / 16**0.5
    assert shown == pytest.approx(float(every.mean()), abs=4 * error), (shown, float(every.mean()), error)


@pytest.mark.parametrize("algorithm", ["rloo", "grpo"])
def test_log_probabilities_are_those_of_ppo_s_passes(trained_by: Trained, algorithm: str) -> None:
    """Those of policy and reference, of each reply of the iteration that was looked into."""
    whole = trained_by(algorithm)
    job = whole.job.model_copy(update={"method": "ppo"})
    policy = Policy(load_trainable(job, lambda message: None), job, temperature=0.7)
    put_back(policy, whole.seen.adapter)
    completions = [each.completion for each in whole.seen.rollouts]
    ours, reference = (
        policy.numbers_without_gradient(completions, name).log_probabilities for name in ("default", REFERENCE)
    )
    mask = whole.seen.output["completion_mask"].bool()
    assert torch.allclose(ours, whole.seen.output["before"][mask], atol=1e-4)
    if algorithm == "grpo":
        assert torch.allclose(reference, whole.seen.output["ref_per_token_logps"][mask], atol=1e-4)
    assert float((ours - reference).abs().mean()) > 1e-3, "the policy has moved"
    divergence = float((ours - reference).sum()) / len(completions)
    assert log(whole.job)[SEEN]["kl"] == pytest.approx(divergence, abs=1e-3)


@pytest.mark.parametrize("algorithm", ["rloo", "grpo"])
def test_trls_trainers_weigh_replies_that_were_sampled_in_bfloat16(
    make_job: JobMaker, parent: Path, monkeypatch: pytest.MonkeyPatch, algorithm: str
) -> None:
    """Every second reply is half as likely again at each token in the update as in the sampler. RLOO weighs whole
    replies, whose weights are then capped; GRPO weighs tokens."""
    sample, drawn, steps = sampling.sample, list[int](), list[float]()

    def otherwise(*given: Any, **named: Any) -> Any:
        found = sample(*given, **named)
        if named["seed"] is None or len(found) < 16:
            return found
        drawn[:] = [len(each.completion.reply_ids) for each in found]
        return [
            replace(each, log_probabilities=[log - (place % 2) * math.log(1.5) for log in each.log_probabilities])
            for place, each in enumerate(found)
        ]

    def judged(self: Any, replies: Sequence[Any]) -> list[rewards.Score]:
        return [rewards.Score(place**2 / 256, {"likeness": 0.5}) for place in range(len(replies))]

    monkeypatch.setattr(run, "sample", otherwise)
    monkeypatch.setattr(run, "check_reward", lambda *given: None)
    monkeypatch.setattr(rewards.Rewards, "judge", judged)
    monkeypatch.setitem(guards.LARGEST_SAMPLER_GAP, "bfloat16", 1.0)
    section = {"iterations": 1, "epochs": 1, "minibatches": 1, "missing_end_penalty": 0.0, "samples": 0}
    job = job_by(algorithm, make_job, "otherwise", parent, section)
    job = job.model_copy(update={"sft": job.sft.model_copy(update={"precision": "bfloat16"})})
    hooks = TrainerHooks(lambda step: steps.append(step.loss), lambda message: None)
    with suppress(TrainingFailed):  # no reply is better than the parent's, so that nothing is kept
        train(job, hooks)
    groups = torch.tensor([place**2 / 256 for place in range(16)]).view(4, 4)
    if algorithm == "rloo":
        advantages = (groups - (groups.sum(1, keepdim=True) - groups) / 3).flatten()
        weights = torch.tensor([2.0 if place % 2 else 1.0 for place in range(16)])
        expected = -(weights * advantages).mean()
    else:
        advantages = ((groups - groups.mean(1, keepdim=True)) / (groups.std(1, keepdim=True) + 1e-4)).flatten()
        lengths = torch.tensor([float(each) for each in drawn])
        weights = torch.tensor([1.5 if place % 2 else 1.0 for place in range(16)])
        expected = -(weights * lengths * advantages).sum() / lengths.sum()
    assert min(drawn) > 1 and steps == [pytest.approx(float(expected), rel=0.05)]


@pytest.mark.parametrize("algorithm", ["ppo", "grpo"])
def test_replies_that_were_cut_are_counted_and_learned_from_as_the_recipe_says(
    make_job: JobMaker, parent: Path, monkeypatch: pytest.MonkeyPatch, algorithm: str
) -> None:
    """Half of the replies are longer than nine tokens."""
    learned = list[float]()
    before, computed = ppo.Learner.before, TrlSteps._compute_loss

    def of_ppo(self: Any, rollouts: Any, *given: Any) -> Any:
        learned.append(float(all(each.ended for each in rollouts)))
        return before(self, rollouts, *given)

    def of_trl(self: Any, model: Any, inputs: Any) -> Any:
        ends = [EOS_ID in row for row in inputs["completion_ids"].tolist()]
        counted = inputs["completion_mask"].any(1).tolist()
        learned.append(float(counted == ends))
        return computed(self, model, inputs)

    monkeypatch.setattr(ppo.Learner, "before", of_ppo)
    monkeypatch.setattr(TrlSteps, "_compute_loss", of_trl)
    monkeypatch.setattr(run, "check_reward", lambda *given: None)
    section = {"cut_replies": "excluded", "max_new_tokens": 9, "samples": 0, "missing_end_penalty": 0.0}
    job = job_by(algorithm, make_job, "cut", parent, section)
    with suppress(TrainingFailed):
        learn(job)
        found, rows = report(job, "rlhf"), log(job)
        assert found["cut_replies"] == "excluded"
        assert found["cut_share"] == pytest.approx(sum(row["missing_ends"] for row in rows) / len(rows))
        assert 0 < found["cut_share"] < 1
    assert learned and all(learned)
    every_one = job_by(algorithm, make_job, "all", parent, {**section, "max_new_tokens": 4})
    with pytest.raises(TrainingFailed, match="16 of 16 replies were cut at 4 tokens"):
        learn(every_one)


def test_an_iteration_needs_two_replies_that_end_and_are_judged(
    make_job: JobMaker, parent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Half of the replies are longer than nine tokens. The tool abstains for those that end."""
    judge = rewards.Rewards.judge

    def of_cut_replies(self: Any, replies: Sequence[rewards.Reply]) -> list[rewards.Score]:
        found = judge(self, replies)
        if self.names == ("likeness",):
            return found
        silent = [each.ids is not None and each.ids[-1] == EOS_ID for each in replies]
        none = rewards.Score(None, {"law": None})
        return [none if is_silent else score for is_silent, score in zip(silent, found, strict=True)]

    monkeypatch.setattr(rewards.Rewards, "judge", of_cut_replies)
    monkeypatch.setattr(run, "check_reward", lambda *given: None)
    section = {"cut_replies": "excluded", "max_new_tokens": 9, "samples": 0, "missing_end_penalty": 0.0}
    job = job_by("grpo", make_job, "cut", parent, {**section, "reward": [reward("law")], "gold": [reward()]})
    with pytest.raises(TrainingFailed, match=r"Iteration 1: \d+ of 16 replies were cut .* the tools abstain for"):
        learn(job)


def test_a_kill_while_trl_s_replies_are_scored_changes_no_byte(
    make_job: JobMaker, parent: Path, trained_by: Trained
) -> None:
    """In the third iteration, of a child process that shares nothing with this one afterwards. For PPO:
    `rlhf/test_rewards.py`."""
    whole_function, calls = TrlSteps.reward, [0]

    def counted(*given: Any, **named: Any) -> Any:
        calls[0] += 1
        if calls[0] == 2 + 1:
            os.kill(os.getpid(), signal.SIGKILL)
        return whole_function(*given, **named)

    job = job_by("grpo", make_job, "killed", parent, checkpoints={"every_steps": 1, "keep": 1})
    checkpoint = learn_until_killed(job, lambda patch: patch.setattr(TrlSteps, "reward", counted))
    assert checkpoint == "step-00000008"  # of the optimizer: two iterations of two passes over two minibatches
    assert f"resuming from {checkpoint}" in learn(job)
    assert files(job.output) == files(trained_by("grpo").job.output)


@pytest.mark.parametrize("algorithm", ["ppo", "rloo"])
def test_a_sampler_of_another_distribution_is_caught(
    make_job: JobMaker, parent: Path, monkeypatch: pytest.MonkeyPatch, algorithm: str
) -> None:
    """As if generation had filled in a temperature of its own."""
    sample = sampling.sample

    def hotter(*given: Any, **named: Any) -> Any:
        return sample(*given, **{**named, "temperature": 1.5 * named["temperature"]})

    monkeypatch.setattr(run, "sample", hotter)
    with pytest.raises(TrainingFailed, match="between the sampler and the update"):
        learn(job_by(algorithm, make_job, "hotter", parent))


def test_a_dropout_that_cannot_be_switched_off_is_refused(
    make_job: JobMaker, parent: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    from transformers.models.llama.modeling_llama import LlamaMLP

    forward = LlamaMLP.forward

    def dropped(self: Any, states: Any) -> Any:
        return torch.nn.functional.dropout(forward(self, states), p=0.1, training=self.training)

    monkeypatch.setattr(LlamaMLP, "forward", dropped)
    with pytest.raises(TrainingFailed, match="Two passes of one row"):
        learn(job_by("ppo", make_job, "dropped", parent))


@pytest.mark.parametrize(
    ("algorithm", "score", "before"),
    [
        ("ppo", lambda reply: 0.5, "have the same reward"),
        # It differs from prompt to prompt, so that the batch as a whole has spread.
        ("grpo", lambda reply: len(reply.prompt) % 7 / 7, "have the same reward as the other replies to their prompt"),
    ],
)
def test_a_reward_without_spread_ends_the_training_with_its_reason(
    make_job: JobMaker,
    parent: Path,
    monkeypatch: pytest.MonkeyPatch,
    algorithm: str,
    score: Callable[[rewards.Reply], float],
    before: str,
) -> None:
    monkeypatch.setattr(run, "check_reward", lambda *given: None)
    judged = rewards.Score
    monkeypatch.setattr(
        rewards.Rewards, "judge", lambda self, replies: [judged(score(one), {"likeness": 0.5}) for one in replies]
    )
    with pytest.raises(TrainingFailed, match=before):
        learn(job_by(algorithm, make_job, "before", parent))
    if algorithm == "grpo":
        monkeypatch.setattr(run, "check_spread_of_samples", lambda *given: None)
        said = "no adapter had a higher .*ended early: in iteration 1, all replies to the same prompt have the same"
        with pytest.raises(TrainingFailed, match=said):
            learn(job_by(algorithm, make_job, "during", parent))
