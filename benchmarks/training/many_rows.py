"""The memory and the time that rows take in the trainer's process, beside the model.

    .venv/bin/python -m benchmarks.training.many_rows --model DIR --rows 100000 [1000000 …] [--out DIR]

Each number of rows is a training of its own, of invented rows of some 600 tokens, that is stopped after its second
step: by then every row was encoded, checked, packed and planned. What 64 rows take is the model's part, and is
subtracted. Memory is that of the trainer's process, and of the processes that encode for it, read from `/proc` four
times a second: `anonymous` belongs to the process; `mapped` is the rows' file and the libraries', which the kernel
takes back when it needs room.
"""

import argparse
import json
import os
import random
import signal
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psutil

from benchmarks.harness import say, write_json
from benchmarks.trainer_job import Base, new_job
from sovereign_pipeline.base.settings import OFFLINE_ENVIRONMENT
from sovereign_pipeline.policy.training import Sft
from sovereign_pipeline.training.job import TrainingJob

FEW = 64
WORDS = "the harbour lamp is out and the officer of the pier sends a boat with rope and net before the tide".split()  # noqa: SIM905
PROMPT_WORDS, REPLY_WORDS = (150, 250), (300, 450)
STEPS = 2
SECONDS_BETWEEN_LOOKS = 0.25


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--rows", type=int, nargs="+", required=True)
    parser.add_argument("--out", type=Path)
    arguments = parser.parse_args()
    base = measure(arguments.model, FEW)
    found = []
    for count in arguments.rows:
        measured = measure(arguments.model, count)
        beside = {f"{name}_beside_the_model": measured[name] - base[name] for name in ("anonymous", "resident")}
        found.append({**measured, **beside})
        say(
            f"{count:,} rows, {measured['tokens'] / 1e6:,.1f} million tokens: {_gb(measured['anonymous'])} anonymous "
            f"and {_gb(measured['mapped'])} mapped, {_gb(measured['resident'])} resident; beside the model "
            f"{_gb(beside['anonymous_beside_the_model'])} and, with what is mapped, "
            f"{_gb(beside['resident_beside_the_model'])}. Encoding {_gb(measured['all_processes'])} in all processes. "
            f"{measured['seconds_until_model'] / 60:.1f} min until the model, {measured['seconds'] / 60:.1f} min until "
            f"step {STEPS}. Load {os.getloadavg()[0]:.1f}."
        )
    if arguments.out is not None:
        write_json(arguments.out, "many_rows", {"model": base, "rows": found})


def measure(model: Path, count: int) -> dict[str, Any]:
    """Bytes at their peaks, seconds, and tokens."""
    with tempfile.TemporaryDirectory() as directory:
        root = Path(directory)
        with (root / "rows.jsonl").open("w", encoding="utf-8") as file:
            file.writelines(invented_rows(count))
        job = job_of(root, model)
        job.write(root / "job.json")
        return watch(root, job, count)


def invented_rows(count: int) -> Iterator[str]:
    draw = random.Random(7)

    def text(least: int, most: int) -> str:
        return " ".join(draw.choices(WORDS, k=draw.randint(least, most)))

    for number in range(count):
        row = {
            "id": f"R-{number:07}",
            "instruction": "Reply.",
            "input": text(*PROMPT_WORDS),
            "output": text(*REPLY_WORDS),
        }
        yield json.dumps(row) + "\n"


def watch(root: Path, job: TrainingJob, count: int) -> dict[str, Any]:
    command = [sys.executable, "-W", "ignore", "-m", "sovereign_pipeline.training.worker", "job.json"]
    started = time.monotonic()
    with (root / "errors.txt").open("wb") as errors:
        child = subprocess.Popen(
            command,
            cwd=root,
            stdout=subprocess.PIPE,
            stderr=errors,
            text=True,
            env={**os.environ, **OFFLINE_ENVIRONMENT, "PYTHONPATH": str(Path.cwd()), "HF_HOME": str(root / "caches")},
        )
    peaks = {"anonymous": 0, "mapped": 0, "resident": 0, "all_processes": 0}
    looking = threading.Thread(target=keep_peaks, args=(child, peaks), daemon=True)
    looking.start()
    assert child.stdout is not None
    seen: dict[str, Any] = {}
    for line in child.stdout:
        told = json.loads(line)
        if told["message"].startswith("loading the base model"):
            seen["seconds_until_model"] = time.monotonic() - started
        if told.get("step") == STEPS:
            seen |= {"seconds": time.monotonic() - started, "steps": told["steps"]}
            child.send_signal(signal.SIGTERM)
    child.wait()
    looking.join()
    if "seconds" not in seen:
        raise SystemExit(f"The training of {count} rows ended early: {job.result.read_text(encoding='utf-8')}")
    return {"rows": count, "tokens": count * _tokens_of_a_row(job), **peaks, **seen}


def keep_peaks(child: "subprocess.Popen[str]", peaks: dict[str, int]) -> None:
    process = psutil.Process(child.pid)
    while child.poll() is None:
        try:
            own = _memory(child.pid)
            together = own["RssAnon"] + sum(_memory(each.pid)["RssAnon"] for each in process.children(recursive=True))
        except (OSError, KeyError, psutil.NoSuchProcess):  # it ended meanwhile
            continue
        now = {
            "anonymous": own["RssAnon"],
            "mapped": own["RssFile"],
            "resident": own["VmRSS"],
            "all_processes": together,
        }
        peaks |= {name: max(value, peaks[name]) for name, value in now.items()}
        time.sleep(SECONDS_BETWEEN_LOOKS)


def _memory(process: int) -> dict[str, int]:
    """Bytes, by the kernel's names."""
    lines = Path(f"/proc/{process}/status").read_text(encoding="ascii", errors="replace").splitlines()
    fields = (line.split() for line in lines if line.startswith(("VmRSS", "Rss")))
    return {name.rstrip(":"): int(size) << 10 for name, size, _ in fields}


def _tokens_of_a_row(job: TrainingJob) -> float:
    """A mean, from the first rows."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(job.base_model)
    texts = [json.loads(row) for row in invented_rows(FEW)]
    turns = [
        [
            {"role": "user", "content": f"{row['instruction']}\n\n{row['input']}"},
            {"role": "assistant", "content": row["output"]},
        ]
        for row in texts
    ]
    return sum(len(ids) for ids in tokenizer.apply_chat_template(turns, return_dict=False)) / FEW


def job_of(root: Path, model: Path) -> TrainingJob:
    return new_job(
        Base.of(model),
        root / "output",
        "sft",
        dataset=root / "rows.jsonl",
        seed=7,
        sft=Sft.model_validate({"precision": "float32", "max_length": 1024, "gradient_accumulation": 1}),
    )


def _gb(size: float) -> str:
    return f"{size / 1e9:.2f} GB"


if __name__ == "__main__":
    main()
