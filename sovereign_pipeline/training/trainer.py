"""SFT and DPO with TRL, inside the trainer's process. The process itself (lock, parent, answers) is `worker.py`.

The order of the rows is decided here, before the trainer sees them, so that it can be recorded and is the same again:
TRL gets rows that are encoded, packed and put in order, and reads them one after the other.
"""

import importlib.metadata
import json
import math
import random
import resource
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sovereign_pipeline.artifacts.hashing import canonical_json, digest_of
from sovereign_pipeline.corpus.document import read_jsonl, write_jsonl
from sovereign_pipeline.errors import TrainingFailed
from sovereign_pipeline.policy.training import Preference, Sft
from sovereign_pipeline.training.job import TrainingJob
from sovereign_pipeline.training.rows import IGNORED, EncodedRow, RowsForTraining, encode, guard, pack

LIBRARIES = ("accelerate", "bitsandbytes", "datasets", "peft", "safetensors", "torch", "transformers", "trl")


@dataclass(frozen=True)
class Step:
    """Where the training stands. loss: of this step; tokens_per_second: since the start; seconds_left: an estimate."""

    step: int
    steps: int
    loss: float
    tokens_per_second: float
    seconds_left: float


@dataclass(frozen=True)
class Plan:
    """The units (packs, single rows or pairs) in the order in which they are trained, each a list of rows."""

    units: list[list[EncodedRow]]
    batch_size: int
    accumulation: int

    @property
    def steps(self) -> int:
        return math.ceil(len(self.units) / self._units_a_step)

    @property
    def order_digest(self) -> str:
        return digest_of([[row.id for row in unit] for unit in self.units])

    @property
    def rows(self) -> list[EncodedRow]:
        return [row for unit in self.units for row in unit]

    def tokens_until(self, step: int) -> int:
        return sum(row.tokens for unit in self.units[: step * self._units_a_step] for row in unit)

    @property
    def _units_a_step(self) -> int:
        return self.batch_size * self.accumulation


def train(job: TrainingJob, on_step: Callable[[Step], None]) -> dict[str, float]:
    """Train as the job says and write `adapter/`, `training_log.jsonl`, `report.json`. Returns what was measured.

    Raises TrainingFailed when a guard fires before, or the loss is not finite during, the training.
    """
    import torch
    import transformers
    from transformers import AutoTokenizer
    from transformers.trainer_callback import PrinterCallback

    transformers.utils.logging.disable_progress_bar()
    _make_deterministic(job.seed)
    started = time.monotonic()
    tokenizer = AutoTokenizer.from_pretrained(job.base_model)
    encoded = [encode(tokenizer, job.method, row, job.eos_ids) for row in read_jsonl(job.dataset)]
    hyper: Sft | Preference = job.sft if job.preference is None else job.preference
    rows = guard(encoded, hyper.max_length, job.sft.max_cut_share, job.eos_ids)
    plan = make_plan(job, rows.rows)
    model = _load_base(job)
    log = _TrainingLog(plan, on_step)
    trainer = (
        _sft_trainer(job, tokenizer, model, plan) if job.method == "sft" else _dpo_trainer(job, tokenizer, model, plan)
    )
    trainable = _hold_adapter_in_float32(trainer.model, job.sft)
    trainer.remove_callback(PrinterCallback)  # it writes to stdout, where progress goes
    trainer.add_callback(log.callback())
    prepared = time.monotonic()
    trainer.train()
    trained = time.monotonic()
    job.output.mkdir()
    _save_adapter(trainer.model, job)
    write_jsonl(job.output / "training_log.jsonl", log.rows)
    report = _report(job, rows, plan, log, trainer, trainable)
    (job.output / "report.json").write_bytes(canonical_json(report) + b"\n")
    cuda = torch.cuda.is_available()
    return {
        "training_seconds": round(trained - prepared, 3),
        "preparation_seconds": round(prepared - started, 3),
        "tokens_per_second": round(plan.tokens_until(plan.steps) / (trained - prepared), 2),
        "peak_memory_bytes": float(
            torch.cuda.max_memory_allocated() if cuda else resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024
        ),
    }


