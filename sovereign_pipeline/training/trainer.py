"""One training, inside the trainer's process: rows, model, guards, steps, and what came out. The process itself (lock,
parent, answers) is `worker.py`.

The loop, its optimizer and its schedule are transformers' Trainer; the batches and the losses are ours, because rows
are packed without padding for every method (docs/decisions/0005).
"""

import importlib.metadata
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from sovereign_pipeline.artifacts.hashing import canonical_json
from sovereign_pipeline.corpus.document import read_jsonl, write_jsonl
from sovereign_pipeline.errors import TrainingFailed
from sovereign_pipeline.policy.training import Preference, Sft
from sovereign_pipeline.training.base_models import refuse_todays_date
from sovereign_pipeline.training.checkpoints import CheckpointDirectory
from sovereign_pipeline.training.devices import check_sharded, let_accelerate_shard_on_cpu, sharding_arguments
from sovereign_pipeline.training.forward import (
    Batch,
    packed,
    passes_in,
    reply_log_probabilities,
    token_log_probabilities,
)
from sovereign_pipeline.training.guards import (
    check_adapter_moved,
    check_rows_are_kept_apart,
    check_step,
    check_template,
    check_trainable,
    check_vocabulary,
    lora_b,
    start_probe,
)
from sovereign_pipeline.training.job import TrainingJob
from sovereign_pipeline.training.losses import kto_loss, pair_loss
from sovereign_pipeline.training.models import load_trainable, save_adapter, save_model
from sovereign_pipeline.training.plan import Plan, make_plan
from sovereign_pipeline.training.preflight import available_memory, check_host, host_memory, preflight
from sovereign_pipeline.training.references import key_of, reference_log_probabilities
from sovereign_pipeline.training.rows import Completion, EncodedRow, RowsForTraining, encode, exchanged, guard
from sovereign_pipeline.training.sizing import Device, Forward, optimizer_in_effect

LIBRARIES = ("accelerate", "bitsandbytes", "peft", "safetensors", "torch", "transformers", "trl")
LOGGED = (
    "loss",
    "learning_rate",
    "grad_norm",
    "rewards/accuracies",
    "rewards/margins",
    "rewards/chosen",
    "rewards/rejected",
    "kl",
)


@dataclass(frozen=True)
class Step:
    """Where the training stands. loss: of this step; tokens_per_second: since the start; seconds_left: an estimate."""

    step: int
    steps: int
    loss: float
    tokens_per_second: float
    seconds_left: float


@dataclass(frozen=True)
class Outside:
    """How the trainer reaches its process. stop: whether somebody asked for an end, which a checkpoint precedes."""

    on_step: Callable[[Step], None]
    tell: Callable[[str], None]
    stop: Callable[[], bool] = lambda: False


def train(job: TrainingJob, outside: Outside) -> dict[str, float]:
    """Train as the job says and write the adapter or model, `training_log.jsonl`, `report.json`; see TrainingJob.

    Goes on from the newest whole checkpoint of this job. Returns what was measured. Raises TrainingFailed when a guard
    fires, a checkpoint cannot be written, or an end was asked for.
    """
    import torch
    import transformers
    from transformers import AutoTokenizer

    transformers.utils.logging.disable_progress_bar()
    _make_deterministic(job.seed)
    started = time.monotonic()
    tokenizer = AutoTokenizer.from_pretrained(job.base_model)
    check_template(tokenizer, job)
    refuse_todays_date(str(tokenizer.chat_template), job.base_model)
    encoded = [encode(tokenizer, job.method, row, job.eos_ids) for row in read_jsonl(job.dataset)]
    rows = guard(encoded, job.tuning.max_length, job.sft.max_cut_share, job.eos_ids)
    plan = make_plan(job, rows.rows)
    check_memory(job, plan, encoded)
    go_on = partial(_refuse_when_asked_to_stop, job, outside)
    go_on()
    model = load_trainable(job, outside.tell)
    go_on()
    check_vocabulary(tokenizer, model, rows.rows)
    trainable = check_trainable(model, job.sft.adapter)
    with passes_in(job.sft.precision, model.device.type):
        if job.tuning.packing and len(rows.rows) > 1:
            check_rows_are_kept_apart(model, rows.rows, job.sft.precision, job.tuning.max_length)
        probe = start_probe(model, plan.rows)
        before_references = time.monotonic()
        batches = _Batches(job, plan, model, outside.tell, go_on)
    referred = time.monotonic()
    start = lora_b(model.named_parameters())
    trainer = _trainer(job, model, batches, outside)
    checkpoint = trainer.checkpoint_directory.newest(outside.tell)
    if checkpoint is not None:
        outside.tell(f"going on from {checkpoint.name}")
    go_on()
    prepared = time.monotonic()
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    trained = time.monotonic()
    done = trainer.state.global_step
    if done < plan.steps and trainer.stops_as_asked:
        raise TrainingFailed(
            f"Stopped at step {done} of {plan.steps}, as was asked. A checkpoint is kept; run again to go on from it."
        )
    if done != plan.steps:
        raise TrainingFailed(
            f"The training ended after step {done} of {plan.steps}, and nobody had asked for that, so nothing was made "
            f"of it. Install the pinned versions (constraints.txt); if they are, report this."
        )
    # On several devices the next two need all of them; what follows is the first one's alone.
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    with passes_in(job.sft.precision, model.device.type):
        loss_after = probe.loss(model)
    if not trainer.is_world_process_zero():
        return {}
    probe.check_moved(loss_after, job.method)
    if job.sft.adapter != "none":
        check_adapter_moved(lora_b(state.items()), start)
    job.output.mkdir()
    (save_model if job.sft.adapter == "none" else save_adapter)(model, state, job)
    log = [_log_row(entry) for entry in trainer.state.log_history if "loss" in entry]
    write_jsonl(job.output / "training_log.jsonl", log)
    report = {
        **_report(job, rows, plan, log, trainer),
        "trainable_parameters": trainable,
        "probe_loss_before": probe.before,
        "probe_loss_after": loss_after,
    }
    (job.output / "report.json").write_bytes(canonical_json(report) + b"\n")
    cuda = torch.cuda.is_available()
    tokens = plan.tokens_until(plan.steps) - plan.tokens_until(trainer.first_step)
    return {
        "training_seconds": round(trained - prepared, 3),
        "preparation_seconds": round(prepared - started, 3),
        "reference_seconds": round(referred - before_references, 3),
        "saving_seconds": round(time.monotonic() - trained, 3),
        "tokens_per_second": round(tokens / (trained - prepared), 2),
        "resumed_at_step": float(trainer.first_step),
        "peak_memory_bytes": float(
            torch.cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        ),
    }


