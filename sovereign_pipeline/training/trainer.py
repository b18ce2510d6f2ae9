"""What happens inside the trainer's process: rows, batches, model, losses, guards, checkpoints, report.

Starting that process is `processes/`; whether the training fits into memory is `sizing/`.
"""

import importlib.metadata
import resource
import time
from collections.abc import Sequence
from functools import partial
from typing import Any

from sovereign_pipeline.base.errors import TrainingFailed
from sovereign_pipeline.base.files import canonical_json
from sovereign_pipeline.base_models.pinned import refuse_todays_date
from sovereign_pipeline.corpus.document import write_jsonl
from sovereign_pipeline.policy.training.training import Preference, Sft
from sovereign_pipeline.training.devices import meet
from sovereign_pipeline.training.forward import passes_in
from sovereign_pipeline.training.guards import (
    check_adapter_moved,
    check_rows_are_kept_apart,
    check_template,
    check_trainable,
    check_vocabulary,
    lora_b,
    start_probe,
)
from sovereign_pipeline.training.job import TrainerHooks, TrainingJob, stopped_before_first_step
from sovereign_pipeline.training.models import load_trainable, save_adapter, save_model
from sovereign_pipeline.training.packed_trainer import Batches
from sovereign_pipeline.training.plan import Plan, make_plan
from sovereign_pipeline.training.preflight import available_memory, check_host, host_memory, preflight
from sovereign_pipeline.training.report import (
    REPORT_FILE,
    TRAINING_LIBRARIES,
    TRAINING_LOG_FILE,
    BaseModelIdentity,
    Libraries,
    LoggedStep,
    TrainingReport,
    TrlNumerics,
)
from sovereign_pipeline.training.rows import EncodedRow, RowsForTraining, guard, stored_rows
from sovereign_pipeline.training.sizing import Forward


def training_report(
    job: TrainingJob,
    rows: RowsForTraining,
    plan: Plan,
    log: Sequence[LoggedStep],
    trainer: Any,
    *,
    trainable_parameters: int,
    probe_loss_before: float,
    probe_loss_after: float,
) -> TrainingReport:
    """The report of a training. trainer: transformers' Trainer after its last step."""
    import torch

    optimizer = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
    group = optimizer.param_groups[0]
    scheduler = trainer.args.lr_scheduler_type
    tokens = sum(row.tokens for row in rows.rows)
    cuda = torch.cuda.is_available()
    return TrainingReport(
        method=job.method,
        trl=_trl_numerics(job, trainer),
        adapter=job.sft.adapter,
        steps=plan.steps,
        rows=len(rows.rows),
        tokens=tokens,
        tokens_trained=plan.tokens_until(plan.steps),
        supervised_share=round(sum(row.supervised for row in rows.rows) / tokens, 6),
        rows_cut=len(rows.cut),
        rows_cut_ids=rows.cut,
        units_left_out=plan.left_out,
        first_loss=log[0].loss,
        last_loss=log[-1].loss,
        trainable_parameters=trainable_parameters,
        optimizer=f"{type(optimizer).__module__}.{type(optimizer).__qualname__}",
        optimizer_paged=bool(cuda and getattr(optimizer, "is_paged", False)),
        learning_rate=job.learning_rate,
        weight_decay=group["weight_decay"],
        betas=tuple(group["betas"]),
        scheduler=str(getattr(scheduler, "value", scheduler)),
        precision=job.sft.precision,
        base_held_as=_base_held_as(job),
        trained_in="float32",
        attention=trainer.model.config.get_text_config()._attn_implementation,
        gradient_checkpointing=job.sft.gradient_checkpointing,
        packing=job.packs,
        seed=job.seed,
        data_order_sha256=plan.order_digest,
        device=torch.cuda.get_device_name() if cuda else "cpu",
        devices=job.devices.count,
        sharding=job.devices.sharding if job.devices.count > 1 else None,
        threads=torch.get_num_threads(),
        libraries=Libraries(**{name: importlib.metadata.version(name) for name in TRAINING_LIBRARIES}),
        base_model=BaseModelIdentity(
            name=job.base_model_name, digest=job.base_model_digest, chat_template_sha256=job.chat_template_sha256
        ),
        probe_loss_before=probe_loss_before,
        probe_loss_after=probe_loss_after,
    )


def _trl_numerics(job: TrainingJob, trainer: Any) -> TrlNumerics | None:
    if job.method != "trl":
        return None
    from sovereign_pipeline.training.trl_trainer import trl_numerics

    assert job.preference is not None
    return trl_numerics(job.preference, trainer.args)


def _base_held_as(job: TrainingJob) -> str:
    if job.sft.adapter == "none":
        return "float32"
    return "nf4, double quantisation" if job.sft.adapter == "qlora" else job.sft.precision


