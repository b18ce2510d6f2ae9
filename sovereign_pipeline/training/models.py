"""Load the model to train, add the recipe's adapter, and save the result."""

import json
import re
import shutil
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

from sovereign_pipeline.base.errors import TrainingFailed
from sovereign_pipeline.policy.training import Sft
from sovereign_pipeline.training.job import Kept, TrainingJob
from sovereign_pipeline.training.tuned_model import ADAPTER_DIRECTORY, MODEL_DIRECTORY

ALL_LINEAR = "all-linear"
MAMBA = ("falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h")
"""Model types whose fused kernels read the weight of out_proj directly. The kernels would bypass an adapter on
out_proj, so PEFT rejects such an adapter."""


def lora_settings(sft: Sft) -> dict[str, Any]:
    """Return the recipe's adapter settings with the keys of `adapter_config.json`."""
    return {"r": sft.rank, "lora_alpha": sft.alpha, "use_rslora": sft.rslora, "use_dora": sft.dora}


def expected_lora_tensors(base: Path, sft: Sft) -> dict[str, tuple[int, ...]]:
    """Return a mapping of name to shape, for every tensor of the recipe's adapter on this base model."""
    import torch
    from peft import get_peft_model, get_peft_model_state_dict
    from transformers import AutoConfig, AutoModelForCausalLM

    with torch.device("meta"):
        model = AutoModelForCausalLM.from_config(AutoConfig.from_pretrained(base))
        shaped = get_peft_model(model, lora_config(sft, model))
    state = get_peft_model_state_dict(shaped, save_embedding_layers=False)
    return {name: tuple(tensor.shape) for name, tensor in state.items()}


def lora_config(sft: Sft, model: Any) -> Any:
    """Return PEFT's LoraConfig of the recipe's adapter for this model.

    `all-linear` means every linear layer of the language model except its head. Layers for images and sound are
    excluded, because rows contain only text. Layers that PEFT rejects (`MAMBA`) are excluded too. transformers 5 stores
    the experts of a layer as one three-dimensional tensor. Experts count as linear layers: each expert and the router
    get a LoRA of the same rank (PEFT's target_parameters, without dropout or DoRA).
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
    """Return the name suffixes of tensors that contain all experts of a layer, such as `experts.down_proj`; sorted."""
    return sorted(
        {
            f"experts.{name.rpartition('.')[2]}"
            for name, parameter in model.named_parameters()
            if ".experts." in name and parameter.ndim == 3
        }
    )


def _excluded(model: Any) -> str | None:
    """Return a regular expression for the modules that `all-linear` excludes."""
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


TOKENIZER_FILES = (
    "tokenizer.json",
    "tokenizer.model",
    "tokenizer_config.json",
    "special_tokens_map.json",
    "added_tokens.json",
    "vocab.json",
    "merges.txt",
    "chat_template.jinja",
)
"""Names of tokenizer files. A chat model's directory needs its tokenizer's files beside configuration and weights."""


def load_trainable(job: TrainingJob, progress: Callable[[str], None], kept: Kept | None = None) -> Any:
    """Load the model, and make exactly the parameters trainable that the recipe trains: those of a new adapter, those
    of the parent adapter, or all weights.

    Frozen weights are in the recipe's precision, or in NF4 with double quantisation (QLoRA, Dettmers et al. 2023,
    section 3). Every pass dequantises NF4 into the recipe's precision. Trained weights are always in float32, because
    bfloat16 has eight significant bits, and updates of 2e-4 would be lost. With bfloat16 the passes run under autocast.
    QLoRA quantises linear layers only. Experts that transformers stores as one tensor stay in the recipe's precision;
    `progress` reports this. SFT uses the recipe's dropout, even if the parent adapter's differs. All other methods
    train without dropout. Raises TrainingFailed if PEFT cannot add the recipe's adapter to this model.
    """
    base = _load_base(job) if kept is None else kept.base(job, partial(_load_base, job), progress)
    experts = fused_experts(base)
    if job.sft.adapter == "qlora" and experts:
        progress(
            f"adapter: qlora stores linear layers in NF4; the experts of this model ({', '.join(experts)}) stay in "
            f"{job.sft.precision} and need the memory of adapter: lora"
        )
    model = base if job.sft.adapter == "none" else _with_adapter(base, job)
    if job.sft.precision == "bfloat16" and not job.sft.dropout and job.devices.count == 1:
        _leave_casts_to_autocast(model)
    if model.device.type == "cpu" and job.devices.count == 1 and job.sft.adapter != "none":
        from sovereign_pipeline.training.cpu_kernels import use_lora_product

        use_lora_product(model)
    if kept is not None:
        kept.is_on(model)
    if job.method != "sft":
        without_dropout(model)
    return model


def _with_adapter(base: Any, job: TrainingJob) -> Any:
    from peft import LoraConfig, PeftModel, get_peft_model

    try:
        if job.parent_adapter is None:
            return get_peft_model(base, lora_config(job.sft, base))
        config = LoraConfig.from_pretrained(job.parent_adapter)
        config.lora_dropout = job.sft.dropout  # else PEFT uses the parent adapter's dropout
        return PeftModel.from_pretrained(base, job.parent_adapter, config=config, is_trainable=True)
    except ValueError as error:
        raise TrainingFailed(
            f"PEFT cannot add this adapter to {type(base).__name__}: {str(error).strip()}",
            f"Change target_modules (default: {ALL_LINEAR}), dropout or dora in training.sft.",
        ) from error


def _leave_casts_to_autocast(model: Any) -> None:
    """Stop PEFT from casting each layer's input to the adapter's float32, because autocast casts the input back to
    bfloat16. Call this only for adapters without dropout: a different precision would change the dropout mask."""
    from peft.tuners.tuners_utils import BaseTunerLayer

    for module in model.modules():
        if isinstance(module, BaseTunerLayer):
            module.cast_input_dtype_enabled = False


def without_dropout(model: Any) -> None:
    """Set dropout to 0 in all layers and adapters, including modules that pass dropout as a number to a function.

    Reference log-probabilities are computed without dropout. With dropout, the policy would differ from the reference
    before the first step. `guards.check_passes_repeat` detects dropout that this function misses.
    """
    import torch

    for module in model.modules():
        if isinstance(module, torch.nn.modules.dropout._DropoutNd):
            module.p = 0.0
        for name, value in vars(module).items():
            if "drop" in name and isinstance(value, float):
                setattr(module, name, 0.0)


def save_adapter(model: Any, state: dict[str, Any], job: TrainingJob, name: str = ADAPTER_DIRECTORY) -> None:
    """Write a PEFT directory with reproducible bytes: no paths, no model card, sorted sets.

    state: mapping of name to tensor that includes all tensors of the adapter. name: name of the PEFT directory in
    `job.output`.
    """
    directory = job.output / name
    model.peft_config["default"].base_model_name_or_path = job.base_model_name
    model.save_pretrained(str(directory), selected_adapters=["default"], save_embedding_layers=False, state_dict=state)
    (directory / "README.md").unlink(missing_ok=True)
    path = directory / "adapter_config.json"
    config = json.loads(path.read_bytes())
    for key in ("modules_to_save", "target_modules", "target_parameters"):
        if isinstance(config[key], list):
            config[key].sort()
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def save_model(model: Any, state: dict[str, Any], job: TrainingJob) -> None:
    """Write `model/`, a transformers directory in the recipe's precision with the base model's tokenizer files."""
    import torch

    directory = job.output / MODEL_DIRECTORY
    dtype = getattr(torch, job.sft.precision)
    tensors = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    for target, source in model.all_tied_weights_keys.items():
        tensors[target] = tensors[source]  # tied weights share one tensor, so it is written once
    model.config.dtype = dtype
    model.save_pretrained(str(directory), state_dict=tensors)
    for name in TOKENIZER_FILES:
        if (job.base_model / name).is_file():
            shutil.copyfile(job.base_model / name, directory / name)


def read_base(directory: Path, sft: Sft, dtype: Any, device_map: Any) -> Any:
    """Load a base model as if to train the recipe's adapter: in NF4 for `qlora`, otherwise in `dtype`."""
    import torch
    from transformers import AutoModelForCausalLM, BitsAndBytesConfig

    quantisation = None
    if sft.adapter == "qlora":
        quantisation = BitsAndBytesConfig(
            load_in_4bit=True,
            bnb_4bit_quant_type="nf4",
            bnb_4bit_use_double_quant=True,
            bnb_4bit_compute_dtype=dtype,
        )
    model = AutoModelForCausalLM.from_pretrained(
        directory,
        dtype=dtype,
        attn_implementation="sdpa",
        quantization_config=quantisation,
        device_map=device_map,
    )
    if not torch.cuda.is_available():
        _keep_differentiable(model)
    return model


