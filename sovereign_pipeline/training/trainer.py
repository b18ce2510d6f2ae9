"""Run a training job in the trainer's process. `methods/` implements the steps that differ between methods."""

import importlib.metadata
import resource
import time
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

from sovereign_pipeline.base.errors import TrainingFailed, TrainingStopped
from sovereign_pipeline.base.files import Frozen, canonical_json
from sovereign_pipeline.base.text import Countdown
from sovereign_pipeline.base_models.shapes import read_shape
from sovereign_pipeline.base_models.stages import refuse_todays_date
from sovereign_pipeline.corpus.document import write_jsonl
from sovereign_pipeline.policy.training import Preference, Sft
from sovereign_pipeline.training.checkpoints import CheckpointDirectory
from sovereign_pipeline.training.compute import Passed, TrainingCompute
from sovereign_pipeline.training.devices import meet, on_this_machine
from sovereign_pipeline.training.forward import (
    in_evaluation_mode,
    packed,
    passes_in,
    row_lengths,
    token_log_probabilities,
)
from sovereign_pipeline.training.guards import (
    check_adapter_moved,
    check_passes_repeat,
    check_rows_are_kept_apart,
    check_template,
    check_trainable,
    check_vocabulary,
    lora_b,
    start_probe,
)
from sovereign_pipeline.training.job import TrainerHooks, TrainingJob, stopped_before_first_step
from sovereign_pipeline.training.models import load_trainable, save_adapter, save_model
from sovereign_pipeline.training.plan import make_plan
from sovereign_pipeline.training.preflight import available_memory, check_host, host_memory, preflight
from sovereign_pipeline.training.report import (
    REPORT_FILE,
    SELECTION_FILE,
    TRAINING_LIBRARIES,
    TRAINING_LOG_FILE,
    BaseModelIdentity,
    Libraries,
    LoggedStep,
    TrainingReport,
    TrlNumerics,
)
from sovereign_pipeline.training.rows import EncodedRow, guard, stored_rows
from sovereign_pipeline.training.sizing import Forward

LOSS_DIGITS = 6
"""Number of decimal digits to which losses on the selection side are rounded."""


@dataclass(frozen=True)
class Outcome:
    """The files that a training run writes into the job's output directory."""

    save: Callable[[], None]
    """Function that writes the adapter or the model."""
    files: Mapping[str, Frozen | Sequence[Mapping[str, object]]]
    """Mapping of file name to content. A record is written as JSON, and a sequence of rows as JSONL."""


class Method(ABC):
    """A training method; an instance runs one job. `train` calls the methods of this class in the order below."""

    reference_seconds: float = 0.0
    """Seconds within `learn` that were spent on computing or reading reference log-probabilities."""

    def __init__(self, job: TrainingJob, hooks: TrainerHooks) -> None:
        self.job = job
        self.hooks = hooks

    @abstractmethod
    def read_data(self, tokenizer: Any) -> None:
        """Read and check the rows or prompts, and decide the order in which they are used."""

    @abstractmethod
    def check_memory(self) -> None:
        """Raise TrainingFailed if the job does not fit into free memory."""

    def load(self) -> Any:
        """Load the model and add the parts that are trained."""
        return load_trainable(self.job, self.hooks.progress, self.hooks.kept)

    @abstractmethod
    def prepare(self, model: Any) -> None:
        """Check the model, measure it before the first step, and build the trainer."""

    def start(self, checkpoint: Path | None) -> None:  # noqa: B027
        """Restore the training method's own state from a checkpoint. Without a checkpoint, create the state."""

    @abstractmethod
    def learn(self, checkpoint: Path | None) -> None:
        """Train all steps after this checkpoint, or all steps if there is no checkpoint. Raises TrainingStopped after a
        stop request, and TrainingFailed if a check of a step fails."""

    @property
    @abstractmethod
    def progress_made(self) -> tuple[int, int]:
        """The step at which this process resumed, and the number of tokens that this process has trained on."""

    @abstractmethod
    def finish(self) -> Outcome | None:
        """Check the trained model, and return the files to write. With several processes, only the first process
        returns files, and all others return None. Raises TrainingFailed if a check fails."""

    def close(self) -> None:  # noqa: B027
        """Free resources that would outlive the process. Called after a success and after a failure."""

    def check_stop(self) -> None:
        """Raise TrainingStopped if a stop was requested before the first step, when there is nothing to save. With
        several processes this method does nothing. Instead, all processes check for a stop request together, before
        each batch of reference log-probabilities and after each step. So no process waits for a process that has ended.
        """
        if self.job.devices.count == 1 and self.hooks.should_stop():
            raise stopped_before_first_step()


