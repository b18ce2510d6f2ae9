"""The local engine beside transformers alone: eight answers at once, twelve adapters interleaved, memory per adapter.

    python -m benchmarks.serving.local_engine [--threads 2] [--rounds 3] [--new-tokens 24]

The base model is the packaged one, in float32; adapters have rank 16 on all linear layers and random weights, small
enough for answers to stay as long as the base model's. The other side is `generate` of transformers with PEFT in a
process of its own, with the same threads: eight letters in one padded batch with one adapter, in one batch with eight
adapters (`adapter_names`), and one by one. All that is compared alternates in rounds. Seconds are those of the
processor, since a shared machine's clock measures the neighbours too.
"""

import argparse
import asyncio
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil

from benchmarks.harness import PROJECT_ROOT, base_model, machine_facts, say
from sovereign_pipeline.base.files import file_sha256
from sovereign_pipeline.base.settings import OFFLINE_ENVIRONMENT
from sovereign_pipeline.base_models.stages import chat_template
from sovereign_pipeline.serving.engines.engine import Deployable, EngineRequest, Sampling
from sovereign_pipeline.serving.engines.local import LocalEngine, LocalSettings

MODEL = "smollm2-135m-instruct"
ADAPTERS = 12
BATCH = "8 answers, one adapter, generate"
MIXED = "8 answers, 8 adapters, generate with adapter_names"
ONE_BY_ONE = "8 answers one by one, generate"
LETTER = (
    "Dear Sir or Madam, on {day} March I asked for a permit to open a stall at the harbour gate, and paid the fee of "
    "forty at the counter. Since then an officer has come to look at the place, and told me that the form for the "
    "inspection of the lamps was still missing. I have sent it twice. Please write to me what is missing now, by when "
    "the permit can be expected, and whether I may open before it is there. The season begins in {weeks} weeks."
)


def main() -> None:
    arguments = _arguments()
    if arguments.generate is not None:
        _generate(arguments.generate, arguments.threads, arguments.new_tokens)
        return
    with tempfile.TemporaryDirectory() as name:
        say(f"making {ADAPTERS} adapters")
        adapters = make_adapters(Path(name))
        result = asyncio.run(measure(adapters, arguments.threads, arguments.rounds, arguments.new_tokens))
    result["machine"] = machine_facts()
    print(json.dumps(result, indent=1))  # noqa: T201


async def measure(adapters: Sequence[Deployable], threads: int, rounds: int, new_tokens: int) -> dict[str, Any]:
    settings = LocalSettings(threads=threads, gather_seconds=0.2)
    engine = await LocalEngine.start(base_model(MODEL), settings)
    process = next(each for each in psutil.Process().children() if "local_child" in " ".join(each.cmdline()))
    await engine.load(adapters[0])
    await tokens_per_second(engine, process, adapters[:1], 2, new_tokens)  # buffers that stay
    before = process.memory_info().rss
    for adapter in adapters[1:]:
        await engine.load(adapter)
    per_adapter = (process.memory_info().rss - before) / (len(adapters) - 1)
    sides: dict[str, list[float]] = {}
    for number in range(rounds):
        for name, held, answers in (
            ("8 answers, one adapter", 1, 8),
            ("8 answers, 8 adapters", 8, 8),
            ("16 answers, one adapter", 1, 16),
            ("16 answers, 12 adapters", 12, 16),
        ):
            rate = await tokens_per_second(engine, process, adapters[:held], answers, new_tokens)
            sides.setdefault(name, []).append(rate)
        say(f"round {number + 1}: generate")
        for name, rate in (
            await asyncio.to_thread(generate, adapters[0].directory.parent, threads, new_tokens)
        ).items():
            sides.setdefault(name, []).append(rate)
    await engine.close()
    median = {name: statistics.median(each) for name, each in sides.items()}
    weights = (adapters[0].directory / "adapter_model.safetensors").stat().st_size
    return {
        "threads": threads,
        "new_tokens": new_tokens,
        "tokens_per_processor_second": {name: round(each, 1) for name, each in median.items()},
        "rounds": {name: [round(value, 1) for value in each] for name, each in sides.items()},
        "batch_against_generate": _ratio(sides, "8 answers, one adapter", BATCH),
        "mixed_against_adapter_names": _ratio(sides, "8 answers, 8 adapters", MIXED),
        "batch_against_one_by_one": _ratio(sides, "8 answers, one adapter", ONE_BY_ONE),
        "12_adapters_against_one": _ratio(sides, "16 answers, 12 adapters", "16 answers, one adapter"),
        "mib_per_adapter": round(per_adapter / (1 << 20), 1),
        "mib_of_its_weights": round(weights / (1 << 20), 1),
    }