def make_plan(job: TrainingJob, rows: Sequence[EncodedRow]) -> Plan:
    """Pack (SFT, when the recipe says so), then shuffle each epoch with its own seed, and stop at `max_steps`."""
    hyper: Sft | Preference = job.sft if job.preference is None else job.preference
    packed = job.preference is None and job.sft.packing
    units = pack(rows, job.sft.max_length) if packed else [[row] for row in rows]
    wanted = max(1, round(hyper.epochs * len(units)))
    if hyper.max_steps is not None:
        wanted = min(wanted, hyper.max_steps * hyper.batch_size * hyper.gradient_accumulation)
    order: list[list[EncodedRow]] = []
    epoch = 0
    while len(order) < wanted:
        shuffled = list(units)
        random.Random(f"{job.seed}/{epoch}").shuffle(shuffled)
        order += shuffled
        epoch += 1
    return Plan(order[:wanted], hyper.batch_size, hyper.gradient_accumulation)


def _make_deterministic(seed: int) -> None:
    import torch
    from transformers import set_seed

    set_seed(seed)
    # "warn": an operation without a deterministic form runs all the same. On CPU none that is used here lacks one.
    torch.use_deterministic_algorithms(True, warn_only=True)
    torch.backends.cudnn.benchmark = False


def _load_base(job: TrainingJob) -> Any:
    """The frozen base, in the recipe's precision; for QLoRA its linear layers in NF4 with double quantisation.

    NF4 is dequantised into the recipe's precision in every pass (QLoRA, Dettmers et al. 2023, section 3).
    """
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    dtype = getattr(torch, job.sft.precision)
    quantisation = None
    if job.sft.adapter == "qlora":
        quantisation = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    return AutoModelForCausalLM.from_pretrained(
        job.base_model,
        dtype=dtype,
        attn_implementation="sdpa",
        quantization_config=quantisation,
        device_map={"": 0} if torch.cuda.is_available() else None,
    )


def _arguments(job: TrainingJob, hyper: Sft | Preference) -> dict[str, Any]:
    """What SFTConfig and DPOConfig are given alike. The plan holds the epochs, so the trainer makes one pass."""
    import torch

    return {
        "output_dir": str(job.output.with_name("trainer")),
        "per_device_train_batch_size": hyper.batch_size,
        "gradient_accumulation_steps": hyper.gradient_accumulation,
        "learning_rate": hyper.learning_rate,
        "lr_scheduler_type": {"linear": "linear", "cosine": "cosine", "constant": "constant_with_warmup"}[
            hyper.scheduler
        ],
        "warmup_steps": hyper.warmup_steps,
        "num_train_epochs": 1,
        "optim": "adamw_torch",
        "max_grad_norm": 1.0,
        "seed": job.seed,
        "data_seed": job.seed,
        "train_sampling_strategy": "sequential",
        "dataloader_drop_last": False,
        "bf16": job.sft.precision == "bfloat16",
        "use_cpu": not torch.cuda.is_available(),
        # Memory is what checkpointing saves and time what it costs; at the lengths here there is memory enough.
        "gradient_checkpointing": False,
        "logging_steps": 1,
        "logging_nan_inf_filter": False,
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }


