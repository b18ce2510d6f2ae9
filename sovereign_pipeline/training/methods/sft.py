"""Train by supervised fine-tuning (SFT), with the batches and trainer on packed rows that preference methods extend.

This module imports torch and transformers at its top, so import it inside functions.
"""

from collections.abc import Sequence
from typing import Any

import torch
from transformers import Trainer

from sovereign_pipeline.training.devices import add_up
from sovereign_pipeline.training.forward import Batch, packed, token_log_probabilities
from sovereign_pipeline.training.guarded_trainer import GuardedTrainer, training_arguments
from sovereign_pipeline.training.guards import check_step
from sovereign_pipeline.training.job import TrainerHooks, TrainingJob
from sovereign_pipeline.training.plan import Plan
from sovereign_pipeline.training.rows import Completion, EncodedRow
from sovereign_pipeline.training.trainer import RowsMethod


class SftMethod(RowsMethod):
    """Supervised fine-tuning. The loss is the negative log-likelihood of each reply token, end of turn included."""

    def build_trainer(self) -> Any:
        return PackedTrainer(self.job, self.model, Batches(self.job, self.plan), self.hooks)


class Batches:
    """Batches of a plan, as tensors for transformers' data loader. The place of a unit in the plan determines its
    batch."""

    replies_of_a_row = 1

    def __init__(self, job: TrainingJob, plan: Plan) -> None:
        self.job = job
        self.plan = plan

    @property
    def places(self) -> list[int]:
        """Return the places of the units in the plan. With several devices there are extra places, so that all batches
        have the same size."""
        units = len(self.plan.units)
        missing = -units % self.plan.units_a_pass if self.job.devices.count > 1 else 0
        return list(range(units + missing))

    def collate(self, places: Sequence[int]) -> Batch:
        """Return the tensors of these units; see `forward.packed`."""
        completions = [each for row in self.rows_at(places) for each in row.completions]
        return packed([*completions, *self.fillers(places)])

    def rows_at(self, places: Sequence[int]) -> list[EncodedRow]:
        return [row for place in places for unit in self.plan.units[place : place + 1] for row in unit]

    def fillers(self, places: Sequence[int]) -> list[Completion]:
        """Return rows without a supervised token, which fill places beyond the plan's end.

        A sharded model must run the same number of passes on each device.
        """
        beyond = sum(place >= len(self.plan.units) for place in places)
        return [Completion(list(self.job.eos_ids[:1]) * 2, [])] * (beyond * self.replies_of_a_row)


class PackedTrainer(GuardedTrainer, Trainer):  # type: ignore[misc]
    """A Trainer that computes its losses on packed rows."""

    loss_is_scaled_for_ga = True  # compute_loss divides by the number of tokens or replies in the whole step

    _step_total: Any
    """Sum of the step's losses so far, float64."""
    _step_items: Any
    """Number of tokens, pairs or replies that the step's loss is a mean over."""
    _noted: dict[str, list[float]]
    """Metric -> values of the step so far in this process, for the log."""

    def __init__(self, job: TrainingJob, model: Any, batches: Batches, hooks: TrainerHooks) -> None:
        self.prepare(job, batches.plan)
        self.batches = batches
        self.hooks = hooks
        super().__init__(
            model=model,
            args=training_arguments(job),
            data_collator=batches.collate,
            train_dataset=batches.places,
        )
        self._begin_step()
        self.add_hooks(hooks)

    def losses(self, model: Any, inputs: Batch) -> Any:
        """Return one loss for each supervised token, [n]; none for fillers."""
        return -token_log_probabilities(model, inputs, self.job.tuning.packing)

    def items_of(self, batch: Batch) -> int:
        """Return the number of supervised tokens, over which the step's loss is a mean."""
        return int((batch["labels"][0, 1:] >= 0).sum())

    def compute_loss(
        self, model: Any, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Any = None
    ) -> Any:
        losses = self.losses(model, inputs)
        self._step_total = self._step_total + losses.detach().sum().double().cpu()
        self._step_items = num_items_in_batch
        # Gradients are averaged over the devices, and the loss is already a mean over all devices' items.
        return losses.sum() / num_items_in_batch * self.accelerator.num_processes

    def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
        if "loss" in logs:
            total = self.accelerator.reduce(self._step_total.float().to(self.args.device), "sum")
            check_step(self.state.global_step, self.plan.steps, logs, float(total / self._step_items))
            sums = add_up(
                self.job, [figure for values in self._noted.values() for figure in (sum(values), len(values))]
            )
            means = zip(self._noted, sums[0::2], sums[1::2], strict=True)
            logs |= {name: value / count for name, value, count in means if count}
            self._begin_step()
        super().log(logs, start_time)

    def note(self, name: str, values: Any) -> None:
        """Add values to a metric. The log gets its mean over the step's batches."""
        self._noted.setdefault(name, []).extend(values.tolist())

    def _begin_step(self) -> None:
        self._step_total = torch.zeros((), dtype=torch.float64)
        self._step_items = None
        self._noted = {}

    def _get_num_items_in_batch(self, batch_samples: list[Batch], device: Any) -> Any:
        count = sum(self.items_of(batch) for batch in batch_samples)
        return self.accelerator.gather(torch.tensor(count, device=device)).sum()
