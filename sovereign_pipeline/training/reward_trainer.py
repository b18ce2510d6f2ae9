"""One training of a reward model inside the trainer's process.

Loss and steps are those of TRL's RewardTrainer; rows, plan, checkpoints and guards are this package's (`loop/`). What
does not belong here: the process itself (`processes/worker.py`), and scoring with the result (`scoring.py`).
"""

import importlib.metadata
import math
import time
from collections.abc import Iterable, Sequence
from functools import partial
from typing import Any, cast

from sovereign_pipeline.base.errors import TrainingFailed
from sovereign_pipeline.base.files import canonical_json
from sovereign_pipeline.base_models.pinned import refuse_todays_date
from sovereign_pipeline.base_models.shapes import read_shape
from sovereign_pipeline.corpus.document import read_jsonl, write_jsonl
from sovereign_pipeline.dataset.jsonl import PreferenceRow
from sovereign_pipeline.training.devices import in_shares, meet
from sovereign_pipeline.training.forward import passes_in
from sovereign_pipeline.training.guards import check_adapter_moved, check_template, check_vocabulary, lora_b
from sovereign_pipeline.training.job import TrainerHooks, TrainingJob
from sovereign_pipeline.training.models import lora_config, save_adapter
from sovereign_pipeline.training.plan import Plan, make_plan
from sovereign_pipeline.training.preflight import available_memory, check_host, host_memory
from sovereign_pipeline.training.report import (
    REPORT_FILE,
    TRAINING_LIBRARIES,
    TRAINING_LOG_FILE,
    BaseModelIdentity,
    Libraries,
    LoggedStep,
)
from sovereign_pipeline.training.reward_model import (
    HELD_OUT_SCORES,
    REWARD_DIRECTORY,
    PairScore,
    RewardReport,
    Scorer,
    held_out_accuracy,
)
from sovereign_pipeline.training.rows import EncodedRow, RowsForTraining, guard, in_tables, mapped, stored_rows
from sovereign_pipeline.training.sizing import Forward, estimate
from sovereign_pipeline.training.trainer import (
    check_all_steps_done,
    make_deterministic,
    peak_memory,
    refuse_after_stop_request,
)

LARGEST_SHIFT = {"float32": 1e-3, "bfloat16": 0.1}
"""Between the score that TRL learns from and the head on the end of turn, before the first step; logits."""


