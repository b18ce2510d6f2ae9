"""The peak memory that `sovereign size` predicts beside the peak of a real training process.

    .venv/bin/python -m benchmarks.training.memory_prediction --model DIR [--out DIR] [CASE …]

DIR: a model directory, such as `.sovereign/models/smollm2-135m-instruct`. Each case is trained for two steps by
`python -m sovereign_pipeline.training.worker`, on invented rows that fill packs of `max_length` tokens; in
full tuning with two forwards per step, so that gradients exist beside activations. The peak is the child's own:
`ru_maxrss` when the child ends, or on a CUDA device what the trainer measured. A case that the trainer refuses or
does not do is printed with its reason. Ends 1 when a prediction is more than 15 % off.
"""

import argparse
import itertools
import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from benchmarks.harness import say, write_json
from benchmarks.trainer_job import Base, new_job
from sovereign_pipeline.base.settings import go_offline
from sovereign_pipeline.base_models.shapes import read_shape
from sovereign_pipeline.policy.training import Sft
from sovereign_pipeline.training.job import TrainingResult
from sovereign_pipeline.training.preflight import available_memory
from sovereign_pipeline.training.sizing import Forward, estimate

STEPS, ROWS_A_PACK = 2, 8
SENTENCE = "the harbour lamp is out and the officer of the pier sends a boat with rope and net before the tide"

CASES: dict[str, dict[str, Any]] = {
    "lora float32 512": {"precision": "float32", "max_length": 512},
    "lora float32 1024": {"precision": "float32"},
    "lora float32 2048": {"precision": "float32", "max_length": 2048},
    "lora float32 2x1024": {"precision": "float32", "batch_size": 2},
    "lora bfloat16 1024": {"precision": "bfloat16"},
    "qlora float32 1024": {"precision": "float32", "adapter": "qlora"},
    "qlora bfloat16 1024": {"precision": "bfloat16", "adapter": "qlora"},
    "lora float32 1024 checkpointing": {"precision": "float32", "gradient_checkpointing": True},
    "lora float32 2x1024 checkpointing": {"precision": "float32", "batch_size": 2, "gradient_checkpointing": True},
    "lora bfloat16 1024 checkpointing": {"precision": "bfloat16", "gradient_checkpointing": True},
    "qlora float32 1024 checkpointing": {"precision": "float32", "adapter": "qlora", "gradient_checkpointing": True},
    "full float32 1024": {"precision": "float32", "adapter": "none"},
    "full bfloat16 1024": {"precision": "bfloat16", "adapter": "none"},
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--out", type=Path)
    parser.add_argument("cases", nargs="*", default=[], help=f"of: {', '.join(CASES)}; all without")
    arguments = parser.parse_args()
    go_offline()
    results = []
    say(f"{'case':<36} {'predicted MiB':>13} {'measured MiB':>13} {'ratio':>6}")
    for name in arguments.cases or CASES:
        found = compare(name, arguments.model)
        results.append(found)
        if "refused" in found:
            say(f"{name:<36} not trained: {found['refused']}")
            continue
        mebibytes = [found[key] / (1 << 20) for key in ("predicted", "measured")]
        say(f"{name:<36} {mebibytes[0]:>13,.0f} {mebibytes[1]:>13,.0f} {found['ratio']:>6.2f}")
    if arguments.out is not None:
        write_json(arguments.out, "memory_prediction", results)
    sys.exit(0 if all(abs(each.get("ratio", 1.0) - 1) <= 0.15 for each in results) else 1)


def compare(name: str, model: Path) -> dict[str, Any]:
    """predicted, measured: bytes at the peak. parts: the prediction's. refused: why it was not trained."""
    case = CASES[name]
    accumulation = 2 if case.get("adapter") == "none" else 1
    sft = Sft.model_validate({"gradient_accumulation": accumulation, "max_steps": STEPS, "warmup_steps": 0, **case})
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        forward = write_rows(root / "rows.jsonl", model, sft)
        measured, refused = train(root, model, sft)
    if refused is not None:
        return {"case": name, "refused": refused}
    _, device = available_memory()
    predicted = estimate(read_shape(str(model)), sft, device=device, forward=forward)
    return {
        "case": name,
        "predicted": predicted.total,
        "measured": measured,
        "ratio": round(predicted.total / measured, 3),
        "parts": predicted.parts,
        "device": device,
    }


def write_rows(path: Path, model: Path, sft: Sft) -> Forward:
    """Invented rows, all alike, of which eight make one pack that is all but full. Returns what one forward takes."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(model)
    wanted = sft.max_length // ROWS_A_PACK
    words = wanted
    while True:
        half = " ".join(itertools.islice(itertools.cycle(SENTENCE.split()), words // 2))
        asked = [{"role": "user", "content": f"Reply.\n\n{half}"}]
        prompt = len(tokenizer.apply_chat_template(asked, add_generation_prompt=True, return_dict=False))
        whole = [*asked, {"role": "assistant", "content": half}]
        length = len(tokenizer.apply_chat_template(whole, return_dict=False))
        if length <= wanted:
            break
        words -= 2
    row = {"instruction": "Reply.", "input": half, "output": half}
    at_once = ROWS_A_PACK * sft.batch_size
    count = at_once * sft.gradient_accumulation * STEPS
    rows = [json.dumps({"id": f"R-{number}", **row}) + "\n" for number in range(count)]
    path.write_text("".join(rows), encoding="utf-8")
    return Forward(at_once * length, at_once * (length - prompt))


def train(root: Path, model: Path, sft: Sft) -> tuple[int, str | None]:
    """Peak memory of the child (bytes), or why it did not train."""
    job = new_job(Base.of(model), root / "output", "sft", dataset=root / "rows.jsonl", seed=7, sft=sft)
    job.write(root / "job.json")
    command = [
        sys.executable,
        "-W",
        "ignore",
        "-m",
        "sovereign_pipeline.training.worker",
        str(root / "job.json"),
    ]
    with (root / "output.txt").open("wb") as output:
        child = subprocess.Popen(command, stdout=output, stderr=output, env={**os.environ, "SOVEREIGN_HOME": str(root)})
        _, status, usage = os.wait4(child.pid, 0)
        child.returncode = os.waitstatus_to_exitcode(status)
    if not job.result.is_file():
        return 0, f"the child ended with status {child.returncode} and no result"
    result = TrainingResult.model_validate_json(job.result.read_bytes())
    if result.failure is not None:
        return 0, str(result.failure.as_error())
    report = json.loads((job.output / "report.json").read_bytes())
    done = (report["gradient_checkpointing"], (job.output / "model").is_dir())
    if done != (sft.gradient_checkpointing, sft.adapter == "none"):
        return 0, "the trainer here does not do this"
    if available_memory()[1] == "cuda":
        return int(result.measured["peak_memory_bytes"]), None
    return usage.ru_maxrss * 1024, None


if __name__ == "__main__":
    main()
