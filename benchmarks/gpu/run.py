"""Training at real sizes on one GPU: a 70B shape in NF4, and an 8B shape in LoRA and QLoRA beside plain TRL.

    python -m benchmarks.gpu.run --out DIR [--smoke] [--parts 70b 8b]

Under ten minutes on one H100. Weights are random; nothing is fetched. A part whose libraries are missing is left out,
and the result says so. --smoke takes tiny shapes, also without a GPU, to run every path; its figures mean nothing.
README.md beside this says what is needed.
"""

import argparse
import importlib.metadata
import importlib.util
import json
import os
import platform
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from benchmarks.harness import PROJECT_ROOT, say, write_result

HERE = Path(__file__).resolve().parent
TRAINING = HERE.parent / "training"
PARTS = ("70b", "8b")
LIBRARIES = ("accelerate", "bitsandbytes", "datasets", "peft", "torch", "transformers", "trl")

# Of each, what it imports beside the standard library.
NEEDS_70B = ("torch", "transformers", "peft", "bitsandbytes")
NEEDS_STOCK = ("torch", "transformers", "peft", "trl", "datasets")
NEEDS_OURS = (*NEEDS_STOCK, "pydantic", "yaml", "safetensors")

PAPER_BYTES = 48 * 2**30
"""A model of 65B parameters is tuned on one GPU of 48 GB (Dettmers et al. 2023, abstract)."""

DENSE_BFLOAT16 = {"H100": 989e12, "H200": 989e12}
"""FLOP/s without sparsity, SXM, from NVIDIA's data sheets; by a word of the card's name."""

SEQUENCES = (("70b", 64, 512), ("70b", 16, 1024))
"""Shape, rank, tokens: what the paper trains (its appendix B), then this project's defaults."""


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--smoke", action="store_true")
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=PARTS)
    parser.add_argument("--rows", type=int, default=1000, help="of the 8B part")
    arguments = parser.parse_args()
    arguments.out.mkdir(parents=True, exist_ok=True)
    result: dict[str, Any] = {
        "smoke": arguments.smoke,
        "device": device(),
        "python": platform.python_version(),
        "libraries": {name: version(name) for name in LIBRARIES},
        "measured": [],
    }
    with tempfile.TemporaryDirectory(dir=arguments.out) as directory:
        if "70b" in arguments.parts:
            for shape, rank, length in SEQUENCES:
                result["measured"].append(nf4(shape, rank, length, arguments.smoke, Path(directory)))
                write_result(arguments.out, "gpu", result, as_markdown(result))
        if "8b" in arguments.parts:
            for each in against_trl(arguments.rows, arguments.smoke, result["device"], Path(directory)):
                result["measured"].append(each)
                write_result(arguments.out, "gpu", result, as_markdown(result))
    if any("failed" in each for each in result["measured"]):
        sys.exit(1)


def nf4(shape: str, rank: int, length: int, smoke: bool, directory: Path) -> dict[str, Any]:
    name = f"{shape} NF4, rank {rank}, {length} tokens"
    answer = directory / "nf4.json"
    size = "tiny" if smoke else shape
    options = ["--shape", size, "--rank", rank, "--tokens", length, "--answer", answer]
    return attempt(name, NEEDS_70B, [HERE / "nf4_step.py", *options], answer)


def against_trl(rows: int, smoke: bool, card: str, directory: Path) -> Any:
    """Each side in LoRA and in QLoRA, one after the other on the same rows. Yields what was measured of each."""
    model, data = directory / "model", directory / "rows.jsonl"
    options = ["--shape", "tiny" if smoke else "8b", "--out", model, "--rows", data, "--count", 8 if smoke else rows]
    made = attempt(
        "8b: random weights", ("torch", "transformers"), [HERE / "random_model.py", *options], model / "counts.json"
    )
    if "skipped" in made or "failed" in made:
        yield made
        return
    (model / "counts.json").unlink()  # the model directory holds the model and nothing else
    for adapter in ("lora", "qlora"):
        for side, script, needs in (("ours", "ours.py", NEEDS_OURS), ("stock TRL", "stock_trl.py", NEEDS_STOCK)):
            place = directory / f"{adapter}-{script[:4]}"
            place.mkdir()
            task = {
                "method": "sft",
                "model": str(model),
                "rows": str(data),
                "output": str(place / "output"),
                "seed": 1,
                "learning_rate": 2e-4,
                "adapter": adapter,
                "precision": "bfloat16",
                "max_length": 256 if smoke else 4096,
                "batch_size": 4,
                "accumulation": 1 if smoke else 4,  # about the rows of a pack
            }
            (place / "task.json").write_text(json.dumps(task), encoding="utf-8")
            answer = place / "answer.json"
            needed = (*needs, "bitsandbytes") if adapter == "qlora" else needs
            name = f"8b {'LoRA, bfloat16' if adapter == 'lora' else 'QLoRA'}, {side}"
            measured = attempt(name, needed, [TRAINING / script, place / "task.json", answer], answer)
            yield with_rates(measured, made, card)


