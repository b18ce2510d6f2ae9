"""One training, inside the trainer's process: rows, model, guards, steps, and what came out. The process itself (lock,
parent, answers) is `worker.py`.

The loop, its optimizer and its schedule are transformers' Trainer; the batches and the losses are ours, because rows
are packed without padding for every method (docs/decisions/0005).
"""

import resource
import time
from collections.abc import Sequence
from functools import partial

from sovereign_pipeline.artifacts.hashing import canonical_json
from sovereign_pipeline.base_models.verified import refuse_todays_date
from sovereign_pipeline.corpus.document import read_jsonl, write_jsonl
from sovereign_pipeline.errors import TrainingFailed
from sovereign_pipeline.policy.training import Preference, Sft
from sovereign_pipeline.training.job import TrainingJob
from sovereign_pipeline.training.loop.forward import (
    passes_in,
)
from sovereign_pipeline.training.loop.guards import (
    check_adapter_moved,
    check_rows_are_kept_apart,
    check_template,
    check_trainable,
    check_vocabulary,
    lora_b,
    start_probe,
)
from sovereign_pipeline.training.loop.models import load_trainable, save_adapter, save_model
from sovereign_pipeline.training.loop.outside import Outside
from sovereign_pipeline.training.loop.packed_trainer import Batches, packed_trainer
from sovereign_pipeline.training.loop.plan import Plan, make_plan
from sovereign_pipeline.training.loop.report import log_row, training_report
from sovereign_pipeline.training.loop.rows import EncodedRow, encode, guard
from sovereign_pipeline.training.sizing.preflight import available_memory, check_host, host_memory, preflight
from sovereign_pipeline.training.sizing.sizing import Forward


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
        batches = Batches(job, plan, model, outside.tell, go_on)
    referred = time.monotonic()
    start = lora_b(model.named_parameters())
    trainer = packed_trainer(job, model, batches, outside)
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
    log = [log_row(entry) for entry in trainer.state.log_history if "loss" in entry]
    write_jsonl(job.output / "training_log.jsonl", log)
    report = {
        **training_report(job, rows, plan, log, trainer),
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
