"""Read a model's shape from config.json, without its weights. Memory and compute of training depend on the shape."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sovereign_pipeline.base.errors import InputError
from sovereign_pipeline.base.settings import go_offline
from sovereign_pipeline.policy.training import Sft

# Facts of public models from their config.json. Llama 2: Touvron et al. 2023. Llama 3 70B: Grattafiori et al. 2024,
# table 3. Gemma 3 27B: Gemma Team 2025, table 1 (text model without the vision tower).
PRESETS: Mapping[str, Mapping[str, Any]] = {
    "7B": {
        "model_type": "llama",
        "hidden_size": 4096,
        "num_hidden_layers": 32,
        "num_attention_heads": 32,
        "num_key_value_heads": 32,
        "intermediate_size": 11008,
        "vocab_size": 32000,
        "tie_word_embeddings": False,
    },
    "13B": {
        "model_type": "llama",
        "hidden_size": 5120,
        "num_hidden_layers": 40,
        "num_attention_heads": 40,
        "num_key_value_heads": 40,
        "intermediate_size": 13824,
        "vocab_size": 32000,
        "tie_word_embeddings": False,
    },
    "27B": {
        "model_type": "gemma3_text",
        "hidden_size": 5376,
        "num_hidden_layers": 62,
        "num_attention_heads": 32,
        "num_key_value_heads": 16,
        "head_dim": 128,
        "intermediate_size": 21504,
        "vocab_size": 262208,
        "tie_word_embeddings": True,
    },
    "70B": {
        "model_type": "llama",
        "hidden_size": 8192,
        "num_hidden_layers": 80,
        "num_attention_heads": 64,
        "num_key_value_heads": 8,
        "intermediate_size": 28672,
        "vocab_size": 128256,
        "tie_word_embeddings": False,
    },
}


@dataclass(frozen=True)
class Linear:
    """A linear layer to which an adapter can be added."""

    name: str
    """Name in the model, such as `model.layers.0.mlp.up_proj`."""
    inputs: int
    outputs: int


@dataclass(frozen=True)
class Shape:
    """The properties of a model on which the memory and the computation of its training depend."""

    name: str
    hidden: int
    layers: int
    query: int
    """Width of the queries: number of attention heads × dimension of a head."""
    key: int
    """Width of the keys, and of the values: number of key-value heads × dimension of a head."""
    intermediate: int
    """Width of the feed-forward layer. In a mixture of experts, this is the sum over all experts that a token uses."""
    experts_a_token: int
    gated: bool
    """True if the feed-forward layer has a third matrix, as in SwiGLU and GeGLU."""
    norms: int
    """Sum of the widths of those normalisations in one layer that act on the hidden dimension."""
    head_norms: int
    """Sum of the widths of those normalisations in one layer that act on the attention heads."""
    vocabulary: int
    parameters: int
    active: int
    """Number of parameters that one token uses."""
    outside_layers: int
    """Number of parameters outside the layers: those of embedding, head and final normalisation."""
    expert_parameters: int
    """Number of parameters of all experts. transformers stacks experts, and NF4 does not quantise stacked experts."""
    adapter: int
    """Number of parameters of a rank-1 adapter on all linear layers, including those of experts."""
    returns_output_layer: bool
    """See `returns_output_layer`."""
    linears: tuple[Linear, ...]
    """All linear layers that NF4 quantises. The output head is not included."""

    @property
    def quantised(self) -> int:
        """Number of parameters that NF4 quantises."""
        return sum(linear.inputs * linear.outputs for linear in self.linears)

    def targets(self, sft: Sft) -> tuple[Linear, ...]:
        """Return the linear layers that get an adapter, by PEFT's rules for `target_modules`: all layers, those whose
        whole name matches a pattern, or those with one of several endings. Raises InputError if no layer matches."""
        wanted = sft.target_modules
        if wanted == "all-linear":
            return self.linears
        if isinstance(wanted, str):
            found = tuple(each for each in self.linears if re.fullmatch(wanted, each.name))
        else:
            found = tuple(
                each for each in self.linears if any(f".{each.name}".endswith(f".{ending}") for ending in wanted)
            )
        if not found:
            raise InputError(
                f"{self.name}: target_modules {wanted} matches no linear layer.",
                "Use all-linear, or correct target_modules.",
            )
        return found

    def trainable(self, sft: Sft) -> int:
        """Return the number of trained parameters. Full fine-tuning trains all parameters. For an adapter, the number
        is the sum of r·(in + out), and of DoRA's magnitudes, over the target layers."""
        if sft.adapter == "none":
            return self.parameters
        if sft.target_modules == "all-linear":
            return sft.rank * self.adapter + sft.dora * sum(each.outputs for each in self.linears)
        return sum(sft.rank * (each.inputs + each.outputs) + sft.dora * each.outputs for each in self.targets(sft))


