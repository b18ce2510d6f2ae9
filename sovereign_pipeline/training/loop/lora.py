"""The recipe's adapter as PEFT has it: its configuration, and the tensors that follow from it.

What belongs here: what can be stated about an adapter without training one. What does not: putting it on a model
(`models.py`).
"""

import re
from pathlib import Path
from typing import Any

from sovereign_pipeline.policy.training.training import Sft

ALL_LINEAR = "all-linear"
MAMBA = ("falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h")
"""Model types whose fused kernels read the weight of out_proj past an adapter, so that PEFT refuses one there."""


def lora_settings(sft: Sft) -> dict[str, Any]:
    """The recipe's adapter in the keys of `adapter_config.json`."""
    return {"r": sft.rank, "lora_alpha": sft.alpha, "use_rslora": sft.rslora, "use_dora": sft.dora}


def expected_lora_tensors(base: Path, sft: Sft) -> dict[str, tuple[int, ...]]:
    """Name -> shape of every tensor that the recipe's adapter has on this base, from a model without weights."""
    import torch
    from peft import get_peft_model, get_peft_model_state_dict
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base))
        shaped = get_peft_model(model, lora_config(sft, model))
    state = get_peft_model_state_dict(shaped, save_embedding_layers=False)
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def lora_config(sft: Sft, model: Any) -> Any:
    """PEFT's LoraConfig of the recipe's adapter for this model.

    `all-linear` means every linear layer of the language model except its head. Excluded are layers of images and
    sound, because rows hold text only, and layers that PEFT refuses (`MAMBA`). Experts, which transformers 5 holds as
    one tensor of three dimensions, are linear layers too: each gets a LoRA of the same rank (PEFT's target_parameters,
    without dropout or DoRA), and so does the router.
    """
    from peft import LoraConfig

    everything = sft.target_modules == ALL_LINEAR
    return LoraConfig(
        r=sft.rank,
        lora_alpha=sft.alpha,
        lora_dropout=sft.dropout,
        target_modules=sft.target_modules if isinstance(sft.target_modules, str) else list(sft.target_modules),
        exclude_modules=_excluded(model) if everything else None,
        target_parameters=fused_experts(model) or None if everything else None,
        use_rslora=sft.rslora,
        use_dora=sft.dora,
        task_type="CAUSAL_LM",
    )


def fused_experts(model: Any) -> list[str]:
    """Suffixes of the tensors that hold all experts of a layer, such as `experts.down_proj`; sorted."""
    return sorted(
        {
            f"experts.{name.rpartition('.')[2]}"
            for name, parameter in model.named_parameters()
            if ".experts." in name and parameter.ndim == 3
        }
    )


def _excluded(model: Any) -> str | None:
    """A regular expression for the modules that `all-linear` excludes."""
    decoder = model.get_decoder()
    name = next(name for name, module in model.named_modules() if module is decoder)
    parent, _, own = name.rpartition(".")
    patterns = [
        rf"{re.escape(parent)}\.{re.escape(child)}\..*"
        for child, _ in model.get_submodule(parent).named_children()
        if parent and child != own
    ]
    if model.config.model_type in MAMBA:
        patterns.append(r".*\.out_proj")
    return "|".join(patterns) or None
