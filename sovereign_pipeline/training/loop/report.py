"""MODULE DOCSTRING."""

import importlib.metadata
from typing import Any

from sovereign_pipeline.training.job import LIBRARIES, TrainingJob
from sovereign_pipeline.training.loop.plan import Plan
from sovereign_pipeline.training.loop.rows import RowsForTraining

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


def log_row(entry: dict[str, float]) -> dict[str, object]:
    return {"step": entry["step"], **{name: float(entry[name]) for name in LOGGED if name in entry}}


def training_report(
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
