"""Train a reward model: an adapter and a head, trained on preference pairs with TRL's loss and steps."""

import math
from collections.abc import Iterable, Sequence
from dataclasses import replace
from functools import partial
from itertools import chain
from typing import Any

from sovereign_pipeline.base.errors import TrainingFailed
from sovereign_pipeline.base_models.shapes import read_shape
from sovereign_pipeline.corpus.document import read_jsonl
from sovereign_pipeline.training.compute import Passed
from sovereign_pipeline.training.devices import in_shares, meet, on_this_machine
from sovereign_pipeline.training.forward import in_evaluation_mode, passes_in
from sovereign_pipeline.training.guards import check_adapter_moved, check_vocabulary, lora_b
from sovereign_pipeline.training.job import TrainingJob
from sovereign_pipeline.training.models import lora_config, save_adapter, without_dropout
from sovereign_pipeline.training.preflight import available_memory, check_host, host_memory
from sovereign_pipeline.training.report import REPORT_FILE, TRAINING_LOG_FILE, LoggedStep
from sovereign_pipeline.training.reward_model import (
    HELD_OUT_SCORES,
    REWARD_DIRECTORY,
    PairScore,
    RewardReport,
    Scorer,
    held_out_accuracy,
    pair_scores,
)
from sovereign_pipeline.training.rows import EncodedRow, in_tables, mapped
from sovereign_pipeline.training.sizing import Forward, estimate
from sovereign_pipeline.training.trainer import Outcome, RowsMethod, conditions

LARGEST_SHIFT = {"float32": 1e-3, "bfloat16": 0.1}
"""Largest accepted difference, in logits, between a reply's score in TRL's padded pass and its score in a separate pass
that ends at the end of turn. The scores are compared before the first step."""


