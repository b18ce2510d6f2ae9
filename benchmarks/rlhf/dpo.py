"""DPO on pairs that the same reward orders: of replies sampled from the SFT adapter, a prompt's best and worst.

    python dpo.py TASK.json ANSWER.json

Sampling and judging count as part of the training. A prompt whose replies all have one reward gives no pair. Started by
`run.py`.
"""

import json
import random
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.rlhf.jobs import by_pairs, rewards_of, timed
from benchmarks.rlhf.task import GROUP, Prepared, Task
from sovereign_pipeline.base.settings import go_offline
from sovereign_pipeline.policy.rlhf import Rlhf
from sovereign_pipeline.training.forward import passes_in
from sovereign_pipeline.training.rlhf.prompts import Prompt, read_prompts
from sovereign_pipeline.training.rlhf.sampling import sample


def main(task_file: Path, answer: Path) -> None:
    go_offline()
    task = Task.read(task_file)
    pairs = Path(task.output).with_name("pairs.jsonl")
    sampling = write_pairs(task, pairs)
    if not sampling["pairs"]:
        answer.write_text(json.dumps({**sampling, "steps": 0, "failed": "no prompt gave a pair"}), encoding="utf-8")
        return
    ran = timed(by_pairs(task, pairs))
    learning = ran["loop_seconds"] + ran["measured"].get("reference_seconds", 0.0)
    seconds = {"learning_seconds": learning, "loop_seconds": sampling["sampling_seconds"] + learning}
    result = {**ran, **sampling, **seconds}
    answer.write_text(json.dumps(result), encoding="utf-8")


def write_pairs(task: Task, path: Path) -> dict[str, Any]:
    """Of `task.steps` prompts, each once before any comes again, as many replies at a time as an iteration has."""
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    prepared = Prepared(Path(task.prepared))
    facts = prepared.facts
    rlhf = Rlhf.model_validate(facts["rlhf"])
    tokenizer = AutoTokenizer.from_pretrained(facts["model"])
    room = facts["sft"]["max_length"] - rlhf.max_new_tokens
    prompts, _ = read_prompts(prepared.prompts, tokenizer, facts["eos_ids"], room)
    random.Random(f"{task.seed}/pairs").shuffle(prompts)
    precision = facts["sft"]["precision"]
    base = AutoModelForCausalLM.from_pretrained(facts["model"], dtype=precision)
    model = PeftModel.from_pretrained(base, facts["parent"])
    rewards = rewards_of(prepared, path.with_name("rewards"))
    a_time = rlhf.prompts
    started = time.monotonic()
    found: list[dict[str, str]] = []
    for number, asked in enumerate(parts(prompts, task.steps, a_time)):
        repeated = [prompt for prompt in asked for _ in range(GROUP)]
        with passes_in(precision, model.device.type):
            rollouts = sample(
                model,
                [prompt.ids for prompt in repeated],
                facts["eos_ids"],
                most_tokens=rlhf.max_new_tokens,
                temperature=rlhf.temperature,
                seed=1_000_003 * task.seed + number,
            )
        written = [each.completion.reply_ids for each in rollouts]
        texts = [tokenizer.decode(ids, skip_special_tokens=True) for ids in written]
        answers = zip(repeated, texts, written, strict=True)
        scores = rewards.judge([prompt.answered(text, ids) for prompt, text, ids in answers])
        for place, prompt in enumerate(asked):
            here = slice(place * GROUP, (place + 1) * GROUP)
            found += pair(f"{prompt.row.id}-{number}", prompt, texts[here], [each.total for each in scores[here]])
    path.write_text("".join(json.dumps(row) + "\n" for row in found), encoding="utf-8")
    return {"prompts": task.steps, "pairs": len(found), "sampling_seconds": time.monotonic() - started}


def parts(prompts: list[Prompt], wanted: int, a_time: int) -> Iterator[list[Prompt]]:
    for start in range(0, wanted, a_time):
        yield [prompts[place % len(prompts)] for place in range(start, min(start + a_time, wanted))]


def pair(name: str, prompt: Prompt, texts: list[str], scores: list[float | None]) -> list[dict[str, str]]:
    judged = sorted((score, text) for score, text in zip(scores, texts, strict=True) if score is not None)
    if not judged or judged[0][0] == judged[-1][0]:
        return []
    return [{"id": name, "prompt": prompt.row.prompt, "chosen": judged[-1][1], "rejected": judged[0][1]}]


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