def train(method: Method) -> dict[str, float]:
    """Run the method's job, and write its result, log and report into the job's output directory.

    The training resumes from the newest intact checkpoint of this job.

    Returns:
        Durations (s), rates (tokens/s) and bytes. With several devices, all processes but the first return an empty
        dict.

    Raises:
        RecipeError: The chat template inserts the current date.
        TrainingFailed: A guard failed, or a checkpoint could not be written.
        TrainingStopped: A stop was requested.
    """
    import transformers
    from transformers import AutoTokenizer

    job, hooks = method.job, method.hooks
    transformers.utils.logging.disable_progress_bar()
    make_deterministic(job.seed)
    started = time.monotonic()
    tokenizer = AutoTokenizer.from_pretrained(job.base_model)
    check_template(tokenizer, job)
    refuse_todays_date(str(tokenizer.chat_template), job.base_model)
    method.read_data(tokenizer)
    method.check_memory()
    method.check_stop()
    hooks.progress(f"loading the base model {job.base_model_name}")
    model = method.load()
    method.check_stop()
    method.prepare(model)
    checkpoint = CheckpointDirectory.of(job).newest(hooks.progress, before=job.until_step)
    if checkpoint is not None:
        hooks.progress(f"resuming from {checkpoint.name}")
    method.check_stop()
    method.start(checkpoint)
    prepared = time.monotonic()
    method.learn(checkpoint)
    trained = time.monotonic()
    outcome = method.finish()
    if outcome is None:
        return {}
    hooks.progress(f"saving the {'model' if job.sft.adapter == 'none' else 'adapter'} and its report")
    _write(job, outcome)
    first_step, tokens = method.progress_made
    training = trained - prepared - method.reference_seconds
    return {
        "training_seconds": round(training, 3),
        "preparation_seconds": round(prepared - started + method.reference_seconds, 3),
        "reference_seconds": round(method.reference_seconds, 3),
        "saving_seconds": round(time.monotonic() - trained, 3),
        "tokens_per_second": round(tokens / training, 2),
        "resumed_at_step": float(first_step),
        "peak_memory_bytes": _peak_memory(),
    }


def make_deterministic(seed: int) -> None:
    """Seed every library, and make torch use deterministic operations."""
    import torch
    from transformers import set_seed

    set_seed(seed)
    # warn_only: an operation without a deterministic form still runs. On CPUs, all operations used here have one.
    torch.use_deterministic_algorithms(True, warn_only=True)
    # No operation here reads memory before it is written; filling new tensors takes 2 % of a training's CPU time.
    torch.utils.deterministic.fill_uninitialized_memory = False
    torch.backends.cudnn.benchmark = False


def conditions(job: TrainingJob, optimizer: Any) -> dict[str, Any]:
    """Return the common fields of every report: settings, device, libraries and base model of the training run."""
    import torch

    optimizer = getattr(optimizer, "optimizer", optimizer)  # accelerate wraps the optimizer
    return {
        "optimizer": f"{type(optimizer).__module__}.{type(optimizer).__qualname__}",
        "learning_rate": job.learning_rate,
        "precision": job.sft.precision,
        "device": torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        "devices": job.devices.count,
        "threads": torch.get_num_threads(),
        "seed": job.seed,
        "libraries": Libraries(**{name: importlib.metadata.version(name) for name in TRAINING_LIBRARIES}),
        "base_model": BaseModelIdentity(
            name=job.base_model_name, digest=job.base_model_digest, chat_template_sha256=job.chat_template_sha256
        ),
    }


def training_conditions(job: TrainingJob, optimizer: Any, model: Any) -> dict[str, Any]:
    """Return `conditions`, and the other fields of a TrainingReport that describe job, optimizer and model."""
    import torch

    optimizer = getattr(optimizer, "optimizer", optimizer)
    group = optimizer.param_groups[0]
    quantised = "nf4, double quantisation" if job.sft.adapter == "qlora" else job.sft.precision
    return {
        **conditions(job, optimizer),
        "method": job.method,
        "adapter": job.sft.adapter,
        "optimizer_paged": bool(torch.cuda.is_available() and getattr(optimizer, "is_paged", False)),
        "weight_decay": group["weight_decay"],
        "betas": tuple(group["betas"]),
        "base_held_as": "float32" if job.sft.adapter == "none" else quantised,
        "trained_in": "float32",
        "attention": model.config.get_text_config()._attn_implementation,
        "gradient_checkpointing": job.sft.gradient_checkpointing,
        "packing": job.packs,
        "sharding": job.devices.sharding if job.devices.count > 1 else None,
    }