class RewardMethod(RowsMethod):
    """Trains a reward model on preference pairs with TRL's RewardTrainer, then measures it on held-out pairs."""

    def read_data(self, tokenizer: Any) -> None:
        super().read_data(tokenizer)
        job = self.job
        assert job.held_out is not None
        self.held_out = list(read_jsonl(job.held_out))
        self.measured = [row for row in self.encode(job.held_out) if row.longest <= job.tuning.max_length]
        if not self.measured:
            raise TrainingFailed(
                f"None of {len(self.held_out)} held-out pairs has at most {job.tuning.max_length} tokens, so the "
                f"reward model could not be measured.",
                "Hold out more documents (`split` in the recipe), or raise training.reward_model.max_length.",
            )

    def check_memory(self) -> None:
        job, devices = self.job, self.job.devices.count
        # There are no vocabulary logits, only one score for each reply.
        forward = Forward(tokens=self.plan.largest_forward.tokens, supervised=2 * job.tuning.batch_size)
        check_host(job.base_model, job.sft, on_this_machine(job), host_memory())
        available, device = available_memory()
        if device == "cpu":
            available //= on_this_machine(job)  # processes on CPUs share the memory of the machine
        shape = read_shape(str(job.base_model))
        needed = estimate(shape, job.sft, None, device=device, devices=devices, forward=forward, under_mask=True).total
        if needed > available:
            raise TrainingFailed(
                f"The training needs about {needed / (1 << 30):.1f} GiB{' on each device' if devices > 1 else ''}, and "
                f"{available / (1 << 30):.1f} GiB are free.",
                "Lower training.reward_model.batch_size or max_length, or set training.sft.gradient_checkpointing: "
                "true.",
            )

    def load(self) -> Any:
        return _load(self.job)

    def prepare(self, model: Any) -> None:
        self.model = model
        self.padding = _padding(self.tokenizer, self.job)
        check_vocabulary(self.tokenizer, model, [*self.rows.rows, *self.measured])
        self.trainable = _check_trainable(model)
        self.adapter_before = lora_b(model.named_parameters())
        self.head_before = _head(model.named_parameters()).detach().cpu().clone()
        meet(self.job)
        self.trainer = self.build_trainer()
        check_scored_place(model, self.rows.rows[:2], self.padding, self.job.sft.precision)

    def build_trainer(self) -> Any:
        from trl import RewardConfig, RewardTrainer

        from sovereign_pipeline.training.methods.sft import training_arguments
        from sovereign_pipeline.training.methods.trl import EncodedPairs, TrlSteps

        job = self.job
        assert job.reward_model is not None
        rows = (
            {"chosen_ids": row.completions[0].ids, "rejected_ids": row.completions[1].ids} for row in self.plan.rows
        )
        trainer_class: Any = type("GuardedRewardTrainer", (TrlSteps, RewardTrainer), {})
        trainer = trainer_class(
            job,
            self.plan,
            model=self.model,
            args=training_arguments(
                job,
                RewardConfig,
                max_length=job.tuning.max_length,
                center_rewards_coefficient=job.reward_model.centring or None,
                pad_token=self.tokenizer.convert_ids_to_tokens(self.padding),
            ),
            train_dataset=mapped(job, in_tables(rows), EncodedPairs),
            processing_class=self.tokenizer,
        )
        trainer.add_hooks(self.hooks)
        return trainer

    def finish(self) -> Outcome | None:
        self.hooks.progress(f"all {self.plan.steps} steps are done; scoring {len(self.measured)} held-out pairs")
        # With several devices, this state and the scores need all processes. Only the first process does the rest.
        state = self.trained_state()
        scores = self._held_out_scores()
        if not self.trainer.is_world_process_zero():
            return None
        check_adapter_moved(lora_b(state.items()), self.adapter_before)
        _check_head_moved(_head(state.items()).detach().cpu(), self.head_before)
        if not all(math.isfinite(score.margin) for score in scores):
            raise TrainingFailed(
                "Scores of held-out pairs are not finite.",
                "Lower training.reward_model.learning_rate, or train with precision: float32.",
            )
        log = self.log()
        return Outcome(
            save=partial(save_adapter, self.model, state, self.job, REWARD_DIRECTORY),
            files={
                TRAINING_LOG_FILE: [step.row for step in log],
                HELD_OUT_SCORES: [score.model_dump(mode="json") for score in scores],
                REPORT_FILE: self._reward_report(log, scores),
            },
        )

    def log(self) -> list[LoggedStep]:
        """Return the log with the metric names that all methods use. TRL's RewardTrainer has its own names for accuracy
        and margin."""
        return [
            LoggedStep.from_history(
                {**entry, "rewards/accuracies": entry["accuracy"], "rewards/margins": entry["margin"]}
            )
            for entry in self.trainer.state.log_history
            if "loss" in entry
        ]

    def passed(self) -> tuple[Passed, Passed]:
        learned, read = super().passed()
        return replace(learned, predicted=0), read  # no logits, because the head computes a score instead

    def _held_out_scores(self) -> list[PairScore]:
        """Score the held-out pairs. Several processes divide the pairs, and each process returns all scores."""
        self.model.eval()
        if self.job.devices.count > 1:
            self.model.unshard()  # gathers the head and the parts outside layers, because no pass uses the whole model
        scorer = _scorer(self.model, self.job.sft.precision)
        scores = in_shares(self.job, self.measured, lambda row: 2, lambda row: scorer.scores(row.completions))
        return pair_scores(self.measured, scores)

    def _reward_report(self, log: Sequence[LoggedStep], scores: Sequence[PairScore]) -> RewardReport:
        job, rows, plan = self.job, self.rows, self.plan
        assert job.reward_model is not None
        measured = {row.id for row in self.measured}
        held_out = [row for row in self.held_out if row["id"] in measured]
        return RewardReport(
            **conditions(job, self.trainer.optimizer),
            trainer="trl.RewardTrainer",
            rows=len(rows.rows),
            rows_cut=len(rows.cut),
            rows_shortened=sum(row.dropped > 0 for row in rows.rows),
            rows_left_out=plan.left_out,
            held_out=len(scores),
            held_out_cut=len(self.held_out) - len(self.measured),
            tokens_trained=plan.tokens_until(plan.steps),
            compute=self.compute(),
            steps=plan.steps,
            first_loss=log[0].loss,
            last_loss=log[-1].loss,
            accuracy=held_out_accuracy(scores, held_out, list(chain.from_iterable(map(read_jsonl, job.row_files)))),
            trainable_parameters=self.trainable,
            centring=job.reward_model.centring,
            data_order_sha256=plan.order_digest,
        )