def train_reward_model(job: TrainingJob, hooks: TrainerHooks) -> dict[str, float]:
    """Run the job: write the reward model, its log, report and held-out scores into its output directory.

    Resumes from the newest whole checkpoint of this job. Returns durations (s) and bytes; on several devices, in the
    first process only. Raises TrainingFailed when a guard fires, a checkpoint cannot be written, or a stop was
    requested.
    """
    import transformers
    from transformers import AutoTokenizer

    assert job.reward_model is not None and job.held_out is not None
    transformers.utils.logging.disable_progress_bar()
    make_deterministic(job.seed)
    started = time.monotonic()
    tokenizer = AutoTokenizer.from_pretrained(job.base_model)
    check_template(tokenizer, job)
    refuse_todays_date(str(tokenizer.chat_template), job.base_model)
    pairs, held_out = (cast(list[PreferenceRow], list(read_jsonl(file))) for file in (job.dataset, job.held_out))
    check_stop = partial(refuse_after_stop_request, job, hooks)
    encoded, of_held_out = (
        stored_rows(job, file, tokenizer, hooks.progress, check_stop) for file in (job.dataset, job.held_out)
    )
    rows = guard(encoded, job.tuning.max_length, job.sft.max_cut_share, job.eos_ids)
    measured = [row for row in of_held_out if row.longest <= job.tuning.max_length]
    if not measured:
        raise TrainingFailed(
            f"None of {len(held_out)} held-out pairs has at most {job.tuning.max_length} tokens, so the reward model "
            f"could not be measured.",
            "Hold out more documents (split in the recipe), or raise training.reward_model.max_length.",
        )
    plan = make_plan(job, rows.rows)
    _check_memory(job, plan)
    check_stop()
    hooks.progress(f"loading the base model {job.base_model_name}")
    model = _load(job)
    padding = _padding(tokenizer, job)
    check_vocabulary(tokenizer, model, [*rows.rows, *measured])
    trained = _check_trainable(model)
    start, first_head = lora_b(model.named_parameters()), _head(model.named_parameters()).detach().cpu().clone()
    meet(job)
    trainer = _trainer(job, model, plan, tokenizer, padding, hooks)
    check_scored_place(model, rows.rows[:2], padding, job.sft.precision)
    checkpoint = trainer.checkpoint_directory.newest(hooks.progress)
    if checkpoint is not None:
        hooks.progress(f"resuming from {checkpoint.name}")
    check_stop()
    prepared = time.monotonic()
    trainer.train(resume_from_checkpoint=None if checkpoint is None else str(checkpoint))
    ended = time.monotonic()
    check_all_steps_done(plan, trainer)
    hooks.progress(f"all {plan.steps} steps are done; scoring {len(measured)} held-out pairs")
    # On several devices the next two need all of them; what follows is the first one's alone.
    state = trainer.accelerator.get_state_dict(trainer.model_wrapped)
    scores = _held_out_scores(job, model, measured)
    if not trainer.is_world_process_zero():
        return {}
    check_adapter_moved(lora_b(state.items()), start)
    _check_head_moved(_head(state.items()).detach().cpu(), first_head)
    if not all(math.isfinite(score.margin) for score in scores):
        raise TrainingFailed(
            "Scores of held-out pairs are not finite.",
            "Lower training.reward_model.learning_rate, or train with precision: float32.",
        )
    job.output.mkdir()
    save_adapter(model, state, job, REWARD_DIRECTORY)
    log = [_logged(entry) for entry in trainer.state.log_history if "loss" in entry]
    write_jsonl(job.output / TRAINING_LOG_FILE, [step.row for step in log])
    write_jsonl(job.output / HELD_OUT_SCORES, [score.model_dump(mode="json") for score in scores])
    ids = {row.id for row in measured}
    report = _report(
        job, rows, plan, log, trainer, trained, scores, [row for row in held_out if row["id"] in ids], pairs
    )
    report = report.model_copy(update={"held_out_cut": len(held_out) - len(measured)})
    (job.output / REPORT_FILE).write_bytes(canonical_json(report.model_dump(mode="json")) + b"\n")
    return {
        "training_seconds": round(ended - prepared, 3),
        "preparation_seconds": round(prepared - started, 3),
        "saving_seconds": round(time.monotonic() - ended, 3),
        "resumed_at_step": float(trainer.first_step),
        "peak_memory_bytes": peak_memory(),
    }


def check_scored_place(model: Any, rows: Sequence[EncodedRow], padding: int, precision: str) -> None:
    """Check that TRL's padded pass scores the end of turn.

    transformers scores the last token that is not the padding's. Where padding and end of turn are one token, as in
    many chat models, that is the token before the end, and a reply that never ends scores like one that does.
    """
    import torch

    completions = [each for row in rows for each in row.completions]
    longest = max(map(len, completions))
    filled = [each.ids + [padding] * (longest - len(each)) for each in completions]
    mask = [[1] * len(each) + [0] * (longest - len(each)) for each in completions]
    was_training = model.training
    model.eval()
    tensor = partial(torch.tensor, device=model.device)
    with torch.no_grad(), passes_in(precision, model.device.type):
        together = model(input_ids=tensor(filled), attention_mask=tensor(mask), use_cache=False).logits[:, 0].tolist()
    alone = _scorer(model, precision).scores(completions)
    model.train(was_training)
    shift = max(abs(one - other) for one, other in zip(together, alone, strict=True))
    if not math.isfinite(shift) or shift > LARGEST_SHIFT[precision]:
        raise TrainingFailed(
            f"The score that would be learned is not that of the end of turn: it differs by {shift:.3f} between a "
            f"padded batch and a reply alone.",
            "Install the pinned versions (requirements/), or report this with the model's architecture.",
        )


