"""Train with supervised fine-tuning (SFT). Preference methods extend this module's batches and its trainer for packed
rows.

Every trainer that is derived from transformers' Trainer uses `GuardedTrainer` and `training_arguments`. This module
imports torch and transformers at its top, so import it inside functions.
"""

import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from sovereign_pipeline.base.errors import TrainingFailed
from sovereign_pipeline.training.checkpoints import CheckpointDirectory
from sovereign_pipeline.training.devices import (
    add_up,
    check_sharded,
    let_accelerate_shard_on_cpu,
    sharding_arguments,
)
from sovereign_pipeline.training.forward import Batch, packed, token_log_probabilities
from sovereign_pipeline.training.guards import check_step
from sovereign_pipeline.training.job import Step, TrainerHooks, TrainingJob
from sovereign_pipeline.training.plan import Plan
from sovereign_pipeline.training.rows import Completion, EncodedRow
from sovereign_pipeline.training.sizing import Device, optimizer_in_effect
from sovereign_pipeline.training.trainer import RowsMethod


class SftMethod(RowsMethod):
    """Supervised fine-tuning. The loss is the negative log-likelihood of each reply token, end of turn included."""

    def build_trainer(self) -> Any:
        return PackedTrainer(self.job, self.model, Batches(self.job, self.plan), self.hooks)


class Batches:
    """The batches of a plan, as tensors for transformers' data loader. The place of a unit is its index in the plan."""

    replies_of_a_row = 1

    def __init__(self, job: TrainingJob, plan: Plan) -> None:
        self.job = job
        self.plan = plan

    @property
    def places(self) -> list[int]:
        """The places of the units in the plan. With several devices, extra places at the end give all batches the same
        size."""
        units = len(self.plan.units)
        missing = -units % self.plan.units_a_pass if self.job.devices.count > 1 else 0
        return list(range(units + missing))

    def collate(self, places: Sequence[int]) -> Batch:
        """Return the tensors of the units at these places; see `forward.packed`."""
        completions = [each for row in self.rows_at(places) for each in row.completions]
        return packed([*completions, *self.fillers(places)])

    def rows_at(self, places: Sequence[int]) -> list[EncodedRow]:
        return [row for place in places for unit in self.plan.units[place : place + 1] for row in unit]

    def fillers(self, places: Sequence[int]) -> list[Completion]:
        """Return completions without a supervised token, for the places beyond the plan's end. A sharded model needs
        them, because it must run the same number of passes on each device."""
        beyond = sum(place >= len(self.plan.units) for place in places)
        return [Completion(list(self.job.eos_ids[:1]) * 2, [])] * (beyond * self.replies_of_a_row)


class GuardedTrainer:
    """A mixin that makes a transformers Trainer check its sharding and write this package's checkpoints. Among the base
    classes, list it before the trainer."""

    def prepare(self, job: TrainingJob, plan: Plan) -> None:
        """Set the attributes that are used during the Trainer's `__init__`. Call this method before that `__init__`."""
        self.job = job
        self.plan = plan
        self.checkpoint_directory = CheckpointDirectory.of(job)
        self.first_step = 0
        """Step from which this process resumed; 0 if it did not resume."""
        self.stop_requested = False
        self.reference_seconds = 0.0
        """Seconds within `train` that were spent on computing or reading reference log-probabilities."""

    def add_hooks(self: Any, hooks: TrainerHooks) -> None:
        self.remove_callback(PrinterCallback)  # this callback writes to stdout, which is used for progress
        self.add_callback(_Steps(self, hooks))

    def create_accelerator_and_postprocess(self: Any) -> None:
        if self.job.devices.count > 1 and self.args.use_cpu:
            let_accelerate_shard_on_cpu()
        super().create_accelerator_and_postprocess()  # type: ignore[misc]
        check_sharded(self.job, self.accelerator)

    def any_process(self: Any, is_true: bool) -> bool:
        """Return True if `is_true` is True in any process. Every process must call this method."""
        return bool(self.accelerator.reduce(torch.tensor(int(is_true), device=self.args.device), "sum"))

    def _save_checkpoint(self: Any, model: Any, trial: Any) -> None:
        wait_for_all = self.accelerator.wait_for_everyone
        first = self.is_world_process_zero()
        with self.checkpoint_directory.writing(self.state.global_step, first, wait_for_all) as directory:
            self.save_model(str(directory), _internal_call=True)
            self._save_optimizer_and_scheduler(str(directory))
            self._save_rng_state(str(directory))
            if first:
                self.state.save_to_json(str(directory / "trainer_state.json"))
                self.save_beside(directory)

    def save_beside(self, directory: Path) -> None:
        """Write the training method's own state into the checkpoint directory. By default, write nothing."""