class RowsMethod(Method):
    """A method that learns from the rows of a dataset, with a trainer derived from transformers' Trainer."""

    trainer: Any

    @abstractmethod
    def build_trainer(self) -> Any:
        """Return a `GuardedTrainer` for the model and the plan."""

    def read_data(self, tokenizer: Any) -> None:
        self.tokenizer = tokenizer
        self.encoded = [row for file in self.job.row_files for row in self.encode(file)]
        self.selection = [row for file in self.job.selection for row in self.encode(file)]
        self.rows = guard(self.encoded, self.job.tuning.max_length, self.job.sft.max_cut_share, self.job.eos_ids)
        self.plan = make_plan(self.job, self.rows.rows)

    def encode(self, dataset: Path) -> list[EncodedRow]:
        job, kept = self.job, self.hooks.kept
        encoded = partial(stored_rows, job, dataset, self.tokenizer, self.hooks.progress, self.check_stop)
        return encoded() if kept is None else kept.rows(job, dataset, encoded)

    def check_memory(self) -> None:
        """Raise TrainingFailed if the job does not fit into the memory of the host or of a device. On CPUs, all
        processes share the memory of the machine."""
        job = self.job
        check_host(job.base_model, job.sft, on_this_machine(job), host_memory())
        available, device = available_memory()
        preflight(
            job.base_model,
            job.sft,
            job.preference,
            available_bytes=available // (on_this_machine(job) if device == "cpu" else 1),
            device=device,
            devices=job.devices.count,
            largest=self._largest_forward,
        )

    def prepare(self, model: Any) -> None:
        job, rows, progress = self.job, self.rows.rows, self.hooks.progress
        self.model = model
        check_vocabulary(self.tokenizer, model, rows)
        self.trainable = check_trainable(model, job.sft.adapter)
        with passes_in(job.sft.precision, model.device.type):
            progress("checking packed rows and measuring the loss before the first step")
            if job.packs and len(rows) > 1:
                check = partial(check_rows_are_kept_apart, model, rows, job.sft.precision, job.tuning.max_length)
                self._once("rows are kept apart", check)
            self.probe = start_probe(model, self.plan.rows, progress, self._once)
        if job.method != "sft":
            check_passes_repeat(model, rows, job.sft.precision)
        self.adapter_before = lora_b(model.named_parameters())
        meet(job)
        self.trainer = self.build_trainer()

    def _once(self, of: object, measure: Callable[[], Any]) -> Any:
        """Return a measurement of the model before the first step. A trainer process that stays alive between jobs
        measures each base model only once."""
        return measure() if self.hooks.kept is None else self.hooks.kept.once(self.job, of, measure)

    def learn(self, checkpoint: Path | None) -> None:
        self.trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
        self.reference_seconds = self.trainer.reference_seconds
        self.plan = self.plan.until(self.job.until_step)
        done, steps = self.trainer.state.global_step, self.plan.steps
        if done < steps and self.trainer.stop_requested:
            raise TrainingStopped(
                f"The training was stopped, as requested, at step {done} of {steps}.",
                "Run again; the training resumes from the checkpoint of this step.",
            )
        if done != steps:
            raise TrainingFailed(
                f"The training ended after step {done} of {steps} without a request to stop. Nothing was saved.",
                "Install the pinned versions (requirements/). If they are installed, report this.",
            )

    @property
    def progress_made(self) -> tuple[int, int]:
        first = self.trainer.first_step
        return first, self.plan.tokens_until(self.plan.steps) - self.plan.tokens_until(first)

    def finish(self) -> Outcome | None:
        job, model = self.job, self.model
        self.hooks.progress(f"all {self.plan.steps} steps are done; measuring the loss after the last one")
        # With several devices, this state and both losses need all processes. Only the first process does the rest.
        state = self.trained_state()
        with passes_in(job.sft.precision, model.device.type):
            loss_after = self.probe.loss(model)
            selection = selection_losses(model, self.selection, self.hooks.progress)
        if not self.trainer.is_world_process_zero():
            return None
        self.probe.check_moved(loss_after, job.method)
        if job.sft.adapter != "none":
            check_adapter_moved(lora_b(state.items()), self.adapter_before)
        log = self.log()
        return Outcome(
            save=partial(save_model if job.sft.adapter == "none" else save_adapter, model, state, job),
            files={
                TRAINING_LOG_FILE: [step.row for step in log],
                REPORT_FILE: self._report(log, loss_after),
                **({SELECTION_FILE: selection} if selection else {}),
            },
        )

    def trained_state(self) -> dict[str, Any]:
        """Return the trained tensors by name, gathered from all devices."""
        state: dict[str, Any] = self.trainer.accelerator.get_state_dict(self.trainer.model_wrapped)
        return state

    def log(self) -> list[LoggedStep]:
        return [LoggedStep.from_history(entry) for entry in self.trainer.state.log_history if "loss" in entry]

    def numerics(self) -> TrlNumerics | None:
        """Return the TRL trainer and its arguments for the report; None if TRL does not compute the loss."""
        return None

    def passed(self) -> tuple[Passed, Passed]:
        """Return the token counts: first of the forward passes that a backward pass follows, then of all others."""
        apart = not self.job.packs or bool(row_lengths(self.model, [row.longest for row in self.plan.rows]))
        return self.plan.passed(apart), Passed()

    def compute(self) -> TrainingCompute:
        """Return the token and operation counts of the whole training run, for the report."""
        shape = read_shape(str(self.job.base_model))
        return TrainingCompute.of(shape, self.job.sft, *self.passed(), sampled=Passed(), tokens_generated=0)

    def _largest_forward(self, sft: Sft, preference: Preference | None) -> Forward | None:
        """Return the largest forward pass over this dataset with the given recipe sections; None if `guard` would
        reject the rows with these sections."""
        job = self.job
        changed = job.model_copy(update={"sft": sft, "preference": preference})
        if (changed.tuning.max_length, changed.tuning.batch_size) == (job.tuning.max_length, job.tuning.batch_size):
            return self.plan.largest_forward
        try:
            rows = guard(self.encoded, changed.tuning.max_length, sft.max_cut_share, job.eos_ids)
            return make_plan(changed, rows.rows).largest_forward
        except TrainingFailed:
            return None

    def _report(self, log: Sequence[LoggedStep], loss_after: float) -> TrainingReport:
        rows, plan, trainer = self.rows, self.plan, self.trainer
        tokens = sum(row.tokens for row in rows.rows)
        scheduler = trainer.args.lr_scheduler_type
        return TrainingReport(
            **training_conditions(self.job, trainer.optimizer, trainer.model),
            trl=self.numerics(),
            steps=plan.steps,
            rows=len(rows.rows),
            tokens=tokens,
            tokens_trained=plan.tokens_until(plan.steps),
            compute=self.compute(),
            supervised_share=round(sum(row.supervised for row in rows.rows) / tokens, 6),
            rows_cut=len(rows.cut),
            rows_cut_ids=rows.cut,
            rows_by_turn_ids=tuple(dict.fromkeys(row.id for row in rows.rows if row.turn is not None)),
            rows_shortened_ids=tuple(dict.fromkeys(row.id for row in rows.rows if row.dropped)),
            units_left_out=plan.left_out,
            first_loss=log[0].loss,
            last_loss=log[-1].loss,
            trainable_parameters=self.trainable,
            scheduler=str(getattr(scheduler, "value", scheduler)),
            data_order_sha256=plan.order_digest,
            probe_loss_before=self.probe.before,
            probe_loss_after=loss_after,
        )