def check_memory(job: TrainingJob, plan: Plan, encoded: Sequence[EncodedRow]) -> None:
    """Raise TrainingFailed when the training cannot fit. Processes on CPUs share what memory the machine has.

    encoded: all rows, those that are too long for the plan too.
    """

    def largest(sft: Sft, preference: Preference | None) -> Forward | None:
        asked = job.model_copy(update={"sft": sft, "preference": preference})
        if (asked.tuning.max_length, asked.tuning.batch_size) == (job.tuning.max_length, job.tuning.batch_size):
            return plan.largest_forward
        try:
            rows = guard(encoded, asked.tuning.max_length, sft.max_cut_share, job.eos_ids)
        except TrainingFailed:  # too many rows are too long for that
            return None
        return make_plan(asked, rows.rows).largest_forward

    check_host(job.base_model, job.sft, job.devices.count, host_memory())
    available, device = available_memory()
    preflight(
        job.base_model,
        job.sft,
        job.preference,
        available_bytes=available // (job.devices.count if device == "cpu" else 1),
        device=device,
        devices=job.devices.count,
        largest=largest,
    )


def _refuse_when_asked_to_stop(job: TrainingJob, outside: Outside) -> None:
    """Before the first step, where there is nothing to save. Of several devices none may leave the others waiting for
    it: they are asked together, after a step."""
    if job.devices.count == 1 and outside.stop():
        raise TrainingFailed(
            "Stopped before a step was trained, as was asked. Run again; a checkpoint, if any, is kept."
        )


def _make_deterministic(seed: int) -> None:
    import torch
    from transformers import set_seed

    set_seed(seed)
    # "warn": an operation without a deterministic form runs all the same. On CPU none that is used here lacks one.
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False


class _Batches:
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


def _trainer(job: TrainingJob, model: Any, batches: _Batches, outside: Outside) -> Any:
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


def _log_row(entry: dict[str, float]) -> dict[str, object]:
    return {"step": entry["step"], **{name: float(entry[name]) for name in LOGGED if name in entry}}


def _report(
    job: TrainingJob, rows: RowsForTraining, plan: Plan, log: list[dict[str, object]], trainer: Any
) -> dict[str, Any]:
    import torch

    optimizer = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
    tokens = sum(row.tokens for row in rows.rows)
    cuda = torch.cuda.is_available()
    return {
        "method": job.method,
        "adapter": job.sft.adapter,
        "steps": plan.steps,
        "rows": len(rows.rows),
        "tokens": tokens,
        "tokens_trained": plan.tokens_until(plan.steps),
        "supervised_share": round(sum(row.supervised for row in rows.rows) / tokens, 6),
        "rows_cut": len(rows.cut),
        "rows_cut_ids": list(rows.cut),
        "units_left_out": plan.left_out,
        "first_loss": log[0]["loss"],
        "last_loss": log[-1]["loss"],
        "data_order_sha256": plan.order_digest,
        "optimizer": f"{type(optimizer).__module__}.{type(optimizer).__qualname__}",
        "optimizer_paged": bool(cuda and getattr(optimizer, "is_paged", False)),
        "learning_rate": job.learning_rate,
        "weight_decay": optimizer.param_groups[0]["weight_decay"],
        "betas": list(optimizer.param_groups[0]["betas"]),
        "scheduler": str(getattr(trainer.args.lr_scheduler_type, "value", trainer.args.lr_scheduler_type)),
        "precision": job.sft.precision,
        "base_held_as": _held_as(job),
        "trained_in": "float32",
        "attention": trainer.model.config.get_text_config()._attn_implementation,
        "gradient_checkpointing": job.sft.gradient_checkpointing,
        "packing": job.tuning.packing,
        "seed": job.seed,
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "devices": job.devices.count,
        "sharding": job.devices.sharding if job.devices.count > 1 else None,
        "threads": torch.get_num_threads(),
        "libraries": {name: importlib.metadata.version(name) for name in LIBRARIES},
        "base_model": {
            "name": job.base_model_name,
            "digest": job.base_model_digest,
            "chat_template_sha256": job.chat_template_sha256,
        },
    }


def _held_as(job: TrainingJob) -> str:
    if job.sft.adapter == "none":
        return "float32"
    return "nf4, double quantisation" if job.sft.adapter == "qlora" else job.sft.precision
