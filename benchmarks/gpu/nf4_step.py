"""Peak memory of QLoRA steps on a shape whose weights are made in NF4 one by one, so that it never exists in 16 bits.

    python nf4_step.py --shape 70b --rank 64 --tokens 512 --answer FILE

Linear layers in NF4 with double quantisation, embedding and head in bfloat16, LoRA in float32 on all linear layers but
the head, gradient checkpointing, paged 8-bit AdamW where there is a GPU, one row: the recipe of Dettmers et al. 2023.
The loss is on the second half of the row, and only there are logits computed. Three steps; the time is of the last two.
"""

import argparse
import json
import resource
import time
from pathlib import Path
from typing import Any

from shapes import config_of, weights_in_head, weights_in_layers

STEPS = 3


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--shape", required=True)
    parser.add_argument("--rank", type=int, required=True)
    parser.add_argument("--tokens", type=int, required=True)
    parser.add_argument("--answer", type=Path, required=True)
    arguments = parser.parse_args()
    import torch
    from peft import LoraConfig, get_peft_model

    torch.manual_seed(1)
    cuda = torch.cuda.is_available()
    device = torch.device("cuda" if cuda else "cpu")
    base = base_in_nf4(arguments.shape, device)
    built_peak, built = peak_bytes(), allocated_bytes()
    base.gradient_checkpointing_enable({"use_reentrant": False})
    lora = LoraConfig(
        r=arguments.rank, lora_alpha=2 * arguments.rank, target_modules="all-linear", task_type="CAUSAL_LM"
    )
    model = get_peft_model(base, lora)
    model.train()
    optimizer = optimizer_of(model, cuda)
    ids = torch.randint(0, model.config.vocab_size, (1, arguments.tokens), device=device)
    if cuda:
        torch.cuda.reset_peak_memory_stats()
    losses, moments = [], []
    for _ in range(STEPS):
        moments.append(now())
        losses.append(step(model, optimizer, ids))
    moments.append(now())
    seconds = (moments[-1] - moments[1]) / (STEPS - 1)
    trainable = sum(weight.numel() for weight in model.parameters() if weight.requires_grad)
    answer = {
        "weights": weights_in_layers(arguments.shape) + 2 * weights_in_head(arguments.shape),
        "trainable": trainable,
        "bytes_after_building": built,
        "peak_bytes_while_building": built_peak,
        "peak_bytes": peak_bytes(),
        "reserved_bytes": torch.cuda.max_memory_reserved() if cuda else None,
        "memory": "allocated on the GPU" if cuda else "resident, of the process",
        "optimizer": type(optimizer).__name__,
        "losses": losses,
        "step_seconds": seconds,
        "tokens_per_second": arguments.tokens / seconds,
    }
    arguments.answer.write_text(json.dumps(answer), encoding="utf-8")


def base_in_nf4(shape: str, device: Any) -> Any:
    """A causal language model of that shape; normal weights of 0.02 as a fresh Llama has them."""
    import bitsandbytes as bnb
    import torch
    from transformers import AutoModelForCausalLM

    config = config_of(shape)
    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16, attn_implementation="sdpa")
    for layer in model.model.layers:
        for name, linear in list(layer.named_modules()):
            if isinstance(linear, torch.nn.Linear):
                quantised = bnb.nn.Linear4bit(
                    linear.in_features,
                    linear.out_features,
                    bias=False,
                    compute_dtype=torch.bfloat16,
                    compress_statistics=True,
                    quant_type="nf4",
                    device="meta",
                )
                weight = torch.randn(linear.weight.shape, dtype=torch.bfloat16, device=device).mul_(0.02)
                quantised.weight = bnb.nn.Params4bit(
                    weight, requires_grad=False, compress_statistics=True, quant_type="nf4", module=quantised
                ).to(device)
                del weight
                layer.set_submodule(name, quantised)
    for name, parameter in list(model.named_parameters()):
        if parameter.is_meta:
            made = torch.empty(parameter.shape, dtype=parameter.dtype, device=device)
            made = made.fill_(1.0) if "norm" in name else made.normal_(std=0.02)
            owner, _, field = name.rpartition(".")
            setattr(model.get_submodule(owner), field, torch.nn.Parameter(made, requires_grad=False))
    with device:
        model.model.rotary_emb = type(model.model.rotary_emb)(config=config)
    model.is_loaded_in_4bit = True  # what peft goes by
    return model


def optimizer_of(model: Any, cuda: bool) -> Any:
    import torch

    trained = [weight for weight in model.parameters() if weight.requires_grad]
    if not cuda:
        return torch.optim.AdamW(trained, lr=2e-4)
    import bitsandbytes as bnb

    return bnb.optim.PagedAdamW8bit(trained, lr=2e-4)


def step(model: Any, optimizer: Any, ids: Any) -> float:
    import torch

    supervised = torch.arange(ids.shape[1] // 2, ids.shape[1] - 1, device=ids.device)
    logits = model(input_ids=ids, use_cache=False, logits_to_keep=supervised).logits[0]
    loss = torch.nn.functional.cross_entropy(logits.float(), ids[0, supervised + 1])
    loss.backward()
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return float(loss.detach())


def peak_bytes() -> int:
    import torch

    if torch.cuda.is_available():
        return int(torch.cuda.max_memory_allocated())
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024


def allocated_bytes() -> int | None:
    import torch

    return int(torch.cuda.memory_allocated()) if torch.cuda.is_available() else None


def now() -> float:
    import torch

    if torch.cuda.is_available():
        torch.cuda.synchronize()
    return time.monotonic()


if __name__ == "__main__":
    main()
