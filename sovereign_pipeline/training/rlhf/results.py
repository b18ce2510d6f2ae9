"""Writing what a training by reward gives: the adapter, the training log, the reports and the samples.

The records are declared in `report.py` and `training/report.py`.
"""

import importlib.metadata
from dataclasses import dataclass
from typing import Any

from sovereign_pipeline.base.errors import TrainingFailed
from sovereign_pipeline.base.files import canonical_json
from sovereign_pipeline.corpus.document import write_jsonl
from sovereign_pipeline.policy.training.rlhf import Reward
from sovereign_pipeline.training.job import TrainingJob
from sovereign_pipeline.training.loop.models import save_adapter
from sovereign_pipeline.training.report import (
    REPORT_FILE,
    TRAINING_LIBRARIES,
    TRAINING_LOG_FILE,
    BaseModelIdentity,
    Libraries,
    TrainingReport,
    TrlNumerics,
)
from sovereign_pipeline.training.rlhf.measuring import compared
from sovereign_pipeline.training.rlhf.policy import TwoAdapters
from sovereign_pipeline.training.rlhf.prompts import Prompt
from sovereign_pipeline.training.rlhf.report import RLHF_FILE, SAMPLES_FILE, RewardFacts, RlhfReport
from sovereign_pipeline.training.rlhf.reward.rewards import Rewards
from sovereign_pipeline.training.rlhf.state import RunState


@dataclass(frozen=True)
class Finished:
    """A training that ended with an adapter worth keeping."""

    state: RunState
    rewards: Rewards
    gold: Rewards
    training: list[Prompt]
    compared: list[Prompt]
    cut: tuple[str, ...]
    adapter_scores: dict[str, float]
    """Of the compared prompts."""
    order_digest: str
    trainable_parameters: int
    probe_loss_before: float
    probe_loss_after: float
    optimizer: Any
    trl: TrlNumerics | None
    sampler: str


def write_results(job: TrainingJob, finished: Finished, policy: TwoAdapters) -> None:
    """Write the job's output directory; policy holds the adapter that is kept, and is of no use afterwards."""
    report, rlhf = _report(job, finished, policy), _rlhf_report(job, finished)
    model = policy.alone()
    job.output.mkdir()
    save_adapter(model, model.state_dict(), job)
    write_jsonl(job.output / TRAINING_LOG_FILE, [{**row, "step": int(row["step"])} for row in finished.state.log])
    write_jsonl(job.output / SAMPLES_FILE, finished.state.samples)
    (job.output / REPORT_FILE).write_bytes(canonical_json(report.model_dump(mode="json")) + b"\n")
    (job.output / RLHF_FILE).write_bytes(canonical_json(rlhf.model_dump(mode="json")) + b"\n")


def _rlhf_report(job: TrainingJob, finished: Finished) -> RlhfReport:
    assert job.reward is not None
    state, rlhf = finished.state, job.reward.rlhf
    comparison = compared(state.held_out_start, finished.adapter_scores, finished.compared, job.seed)
    if comparison is None:
        raise TrainingFailed(
            "The tools abstain for every held-out reply of the adapter or of its parent, so that they cannot be "
            "compared.",
            "Have the tools judge more replies.",
        )
    measured = [row for row in state.log if "gold" in row]
    return RlhfReport(
        algorithm=rlhf.algorithm,
        reward=_facts(rlhf.reward, finished.rewards),
        gold=_facts(rlhf.measured, finished.gold),
        iterations=state.iteration,
        stopped=state.stopped,
        best_iteration=state.best_iteration,
        gold_of_parent=state.gold_of_parent,
        gold_of_best=state.best_gold,
        divergence_of_best=next(row["kl"] for row in measured if row["step"] == state.best_iteration),
        kl_coefficient=state.kl.coefficient,
        rollouts=state.iteration * rlhf.replies,
        sampler=finished.sampler,
        prompts_cut=len(finished.cut),
        comparison=comparison,
        held_out_parent=state.held_out_start,
        held_out_adapter=finished.adapter_scores,
    )


def _facts(parts: tuple[Reward, ...], rewards: Rewards) -> dict[str, RewardFacts]:
    return {part.name: RewardFacts(weight=part.weight, identity=rewards.identities[part.name]) for part in parts}


def _report(job: TrainingJob, finished: Finished, policy: TwoAdapters) -> TrainingReport:
    import torch

    assert job.reward is not None
    log, rlhf = finished.state.log, job.reward.rlhf
    prompts = sum(len(prompt.ids) for prompt in finished.training)
    # Of an iteration's tokens, as they go through the update: prompts are the mean of all, each once where its replies
    # share it (twice where a pass ends among them, which is not counted); replies as they were sampled.
    replies = sum(row["reply_tokens"] for row in log) * rlhf.replies
    asked = prompts / len(finished.training) * len(log) * (rlhf.prompts if policy.shares_prompts else rlhf.replies)
    group = finished.optimizer.param_groups[0]
    cuda = torch.cuda.is_available()
    optimizer = type(finished.optimizer)
    return TrainingReport(
        method=job.method,
        trl=finished.trl,
        adapter=job.sft.adapter,
        steps=len(log),
        rows=len(finished.training),
        tokens=prompts,
        tokens_trained=round((replies + asked) * rlhf.epochs),
        supervised_share=round(replies / (replies + asked), 6),
        rows_cut=len(finished.cut),
        rows_cut_ids=finished.cut,
        units_left_out=0,
        first_loss=log[0]["loss"],
        last_loss=log[-1]["loss"],
        trainable_parameters=finished.trainable_parameters,
        optimizer=f"{optimizer.__module__}.{optimizer.__qualname__}",
        optimizer_paged=bool(cuda and getattr(finished.optimizer, "is_paged", False)),
        learning_rate=rlhf.learning_rate,
        weight_decay=group["weight_decay"],
        betas=tuple(group["betas"]),
        scheduler="linear",
        precision=job.sft.precision,
        base_held_as="nf4, double quantisation" if job.sft.adapter == "qlora" else job.sft.precision,
        trained_in="float32",
        attention=policy.model.config.get_text_config()._attn_implementation,
        gradient_checkpointing=job.sft.gradient_checkpointing,
        packing=job.packs,
        seed=job.seed,
        data_order_sha256=finished.order_digest,
        device=torch.cuda.get_device_name() if cuda else "cpu",
        devices=job.devices.count,
        sharding=None,
        threads=torch.get_num_threads(),
        libraries=Libraries(**{name: importlib.metadata.version(name) for name in TRAINING_LIBRARIES}),
        base_model=BaseModelIdentity(
            name=job.base_model_name, digest=job.base_model_digest, chat_template_sha256=job.chat_template_sha256
        ),
        probe_loss_before=finished.probe_loss_before,
        probe_loss_after=finished.probe_loss_after,
    )
