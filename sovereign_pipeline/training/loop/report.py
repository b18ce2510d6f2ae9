"""Filling the trainer's report from a training that ended. Its fields are declared in `training/report.py`."""

import importlib.metadata
from collections.abc import Sequence
from typing import Any

from sovereign_pipeline.training.job import TrainingJob
from sovereign_pipeline.training.loop.plan import Plan
from sovereign_pipeline.training.loop.rows import RowsForTraining
from sovereign_pipeline.training.report import (
    TRAINING_LIBRARIES,
    BaseModelIdentity,
    Libraries,
    LoggedStep,
    TrainingReport,
    TrlNumerics,
)


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
    from sovereign_pipeline.training.loop.trl_trainer import trl_numerics

    assert job.preference is not None
    return trl_numerics(job.preference, trainer.args)


def _base_held_as(job: TrainingJob) -> str:
    if job.sft.adapter == "none":
        return "float32"
    return "nf4, double quantisation" if job.sft.adapter == "qlora" else job.sft.precision