def with_rates(measured: dict[str, Any], made: dict[str, Any], card: str) -> dict[str, Any]:
    """FLOPs a model needs for a step: forward and the gradient of the activations, 2 each a weight and token, since a
    frozen weight needs no gradient (Hu et al. 2022); the head at supervised tokens. Attention's own products are left
    out: some hundredths at these lengths. The share is of the card's dense bfloat16 peak (Chowdhery et al. 2022,
    appendix B, with these FLOPs)."""
    if "loop_seconds" not in measured:
        return measured
    flops = 4 * (made["weights_in_layers"] * made["tokens"] + made["weights_in_head"] * made["supervised_tokens"])
    peak = next((value for word, value in DENSE_BFLOAT16.items() if word in card), None)
    rate = {
        "tokens": made["tokens"],
        "tokens_per_second": made["tokens"] / measured["loop_seconds"],
        "peak_bytes": measured["measured"].get("peak_memory_bytes"),
        "model_flops_utilisation": flops / measured["loop_seconds"] / peak if peak else None,
    }
    return {**measured, **rate}


def attempt(name: str, needs: Sequence[str], command: Sequence[object], answer: Path) -> dict[str, Any]:
    """Run a script in a process of its own. What is missing, or how it failed, is part of the result."""
    missing = [library for library in needs if importlib.util.find_spec(library) is None]
    if missing:
        say(f"{name}: left out, no {', '.join(missing)}")
        return {"name": name, "skipped": f"not installed here: {', '.join(missing)}"}
    say(name)
    offline = {"HF_HUB_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "USE_HUB_KERNELS": "0"}
    paths = os.pathsep.join(filter(None, (str(PROJECT_ROOT), os.environ.get("PYTHONPATH"))))
    started = time.monotonic()
    process = subprocess.run(
        [sys.executable, *map(str, command)],
        env={**os.environ, **offline, "PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    seconds = time.monotonic() - started
    if process.returncode != 0:
        said = process.stdout.strip().splitlines()
        say("\n".join(said[-15:]))
        return {"name": name, "failed": said[-1] if said else f"status {process.returncode}"}
    return {"name": name, "process_seconds": seconds, **json.loads(answer.read_bytes())}


def device() -> str:
    if importlib.util.find_spec("torch") is None:
        return "unknown: torch is not installed"
    asked = "import torch; print(torch.cuda.get_device_name() if torch.cuda.is_available() else 'cpu')"
    return subprocess.run([sys.executable, "-c", asked], stdout=subprocess.PIPE, text=True, check=True).stdout.strip()


def version(library: str) -> str | None:
    try:
        return importlib.metadata.version(library)
    except importlib.metadata.PackageNotFoundError:
        return None


def as_markdown(result: dict[str, Any]) -> str:
    versions = ", ".join(f"{name} {number or 'missing'}" for name, number in result["libraries"].items())
    smoke = " **A smoke run on tiny shapes: the figures mean nothing.**" if result["smoke"] else ""
    lines = [
        f"{result['device']}, Python {result['python']}; {versions}.{smoke}",
        "",
        f"| what | peak GiB | of the paper's {PAPER_BYTES / 2**30:.0f} | tokens/s | model-FLOPs utilisation |",
        "|---|---:|---:|---:|---:|",
    ]
    for each in result["measured"]:
        if "skipped" in each or "failed" in each:
            lines.append(f"| {each['name']} | {each.get('skipped') or 'failed: ' + each['failed']} | | | |")
            continue
        peak = each["peak_bytes"]
        share = f"{peak / PAPER_BYTES:.0%}" if "NF4" in each["name"] and peak else ""
        used = each.get("model_flops_utilisation")
        gib = f"{peak / 2**30:.2f}" if peak else "–"
        rate = f"{each['tokens_per_second']:,.0f}"
        lines.append(f"| {each['name']} | {gib} | {share} | {rate} | {f'{used:.1%}' if used else '–'} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    main()