def _check_memory(job: TrainingJob, plan: Plan) -> None:
    forward = Forward(
        tokens=plan.largest_forward.tokens, supervised=2 * job.tuning.batch_size
    )  # no vocabulary's logits
    devices = job.devices.count
    check_host(job.base_model, job.sft, devices, host_memory())
    available, device = available_memory()
    if device == "cpu":
        available //= devices  # processes on CPUs share the memory of the machine
    shape = read_shape(str(job.base_model))
    needed = estimate(shape, job.sft, None, device=device, devices=devices, forward=forward).total
    if needed > available:
        raise TrainingFailed(
            f"The training needs about {needed / (1 << 30):.1f} GiB{' on each device' if devices > 1 else ''}, and "
            f"{available / (1 << 30):.1f} GiB are free.",
            "Lower training.reward_model.batch_size or max_length, or set training.sft.gradient_checkpointing: true.",
        )


def _load(job: TrainingJob) -> Any:
    """The base with a new adapter and a new head, both in float32.

    The head starts with a spread of 1/√(hidden + 1) (Huang et al. 2024, detail 2.1); a wider one scores at random with
    confidence.
    """
    import torch
    from peft import get_peft_model
    from transformers import AutoModelForSequenceClassification

    try:
        base = AutoModelForSequenceClassification.from_pretrained(
            job.base_model,
            num_labels=1,
            dtype=getattr(torch, job.sft.precision),
            attn_implementation="sdpa",
            # Several processes load to the CPU and are given their shards later.
            device_map={"": 0} if torch.cuda.is_available() and job.devices.count == 1 else None,
        )
        config = lora_config(job.sft.model_copy(update={"dropout": 0.0}), base)
        config.task_type, config.modules_to_save = "SEQ_CLS", ["score"]
        model: Any = get_peft_model(base, config)
    except ValueError as error:
        raise TrainingFailed(
            f"{job.base_model_name}: no reward model can be put on this architecture: {' '.join(str(error).split())}",
            "Leave training.reward_model out, or choose another base model.",
        ) from error
    head = _head(model.named_parameters())
    head.data = torch.empty(head.shape, device=head.device, dtype=torch.float32)
    generator = torch.Generator().manual_seed(job.seed)
    spread = 1 / math.sqrt(head.shape[-1] + 1)
    head.data.copy_(torch.normal(0.0, spread, head.shape, generator=generator))
    return model


def _head(tensors: Iterable[tuple[str, Any]]) -> Any:
    """The one among named tensors that is trained, [1, hidden]."""
    return next(each for name, each in tensors if name.endswith("score.modules_to_save.default.weight"))


def _scorer(model: Any, precision: str) -> Scorer:
    base = model.get_base_model()
    return Scorer(getattr(base, base.base_model_prefix), _head(model.named_parameters())[0], precision)


def _held_out_scores(job: TrainingJob, model: Any, rows: Sequence[EncodedRow]) -> list[PairScore]:
    """Of several processes that share the model, each scores its share, and all know all."""
    model.eval()
    if job.devices.count > 1:
        model.unshard()  # the head and what else is outside the layers: a score takes no pass through the whole model
    scorer = _scorer(model, job.sft.precision)
    scores = in_shares(job, rows, lambda row: 2, lambda row: scorer.scores(row.completions))
    return [
        PairScore(id=row.id, chosen=chosen, rejected=rejected)
        for row, chosen, rejected in zip(rows, scores[0::2], scores[1::2], strict=True)
    ]


