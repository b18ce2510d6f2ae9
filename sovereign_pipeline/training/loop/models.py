"""The model that is trained: loading it, putting an adapter on, and writing what came out. What is trained with it, and
how, is `trainer.py`; which models there are, and whether their files are the pinned ones, is `base_models.py`.
"""

import json
import re
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

from sovereign_pipeline.errors import TrainingFailed
from sovereign_pipeline.policy.training import Sft
from sovereign_pipeline.training.job import TrainingJob

ADAPTER = "adapter"
ALL_LINEAR = "all-linear"
# Their fused kernels read the weight of out_proj past an adapter, so PEFT refuses one there.
MAMBA = ("falcon_h1", "falcon_mamba", "mamba", "mamba2", "nemotron_h")
MODEL = "model"
# Beside the weights, what makes a directory a model that people can load and talk to.
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


def load_trainable(job: TrainingJob, tell: Callable[[str], None]) -> Any:
    """The model with what the recipe trains marked as such: a new adapter, the start adapter, or everything.

    Frozen weights are held in the recipe's precision, or in NF4 with double quantisation (QLoRA, Dettmers et al. 2023,
    section 3), which is dequantised into that precision in every pass. What is trained is held in float32 always: steps
    of 2e-4 are lost in bfloat16's eight bits. With bfloat16 the passes themselves run in it, under autocast.
    Experts that transformers holds as one tensor stay in that precision under QLoRA, which takes linear layers only;
    that is told. Dropout is the recipe's, whatever the start adapter had; preferences are learned without any.
    Raises TrainingFailed when PEFT cannot put the recipe's adapter on this model.
    """
    base = _load_base(job)
    experts = fused_experts(base)
    if job.sft.adapter == "qlora" and experts:
        tell(
            f"adapter: qlora holds linear layers in NF4; this model's experts ({', '.join(experts)}) are none and stay "
            f"in {job.sft.precision}, so they need the memory that adapter: lora needs"
        )
    model = base if job.sft.adapter == "none" else _with_adapter(base, job)
    if job.method != "sft":
        _without_dropout(model)
    return model


def _with_adapter(base: Any, job: TrainingJob) -> Any:
    from peft import LoraConfig, PeftModel, get_peft_model

    try:
        if job.start_adapter is None:
            return get_peft_model(base, lora_config(job.sft, base))
        config = LoraConfig.from_pretrained(job.start_adapter)
        config.lora_dropout = job.sft.dropout  # else PEFT takes the start adapter's
        return PeftModel.from_pretrained(base, job.start_adapter, config=config, is_trainable=True)
    except ValueError as error:
        raise TrainingFailed(
            f"PEFT cannot put this adapter on {type(base).__name__}: {str(error).strip()} Change target_modules (the "
            f"default is {ALL_LINEAR}), dropout or dora in training.sft."
        ) from error


def _without_dropout(model: Any) -> None:
    """The reference is asked without dropout; a policy with it would differ from it before it has learned anything."""
    import torch

    for module in model.modules():
        if isinstance(module, torch.nn.Dropout):
            module.p = 0.0
        elif isinstance(getattr(module, "attention_dropout", None), float):
            module.attention_dropout = 0.0


def lora_config(sft: Sft, model: Any) -> Any:
    """The recipe's adapter as PEFT has it for this model.

    `all-linear` is every linear layer of the language model but its head. Layers that see or hear are left out: rows
    hold text, so nothing would be learned there; so is what PEFT refuses (`MAMBA`). Experts, which transformers 5 holds
    as one tensor of three dimensions, are linear layers too: each gets a LoRA of the same rank (PEFT's
    target_parameters, without dropout or DoRA), and so does the router.
    """
    from peft import LoraConfig

    everything = sft.target_modules == ALL_LINEAR
    return LoraConfig(
        r=sft.rank,
        lora_alpha=sft.alpha,
        lora_dropout=sft.dropout,
        target_modules=sft.target_modules if isinstance(sft.target_modules, str) else list(sft.target_modules),
        exclude_modules=_left_out(model) if everything else None,
        target_parameters=fused_experts(model) or None if everything else None,
        use_rslora=sft.rslora,
        use_dora=sft.dora,
        task_type="CAUSAL_LM",
    )


def fused_experts(model: Any) -> list[str]:
    """Endings of the names of the tensors that hold all experts of a layer, such as `experts.down_proj`; sorted."""
    return sorted(
        {
            f"experts.{name.rpartition('.')[2]}"
            for name, parameter in model.named_parameters()
            if ".experts." in name and parameter.ndim == 3
        }
    )


def _left_out(model: Any) -> str | None:
    """A regular expression for the modules that `all-linear` does not mean."""
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


def save_adapter(model: Any, state: dict[str, Any], job: TrainingJob) -> None:
    """`adapter/`: an ordinary PEFT directory, the same bytes each time: no paths, no model card, sets in order.

    state: the whole model's tensors or at least the adapter's, by name."""
    directory = job.output / ADAPTER
    model.peft_config["default"].base_model_name_or_path = job.base_model_name
    model.save_pretrained(str(directory), save_embedding_layers=False, state_dict=state)
    (directory / "README.md").unlink(missing_ok=True)
    path = directory / "adapter_config.json"
    config = json.loads(path.read_bytes())
    for name in ("target_modules", "target_parameters"):
        if isinstance(config[name], list):
            config[name].sort()
    path.write_text(json.dumps(config, indent=2, sort_keys=True) + "\n", encoding="utf-8")


def save_model(model: Any, state: dict[str, Any], job: TrainingJob) -> None:
    """`model/`: an ordinary transformers directory in the recipe's precision, with the base's own tokenizer files."""
    import torch

    directory = job.output / MODEL
    dtype = getattr(torch, job.sft.precision)
    tensors = {name: tensor.to(dtype) if tensor.is_floating_point() else tensor for name, tensor in state.items()}
    for target, source in model.all_tied_weights_keys.items():
        tensors[target] = tensors[source]  # one tensor under two names, which is then written once
    model.config.dtype = dtype
    model.save_pretrained(str(directory), state_dict=tensors)
    for name in TOKENIZER_FILES:
        if (job.base_model / name).is_file():
            shutil.copyfile(job.base_model / name, directory / name)


def read_base(directory: Path, sft: Sft, dtype: Any, device_map: Any) -> Any:
    """A model directory as the recipe's adapter is trained on it: in NF4 for `qlora`, else in dtype."""
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
    # Several processes load to the CPU and are given their shards later.
    alone_on_cuda = torch.cuda.is_available() and job.devices.count == 1
    model = read_base(job.base_model, job.sft, dtype, {"": 0} if alone_on_cuda else None)
    if torch.cuda.is_available():
        from trl.trainer.utils import add_fused_lm_head

        add_fused_lm_head(model)
        return model
    from sovereign_pipeline.training.loop.attention import use_row_by_row

    use_row_by_row(model)
    return model


def _keep_differentiable(model: Any) -> None:
    """Keep bitsandbytes from packing NF4 weights anew on CPUs with bfloat16 units.

    The first pass without gradients, which a guard makes before training, would pack them for an operation that has no
    backward: later steps would train with gradients that end at each layer, after a warning that nobody sees.
    """
    from bitsandbytes.nn import Linear4bit

    for module in model.modules():
        if isinstance(module, Linear4bit):
            module.support_avx512bf16_for_cpu = False
