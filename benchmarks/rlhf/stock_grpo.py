"""One training by TRL's GRPOTrainer as its documentation shows it, from the same SFT adapter.

    python stock_grpo.py TASK.json ANSWER.json

Nothing of this project is imported. The reward's functions are called as they are, in this process. Prompts, sampling,
replies a step, precision, learning rate and the weight of the divergence are those of the recipe; what is not named
here keeps TRL's default. A reference is kept, a copy of the adapter that TRL makes, because of that weight.
"""

import importlib.util
import json
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from benchmarks.rlhf.task import GROUP, Prepared, Task

# The recipe's defaults, where its section does not name them.
DEFAULTS = {"prompts": 8, "temperature": 0.7, "learning_rate": 1e-4}
KL_COEFFICIENT = 0.05
AT_ONCE = 16
"""Replies in one pass: with all 32 of a step the logits alone would take 8 GB."""


def main(task_file: Path, answer: Path) -> None:
    task = Task.read(task_file)
    prepared = Prepared(Path(task.prepared))
    facts = prepared.facts
    import torch
    from datasets import Dataset
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer, TrainerCallback
    from trl import GRPOConfig, GRPOTrainer

    rlhf = {**DEFAULTS, **facts["rlhf"]}
    precision = facts["sft"]["precision"]
    ends: list[float] = []

    class Clock(TrainerCallback):  # type: ignore[misc]
        def on_step_end(self, *arguments: Any, **named: Any) -> None:
            ends.append(time.monotonic())

    rows = [json.loads(line) for line in prepared.prompts.read_text(encoding="utf-8").splitlines()]
    columns = {name for part in rlhf["reward"] for name in part["tool"].get("columns", ())}
    dataset = Dataset.from_list(
        [
            {"prompt": [{"role": "user", "content": row["prompt"]}], **{each: row["columns"][each] for each in columns}}
            for row in rows
        ]
    )
    tokenizer = AutoTokenizer.from_pretrained(facts["model"], padding_side="left")
    base = AutoModelForCausalLM.from_pretrained(facts["model"], dtype=getattr(torch, precision))
    trainer = GRPOTrainer(
        model=PeftModel.from_pretrained(base, facts["parent"], is_trainable=True),
        reward_funcs=[reward_function(part["tool"], Path(facts["data"])) for part in rlhf["reward"]],
        args=GRPOConfig(
            output_dir=str(Path(task.output) / "trainer"),
            max_steps=task.steps,
            per_device_train_batch_size=AT_ONCE,
            gradient_accumulation_steps=rlhf["prompts"] * GROUP // AT_ONCE,
            num_generations=GROUP,
            max_completion_length=rlhf["max_new_tokens"],
            temperature=rlhf["temperature"],
            top_k=0,
            top_p=1.0,
            beta=rlhf.get("kl", {}).get("coefficient", KL_COEFFICIENT),
            reward_weights=weights([part.get("weight", 1.0) for part in rlhf["reward"]]),
            learning_rate=rlhf["learning_rate"],
            bf16=precision == "bfloat16",
            gradient_checkpointing=False,
            seed=task.seed,
            use_cpu=not torch.cuda.is_available(),
            save_strategy="no",
            report_to="none",
            disable_tqdm=True,
        ),
        train_dataset=dataset,
        processing_class=tokenizer,
        callbacks=[Clock()],
    )
    started = time.monotonic()
    trainer.train()
    trained = time.monotonic()
    trainer.model.save_pretrained(str(Path(task.output) / "adapter"), selected_adapters=["default"])
    result = {
        "steps": trainer.state.global_step,
        "step_seconds": [later - earlier for earlier, later in zip([started, *ends], ends, strict=False)],
        "loop_seconds": trained - started,
        "failed": None,
    }
    answer.write_text(json.dumps(result), encoding="utf-8")


def weights(given: list[float]) -> list[float]:
    return [each / sum(given) for each in given]


def reward_function(tool: dict[str, Any], data: Path) -> Callable[..., list[float]]:
    """The tool's function in the form that TRL calls."""
    spec = importlib.util.spec_from_file_location("reward", data / tool["path"])
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    name = tool.get("function", "score")
    function = getattr(module, name)
    files = {Path(path).name: (data / path).read_text(encoding="utf-8") for path in tool.get("files", ())}

    def reward(prompts: list[Any], completions: list[Any], **columns: list[Any]) -> list[float]:
        named = tool.get("columns", ())
        judged = [
            {"reply": completion[0]["content"], **{each: columns[each][place] for each in named}}
            for place, completion in enumerate(completions)
        ]
        return list(function(judged, files) if files else function(judged))

    reward.__name__ = name
    return reward


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
