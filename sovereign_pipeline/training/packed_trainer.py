"""transformers' Trainer with losses on packed rows.

It imports torch and transformers at its top: import it inside the functions that need it. What does not belong: the
formulas (`losses.py`), the batches (`batches.py`), checkpoints and callbacks (`guarded_trainer.py`), and what happens
before and after the steps (`trainer.py`).
"""

import time
from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import torch
from transformers import Trainer

from sovereign_pipeline.training.devices import add_up, give_back_shards
from sovereign_pipeline.training.forward import (
    Batch,
    packed,
    passes_in,
    reply_log_probabilities,
    token_log_probabilities,
)
from sovereign_pipeline.training.guarded_trainer import GuardedTrainer, training_arguments
from sovereign_pipeline.training.guards import check_step
from sovereign_pipeline.training.job import TrainerHooks, TrainingJob, stopped_before_first_step
from sovereign_pipeline.training.plan import Plan
from sovereign_pipeline.training.preference import key_of, kto_loss, pair_loss, reference_log_probabilities
from sovereign_pipeline.training.rows import Completion, exchanged


class Batches:
    """Batches of a plan, with what each method needs beside the rows; decided by the unit's place in the plan alone."""

    def __init__(self, job: TrainingJob, plan: Plan) -> None:
        self.plan = plan
        self.references: dict[str, float] = {}
        """By `key_of`; a preference method needs `know_references` before its first batch."""
        self._job = job

    def know_references(self, model: Any, progress: Callable[[str], None], check_stop: Callable[[], None]) -> None:
        """Compute or read the reference log-probabilities of a preference method. See `references.py`."""
        completions = [each for row in self.plan.rows for each in row.completions]
        if self._job.method == "kto":
            for first in range(0, len(self.plan.units), self.plan.units_a_pass):
                completions += self._exchanged(range(first, first + self.plan.units_a_pass))
        self.references = reference_log_probabilities(self._job, model, completions, progress, check_stop)

    @property
    def places(self) -> list[int]:
        """Places of the units in the plan. Several devices get places beyond its end, so that all batches are equal."""
        units = len(self.plan.units)
        missing = -units % self.plan.units_a_pass if self._job.devices.count > 1 else 0
        return list(range(units + missing))

    def collate(self, places: Sequence[int]) -> Batch:
        """The tensors of these units; see `forward.packed`. A place beyond the plan's end is no unit.

        A row without a supervised token stands in for such a unit, behind the others: a model that is sharded over
        several devices takes as many passes on each.
        """
        units = [unit for place in places for unit in self.plan.units[place : place + 1]]
        rows = [row for unit in units for row in unit]
        completions = [each for row in rows for each in row.completions]
        in_place_of_units = [self._nothing] * ((len(places) - len(units)) * self._replies_of_a_row)
        batch = packed([*completions, *in_place_of_units])
        if self._job.method == "sft":
            return batch
        batch["references"] = self._references_of(completions)
        if self._job.method == "kto":
            import torch

            batch["desirable"] = torch.tensor([row.desirable for row in rows], dtype=torch.bool)
            others = self._exchanged(places)
            batch["exchanged"] = {
                **packed([*others, *in_place_of_units]),
                "references": self._references_of(others),
            }
        return batch

    def _exchanged(self, places: Sequence[int]) -> list[Completion]:
        """See `rows.exchanged`: over the units of all devices that are in a pass with these, in this part's places."""
        first = places[0] - places[0] % self.plan.units_a_pass
        together = [row for unit in self.plan.units[first : first + self.plan.units_a_pass] for row in unit]
        return exchanged(together)[places[0] - first : places[-1] - first + 1]

    @property
    def _nothing(self) -> Completion:
        return Completion(list(self._job.eos_ids[:1]) * 2, [])

    @property
    def _replies_of_a_row(self) -> int:
        return 1 if self._job.method in ("sft", "kto") else 2

    def _references_of(self, completions: Sequence[Completion]) -> Any:
        import torch

        return torch.tensor([self.references[key_of(each)] for each in completions], dtype=torch.float32)


def packed_trainer(job: TrainingJob, model: Any, batches: Batches, hooks: TrainerHooks) -> "PackedTrainer":
    """The Trainer of a job, ready to train."""
    trainer = PackedTrainer(job, model, batches, hooks)
    trainer.add_hooks(hooks)
    return trainer


