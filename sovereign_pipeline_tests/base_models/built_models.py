"""Small models of several families, really built, to compare shapes and sizes with."""

import json
from functools import cache
from pathlib import Path
from typing import Any

from sovereign_pipeline.base_models.shapes import Shape, read_shape
from sovereign_pipeline.policy.training import Sft

SMALL: dict[str, Any] = {
    "hidden_size": 64,
    "intermediate_size": 96,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "vocab_size": 300,
}
FAMILIES: dict[str, dict[str, Any]] = {
    "llama": SMALL,
    "gemma3_text": {**SMALL, "head_dim": 32},
    "qwen3": {**SMALL, "head_dim": 32},
    "mixtral": {**SMALL, "num_local_experts": 4, "num_experts_per_tok": 2},
    "falcon": {"hidden_size": 64, "num_attention_heads": 4, "vocab_size": 300},
}


def write_config(directory: Path, family: str, layers: int = 2) -> Path:
    directory.mkdir(parents=True, exist_ok=True)
    config = {**FAMILIES[family], "model_type": family, "num_hidden_layers": layers}
    (directory / "config.json").write_text(json.dumps(config), encoding="utf-8")
    return directory


@cache
def preset(name: str) -> Shape:
    return read_shape(name)


def build(directory: Path, precision: str = "float32") -> Any:
    import torch
    from transformers import AutoConfig, AutoModelForCausalLM

    config = AutoConfig.from_pretrained(directory)
    return AutoModelForCausalLM.from_config(config, dtype=getattr(torch, precision), attn_implementation="sdpa")


def adapted(model: Any, sft: Sft) -> Any:
    from peft import LoraConfig, get_peft_model

    targets = sft.target_modules if isinstance(sft.target_modules, str) else list(sft.target_modules)
    lora = LoraConfig(r=sft.rank, target_modules=targets, use_dora=sft.dora, task_type="CAUSAL_LM")
    return get_peft_model(model, lora)


def recipe(**values: Any) -> Sft:
    return Sft.model_validate({"precision": "bfloat16", **values})
