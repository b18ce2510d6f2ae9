"""MODULE DOCSTRING."""

import time
from collections.abc import Callable, Sequence
from typing import Any

from sovereign_pipeline.errors import TrainingFailed
from sovereign_pipeline.training.job import TrainingJob
from sovereign_pipeline.training.loop.checkpoints import CheckpointDirectory
from sovereign_pipeline.training.loop.devices import check_sharded, let_accelerate_shard_on_cpu, sharding_arguments
from sovereign_pipeline.training.loop.forward import Batch, packed, reply_log_probabilities, token_log_probabilities
from sovereign_pipeline.training.loop.guards import check_step
from sovereign_pipeline.training.loop.losses import kto_loss, pair_loss
from sovereign_pipeline.training.loop.outside import Outside, Step
from sovereign_pipeline.training.loop.plan import Plan
from sovereign_pipeline.training.loop.references import key_of, reference_log_probabilities
from sovereign_pipeline.training.loop.rows import Completion, exchanged
from sovereign_pipeline.training.sizing.sizing import Device, optimizer_in_effect


class Batches:
    """Units of the plan as tensors, with what each method needs beside the rows. Of a unit's place in the plan only."""

    def __init__(
        self, job: TrainingJob, plan: Plan, model: Any, tell: Callable[[str], None], go_on: Callable[[], None]
    ) -> None:
        self.plan = plan
        self._job = job
        self._references: dict[str, float] = {}
        if job.method == "sft":
            return
        completions = [each for row in plan.rows for each in row.completions]
        if job.method == "kto":
            size = job.tuning.batch_size
            units = plan.units
            for place in range(0, len(units), size):
                completions += exchanged([row for unit in units[place : place + size] for row in unit])
        self._references = reference_log_probabilities(job, model, completions, tell, go_on)

    @property
    def places(self) -> list[int]:
        """Of the units in the plan; at the end as many beyond it as let every device have a batch as large."""
        together = self._job.tuning.batch_size * self._job.devices.count
        return list(
            range(len(self.plan.units) + (-len(self.plan.units) % together if self._job.devices.count > 1 else 0))
        )

    def collate(self, places: Sequence[int]) -> Batch:
        rows = [row for place in places for unit in self.plan.units[place : place + 1] for row in unit]
        completions = [each for row in rows for each in row.completions]
        if not rows:  # a device for which the last step has nothing takes part with a row that nothing is learned from
            completions = [Completion(list(self._job.eos_ids[:1]) * 2, [])]
        batch = packed(completions)
        if self._job.method == "sft":
            return batch
        batch["references"] = self._of(completions)
        if self._job.method == "kto":
            import torch

            batch["desirable"] = torch.tensor([row.desirable for row in rows])
            others = exchanged(rows)
            batch["exchanged"] = {**packed(others), "references": self._of(others)}
        return batch

    def _of(self, completions: Sequence[Any]) -> Any:
        import torch

        return torch.tensor([self._references[key_of(each)] for each in completions], dtype=torch.float32)