class PackedTrainer(GuardedTrainer, Trainer):  # type: ignore[misc]
    """A Trainer whose losses are read off packed rows."""

    loss_is_scaled_for_ga = True  # by the number of tokens or replies in the whole step, in compute_loss

    reference_seconds: float = 0.0
    """Duration of computing or reading the reference log-probabilities, a part of the training's."""
    _step_total: Any
    """Sum of the step's losses so far, float64."""
    _step_items: Any
    """What the step's loss is a mean over, a number of tokens, pairs or replies."""
    _noted: dict[str, list[float]]
    """Figures for the log, each value of the step so far that this process has."""

    def __init__(self, job: TrainingJob, model: Any, batches: Batches, hooks: TrainerHooks) -> None:
        self.prepare(job, batches.plan)
        self._batches = batches
        self._hooks = hooks
        super().__init__(
            model=model,
            args=training_arguments(job),
            data_collator=batches.collate,
            train_dataset=batches.places,
        )
        self._begin_step()

    def _prepare_for_training(self, *arguments: Any, **named: Any) -> Any:
        prepared = super()._prepare_for_training(*arguments, **named)
        self._know_references()
        return prepared

    def _load_from_checkpoint(self, *arguments: Any, **named: Any) -> None:
        self._know_references()  # of the model as it is before: the one that is loaded has learned
        super()._load_from_checkpoint(*arguments, **named)

    def _know_references(self) -> None:
        """Once, between sharding the model and its first step or the checkpoint that it resumes from."""
        if self.job.method == "sft" or self._batches.references:
            return
        started = time.monotonic()
        sharded = self.job.devices.count > 1
        # A sharded model holds its own precision; another one is told it around each pass.
        with nullcontext() if sharded else passes_in(self.job.sft.precision, self.model.device.type):
            self._batches.know_references(self.model, self._hooks.progress, self._stop_before_first_step)
        if sharded:
            give_back_shards(self.model)
        self.reference_seconds = time.monotonic() - started

    def _stop_before_first_step(self) -> None:
        if self.any_process(self._hooks.should_stop()):
            raise stopped_before_first_step()

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
            sums = add_up(
                self.job, [figure for values in self._noted.values() for figure in (sum(values), len(values))]
            )
            means = zip(self._noted, sums[0::2], sums[1::2], strict=True)
            logs |= {name: value / count for name, value, count in means if count}
            self._begin_step()
        super().log(logs, start_time)

    def _begin_step(self) -> None:
        self._step_total = torch.zeros((), dtype=torch.float64)
        self._step_items = None
        self._noted = {}

    def _get_num_items_in_batch(self, batch_samples: list[Batch], device: Any) -> Any:
        """What the step's loss is a mean over: supervised tokens for SFT, pairs or replies for preferences."""
        if self.job.method == "sft":
            count = sum(int((batch["labels"][0, 1:] >= 0).sum()) for batch in batch_samples)
        else:
            replies = sum(len(batch["references"]) for batch in batch_samples)
            count = replies if self.job.method == "kto" else replies // 2
        return self.accelerator.gather(torch.tensor(count, device=device)).sum()

    def _losses(self, model: Any, inputs: Batch) -> Any:
        """Of each supervised token (SFT), pair (DPO, IPO) or reply (KTO), [n]; none of what stands in for a unit."""
        together, preference = self.job.tuning.packing, self.job.preference
        if self.job.method == "sft":
            return -token_log_probabilities(model, inputs, together)
        assert preference is not None
        log_ratios, tokens = _log_ratios(model, inputs, together)
        if self.job.method != "kto":
            pair = pair_loss(preference, log_ratios, tokens)
            self._note("rewards/margins", pair.margins)
            self._note("rewards/accuracies", (pair.rewards[0::2] > pair.rewards[1::2]).float())
            return pair.losses
        with torch.no_grad():
            mismatched, _ = _log_ratios(model, inputs["exchanged"], together)
            own = torch.stack([mismatched.sum(), mismatched.new_tensor(len(mismatched))])
            total, count = self.accelerator.reduce(own, "sum")
            divergence = (total / count).clamp(min=0)
        loss = kto_loss(preference, log_ratios, inputs["desirable"], divergence)
        self._note("kl", divergence[None])
        self._note("rewards/chosen", loss.rewards[inputs["desirable"]])
        self._note("rewards/rejected", loss.rewards[~inputs["desirable"]])
        return loss.losses

    def _note(self, name: str, values: Any) -> None:
        self._noted.setdefault(name, []).extend(values.tolist())


def _log_ratios(model: Any, inputs: Batch, together: bool) -> tuple[Any, Any]:
    """Of each reply that has a reference, and its number of tokens. What stands in for a unit has none, and is last."""
    sums, tokens = reply_log_probabilities(model, inputs, together)
    references = inputs["references"]
    return sums[: len(references)] - references, tokens[: len(references)]