def selection_losses(
    model: Any, rows: Sequence[EncodedRow], progress: Callable[[str], None]
) -> list[dict[str, object]]:
    """Return one dict for each document of the selection side, in the order of `rows`: its id, its number of reply
    tokens, and its mean loss per reply token (nats). Rows that are longer than the model's context are omitted."""
    countdown = Countdown(progress, "loss on the selection side", len(rows), "row")
    longest = getattr(model.config.get_text_config(), "max_position_embeddings", None)
    sums: dict[str, tuple[int, float]] = {}
    with in_evaluation_mode(model):
        for done, row in enumerate(rows):
            if longest is not None and row.longest > longest:
                continue
            batch = {name: tensor.to(model.device) for name, tensor in packed(row.completions).items()}
            losses = -token_log_probabilities(model, batch).double()
            tokens, total = sums.get(row.id, (0, 0.0))  # each turn of a conversation may be a row
            sums[row.id] = (tokens + len(losses), total + float(losses.sum()))
            countdown.reached(done + 1)
    return [{"id": id, "tokens": n, "loss": round(total / n, LOSS_DIGITS)} for id, (n, total) in sums.items()]


def _write(job: TrainingJob, outcome: Outcome) -> None:
    job.output.mkdir()
    outcome.save()
    for name, content in outcome.files.items():
        if isinstance(content, Frozen):
            (job.output / name).write_bytes(canonical_json(content.model_dump(mode="json")) + b"\n")
        else:
            write_jsonl(job.output / name, content)


def _peak_memory() -> float:
    """Return the peak memory that this process has used on the GPU, in bytes; without a GPU, its peak host memory."""
    import torch

    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated())
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)