def _check_trainable(model: Any) -> int:
    trained = {name: each for name, each in model.named_parameters() if each.requires_grad}
    heads = [name for name in trained if ".score." in name]
    others = [name for name in trained if ".score." not in name and "lora_" not in name]
    if (
        len(heads) != 1
        or others
        or len(trained) < 2
        or any(str(each.dtype) != "torch.float32" for each in trained.values())
    ):
        raise TrainingFailed(
            f"{len(trained)} tensors would be trained, {len(heads)} of them a head and {len(others)} neither head nor "
            f"adapter; a reward model has an adapter and one head, in float32.",
            "Correct target_modules in training.sft.",
        )
    return sum(each.numel() for each in trained.values())


def _padding(tokenizer: Any, job: TrainingJob) -> int:
    """A token that ends no turn, so that the end of turn is never taken for padding."""
    return next(token for token in range(len(tokenizer)) if token not in job.eos_ids)


def _trainer(job: TrainingJob, model: Any, plan: Plan, tokenizer: Any, padding: int, hooks: TrainerHooks) -> Any:
    from trl import RewardConfig, RewardTrainer

    from sovereign_pipeline.training.guarded_trainer import training_arguments
    from sovereign_pipeline.training.trl_trainer import EncodedPairs, TrlSteps

    assert job.reward_model is not None
    rows = ({"chosen_ids": row.completions[0].ids, "rejected_ids": row.completions[1].ids} for row in plan.rows)
    trainer_class: Any = type("GuardedRewardTrainer", (TrlSteps, RewardTrainer), {})
    trainer = trainer_class(
        job,
        plan,
        model=model,
        args=training_arguments(
            job,
            RewardConfig,
            max_length=job.tuning.max_length,
            center_rewards_coefficient=job.reward_model.centring or None,
            pad_token=tokenizer.convert_ids_to_tokens(padding),
        ),
        train_dataset=mapped(job, in_tables(rows), EncodedPairs),
        processing_class=tokenizer,
    )
    trainer.add_hooks(hooks)
    return trainer


def _check_head_moved(now: Any, before: Any) -> None:
    import torch

    if not bool(torch.isfinite(now).all()) or torch.equal(now, before):
        raise TrainingFailed(
            "The head of the reward model did not change, or is not finite. Nothing was learned.",
            "Raise or lower training.reward_model.learning_rate.",
        )


def _logged(entry: dict[str, float]) -> LoggedStep:
    """TRL names accuracy and margin in another way here than in its other trainers."""
    return LoggedStep.from_history(
        {**entry, "rewards/accuracies": entry["accuracy"], "rewards/margins": entry["margin"]}
    )


def _report(
    job: TrainingJob,
    rows: RowsForTraining,
    plan: Plan,
    log: Sequence[LoggedStep],
    trainer: Any,
    trained: int,
    scores: Sequence[PairScore],
    held_out: Sequence[PreferenceRow],
    pairs: Sequence[PreferenceRow],
) -> RewardReport:
    import torch

    assert job.reward_model is not None
    optimizer = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
    return RewardReport(
        trainer="trl.RewardTrainer",
        rows=len(rows.rows),
        rows_cut=len(rows.cut),
        rows_left_out=plan.left_out,
        held_out=len(scores),
        held_out_cut=0,
        steps=plan.steps,
        first_loss=log[0].loss,
        last_loss=log[-1].loss,
        accuracy=held_out_accuracy(scores, held_out, pairs),
        trainable_parameters=trained,
        optimizer=f"{type(optimizer).__module__}.{type(optimizer).__qualname__}",
        learning_rate=job.learning_rate,
        centring=job.reward_model.centring,
        precision=job.sft.precision,
        device=torch.cuda.get_device_name() if torch.cuda.is_available() else "cpu",
        devices=job.devices.count,
        threads=torch.get_num_threads(),
        seed=job.seed,
        data_order_sha256=plan.order_digest,
        libraries=Libraries(**{name: importlib.metadata.version(name) for name in TRAINING_LIBRARIES}),
        base_model=BaseModelIdentity(
            name=job.base_model_name, digest=job.base_model_digest, chat_template_sha256=job.chat_template_sha256
        ),
    )