def _load_base(job: TrainingJob) -> Any:
    import torch

    dtype = torch.float32 if job.sft.adapter == "none" else getattr(torch, job.sft.precision)
    # Several processes load to the CPU and get their shards later.
    alone_on_cuda = torch.cuda.is_available() and job.devices.count == 1
    model = read_base(job.base_model, job.sft, dtype, {"": 0} if alone_on_cuda else None)
    if torch.cuda.is_available():
        from trl.trainer.utils import add_fused_lm_head

        add_fused_lm_head(model)
        return model
    if not job.is_trls:  # TRL pads rows, so they need a mask
        from sovereign_pipeline.training.forward import use_row_by_row, use_token_scores

        use_row_by_row(model)
        if job.devices.count == 1:  # sharded weights are tensors of another class
            use_token_scores(model)
    return model


def dequantise(model: Any) -> None:
    """Replace the NF4 layers by plain linear layers in the precision of the forward passes.

    Every pass through NF4 layers dequantises all weights. On a CPU, dequantising takes nearly all of the time of a pass
    over a few tokens. The model's outputs stay identical to the last bit.
    """
    import torch
    from bitsandbytes.functional import dequantize_4bit
    from bitsandbytes.nn import Linear4bit

    for name, module in list(model.named_modules()):
        if isinstance(module, Linear4bit):
            weight = dequantize_4bit(module.weight.data, module.weight.quant_state).to(module.compute_dtype)
            plain = torch.nn.Linear(1, 1, bias=False)
            plain.in_features, plain.out_features = module.in_features, module.out_features
            plain.weight = torch.nn.Parameter(weight, requires_grad=False)
            plain.bias = module.bias
            model.set_submodule(name, plain)


def _keep_differentiable(model: Any) -> None:
    """Prevent bitsandbytes from repacking NF4 weights on CPUs with bfloat16 units.

    Before training, a guard runs a pass without gradients. That pass would repack the weights for an operation that has
    no backward pass. In later steps no gradient would then flow through these layers, and bitsandbytes would only warn.
    """
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