def _ratio(sides: dict[str, list[float]], one: str, other: str) -> float:
    """The median over rounds of the quotient within a round."""
    return round(statistics.median(a / b for a, b in zip(sides[one], sides[other], strict=True)), 2)


async def tokens_per_second(
    engine: LocalEngine, process: psutil.Process, adapters: Sequence[Deployable], answers: int, new_tokens: int
) -> float:
    async def one(number: int) -> int:
        messages = [{"role": "user", "content": letter(number)}]
        answer = await engine.answer(
            EngineRequest(adapters[number % len(adapters)].digest, messages, Sampling(new_tokens))
        )
        return sum([piece.tokens async for piece in answer.pieces])

    before = process.cpu_times()
    counted = await asyncio.gather(*(one(number) for number in range(answers)))
    after = process.cpu_times()
    return sum(counted) / (after.user + after.system - before.user - before.system)


def generate(adapters: Path, threads: int, new_tokens: int) -> dict[str, float]:
    """Tokens per processor second of transformers' `generate`, by side."""
    command = [sys.executable, "-m", "benchmarks.serving.local_engine", "--generate", adapters]
    told = subprocess.run(
        [*map(str, command), "--threads", str(threads), "--new-tokens", str(new_tokens)],
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        check=True,
        cwd=PROJECT_ROOT,
        env={
            **os.environ,
            **OFFLINE_ENVIRONMENT,
            "OMP_NUM_THREADS": str(threads),
            "PYTHONPATH": str(PROJECT_ROOT),
        },
    )
    found: dict[str, float] = json.loads(told.stdout)
    return found


def _generate(adapters: Path, threads: int, new_tokens: int) -> None:
    """In a process of its own. Prints the rates of `generate`."""
    import torch
    from peft import PeftModel
    from transformers import AutoModelForCausalLM, AutoTokenizer

    torch.set_num_threads(threads)
    base = base_model(MODEL)
    tokenizer = AutoTokenizer.from_pretrained(base, padding_side="left")
    model = AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32)
    model = PeftModel.from_pretrained(model, adapters / "adapter-0", adapter_name="0").eval()
    for number in range(1, 8):
        model.load_adapter(adapters / f"adapter-{number}", adapter_name=str(number))
    texts = [
        tokenizer.apply_chat_template(
            [{"role": "user", "content": letter(number)}], tokenize=False, add_generation_prompt=True
        )
        for number in range(8)
    ]

    def compute(texts: Sequence[str], **options: Any) -> int:
        inputs = tokenizer(list(texts), add_special_tokens=False, padding=True, return_tensors="pt")
        answers = model.generate(**inputs, do_sample=False, max_new_tokens=new_tokens, **options)
        new = answers[:, inputs["input_ids"].shape[1] :]
        ends = {tokenizer.eos_token_id, tokenizer.pad_token_id}
        return sum(next((place for place, id in enumerate(row) if id in ends), len(row)) for row in new.tolist())

    sides: dict[str, Callable[[], int]] = {
        BATCH: lambda: compute(texts),
        MIXED: lambda: compute(texts, adapter_names=[str(number) for number in range(8)]),
        ONE_BY_ONE: lambda: sum(compute([text]) for text in texts),
    }
    rates = {}
    with torch.inference_mode():
        compute(texts[:1])  # what is done once
        for name, side in sides.items():
            started = time.process_time()
            rates[name] = side() / (time.process_time() - started)
    print(json.dumps(rates))  # noqa: T201


def letter(number: int) -> str:
    return LETTER.format(day=number + 1, weeks=number + 2)


def make_adapters(directory: Path, count: int = ADAPTERS) -> list[Deployable]:
    import torch
    from peft import LoraConfig, get_peft_model
    from transformers import AutoModelForCausalLM

    base = base_model(MODEL)
    from hashlib import sha256

    template = sha256(chat_template(base).encode()).hexdigest()
    config = LoraConfig(r=16, lora_alpha=32, target_modules="all-linear", task_type="CAUSAL_LM")
    model = get_peft_model(AutoModelForCausalLM.from_pretrained(base, dtype=torch.float32), config)
    found = []
    for number in range(count):
        torch.manual_seed(number)
        for name, parameter in model.named_parameters():
            if "lora_B" in name:
                torch.nn.init.normal_(parameter, std=0.002)
        target = directory / f"adapter-{number}"
        model.save_pretrained(target)
        digest = sha256(str(number).encode()).hexdigest()
        adapter = Deployable(f"line-1.0.{number}", "line", digest, target, "PUBLIC", template, None, pinned=True)
        found.append(replace(adapter, files={file.name: file_sha256(file) for file in target.iterdir()}))
    return found


def _arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--new-tokens", type=int, default=24)
    parser.add_argument("--generate", type=Path)
    return parser.parse_args()


if __name__ == "__main__":
    main()
