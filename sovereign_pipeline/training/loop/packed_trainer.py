"""transformers' Trainer with losses on packed rows.

It imports torch and transformers at its top: import it inside the functions that need it. What does not belong: the
formulas (`losses.py`), the batches (`batches.py`), checkpoints and callbacks (`guarded_trainer.py`), and what happens
before and after the steps (`trainer.py`).
"""

from typing import Any

import torch
from transformers import Trainer

from sovereign_pipeline.training.job import TrainingJob
from sovereign_pipeline.training.loop.batches import Batches
from sovereign_pipeline.training.loop.devices import check_sharded, let_accelerate_shard_on_cpu, meet
from sovereign_pipeline.training.loop.forward import Batch, reply_log_probabilities, token_log_probabilities
from sovereign_pipeline.training.loop.guarded_trainer import GuardedTrainer, training_arguments
from sovereign_pipeline.training.loop.guards import check_step
from sovereign_pipeline.training.loop.hooks import TrainerHooks
from sovereign_pipeline.training.loop.losses import kto_loss, pair_loss


def packed_trainer(job: TrainingJob, model: Any, batches: Batches, hooks: TrainerHooks) -> "PackedTrainer":
    """The Trainer of a job, ready to train."""
    trainer = PackedTrainer(job, model, batches)
    trainer.add_hooks(hooks)
    return trainer


class PackedTrainer(GuardedTrainer, Trainer):  # type: ignore[misc]
    """A Trainer whose losses are read off packed rows."""

    loss_is_scaled_for_ga = True  # by the number of tokens or replies in the whole step, in compute_loss

    _step_total: Any
    """Sum of the step's losses so far, float64."""
    _step_items: Any
    """What the step's loss is a mean over, a number of tokens, pairs or replies."""
    _noted: dict[str, list[float]]
    """Figures for the log, each value of the step so far."""

    def __init__(self, job: TrainingJob, model: Any, batches: Batches) -> None:
        self._job = job
        self.prepare(job, batches.plan)
        meet(job, on_cpu=not torch.cuda.is_available())
        super().__init__(
            model=model,
            args=training_arguments(job),
            data_collator=batches.collate,
            train_dataset=batches.places,
        )
        self._begin_step()
        check_sharded(job, self.accelerator)

    def create_accelerator_and_postprocess(self) -> None:
        if self._job.devices.count > 1 and self.args.use_cpu:
            let_accelerate_shard_on_cpu()
        super().create_accelerator_and_postprocess()

    def compute_loss(
        self, model: Any, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        losses = self._losses(model, inputs)
        self._step_total = self._step_total + losses.detach().sum().double().cpu()
        self._step_items = num_items_in_batch
        # Gradients are averaged over the devices, and the loss is already a mean over what all of them hold.
        return losses.sum() / num_items_in_batch * self.accelerator.num_processes

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            total = self.accelerator.reduce(self._step_total.float().to(self.args.device), "sum")
            check_step(self.state.global_step, self.plan.steps, logs, float(total / self._step_items))
            logs |= {name: sum(values) / len(values) for name, values in self._noted.items() if values}
            self._begin_step()
        super().log(logs, start_time)

    def _begin_step(self) -> None:
        self._step_total = torch.zeros((), dtype=torch.float64)
        self._step_items = None
        self._noted = {}

    def _get_num_items_in_batch(self, batch_samples: list[Batch], device: Any) -> Any:
        """What the step's loss is a mean over: supervised tokens for SFT, pairs or replies for preferences."""
        if self._job.method == "sft":
            count = sum(int((batch["labels"][0, 1:] >= 0).sum()) for batch in batch_samples)
        else:
            replies = sum(len(batch["lengths"]) for batch in batch_samples)
            count = replies if self._job.method == "kto" else replies // 2
        return self.accelerator.gather(torch.tensor(count, device=device)).sum()

    def _losses(self, model: Any, inputs: Batch) -> Any:
        """Of each supervised token (SFT), pair (DPO, IPO) or reply (KTO), [n]."""
        together, preference = self._job.tuning.packing, self._job.preference
        if self._job.method == "sft":
            return -token_log_probabilities(model, inputs, together)
        assert preference is not None
        sums, tokens = reply_log_probabilities(model, inputs, together)
        log_ratios = sums - inputs["references"]
        if self._job.method != "kto":
            pair = pair_loss(preference, log_ratios, tokens)
            self._note("rewards/margins", pair.margins)
            self._note("rewards/accuracies", (pair.rewards[0::2] > pair.rewards[1::2]).float())
            return pair.losses
        with torch.no_grad():
            others, _ = reply_log_probabilities(model, inputs["exchanged"], together)
            divergence = (others - inputs["exchanged"]["references"]).mean().clamp(min=0)
        loss = kto_loss(preference, log_ratios, inputs["desirable"], divergence)
        self._note("kl", divergence[None])
        self._note("rewards/chosen", loss.rewards[inputs["desirable"]])
        self._note("rewards/rejected", loss.rewards[~inputs["desirable"]])
        return loss.losses

    def _note(self, name: str, values: Any) -> None:
        self._noted.setdefault(name, []).extend(values.tolist())