def packed_trainer(job: TrainingJob, model: Any, batches: Batches, outside: Outside) -> Any:
    """A transformers Trainer whose losses are read off packed rows, whose checkpoints are whole or absent, and whose
    steps are guarded."""
    import torch
    from transformers import Trainer, TrainerCallback
    from transformers.trainer_callback import PrinterCallback

    plan = batches.plan
    together = job.tuning.packing

    class PackedTrainer(Trainer):  # type: ignore[misc]
        loss_is_scaled_for_ga = True  # by the number of tokens or replies in the whole step, in compute_loss

        def __init__(self, *arguments: Any, **named: Any) -> None:
            super().__init__(*arguments, **named)
            self.checkpoint_directory = CheckpointDirectory(
                job.checkpoint_directory, job.identity, job.checkpoints.keep
            )
            self.first_step = 0
            self.stops_as_asked = False
            self._begin_step()
            check_sharded(job, self.accelerator)

        def create_accelerator_and_postprocess(self) -> None:
            if job.devices.count > 1 and self.args.use_cpu:
                let_accelerate_shard_on_cpu()
            super().create_accelerator_and_postprocess()

        def asked_to_stop(self) -> bool:
            """Whether any of the processes was asked, so that all of them end after the same step."""
            asked = torch.tensor(int(outside.stop()), device=self.args.device)
            return bool(self.accelerator.reduce(asked, "sum"))

        def _begin_step(self) -> None:
            self._step_total: Any = torch.zeros((), dtype=torch.float64)
            self._step_items: Any = None
            self._noted: dict[str, list[float]] = {}

        def _get_num_items_in_batch(self, batch_samples: list[Batch], device: Any) -> Any:
            """What the step's loss is a mean over: supervised tokens for SFT, pairs or replies for preferences."""
            if job.method == "sft":
                count = sum(int((batch["labels"][0, 1:] >= 0).sum()) for batch in batch_samples)
            else:
                replies = sum(len(batch["lengths"]) for batch in batch_samples)
                count = replies if job.method == "kto" else replies // 2
            return self.accelerator.gather(torch.tensor(count, device=device)).sum()

        def compute_loss(
            self, model: Any, inputs: Batch, return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            losses = self._losses(model, inputs)
            self._step_total = self._step_total + losses.detach().sum().double().cpu()
            self._step_items = num_items_in_batch
            # Gradients are averaged over the devices, and the loss is already a mean over what all of them hold.
            return losses.sum() / num_items_in_batch * self.accelerator.num_processes

        def _losses(self, model: Any, inputs: Batch) -> Any:
            if job.method == "sft":
                return -token_log_probabilities(model, inputs, together)
            assert job.preference is not None
            sums, tokens = reply_log_probabilities(model, inputs, together)
            log_ratios = sums - inputs["references"]
            if job.method != "kto":
                loss = pair_loss(job.preference, log_ratios, tokens)
                self._note("rewards/margins", loss.margins)
                self._note("rewards/accuracies", (loss.rewards[0::2] > loss.rewards[1::2]).float())
                return loss.losses
            with torch.no_grad():
                others, _ = reply_log_probabilities(model, inputs["exchanged"], together)
                divergence = (others - inputs["exchanged"]["references"]).mean().clamp(min=0)
            loss = kto_loss(job.preference, log_ratios, inputs["desirable"], divergence)
            self._note("kl", divergence[None])
            self._note("rewards/chosen", loss.rewards[inputs["desirable"]])
            self._note("rewards/rejected", loss.rewards[~inputs["desirable"]])
            return loss.losses

        def _note(self, name: str, values: Any) -> None:
            self._noted.setdefault(name, []).extend(values.tolist())

        def log(self, logs: dict[str, float], start_time: float | None = None) -> None:
            if "loss" in logs:
                total = self.accelerator.reduce(self._step_total.float().to(self.args.device), "sum")
                check_step(self.state.global_step, plan.steps, logs, float(total / self._step_items))
                logs |= {name: sum(values) / len(values) for name, values in self._noted.items() if values}
                self._begin_step()
            super().log(logs, start_time)

        def _save_checkpoint(self, model: Any, trial: Any) -> None:
            waiting = self.accelerator.wait_for_everyone
            first = self.is_world_process_zero()
            with self.checkpoint_directory.writing(self.state.global_step, first, waiting) as directory:
                self.save_model(str(directory), _internal_call=True)
                self._save_optimizer_and_scheduler(str(directory))
                self._save_rng_state(str(directory))
                if first:
                    self.state.save_to_json(str(directory / "trainer_state.json"))

    class Callback(TrainerCallback):  # type: ignore[misc]
        started = 0.0

        def on_train_begin(self, args: Any, state: Any, control: Any, **named: Any) -> None:
            if state.max_steps != plan.steps:
                raise TrainingFailed(
                    f"The plan has {plan.steps} steps of {plan.units_a_step} rows or packs each and transformers "
                    f"counts {state.max_steps}, so it would train other batches. Install the pinned versions "
                    f"(constraints.txt); if they are, report this."
                )
            self.started = time.monotonic()
            trainer.first_step = state.global_step

        def on_step_end(self, args: Any, state: Any, control: Any, **named: Any) -> None:
            if state.global_step >= plan.steps:
                control.should_save = False  # what comes now is the result itself
            elif trainer.asked_to_stop():
                trainer.stops_as_asked = control.should_save = control.should_training_stop = True

        def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **named: Any) -> None:
            if "loss" not in logs:
                return
            step, first = state.global_step, trainer.first_step
            elapsed = time.monotonic() - self.started
            outside.on_step(
                Step(
                    step=step,
                    steps=plan.steps,
                    loss=logs["loss"],
                    tokens_per_second=(plan.tokens_until(step) - plan.tokens_until(first)) / elapsed,
                    seconds_left=elapsed / (step - first) * (plan.steps - step),
                )
            )

    trainer = PackedTrainer(
        model=model,
        args=_arguments(job),
        data_collator=batches.collate,
        train_dataset=batches.places,
    )
    trainer.remove_callback(PrinterCallback)  # it writes to stdout, where progress goes
    trainer.add_callback(Callback())
    return trainer


def _arguments(job: TrainingJob) -> Any:
    """The plan holds the epochs and the order, so the trainer makes one pass in that order."""
    import torch
    from transformers import TrainingArguments

    tuning = job.tuning
    arguments = TrainingArguments(
        output_dir=str(job.output.with_name("trainer")),
        per_device_train_batch_size=tuning.batch_size,
        gradient_accumulation_steps=tuning.gradient_accumulation,
        learning_rate=job.learning_rate,
        lr_scheduler_type={"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}[
            tuning.scheduler
        ],
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
    """transformers' name for the recipe's optimizer, on this machine; see Sft."""
    import torch

    device: Device = "cuda" if torch.cuda.is_available() else "cpu"
    named = {"adamw": "adamw_torch", "paged_adamw_8bit": "paged_adamw_8bit"}
    return named[optimizer_in_effect(job.sft, device, job.devices.count)]
