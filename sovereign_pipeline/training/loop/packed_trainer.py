"""transformers' Trainer with losses on packed rows, whole checkpoints, and guarded steps.

The one module of this package besides `attention.py` that imports torch or transformers at its top: import it inside
the functions that need it. What belongs here: the Trainer, its callbacks and its arguments. What does not: the
formulas (`losses.py`), the batches (`batches.py`), and what happens before and after the steps (`trainer.py`).
"""

import time
from typing import Any

import torch
from transformers import Trainer, TrainerCallback, TrainingArguments
from transformers.trainer_callback import PrinterCallback

from sovereign_pipeline.errors import TrainingFailed
from sovereign_pipeline.training.job import TrainingJob
from sovereign_pipeline.training.loop.batches import Batches
from sovereign_pipeline.training.loop.checkpoints import CheckpointDirectory
from sovereign_pipeline.training.loop.devices import (
    check_sharded,
    let_accelerate_shard_on_cpu,
    meet,
    sharding_arguments,
)
from sovereign_pipeline.training.loop.forward import Batch, reply_log_probabilities, token_log_probabilities
from sovereign_pipeline.training.loop.guards import check_step
from sovereign_pipeline.training.loop.hooks import Step, TrainerHooks
from sovereign_pipeline.training.loop.losses import kto_loss, pair_loss
from sovereign_pipeline.training.loop.plan import Plan
from sovereign_pipeline.training.sizing.sizing import Device, optimizer_in_effect


def packed_trainer(job: TrainingJob, model: Any, batches: Batches, hooks: TrainerHooks) -> "PackedTrainer":
    """The Trainer of a job, ready to train."""
    trainer = PackedTrainer(job, model, batches)
    trainer.remove_callback(PrinterCallback)  # it writes to stdout, where progress goes
    trainer.add_callback(PlanCheck(trainer))
    trainer.add_callback(StopOnRequest(trainer, hooks))
    trainer.add_callback(StepProgress(trainer, hooks))
    return trainer


class PackedTrainer(Trainer):  # type: ignore[misc]
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
        self.plan: Plan = batches.plan
        self.checkpoint_directory = CheckpointDirectory(job.checkpoint_directory, job.identity, job.checkpoints.keep)
        self.first_step = 0
        """The step that this process's training started after."""
        self.stop_requested = False
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

    def any_process(self, is_true: bool) -> bool:
        """Whether it is true in any of the processes; every one of them must ask."""
        return bool(self.accelerator.reduce(torch.tensor(int(is_true), device=self.args.device), "sum"))

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

    def _save_checkpoint(self, model: Any, trial: Any) -> None:
        wait_for_all = self.accelerator.wait_for_everyone
        first = self.is_world_process_zero()
        with self.checkpoint_directory.writing(self.state.global_step, first, wait_for_all) as directory:
            self.save_model(str(directory), _internal_call=True)
            self._save_optimizer_and_scheduler(str(directory))
            self._save_rng_state(str(directory))
            if first:
                self.state.save_to_json(str(directory / "trainer_state.json"))


class PlanCheck(TrainerCallback):  # type: ignore[misc]
    """Refuses a training whose number of steps is not the plan's: it would train other batches."""

    def __init__(self, trainer: PackedTrainer) -> None:
        self._trainer = trainer

    def on_train_begin(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        plan = self._trainer.plan
        if state.max_steps != plan.steps:
            raise TrainingFailed(
                f"The plan has {plan.steps} steps of {plan.units_a_step} rows or packs each, and transformers counts "
                f"{state.max_steps}. It would train other batches.",
                "Install the pinned versions (requirements/). If they are installed, report this.",
            )
        self._trainer.first_step = state.global_step


class StopOnRequest(TrainerCallback):  # type: ignore[misc]
    """Ends the training after the present step, with a checkpoint, when any process was requested to stop."""

    def __init__(self, trainer: PackedTrainer, hooks: TrainerHooks) -> None:
        self._trainer = trainer
        self._hooks = hooks

    def on_step_end(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        if state.global_step >= self._trainer.plan.steps:
            control.should_save = False  # the result itself follows
        elif self._trainer.any_process(self._hooks.should_stop()):
            self._trainer.stop_requested = control.should_save = control.should_training_stop = True


class StepProgress(TrainerCallback):  # type: ignore[misc]
    """Reports each step to the trainer's process."""

    def __init__(self, trainer: PackedTrainer, hooks: TrainerHooks) -> None:
        self._trainer = trainer
        self._hooks = hooks
        self._started = 0.0

    def on_train_begin(self, args: Any, state: Any, control: Any, **named: Any) -> None:
        self._started = time.monotonic()

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


def training_arguments(job: TrainingJob) -> TrainingArguments:
    """transformers' arguments for a job. The plan holds epochs and order, so there is one pass in that order."""
    tuning = job.tuning
    schedulers = {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}
    arguments = TrainingArguments(
        output_dir=str(job.output.with_name("trainer")),
        per_device_train_batch_size=tuning.batch_size,
        gradient_accumulation_steps=tuning.gradient_accumulation,
        learning_rate=job.learning_rate,
        lr_scheduler_type=schedulers[tuning.scheduler],
        warmup_steps=tuning.warmup_steps,
        num_train_epochs=1,
        optim=_optimizer(job),
        max_grad_norm=1.0,
        seed=job.seed,
        data_seed=job.seed,
        train_sampling_strategy="sequential",
        bf16=job.sft.precision == "bfloat16",
        use_cpu=not torch.cuda.is_available(),
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
    # Where a process sees several GPUs, transformers would make a batch as many times larger and spread it over them.
    arguments._n_gpu = min(arguments.n_gpu, 1)
    return arguments


def _optimizer(job: TrainingJob) -> str:
    """transformers' name for the recipe's optimizer on this machine; see Sft."""
    device: Device = "cuda" if torch.cuda.is_available() else "cpu"
    names = {"adamw": "adamw_torch", "paged_adamw_8bit": "paged_adamw_8bit"}
    return names[optimizer_in_effect(job.sft, device, job.devices.count)]
