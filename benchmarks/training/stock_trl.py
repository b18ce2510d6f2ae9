"""One training by TRL as its documentation shows it: SFTTrainer or DPOTrainer, prompt and completion, padded batches.

    python stock_trl.py TASK.json ANSWER.json

Nothing of this project is imported. What the task does not name keeps TRL's default; with `as_it_comes` batch size,
accumulation, precision and gradient checkpointing keep it too.
"""

import json
import sys
import time
from pathlib import Path
from typing import Any

from task import Task, read_rows


def main(task_file: Path, answer: Path) -> None:
    task = Task.read(task_file)
    started = time.monotonic()
    import torch

    trainer = sft_trainer(task) if task.method == "sft" else dpo_trainer(task)
    prepared = time.monotonic()
    trainer.train()
    trained = time.monotonic()
    trainer.model.save_pretrained(str(Path(task.output) / "adapter"), selected_adapters=["default"])
    result: dict[str, Any] = {
        "measured": {"training_seconds": trained - prepared, "preparation_seconds": prepared - started},
        "steps": trainer.state.global_step,
        "loop_seconds": trained - prepared,
        "held_as": {
            "batch_size": trainer.args.per_device_train_batch_size,
            "accumulation": trainer.args.gradient_accumulation_steps,
            "bf16": trainer.args.bf16,
            "gradient_checkpointing": trainer.args.gradient_checkpointing,
            "optimizer": str(trainer.args.optim),
        },
    }
    if torch.cuda.is_available():
        result["measured"]["peak_memory_bytes"] = torch.cuda.max_memory_allocated()
    answer.write_text(json.dumps(result, default=str), encoding="utf-8")


def sft_trainer(task: Task) -> Any:
    from datasets import Dataset
    from peft import LoraConfig
    from trl import SFTConfig, SFTTrainer

    rows = [
        {"prompt": user(f"{row['instruction']}\n\n{row['input']}"), "completion": assistant(row["output"])}
        for row in read_rows(task.rows)
    ]
    return SFTTrainer(
        model=task.model,
        args=SFTConfig(**arguments(task), model_init_kwargs=model_arguments(task)),
        train_dataset=Dataset.from_list(rows),
        peft_config=LoraConfig(r=task.rank, lora_alpha=task.alpha, target_modules="all-linear", task_type="CAUSAL_LM"),
    )


def dpo_trainer(task: Task) -> Any:
    """Goes on training an adapter, against a copy of it, which TRL makes and runs at each step by default."""
    from datasets import Dataset
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer
    from trl import DPOConfig, DPOTrainer

    model = AutoModelForCausalLM.from_pretrained(task.model, **model_arguments(task))
    rows = [
        {
            "prompt": user(row["prompt"]),
            "chosen": assistant(row["chosen"]),
            "rejected": assistant(row["rejected"]),
        }
        for row in read_rows(task.rows)
    ]
    return DPOTrainer(
        model=PeftModel.from_pretrained(model, task.parent_adapter, is_trainable=True),
        args=DPOConfig(**arguments(task), beta=task.beta),
        train_dataset=Dataset.from_list(rows),
        processing_class=AutoTokenizer.from_pretrained(task.model),
    )


def arguments(task: Task) -> dict[str, Any]:
    import torch

    told: dict[str, Any] = {
        "output_dir": str(Path(task.output) / "trainer"),
        "learning_rate": task.learning_rate,
        "lr_scheduler_type": "cosine",
        "warmup_steps": task.warmup_steps,
        "num_train_epochs": 1,
        "max_length": task.max_length,
        "seed": task.seed,
        "use_cpu": not torch.cuda.is_available(),
        "save_strategy": "no",
        "report_to": "none",
        "disable_tqdm": True,
    }
    if task.as_it_comes:
        return told
    return {
        **told,
        "per_device_train_batch_size": task.batch_size,
        "gradient_accumulation_steps": task.accumulation,
        "bf16": task.precision == "bfloat16",
        "gradient_checkpointing": task.gradient_checkpointing,
    }


def model_arguments(task: Task) -> dict[str, Any]:
    import torch
    from transformers import BitsAndBytesConfig

    held: dict[str, Any] = {"dtype": getattr(torch, task.precision)}
    if torch.cuda.is_available():
        held["device_map"] = {"": 0}
    if task.adapter == "qlora":
        held["quantization_config"] = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=held["dtype"],
        )
    return held


def user(content: str) -> list[dict[str, str]]:
    return [{"role": "user", "content": content}]


def assistant(content: str) -> list[dict[str, str]]:
    return [{"role": "assistant", "content": content}]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