def train(job: TrainingJob, hooks: TrainerHooks) -> dict[str, float]:
    """Run the job: write the adapter or model, the training log and the report into its output directory.

    Resumes from the newest whole checkpoint of this job. Returns durations (s), rates (tokens/s) and bytes; on several
    devices, in the first process only. Raises TrainingFailed when a guard fires, a checkpoint cannot be written, or a
    stop was requested.
    """
    import transformers
    from transformers import AutoTokenizer

    from sovereign_pipeline.training.packed_trainer import packed_trainer

    transformers.utils.logging.disable_progress_bar()
    make_deterministic(job.seed)
    started = time.monotonic()
    tokenizer = AutoTokenizer.from_pretrained(job.base_model)
    check_template(tokenizer, job)
    refuse_todays_date(str(tokenizer.chat_template), job.base_model)
    check_stop = partial(refuse_after_stop_request, job, hooks)
    encoded = stored_rows(job, job.dataset, tokenizer, hooks.progress, check_stop)
    rows = guard(encoded, job.tuning.max_length, job.sft.max_cut_share, job.eos_ids)
    plan = make_plan(job, rows.rows)
    check_memory(job, plan, encoded)
    check_stop()
    hooks.progress(f"loading the base model {job.base_model_name}")
    model = load_trainable(job, hooks.progress)
    check_stop()
    check_vocabulary(tokenizer, model, rows.rows)
    trainable = check_trainable(model, job.sft.adapter)
    with passes_in(job.sft.precision, model.device.type):
        hooks.progress("checking packed rows and measuring the loss before the first step")
        if job.packs and len(rows.rows) > 1:
            check_rows_are_kept_apart(model, rows.rows, job.sft.precision, job.tuning.max_length)
        probe = start_probe(model, plan.rows, hooks.progress)
    start = lora_b(model.named_parameters())
    meet(job)
    if job.method != "trl":
        trainer: Any = packed_trainer(job, model, Batches(job, plan), hooks)
    else:
        from sovereign_pipeline.training.trl_trainer import trl_trainer

        trainer = trl_trainer(job, model, plan, tokenizer, hooks)
    checkpoint = trainer.checkpoint_directory.newest(hooks.progress)
    if checkpoint is not None:
        hooks.progress(f"resuming from {checkpoint.name}")
    check_stop()
    prepared = time.monotonic()
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    trained = time.monotonic()
    check_all_steps_done(plan, trainer)
    hooks.progress(f"all {plan.steps} steps are done; measuring the loss after the last one")
    # On several devices the next two need all of them; what follows is the first one's alone.
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    with passes_in(job.sft.precision, model.device.type):
        loss_after = probe.loss(model)
    if not trainer.is_world_process_zero():
        return {}
    probe.check_moved(loss_after, job.method)
    if job.sft.adapter != "none":
        check_adapter_moved(lora_b(state.items()), start)
    if job.method == "trl":
        trainer.check_reference_kept()
    hooks.progress(f"saving the {'model' if job.sft.adapter == 'none' else 'adapter'} and its report")
    job.output.mkdir()
    (save_model if job.sft.adapter == "none" else save_adapter)(model, state, job)
    log = [LoggedStep.from_history(entry) for entry in trainer.state.log_history if "loss" in entry]
    write_jsonl(job.output / TRAINING_LOG_FILE, [step.row for step in log])
    report = training_report(
        job,
        rows,
        plan,
        log,
        trainer,
        trainable_parameters=trainable,
        probe_loss_before=probe.before,
        probe_loss_after=loss_after,
    )
    (job.output / REPORT_FILE).write_bytes(canonical_json(report.model_dump(mode="json")) + b"\n")
    tokens = plan.tokens_until(plan.steps) - plan.tokens_until(trainer.first_step)
    references = 0.0 if job.method == "trl" else trainer.reference_seconds
    training = trained - prepared - references
    return {
        "training_seconds": round(training, 3),
        "preparation_seconds": round(prepared - started + references, 3),
        "reference_seconds": round(references, 3),
        "saving_seconds": round(time.monotonic() - trained, 3),
        "tokens_per_second": round(tokens / training, 2),
        "resumed_at_step": float(trainer.first_step),
        "peak_memory_bytes": peak_memory(),
    }


def check_memory(job: TrainingJob, plan: Plan, encoded: Sequence[EncodedRow]) -> None:
    """Raise TrainingFailed when the training cannot fit. Processes on CPUs share the memory of the machine.

    encoded: all rows, also those that are too long for the plan.
    """

    def largest(sft: Sft, preference: Preference | None) -> Forward | None:
        changed = job.model_copy(update={"sft": sft, "preference": preference})
        if (changed.tuning.max_length, changed.tuning.batch_size) == (job.tuning.max_length, job.tuning.batch_size):
            return plan.largest_forward
        try:
            rows = guard(encoded, changed.tuning.max_length, sft.max_cut_share, job.eos_ids)
            return make_plan(changed, rows.rows).largest_forward
        except TrainingFailed:  # too many rows are too long for these values
            return None

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


def check_all_steps_done(plan: Plan, trainer: Any) -> None:
    """Raise TrainingFailed when the training ended early: requested to, or not."""
    done = trainer.state.global_step
    if done < plan.steps and trainer.stop_requested:
        raise TrainingFailed(
            f"The training was stopped, as requested, at step {done} of {plan.steps}.",
            "Run again; it resumes from the checkpoint of this step.",
        )
    if done != plan.steps:
        raise TrainingFailed(
            f"The training ended after step {done} of {plan.steps} without a request to stop. Nothing was saved.",
            "Install the pinned versions (requirements/). If they are installed, report this.",
        )


def refuse_after_stop_request(job: TrainingJob, hooks: TrainerHooks) -> None:
    """Before the first step, where there is nothing to save.

    Of several devices none may leave the others waiting: they check together, between references and after a step.
    """
    if job.devices.count == 1 and hooks.should_stop():
        raise stopped_before_first_step()


def peak_memory() -> float:
    """Bytes: of the GPU, else of this process."""
    import torch

    if torch.cuda.is_available():
        return float(torch.cuda.max_memory_allocated())
    return float(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024)


def make_deterministic(seed: int) -> None:
    """Seed every library, and have torch take operations that give the same result each time."""
    import torch
    from transformers import set_seed

    set_seed(seed)
    # "warn": an operation without a deterministic form still runs. No operation used here lacks one on CPUs.
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False