def _sft_trainer(job: TrainingJob, tokenizer: Any, model: Any, plan: Plan) -> Any:
    """An SFTTrainer on rows that are encoded and packed already.

    The collator lays a batch out as one row without an attention mask, whose position ids start again at each row.
    transformers then builds an attention mask that keeps the rows apart, with SDPA as well as with flash attention, as
    long as no cache is asked for (`use_cache=False`, always, while training).
    """
    from datasets import Dataset
    from peft import LoraConfig
    from torch.nn.functional import cross_entropy
    from trl import SFTConfig, SFTTrainer
    from trl.trainer.sft_trainer import DataCollatorForLanguageModeling

    class CompletionHeadTrainer(SFTTrainer):  # type: ignore[misc]
        """On CPU, TRL computes the logits of every position and then ignores the prompt's. This one computes the
        supervised ones alone (a fifth less work a step here); on CUDA, TRL does so itself, in chunks."""

        def compute_loss(
            self, model: Any, inputs: dict[str, Any], return_outputs: bool = False, num_items_in_batch: Any = None
        ) -> Any:
            if not self.args.use_cpu or self.aux_loss_enabled or return_outputs:
                return super().compute_loss(model, inputs, return_outputs, num_items_in_batch)
            targets = inputs.pop("labels")[0, 1:]
            supervised = (targets != IGNORED).nonzero().squeeze(1)
            logits = model(**inputs, use_cache=False, logits_to_keep=supervised).logits[0]
            loss = cross_entropy(logits.float(), targets[supervised], reduction="sum")
            return loss / (len(supervised) if num_items_in_batch is None else num_items_in_batch)

    sft = job.sft
    completions = [[completion for row in unit for completion in row.completions] for unit in plan.units]
    dataset = Dataset.from_list(
        [
            {
                "input_ids": [token for each in unit for token in each.ids],
                "labels": [label for each in unit for label in each.labels],
                "seq_lengths": [len(each) for each in unit],
            }
            for unit in completions
        ]
    )
    lora = LoraConfig(
        r=sft.rank,
        lora_alpha=sft.alpha,
        lora_dropout=sft.dropout,
        target_modules=sft.target_modules if isinstance(sft.target_modules, str) else list(sft.target_modules),
        task_type="CAUSAL_LM",
    )
    return CompletionHeadTrainer(
        model=model,
        args=SFTConfig(
            **_arguments(job, sft),
            max_length=sft.max_length,
            completion_only_loss=True,
            dataset_kwargs={"skip_prepare_dataset": True},
        ),
        data_collator=DataCollatorForLanguageModeling(pad_token_id=tokenizer.pad_token_id, padding_free=True),
        train_dataset=dataset,
        processing_class=tokenizer,
        peft_config=lora,
    )


def _dpo_trainer(job: TrainingJob, tokenizer: Any, model: Any, plan: Plan) -> Any:
    """A DPOTrainer that goes on training the SFT adapter, against the SFT adapter as it was.

    Given a model with an adapter, TRL copies the adapter (a few MB, no second base) as "ref" and takes that for the
    reference. With `precompute_ref_log_probs` its log probabilities are computed once for each pair, before the first
    step, so a step runs the policy alone. Only the adapter "default" is trained and saved: one ordinary adapter.
    """
    from datasets import Dataset
    from peft import PeftModel
    from trl import DPOConfig, DPOTrainer

    class EncodedDPOTrainer(DPOTrainer):  # type: ignore[misc]
        """Takes rows that are encoded already, which SFTTrainer can be told and DPOTrainer cannot."""

        def _prepare_dataset(self, dataset: Any, *arguments: Any, **named: Any) -> Any:
            return dataset

    preference = job.preference
    if preference is None or job.start_adapter is None:
        raise ValueError("a DPO job needs its preference section and a start adapter")
    adapted = PeftModel.from_pretrained(model, job.start_adapter, is_trainable=True)
    pairs = {row.id: row for row in plan.rows}
    place = {row_id: index for index, row_id in enumerate(pairs)}
    dataset = Dataset.from_list(
        [
            {
                "prompt_ids": pair.completions[0].prompt_ids,
                "chosen_ids": pair.completions[0].reply_ids,
                "rejected_ids": pair.completions[1].reply_ids,
            }
            for pair in pairs.values()
        ]
    )
    trainer = EncodedDPOTrainer(
        model=adapted,
        args=DPOConfig(
            **_arguments(job, preference),
            beta=preference.beta,
            loss_type=["sigmoid"],
            max_length=preference.max_length,
            precompute_ref_log_probs=True,
        ),
        train_dataset=dataset,
        processing_class=tokenizer,
    )
    # The reference is known now for each pair; the pairs are trained in the order of the plan, over all its epochs.
    trainer.train_dataset = trainer.train_dataset.select([place[row.id] for row in plan.rows])
    return trainer


def _hold_adapter_in_float32(model: Any, sft: Sft) -> int:
    """Number of trainable parameters. TRL turns a QLoRA adapter into bfloat16; in float32 it stays in that."""
    trainable = 0
    for parameter in model.parameters():
        if parameter.requires_grad:
            trainable += parameter.numel()
            if sft.precision == "float32":
                parameter.data = parameter.data.float()
    return trainable


class _TrainingLog:
    """Collects the deterministic part of every step, reports progress, and stops a loss that is not finite."""

    def __init__(self, plan: Plan, on_step: Callable[[Step], None]) -> None:
        self.rows: list[dict[str, object]] = []
        self._plan = plan
        self._on_step = on_step
        self._started = time.monotonic()

    def callback(self) -> Any:
        from transformers import TrainerCallback

        log = self

        class Callback(TrainerCallback):  # type: ignore[misc]
            def on_train_begin(self, args: Any, state: Any, control: Any, **named: Any) -> None:
                log._started = time.monotonic()

            def on_log(self, args: Any, state: Any, control: Any, logs: dict[str, float], **named: Any) -> None:
                if "loss" in logs:
                    log.add(state.global_step, logs)

        return Callback()

    def add(self, step: int, logs: dict[str, float]) -> None:
        kept = ("loss", "learning_rate", "grad_norm", "mean_token_accuracy", "rewards/accuracies", "rewards/margins")
        values = {name: float(logs[name]) for name in kept if name in logs}
        if not all(map(math.isfinite, values.values())):
            raise TrainingFailed(
                f"Step {step} of {self._plan.steps}: loss or gradient is not finite. Lower learning_rate in the "
                f"recipe, or train with precision: float32."
            )
        self.rows.append({"step": step, **values})
        elapsed = time.monotonic() - self._started
        self._on_step(
            Step(
                step=step,
                steps=self._plan.steps,
                loss=values["loss"],
                tokens_per_second=self._plan.tokens_until(step) / elapsed,
                seconds_left=elapsed / step * (self._plan.steps - step),
            )
        )


def _save_adapter(model: Any, job: TrainingJob) -> None:
    """An ordinary PEFT directory, the same bytes each time: no paths, no model card, sets in order."""
    directory: Path = job.output / "adapter"
    for config in model.peft_config.values():
        config.base_model_name_or_path = job.base_model_name
    model.save_pretrained(str(directory), selected_adapters=["default"], save_embedding_layers=False)
    (directory / "README.md").unlink(missing_ok=True)
    path = directory / "adapter_config.json"
    config = json.loads(path.read_bytes())
    if isinstance(config["target_modules"], list):
        config["target_modules"].sort()
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def _report(
    job: TrainingJob, rows: RowsForTraining, plan: Plan, log: _TrainingLog, trainer: Any, trainable: int
) -> dict[str, Any]:
    import torch

    if len(log.rows) != plan.steps:
        raise TrainingFailed(f"{len(log.rows)} of {plan.steps} planned steps were made. Run again.")
    cuda = torch.cuda.is_available()
    optimizer = getattr(trainer.optimizer, "optimizer", trainer.optimizer)
    tokens = sum(row.tokens for row in rows.rows)
    return {
        "method": job.method,
        "steps": plan.steps,
        "rows": len(rows.rows),
        "tokens": tokens,
        "tokens_trained": plan.tokens_until(plan.steps),
        "supervised_share": round(sum(row.supervised for row in rows.rows) / tokens, 6),
        "rows_cut": len(rows.cut),
        "rows_cut_ids": list(rows.cut),
        "first_loss": log.rows[0]["loss"],
        "last_loss": log.rows[-1]["loss"],
        "data_order_sha256": plan.order_digest,
        "trainable_parameters": trainable,
        "optimizer": f"{type(optimizer).__module__}.{type(optimizer).__qualname__}",
        "weight_decay": optimizer.param_groups[0]["weight_decay"],
        "betas": list(optimizer.param_groups[0]["betas"]),
        "scheduler": trainer.args.lr_scheduler_type.value
        if hasattr(trainer.args.lr_scheduler_type, "value")
        else trainer.args.lr_scheduler_type,
        "precision": job.sft.precision,
        "base_held_as": "nf4, double quantisation" if job.sft.adapter == "qlora" else job.sft.precision,
        "attention": "sdpa",
        "gradient_checkpointing": False,
        "seed": job.seed,
        "device": torch.cuda.get_device_name() if cuda else "cpu",
        "threads": torch.get_num_threads(),
        "libraries": {name: importlib.metadata.version(name) for name in LIBRARIES},
        "base_model": {
            "name": job.base_model_name,
            "digest": job.base_model_digest,
            "chat_template_sha256": job.chat_template_sha256,
        },
    }