class _Steps(TrainerCallback):  # type: ignore[misc]
    """A callback that checks the number of steps, stops the training on request, and reports each step."""

    def __init__(self, trainer: Any, hooks: TrainerHooks) -> None:
        self._trainer = trainer
        self._hooks = hooks
        self._started = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        plan = self._trainer.plan
        if state.max_steps != plan.steps:
            raise TrainingFailed(
                f"The plan has {plan.steps} steps of {plan.units_a_step} rows or packs each, but transformers counts "
                f"{state.max_steps}. The training would use different batches.",
                "Install the pinned versions (requirements/). If they are installed, report this.",
            )
        self._trainer.first_step = state.global_step
        self._started = time.monotonic()

    def on_step_end(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        """Save a checkpoint and end the training if any process has received a stop request, or at `until_step`."""
        if state.global_step >= self._trainer.plan.steps:
            control.should_save = False  # the training's result is saved instead
        elif state.global_step == self._trainer.job.until_step:
            control.should_save = control.should_training_stop = True
        elif self._trainer.any_process(self._hooks.should_stop()):
            self._trainer.stop_requested = control.should_save = control.should_training_stop = True

    def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **named: Any) -> None:
        if "loss" not in logs:
            return
        plan, step, first = self._trainer.plan, state.global_step, self._trainer.first_step
        elapsed = time.monotonic() - self._started
        self._hooks.on_step(
            Step(
                step=step,
                steps=plan.steps,
                loss=logs["loss"],
                tokens_per_second=(plan.tokens_until(step) - plan.tokens_until(first)) / elapsed,
                seconds_left=elapsed / (step - first) * (plan.steps - step),
            )
        )


class PackedTrainer(GuardedTrainer, Trainer):  # type: ignore[misc]
    """A Trainer that computes its losses on packed rows."""

    loss_is_scaled_for_ga = True  # compute_loss divides by the number of tokens or replies in the whole step

    _step_total: Any
    """Sum of the step's losses so far, float64."""
    _step_items: Any
    """Number of tokens, pairs or replies over which the step's loss is averaged."""
    _noted: dict[str, list[float]]
    """Mapping of metric to its values so far, in this step and this process; for the log."""

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
        """Return one loss for each supervised token, [n]. `Batches.fillers` have no loss."""
        return -token_log_probabilities(model, inputs, self.job.tuning.packing)

    def items_of(self, batch: Batch) -> int:
        """Return the number of supervised tokens in the batch. The step's loss is a mean over these tokens."""
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
        """Add values to a metric. The log gets the mean of the metric's values over the whole step."""
        self._noted.setdefault(name, []).extend(values.tolist())

    def _begin_step(self) -> None:
        self._step_total = torch.zeros((), dtype=torch.float64)
        self._step_items = None
        self._noted = {}

    def _get_num_items_in_batch(self, batch_samples: list[Batch], device: Any) -> Any:
        count = sum(self.items_of(batch) for batch in batch_samples)
        return self.accelerator.gather(torch.tensor(count, device=device)).sum()


def training_arguments(job: TrainingJob, argument_class: Any = TrainingArguments, **more: Any) -> Any:
    """Build transformers' arguments for a job. The plan already repeats and orders the rows, so transformers trains one
    epoch in the plan's order.

    argument_class: TrainingArguments, or a TRL class derived from it. more: further arguments, which override the
        arguments set here.
    """
    tuning = job.tuning
    device: Device = "cuda" if torch.cuda.is_available() else "cpu"
    optimizers = {"adamw": "adamw_torch", "paged_adamw_8bit": "paged_adamw_8bit"}
    schedulers = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}
    values: dict[str, Any] = dict(
        output_dir=str(job.output.with_name("trainer")),
        per_device_train_batch_size=tuning.batch_size,
        gradient_accumulation_steps=tuning.gradient_accumulation,
        learning_rate=job.learning_rate,
        lr_scheduler_type=schedulers[tuning.scheduler],
        warmup_steps=tuning.warmup_steps,
        num_train_epochs=1,
        optim=optimizers[optimizer_in_effect(job.sft, device, job.devices.count)],
        max_grad_norm=1.0,
        seed=job.seed,
        data_seed=job.seed,
        train_sampling_strategy="sequential",
        bf16=job.sft.precision == "bfloat16",
        use_cpu=device == "cpu",
        gradient_checkpointing=job.sft.gradient_checkpointing,
        gradient_checkpointing_kwargs={"use_reentrant": False},
        logging_steps=1,
        logging_nan_inf_filter=False,
        save_strategy="steps",
        save_steps=job.checkpoints.every_steps,
        remove_unused_columns=False,
        report_to="none",
        disable_tqdm=True,
        **sharding_arguments(job),
    )
    arguments = argument_class(**values | more)
    # If a process saw several GPUs, transformers would multiply the batch size by their number.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments
