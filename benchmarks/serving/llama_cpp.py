"""One user of llama.cpp and of the local engine: the same base model, adapter and prompt, on the same cores.

    python -m benchmarks.serving.llama_cpp --python PYTHON [--threads 2] [--rounds 3] [--new-tokens 48]

PYTHON has `benchmarks/serving/llama-cpp-requirements.txt`. Model and adapter are written as GGUF from safetensors. How
far each greedy answer equals the local engine's shows whether something was lost. Arms alternate.
"""

import argparse
import asyncio
import json
import subprocess
import tempfile
import time
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path
from typing import Any

import aiohttp
import gguf
import psutil

from benchmarks.harness import alternating, base_model, machine_facts, say
from benchmarks.serving.local_engine import MODEL, letter, make_adapters
from sovereign_pipeline.serving.engines.engine import EngineRequest, Sampling
from sovereign_pipeline.serving.engines.local import LocalEngine, LocalSettings

OURS = "local engine, float32"
PRECISIONS = {"llama.cpp, float32": "F32", "llama.cpp, bfloat16": "BF16", "llama.cpp, 8 bits": "Q8_0"}
SERVE = """
import sys, time, xllamacpp
_, model, adapter, threads = sys.argv
params = xllamacpp.CommonParams()
params.model.path, params.n_parallel, params.n_ctx = model, 1, 2048
params.lora_adapters = [xllamacpp.CommonAdapterLoraInfo(adapter, 1.0)]
params.cpuparams.n_threads = params.cpuparams_batch.n_threads = int(threads)
server = xllamacpp.Server(params)
print(server.listening_address, flush=True)
time.sleep(3600)
"""
Arm = tuple[Callable[[int], AsyncIterator[str]], Any]  # asks for the answer to a letter; the process that answers


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--python", type=Path, required=True)
    for option, default in (("--threads", 2), ("--rounds", 3), ("--new-tokens", 48)):
        parser.add_argument(option, type=int, default=default)
    rounds = asyncio.run(measure(given := parser.parse_args()))
    for each in rounds:
        texts = {arm: figures.pop("text") for arm, figures in each.items()}
        for arm, figures in each.items():
            pairs = enumerate(zip(texts[arm], texts[OURS], strict=False))
            figures["equal_characters"] = next((place for place, (a, b) in pairs if a != b), len(texts[OURS]))
    print(json.dumps({"threads": given.threads, "machine": machine_facts(), "rounds": rounds}, indent=1))  # noqa: T201


async def measure(given: argparse.Namespace) -> list[dict[str, Any]]:
    async with AsyncExitStack() as stack:
        directory = Path(stack.enter_context(tempfile.TemporaryDirectory()))
        (adapter,) = make_adapters(directory, 1)
        write_adapter(base_model(MODEL), adapter.directory, directory / "adapter.gguf")
        arms = {OURS: await stack.enter_async_context(_local(adapter, given))}
        for arm, precision in PRECISIONS.items():
            write_model(base_model(MODEL), directory / f"{precision}.gguf", precision)
            command = (given.python, "-c", SERVE, directory / f"{precision}.gguf", directory / "adapter.gguf")
            arms[arm] = stack.enter_context(_llama_cpp([*map(str, command), str(given.threads)], given.new_tokens))
            say(f"{arm} runs")
        for ask, process in arms.values():
            await measured(ask(99), process)  # what is done once
        return [
            {arm: await measured(arms[arm][0](number), arms[arm][1]) for arm in order}
            for number, order in alternating(given.rounds, list(arms))
        ]


@asynccontextmanager
async def _local(adapter: Any, given: argparse.Namespace) -> AsyncIterator[Arm]:
    engine = await LocalEngine.start(base_model(MODEL), LocalSettings(threads=given.threads))
    await engine.load(adapter)

    async def ask(number: int) -> AsyncIterator[str]:
        messages = [{"role": "user", "content": letter(number)}]
        answer = await engine.answer(EngineRequest(adapter.digest, messages, Sampling(given.new_tokens)))
        async for piece in answer.pieces:
            yield piece.text

    yield ask, next(each for each in psutil.Process().children() if "local_child" in " ".join(each.cmdline()))
    await engine.close()


@contextmanager
def _llama_cpp(command: list[str], new_tokens: int) -> Iterator[Arm]:
    with subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True) as child:
        assert child.stdout is not None
        url = f"{child.stdout.readline().strip()}/v1/chat/completions"

        async def ask(number: int) -> AsyncIterator[str]:
            body: dict[str, Any] = {"messages": [{"role": "user", "content": letter(number)}], "cache_prompt": False}
            body |= {"max_tokens": new_tokens, "temperature": 0, "stream": True}
            async with aiohttp.ClientSession() as session, session.post(url, json=body) as response:
                async for line in response.content:
                    if line.startswith(b"data: {") and (choices := json.loads(line[6:])["choices"]):
                        yield choices[0]["delta"].get("content") or ""

        yield ask, psutil.Process(child.pid)
        child.terminate()


async def measured(pieces: AsyncIterator[str], process: Any) -> dict[str, Any]:
    """Figures of an answer, and of the process that gives it; a piece is a token."""
    began, cpu, texts, first = time.monotonic(), sum(process.cpu_times()[:2]), [], 0.0
    async for text in pieces:
        if text:
            first = first or time.monotonic()
            texts.append(text)
    return {
        "first_token_ms": round(1000 * (first - began)),
        "tokens_a_second": round((len(texts) - 1) / (time.monotonic() - first), 1),
        "tokens_a_cpu_second": round(len(texts) / (sum(process.cpu_times()[:2]) - cpu), 1),
        "resident_mib": process.memory_info().rss >> 20,
        "text": "".join(texts),
    }


def write_model(base: Path, target: Path, precision: str) -> None:
    config, tokenizer = (json.loads((base / name).read_bytes()) for name in ("config.json", "tokenizer.json"))
    special = {each["id"]: each["content"] for each in tokenizer["added_tokens"]}
    tokens = {id: token for token, id in tokenizer["model"]["vocab"].items()} | special
    writer = gguf.GGUFWriter(target, "llama")
    for key, value in {
        "context_length": config["max_position_embeddings"], "embedding_length": config["hidden_size"],
        "block_count": config["num_hidden_layers"], "feed_forward_length": config["intermediate_size"],
        "head_count": config["num_attention_heads"], "head_count_kv": config["num_key_value_heads"],
        "rope_freq_base": config["rope_parameters"]["rope_theta"], "layer_norm_rms_eps": config["rms_norm_eps"],
        "tokenizer_model": "gpt2", "tokenizer_pre": "smollm", "add_bos_token": False,
        "bos_token_id": config["bos_token_id"], "eos_token_id": config["eos_token_id"],
        "token_list": [tokens[id] for id in range(config["vocab_size"])],
        "token_types": [gguf.TokenType.CONTROL if id in special else gguf.TokenType.NORMAL for id in sorted(tokens)],
        "token_merges": [" ".join(each) for each in tokenizer["model"]["merges"]],
        "chat_template": (base / "chat_template.jinja").read_text(),
    }.items():  # fmt: skip
        getattr(writer, f"add_{key}")(value)
    _write(writer, config, base / "model.safetensors", precision)


def write_adapter(base: Path, adapter: Path, target: Path) -> None:
    config, own = (json.loads(file.read_bytes()) for file in (base / "config.json", adapter / "adapter_config.json"))
    writer = gguf.GGUFWriter(target, "llama")
    writer.add_type("adapter")
    writer.add_string("adapter.type", "lora")
    writer.add_float32("adapter.lora.alpha", own["lora_alpha"])
    _write(writer, config, adapter / "adapter_model.safetensors", "F32")


def _write(writer: Any, config: dict[str, Any], weights: Path, precision: str) -> None:
    """Write tensors under llama.cpp's names. It rotates neighbours, not halves, of queries and keys."""
    from safetensors.torch import load_file

    names = gguf.get_tensor_name_map(gguf.MODEL_ARCH.LLAMA, config["num_hidden_layers"])
    heads = {"q_proj": config["num_attention_heads"], "k_proj": config["num_key_value_heads"]}
    for name, tensor in load_file(weights).items():
        module, lora, side = name.removeprefix("base_model.model.").removesuffix(".weight").partition(".lora_")
        values, of_module = tensor.float().numpy(), heads.get(module.rpartition(".")[2])
        if of_module and side != "A":
            values = values.reshape(of_module, 2, -1, values.shape[1]).swapaxes(1, 2).reshape(values.shape)
        kind = gguf.GGMLQuantizationType[precision if values.ndim == 2 else "F32"]
        values = gguf.quants.quantize(values, kind)
        writer.add_tensor(f"{names.get_name(module)}.weight{lora}{side.lower()}", values, raw_dtype=kind)
    for step in ("write_header_to_file", "write_kv_data_to_file", "write_tensors_to_file", "close"):
        getattr(writer, step)()


if __name__ == "__main__":
    main()