def check_scored_place(model: Any, rows: Sequence[EncodedRow], padding: int, precision: str) -> None:
    """Raise TrainingFailed unless TRL's padded pass scores the end of turn.

    transformers scores the last token that is not padding. If padding and end of turn are the same token, as in many
    chat models, transformers scores the token before the end of turn. A reply that never ends would then get the same
    score as a reply that ends.
    """
    import torch

    completions = [each for row in rows for each in row.completions]
    longest = max(map(len, completions))
    filled = [each.ids + [padding] * (longest - len(each)) for each in completions]
    mask = [[1] * len(each) + [0] * (longest - len(each)) for each in completions]
    tensor = partial(torch.tensor, device=model.device)
    with in_evaluation_mode(model):
        with passes_in(precision, model.device.type):
            padded = model(input_ids=tensor(filled), attention_mask=tensor(mask), use_cache=False)
        together = padded.logits[:, 0].tolist()
        alone = _scorer(model, precision).scores(completions)
    shift = max(abs(one - other) for one, other in zip(together, alone, strict=True))
    if not math.isfinite(shift) or shift > LARGEST_SHIFT[precision]:
        raise TrainingFailed(
            f"In a padded batch, a reply's score differs by {shift:.3f} from its score in a separate pass. The model "
            f"would therefore not learn from the score at the end of turn.",
            "Install the pinned versions (requirements/), or report this with the model's architecture.",
        )


def _load(job: TrainingJob) -> Any:
    """Load the base model with a new adapter and a new head, both in float32. Raises TrainingFailed if the architecture
    does not support a reward model.

    The head is initialised with a standard deviation of 1/√(hidden + 1) (Huang et al. 2024, detail 2.1). With a larger
    deviation, random scores would look confident.
    """
    import torch
    from peft import get_peft_model
    from transformers import AutoModelForSequenceClassification

    try:
        base = AutoModelForSequenceClassification.from_pretrained(
            job.base_model,
            num_labels=1,
            dtype=getattr(torch, job.sft.precision),
            attn_implementation="sdpa",
            # Several processes load to the CPU and get their shards later.
            device_map={"": 0} if torch.cuda.is_available() and job.devices.count == 1 else None,
        )
        config = lora_config(job.sft.model_copy(update={"dropout": 0.0}), base)
        config.task_type, config.modules_to_save = "SEQ_CLS", ["score"]
        model: Any = get_peft_model(base, config)
        without_dropout(model)
    except ValueError as error:
        raise TrainingFailed(
            f"{job.base_model_name}: this architecture does not support a reward model: {' '.join(str(error).split())}",
            "Remove training.reward_model, or choose another base model.",
        ) from error
    head = _head(model.named_parameters())
    head.data = torch.empty(head.shape, device=head.device, dtype=torch.float32)
    generator = torch.Generator().manual_seed(job.seed)
    spread = 1 / math.sqrt(head.shape[-1] + 1)
    head.data.copy_(torch.normal(0.0, spread, head.shape, generator=generator))
    return model


def _head(tensors: Iterable[tuple[str, Any]]) -> Any:
    """Return the trained head, [1, hidden], from the model's named tensors."""
    return next(each for name, each in tensors if name.endswith("score.modules_to_save.default.weight"))


def _scorer(model: Any, precision: str) -> Scorer:
    base = model.get_base_model()
    return Scorer(getattr(base, base.base_model_prefix), _head(model.named_parameters())[0], precision)


def _check_trainable(model: Any) -> int:
    trained = {name: each for name, each in model.named_parameters() if each.requires_grad}
    heads = [name for name in trained if ".score." in name]
    others = [name for name in trained if ".score." not in name and "lora_" not in name]
    if (
        len(heads) != 1
        or others
        or len(trained) < 2
        or any(str(each.dtype) != "torch.float32" for each in trained.values())
    ):
        raise TrainingFailed(
            f"{len(trained)} tensors would be trained. {len(heads)} of them are heads, and {len(others)} belong to "
            f"neither a head nor an adapter. A reward model needs an adapter and exactly one head, all in float32.",
            "Correct target_modules in training.sft.",
        )
    return sum(each.numel() for each in trained.values())


def _padding(tokenizer: Any, job: TrainingJob) -> int:
    """Return a token id for padding that is not an end-of-turn id. If it were one, transformers would treat the end of
    turn as padding."""
    return next(token for token in range(len(tokenizer)) if token not in job.eos_ids)


def _check_head_moved(now: Any, before: Any) -> None:
    import torch

    if not bool(torch.isfinite(now).all()) or torch.equal(now, before):
        raise TrainingFailed(
            "The head of the reward model did not change, or is not finite. Nothing was learned.",
            "Raise training.reward_model.learning_rate if the head did not change; lower it if the head is not finite.",
        )