def read_shape(model: str) -> Shape:
    """Return the shape of a model: one of `PRESETS`, or the model of a directory, of which only config.json is read.

    The model is built on PyTorch's meta device, which allocates no memory for tensors. Parameters and linear layers are
    therefore those of the real model. Raises InputError for a directory without a readable config.json.
    """
    go_offline()
    import torch
    from transformers import CONFIG_MAPPING, AutoConfig, AutoModelForCausalLM

    if model in PRESETS:
        values = dict(PRESETS[model])
        config = CONFIG_MAPPING[values.pop("model_type")](**values)
    else:
        try:
            config = AutoConfig.from_pretrained(Path(model), local_files_only=True)
        except (OSError, ValueError):
            raise InputError(
                f"{model}: this is neither one of {', '.join(PRESETS)} nor a model directory with a config.json that "
                f"transformers can read.",
                "Give the model directory that the base model's card names.",
            ) from None
    with torch.device("meta"):
        built = AutoModelForCausalLM.from_config(config, dtype=torch.bfloat16)
    return _shape_of(model, built, config.get_text_config())


def _shape_of(name: str, model: Any, config: Any) -> Shape:
    from torch import nn

    # Gemma 4's full-attention layers have wider heads than its other layers. The width of the others is used for all.
    config.allow_global_per_layer_attribute_access = True
    hidden, layers = config.hidden_size, config.num_hidden_layers
    head_dim = getattr(config, "head_dim", None) or hidden // config.num_attention_heads
    key_value_heads = getattr(config, "num_key_value_heads", None) or config.num_attention_heads
    head = model.get_output_embeddings()
    blocks = next(each for each in model.modules() if isinstance(each, nn.ModuleList) and len(each) == layers)
    linears = tuple(
        Linear(path, module.in_features, module.out_features)
        for path, module in model.named_modules()
        if isinstance(module, nn.Linear) and module is not head
    )
    first = dict(blocks[0].named_parameters())
    widths = [weight.shape[0] for path, weight in first.items() if "norm" in path and path.endswith("weight")]
    on_heads = {"q_norm": config.num_attention_heads * head_dim, "k_norm": key_value_heads * head_dim}
    parameters = sum(each.numel() for each in model.parameters())
    outside_layers = parameters - sum(each.numel() for each in blocks.parameters())
    experts, experts_a_token = _experts(config)
    held_by_experts = sum(each.numel() for path, each in blocks.named_parameters() if ".experts." in path)
    intermediate = config.intermediate_size if hasattr(config, "intermediate_size") else config.ffn_hidden_size
    if held_by_experts:
        intermediate = experts_a_token * (getattr(config, "moe_intermediate_size", None) or intermediate)
    plain = sum(each.inputs + each.outputs for each in linears)
    returns_head = returns_output_layer(model)
    adapter = _adapter_of_rank_1(model) if held_by_experts else plain  # from here on, the model has this adapter
    return Shape(
        name=name,
        hidden=hidden,
        layers=layers,
        query=config.num_attention_heads * head_dim,
        key=key_value_heads * head_dim,
        intermediate=intermediate,
        experts_a_token=experts_a_token if held_by_experts else 0,
        gated=any("gate_proj" in path or "gate_up" in path for path in first),
        norms=sum(width for width in widths if width == hidden),
        head_norms=sum(width for norm, width in on_heads.items() if any(norm in path for path in first)),
        vocabulary=config.vocab_size,
        parameters=parameters,
        active=parameters - (held_by_experts * (experts - experts_a_token) // experts if held_by_experts else 0),
        expert_parameters=held_by_experts,
        adapter=adapter,
        outside_layers=outside_layers,
        returns_output_layer=returns_head,
        linears=linears,
    )


def returns_output_layer(model: Any) -> bool:
    """Return True if the model's logits are the unchanged result of its output layer, a linear layer without bias.

    Some models scale or cap the logits. The layer's result is therefore replaced once by a constant, and the model's
    logits are compared with this constant. Returns False for a model on PyTorch's meta device that needs the values of
    tensors, because meta tensors have none. Its memory is then overestimated.
    """
    import torch

    head = model.get_output_embeddings()
    if type(head) is not torch.nn.Linear or head.bias is not None:
        return False
    constant = torch.linspace(-1.5, 0.3, head.out_features)[None, None]
    is_meta = head.weight.is_meta
    token = {"input_ids": torch.zeros(1, 1, dtype=torch.long, device=head.weight.device)}
    if is_meta:  # without a mask, transformers would look for packed rows in the values of the positions
        token["attention_mask"] = torch.zeros(1, 1, 1, 1, device="meta")
    hook = head.register_forward_hook(lambda *_: constant)
    try:
        with torch.no_grad():
            found = model(**token, use_cache=False).logits
    except (RuntimeError, NotImplementedError, ValueError):
        if not is_meta:
            raise
        return False
    finally:
        hook.remove()
    return not found.is_meta and torch.equal(found, constant)


def _adapter_of_rank_1(model: Any) -> int:
    """Add a rank-1 adapter to all linear layers of the model with PEFT. Return the adapter's number of parameters."""
    import torch
    from peft import LoraConfig, get_peft_model

    with torch.device("meta"):
        adapted = get_peft_model(model, LoraConfig(r=1, target_modules="all-linear", task_type="CAUSAL_LM"))
    return sum(each.numel() for each in adapted.parameters() if each.requires_grad)


def _experts(config: Any) -> tuple[int, int]:
    """Return the number of experts in a layer, and the number of experts that a token uses."""
    names = ("num_local_experts", "num_experts", "n_routed_experts")
    count = next((getattr(config, name) for name in names if getattr(config, name, None)), 1)
    return count, getattr(config, "num_experts_per_tok", None) or 1
